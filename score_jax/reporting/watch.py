"""What is done with a step's line of metrics once it is written: terminal, alarms, boards, the report on the way."""

from collections.abc import Callable
import json
import pathlib
from typing import Any

from score_jax.config import ReportConfig
from score_jax.errors import ConfigError
from score_jax.errors import StoppedError
from score_jax.reporting import alarms
from score_jax.reporting import boards
from score_jax.reporting import terminal


class Watch:
  """Watches a run from its first line to its last; what it keeps can be read again from metrics.jsonl."""

  def __init__(
    self,
    config: ReportConfig,
    folder: pathlib.Path,
    metrics: pathlib.Path,
    total: int,
    done: int,
    *,
    shown: dict[str, Any],
    write_report: Callable[[], Any],
  ):
    """Goes on after `done` of `total` steps.

    Args:
      config: config.report.
      folder: of the run.
      metrics: its lines so far.
      total, done: steps.
      shown: the whole configuration, for boards.
      write_report: writes report.html.

    Raises:
      ConfigError: it names an alarm that there is not, or a board whose package is not installed.
    """
    for name in config.stop_on:
      if name not in alarms.ALARMS:
        raise ConfigError(f'config.report.stop_on names {name!r}; use {", ".join(alarms.ALARMS)}')
    self._config, self._write_report = config, write_report
    self._limits = alarms.Limits(kl_alarm=config.kl_alarm)
    self._lines = read_lines(metrics)
    self._boards = boards.open_boards(config.tensorboard, config.wandb, folder, shown)
    self._on = {name for name, on_T in alarms.sounding(self._lines, self._limits).items() if on_T.any() and on_T[-1]}
    self.total, self._done, self._bar = total, done, None

  def begin(self) -> None:
    """Shows the bar."""
    self._bar = terminal.Progress(self.total, self._done)

  def say(self, text: str) -> None:
    """Prints a line above the bar."""
    self._bar.say(text)

  def after(self, line: dict[str, Any]) -> StoppedError | None:
    """Takes a step's line, which is written already; what to raise, once the step is saved, if it is to be the last."""
    self._lines.append(line)
    on = {name for name, on_T in alarms.sounding(self._lines, self._limits).items() if on_T[-1]}
    for name in sorted(on - self._on):
      self._bar.say(terminal.alarm_text(alarms.ALARMS[name], line['step']))
    self._on = on
    self._bar.show(line, self._lines, sorted(on))
    for send in self._boards:
      send(line['step'], boards.scalars(line))
    if self._config.every and line['step'] % self._config.every == 0:
      self._write_report()
    stopping = sorted(on & set(self._config.stop_on))
    if not stopping:
      return None
    self._write_report()
    return StoppedError(
      f'alarm {stopping[0]!r} sounds after step {line["step"]} and config.report.stop_on names it; turn '
      f'{alarms.ALARMS[stopping[0]].field}, or go on with --config.report.stop_on="()"'
    )

  def close(self) -> None:
    """Leaves the bar as it stands."""
    self._bar.close()


class NoWatch:
  """On hosts that show nothing: in the place of a Watch."""

  def begin(self) -> None:
    """As `Watch.begin`."""

  def say(self, text: str) -> None:
    """As `Watch.say`."""

  def after(self, line: dict[str, Any]) -> None:
    """As `Watch.after`."""

  def close(self) -> None:
    """As `Watch.close`."""


def read_lines(path: pathlib.Path) -> list[dict[str, Any]]:
  """Lines of metrics.jsonl up to the first that is broken; none if there is no file."""
  found = []
  if path.exists():
    for text in path.read_text().splitlines():
      try:
        line = json.loads(text)
      except ValueError:
        break
      if not isinstance(line, dict) or not {'step', 'stage', 'accuracy'} <= set(line):
        break
      found.append(line)
  return found
