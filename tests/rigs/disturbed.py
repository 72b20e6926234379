"""Whole runs in processes of their own, to be disturbed: their command, and what of them must come out the same.

The bundled base earns rewards, so its parameters move in every step. Both stages, a reference that is saved with the
run, offline first attempts, guessed tokens, fresh moments, an adaptive beta and evaluations on the way: all that a
resume could forget.
"""

import hashlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import orbax.checkpoint as ocp

ROOT = pathlib.Path(__file__).parents[2]
STEPS = 20
SAVED = (3, 6, 8, 9, 12, 15, 18, 20)  # steps
OVERRIDES = {
  'batch.problems': 4,
  'batch.samples': 4,
  'sampling.drafts': 1.0,
  'sampling.longest_draft': 2,
  'stages.stage1.steps': 8,
  'stages.stage1.kl_target': '(0.02,0.0)',
  'stages.stage2.steps': 12,
  'stages.stage2.reference': 'stage_start',
  'stages.stage2.offline_first': 0.5,
  'stages.stage2.optim.reset_moments': True,
  'optim.warmup_steps': 2,
  'eval.problems': 8,
  'eval.every': 7,
  'checkpoint.every': 3,
  'checkpoint.best_window': 4,
  'offline_pool': 8,
}


def command(workdir: pathlib.Path, *more: str, through: tuple[str, ...] = ('-m', 'score_jax.main')) -> list[str]:
  """Of one run; `more` are flags of its own."""
  fields = (f'--config.{name}={value}' for name, value in OVERRIDES.items())
  return [sys.executable, *through, '--config=configs/quickstart.py', f'--workdir={workdir}', *fields, *more]


def environment(cache: pathlib.Path, **more: str) -> dict[str, str]:
  """One CPU device; programs compiled by an earlier process are read back, so that a restart takes seconds."""
  fast = '--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true'
  env = {**os.environ, 'XLA_FLAGS': fast, 'JAX_PLATFORMS': 'cpu', 'HF_HUB_OFFLINE': '1', 'PYTHONPATH': str(ROOT)}
  env |= {'JAX_COMPILATION_CACHE_DIR': str(cache), 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0'}
  return {**env, 'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1', **more}


def start(workdir: pathlib.Path, cache: pathlib.Path, *more: str, **kinds) -> subprocess.Popen:
  """Begins or goes on with a run; its output is in WORKDIR.log."""
  with workdir.with_suffix('.log').open('ab') as log:
    return subprocess.Popen(
      command(workdir, *more, **kinds),
      cwd=ROOT,
      env=environment(cache),
      stdout=log,
      stderr=log,
      stdin=subprocess.DEVNULL,
    )


def run_to_the_end(workdir: pathlib.Path, cache: pathlib.Path, *more: str) -> str:
  """The fingerprint of a run that ends by itself."""
  with start(workdir, cache, *more) as process:
    process.wait()
  assert process.returncode == 0, workdir.with_suffix('.log').read_text()[-3000:]
  return fingerprint(workdir)


def fingerprint(workdir: pathlib.Path) -> str:
  """sha256 over the last checkpoint's arrays and progress, the metrics without times, eval.json and the weights."""
  total = hashlib.sha256()
  last = max((workdir / 'checkpoints').glob('[0-9]*'), key=lambda path: int(path.name))
  for item in ('params', 'rest'):
    tree = ocp.StandardCheckpointer().restore(last / item)
    for path, leaf in sorted((str(path), leaf) for path, leaf in ocp.tree.to_flat_dict(tree).items()):
      total.update(path.encode() + np.asarray(leaf).tobytes())
  total.update((last / 'progress/metadata').read_bytes())
  for line in lines(workdir):
    del line['seconds']
    total.update(json.dumps(line, sort_keys=True).encode())
  total.update((workdir / 'eval.json').read_bytes())
  total.update((workdir / 'hf/model.safetensors').read_bytes())
  return f'step {last.name}: {total.hexdigest()}'


def lines(workdir: pathlib.Path) -> list[dict]:
  """Of metrics.jsonl; [] before there is one."""
  path = workdir / 'metrics.jsonl'
  return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def whole_steps(workdir: pathlib.Path) -> list[int]:
  """Steps that count."""
  return sorted(int(path.parent.name) for path in (workdir / 'checkpoints').glob('[0-9]*/manifest.json'))


def in_a_save(workdir: pathlib.Path) -> bool:
  """Whether what lies in the folder is a save that is not done."""
  folder = workdir / 'checkpoints'
  if not folder.is_dir():
    return False
  return any('tmp' in path.name or not (path / 'manifest.json').exists() for path in folder.iterdir())


def wait_for(condition, process: subprocess.Popen, pause: float = 0.0005) -> None:
  """Until it holds, or the process has ended."""
  while process.poll() is None and not condition():
    time.sleep(pause)


def end(process: subprocess.Popen, number: int = signal.SIGKILL) -> int:
  """Sends a signal and waits; the exit code."""
  if process.poll() is None:
    process.send_signal(number)
  return process.wait()
