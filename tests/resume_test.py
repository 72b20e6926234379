"""A run that is killed and started again ends where it would have ended; a foreign run folder is refused."""

import dataclasses
import hashlib
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import orbax.checkpoint as ocp
import pytest
import tiny

from score_jax import errors
from score_jax.storage.checkpoints import Progress
from score_jax.storage.run_folder import RunFolder
from score_jax.training import run as runs

ROOT = pathlib.Path(__file__).parent.parent

# Both stages, a reference that is saved with the run, offline first attempts and fresh moments: all that a resume
# could forget.
OVERRIDES = {
  'task.countdown.numbers': 3,
  'task.countdown.max_number': 9,
  'task.countdown.max_value': 40,
  'task.countdown.operations': '+-',
  'task.countdown.heldout_fraction': 0.2,
  'batch.problems': 4,
  'batch.samples': 2,
  'sampling.prompt_tokens': 9,
  'sampling.attempt_tokens': '(6,6)',
  'stages.stage1.steps': 8,
  'stages.stage2.steps': 12,
  'stages.stage2.reference': 'stage_start',
  'stages.stage2.offline_first': 0.5,
  'stages.stage2.optim.reset_moments': True,
  'optim.warmup_steps': 2,
  'eval.problems': 8,
  'checkpoint.every': 3,
  'checkpoint.best_window': 4,
  'offline_pool': 8,
}


def command(hf_folder: pathlib.Path, workdir: pathlib.Path) -> list[str]:
  return [
    sys.executable, '-m', 'score_jax.main', '--config=configs/quickstart.py', f'--workdir={workdir}',
    f'--config.model.path={hf_folder}', *(f'--config.{name}={value}' for name, value in OVERRIDES.items()),
  ]  # fmt: skip


