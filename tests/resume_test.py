"""A run that is disturbed and started again ends where it would have ended; a foreign run folder is refused.

`chaos.py` disturbs many more runs.
"""

import dataclasses
import json
import random
import shutil
import signal
import time

import damage
import disturbed
import jax
import numpy as np
import pytest
import tiny

from score_jax import errors
from score_jax.models import lora as loras
from score_jax.storage import hf
from score_jax.storage.checkpoints import Progress
from score_jax.storage.run_folder import RunFolder, differences
from score_jax.training import run as runs


@pytest.fixture(scope='module')
def uninterrupted(tmp_path_factory):
  """The folder of a run that nobody disturbed, its fingerprint, and the cache of its programs."""
  cache = tmp_path_factory.mktemp('cache')
  workdir = tmp_path_factory.mktemp('runs') / 'whole'
  return workdir, disturbed.run_to_the_end(workdir, cache), cache


def test_the_run_is_one_that_a_resume_could_get_wrong(uninterrupted):
  workdir, _, _ = uninterrupted
  lines = disturbed.lines(workdir)
  assert len(lines) == disturbed.STEPS
  assert all(line['gradient_norm'] > 0 for line in lines), 'every step moves the policy'
  assert len({line['beta'][0] for line in lines[:8]}) == 8, 'beta is another one in every step'
  assert all(line['tokens_per_step'][1] > 1 for line in lines), 'guesses are right now and then'
  assert [line['step'] for line in lines if 'eval' in line] == [7, 14]
  assert json.loads((workdir / 'eval.json').read_text())['final']['step'] < disturbed.STEPS


def test_killed_in_a_save_and_then_stopped_it_ends_the_same(uninterrupted, tmp_path):
  _, expected, cache = uninterrupted
  workdir, draw = tmp_path / 'run', random.Random(0)
  with disturbed.start(workdir, cache) as process:
    disturbed.wait_for(lambda: any((workdir / 'checkpoints').glob('6[.]*')), process)
    time.sleep(draw.random() * 0.02)
    assert disturbed.end(process) == -signal.SIGKILL
  with disturbed.start(workdir, cache) as process:
    disturbed.wait_for(lambda: len(disturbed_lines(workdir)) >= 13, process)
    assert disturbed.end(process, signal.SIGTERM) == 75
  steps = len(disturbed.lines(workdir))
  assert 13 <= steps < disturbed.STEPS and disturbed.whole_steps(workdir)[-1] == steps, 'all that is done is saved'
  assert disturbed.run_to_the_end(workdir, cache) == expected


def disturbed_lines(workdir):
  """Lines of a file that is being written."""
  path = workdir / 'metrics.jsonl'
  return path.read_bytes().split(b'\n')[:-1] if path.exists() else []


@pytest.mark.slow
def test_cut_short_by_max_steps_and_then_stuck_it_ends_the_same(uninterrupted, tmp_path):
  _, expected, cache = uninterrupted
  workdir, marker = tmp_path / 'run', tmp_path / 'marker'
  disturbed.run_to_the_end(workdir, cache, '--config.max_steps=13')  # not a step that is saved otherwise
  assert len(disturbed.lines(workdir)) == 13
  through = ('tests/rigs/faulty.py', 'asleep', '16', str(marker))
  flags = ('--config.faults.stuck_seconds=15', '--config.faults.stuck_factor=1')
  with disturbed.start(workdir, cache, *flags, through=through) as process:
    disturbed.wait_for(marker.exists, process, 0.05)
    began = time.monotonic()
    assert process.wait(timeout=60) == 75
  assert time.monotonic() - began < 45
  (stacks,) = workdir.glob('stuck-*.txt')
  assert 'in hanging' in stacks.read_text()
  assert disturbed.run_to_the_end(workdir, cache) == expected


