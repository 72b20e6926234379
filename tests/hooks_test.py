"""What happens around steps: the user's hooks, inputs made ahead, and what is saved when a run is asked to leave."""

import contextlib
import json
import signal
import threading
import types

from checkpoints_test import state
import pytest
import tiny

from score_jax.errors import StoppedError, TryAgainError
from score_jax.faults import signals
from score_jax.storage import stores
from score_jax.storage.checkpoints import Checkpoints
from score_jax.storage.progress import Progress
from score_jax.storage.run_folder import RunFolder
from score_jax.training import hooks, loop
from score_jax.training import run as runs


class Saved:
  """Stands for the checkpoints."""

  def __init__(self):
    self.steps = []

  def save_now(self, state, progress, protected):
    assert protected == ()
    self.steps.append((state, progress.step))


def at(step):
  return Progress(step=step, recent_returns=(), best_step=0, best_return=0.0)


@pytest.fixture
def training(tmp_path):
  config = tiny.run_config(**{'checkpoint.every': 100, 'stages.stage1.steps': 50, 'stages.stage2.steps': 50})
  run = types.SimpleNamespace(config=config, folder=RunFolder(tmp_path))
  return hooks.Training(run, Saved(), 'state 4', at(4))


def made(training, step, **record):
  """The training after a step, held and not written yet."""
  training.state, training.progress, training.record = f'state {step}', at(step), dict(step=step, **record)
  training.emergency.after_step(training)


def steps(training):
  path = training.run.folder.metrics
  return [line.count('"step"') for line in path.read_text().splitlines()] if path.exists() else []


def test_nothing_new_is_not_saved(training):
  training.emergency.save()
  assert training.checkpoints.steps == []


def test_a_step_that_is_written_is_saved_with_its_record_once(training):
  made(training, 5)
  training.emergency.write(dict(step=5, eval=1))
  training.emergency.hold(training)  # with the best updated
  training.emergency.save()
  assert training.checkpoints.steps == [('state 5', 5)]
  assert training.run.folder.last_metrics() == dict(step=5, eval=1)
  assert steps(training) == [1]


def test_a_step_that_is_being_evaluated_is_saved_with_a_record_without_it(training):
  made(training, 5)
  training.record['eval'] = 'half'
  training.emergency.save()
  assert training.run.folder.last_metrics() == dict(step=5)
  assert training.checkpoints.steps == [('state 5', 5)]


def test_a_request_saves_and_leaves(training, monkeypatch):
  made(training, 5)
  training.emergency.write(training.record)
  leave = hooks.Checkpoint()
  leave.after_step(training)
  monkeypatch.setattr(signals, '_state', types.SimpleNamespace(signal=15))
  with pytest.raises(TryAgainError, match='stopped by SIGTERM after step 5'):
    leave.after_step(training)
  assert training.checkpoints.steps == [('state 5', 5)]


@pytest.mark.parametrize(('told', 'ours', 'leaves'), [([False, True], None, True), ([False, False], 15, False)])
def test_several_hosts_stop_at_the_step_at_which_they_told_each_other(monkeypatch, told, ours, leaves):
  sent = []
  state = types.SimpleNamespace(signal=ours)
  monkeypatch.setattr(signals, '_state', state)
  monkeypatch.setattr(hooks.hosts, 'combined', lambda what, value, of: sent.append((what, value)) or of(told))
  assert hooks.requested(7) is leaves
  assert sent == [('whether to stop after step 7', ours is not None)]
  assert signals.requested() is (leaves or ours is not None)


def test_of_several_hosts_none_saves_alone_when_the_grace_period_is_over(training, monkeypatch):
  made(training, 5)
  monkeypatch.setattr(hooks.hosts, 'count', lambda: 2)
  training.emergency.save_late()
  assert training.checkpoints.steps == [] and steps(training) == []
  monkeypatch.setattr(hooks.hosts, 'count', lambda: 1)
  training.emergency.save_late()
  assert training.checkpoints.steps == [('state 5', 5)] and steps(training) == [1]


