# SPDX-License-Identifier: Apache-2.0
"""The live monitor of a run: progress bar, alarms, experiment trackers, the report on the way."""

import atexit
from collections.abc import Callable, Iterator, Sequence
import importlib
import os
import pathlib
import sys
import textwrap
from typing import Any

import tqdm

from score_jax.config import ReportConfig
from score_jax.errors import ConfigError, StoppedError
from score_jax.reporting import alarms, metrics

_DUMB_WIDTH = 120  # columns
_WINDOW = 10  # steps that the line below the bar is a mean of

Send = Callable[[int, dict[str, float]], None]  # (step, scalars), to a tracker


class Monitor:
  """Follows a run: a live bar over the steps, and on a terminal ledger and alarms below it."""

  def __init__(
    self,
    config: ReportConfig,
    folder: pathlib.Path,
    metrics_path: pathlib.Path,
    total: int,
    done: int,
    *,
    run_config: dict[str, Any],
    write_report: Callable[[], Any],
  ):
    """Raises ConfigError: `config` names an unknown alarm, or a tracker that is not installed."""
    for name in config.stop_on:
      if name not in alarms.ALARMS:
        raise ConfigError(f'config.report.stop_on names {name!r}; use {", ".join(alarms.ALARMS)}')
    self._config, self._write_report = config, write_report
    self._records = metrics.read(metrics_path)
    self._trackers = open_trackers(config.tensorboard, config.wandb, folder, run_config)
    self._sounding = self._alarms()
    # TERM=dumb, as a notebook's is, may have long lines; its cursor can't go up.
    dumb = os.environ.get('TERM') == 'dumb'
    width = dict(ncols=_DUMB_WIDTH) if dumb else dict(dynamic_ncols=True)
    self._bar = tqdm.tqdm(total=total, initial=done, unit='step', smoothing=0.1, **width)
    quiet = dumb or not sys.stderr.isatty()  # in a log each change would be a line
    self._below = tqdm.tqdm(bar_format='{desc}', position=1, disable=quiet, dynamic_ncols=True, leave=False)

  def print(self, text: str) -> None:
    self._bar.write(text)

  def after_step(self, record: dict[str, Any]) -> StoppedError | None:
    """Takes a step's record; returns what to raise once it is saved, if an alarm ends the run."""
    self._records.append(record)
    before, self._sounding = self._sounding, self._alarms()
    for name in sorted(self._sounding - before):
      self.print(alarm_text(alarms.ALARMS[name], record['step']))
    self._bar.set_description(record['stage'], refresh=False)
    self._bar.set_postfix_str(_figures(record), refresh=False)
    if 'i_to_c' in record:  # else nothing was sampled
      line = ledger_line(self._records[-_WINDOW:], sorted(self._sounding))
      self._below.set_description_str(line, refresh=True)
    self._bar.update(1)
    for send in self._trackers:
      send(record['step'], scalars(record))
    stopping, every = sorted(self._sounding & set(self._config.stop_on)), self._config.every
    if stopping or (every and record['step'] % every == 0):
      self._write_report()
    if not stopping:
      return None
    return StoppedError(
      f'alarm {stopping[0]!r} sounds after step {record["step"]} and config.report.stop_on names it; '
      f'turn {alarms.ALARMS[stopping[0]].field}, or continue with --config.report.stop_on="()"'
    )

  def close(self) -> None:
    self._below.close()
    self._bar.close()

  def _alarms(self) -> set[str]:
    sounding = alarms.sounding(self._records, self._config.kl_alarm)
    return {name for name, on_T in sounding.items() if on_T[-1:].any()}


def ledger_line(records: Sequence[dict[str, Any]], sounding: Sequence[str]) -> str:
  """Returns 'last 10: delta +4.1 = fixed 5.2 - broken 1.1, ... | alarms: none'.

  Where a part of first attempts is offline, figures are of the others, and delta on those is told apart.
  """
  own = [record['on_policy'] for record in records if 'on_policy' in record]
  given = [record['offline'] for record in records if 'offline' in record]
  shown, of = (own, ' on-policy first attempts') if own and given else (records, '')

  def mean(name: str) -> float:
    known = [record[name] for record in shown if name in record]  # older records lack some
    return 100 * sum(known) / max(1, len(known))

  fixed, broken = mean('i_to_c'), mean('c_to_i')
  changed = f'answers changed {mean("answer_changed"):.1f}, texts {mean("text_changed"):.1f} %'
  delta = f'delta {fixed - broken:+.1f} = fixed {fixed:.1f} - broken {broken:.1f}'
  if given:
    delta += f' (offline first attempts: {100 * sum(part["delta"] for part in given) / len(given):+.1f})'
  return f'last {len(records)}{of}: {delta}, {changed} | alarms: {", ".join(sounding) or "none"}'


