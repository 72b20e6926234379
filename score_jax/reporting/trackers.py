# SPDX-License-Identifier: Apache-2.0
"""Experiment trackers: Weights & Biases, Trackio, TensorBoard.

A run is one run there too, however often it is killed. What a tracker shows are the lines of metrics.jsonl up to the
newest checkpoint, to which a resume goes back at most. What it has already is read from what it has written: a client
keeps steps in memory, which a kill loses. So each step is there once.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import importlib
import json
import pathlib
import re
import textwrap
from typing import Any, Protocol

from score_jax.config import ReportConfig
from score_jax.errors import ConfigError, TryAgainError, UserError
from score_jax.reporting import rows as report_rows
from score_jax.reporting import written_steps
from score_jax.reporting.plain_text import sanitize
from score_jax.reporting.rows import Json, Row

TRAINING, HELDOUT = 'conversations', 'eval/conversations'  # names of tables
_NONE = -1  # step before the base, which is step 0
_MOST_ROWS = 64  # of a table
_UNREACHED = re.compile(r'timed? ?out|network|connect|unreachable', re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class RunInfo:
  """What a tracker is told of a run."""

  folder: pathlib.Path
  name: str
  id: str  # the same whenever the run goes on
  config: Json


@dataclasses.dataclass(frozen=True)
class Entry:
  """A step as trackers show it; step 0 is the base."""

  step: int
  values: dict[str, float]
  tables: dict[str, list[Row]]  # conversations, by the table's name


class Tracker(Protocol):
  """Attributes: last, the newest step that the tracker holds."""

  last: int

  def send(self, entry: Entry) -> None: ...

  def close(self, final: Mapping[str, float]) -> None:
    """Ends the run's part there; `final` are figures of its result, {} if it has not ended."""


class TensorBoard:
  """Event files in WORKDIR/tensorboard, an event a step."""

  def __init__(self, config: ReportConfig, info: RunInfo):
    self._package = _package('tensorboardX', 'tensorboard', config)
    folder = info.folder / 'tensorboard'
    self.last = max(written_steps.tensorboard(folder), default=_NONE)
    self._writer = self._package.SummaryWriter(str(folder), flush_secs=1)

  def send(self, entry: Entry) -> None:
    summary = importlib.import_module('tensorboardX.summary')
    parts = [summary.scalar(name, value) for name, value in entry.values.items()]
    parts += [summary.text(name, markdown(rows)) for name, rows in entry.tables.items()]
    whole = type(parts[0])(value=[value for part in parts for value in part.value])
    self._writer.file_writer.add_summary(whole, entry.step)

  def close(self, final: Mapping[str, float]) -> None:
    self._writer.close()


class WeightsAndBiases:
  """A run of W&B's; the server says which step is its newest, or offline the files in WORKDIR/wandb."""

  def __init__(self, config: ReportConfig, info: RunInfo):
    self._package = _package('wandb', 'wandb', config)
    try:
      self._run = self._package.init(
        project=config.wandb,
        entity=config.wandb_entity or None,
        group=config.group or None,
        tags=list(config.tags) or None,
        id=info.id,
        name=info.name,
        config=info.config,
        dir=str(info.folder),
        resume='allow',
        settings=dict(console='off'),  # it would take what is printed before secrets are hidden
      )
    except self._package.Error as error:
      remedy = 'correct it, or log in (`wandb login`, WANDB_API_KEY); WANDB_MODE=offline needs neither'
      raise _refused('wandb', config, error, remedy) from error
    self.last = max(self._run.starting_step - 1, *written_steps.wandb(info.folder, info.id), _NONE)

  def send(self, entry: Entry) -> None:
    tables = {
      name: self._package.Table(columns=list(cells[0]), data=[list(row.values()) for row in cells])
      for name, cells in _cells(entry.tables).items()
    }
    self._run.log(entry.values | tables, step=entry.step, commit=True)

  def close(self, final: Mapping[str, float]) -> None:
    self._run.summary.update(dict(final))
    self._run.finish(exit_code=0 if final else 1)


