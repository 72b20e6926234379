"""What a report shows, gathered from run folders as plain, small, harmless data.

A folder is what a run or `score_jax.evaluate --workdir` wrote; any part of it may be missing. Whatever a model or a
folder's name says goes through `safe`. Curves are thinned to a few hundred points, conversations to a budget of bytes.
"""

from collections.abc import Sequence
import itertools
import json
import math
import pathlib
from typing import Any

import numpy as np

from score_jax.core_types import Verdict
from score_jax.errors import ConfigError
from score_jax.errors import DataError
from score_jax.reporting import alarms
from score_jax.reporting import rows as report_rows
from score_jax.reporting.rows import Row
from score_jax.reporting.safe import safe
from score_jax.reporting.watch import read_lines

_POINTS = 300  # of a curve
_ROW_BYTES = 2_500_000  # of conversations in a report
_TEXT = 3000  # characters of an attempt or a question
_MOST_READ = 200_000  # rows of a file
_BINS = 20  # of edit ratios above 0
_DEFAULT_KL_BUDGET = float('inf')  # of folders whose configuration does not say
_TRANSITIONS = ('i_to_i', 'i_to_c', 'c_to_i', 'c_to_c')
_PER_ATTEMPT = ('accuracy', 'kl', 'reward', 'truncated', 'unparsed', 'flat')
_PER_STEP = (
  *('i_to_c', 'c_to_i', 'c_to_c', 'i_to_i_same', 'answer_changed', 'text_changed'),
  *('gradient_norm', 'mismatch', 'learning_rate'),
)