def alarm_text(alarm: alarms.Alarm, step: int) -> str:
  text = f'alarm {alarm.name} (step {step}): {alarm.message}. Likely: {alarm.cause}. Turn: {alarm.field}'
  return '\n'.join(textwrap.wrap(text, 110, subsequent_indent='  '))


def _figures(record: dict[str, Any]) -> str:
  """Returns a step in short: its conversations, or its loss if it is supervised."""
  if 'i_to_c' not in record:
    return f'loss {sum(record["loss"]):.3f}, epoch {record["epoch"]:.2f} of {record["pairs"]} pairs'
  parts = [f'accuracy {_changes(record)}']
  if 'offline' in record:
    named = dict(on_policy='on-policy first', offline='offline first')
    parts = [f'{name} {_changes(record[key])}' for key, name in named.items() if key in record]
  parts += [f'KL {record["kl"][0]:.3f} {record["kl"][-1]:.3f}']
  if 'tokens_per_step' in record:
    parts += ['tokens a decode step ' + ' '.join(f'{tokens:.1f}' for tokens in record['tokens_per_step'])]
  counts = {kind: sum(record['verdicts'][kind]) for kind in ('unparsed', 'timeout', 'error')}
  return ', '.join([*parts, *(f'{kind} {count}' for kind, count in counts.items() if count)])


def _changes(shares: dict[str, Any]) -> str:
  arrow = ' -> '.join(f'{100 * a:.1f}' for a in shares['accuracy'])
  return f'{arrow} %, i->c {100 * shares["i_to_c"]:.1f}, c->i {100 * shares["c_to_i"]:.1f}'


def open_trackers(tensorboard: bool, wandb: str, folder: pathlib.Path, config: dict[str, Any]) -> list[Send]:
  """Returns what takes a step's scalars: for TensorBoard, and a W&B project unless ''."""
  trackers = []
  if tensorboard:
    writers = _package('tensorboardX', 'tensorboard', tensorboard)
    # Another thread writes; flush() does not wait for its queue.
    writer = writers.SummaryWriter(str(folder / 'tensorboard'), flush_secs=1)
    atexit.register(writer.close)

    def send(step: int, values: dict[str, float]) -> None:
      for name, value in values.items():
        writer.add_scalar(name, value, step)

    trackers.append(send)
  if wandb:
    project = dict(project=wandb, name=folder.name, dir=str(folder))
    run = _package('wandb', 'wandb', wandb).init(**project, config=config, resume='allow')
    trackers.append(lambda step, values: run.log(values, step=step))
  return trackers


def scalars(record: dict[str, Any]) -> dict[str, float]:
  """Returns the numbers of a record by name, as 'accuracy/1' or 'eval/greedy/delta'."""
  shown = ((name, value) for name, value in record.items() if name not in ('step', 'reference'))
  result = {name: number for field in shown for name, number in _numbers(*field)}
  accuracy = record['accuracy']
  if accuracy[0] is not None:  # a supervised step samples nothing
    result['delta'] = accuracy[-1] - accuracy[0]
  return result


def _numbers(name: str, value: Any) -> Iterator[tuple[str, float]]:
  if isinstance(value, int | float) and not isinstance(value, bool):
    yield name, float(value)
  parts = enumerate(value, 1) if isinstance(value, list) else ()
  for key, inner in value.items() if isinstance(value, dict) else parts:
    if key not in ('intervals', 'by', 'between'):
      yield from _numbers(f'{name}/{key}', inner)


def _package(package: str, field: str, value: bool | str) -> Any:
  try:
    return importlib.import_module(package)
  except ImportError as error:
    remedy = f"pip install 'score_jax[{field}]', or set it to {type(value)()!r}"
    raise ConfigError(f'config.report.{field} = {value!r} needs {package}: {remedy}') from error
