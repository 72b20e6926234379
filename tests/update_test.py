"""The update on a tiny model: what reaches the gradient, in how many parts, on how many devices; what is rejected."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from score_jax.algorithm import rewards
from score_jax.config import OptimConfig
from score_jax.core_types import Verdict
from score_jax.models import packing, scoring, weights
from score_jax.parallel import mesh as meshes
from score_jax.states import Rollout, StageValues
from score_jax.training import batches, optim
from score_jax.training import run as runs
from score_jax.training import update as updates

CONFIG = tiny.decoder_config('llama')
TABLE = weights.weight_table(CONFIG)
END = 1
W, C, T, E = Verdict.WRONG, Verdict.CORRECT, Verdict.TIMEOUT, Verdict.ERROR
# Four problems of two rows: padding before, prompt, attempt 1, instruction, attempt 2; the rest of 16 is padding.
SPANS = [
  (0, 4, 3, 2, 4),
  (2, 3, 1, 2, 2),
  (1, 4, 2, 2, 5),
  (0, 2, 4, 2, 3),
  (3, 3, 3, 2, 3),
  (3, 2, 2, 2, 1),
  (0, 5, 4, 2, 5),
  (1, 1, 1, 2, 4),
]
L = 16
# Problems differ in how many of their rows count: one has a failed grader, one an offline first attempt.
VERDICT_BA = np.array([[W, C], [C, W], [E, C], [W, C], [C, C], [W, T], [W, C], [W, W]], np.int8)
TRAINED_BA = np.array([[True, True]] * 4 + [[False, True]] * 2 + [[True, True]] * 2)
SPEC = updates.UpdateSpec(
  config=CONFIG,
  dtype=jnp.float32,
  group=2,
  micro_batches=1,
  kl_form='k1_togo',
  importance_cap=2.0,
  remat='none',
  logits_mb=1.0,
  attempt_gradient_norms=False,
)
BY_ATTEMPT = dataclasses.replace(SPEC, attempt_gradient_norms=True)
OPTIMIZER = optim.make_optimizer(
  OptimConfig(
    learning_rate=1.0,
    schedule='constant',
    warmup_steps=0,
    b1=0.9,
    b2=0.99,
    eps=1e-8,
    weight_decay=0.0,
    clip_norm=0.0,
    max_rejected_in_a_row=3,
  ),
  TABLE,
)
# Compiling is most of this file's time.
FAST = dict(compiler_options={'xla_backend_optimization_level': 0})
gradients = jax.jit(tiny.gradients, static_argnames='spec', **FAST)


def stage_values(reward_weights=(1, 1), bonus=(0, 10), kl_weights=(0.2, 0.1), gamma=0.5, learning_rate=0.1):
  return StageValues(*(jnp.array(x, jnp.float32) for x in (reward_weights, bonus, kl_weights, gamma, learning_rate)))


def make_batch():
  rng = np.random.default_rng(0)
  tokens_BL = rng.integers(2, CONFIG.vocab, (len(SPANS), L)).astype(np.int32)
  attempt_BL = np.zeros((len(SPANS), L), np.int8)
  for b, (start, prompt, first, instruction, second) in enumerate(SPANS):
    begin = start + prompt
    again = begin + first + instruction
    attempt_BL[b, begin : begin + first] = 1
    attempt_BL[b, again : again + second] = 2
    tokens_BL[b, [begin + first - 1, again + second - 1]] = END
  rollout = Rollout(
    tokens=tokens_BL,
    attempt=attempt_BL,
    logp=np.where(attempt_BL > 0, rng.uniform(-4, -2, (len(SPANS), L)), 0).astype(np.float32),
    start=np.array([span[0] for span in SPANS], np.int32),
    end=np.array([sum(span) for span in SPANS], np.int32),
    stop=None,
    steps=None,
  )
  return batches.of_rollout(rollout, TRAINED_BA, VERDICT_BA)


def random_params(seed):
  """Drawn on the host, which compiles nothing; norms are about 1."""
  rng = np.random.default_rng(seed)

  def leaf(weight):
    centre = 1.0 if weight.role == 'norm' else 0.0
    return rng.normal(centre, 0.2, weight.shape(TABLE.sizes)).astype(np.float32)

  return jax.tree.map(jnp.asarray, TABLE.tree(leaf))


@functools.cache
def policy():
  return random_params(0)


@functools.cache
def reference():
  return random_params(1)


@jax.jit
def logps(params, batch):
  rows = packing.left_aligned(batch.length, L)
  return scoring.token_logps(params, CONFIG, batch.tokens, rows, dtype=jnp.float32)


@functools.partial(jax.jit, **FAST)
def weighted_gradient(params, batch, weight_BL):
  return jax.grad(lambda p: jnp.sum(weight_BL * logps(p, batch)))(params)


def token_weights(batch, stage):
  """weight_BL of every token's log-probability at gamma 0 with the KL as k1_togo, token by token."""
  advantage_BA, share_BA = map(np.asarray, rewards.reward_credit(batch.verdict, batch.trained, stage, SPEC.group))
  logp_BL, ref_BL = (np.asarray(logps(params, batch)) for params in (policy(), reference()))
  weight_BL = np.zeros((len(SPANS), L), np.float32)
  for b, t in zip(*np.nonzero(batch.attempt), strict=True):
    a = batch.attempt[b, t] - 1
    own_L = batch.attempt[b] == a + 1
    togo = np.sum((logp_BL - ref_BL)[b, t:][own_L[t:]])
    penalty = float(stage.kl_weights[a]) * togo * batch.trained[b, a] / np.sum(batch.trained[:, a])
    importance = min(np.exp(logp_BL[b, t] - batch.sampler_logp[b, t]), SPEC.importance_cap)
    weight_BL[b, t] = importance * (penalty - share_BA[b, a] * advantage_BA[b, a])
  return weight_BL


