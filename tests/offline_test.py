"""Offline first attempts: the pool, what is kept of it, and what a problem's samples share."""

import dataclasses
import types

import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from score_jax.algorithm import rewards
from score_jax.configs import common
from score_jax.core_types import Verdict
from score_jax.errors import DataError
from score_jax.training import offline
from score_jax.training import run as runs
from score_jax.training.methods import score
from score_jax.training.stages import stage_run_at

C, W = Verdict.CORRECT, Verdict.WRONG
POOL, G = 24, 4
# The bundled base is right on some of these problems and wrong on others.
SETTINGS = {
  'model.path': 'bundled:countdown_base',
  'task.countdown': common.get_config().task.countdown.to_dict(),
  'sampling.prompt_tokens': 10,
  'sampling.attempt_tokens': (18, 20),
  'batch.samples': G,
  'offline_pool': POOL,
  'stages.stage1.offline_first': 0.5,
}


@pytest.mark.parametrize(
  'right, share, kept',
  [
    ('0110100', 0.0, '1111111'),
    ('0110100', 0.5, '1111111'),  # 4 of 7 are wrong already
    ('0110100', 0.6, '1011111'),  # 4 of 6
    ('0110100', 0.8, '1001111'),  # 4 of 5
    ('0110100', 1.0, '1001011'),
    ('000', 0.5, '111'),
    ('111', 0.5, '000'),
    ('01111', 0.25, '10111'),  # 1 of 4, to the digit
  ],
)
def test_all_wrong_first_attempts_are_kept_and_as_many_right_ones_as_the_share_allows(right, share, kept):
  result = offline.kept_first(np.array([r == '1' for r in right]), share)
  assert ''.join(str(int(k)) for k in result) == kept


def test_right_first_attempts_that_are_kept_are_spread_over_the_pool():
  kept = offline.kept_first(np.arange(120) % 2 == 0, 0.75)  # 60 wrong ones, room for 20 right ones
  assert [int(part[::2].sum()) for part in np.split(kept, 4)] == [5, 5, 5, 5]


def test_the_copy_of_a_right_first_attempt_is_credited_for_its_luck_unless_all_samples_share_it():
  def credit(*verdicts: tuple[Verdict, Verdict]) -> np.ndarray:
    stage = tiny.stage_values((0.0, 1.0), (0.0, 0.0))
    trained_BA = jnp.tile(jnp.array([False, True]), (len(verdicts), 1))
    advantage_BA, _ = rewards.reward_credit(jnp.array(verdicts, jnp.int8), trained_BA, stage, group=len(verdicts))
    return np.asarray(advantage_BA[:, 1])

  np.testing.assert_allclose(credit((C, C), (W, W), (W, W)), [1, -0.5, -0.5])
  assert not credit((C, C), (C, C), (C, C)).any()
  assert not credit((W, W), (W, W), (W, W)).any()
  np.testing.assert_allclose(credit((W, C), (W, W), (W, W)), [1, -0.5, -0.5])
  np.testing.assert_allclose(credit((C, W), (C, C), (C, C)), [-1, 0.5, 0.5])


@pytest.fixture(scope='module')
def opened(tmp_path_factory):
  """Returns an open run of settings, in a folder of its own."""
  kept = []

  def open_(**changes) -> runs.Run:
    run = runs.open_run(tiny.run_config(**SETTINGS, **changes), str(tmp_path_factory.mktemp('runs') / 'run'))
    kept.append(run)
    return run

  yield open_
  for run in kept:
    run.grader.close()


@pytest.fixture(scope='module')
def whole(opened):
  """A run whose samples share their first attempts, all of them, and its pool."""
  run = opened(**{'stages.stage1.offline_shared': True})
  return run, offline.open_pool(run, 0, run.config.stage_runs[0])


def verdicts(run: runs.Run, pool: offline.OfflinePool) -> list[Verdict]:
  """Of the pool's first attempts, from their text."""
  tokenizer = run.sampler.chat.tokenizer
  texts = [tokenizer.decode([i for i in ids if i >= 0], skip_special_tokens=True) for ids in pool.first[:, 0]]
  graded = run.grader.grade([(p.reference, t) for p, t in zip(pool.problems, texts, strict=True)])
  return [one.verdict for one in graded]


def test_samples_of_a_problem_share_one_first_attempt_and_sample_the_others(whole):
  run, pool = whole
  assert pool.first.shape == (POOL, 1, 18)
  stage_run = stage_run_at(run.config.stage_runs, 0)
  inputs = score.step_inputs(run, score.StageContext(stage_run, None, pool), 1)
  forced, offered = inputs.forced.reshape(4, G, 18), inputs.trained.reshape(4, G, 2)
  for p in range(2):
    np.testing.assert_array_equal(forced[p], np.tile(pool.first[2 + p, 0], (G, 1)))
    assert [problem.id for problem in inputs.problems[p * G : (p + 1) * G]] == [pool.problems[2 + p].id] * G
  assert (forced[2:] == -1).all()
  assert not offered[:2, :, 0].any() and offered[2:].all() and offered[:, :, 1].all()


def test_without_sharing_each_sample_has_a_first_attempt_of_its_own(opened):
  run = opened()
  pool = offline.open_pool(run, 0, run.config.stage_runs[0])
  assert pool.first.shape == (POOL, G, 18)
  assert any(len(np.unique(first, axis=0)) > 1 for first in pool.first)


def test_right_first_attempts_are_left_out_until_the_share_of_wrong_ones_is_reached(opened, whole):
  run, pool = whole
  right = [verdict == C for verdict in verdicts(run, pool)]
  assert 0.2 < np.mean(right) < 0.8, 'something must be left out, and something kept'
  run = opened(**{'stages.stage1.offline_shared': True, 'stages.stage1.offline_wrong': 0.9})
  stage = run.config.stage_runs[0]
  fewer = offline.open_pool(run, 0, stage)
  kept = np.flatnonzero(offline.kept_first(np.array(right), 0.9))
  assert len(kept) < POOL
  assert [problem.id for problem in fewer.problems] == [pool.problems[i].id for i in kept]
  np.testing.assert_array_equal(fewer.first, pool.first[kept])
  assert np.mean([verdict != C for verdict in verdicts(run, fewer)]) >= 0.9
  again = offline.open_pool(dataclasses.replace(run, sampler=None, grader=None), 0, stage)
  np.testing.assert_array_equal(again.first, fewer.first, 'read, not sampled and graded again')
  assert again.problems == fewer.problems


def test_a_base_that_is_always_right_leaves_no_pool(opened, monkeypatch):
  run = opened(**{'stages.stage1.offline_shared': True, 'stages.stage1.offline_wrong': 0.5})
  all_right = types.SimpleNamespace(verdict=np.full((16, 2), C, np.int8))
  monkeypatch.setattr(offline.grading, 'grade', lambda *_: all_right)
  with pytest.raises(DataError, match=r'stage1.offline_wrong = 0.5 leaves none of 24 first attempts'):
    offline.open_pool(run, 0, run.config.stage_runs[0])
