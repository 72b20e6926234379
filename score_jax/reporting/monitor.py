# SPDX-License-Identifier: Apache-2.0
"""The live monitor of a run: progress bar, alarms, the report on the way."""

from collections.abc import Callable, Sequence
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


class Monitor:
  """Follows a run: a live bar over the steps, and on a terminal ledger and alarms below it."""

  def __init__(
    self,
    config: ReportConfig,
    metrics_path: pathlib.Path,
    total: int,
    done: int,
    *,
    write_report: Callable[[], Any],
  ):
    """Raises ConfigError: `config` names an unknown alarm."""
    for name in config.stop_on:
      if name not in alarms.ALARMS:
        raise ConfigError(f'config.report.stop_on names {name!r}; use {", ".join(alarms.ALARMS)}')
    self._config, self._write_report = config, write_report
    self._records = metrics.read(metrics_path)
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