def norm(tree):
  return np.sqrt(sum(np.sum(np.square(leaf, dtype=np.float64)) for leaf in map(np.asarray, jax.tree.leaves(tree))))


def assert_close(a, b, tolerance):
  """Equal up to a fraction of the whole tree's norm, which is not 0."""
  size = norm(b)
  error = norm(jax.tree.map(lambda x, y: np.asarray(x) - np.asarray(y), a, b)) / size
  assert error <= tolerance


def as_bytes(tree):
  return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def make_state(mesh=None, params=None):
  mesh = mesh or tiny.one_device_mesh()
  params = runs.put_params(mesh, TABLE, policy() if params is None else params, jnp.float32)
  return runs.fresh_state(params, OPTIMIZER, mesh, TABLE)


def update(state, batch=None, stage=None, reference_params=None, mesh=None):
  mesh = mesh or tiny.one_device_mesh()
  reference_params = runs.put_params(mesh, TABLE, reference_params or reference(), jnp.float32)
  batch = meshes.put_rows(mesh, make_batch() if batch is None else batch)
  return tiny.update(state, {}, reference_params, batch, stage or stage_values(), spec=BY_ATTEMPT, optimizer=OPTIMIZER)


def test_the_gradient_weighs_sampled_tokens_and_no_others():
  batch, stage = make_batch(), stage_values(gamma=0)
  _, (gradient,), _ = gradients(policy(), {}, reference(), batch, stage, SPEC)
  weight_BL = token_weights(batch, stage)
  assert_close(gradient, weighted_gradient(policy(), batch, weight_BL), 1e-5)


def test_the_end_of_turn_token_is_trained():
  """Answers that are nothing but the end of the turn have a gradient, that of the end's own log-probability."""
  batch, stage = make_batch(), stage_values(gamma=0)
  batch = batch.replace(attempt=np.where(batch.tokens == END, batch.attempt, 0).astype(np.int8))
  assert (batch.attempt > 0).sum() == 2 * len(SPANS)
  _, (gradient,), _ = gradients(policy(), {}, reference(), batch, stage, SPEC)
  weight_BL = token_weights(batch, stage)
  assert_close(gradient, weighted_gradient(policy(), batch, weight_BL), 1e-5)


def test_what_stands_in_the_padding_changes_nothing():
  batch = make_batch()
  padding_BL = np.arange(L)[None] >= batch.length[:, None]
  other = batch.replace(tokens=np.where(padding_BL, 7, batch.tokens).astype(np.int32))
  assert (other.tokens != batch.tokens).sum() == padding_BL.sum()
  loss_A, (gradient,), _ = gradients(policy(), {}, reference(), batch, stage_values(), SPEC)
  other_A, (other_gradient,), _ = gradients(policy(), {}, reference(), other, stage_values(), SPEC)
  np.testing.assert_allclose(loss_A, other_A, atol=1e-5)
  assert_close(gradient, other_gradient, 1e-6)