def environment(cache: pathlib.Path) -> dict[str, str]:
  """One CPU device; programs compiled by an earlier process are read back, so that a restart takes seconds."""
  env = {**os.environ, 'XLA_FLAGS': '', 'JAX_COMPILATION_CACHE_DIR': str(cache)}
  return {**env, 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0', 'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1'}


def fingerprint(workdir: pathlib.Path) -> str:
  """sha256 over the last checkpoint's arrays and progress, the metrics without times, eval.json and the weights."""
  total = hashlib.sha256()
  last = max((workdir / 'checkpoints').glob('[0-9]*'), key=lambda path: int(path.name))
  for item in ('params', 'rest'):
    tree = ocp.StandardCheckpointer().restore(last / item)
    for path, leaf in sorted((str(path), leaf) for path, leaf in ocp.tree.to_flat_dict(tree).items()):
      total.update(path.encode() + np.asarray(leaf).tobytes())
  total.update((last / 'progress/metadata').read_bytes())
  for line in (workdir / 'metrics.jsonl').read_text().splitlines():
    fields = json.loads(line)
    del fields['seconds']
    total.update(json.dumps(fields, sort_keys=True).encode())
  total.update((workdir / 'eval.json').read_bytes())
  total.update((workdir / 'hf/model.safetensors').read_bytes())
  return f'step {last.name}: {total.hexdigest()}'


def run_to_the_end(hf_folder, workdir, cache, *more: str) -> None:
  done = subprocess.run(
    [*command(hf_folder, workdir), *more],
    cwd=ROOT,
    env=environment(cache),
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr


def kill_at(step: int, delay: float, hf_folder, workdir, cache) -> None:
  """Starts a run and kills it `delay` seconds after its metrics reach `step` lines."""
  metrics = workdir / 'metrics.jsonl'
  with subprocess.Popen(
    command(hf_folder, workdir), cwd=ROOT, env=environment(cache), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
  ) as process:
    while process.poll() is None and step and not (metrics.exists() and metrics.read_text().count('\n') >= step):
      time.sleep(0.002)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
  assert process.returncode == -signal.SIGKILL, 'the run ended before it could be killed'


@pytest.fixture(scope='module')
def uninterrupted(hf_folder, tmp_path_factory):
  """The fingerprint of a run that nobody disturbed, and the cache of its programs."""
  cache = tmp_path_factory.mktemp('cache')
  workdir = tmp_path_factory.mktemp('runs') / 'whole'
  run_to_the_end(hf_folder, workdir, cache)
  again = tmp_path_factory.mktemp('runs') / 'again'
  run_to_the_end(hf_folder, again, cache)
  assert fingerprint(again) == fingerprint(workdir), 'the same command gives the same run twice'
  return fingerprint(workdir), cache


@pytest.mark.parametrize('number', range(5))
def test_killed_at_a_random_moment_ends_the_same(uninterrupted, hf_folder, tmp_path, number):
  expected, cache = uninterrupted
  draw = random.Random(number)
  # One kill in each fifth of the 20 steps; the delay puts it inside a step, a save or the deletion of an old one.
  kill_at(4 * number + draw.randrange(4), draw.random() * 0.1, hf_folder, tmp_path / 'run', cache)
  run_to_the_end(hf_folder, tmp_path / 'run', cache)
  assert fingerprint(tmp_path / 'run') == expected


def test_finished_run_is_left_as_it_is(uninterrupted, hf_folder, tmp_path):
  expected, cache = uninterrupted
  run_to_the_end(hf_folder, tmp_path / 'run', cache)
  run_to_the_end(hf_folder, tmp_path / 'run', cache)
  assert fingerprint(tmp_path / 'run') == expected


def test_metrics_beyond_the_checkpoint_and_half_lines_are_cut(tmp_path):
  folder = RunFolder(tmp_path)
  folder.metrics.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"step": 4, "rew')
  folder.cut_metrics(2)
  assert folder.metrics.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_a_run_cut_short_by_max_steps_goes_on_to_the_same_end(uninterrupted, hf_folder, tmp_path):
  expected, cache = uninterrupted
  run_to_the_end(hf_folder, tmp_path / 'run', cache, '--config.max_steps=13')  # not a step that is saved otherwise
  assert len((tmp_path / 'run/metrics.jsonl').read_text().splitlines()) == 13
  run_to_the_end(hf_folder, tmp_path / 'run', cache)
  assert fingerprint(tmp_path / 'run') == expected


def test_folder_of_another_configuration_is_refused_and_untouched(hf_folder, tmp_path):
  config = tiny.run_config(**{'model.path': str(hf_folder)})
  folder = RunFolder(tmp_path / 'run')
  runs.open_run(config, str(folder.path))
  folder.add_metrics(dict(step=1))
  before = folder.config.read_bytes()
  other = dataclasses.replace(config, seed=7)
  with pytest.raises(errors.ConfigError, match='seed was 0, is now 7'):
    runs.open_run(other, str(folder.path))
  assert folder.config.read_bytes() == before


INCOMPATIBLE = {
  'model: weights': {'model.path': 'weights'},
  'model: tokenizer': {'model.path': 'tokenizer'},
  'model: compute_dtype': {'model.dtype': 'bfloat16'},
  'data': {'task.countdown': dict(max_number=8)},
  'prompt': {'task.countdown': dict(prompt='get {target} from {numbers}')},
  'instruction': {'task.instruction': 'Check and retry. Check'},
  'stages: steps': {'stages.stage1.steps': 3},
  'stages: order': {'order': ('stage2', 'stage1')},
  'stages: bonus': {'stages.stage2.bonus': (0.0, 5.0)},
  'seed': {'seed': 7},
  'samples': {'batch.samples': 4},
  'problems': {'batch.problems': 8},
  'micro-batches': {'batch.micro_batches': 2},
  'budgets': {'sampling.attempt_tokens': (6, 5)},
  'loss': {'loss.kl_form': 'k2_seq'},
  'optimizer': {'optim.b2': 0.99},
  'learning rate': {'stages.stage2.optim.learning_rate': 0.1},
  'adapters': {'lora.rank': 2},
  'offline pool': {'offline_pool': 8},
  'best': {'checkpoint.best_window': 3},
}


@pytest.fixture(scope='module')
def begun(hf_folder, tmp_path_factory):
  """A run folder with a result, and folders of models that differ from its own in one thing."""
  place = tmp_path_factory.mktemp('begun')
  tiny.write_hf_folder(place / 'weights', tiny.decoder_config('llama'), seed=1)
  shutil.copytree(hf_folder, place / 'tokenizer')
  settings = place / 'tokenizer/tokenizer_config.json'
  settings.write_text(settings.read_text() + '\n')
  folder = RunFolder(place / 'run')
  runs.open_run(tiny.run_config(**{'model.path': str(hf_folder)}), str(folder.path))
  folder.add_metrics(dict(step=1))
  return folder, place


@pytest.mark.parametrize('what', INCOMPATIBLE)
def test_an_incompatible_resume_is_refused_and_changes_nothing(begun, hf_folder, what):
  folder, place = begun
  before = folder.config.read_bytes()
  changes = {'model.path': str(hf_folder), **INCOMPATIBLE[what]}
  if changes['model.path'] in ('weights', 'tokenizer'):
    changes['model.path'] = str(place / changes['model.path'])
  with pytest.raises(errors.ConfigError, match='belongs to another run'):
    runs.open_run(tiny.run_config(**changes), str(folder.path))
  assert folder.config.read_bytes() == before


def test_there_are_more_than_ten_incompatible_resumes_and_some_that_are_not(begun, hf_folder):
  assert len(INCOMPATIBLE) == 20
  folder, _ = begun
  free = {
    'max_steps': 3, 'eval.problems': 4, 'eval.every': 1, 'checkpoint.keep': 5, 'mesh.fsdp': 2, 'batch.pack': False,
    'sampling.lanes': 1, 'hosts.heartbeat_seconds': 7,
  }  # fmt: skip
  runs.open_run(tiny.run_config(**{'model.path': str(hf_folder)}, **free), str(folder.path))


def test_folder_that_is_not_a_run_is_refused_and_untouched(hf_folder, tmp_path):
  (tmp_path / 'thesis.txt').write_text('years of work')
  with pytest.raises(errors.ConfigError, match='not empty and holds no config.json'):
    runs.open_run(tiny.run_config(**{'model.path': str(hf_folder)}), str(tmp_path))
  assert [path.name for path in tmp_path.iterdir()] == ['thesis.txt']


def test_best_is_the_highest_mean_return_of_a_window_in_the_last_stage():
  progress = Progress.start()
  for step, value in enumerate([None, None, 1.0, 3.0, 5.0, 0.0, 0.0], start=1):
    progress = progress.after_step(value, window=2)
    if step % 2 == 0:
      progress = progress.at_checkpoint()
  # Checkpoints at 2 (no return yet), 4 (mean of 1, 3) and 6 (mean of 5, 0).
  assert (progress.best_step, progress.best_return) == (6, 2.5)
  assert progress.recent_returns == (0.0, 0.0)


def test_a_folder_whose_run_never_got_a_result_takes_a_corrected_configuration(hf_folder, tmp_path):
  config = tiny.run_config(**{'model.path': str(hf_folder)})
  runs.open_run(config, str(tmp_path / 'run'))
  runs.open_run(dataclasses.replace(config, seed=7), str(tmp_path / 'run'))
  assert RunFolder(tmp_path / 'run').read_config()['identity']['seed'] == 7


@pytest.mark.parametrize('text', ['{}', '[]', '{"model_type": "llama"}', '{'])
def test_a_config_json_that_is_not_of_a_run_is_named(tmp_path, text):
  (tmp_path / 'config.json').write_text(text)
  with pytest.raises(errors.ConfigError, match='is not a run folder'):
    RunFolder(tmp_path).claim({}, {})
  assert (tmp_path / 'config.json').read_text() == text


def test_a_workdir_that_is_a_file_is_refused(tmp_path):
  (tmp_path / 'file').write_text('kept')
  with pytest.raises(errors.ConfigError, match='is a file; name a folder'):
    RunFolder(tmp_path / 'file').claim({}, {})