def test_a_step_that_the_next_has_consumed_is_not_called_saved(tmp_path, capfd):
  checkpoints = Checkpoints(stores.store_of(tmp_path))
  checkpoints.save(state(3), at(3), protected=())  # still under way
  config = tiny.run_config(**{'checkpoint.every': 100, 'stages.stage1.steps': 50, 'stages.stage2.steps': 50})
  run = types.SimpleNamespace(config=config, folder=RunFolder(tmp_path))
  training = hooks.Training(run, checkpoints, state(4), at(4))
  training.state, training.progress = state(5), at(5)
  training.emergency.after_step(training)
  training.state.params['w'].delete()  # as a donation does
  training.emergency.save_late()
  printed = capfd.readouterr().err
  assert 'step 5 cannot be saved' in printed and 'the last checkpoint is that of step 3' in printed
  assert 'a larger config.faults.grace_seconds' in printed and printed.count('warning') == 1
  assert checkpoints.last_step() == 3
  for saved in (3, 4):  # a checkpoint, and what the run began with
    training.progress = at(saved)
    training.emergency.hold(training)
    training.emergency.save_late()
  assert 'cannot be saved' not in capfd.readouterr().err
  checkpoints.close()


# Inputs that are made ahead.


def test_one_input_is_made_ahead_by_a_thread():
  begun, may_go_on = [], threading.Semaphore(0)

  def make(step):
    begun.append((step, threading.current_thread() is threading.main_thread()))
    if step > 3:
      may_go_on.acquire()
    return step

  inputs = loop.prefetched(make, 3, 6)
  assert next(inputs) == 3
  for step in (4, 5):
    may_go_on.release()
    assert next(inputs) == step
  assert list(inputs) == []
  assert begun == [(3, True), (4, False), (5, False)]


def test_an_input_that_fails_does_so_at_its_own_step_and_ends_the_thread():
  def make(step):
    if step == 1:
      raise ValueError('no such problem')
    return step

  with contextlib.closing(loop.prefetched(make, 0, 3)) as inputs:
    assert next(inputs) == 0
    with pytest.raises(ValueError, match='no such problem'):
      next(inputs)
  assert not [thread for thread in threading.enumerate() if thread.name.startswith('inputs')]


# The user's hooks, in whole runs.


class Probe(hooks.Hook):
  """Notes when it is called; adds a number to each record; stops the run after a step."""

  def __init__(self, stop_after=0):
    self.calls, self._stop_after = [], stop_after

  def before_step(self, training):
    self.calls.append(('before', training.progress.step))

  def after_step(self, training):
    self.calls.append(('after', training.progress.step, 'eval' in training.record))
    training.record['probe'] = float(training.stage_run.index)
    if training.progress.step == self._stop_after:
      training.stop = StoppedError('enough')

  def at_end(self, training):
    self.calls.append(('end', training.progress.step))

  def at_exit(self, training):
    self.calls.append(('exit', training.progress.step, bool(training.evaluations)))


@pytest.fixture(scope='module')
def stopped_and_ended(hf_folder, tmp_path_factory):
  """Two trainings of one process: one in a thread, which a hook stops, and one that goes on with its run."""
  folder = tmp_path_factory.mktemp('probe') / 'run'
  fields = {'model.path': str(hf_folder), 'stages.stage1.steps': 1, 'stages.stage2.steps': 2, 'checkpoint.every': 9}
  config = tiny.run_config(**fields, **{'eval.every': 2, 'report.rows': 0})
  handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
  first, second, errors = Probe(stop_after=2), Probe(), []

  def stopped():
    try:
      loop.train(runs.open_run(config, str(folder)), hooks=[first])
    except StoppedError as error:
      errors.append(str(error))

  thread = threading.Thread(target=stopped)
  thread.start()
  thread.join()
  ended = loop.train(runs.open_run(config, str(folder)), hooks=[second])
  assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers
  return first, second, errors, ended


def test_hooks_are_called_around_steps_and_what_they_add_is_written(stopped_and_ended):
  first, second, errors, ended = stopped_and_ended
  assert errors == ['enough']
  steps = [('before', 0), ('after', 1, False), ('before', 1), ('after', 2, True)]
  assert first.calls == [*steps, ('exit', 2, False)]
  assert second.calls == [('before', 2), ('after', 3, False), ('end', 3), ('exit', 3, True)]
  records = [json.loads(line) for line in ended.run.folder.metrics.read_text().splitlines()]
  assert [(record['step'], record['probe']) for record in records] == [(1, 0.0), (2, 1.0), (3, 1.0)]


def test_a_training_returns_what_it_has_come_to(stopped_and_ended):
  *_, ended = stopped_and_ended
  assert ended.progress.step == int(ended.state.step) == 3
  assert ended.evaluations == json.loads(ended.run.folder.eval.read_text())
  assert ended.evaluations['final']['step'] == ended.progress.final_step
  assert not signals.requested()