@pytest.mark.slow
def test_a_damaged_checkpoint_is_told_and_the_run_ends_the_same_and_then_stays_as_it_is(uninterrupted, tmp_path):
  whole, expected, cache = uninterrupted
  workdir = tmp_path / 'run'
  shutil.copytree(whole, workdir)
  data = max((workdir / f'checkpoints/{disturbed.STEPS}/params').rglob('d/*'), key=lambda path: path.stat().st_size)
  damage.flip(data, random.Random(0))
  assert disturbed.run_to_the_end(workdir, cache) == expected
  log = workdir.with_suffix('.log').read_text()
  assert f'{data} has other bytes than were written' in log and 'going on from step 18 instead of 20' in log
  assert disturbed.run_to_the_end(workdir, cache) == expected


@pytest.mark.slow
def test_non_finite_steps_stop_the_run_and_its_last_checkpoint_is_finite(uninterrupted, tmp_path):
  _, _, cache = uninterrupted
  workdir = tmp_path / 'run'
  through = ('tests/rigs/faulty.py', 'nan', '10', str(tmp_path))
  with disturbed.start(workdir, cache, through=through) as process:
    assert process.wait() == 70
  assert [line['rejected'] for line in disturbed.lines(workdir)] == [0] * 10 + [1] * 5
  assert '5 steps in a row had a non-finite' in workdir.with_suffix('.log').read_text()
  mesh, folder = tiny.one_device_mesh(), hf.folder_of('bundled:countdown_base')
  table = loras.trained_table(hf.read_config(folder), loras.NONE)
  params = runs.best_params(RunFolder(workdir), mesh, table, 'last')
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


def test_the_identity_has_the_step_and_the_bytes_that_init_from_gave(uninterrupted, tmp_path):
  whole, _, _ = uninterrupted
  source = tmp_path / 'source'
  shutil.copytree(whole, source)
  fields = dict(init_from=str(source), compile_cache='')
  config = dataclasses.replace(tiny.run_config(**{'model.path': 'bundled:countdown_base', **LONG}), **fields)
  opened = runs.open_run(config, str(tmp_path / 'run'))
  best = json.loads((whole / 'eval.json').read_text())['final']['step']
  taken = opened.folder.read_config()['identity']['init_from']
  assert (taken['path'], taken['step']) == (str(source), best)
  opened.folder.add_metrics(dict(step=1))
  # The other run goes on and has no such checkpoint any more: this one knows, and says so when it needs it.
  shutil.rmtree(source / f'checkpoints/{best}')
  again = runs.open_run(config, str(tmp_path / 'run'))
  assert again.parent == taken
  with pytest.raises(errors.DataError, match=f'step {best} cannot be used'):
    runs.initial_params(again)
  shutil.copytree(whole / f'checkpoints/{disturbed.STEPS}', source / f'checkpoints/{best}')
  with pytest.raises(errors.DataError, match='is not the one that this run began from'):
    runs.initial_params(again)


# Prompts and answers as the bundled base has them.
LONG = {
  'task.countdown': dict(numbers=4, max_number=10, max_value=50, operations='+-*', any_order=True),
  'sampling.prompt_tokens': 16,
  'sampling.attempt_tokens': (18, 20),
}


