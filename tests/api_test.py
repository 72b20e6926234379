"""The public functions, as a script or a notebook uses them."""

import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
import tiny

import score_jax
from score_jax import errors
from score_jax.config import load, renamed


def test_the_names_are_there_and_lazy():
  code = 'import sys, score_jax; assert dir(score_jax); print("jax" in sys.modules, "numpy" in sys.modules)'
  shown = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
  assert shown.stdout.split() == ['False', 'False']
  for name in score_jax.__all__:
    assert getattr(score_jax, name) is not None, name
  with pytest.raises(AttributeError, match="has no attribute 'trian'"):
    score_jax.trian  # noqa: B018


def test_evaluate_is_a_function_before_and_after_its_module_is_imported():
  code = 'import score_jax as s\nassert callable(s.evaluate)\nimport score_jax.evaluate\nprint(callable(s.evaluate))'
  shown = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
  assert shown.stdout.strip() == 'True'


def test_graders_need_no_jax():
  code = (
    'import sys\nfrom score_jax.graders import math\nfrom score_jax.graders import code\nprint("jax" in sys.modules)'
  )
  shown = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
  assert shown.stdout.strip() == 'False'


def test_a_config_is_a_name_a_path_or_a_configdict(tmp_path):
  by_name = score_jax.load_config(
    'quickstart', {'seed': 4, 'optim.learning_rate': 1e-3, 'task.countdown': {'numbers': 3}}
  )
  assert (by_name.seed, by_name.optim.learning_rate, by_name.task.countdown.numbers) == (4, 1e-3, 3)
  (tmp_path / 'mine.py').write_text('from score_jax.configs.stage1 import get_config')
  assert score_jax.load_config(tmp_path / 'mine.py').schedule == ('stage1',)


@pytest.mark.parametrize(
  ('field', 'value', 'message'),
  [
    ('batch.sample', 2, 'config.batch.sample is not a field; config.batch has'),
    ('batch.samples.x', 2, 'config.batch.samples is a value, not a section'),
    ('batch.samples', 'two', "config.batch.samples = 'two'"),
    ('order', (), 'it is called config.schedule now'),
    ('stages.stage2.kl', (0.1, 0.1), 'it is called config.stages.stage2.kl_weights now'),
    ('checkpoint.path', 'gs://b/x', 'as --workdir'),
    ('pretrain.rows', 8, 'experiments.countdown_base'),
    ('sampling.top_k', 8, 'training samples from the whole distribution'),
  ],
)
def test_a_wrong_field_is_one_line(field, value, message):
  with pytest.raises(errors.ConfigError, match='config') as raised:
    score_jax.load_config('quickstart', {field: value})
  assert message in str(raised.value) and '\n' not in str(raised.value)


@pytest.mark.parametrize(('old', 'new'), renamed.table()['fields'].items())
def test_every_old_field_names_its_new_one_which_exists(old, new):
  old, new = (field.replace('*', 'stage1') for field in (old, new))
  load.check_field(score_jax.load_config('quickstart'), new)
  with pytest.raises(errors.ConfigError, match=f'config.{old} is not a field; it is called config.{new} now'):
    score_jax.load_config('quickstart', {old: 1})


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('from configs import common', 'write `from score_jax.configs import common`'),
    ('import nothing_of_this_name', 'nothing_of_this_name'),
    ('def get_config(:', 'invalid syntax'),
    ('x = 1', 'defines no get_config'),
  ],
)
def test_a_wrong_file_is_one_line(text, message, tmp_path):
  (tmp_path / 'mine.py').write_text(text)
  with pytest.raises(errors.ConfigError) as raised:
    score_jax.load_config(tmp_path / 'mine.py')
  assert message in str(raised.value) and '\n' not in str(raised.value)


def test_a_run_has_its_tables_rows_and_report(trained_run):
  run = score_jax.Run(trained_run)
  assert [line['step'] for line in run.metrics] == [1, 2, 3, 4]
  assert run.table().splitlines()[0].split()[:3] == ['policy', 'decoding', 'acc@t1']
  assert 'settings' not in run.table() and 'final' in run.table()
  assert len(run.rows('base')) == 16 and run.rows()[0].attempts[0].text is not None
  assert run.config['seed'] == 0 and (run.model / 'config.json').is_file()
  assert run.report().read_text().startswith('<!doctype html>')


def test_evaluate_counts_the_same_as_the_run_did(trained_run, hf_folder):
  run = score_jax.Run(trained_run)
  result = score_jax.evaluate(tiny.config_dict(), model=run.model)
  for decoding in ('greedy', 'sampled'):
    for key in ('acc_t1', 'acc_t2', 'i_to_c', 'c_to_i'):
      np.testing.assert_allclose(result.results[decoding][key], run.evaluations['final'][decoding][key])
  assert len(result.rows) == 16 and 'sampled' in result.table()
  three = score_jax.evaluate(tiny.config_dict(), model=str(hf_folder), attempts=3, samples=2)
  assert 'acc_t3' in three.results['greedy'] and three.results['sampled']['at_k']
  with pytest.raises(errors.ConfigError, match='attempts = 1'):
    score_jax.evaluate(tiny.config_dict(), model=str(hf_folder), attempts=1)


def test_train_off_the_main_thread_takes_no_signal_and_goes_on_where_it_was(trained_run, tmp_path, hf_folder):
  before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
  ended = []

  def run():
    for steps in (2, 0):
      ended.append(score_jax.train(tiny.config_dict(), workdir=tmp_path / 'run', model=hf_folder, max_steps=steps))

  thread = threading.Thread(target=run)
  thread.start()
  thread.join()
  assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
  assert len(ended) == 2 and [line['step'] for line in ended[1].metrics] == [1, 2, 3, 4]
  same = [(run.model / 'model.safetensors').read_bytes() for run in (ended[1], score_jax.Run(trained_run))]
  assert same[0] == same[1], 'in two pieces, on another thread: the same weights'


def test_a_users_hook_takes_part(tmp_path, hf_folder):
  class Counts(score_jax.Hook):
    def __init__(self):
      self.steps = []

    def after_step(self, training):
      self.steps.append(training.record['step'])
      training.record['mine'] = 2 * training.record['step']

  counts = Counts()
  run = score_jax.train(tiny.config_dict(), workdir=tmp_path / 'run', model=hf_folder, hooks=[counts], max_steps=2)
  assert counts.steps == [1, 2]
  assert [line['mine'] for line in run.metrics] == [2, 4]


def test_a_mistake_is_raised_and_nothing_is_written(tmp_path):
  with pytest.raises(errors.DataError, match="model folder 'nowhere'"):
    score_jax.train('quickstart', workdir=tmp_path / 'run', model='nowhere')
  assert not (tmp_path / 'run').exists()
