# SPDX-License-Identifier: Apache-2.0
"""What a report shows, collected from run folders as plain, small, harmless data.

A folder is of a run or an evaluation, maybe of an earlier version; any part may be missing. Texts go
through `sanitize`; curves have a few hundred points, conversations a budget of bytes.
"""

from collections.abc import Sequence
import itertools
import json
import math
import pathlib
from typing import Any

import numpy as np

from score_jax.core_types import Verdict
from score_jax.errors import ConfigError, DataError
from score_jax.reporting import alarms, metrics, syntax
from score_jax.reporting import rows as report_rows
from score_jax.reporting.plain_text import sanitize
from score_jax.reporting.rows import Json, Row

_POINTS = 300  # of a curve
_ROW_BYTES = 2_500_000  # of conversations in a report
_TEXT = 3000  # characters of an attempt or a question
_MOST_READ = 200_000  # rows of a file
_MOST_OF_KIND = 150  # conversations of a source and transition
_BINS = 20  # of edit ratios above 0
_TRANSITIONS = ('i_to_i', 'i_to_c', 'c_to_i', 'c_to_c')
_PER_ATTEMPT = ('kl', 'reward', 'truncated', 'unparsed', 'flat')
_PER_STEP = (
  *('i_to_c', 'c_to_i', 'c_to_c', 'i_to_i_same', 'answer_changed', 'text_changed'),
  *('gradient_norm', 'mismatch', 'learning_rate'),
)
_FACTS = {  # that tell runs apart
  'model': 'model.path',
  'task': 'task.name',
  'problems a step': 'batch.problems',
  'samples': 'batch.samples',
  'learning rate': 'optim.learning_rate',
  'seed': 'seed',
  'instruction': 'task.instruction',
}


