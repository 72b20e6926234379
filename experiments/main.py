# SPDX-License-Identifier: Apache-2.0
"""Compares methods: `python -m experiments.main --suite=experiments/suites/countdown.py --out=DIR`.

Runs every method of a suite with every seed and evaluates them on the same problems; then writes OUT/summary.json,
evaluations.json, answers.npz, commands.txt, and a page of results with figures and the text of OUT/remarks.md. The same
command resumes what was stopped, also by --budget_seconds (exit code 75).
"""

import os
import pathlib
import subprocess
import sys
from typing import Any

from absl import flags

from score_jax import cli, files
from score_jax.errors import ConfigError, DataError, TryAgainError

_SUITE = flags.DEFINE_string('suite', 'experiments/suites/countdown.py', 'a suite file')
_OUT = flags.DEFINE_string('out', 'experiments/results/countdown', 'folder of results; runs are in its work/')
_BASE = flags.DEFINE_string('base', '', 'an HF folder to start from; default: the suite makes it')
_JOBS = flags.DEFINE_integer('jobs', 1, 'processes at once', lower_bound=1)
_GPUS = flags.DEFINE_list('gpus', '', 'numbers of the GPUs that jobs are spread over')
_BUDGET = flags.DEFINE_float('budget_seconds', 0.0, 'stop all jobs then; 0: never', 0.0)
_ONLY = flags.DEFINE_list('only', '', 'methods; default: all of the suite')
_SEEDS = flags.DEFINE_list('seeds', '', "seeds; default: the suite's")
_FIELDS = flags.DEFINE_multi_string('field', [], "NAME=VALUE: a field of every run, over the suite's")
_EXTRAS = flags.DEFINE_bool('extras', True, 'also further evaluations')
_DRY = flags.DEFINE_bool('dry_run', False, 'show jobs and budgets; run nothing')
_REDRAW = flags.DEFINE_bool('redraw', False, 'figures and page again; run nothing')
_PAGE = flags.DEFINE_string('page', '', 'the page of results; default: OUT/results.md')


