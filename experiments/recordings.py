# SPDX-License-Identifier: Apache-2.0
"""Reads and counts what runs of real models left.

A folder of experiments/results that has a methods.json is a recording. It says what `evaluations/` and `runs/` are:

  title, about, reference (a method), run (its run.json), tasks {file: title}, gpus_a_run,
  methods {key: {title, policies [a seed each], runs [[folders that follow one another], a seed each], note}},
  attempts {task, policies {key: policy}}, changed (files of conversations whose verdict changed),
  temperature (of what is sampled; 1)
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import dataclasses
import gzip
import json
import pathlib
from typing import Any

import numpy as np

from experiments import counting
from score_jax import files
from score_jax.core_types import Verdict
from score_jax.errors import DataError

RESULTS = pathlib.Path('experiments/results')
DECODINGS = ('sampled', 'greedy')
_BLOCKS = 9  # that a curve is drawn of
_MOST_BYTES = 1 << 24

Json = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Method:
  """A row of the tables."""

  title: str
  policies: tuple[str, ...]  # folders of evaluations/, one a seed; (): not run
  runs: tuple[tuple[str, ...], ...] = ()  # folders of runs/ that follow one another, for each seed
  note: str = ''


@dataclasses.dataclass(frozen=True)
class Recording:
  """What methods.json says."""

  folder: pathlib.Path
  title: str
  about: str
  reference: str
  run: str
  tasks: Mapping[str, str]
  gpus_a_run: float
  methods: Mapping[str, Method]
  attempts: Json = dataclasses.field(default_factory=dict)
  changed: tuple[str, ...] = ()
  temperature: float = 1

  def decoding(self, name: str) -> str:
    """Returns what the page calls one of DECODINGS."""
    return f'T={self.temperature:g}' if name == 'sampled' else name

  def summary_file(self, task: str) -> pathlib.Path:
    """Returns where a task's summary is; the first task's has the plain name."""
    return self.folder / ('summary.json' if task == next(iter(self.tasks)) else f'summary_{task}.json')

  def run_json(self) -> Json:
    """Returns hardware, versions, date and the model's sha256."""
    return files.read_json(self.folder / self.run, _MOST_BYTES)


def every() -> list[Recording]:
  """Returns the recorded folders of RESULTS, newest first."""
  paths = sorted(RESULTS.glob('*/methods.json'))
  return sorted((read(path.parent) for path in paths), key=lambda one: one.run_json()['date'], reverse=True)


def read(folder: pathlib.Path) -> Recording:
  """Reads a folder's methods.json.

  Raises:
    DataError: it is missing, lacks a field, or names a method or a folder that is not there.
  """
  path = folder / 'methods.json'
  if not path.is_file():
    raise DataError(f'{path}: there is no such file; it says what the folders beside it are')
  content = files.read_json(path, _MOST_BYTES)
  try:
    methods = {
      key: Method(**one | dict(policies=tuple(one['policies']), runs=tuple(map(tuple, one.get('runs', ())))))
      for key, one in content.pop('methods').items()
    }
    recording = Recording(folder=folder, methods=methods, **content)
  except (KeyError, TypeError) as error:
    raise DataError(f'{path}: {error}') from error
  if recording.reference not in methods:
    raise DataError(f'{path}: reference = {recording.reference!r} is none of {", ".join(methods)}')
  named = [f'evaluations/{policy}' for method in methods.values() for policy in method.policies]
  named += [f'runs/{run}' for method in methods.values() for chain in method.runs for run in chain]
  for name in named:
    if not (folder / name).is_dir():
      raise DataError(f'{path} names {name}, which is not there')
  return recording


# Counting.


def summary(recording: Recording, task: str) -> Json:
  """Counts a task's rows, in the form of a suite's summary.json.

  Raises:
    DataError: methods were asked different problems, or different numbers of conversations.
  """
  run = recording.run_json()
  shown = {key: method for key, method in recording.methods.items() if method.policies}
  tables = {key: [conversations(recording, policy, task) for policy in one.policies] for key, one in shown.items()}
  result: Json = dict(
    suite=f'{recording.title}: {recording.tasks[task]}',
    reference=recording.reference,
    seeds=sorted({seed for one in shown.values() for seed in range(len(one.policies))}),
    machine=run['gpu'],
    python=run['versions']['python'],
    versions=dict(run['versions'], score_jax=run['commit']),
    model=run['model'],
    model_sha256=run['model_sha256'],
    date=run['date'],
    paper='',
    missing={key: [0] for key, method in recording.methods.items() if not method.policies},
    methods={key: _method(recording, one) for key, one in shown.items()},
    extras={},
    command='python -m experiments.recorded',
    commands={},
    seconds=round(sum(run_seconds(recording, name) for name in _run_names(shown.values())), 1),
  )
  for decoding in DECODINGS:
    by_method = {key: [table[decoding] for table in seeds] for key, seeds in tables.items()}
    answers, left_out = _answers(by_method, f'{recording.folder.name}, {task}, {decoding}')
    result['problems'] = dict(counted=next(iter(answers.values())).right.shape[1], left_out=left_out)
    for key, figures in counting.count(answers, recording.reference).items():
      conversations_N = int(np.prod(answers[key].right.shape[:-1]))
      result['methods'][key][decoding] = figures | dict(conversations=conversations_N)
      copied = [copy for table in tables[key] for copies in table[f'{decoding} copies'].values() for copy in copies]
      result['methods'][key][decoding]['copies'] = float(np.mean(copied))
  return result


