"""The live monitor of a run: progress bar, alarms, trackers and the report on the way, fed with each step's record."""

from collections.abc import Callable
from collections.abc import Sequence
import os
import pathlib
import sys
import textwrap
from typing import Any

import tqdm

from score_jax.config import ReportConfig
from score_jax.errors import ConfigError
from score_jax.errors import StoppedError
from score_jax.reporting import alarms
from score_jax.reporting import metrics
from score_jax.reporting import trackers

_DUMB_WIDTH = 120  # columns
_WINDOW = 10  # steps that the line below the bar is a mean of


class Monitor:
  """Follows a run: a live bar over the steps, and on a terminal ledger and alarms below it.

  All that it holds can be read again from metrics.jsonl.
  """

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
    """Continues after `done` of `total` steps.

    Args:
      config: config.report.
      folder: the run's.
      metrics_path: metrics.jsonl, with the records so far.
      total, done: steps.
      run_config: the whole configuration, which trackers show.
      write_report: writes report.html.

    Raises:
      ConfigError: `config` names an unknown alarm, or a tracker whose package is not installed.
    """
    for name in config.stop_on:
      if name not in alarms.ALARMS:
        raise ConfigError(f'config.report.stop_on names {name!r}; use {", ".join(alarms.ALARMS)}')
    self._config, self._write_report = config, write_report
    self._total, self._done = total, done
    self._records = metrics.read(metrics_path)
    self._trackers = trackers.open_trackers(config.tensorboard, config.wandb, folder, run_config)
    self._sounding = self._alarms()

  def begin(self) -> None:
    """Shows the bar."""
    # TERM=dumb is a terminal, as a notebook's is, whose lines may be long and whose cursor can't go up.
    dumb = os.environ.get('TERM') == 'dumb'
    width = dict(ncols=_DUMB_WIDTH) if dumb else dict(dynamic_ncols=True)
    self._bar = tqdm.tqdm(total=self._total, initial=self._done, unit='step', smoothing=0.1, **width)
    on_terminal = sys.stderr.isatty() and not dumb  # in a log each change would be a line
    self._below = tqdm.tqdm(bar_format='{desc}', position=1, disable=not on_terminal, dynamic_ncols=True, leave=False)

  def print(self, text: str) -> None:
    """Prints a line above the bar."""
    self._bar.write(text)

  def after_step(self, record: dict[str, Any]) -> StoppedError | None:
    """Takes the record of a step, which is written already, and moves the bar one step on.

    Returns:
      what to raise once the step is saved, if an alarm that config.report.stop_on names ends the run; else None.
    """
    self._records.append(record)
    before, self._sounding = self._sounding, self._alarms()
    for name in sorted(self._sounding - before):
      self.print(alarm_text(alarms.ALARMS[name], record['step']))
    self._bar.set_description(record['stage'], refresh=False)
    self._bar.set_postfix_str(_figures(record), refresh=False)
    if 'i_to_c' in record:  # else nothing was sampled
      self._below.set_description_str(ledger_line(self._records[-_WINDOW:], sorted(self._sounding)), refresh=True)
    self._bar.update(1)
    for send in self._trackers:
      send(record['step'], trackers.scalars(record))
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
    """Leaves the bar as it stands."""
    self._below.close()
    self._bar.close()

  def _alarms(self) -> set[str]:
    """Returns the names of the alarms that sound after the newest step."""
    sounding = alarms.sounding(self._records, self._config.kl_alarm)
    return {name for name, on_T in sounding.items() if on_T[-1:].any()}


def ledger_line(records: Sequence[dict[str, Any]], sounding: Sequence[str]) -> str:
  """Returns 'last 10: delta +4.1 = fixed 5.2 - broken 1.1, answers changed 12.0, texts 40.1 % | alarms: none'."""

  def mean(name: str) -> float:
    known = [record[name] for record in records if name in record]  # records of an older version lack some
    return 100 * sum(known) / max(1, len(known))

  fixed, broken = mean('i_to_c'), mean('c_to_i')
  changed = f'answers changed {mean("answer_changed"):.1f}, texts {mean("text_changed"):.1f} %'
  return (
    f'last {len(records)}: delta {fixed - broken:+.1f} = fixed {fixed:.1f} - broken {broken:.1f}, {changed} | '
    f'alarms: {", ".join(sounding) or "none"}'
  )


def alarm_text(alarm: alarms.Alarm, step: int) -> str:
  """Returns what is printed when an alarm begins to sound."""
  text = f'alarm {alarm.name} (step {step}): {alarm.message}. Likely: {alarm.cause}. Turn: {alarm.field}'
  return '\n'.join(textwrap.wrap(text, 110, subsequent_indent='  '))


def _figures(record: dict[str, Any]) -> str:
  """Returns a step in short: how its conversations went, or its loss if it is supervised."""
  if 'i_to_c' not in record:
    return f'loss {sum(record["loss"]):.3f}, epoch {record["epoch"]:.2f} of {record["pairs"]} pairs'
  arrow = ' -> '.join(f'{100 * a:.1f}' for a in record['accuracy'])
  counts = {kind: sum(record['verdicts'][kind]) for kind in ('unparsed', 'timeout', 'error')}
  return (
    f'accuracy {arrow} %, i->c {100 * record["i_to_c"]:.1f}, c->i {100 * record["c_to_i"]:.1f}, '
    f'KL {record["kl"][0]:.3f} {record["kl"][-1]:.3f}'
    + ''.join(f', {kind} {count}' for kind, count in counts.items() if count)
  )