def main() -> None:
  from experiments import plan, runner

  out = pathlib.Path(_OUT.value)
  if _REDRAW.value:
    written = out / 'summary.json'
    if not written.is_file():
      raise DataError(f'{written}: there is no such file; --redraw needs what a suite has written')
    _write_page(files.read_json(written, 1 << 26), out)
    return
  if _BASE.value and not (pathlib.Path(_BASE.value) / 'config.json').is_file():
    raise ConfigError(f'--base={_BASE.value} is no HF folder; name one, or none')
  suite = plan.read(_SUITE.value, _FIELDS.value)
  spent = plan.budgets(suite)
  only = plan.chosen(suite, _ONLY.value)
  jobs = plan.jobs(suite, out / 'work', only, _seeds(suite), _BASE.value)
  if not _EXTRAS.value:
    jobs = [job for job in jobs if job.name.split('/')[0] not in suite.extras]
  if _DRY.value:
    _show(suite, jobs, spent)
    return
  (out / 'work').mkdir(parents=True, exist_ok=True)
  (out / 'work/.gitignore').write_text('*\n')  # large, and not for a repository
  outcome = runner.run(
    jobs,
    out / 'work',
    at_once=_JOBS.value,
    seconds=_BUDGET.value,
    environment=runner.environment(-(-_JOBS.value // max(1, len(_GPUS.value))), dict(os.environ)),
    gpus=_GPUS.value,
    say=lambda text: print(f'suite: {text}', flush=True),
  )
  if not outcome.left:
    _summarize(suite, out)
  if outcome.failed:
    blocked = f'; so not begun: {", ".join(outcome.blocked)}' if outcome.blocked else ''
    failed = f'{len(outcome.failed)} jobs failed: {", ".join(outcome.failed)}'
    raise DataError(f'{failed} (logs in {out}/work/jobs){blocked}')
  if outcome.left:
    raise TryAgainError(f'{len(outcome.done)} of {len(jobs)} jobs are done; run the same command again')


def _seeds(suite) -> tuple[int, ...]:
  if not all(seed.isdigit() and int(seed) in suite.seeds for seed in _SEEDS.value):
    raise ConfigError(f'--seeds={",".join(_SEEDS.value)}: the suite has {", ".join(map(str, suite.seeds))}')
  return tuple(map(int, _SEEDS.value)) or suite.seeds


def _show(suite, jobs, spent) -> None:
  from experiments import plan

  for name, budget in spent.items():
    differs = plan.differing(budget, spent[suite.reference])
    kind = 'another budget' if differs else 'as the reference'
    note = f'; {suite.methods[name].note}' if suite.methods[name].note else ''
    sampled = f'{budget.conversations:,} conversations, {budget.attempts:,} attempts'
    trained = f'{budget.updates:,} updates, {budget.trained:,} attempts trained'
    print(f'{name}: {sampled}, {trained} ({kind}{note})')
  for job in jobs:
    needs = f' (after {", ".join(job.needs)})' if job.needs else ''
    print(f'{job.name}{needs}: {plan.shown(job.command)}')


def _summarize(suite, out: pathlib.Path) -> None:
  from experiments import counting, plan, results, summary

  work = out / 'work'
  jobs = plan.jobs(suite, work, tuple(suite.methods), suite.seeds, _BASE.value)
  done = summary.finished(suite, work, jobs)
  result, answers = summary.summary(suite, work, done, jobs, _machine(work))
  if not result['methods']:
    print('suite: nothing to count yet')
    return
  options = [f'--base={_BASE.value}'] if _BASE.value else []
  options += [f'--gpus={",".join(_GPUS.value)}'] if _GPUS.value else []
  options += [f"--field='{field}'" for field in _FIELDS.value]
  options = [f'--suite={_SUITE.value}', f'--out={_OUT.value}', f'--jobs={_JOBS.value}', *options]
  result['command'] = ' '.join(['python -m experiments.main', *options])
  files.write_json(out / 'summary.json', result)
  files.write_json(out / 'evaluations.json', summary.evaluations(work, done))
  files.write_bytes(out / 'commands.txt', results.commands(result).encode())
  counting.write(out / 'answers.npz', answers)
  _write_page(result, out)
  print(results.table(result, 'greedy'))


def _write_page(summary: dict[str, Any], out: pathlib.Path) -> None:
  """Writes the page, and its figures in figures/<name of the page>."""
  from experiments import drawing, results

  page = pathlib.Path(_PAGE.value) if _PAGE.value else out / 'results.md'
  try:
    drawn = drawing.draw(summary, page.parent / 'figures' / page.stem)
  except ConfigError as error:
    drawn = []
    print(f'suite: no figures: {error}', flush=True)
  remarks = out / 'remarks.md'
  added = remarks.read_text() if remarks.exists() else ''
  text = results.page(summary, f'figures/{page.stem}', drawn, added)
  files.write_bytes(page, text.encode())
  print(f'\n{out / "summary.json"}, {page}')


def _machine(work: pathlib.Path) -> str:
  """Names the machine, in another process: this one holds no device."""
  known = work / 'machine.txt'
  if not known.exists():
    code = (
      'import jax, os, platform; d = jax.devices(); '
      "print(f'{len(d)} x {d[0].device_kind}, {os.cpu_count()} CPU cores, {platform.system()}')"
    )
    environment = {**os.environ, 'XLA_PYTHON_CLIENT_PREALLOCATE': 'false'}
    process = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env=environment, timeout=300)
    if process.returncode:
      raise TryAgainError(f'the devices cannot be named: {process.stderr.strip().splitlines()[-1:]}')
    known.write_text(process.stdout)
  return known.read_text().strip()


if __name__ == '__main__':
  cli.run(main)