@pytest.mark.parametrize(('kl_form', 'parts'), [('k1_togo', 4), pytest.param('k1', 2, marks=pytest.mark.slow)])
def test_micro_batches_add_up_to_the_whole_batch(kl_form, parts):
  whole = dataclasses.replace(SPEC, kl_form=kl_form)
  cut = dataclasses.replace(whole, micro_batches=parts)
  loss_A, (gradient,), metrics = gradients(policy(), {}, reference(), make_batch(), stage_values(), whole)
  cut_A, (cut_gradient,), cut_metrics = gradients(policy(), {}, reference(), make_batch(), stage_values(), cut)
  np.testing.assert_allclose(cut_A, loss_A, atol=1e-5)
  assert_close(cut_gradient, gradient, 1e-6)
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), cut_metrics, metrics)


@pytest.mark.parametrize(
  ('kl_form', 'parts', 'shards'),
  [pytest.param('k1_togo', 1, 1, marks=pytest.mark.slow), ('k1', 2, 2), ('exact', 2, 1)],
)
def test_rows_end_to_end_have_the_gradient_of_rows_with_padding(kl_form, parts, shards):
  padded = dataclasses.replace(SPEC, kl_form=kl_form, importance_cap=0.0)
  packed = dataclasses.replace(padded, micro_batches=parts, shards=shards, packed_length=100 // (parts * shards))
  loss_A, (gradient,), metrics = gradients(policy(), {}, reference(), make_batch(), stage_values(), padded)
  packed_A, (packed_gradient,), packed_metrics = gradients(
    policy(), {}, reference(), make_batch(), stage_values(), packed
  )
  np.testing.assert_allclose(packed_A, loss_A, atol=1e-5)
  assert_close(packed_gradient, gradient, 1e-6)
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), packed_metrics, metrics)


@pytest.mark.parametrize('remat', ['elementwise', 'dots', 'full'])
def test_what_is_computed_again_changes_nothing(remat):
  _, (gradient,), _ = gradients(policy(), {}, reference(), make_batch(), stage_values(), SPEC)
  again = dataclasses.replace(SPEC, remat=remat)
  _, (again_gradient,), _ = gradients(policy(), {}, reference(), make_batch(), stage_values(), again)
  assert_close(again_gradient, gradient, 1e-6)


def test_the_gradients_of_the_attempts_add_up_to_that_of_the_sum():
  loss_A, (gradient,), _ = gradients(policy(), {}, reference(), make_batch(), stage_values(), SPEC)
  parts_A, parts, _ = gradients(policy(), {}, reference(), make_batch(), stage_values(), BY_ATTEMPT)
  np.testing.assert_allclose(parts_A, loss_A, atol=1e-5)
  assert len(parts) == 2
  assert_close(jax.tree.map(jnp.add, *parts), gradient, 1e-6)
  # Where nothing rewards or binds attempt 1, its part is nothing.
  nothing_first = stage_values(reward_weights=(0, 1), bonus=(0, 0), kl_weights=(0, 0.1), gamma=0)
  _, parts, _ = gradients(policy(), {}, reference(), make_batch(), nothing_first, BY_ATTEMPT)
  assert norm(parts[0]) == 0 < norm(parts[1])


def test_the_update_reports_the_norm_of_each_attempts_gradient():
  _, parts, _ = gradients(policy(), {}, reference(), make_batch(), stage_values(), BY_ATTEMPT)
  _, metrics = update(make_state())
  np.testing.assert_allclose(metrics['gradient_norm_A'], [norm(part) for part in parts], rtol=1e-5)
  np.testing.assert_allclose(metrics['gradient_norm'], norm(jax.tree.map(jnp.add, *parts)), rtol=1e-5)


def test_the_update_moves_parameters_against_the_gradient_at_the_stages_learning_rate():
  """Adam's first step is the sign of the gradient wherever the gradient is far above eps."""
  _, parts, _ = gradients(policy(), {}, reference(), make_batch(), stage_values(), BY_ATTEMPT)
  state, _ = update(make_state(), stage=stage_values(learning_rate=0.25))
  for before, after, grad in zip(
    *map(jax.tree.leaves, (policy(), state.params, jax.tree.map(jnp.add, *parts))), strict=True
  ):
    clear = np.abs(grad) > 1e-4
    np.testing.assert_allclose((after - before)[clear], -0.25 * np.sign(grad)[clear], rtol=1e-3)


def with_nan(tree, name):
  return tree | {name: jnp.asarray(tree[name]).at[0].set(jnp.nan)}


