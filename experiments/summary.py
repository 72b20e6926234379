# SPDX-License-Identifier: Apache-2.0
"""Builds `summary.json` from the rows and metrics of a suite's runs."""

from collections.abc import Mapping, Sequence
import dataclasses
import importlib.metadata
import pathlib
import platform
from typing import Any

import numpy as np

from experiments import counting, plan
from experiments.plan import Suite
from experiments.runner import Records, is_done
import score_jax
from score_jax.reporting import metrics, report_data
from score_jax.reporting import rows as report_rows
from score_jax.reporting.rows import Row
from score_jax.storage.run_folder import RunFolder

DECODINGS = ('greedy', 'sampled')
_PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy', 'transformers')
_WINDOW = 10  # steps that a point of a curve is a mean of
Seeds = Mapping[str, tuple[int, ...]]  # by method


def finished(suite: Suite, work: pathlib.Path, jobs: Sequence[plan.Job]) -> Seeds:
  """Returns the seeds of every method whose jobs are done."""
  records = Records(work)
  names = {job.name for job in jobs if is_done(job, records)}
  return {
    method: tuple(seed for seed in plan.seeds_of(suite, method, suite.seeds) if f'{method}/seed{seed}' in names)
    for method in suite.methods
  }


def summary(
  suite: Suite, work: pathlib.Path, done: Seeds, jobs: Sequence[plan.Job], machine: str
) -> tuple[dict[str, Any], dict[str, Mapping[str, counting.Answers]]]:
  """Counts all that tables, figures and page are made of.

  Args:
    suite: what is compared.
    work: folder of its runs.
    done: seeds that are done.
    jobs: of the suite, for their commands.
    machine: what they ran on.

  Returns:
    plain JSON data; the answers of every method, by decoding.

  Raises:
    DataError: rows cannot be read, or methods were asked different problems.
  """
  records, spent = Records(work), plan.budgets(suite)
  shown = {name: seeds for name, seeds in done.items() if seeds and suite.methods[name].shown}
  folders = {name: [plan.folder_of(work, name, seed) for seed in seeds] for name, seeds in shown.items()}
  rows = {name: [_rows(folder) for folder in folders[name]] for name in shown}
  missing = {
    name: [seed for seed in plan.seeds_of(suite, name, suite.seeds) if seed not in done.get(name, ())]
    for name in suite.methods
  }
  result: dict[str, Any] = dict(
    suite=suite.name,
    reference=suite.reference,
    seeds=list(suite.seeds),
    machine=machine,
    python=platform.python_version(),
    versions=dict(score_jax=score_jax.__version__) | {name: importlib.metadata.version(name) for name in _PACKAGES},
    paper=suite.paper,
    missing={name: seeds for name, seeds in missing.items() if seeds},
    methods={
      name: _method(suite.methods[name], folders[name], rows[name])
      | dict(
        seeds=list(seeds),
        budget=dataclasses.asdict(spent[name]) if name in spent else None,
        seconds=[records.read(f'{name}/seed{seed}').get('seconds') for seed in seeds],
      )
      for name, seeds in shown.items()
    },
  )
  answers: dict[str, Mapping[str, counting.Answers]] = {}
  for decoding in DECODINGS if shown else ():
    by_method = {name: [one[decoding] for one in rows[name]] for name in rows}
    answers[decoding], problems, left_out = counting.answers(by_method)
    result['problems'] = dict(counted=problems, left_out=left_out)
    for name, figures in counting.count(answers[decoding], suite.reference).items():
      result['methods'][name][decoding] = figures
  extras = {extra: _extra(suite, extra, work, shown, records) for extra in suite.extras}
  result['extras'] = {extra: figures for extra, figures in extras.items() if figures}
  result['commands'] = {job.name: plan.shown(job.command) for job in jobs}
  result['seconds'] = round(sum(records.read(job.name).get('seconds', 0.0) for job in jobs), 1)
  return result, answers


def _method(method: plan.Method, folders: Sequence[pathlib.Path], rows: Sequence[dict[str, list[Row]]]) -> dict:
  greedy = [row for one in rows for row in one['greedy']]
  return {
    'title': method.title,
    'attempts': len(greedy[0].attempts),
    'note': method.note,
    'paper': list(method.paper),
    'chosen_step': [RunFolder(folder).read_eval().get('final', {}).get('step') for folder in folders],
    'edits': report_data.histogram([row.edit_ratio for row in greedy]),
    'curve': _curve(folders),
  }


def evaluations(work: pathlib.Path, done: Seeds) -> dict[str, Any]:
  """Returns every eval.json: method/seed -> policy -> decoding -> ledger."""
  return {
    f'{name}/seed{seed}': RunFolder(plan.folder_of(work, name, seed)).read_eval()
    for name, seeds in done.items()
    for seed in seeds
  }


def _rows(folder: pathlib.Path) -> dict[str, list[Row]]:
  rows: dict[str, list[Row]] = {decoding: [] for decoding in DECODINGS}
  for row in report_rows.read(folder / 'rows/final.jsonl.gz'):
    rows[row.decoding].append(row)
  return rows


def _curve(folders: Sequence[pathlib.Path]) -> dict[str, list[float]]:
  curves = []
  for folder in folders:
    records = metrics.read(folder / 'metrics.jsonl')
    points = {one['step']: one.get('selection', {}) | one for one in records}
    values = {step: one.get('answer_changed') for step, one in points.items()}
    curves.append({step: value for step, value in values.items() if value is not None})
  steps = sorted(set.intersection(*(set(curve) for curve in curves))) if curves else []
  size = _WINDOW if len(steps) > 10 * _WINDOW else 1
  groups = [steps[i : i + size] for i in range(0, len(steps), size)]
  return dict(
    step=[float(np.mean(group)) for group in groups],
    answer_changed=[float(np.mean([one[step] for one in curves for step in group])) for group in groups],
  )


def _extra(suite: Suite, extra: str, work: pathlib.Path, shown: Seeds, records: Records) -> dict[str, Any]:
  """Returns means over seeds, by method."""
  figures = {}
  for name in suite.extras[extra].methods:
    ledgers = [
      ledger
      for seed in shown.get(name, ())
      if records.read(f'{extra}/{name}/seed{seed}').get('done')
      and (ledger := RunFolder(plan.extra_folder(work, extra, name, seed)).read_eval().get('final'))
    ]
    if not ledgers:
      continue
    attempts = sum(key.startswith('acc_t') for key in ledgers[0]['greedy'])
    figures[name] = dict(
      seeds=len(ledgers),
      accuracy=[float(np.mean([one['greedy'][f'acc_t{i + 1}'] for one in ledgers])) for i in range(attempts)],
    )
    if 'scaling' in ledgers[0]:
      figures[name]['scaling'] = _mean_curves([one['scaling']['curves'] for one in ledgers])
  return figures


def _mean_curves(curves: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, float]]]:
  return {
    side: [
      {name: float(np.mean([point[name] for point in points])) for name in ('samples', 'tokens', 'accuracy')}
      for points in zip(*(curve[side] for curve in curves), strict=True)
    ]
    for side in ('parallel', 'sequential')
  }