class Trackio:
  """A run in Trackio's database; it goes on by its name."""

  def __init__(self, config: ReportConfig, info: RunInfo):
    self._package = _package('trackio', 'trackio', config)
    name = f'{info.name}-{info.id}'
    settings = dict(group=config.group or None, config=info.config, resume='allow', embed=False)
    try:
      self._run = self._package.init(config.trackio, name, **settings)
    except Exception as error:  # of the hub's client, too
      raise _refused('trackio', config, error, "correct it, or TRACKIO_SPACE_ID, or set it to ''") from error
    self.last = self._run._next_step - 1  # of the database or the Space; no public name has it

  def send(self, entry: Entry) -> None:
    # Cells are shown as text, whatever the documentation says of Markdown.
    tables = {name: self._package.Table(data=cells) for name, cells in _cells(entry.tables).items()}
    self._run.log(entry.values | tables, step=entry.step)

  def close(self, final: Mapping[str, float]) -> None:
    self._run.finish()


KINDS: dict[str, Callable[[ReportConfig, RunInfo], Tracker]] = dict(  # by the field of config.report that asks for it
  tensorboard=TensorBoard, wandb=WeightsAndBiases, trackio=Trackio
)


def open_trackers(config: ReportConfig, info: RunInfo) -> list[Tracker]:
  """Returns the trackers that are asked for; ConfigError if one is not installed, or refuses."""
  return [kind(config, info) for field, kind in KINDS.items() if getattr(config, field)]


class Feed:
  """Gives trackers what a run folder holds, up to a checkpoint."""

  def __init__(
    self,
    trackers: Sequence[Tracker],
    folder: pathlib.Path,
    *,
    every: int,
    last: int,
    rows: int,
    say: Callable[[str], None] = print,
  ):
    """`every` steps, and at the `last`, conversations are shown: of evaluations `rows` of them."""
    self._trackers, self._folder = list(trackers), folder
    self._every, self._last, self._rows, self._say = every, last, rows, say
    self._records = Lines(folder / 'metrics.jsonl')
    self._training_rows = Lines(folder / 'rows/train.jsonl')
    self._waiting: list[Row] = []  # for the next table
    self._step = _NONE

  def up_to(self, step: int) -> None:
    """Sends the steps of a checkpoint, and those before it; a tracker that fails gets no more."""
    for entry in self._entries(step) if self._trackers and step > max(self._step, 0) else ():
      for tracker in list(self._trackers):
        if entry.step > tracker.last:
          self._tried(tracker, lambda tracker=tracker, entry=entry: tracker.send(entry))

  def close(self, evaluations: Json) -> None:
    """Ends with the figures of `final`, a part of eval.json; {} if the run has not ended."""
    final = dict(numbers('final', evaluations.get('final', {})))
    for tracker in list(self._trackers):
      self._tried(tracker, lambda tracker=tracker: tracker.close(final))
    self._trackers = []

  def _tried(self, tracker: Tracker, call: Callable[[], None]) -> None:
    try:
      call()
    except Exception as error:  # whatever it is, the run goes on
      reason = f'{type(error).__name__}: {" ".join(str(error).split())[:200]}'
      self._say(f'warning: {type(tracker).__name__} gets no more steps until the run is started again ({reason})')
      self._trackers.remove(tracker)

  def _entries(self, step: int) -> Iterator[Entry]:
    if self._step == _NONE:
      base = _json(self._folder / 'eval.json').get('base', {})
      if values := dict(numbers('eval', base)):
        yield Entry(0, values, self._heldout('base'))
    training = (report_rows.from_json(row) for row in self._training_rows.up_to(step))
    row = next(training, None)
    for record in self._records.up_to(step):
      self._step = record['step']
      while row and row.step <= self._step:
        self._waiting.append(row)
        row = next(training, None)
      tables = self._heldout(f'step{self._step}') if 'eval' in record else {}
      if self._waiting and (self._step % self._every == 0 or self._step == self._last):
        tables[TRAINING], self._waiting = self._waiting[-_MOST_ROWS:], []
      yield Entry(self._step, scalars(record), tables)

  def _heldout(self, name: str) -> dict[str, list[Row]]:
    """Returns some sampled conversations of an evaluation, the same problems each time."""
    path, chosen = self._folder / f'rows/{name}.jsonl.gz', []
    for row in report_rows.read(path) if path.exists() and self._rows else ():
      if row.decoding == 'sampled':
        chosen.append(row)
      if len(chosen) == self._rows:
        break
    return {HELDOUT: chosen} if chosen else {}


