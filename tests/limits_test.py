"""Limits that end a run, beta that follows a budget, and non-finite numbers wherever they come from."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import update_test as updating

from score_jax.algorithm import adaptive
from score_jax.errors import NumericsError
from score_jax.storage.progress import Progress
from score_jax.training import limits
from score_jax.training import run as runs
from score_jax.training import update as updates
from score_jax.training.stages import StageRun

NAN_STEPS = 20


def line(step=1, **changes):
  return dict(step=step, kl=[0.1, 0.2], mismatch=0.001, rejected=0, reward=[0.5, 0.5]) | changes


def after(config, lines, stage=0):
  """Progress after steps with these metrics."""
  progress = Progress()
  stage_run = StageRun(stage, config.stage_runs[stage], first_step=0, is_last=False)
  for one in lines:
    progress = limits.after_step(config, dataclasses.replace(stage_run, first_step=progress.step), progress, one)
  return progress


def check(config, progress, last, in_a_row=0):
  limits.check(config, progress, last, in_a_row, 'there')


def test_beta_follows_the_controller_of_the_paper_by_hand():
  # Relative error clipped at 0.2, times 0.1: 0.3 of 0.1 is far above, 0.11 a tenth above, 0 far below.
  assert adaptive.next_scale(1.0, 0.3, 0.1) == pytest.approx(1.02)
  assert adaptive.next_scale(2.0, 0.11, 0.1) == pytest.approx(2 * 1.01)
  assert adaptive.next_scale(1.0, 0.0, 0.1) == pytest.approx(0.98)
  assert adaptive.next_scale(1.0, -5.0, 0.1) == pytest.approx(0.98)
  assert adaptive.next_scale(3.0, 9.9, 0.0) == 3.0
  assert adaptive.next_scale(99.9, 9.9, 0.1) == 100.0


def test_beta_is_adapted_within_a_stage_and_not_by_a_rejected_step():
  config = tiny.run_config(**{'stages.stage1.kl_target': (0.05, 0.0), 'stages.stage1.kl_weights': (0.2, 0.1)})
  stage = config.stage_runs[0]
  assert limits.kl_weights(stage, Progress()) == (0.2, 0.1)
  progress = after(config, [line(), line(kl=[9.0, 9.0]), line(rejected=1, kl=[0.0, 0.0]), line(kl=[float('nan'), 0.0])])
  assert limits.kl_weights(stage, progress) == pytest.approx((0.2 * 1.02 * 1.02, 0.1))
  ending = StageRun(0, stage, first_step=progress.step + 1 - stage.steps, is_last=False)
  ended = limits.after_step(config, ending, progress, line())
  assert limits.kl_weights(config.stage_runs[1], ended) == config.stage_runs[1].kl_weights
  assert after(config, [line()], stage=1).kl_scale == ()


@pytest.mark.parametrize(
  ('field', 'metrics', 'cause'),
  [
    ('kl_limit', dict(kl=[0.1, 3.5]), 'the policy has left the reference'),
    ('kl_limit', dict(kl=[float('nan'), 0.1]), 'the policy has left the reference'),
    ('mismatch_stop', dict(mismatch=3.5), 'disagree on the policy'),
  ],
)
def test_three_steps_in_a_row_over_a_limit_end_the_run_and_name_it(field, metrics, cause):
  config = tiny.run_config(**{f'faults.{field}': 3.0})
  bad = line(**metrics)
  check(config, after(config, [bad, bad, line(), bad, bad]), bad)
  with pytest.raises(NumericsError, match=f'config.faults.{field} = 3.0.*{cause}'):
    check(config, after(config, [bad, line(), bad, bad, bad]), bad)
  off = tiny.run_config()
  check(off, after(off, [bad] * 9), bad)


def test_more_than_one_rejected_step_in_a_hundred_ends_the_run():
  config = tiny.run_config()
  rejected = {10, 60, 150}  # of steps 1..200: 1.5 %

  def at(last):
    return after(config, [line(step, rejected=int(step in rejected)) for step in range(1, last + 1)])

  check(config, at(199), line())
  with pytest.raises(NumericsError, match='3 of the newest 200 steps'):
    check(config, at(200), line())
  check(config, at(210), line())  # the first has left the window
  assert at(210).rejected == (60, 150)


# Non-finite numbers: each kind at random steps among good ones.


@functools.partial(jax.jit, static_argnames='optimizer')
def applied(state, grads, loss_A, rate, seen, optimizer):
  return updates.apply(state, grads, loss_A, rate, optimizer, seen)


def poisoned(kind, draw, params):
  """(gradient, loss_A, rate, seen) with one non-finite number in a random place."""
  bad = draw.choice([np.nan, np.inf, -np.inf])
  leaves, tree = jax.tree.flatten(jax.tree.map(lambda x: draw.normal(size=x.shape).astype(np.float32), params))
  loss_A, rate = np.ones(2, np.float32), np.float32(0.01)
  seen = [np.float32(1), np.ones(2, np.float32), np.ones((8, 2), np.float32)]
  if kind == 'loss':
    loss_A[draw.integers(2)] = bad
  elif kind == 'gradient':
    leaf = leaves[draw.integers(len(leaves))]
    leaf.reshape(-1)[draw.integers(leaf.size)] = bad
  elif kind == 'update':
    rate = np.float32(bad)
  elif kind == 'log-probability':
    if draw.integers(2):
      seen[0] = np.float32(bad)
    else:
      seen[1][draw.integers(2)] = bad
  elif kind == 'reward':
    seen[2][draw.integers(8), draw.integers(2)] = bad
  return (jax.tree.unflatten(tree, leaves),), loss_A, rate, tuple(seen)


@pytest.mark.parametrize('kind', ['loss', 'gradient', 'update', 'log-probability', 'reward'])
def test_a_non_finite_number_leaves_the_state_as_it_was_and_the_next_step_goes_on(kind):
  draw = np.random.default_rng(0)
  steps = set(draw.choice(3 * NAN_STEPS, NAN_STEPS, replace=False))
  state, rejected = updating.make_state(), 0
  for step in range(3 * NAN_STEPS):
    before = updating.as_bytes((state.params, state.opt_state))
    inputs = poisoned(kind if step in steps else '', draw, state.params)
    state, metrics = applied(state, *inputs, optimizer=updating.OPTIMIZER)
    rejected += step in steps
    assert (updating.as_bytes((state.params, state.opt_state)) == before) == (step in steps)
    assert (int(metrics['rejected']), int(state.rejected)) == (step in steps, rejected)


def nan_sampler_logp(batch):
  return dict(batch=batch.replace(sampler_logp=batch.sampler_logp.at[0].set(jnp.nan)))


def nan_reward(batch):
  del batch
  return dict(stage=updating.stage_values(reward_weights=(1, np.nan)))


@pytest.mark.parametrize('inputs', [nan_sampler_logp, nan_reward])
def test_what_the_loss_is_made_of_rejects_the_step_even_where_it_is_multiplied_with_0(inputs):
  """Without importance weights the sampler's log-probabilities enter nothing but the logged mismatch."""
  spec = dataclasses.replace(updating.SPEC, importance_cap=0.0, micro_batches=2)
  mesh = tiny.one_device_mesh()
  batch = updating.meshes.put_rows(mesh, updating.make_batch())
  arguments = dict(batch=batch, stage=updating.stage_values()) | inputs(batch)
  state = updating.make_state()
  before = updating.as_bytes((state.params, state.opt_state))
  frozen = runs.put_params(mesh, updating.TABLE, updating.reference(), jnp.float32)
  state, metrics = tiny.update(
    state, {}, frozen, arguments['batch'], arguments['stage'], spec=spec, optimizer=updating.OPTIMIZER
  )
  assert int(metrics['rejected']) == 1
  assert updating.as_bytes((state.params, state.opt_state)) == before
