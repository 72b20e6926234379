"""What is saved when a run is asked to leave: each step once, with its line."""

import types

import pytest

from score_jax.errors import TryAgainError
from score_jax.faults import signals
from score_jax.storage.progress import Progress
from score_jax.storage.run_folder import RunFolder
from score_jax.training import stopping


class Saved:
  """Stands for the checkpoints."""

  def __init__(self):
    self.steps = []

  def save_now(self, state, progress, protected):
    assert protected == (progress.step, state)
    self.steps.append((state, progress.step))


@pytest.fixture
def keeper(tmp_path):
  made = stopping.Keeper(RunFolder(tmp_path), Saved(), lambda step: (step, f'state {step}'))
  made.begin('state 4', at(4))
  return made


def at(step):
  return Progress(step=step, recent_returns=(), best_step=0, best_return=0.0)


def steps(keeper):
  folder = keeper._folder
  return [line.count('"step"') for line in folder.metrics.read_text().splitlines()] if folder.metrics.exists() else []


def test_nothing_new_is_not_saved(keeper):
  keeper.save()
  assert keeper._checkpoints.steps == []


def test_a_step_that_is_written_is_saved_with_its_line_once(keeper):
  keeper.hold('state 5', at(5), dict(step=5))
  keeper.write(dict(step=5, eval=1))
  keeper.hold('state 5', at(5))  # with the best updated
  keeper.save()
  assert keeper._checkpoints.steps == [('state 5', 5)]
  assert keeper._folder.last_metrics() == dict(step=5, eval=1)
  assert steps(keeper) == [1]


def test_a_step_that_is_being_evaluated_is_saved_with_a_line_without_it(keeper):
  line = dict(step=5)
  keeper.hold('state 5', at(5), line)
  line['eval'] = 'half'
  keeper.save()
  assert keeper._folder.last_metrics() == dict(step=5)
  assert keeper._checkpoints.steps == [('state 5', 5)]


def test_a_request_saves_and_leaves(keeper, monkeypatch):
  keeper.hold('state 5', at(5), dict(step=5))
  keeper.write(dict(step=5))
  keeper.leave_if_asked(5)
  monkeypatch.setattr(signals, '_state', types.SimpleNamespace(signal=15))
  with pytest.raises(TryAgainError, match='stopped by SIGTERM after step 5'):
    keeper.leave_if_asked(5)
  assert keeper._checkpoints.steps == [('state 5', 5)]


@pytest.mark.parametrize(('told', 'ours', 'leaves'), [([False, True], None, True), ([False, False], 15, False)])
def test_several_hosts_stop_at_the_step_at_which_they_told_each_other(keeper, monkeypatch, told, ours, leaves):
  said = []
  state = types.SimpleNamespace(signal=ours)
  monkeypatch.setattr(signals, '_state', state)
  monkeypatch.setattr(stopping.hosts, 'gather', lambda what, value: said.append((what, value)) or told)
  assert stopping.requested(7) is leaves
  assert said == [('whether to stop after step 7', ours is not None)]
  assert signals.requested() is (leaves or ours is not None)


def test_of_several_hosts_none_saves_alone_when_the_grace_period_is_over(keeper, monkeypatch):
  keeper.hold('state 5', at(5), dict(step=5))
  monkeypatch.setattr(stopping.hosts, 'count', lambda: 2)
  keeper.save_late()
  assert keeper._checkpoints.steps == [] and steps(keeper) == []
  monkeypatch.setattr(stopping.hosts, 'count', lambda: 1)
  keeper.save_late()
  assert keeper._checkpoints.steps == [('state 5', 5)] and steps(keeper) == [1]