def collect(folders: Sequence[pathlib.Path]) -> Json:
  """Returns the report's data.

  Raises ConfigError: a folder holds nothing to report; DataError: a file cannot be read.
  """
  named = zip(folders, _names(folders), strict=True)
  return dict(runs=[_run(*one, _ROW_BYTES // len(folders)) for one in named])


def _run(folder: pathlib.Path, name: str, most_bytes: int) -> Json:
  config = _json(folder / 'config.json').get('config', {})
  limits = config.get('report', {})  # version 0.1 called it kl_budget
  kl_alarm = limits.get('kl_alarm', limits.get('kl_budget', math.inf))
  records, evaluations = metrics.read(folder / 'metrics.jsonl'), _json(folder / 'eval.json')
  if not records and not evaluations:
    raise ConfigError(f'{folder} holds neither metrics.jsonl nor eval.json; name a run folder')
  by_file: list[tuple[str, list[Row]]] = []
  ratios: dict[str, list[float]] = {}
  for file in _row_files(folder, evaluations):
    rows = list(itertools.islice(report_rows.read(folder / 'rows' / file), _MOST_READ))
    name_of_file = file.split('.')[0]
    by_file.append((name_of_file, rows))
    for row in rows:
      ratios.setdefault(sanitize(f'{name_of_file}/{row.decoding}'), []).append(row.edit_ratio)
  by_name = dict(by_file)
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
      for alarm, first, last in alarms.spells(records, kl_alarm)
    ],
    watched=[[alarm.name, alarm.message] for alarm in alarms.ALARMS.values()],
    evaluations=[
      dict(name=sanitize(name), **_with_votes_that_count(one, by_name.get(name, ())))
      for name, evaluation in evaluations.items()
      for one in _ledgers(evaluation)
    ],
    edit_ratios={source: histogram(values) for source, values in ratios.items()},
    conversations=conversations(by_file, most_bytes),
  )


def curves(records: Sequence[Json], points: int = _POINTS) -> Json:
  """Returns columns of figures, each point the mean of a few steps of one stage run.

  Returns:
    step, attempts, and lists by figure and attempt: 'accuracy/1', its standard error 'accuracy_se/1',
    'delta_se'; None is unknown. Where a part of first attempts is offline, accuracy, delta and their errors are there
    for 'on_policy/' and 'offline/' ones too.
  """
  if not records:
    return {}
  size = max(1, -(-len(records) // points))
  groups = [part[i : i + size] for part in _stage_runs(records) for i in range(0, len(part), size)]
  attempts = len(records[0]['accuracy'])
  by_attempt = [(f'/{i + 1}', i) for i in range(attempts)]
  result = dict(step=[round(float(alarms.column(group, 'step').mean()), 2) for group in groups], attempts=attempts)
  result |= {name: _means(groups, name) for name in _PER_STEP}
  result |= {name + end: _means(groups, name, i) for name in _PER_ATTEMPT for end, i in by_attempt}
  result |= _gains(groups, attempts)
  if any('offline' in record for record in records):
    for part, of in dict(on_policy=alarms.with_on_policy, offline=lambda record: record.get('offline', {})).items():
      those = [[of(record) for record in group] for group in groups]
      result |= {f'{part}/{name}': column_T for name, column_T in _gains(those, attempts).items()}
  return result


def _gains(groups: Sequence[Sequence[Json]], attempts: int) -> Json:
  """Returns the columns of accuracy, delta and their standard errors."""
  deltas = (alarms.column(group, 'accuracy', -1) - alarms.column(group, 'accuracy', 0) for group in groups)
  return dict(
    delta=[_number(delta_T.mean()) for delta_T in deltas],
    delta_se=_errors(groups, 'delta_se'),
    **{f'accuracy/{i + 1}': _means(groups, 'accuracy', i) for i in range(attempts)},
    **{f'accuracy_se/{i + 1}': _errors(groups, 'accuracy_se', i) for i in range(attempts)},
  )


def _means(groups: Sequence[Sequence[Json]], name: str, attempt: int | None = None) -> list[float | None]:
  return [_number(alarms.column(group, name, attempt).mean()) for group in groups]


def _errors(groups: Sequence[Sequence[Json]], name: str, attempt: int | None = None) -> list[float | None]:
  columns = (alarms.column(group, name, attempt) for group in groups)
  return [_number(math.sqrt((column_T**2).sum()) / len(column_T)) for column_T in columns]


def _stage_runs(records: Sequence[Json]) -> list[list[Json]]:
  """Returns the records of each stage run, whose number is "visit"."""
  parts = itertools.groupby(records, lambda record: (record['stage'], record.get('visit')))
  return [list(part) for _, part in parts]


def histogram(ratios: Sequence[float]) -> Json:
  """Returns shares of edit ratios: exact copies, and equal bins of 0..1."""
  ratio_N = np.array([ratio for ratio in ratios if not math.isnan(ratio)], np.float64)
  n = len(ratio_N)
  if not n:
    return dict(n=0, copies=0.0, bins=[])
  counts, _ = np.histogram(ratio_N[ratio_N > 0], bins=_BINS, range=(0, 1))
  copies, *bins = (_number(count / n) for count in ((ratio_N == 0).sum(), *counts))
  return dict(n=n, copies=copies, bins=bins)


def conversations(by_file: Sequence[tuple[str, Sequence[Row]]], most_bytes: int) -> Json:
  """Returns rows of every file, decoding and transition in turn, until the budget is spent.

  Returns:
    rows, and counts: how many each transition has by 'file/decoding', shown or not.
  """
  queues: dict[tuple[str, str], list[tuple]] = {}
  counts: dict[str, dict[str, int]] = {}
  everything = ((f'{file}/{row.decoding}', row) for file, rows in by_file for row in rows)
  for number, (source, row) in enumerate(everything):
    source, kind = sanitize(source), _transition(row)
    counts.setdefault(source, dict.fromkeys((*_TRANSITIONS, 'error'), 0))[kind] += 1
    queues.setdefault((source, kind), []).append((number, source, kind, row))
  shown, left = {}, most_bytes
  turns = itertools.zip_longest(*map(_spread, queues.values()))
  for number, source, kind, row in filter(None, itertools.chain(*turns)):
    one = dict(source=source, kind=kind, **_shown(row))
    left -= len(json.dumps(one))
    if left <= 0:
      break
    shown[number] = one
  return dict(rows=[shown[number] for number in sorted(shown)], counts=counts)


def _transition(row: Row) -> str:
  """Returns 'i_to_c' and so on, or 'error'."""
  verdicts = [attempt.verdict for attempt in row.attempts]
  if Verdict.ERROR in verdicts:
    return 'error'
  first, last = (verdicts[i] == Verdict.CORRECT for i in (0, -1))
  return _TRANSITIONS[2 * first + last]


def _spread(rows: Sequence[Any]) -> list[Any]:
  """Takes rows by steps of the golden ratio, from all over the list."""
  order = sorted(range(len(rows)), key=lambda i: i * 0.6180339887498949 % 1)
  return [rows[i] for i in order[:_MOST_OF_KIND]]


def _shown(row: Row) -> Json:
  tags = itertools.islice(row.tags.items(), 8)
  attempts = row.to_json()['attempts'][:16]
  for attempt in attempts:
    answer, logp = sanitize(attempt['answer'], 200), _number(attempt['logp'])
    attempt |= _coloured('text', attempt['text']) | dict(answer=answer, logp=logp)
  return dict(
    id=sanitize(row.id, 200),
    tags={sanitize(name, 40): sanitize(value, 80) for name, value in tags},
    **_coloured('question', row.question),
    edit_ratio=_number(row.edit_ratio),
    sample=row.sample,
    step=row.step,
    attempts=attempts,
  )


def _coloured(name: str, text: str) -> Json:
  """Returns a text by its name, and the colours of programs in it, if there are any."""
  shown = sanitize(text, _TEXT, keep='\n\t')
  spans = syntax.spans(shown)
  return {name: shown} | (dict(syntax=spans) if spans else {})


def _row_files(folder: pathlib.Path, evaluations: Json) -> list[str]:
  """Returns files of rows: evaluations in order, then others, training last."""
  paths = (folder / 'rows').glob('*.jsonl*')
  there = {path.name for path in paths if path.suffix != '.partial'}
  known = [name for name in (f'{one}.jsonl.gz' for one in evaluations) if name in there]
  rest = sorted(there - set(known), key=lambda name: (name == 'train.jsonl', len(name), name))
  return known + rest


def _ledgers(evaluation: Any, drop: Sequence[str] = ()) -> list[Json]:
  """Returns an evaluation's ledgers with their decodings, without `drop`."""
  by_decoding = evaluation.items() if isinstance(evaluation, dict) else ()
  return [
    dict(decoding=sanitize(name), ledger=_clean({key: ledger[key] for key in ledger if key not in drop}))
    for name, ledger in by_decoding
    if isinstance(ledger, dict) and 'acc_t1' in ledger
  ]


def _phases(records: Sequence[Json]) -> dict[str, dict[str, float | None]]:
  """Returns seconds by phase, in all and in the median: a first step compiles."""
  steps = [record.get('seconds', {}) for record in records]
  result = {}
  for name in dict.fromkeys(itertools.chain(*steps)):
    seconds_T = np.array([step.get(name, 0.0) for step in steps])
    result[sanitize(name)] = dict(total=_number(seconds_T.sum()), median=_number(np.median(seconds_T)))
  return result


def _facts(config: Json) -> list[list[str]]:
  result = []
  for label, path in _FACTS.items():
    value: Any = config
    for part in path.split('.'):
      value = value.get(part) if isinstance(value, dict) else None
    if value is not None:
      result.append([label, sanitize(str(value), 200)])
  return result


def _with_votes_that_count(one: Json, rows: Sequence[Row]) -> Json:
  """Returns a ledger of `_ledgers` without majorities, if none of its right attempts has an answer that could vote.

  Version 0.1 counted them for programs too, where they are 0.
  """
  attempts = (attempt for row in rows if row.decoding == one['decoding'] for attempt in row.attempts)
  answers = [attempt.answer for attempt in attempts if attempt.verdict == Verdict.CORRECT]
  if not answers or any(answers):
    return one
  ledger = {name: value for name, value in one['ledger'].items() if name != 'curves'}
  for side in ledger.get('at_k', {}).values():
    if isinstance(side, dict):
      side.pop('maj', None)
  return one | dict(ledger=ledger)


def _clean(value: Any) -> Any:
  """Sanitizes JSON data; its numbers become short, or None."""
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


def _json(path: pathlib.Path) -> Json:
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
  return [f'{part[-1]} ({i})' for i, part in enumerate(parts, 1)]