def conversations(recording: Recording, policy: str, task: str) -> Json:
  """Returns decoding -> problem -> verdicts of its conversations [K][A], and 'DECODING copies' -> problem -> [K]."""
  table: Json = {}
  for row in rows(recording.folder / 'evaluations' / policy, task):
    verdicts = row.get('verdicts') or [attempt['verdict'] for attempt in row['attempts']]
    copied = row['copy'] if 'copy' in row else row['edit_ratio'] == 0
    table.setdefault(row['way'], {}).setdefault(row['id'], []).append(verdicts)
    table.setdefault(f'{row["way"]} copies', {}).setdefault(row['id'], []).append(bool(copied))
  return table


def rows(folder: pathlib.Path, task: str) -> Iterator[Json]:
  """Yields the rows of FOLDER/TASK.jsonl.gz or FOLDER/rows/TASK.jsonl.gz.

  Raises:
    DataError: neither is there.
  """
  paths = [path for path in (folder / f'{task}.jsonl.gz', folder / f'rows/{task}.jsonl.gz') if path.is_file()]
  if not paths:
    raise DataError(f'{folder}: there is no {task}.jsonl.gz')
  with gzip.open(paths[0], 'rt', encoding='utf-8') as lines:
    yield from map(json.loads, lines)


def _answers(by_method: Mapping[str, Sequence[Json]], where: str) -> tuple[dict[str, counting.Answers], int]:
  """Returns the answers of every method, and how many problems are left out because a grader failed on them."""
  every_table = [table for seeds in by_method.values() for table in seeds]
  ids = sorted(every_table[0])
  for key, seeds in by_method.items():
    for table in seeds:
      if table.keys() != set(ids):
        raise DataError(f'{where}: {key} was asked {len(table)} problems, others {len(ids)}')
  failed = {id_ for table in every_table for id_ in ids if any('error' in one for one in table[id_])}
  kept = [id_ for id_ in ids if id_ not in failed]
  answers = {}
  for key, seeds in by_method.items():
    counts = {len(table[id_]) for table in seeds for id_ in kept}
    if len(counts) > 1:
      raise DataError(f'{where}: {key} has {min(counts)} to {max(counts)} conversations a problem')
    verdicts = np.array([[table[id_] for id_ in kept] for table in seeds])
    answers[key] = counting.Answers(verdicts == Verdict.CORRECT.name.lower())
  return answers, len(failed)


def _method(recording: Recording, method: Method) -> Json:
  chains = [[records(recording, run) for run in chain] for chain in method.runs]
  return dict(
    title=method.title,
    attempts=2,
    note=method.note,
    paper=[],
    seeds=list(range(len(method.policies))),
    policies=list(method.policies),
    updates=sum(len(one) for one in chains[0]) if chains else 0,
    seconds=[round(sum(run_seconds(recording, run) for run in chain), 1) for chain in method.runs],
    gpu_seconds=[
      round(recording.gpus_a_run * sum(run_seconds(recording, run) for run in chain), 1) for chain in method.runs
    ],
    curve=[_curve([record for run in chain for record in run]) for chain in chains],
  )


def _run_names(methods: Iterable[Method]) -> list[str]:
  return sorted({run for method in methods for chain in method.runs for run in chain})


def records(recording: Recording, run: str) -> list[Json]:
  """Returns the steps of runs/RUN/metrics.jsonl.gz."""
  with gzip.open(recording.folder / 'runs' / run / 'metrics.jsonl.gz', 'rt') as lines:
    return [json.loads(line) for line in lines]


def run_seconds(recording: Recording, run: str) -> float:
  """Returns the seconds of a run's steps, without its start, compilation and evaluation."""
  return sum(sum(record['seconds'].values()) for record in records(recording, run))


def _curve(steps: Sequence[Json]) -> Json:
  """Returns training accuracies of both attempts, means over blocks of steps."""
  sampled = [(i + 1, one['accuracy']) for i, one in enumerate(steps) if None not in one.get('accuracy', [None])]
  blocks = [block for block in np.array_split(np.arange(len(sampled)), _BLOCKS) if block.size]
  return dict(
    step=[float(np.mean([sampled[i][0] for i in block])) for block in blocks],
    accuracy=[np.mean([sampled[i][1] for i in block], axis=0).tolist() for block in blocks],
  )
