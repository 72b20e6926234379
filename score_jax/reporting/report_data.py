"""What a report shows, collected from run folders as plain, small, harmless data.

A folder is what a run or `score_jax.evaluate --workdir` wrote, of this version or an earlier one; any part of it may be
missing. What a model wrote and what folders are called goes through `sanitize`. Curves are thinned to a few hundred
points, conversations to a budget of bytes.
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
from score_jax.reporting import metrics
from score_jax.reporting import rows as report_rows
from score_jax.reporting.rows import Row
from score_jax.reporting.sanitize import sanitize

_POINTS = 300  # of a curve
_ROW_BYTES = 2_500_000  # of conversations in a report
_TEXT = 3000  # characters of an attempt or a question
_MOST_READ = 200_000  # rows of a file
_MOST_OF_KIND = 150  # conversations of a source and transition that may be shown
_BINS = 20  # of edit ratios above 0
_TRANSITIONS = ('i_to_i', 'i_to_c', 'c_to_i', 'c_to_c')
_PER_ATTEMPT = ('accuracy', 'kl', 'reward', 'truncated', 'unparsed', 'flat')
_PER_STEP = (
  *('i_to_c', 'c_to_i', 'c_to_c', 'i_to_i_same', 'answer_changed', 'text_changed'),
  *('gradient_norm', 'mismatch', 'learning_rate'),
)
_FACTS = {  # the settings that tell runs apart at a glance
  'model': 'model.path',
  'task': 'task.name',
  'problems a step': 'batch.problems',
  'samples': 'batch.samples',
  'learning rate': 'optim.learning_rate',
  'seed': 'seed',
  'instruction': 'task.instruction',
}


def collect(folders: Sequence[pathlib.Path]) -> dict[str, Any]:
  """Returns the report's data.

  Raises:
    ConfigError: a folder holds nothing to report.
    DataError: a file in one of them cannot be read.
  """
  most_bytes = _ROW_BYTES // len(folders)
  return dict(runs=[_run(folder, name, most_bytes) for folder, name in zip(folders, _names(folders), strict=True)])


def _run(folder: pathlib.Path, name: str, most_bytes: int) -> dict[str, Any]:
  config = _json(folder / 'config.json').get('config', {})
  records, evaluations = metrics.read(folder / 'metrics.jsonl'), _json(folder / 'eval.json')
  if not records and not evaluations:
    raise ConfigError(f'{folder} holds neither metrics.jsonl nor eval.json; name the folder of a run')
  by_file, ratios = [], {}
  for file in _row_files(folder, evaluations):
    source, rows = file.split('.')[0], list(itertools.islice(report_rows.read(folder / 'rows' / file), _MOST_READ))
    by_file.append((source, rows))
    for decoding in dict.fromkeys(row.decoding for row in rows):
      ratios[sanitize(f'{source}/{decoding}')] = histogram([r.edit_ratio for r in rows if r.decoding == decoding])
  return dict(
    name=sanitize(name),
    facts=_facts(config),
    steps=len(records),
    stages=[
      dict(name=sanitize(part[0]['stage']), first=part[0]['step'], last=part[-1]['step'])
      for part in _stage_runs(records)
    ],
    curves=curves(records),
    heldout=[
      dict(step=record['step'], **one) for record in records for one in _ledgers(record.get('eval'), drop=('by',))
    ],
    phases=_phases(records),
    alarms=[
      dict(name=alarm.name, message=alarm.message, cause=alarm.cause, field=alarm.field, first=first, last=last)
      for alarm, first, last in alarms.spells(records, _kl_alarm(config))
    ],
    watched=[[alarm.name, alarm.message] for alarm in alarms.ALARMS.values()],
    evaluations=[
      dict(name=sanitize(name), **one) for name, evaluation in evaluations.items() for one in _ledgers(evaluation)
    ],
    edit_ratios=ratios,
    conversations=conversations(by_file, most_bytes),
  )


def _kl_alarm(config: dict[str, Any]) -> float:
  """Returns config.report.kl_alarm, which version 0.1 called kl_budget; infinity where a folder has neither."""
  settings = config.get('report', {})
  return settings.get('kl_alarm', settings.get('kl_budget', math.inf))


def curves(records: Sequence[dict[str, Any]], points: int = _POINTS) -> dict[str, Any]:
  """Returns columns of figures, each point the mean of a few steps of one stage run.

  Returns:
    step (the middle of each point's steps), attempts, and one list for each figure, per-attempt ones as 'accuracy/1';
    standard errors as 'accuracy_se/1' and 'delta_se'; null where a figure is not known.
  """
  if not records:
    return {}
  groups = _groups(records, points)
  attempts = len(records[0]['accuracy'])
  columns = {name: alarms.column(records, name) for name in _PER_STEP}
  for name, i in itertools.product(_PER_ATTEMPT, range(attempts)):
    columns[f'{name}/{i + 1}'] = alarms.column(records, name, i)
  columns['delta'] = columns[f'accuracy/{attempts}'] - columns['accuracy/1']
  errors = {f'accuracy_se/{i + 1}': alarms.column(records, 'accuracy_se', i) for i in range(attempts)}
  errors['delta_se'] = alarms.column(records, 'delta_se')
  step_T = np.array([record['step'] for record in records], np.float64)
  return dict(
    step=[round(float(step_T[g].mean()), 2) for g in groups],
    attempts=attempts,
    **{name: [_number(value[g].mean()) for g in groups] for name, value in columns.items()},
    **{name: [_number(math.sqrt((value[g] ** 2).sum()) / len(g)) for g in groups] for name, value in errors.items()},
  )


def _groups(records: Sequence[dict[str, Any]], points: int) -> list[np.ndarray]:
  """Returns indices of the records of each point: equally many, and never of two stage runs."""
  size = max(1, -(-len(records) // points))
  groups, begin = [], 0
  for part in _stage_runs(records):
    end = begin + len(part)
    groups += [np.arange(i, min(i + size, end)) for i in range(begin, end, size)]
    begin = end
  return groups


def _stage_runs(records: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
  """Returns the records of each stage run, which has a number in the records of a run, "visit"."""
  return [list(part) for _, part in itertools.groupby(records, lambda record: (record['stage'], record.get('visit')))]


def histogram(ratios: Sequence[float]) -> dict[str, Any]:
  """Returns shares of edit ratios: exact copies first, then equal bins of 0..1."""
  measured = np.array([ratio for ratio in ratios if not math.isnan(ratio)], np.float64)
  if not len(measured):
    return dict(n=0, copies=0.0, bins=[])
  counts, _ = np.histogram(measured[measured > 0], bins=_BINS, range=(0, 1))
  return dict(
    n=len(measured),
    copies=_number((measured == 0).mean()),
    bins=[_number(count / len(measured)) for count in counts],
  )


def conversations(by_file: Sequence[tuple[str, Sequence[Row]]], most_bytes: int) -> dict[str, Any]:
  """Returns some rows of every file, decoding and transition in turn, until the budget is spent.

  Returns:
    rows, and counts: how many there are of each transition by 'file/decoding', shown or not.
  """
  queues: dict[tuple[str, str], list[tuple[int, Row]]] = {}
  counts: dict[str, dict[str, int]] = {}
  for number, (source, row) in enumerate((source, row) for source, rows in by_file for row in rows):
    key, kind = sanitize(f'{source}/{row.decoding}'), transition(row)
    counts.setdefault(key, dict.fromkeys((*_TRANSITIONS, 'error'), 0))[kind] += 1
    queues.setdefault((key, kind), []).append((number, row))
  shown, left = {}, most_bytes
  turns = {key: iter(_spread(rows)) for key, rows in queues.items()}
  while turns and left > 0:
    for (key, kind), turn in list(turns.items()):
      number, row = next(turn, (0, None))
      if row is None:
        del turns[key, kind]
        continue
      one = dict(source=key, kind=kind, **_shown(row))
      left -= len(json.dumps(one))
      if left > 0:
        shown[number] = one
  return dict(rows=[shown[number] for number in sorted(shown)], counts=counts)


def transition(row: Row) -> str:
  """Returns 'i_to_c' and so on; 'error' where the grading host failed."""
  if any(attempt.verdict == Verdict.ERROR for attempt in row.attempts):
    return 'error'
  right = [attempt.verdict == Verdict.CORRECT for attempt in (row.first, row.last)]
  return _TRANSITIONS[2 * right[0] + right[1]]


def _spread(rows: Sequence[Any]) -> list[Any]:
  """Returns rows in an order of which every beginning is from all over the list (steps of the golden ratio)."""
  order = sorted(range(len(rows)), key=lambda i: i * 0.6180339887498949 % 1)
  return [rows[i] for i in order[:_MOST_OF_KIND]]


def _shown(row: Row) -> dict[str, Any]:
  """Returns a conversation as the report shows it."""
  lines = '\n\t'
  return dict(
    id=sanitize(row.id, 200),
    tags={sanitize(name, 40): sanitize(value, 80) for name, value in itertools.islice(row.tags.items(), 8)},
    question=sanitize(row.question, _TEXT, keep=lines),
    edit_ratio=_number(row.edit_ratio),
    sample=row.sample,
    step=row.step,
    attempts=[
      dict(
        text=sanitize(a.text, _TEXT, keep=lines),
        answer=sanitize(a.answer, 200),
        verdict=a.verdict.name.lower(),
        stop=a.stop.name.lower(),
        tokens=a.tokens,
        logp=_number(a.logp),
      )
      for a in row.attempts[:16]
    ],
  )


def _row_files(folder: pathlib.Path, evaluations: dict[str, Any]) -> list[str]:
  """Returns names of files of rows: evaluations in their order, then others, training last."""
  there = {path.name for path in (folder / 'rows').glob('*.jsonl*') if not path.name.endswith('.partial')}
  known = [f'{name}.jsonl.gz' for name in evaluations if f'{name}.jsonl.gz' in there]
  rest = sorted(there - set(known) - {'train.jsonl'}, key=lambda name: (len(name), name))
  return known + rest + sorted(there & {'train.jsonl'})


def _ledgers(evaluation: Any, drop: Sequence[str] = ()) -> list[dict[str, Any]]:
  """Returns the ledgers of an evaluation with the names of their decodings, without the entries `drop`."""
  return [
    dict(decoding=sanitize(decoding), ledger=_clean({key: ledger[key] for key in ledger if key not in drop}))
    for decoding, ledger in (evaluation.items() if isinstance(evaluation, dict) else ())
    if isinstance(ledger, dict) and 'acc_t1' in ledger
  ]


def _phases(records: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
  """Returns seconds by phase: in all, and the median of a step. A first step compiles."""
  result = {}
  for name in dict.fromkeys(name for record in records for name in record.get('seconds', {})):
    seconds = np.array([record.get('seconds', {}).get(name, 0.0) for record in records])
    result[sanitize(name)] = dict(total=_number(seconds.sum()), median=_number(np.median(seconds)))
  return result


def _facts(config: dict[str, Any]) -> list[list[str]]:
  result = []
  for label, path in _FACTS.items():
    value: Any = config
    for part in path.split('.'):
      value = value.get(part) if isinstance(value, dict) else None
    if value is not None:
      result.append([label, sanitize(str(value), 200)])
  return result


def _clean(value: Any) -> Any:
  """Returns JSON data with its texts sanitized, its numbers short and no NaN."""
  if isinstance(value, dict):
    return {sanitize(str(key), 200): _clean(inner) for key, inner in value.items()}
  if isinstance(value, list):
    return [_clean(inner) for inner in value]
  if isinstance(value, str):
    return sanitize(value)
  return _number(value) if isinstance(value, float) else value


def _number(value: float) -> float | None:
  """Returns six digits; None for what is not finite."""
  return float(f'{float(value):.6g}') if math.isfinite(value) else None


def _json(path: pathlib.Path) -> dict[str, Any]:
  try:
    value = json.loads(path.read_text()) if path.exists() else {}
  except (OSError, ValueError) as error:
    raise DataError(f'{path} cannot be read: {error}') from error
  if not isinstance(value, dict):
    raise DataError(f'{path} holds no object')
  return value


def _names(folders: Sequence[pathlib.Path]) -> list[str]:
  """Returns the shortest ends of the paths that differ."""
  parts = [folder.resolve().parts for folder in folders]
  for length in range(1, max(map(len, parts)) + 1):
    names = ['/'.join(part[-length:]) for part in parts]
    if len(set(names)) == len(names):
      return names
  return [f'{part[-1]} ({i + 1})' for i, part in enumerate(parts)]