class Lines:
  """Follows a file of JSON lines with steps that do not fall."""

  def __init__(self, path: pathlib.Path):
    self._path, self._read = path, 0

  def up_to(self, step: int) -> Iterator[Json]:
    """Yields the lines up to a step that were not yielded before."""
    if not self._path.exists():
      return
    with self._path.open('rb') as file:
      file.seek(self._read)
      for line in file:
        if not line.endswith(b'\n') or (value := json.loads(line))['step'] > step:
          return
        self._read += len(line)
        yield value


def scalars(record: Json) -> dict[str, float]:
  """Returns the numbers of a record by name, as 'accuracy/1' or 'eval/greedy/delta'."""
  shown = ((name, value) for name, value in record.items() if name not in ('step', 'reference'))
  result = {name: number for field in shown for name, number in numbers(*field)}
  accuracy = record['accuracy']
  if accuracy[0] is not None:  # a supervised step samples nothing
    result['delta'] = accuracy[-1] - accuracy[0]
  return result


def numbers(name: str, value: Any) -> Iterator[tuple[str, float]]:
  """Yields the numbers of a JSON tree by their path."""
  if isinstance(value, int | float) and not isinstance(value, bool):
    yield name, float(value)
  parts = enumerate(value, 1) if isinstance(value, list) else ()
  for key, inner in value.items() if isinstance(value, dict) else parts:
    if key not in ('intervals', 'by', 'between'):
      yield from numbers(f'{name}/{key}', inner)


def cells(row: Row) -> dict[str, Any]:
  """Returns a conversation as a table's row; its texts are harmless."""
  result: dict[str, Any] = dict(step=row.step, stage=row.stage, problem=_harmless(row.id))
  result['question'] = _harmless(row.question)
  for number, attempt in enumerate(row.attempts, 1):
    result |= {f'attempt {number}': _harmless(attempt.text), f'verdict {number}': attempt.verdict.name.lower()}
  return result


def markdown(rows: Sequence[Row]) -> str:
  """Returns conversations as Markdown in which no text of a model is markup: its lines are indented, so code."""
  parts = []
  for row in rows:
    verdicts = ' -> '.join(attempt.verdict.name.lower() for attempt in row.attempts)
    parts += [f'#### {verdicts}' + (f' (step {row.step}, {row.stage})' if row.step else '')]
    texts = dict(question=row.question) | {f'attempt {i}': a.text for i, a in enumerate(row.attempts, 1)}
    for name, text in texts.items():
      parts += [f'{name}:', textwrap.indent(_harmless(text), ' ' * 4, lambda _: True)]
  return '\n\n'.join(parts)


def _cells(tables: Mapping[str, Sequence[Row]]) -> dict[str, list[dict[str, Any]]]:
  return {name: [cells(row) for row in rows] for name, rows in tables.items()}


def _harmless(text: str) -> str:
  return sanitize(text, keep='\n\t')


def _json(path: pathlib.Path) -> Json:
  return json.loads(path.read_text()) if path.exists() else {}


def _package(package: str, field: str, config: ReportConfig) -> Any:
  try:
    return importlib.import_module(package)
  except ImportError as error:
    value = getattr(config, field)
    remedy = f"pip install 'score_jax[{field}]', or set it to {type(value)()!r}"
    raise ConfigError(f'config.report.{field} = {value!r} needs {package}: {remedy}') from error


def _refused(field: str, config: ReportConfig, error: Exception, remedy: str) -> UserError:
  """Returns what to raise; a service that does not answer is asked again by the same command."""
  reason = ' '.join(str(error).split())[:300] or type(error).__name__
  if _UNREACHED.search(reason):
    return TryAgainError(f'config.report.{field} = {getattr(config, field)!r}: no answer: {reason}; try again')
  return ConfigError(f'config.report.{field} = {getattr(config, field)!r} is refused: {reason}; {remedy}')
