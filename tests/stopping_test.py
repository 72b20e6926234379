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


@pytest.mark.parametrize('notice', [True, False])
def test_under_jax_distributed_the_notifier_is_asked_at_every_step(monkeypatch, notice):
  asked = []
  monkeypatch.setattr(signals, '_state', types.SimpleNamespace(signal=None))
  monkeypatch.setattr(stopping.jax.distributed, 'is_initialized', lambda: True)
  monkeypatch.setattr(stopping.multihost_utils, 'reached_preemption_sync_point', lambda s: asked.append(s) or notice)
  assert stopping.requested(7) is notice
  assert asked == [7]