def gather(folders: Sequence[pathlib.Path]) -> dict[str, Any]:
  """The report's data.

  Raises:
    ConfigError: a folder holds nothing to report.
    DataError: a file in one of them can't be read.
  """
  names = _names(folders)
  runs = [_run(folder, name, _ROW_BYTES // len(folders)) for folder, name in zip(folders, names, strict=True)]
  return dict(runs=runs)


def _run(folder: pathlib.Path, name: str, row_bytes: int) -> dict[str, Any]:
  config = _json(folder / 'config.json').get('config', {})
  lines, evaluations = read_lines(folder / 'metrics.jsonl'), _json(folder / 'eval.json')
  if not lines and not evaluations:
    raise ConfigError(f'{folder} holds neither metrics.jsonl nor eval.json; name the folder of a run')
  limits = alarms.Limits(kl_alarm=config.get('report', {}).get('kl_alarm', _DEFAULT_KL_BUDGET))
  ledgers, browsed, ratios = [], [], {}
  for source in _row_files(folder, evaluations):
    found = list(itertools.islice(report_rows.read(folder / 'rows' / source), _MOST_READ))
    label = source.split('.')[0]
    browsed.append((label, found))
    for way in dict.fromkeys(row.way for row in found):
      ratios[f'{label}/{way}'] = histogram([row.edit_ratio for row in found if row.way == way])
  for label, ways in evaluations.items():
    for way, ledger in ways.items() if isinstance(ways, dict) else ():
      if isinstance(ledger, dict) and 'acc_t1' in ledger:
        ledgers.append(dict(name=safe(label), way=safe(way), ledger=_clean(ledger)))
  return dict(
    name=safe(name),
    facts=_facts(config),
    steps=len(lines),
    stages=_stages(lines),
    curves=curves(lines),
    heldout=_heldout(lines),
    phases=_phases(lines),
    alarms=[_alarm(spell) for spell in alarms.spells(lines, limits)],
    watched=[[alarm.name, alarm.says] for alarm in alarms.ALARMS.values()],
    evaluations=ledgers,
    edits={safe(key): value for key, value in ratios.items()},
    conversations=conversations(browsed, row_bytes),
  )


def curves(lines: Sequence[dict[str, Any]], points: int = _POINTS) -> dict[str, Any]:
  """Columns of figures, each point the mean of a few steps of one stage.

  Returns:
    step (the middle of each point's steps) and one list a figure, per-attempt ones as 'accuracy/1'; standard errors as
    'accuracy_se/1' and 'delta_se'; null where a figure is not known.
  """
  if not lines:
    return {}
  groups = _groups(lines, points)
  attempts = len(lines[0]['accuracy'])
  columns = {name: alarms.column(lines, name) for name in _PER_STEP}
  for name, i in itertools.product(_PER_ATTEMPT, range(attempts)):
    columns[f'{name}/{i + 1}'] = alarms.column(lines, name, i)
  columns['delta'] = columns[f'accuracy/{attempts}'] - columns['accuracy/1']
  errors = {f'accuracy_se/{i + 1}': alarms.column(lines, 'accuracy_se', i) for i in range(attempts)}
  errors['delta_se'] = alarms.column(lines, 'delta_se')
  step_T = np.array([line['step'] for line in lines], np.float64)
  found = dict(step=[round(float(step_T[g].mean()), 2) for g in groups], attempts=attempts)
  found |= {name: [_number(value[g].mean()) for g in groups] for name, value in columns.items()}
  found |= {
    name: [_number(math.sqrt((value[g] ** 2).sum()) / len(g)) for g in groups] for name, value in errors.items()
  }
  return found


def _groups(lines: Sequence[dict[str, Any]], points: int) -> list[np.ndarray]:
  """Indices of the lines of each point: equally many, and never of two stages."""
  size = max(1, -(-len(lines) // points))
  groups, begin = [], 0
  for _, part in itertools.groupby(lines, key=lambda line: (line['stage'], line.get('visit'))):
    count = len(list(part))
    groups += [np.arange(i, min(i + size, begin + count)) for i in range(begin, begin + count, size)]
    begin += count
  return groups


def histogram(ratios: Sequence[float]) -> dict[str, Any]:
  """Shares of edit ratios: exact copies first, then equal bins of 0..1."""
  measured = np.array([r for r in ratios if not math.isnan(r)], np.float64)
  if not len(measured):
    return dict(n=0, copies=0.0, bins=[])
  counts, _ = np.histogram(measured[measured > 0], bins=_BINS, range=(0, 1))
  return dict(
    n=len(measured),
    copies=_number((measured == 0).mean()),
    bins=[_number(count / len(measured)) for count in counts],
  )


def conversations(sources: Sequence[tuple[str, Sequence[Row]]], most_bytes: int) -> dict[str, Any]:
  """Some rows of every source, way and transition in turn, until the budget is spent.

  Returns:
    rows, and counts: how many there are of each transition by 'source/way', shown or not.
  """
  queues: dict[tuple[str, str], list[tuple[int, Row]]] = {}
  counts: dict[str, dict[str, int]] = {}
  number = 0
  for source, rows in sources:
    for row in rows:
      key = f'{source}/{row.way}'
      kind = transition(row)
      counts.setdefault(safe(key), dict.fromkeys((*_TRANSITIONS, 'error'), 0))[kind] += 1
      queues.setdefault((key, kind), []).append((number := number + 1, row))
  found, left = [], most_bytes
  turns = {key: iter(_spread(rows)) for key, rows in queues.items()}
  while turns and left > 0:
    for (key, kind), turn in list(turns.items()):
      number, row = next(turn, (0, None))
      if row is None:
        del turns[key, kind]
        continue
      shown = dict(of=safe(key), kind=kind, **_shown(row))
      left -= len(json.dumps(shown))
      if left > 0:
        found.append((number, shown))
  return dict(rows=[shown for _, shown in sorted(found, key=lambda one: one[0])], counts=counts)


def transition(row: Row) -> str:
  """'i_to_c' and so on; 'error' where a grader failed."""
  if any(attempt.verdict == Verdict.ERROR for attempt in row.attempts):
    return 'error'
  right = [attempt.verdict == Verdict.CORRECT for attempt in (row.first, row.last)]
  return _TRANSITIONS[2 * right[0] + right[1]]


def _spread(rows: Sequence[Any], most: int = 150) -> list[Any]:
  """Rows in an order of which every beginning is from all over the list (steps of the golden ratio)."""
  return [rows[i] for i in sorted(range(len(rows)), key=lambda i: i * 0.6180339887498949 % 1)][:most]


def _shown(row: Row) -> dict[str, Any]:
  lines = '\n\t'
  return dict(
    id=safe(row.id, 200),
    tags={safe(name, 40): safe(value, 80) for name, value in itertools.islice(row.tags.items(), 8)},
    question=safe(row.question, _TEXT, keep=lines),
    edit=None if math.isnan(row.edit_ratio) else _number(row.edit_ratio),
    sample=row.sample,
    step=row.step,
    attempts=[
      dict(
        text=safe(a.text, _TEXT, keep=lines),
        answer=safe(a.answer, 200),
        verdict=a.verdict.name.lower(),
        stop=a.stop.name.lower(),
        tokens=a.tokens,
        logp=_number(a.logp),
      )
      for a in row.attempts[:16]
    ],
  )


def _row_files(folder: pathlib.Path, evaluations: dict[str, Any]) -> list[str]:
  """Names of files of rows: evaluations in their order, then others, training last."""
  there = {path.name for path in (folder / 'rows').glob('*.jsonl*') if not path.name.endswith('.partial')}
  known = [f'{name}.jsonl.gz' for name in evaluations if f'{name}.jsonl.gz' in there]
  rest = sorted(there - set(known) - {'train.jsonl'}, key=lambda name: (len(name), name))
  return known + rest + sorted(there & {'train.jsonl'})


def _stages(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
  groups = itertools.groupby(lines, key=lambda line: (line['stage'], line.get('visit')))
  parts = [(stage, list(part)) for (stage, _), part in groups]
  return [dict(name=safe(stage), first=part[0]['step'], last=part[-1]['step']) for stage, part in parts]


def _heldout(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
  """Evaluations on the way."""
  return [
    dict(step=line['step'], way=safe(way), ledger=_clean(ledger) | dict(by={}))
    for line in lines
    for way, ledger in line.get('eval', {}).items()
    if isinstance(ledger, dict)
  ]


def _phases(lines: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
  """Seconds by phase: in all, and the median of a step. A first step compiles."""
  names = dict.fromkeys(name for line in lines for name in line.get('seconds', {}))
  seconds = {name: np.array([line.get('seconds', {}).get(name, 0.0) for line in lines]) for name in names}
  return {
    safe(name): dict(total=_number(found.sum()), median=_number(np.median(found))) for name, found in seconds.items()
  }


def _alarm(spell: alarms.Spell) -> dict[str, Any]:
  alarm = alarms.ALARMS[spell.name]
  return dict(
    name=alarm.name, says=alarm.says, cause=alarm.cause, field=alarm.field, first=spell.first, last=spell.last
  )


def _facts(config: dict[str, Any]) -> list[list[str]]:
  """The few settings that tell runs apart at a glance."""
  found = []
  for label, path in (
    ('model', 'model.path'),
    ('task', 'task.name'),
    ('problems a step', 'batch.problems'),
    ('samples', 'batch.samples'),
    ('learning rate', 'optim.learning_rate'),
    ('seed', 'seed'),
    ('instruction', 'task.instruction'),
  ):
    value: Any = config
    for part in path.split('.'):
      value = value.get(part) if isinstance(value, dict) else None
    if value is not None:
      found.append([label, safe(str(value), 200)])
  return found


def _clean(value: Any) -> Any:
  """JSON data with its texts made safe, its numbers short and no NaN."""
  if isinstance(value, dict):
    return {safe(str(key), 200): _clean(inner) for key, inner in value.items()}
  if isinstance(value, list):
    return [_clean(inner) for inner in value]
  if isinstance(value, str):
    return safe(value)
  return _number(value) if isinstance(value, float) else value


def _number(value: float) -> float | None:
  """Six digits; None for what is not finite."""
  return float(f'{float(value):.6g}') if math.isfinite(value) else None


def _json(path: pathlib.Path) -> dict[str, Any]:
  try:
    found = json.loads(path.read_text()) if path.exists() else {}
  except (OSError, ValueError) as error:
    raise DataError(f'{path} can not be read: {error}') from error
  if not isinstance(found, dict):
    raise DataError(f'{path} holds no object')
  return found


def _names(folders: Sequence[pathlib.Path]) -> list[str]:
  """The shortest ends of the paths that differ."""
  parts = [folder.resolve().parts for folder in folders]
  longest = max(map(len, parts))
  for length in range(1, longest + 1):
    names = ['/'.join(part[-length:]) for part in parts]
    if len(set(names)) == len(names):
      return names
  return [f'{"/".join(part[-1:])} ({i + 1})' for i, part in enumerate(parts)]