def infinite_moment(state):
  """An infinite second moment makes a step of 0, so that the parameters stay finite."""
  (adam,) = state.opt_state
  nu = adam.nu | dict(final_norm=jnp.full_like(adam.nu['final_norm'], jnp.inf))
  return state.replace(opt_state=(adam._replace(nu=nu),))


def nan_sample():
  batch = make_batch()
  return batch.replace(sampler_logp=np.where(batch.attempt == 2, np.nan, batch.sampler_logp).astype(np.float32))


@pytest.mark.parametrize(
  ('make', 'inputs'),
  [
    pytest.param(lambda: make_state(params=with_nan(policy(), 'final_norm')), dict, id='parameter'),
    pytest.param(lambda: infinite_moment(make_state()), dict, id='moment'),
    pytest.param(make_state, lambda: dict(batch=nan_sample()), id='batch'),
    pytest.param(make_state, lambda: dict(reference_params=with_nan(reference(), 'final_norm')), id='reference'),
    pytest.param(make_state, lambda: dict(stage=stage_values(learning_rate=np.inf)), id='step'),
  ],
)
def test_anything_non_finite_rejects_the_whole_step(make, inputs):
  state = make()
  before = as_bytes((state.params, state.opt_state))
  state, metrics = update(state, **inputs())
  assert as_bytes((state.params, state.opt_state)) == before
  assert (int(metrics['rejected']), int(state.rejected), int(state.rejected_in_a_row), int(state.step)) == (1, 1, 1, 1)


def test_a_good_step_ends_the_row_of_rejected_ones():
  state = make_state()
  counts = []
  for batch in (nan_sample(), nan_sample(), make_batch(), nan_sample()):
    state, _ = update(state, batch=batch)
    counts.append((int(state.step), int(state.rejected), int(state.rejected_in_a_row)))
  assert counts == [(1, 1, 1), (2, 2, 2), (3, 2, 0), (4, 3, 1)]


def test_the_update_donates_the_state_and_never_the_reference():
  mesh = tiny.one_device_mesh()
  state, batch = make_state(), meshes.put_rows(mesh, make_batch())
  frozen = runs.put_params(mesh, TABLE, reference(), jnp.float32)
  tiny.update(state, {}, frozen, batch, stage_values(), spec=BY_ATTEMPT, optimizer=OPTIMIZER)
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves((state.params, state.opt_state)))
  assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((frozen, batch)))
  assert as_bytes(frozen) == as_bytes(reference())


@functools.cache
def step_on_eight():
  """shardings before; state and metrics after one update on data 2 x fsdp 2 x tensor 2."""
  mesh = meshes.make_mesh(2, 2, 2)
  state = make_state(mesh)
  shardings = jax.tree.map(lambda x: x.sharding, (state.params, state.opt_state))
  return shardings, *update(state, mesh=mesh)


def test_eight_devices_have_the_loss_and_gradient_of_one():
  _, state, metrics = step_on_eight()
  one, one_metrics = update(make_state())
  np.testing.assert_allclose(metrics['loss_A'], one_metrics['loss_A'], rtol=1e-5, atol=1e-5)
  # The first moment after one step is (1 - b1) times the gradient.
  assert_close(state.opt_state[0].mu, one.opt_state[0].mu, 1e-5)


def test_moments_lie_like_their_parameters_before_and_after_a_step():
  (params, (adam,)), state, _ = step_on_eight()
  (adam_after,) = state.opt_state
  wanted = meshes.params(meshes.make_mesh(2, 2, 2), TABLE, meshes.TRAINING_RULES)
  placed = [adam.mu, adam.nu, params]
  placed += [jax.tree.map(lambda x: x.sharding, tree) for tree in (adam_after.mu, adam_after.nu, state.params)]
  ranks = jax.tree.map(jnp.ndim, state.params)
  assert not any(leaf.is_fully_replicated for leaf in (wanted['layers']['q'], wanted['layers']['gate']))
  for shardings in placed:
    same = jax.tree.map(lambda x, y, rank: x.is_equivalent_to(y, rank), shardings, wanted, ranks)
    assert all(jax.tree.leaves(same)), same


def test_a_failed_grader_earns_no_bonus_in_the_reported_rewards():
  _, metrics = update(make_state())
  # Of the eight rows one has ERROR on attempt 1, which hides that row's rewards; the others by hand.
  np.testing.assert_allclose(metrics['reward_A'], [2 / 7, (11 - 10 + 11 + 1 + 0 + 11 + 0) / 7], rtol=1e-6)
