"""What a suite has found: `summary.json`, counted from the rows and metrics of its runs."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import importlib.metadata
import json
import pathlib
import platform
from typing import Any

import numpy as np

from experiments import counting
from experiments import plan
from experiments.plan import Suite
from experiments.runner import Records
import score_jax
from score_jax.reporting import metrics
from score_jax.reporting import report_data
from score_jax.reporting import rows as report_rows
from score_jax.reporting.rows import Row
from score_jax.storage.run_folder import RunFolder

WAYS = ('greedy', 'sampled')
_PACKAGES = ('score_jax', 'jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy', 'transformers')
_WINDOW = 10  # steps that a point of a curve is a mean of


def summary(
  suite: Suite, work: pathlib.Path, done: Mapping[str, tuple[int, ...]], jobs: Sequence[plan.Job], machine: str
) -> tuple[dict[str, Any], dict[str, Mapping[str, counting.Answers]]]:
  """Everything that tables, figures and the page of results are made of, as plain JSON data.

  Args:
    suite: read.
    work: folder of its runs.
    done: seeds of every method that are done.
    jobs: of the suite, for their commands.
    machine: what they ran on, in words.

  Returns:
    the data; and, by way of decoding, the answers of every method that its figures are counted from.

  Raises:
    DataError: rows can't be read, or methods were asked different problems.
  """
  records = Records(work)
  spent = plan.budgets(suite)
  shown = {name: seeds for name, seeds in done.items() if seeds and suite.methods[name].shown}
  rows = {name: [_rows(plan.folder_of(work, name, seed)) for seed in seeds] for name, seeds in shown.items()}
  result: dict[str, Any] = dict(
    suite=suite.name,
    reference=suite.reference,
    seeds=list(suite.seeds),
    machine=machine,
    python=platform.python_version(),
    versions={name: _version(name) for name in _PACKAGES},
    paper=suite.paper,
    missing={
      name: [seed for seed in plan.seeds_of(suite, name, suite.seeds) if seed not in done.get(name, ())]
      for name in suite.methods
    },
    methods={},
  )
  result['missing'] = {name: seeds for name, seeds in result['missing'].items() if seeds}
  for name, seeds in shown.items():
    method = suite.methods[name]
    result['methods'][name] = dict(
      title=method.title,
      seeds=list(seeds),
      attempts=len(rows[name][0][WAYS[0]][0].attempts),
      note=method.note,
      paper=list(method.paper),
      budget=dataclasses.asdict(spent[name]) if name in spent else None,
      seconds=[records.read(f'{name}/seed{seed}').get('seconds') for seed in seeds],
      chosen_step=[_chosen_step(plan.folder_of(work, name, seed)) for seed in seeds],
      edits=report_data.histogram([row.edit_ratio for seed_rows in rows[name] for row in seed_rows['greedy']]),
      curve=_curve([plan.folder_of(work, name, seed) for seed in seeds]),
    )
  answers: dict[str, Mapping[str, counting.Answers]] = {}
  for way in WAYS if shown else ():
    answers[way], problems, left_out = counting.answers({name: [part[way] for part in rows[name]] for name in rows})
    result['problems'] = dict(counted=problems, left_out=left_out)
    for name, figures in counting.count(answers[way], suite.reference).items():
      result['methods'][name][way] = figures
  result['extras'] = {extra: found for extra in suite.extras if (found := _extra(suite, extra, work, shown, records))}
  result['commands'] = {job.name: plan.shown(job.command) for job in jobs}
  result['seconds'] = round(sum(records.read(job.name).get('seconds', 0.0) for job in jobs), 1)
  return result, answers


def evaluations(suite: Suite, work: pathlib.Path, done: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
  """Every ledger of every run, as eval.json has it: method/seed -> policy -> way -> ledger."""
  return {
    f'{name}/seed{seed}': RunFolder(plan.folder_of(work, name, seed)).read_eval()
    for name, seeds in done.items()
    for seed in seeds
  }


def _rows(folder: pathlib.Path) -> dict[str, list[Row]]:
  """Of a run's final policy, by way."""
  found: dict[str, list[Row]] = {way: [] for way in WAYS}
  for row in report_rows.read(folder / 'rows/final.jsonl.gz'):
    found[row.decoding].append(row)
  return found


def _chosen_step(folder: pathlib.Path) -> int | None:
  """Of the final policy; None of an evaluation."""
  return RunFolder(folder).read_eval().get('final', {}).get('step')


def _curve(folders: Sequence[pathlib.Path]) -> dict[str, list[float]]:
  """Share of answers that changed over training steps, mean over seeds: of the step's conversations, or measured."""
  curves = []
  for folder in folders:
    points = {line['step']: _changed(line) for line in metrics.read(folder / 'metrics.jsonl')}
    curves.append({step: value for step, value in points.items() if value is not None})
  steps = sorted(set.intersection(*(set(curve) for curve in curves))) if curves else []
  groups = (
    [steps[i : i + _WINDOW] for i in range(0, len(steps), _WINDOW)]
    if len(steps) > 10 * _WINDOW
    else [[step] for step in steps]
  )
  return dict(
    step=[float(np.mean(group)) for group in groups],
    answer_changed=[float(np.mean([curve[step] for curve in curves for step in group])) for group in groups],
  )


def _changed(line: dict[str, Any]) -> float | None:
  return line.get('answer_changed', line.get('selection', {}).get('answer_changed'))


def _extra(
  suite: Suite, extra: str, work: pathlib.Path, shown: Mapping[str, tuple[int, ...]], records: Records
) -> dict[str, Any]:
  """Of an extra evaluation by method, mean over seeds: accuracy of every attempt, and the curves of --scaling."""
  found = {}
  for name in suite.extras[extra].methods:
    ledgers = [
      RunFolder(plan.extra_folder(work, extra, name, seed)).read_eval().get('final')
      for seed in shown.get(name, ())
      if records.read(f'{extra}/{name}/seed{seed}').get('done')
    ]
    ledgers = [ledger for ledger in ledgers if ledger]
    if not ledgers:
      continue
    attempts = sum(key.startswith('acc_t') for key in ledgers[0]['greedy'])
    found[name] = dict(
      seeds=len(ledgers),
      accuracy=[float(np.mean([one['greedy'][f'acc_t{i + 1}'] for one in ledgers])) for i in range(attempts)],
    )
    if 'scaling' in ledgers[0]:
      found[name]['scaling'] = _mean_curves([one['scaling']['curves'] for one in ledgers])
  return found


def _mean_curves(curves: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, float]]]:
  return {
    side: [
      {name: float(np.mean([point[name] for point in points])) for name in ('samples', 'tokens', 'accuracy')}
      for points in zip(*(curve[side] for curve in curves), strict=True)
    ]
    for side in ('parallel', 'sequential')
  }


def _version(package: str) -> str:
  if package == score_jax.__name__:
    return score_jax.__version__  # it may be run from its folder, not installed
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return 'not installed'


def read(path: pathlib.Path) -> dict[str, Any]:
  """summary.json."""
  return json.loads(path.read_text())