def test_lines_beyond_the_checkpoint_and_half_lines_are_cut(tmp_path):
  folder = RunFolder(tmp_path)
  folder.rows.mkdir()
  for path in (folder.metrics, folder.rows / 'train.jsonl'):
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 2}\n{"step": 3}\n{"step": 4, "rew')
  folder.return_to(2, {})
  for path in (folder.metrics, folder.rows / 'train.jsonl'):
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n{"step": 2}\n'


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
  assert differences(dict(a=1, b=[2]), dict(b=[3], c='x')) == [
    'a was 1, is now not set', 'b.0 was 2, is now 3', "c was not set, is now 'x'"
  ]  # fmt: skip


def test_a_run_that_an_older_version_began_is_refused_in_one_line(hf_folder, tmp_path):
  config = tiny.run_config(**{'model.path': str(hf_folder)})
  folder = RunFolder(tmp_path / 'run')
  runs.open_run(config, str(folder.path))
  folder.add_metrics(dict(step=1))
  written = json.loads(folder.config.read_text())
  del written['version']  # as 0.1 wrote it
  folder.config.write_text(json.dumps(written))
  with pytest.raises(errors.ConfigError, match='begun by score_jax 0.1, .* go on with it by that version') as raised:
    runs.open_run(config, str(folder.path))
  assert '\n' not in str(raised.value) and json.loads(folder.config.read_text()) == written


INCOMPATIBLE = {
  'model: weights': {'model.path': 'weights'},
  'model: tokenizer': {'model.path': 'tokenizer'},
  'model: compute_dtype': {'model.dtype': 'bfloat16'},
  'data': {'task.countdown': dict(max_number=8)},
  'prompt': {'task.countdown': dict(prompt='get {target} from {numbers}')},
  'instruction': {'task.instruction': 'Check and retry. Check'},
  'stages: steps': {'stages.stage1.steps': 3},
  'stages: order': {'schedule': ('stage2', 'stage1')},
  'stages: bonus': {'stages.stage2.bonus': (0.0, 5.0)},
  'seed': {'seed': 7},
  'samples': {'batch.samples': 4},
  'problems': {'batch.problems': 8},
  'micro-batches': {'batch.micro_batches': 2, 'mesh.tensor': 2},
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
  models = tmp_path_factory.mktemp('begun')
  tiny.write_hf_folder(models / 'weights', tiny.decoder_config('llama'), seed=1)
  shutil.copytree(hf_folder, models / 'tokenizer')
  settings = models / 'tokenizer/tokenizer_config.json'
  settings.write_text(settings.read_text() + '\n')
  folder = RunFolder(models / 'run')
  runs.open_run(tiny.run_config(**{'model.path': str(hf_folder)}), str(folder.path))
  folder.add_metrics(dict(step=1))
  return folder, models


@pytest.mark.parametrize('what', INCOMPATIBLE)
def test_an_incompatible_resume_is_refused_and_changes_nothing(begun, hf_folder, what):
  folder, models = begun
  before = folder.config.read_bytes()
  changes = {'model.path': str(hf_folder), **INCOMPATIBLE[what]}
  if changes['model.path'] in ('weights', 'tokenizer'):
    changes['model.path'] = str(models / changes['model.path'])
  with pytest.raises(errors.ConfigError, match='belongs to another run'):
    runs.open_run(tiny.run_config(**changes), str(folder.path))
  assert folder.config.read_bytes() == before


def test_there_are_more_than_ten_incompatible_resumes_and_some_that_are_not(begun, hf_folder):
  assert len(INCOMPATIBLE) == 20
  folder, _ = begun
  free = {
    'max_steps': 3, 'eval.problems': 4, 'eval.every': 1, 'checkpoint.keep': 5, 'mesh.fsdp': 2, 'batch.pack': False,
    'sampling.decode_slots': 1, 'hosts.heartbeat_seconds': 7,
  }  # fmt: skip
  runs.open_run(tiny.run_config(**{'model.path': str(hf_folder)}, **free), str(folder.path))


def test_folder_that_is_not_a_run_is_refused_and_untouched(hf_folder, tmp_path):
  (tmp_path / 'thesis.txt').write_text('years of work')
  with pytest.raises(errors.ConfigError, match='not empty and holds no config.json'):
    runs.open_run(tiny.run_config(**{'model.path': str(hf_folder)}), str(tmp_path))
  assert [path.name for path in tmp_path.iterdir()] == ['thesis.txt']


def test_best_is_the_highest_mean_return_of_a_window_in_the_last_stage():
  progress = Progress()
  for step, value in enumerate([None, None, 1.0, 3.0, 5.0, 0.0, 0.0], start=1):
    progress = progress.after_step(dict(reward=[value]), in_last_stage=value is not None, window=2)
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
