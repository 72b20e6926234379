"""The expected gradient of the loss, by exact enumeration, against the gradient of the objective itself.

A tabular policy over two tokens answers twice, three tokens each: 64 conversations, 4096 groups of two. Its logits are
a table with a row per prefix, so that every token depends on everything before it.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from score_jax.algorithm import losses, rewards
from score_jax.core_types import KL_FORMS

V, ATTEMPTS, SPAN = 2, 2, 3  # tokens, attempts, tokens of an attempt
L = ATTEMPTS * SPAN
N = V**L  # all conversations
PREFIXES = (V**L - 1) // (V - 1)

WHOLE_ATTEMPT = ('k1', 'k1_togo', 'k2_seq')  # forms whose gradient is that of the whole attempt's KL
GAMMAS = (0.0, 0.6, 1.0)
STAGES = {
  'stage 1': dict(reward_weights=(0, 1), bonus=(0, 0), kl_weights=(0.7, 0.3)),
  'stage 2': dict(reward_weights=(1, 1), bonus=(0, 10), kl_weights=(0.3, 0.3)),
  'stage 2 without bonus': dict(reward_weights=(1, 1), bonus=(0, 0), kl_weights=(0.3, 0.3)),
}


@pytest.fixture(autouse=True)
def float64():
  with jax.enable_x64(True):
    yield


@functools.cache
def world():
  """tokens_NL, prefix_NL (row of the table that predicts each token), correct_NA and two tables of logits."""
  rng = np.random.default_rng(7)
  tokens_NL = np.array(list(np.ndindex(*(V,) * L)))
  prefix_NL = np.zeros_like(tokens_NL)
  for t in range(1, L):
    prefix_NL[:, t] = V * prefix_NL[:, t - 1] + 1 + tokens_NL[:, t - 1]
  first_N = np.arange(N) // V**SPAN  # which first attempt a conversation begins with
  correct_NA = np.stack([rng.integers(0, 2, V**SPAN)[first_N], rng.integers(0, 2, N)], axis=1)
  policy_XV, reference_XV = rng.normal(size=(2, PREFIXES, V))
  return tokens_NL, prefix_NL, correct_NA, policy_XV, reference_XV


stage_values = functools.partial(tiny.stage_values, dtype=jnp.float64)


def token_logps(table_XV):
  tokens_NL, prefix_NL = world()[:2]
  return jax.nn.log_softmax(table_XV)[prefix_NL, tokens_NL]


def prefix_kls(table_XV, reference_XV):
  """KL of the next token at every position of every conversation."""
  log_XV, ref_XV = jax.nn.log_softmax(table_XV), jax.nn.log_softmax(reference_XV)
  return jnp.sum(jnp.exp(log_XV) * (log_XV - ref_XV), axis=-1)[world()[1]]


def by_attempt(x_NL):
  return x_NL.reshape(N, ATTEMPTS, SPAN).sum(-1)


@functools.partial(jax.jit, static_argnames='kl_form')
def loss_gradient(stage, kl_form, score_NA=None):
  """[A, X, V]: gradient of each attempt's loss, expected over groups of two independent conversations."""
  _, _, correct_NA, policy_XV, reference_XV = world()
  group_PB = np.array(list(np.ndindex(N, N)))
  attempt_BL = jnp.array([[1] * SPAN + [2] * SPAN] * 2, jnp.int8)
  everything_BA = jnp.ones((2, ATTEMPTS), bool)
  verdict_NA = jnp.array(correct_NA, jnp.int8)

  def expected_loss(table_XV):
    logp_NL, ref_NL, kl_NL = token_logps(table_XV), token_logps(reference_XV), prefix_kls(table_XV, reference_XV)
    chance_N = jax.lax.stop_gradient(jnp.exp(jnp.sum(logp_NL, axis=1)))

    def loss(group_B):
      score_BA = None if score_NA is None else score_NA[group_B]
      advantage_BA, share_BA = rewards.reward_credit(verdict_NA[group_B], everything_BA, stage, 2, score_BA)
      credit = losses.Credit(
        advantage=advantage_BA,
        reward_share=share_BA,
        trained=everything_BA,
        kl_share=rewards.shares(everything_BA, logp_NL.dtype),
      )
      scores = losses.TokenScores(logp=logp_NL[group_B], ref_logp=ref_NL[group_B], kl=kl_NL[group_B])
      ones_BL = jnp.ones_like(scores.logp)
      return losses.attempt_losses(scores, attempt_BL, ones_BL, credit, stage, kl_form=kl_form, group=2)[0]

    loss_PA = jax.vmap(loss)(group_PB)
    return jnp.einsum('p,pa->a', chance_N[group_PB[:, 0]] * chance_N[group_PB[:, 1]], loss_PA)

  return jax.jacrev(expected_loss)(jnp.asarray(policy_XV))


def reward_table(stage, score_NA=None):
  """reward_NA, spelled out for two attempts."""
  r1_N, r2_N = (world()[2] if score_NA is None else score_NA).T
  (pays_1, pays_2), (_, alpha) = stage['reward_weights'], stage['bonus']
  return np.stack([pays_1 * r1_N, pays_2 * r2_N + alpha * (r2_N - r1_N)], axis=1).astype(np.float64)


@functools.partial(jax.jit, static_argnames='frozen_prefixes')
def _field(reward_NA, kl_A, gamma, frozen_prefixes):
  _, _, _, policy_XV, reference_XV = map(jnp.asarray, world())
  ref_NA = by_attempt(token_logps(reference_XV))

  def value(table_XV):
    logp_NA = by_attempt(token_logps(table_XV))
    fixed_NA = jax.lax.stop_gradient(logp_NA)
    ratio_NA = logp_NA - ref_NA
    fixed_ratio_NA = fixed_NA - ref_NA
    prefix_kl_NA = by_attempt(prefix_kls(table_XV, reference_XV))
    later_N = reward_NA[:, 1] - kl_A[1] * fixed_ratio_NA[:, 1]
    gain_NA = reward_NA + gamma * jnp.stack([later_N, jnp.zeros_like(later_N)], axis=1)
    values = []
    for i in range(ATTEMPTS):
      # Attempt i is drawn from the policy that moves, everything else from the policy as it is.
      chance_N = jnp.exp(logp_NA[:, i] + fixed_NA[:, 1 - i])
      if frozen_prefixes:
        penalty = jnp.sum(jax.lax.stop_gradient(chance_N) * prefix_kl_NA[:, i])
      else:
        penalty = jnp.sum(chance_N * ratio_NA[:, i])
      values.append(jnp.sum(chance_N * gain_NA[:, i]) - kl_A[i] * penalty)
    return jnp.stack(values)

  return jax.jacrev(value)(policy_XV)


def field(stage, gamma, frozen_prefixes=False):
  """[A, X, V]: what the tokens of each attempt follow, i.e. the gradient of its own return with the rest held fixed."""
  return _field(reward_table(stage), np.array(stage['kl_weights']), gamma, frozen_prefixes)


@jax.jit
def _objective_gradient(reward_NA, kl_A):
  _, _, _, policy_XV, reference_XV = map(jnp.asarray, world())

  def objective(table_XV):
    logp_NA, ref_NA = by_attempt(token_logps(table_XV)), by_attempt(token_logps(reference_XV))
    gain_NA = reward_NA - kl_A[None] * (logp_NA - ref_NA)
    return jnp.sum(jnp.exp(jnp.sum(logp_NA, axis=1)) * jnp.sum(gain_NA, axis=1))

  return jax.grad(objective)(policy_XV)


def objective_gradient(stage):
  """[X, V]: gradient of E[sum_i R_i - beta_i log-ratio_i], everything moving."""
  return _objective_gradient(reward_table(stage), np.array(stage['kl_weights']))


def assert_same(a, b):
  np.testing.assert_allclose(a, b, rtol=0, atol=1e-10)


@pytest.mark.parametrize('gamma', GAMMAS)
@pytest.mark.parametrize('name', STAGES)
@pytest.mark.parametrize('kl_form', WHOLE_ATTEMPT)
def test_each_attempt_follows_its_own_return_and_the_kl_of_the_whole_attempt(kl_form, name, gamma):
  stage = STAGES[name]
  assert_same(loss_gradient(stage_values(**stage, gamma=gamma), kl_form), -field(stage, gamma))


@pytest.mark.parametrize('gamma', GAMMAS)
@pytest.mark.parametrize('name', STAGES)
@pytest.mark.parametrize('kl_form', ['k2_token', 'exact'])
def test_the_forms_by_token_follow_the_kl_with_prefixes_held_fixed(kl_form, name, gamma):
  stage = STAGES[name]
  assert_same(loss_gradient(stage_values(**stage, gamma=gamma), kl_form), -field(stage, gamma, frozen_prefixes=True))


@pytest.mark.parametrize('name', STAGES)
def test_scores_of_any_size_are_followed_as_correctness_is(name):
  stage, score_NA = STAGES[name], world_scores()
  got_AXV = loss_gradient(stage_values(**stage, gamma=0.6), 'k1_togo', jnp.asarray(score_NA))
  assert_same(got_AXV, -_field(reward_table(stage, score_NA), np.array(stage['kl_weights']), 0.6, False))
  shifted_AXV = loss_gradient(stage_values(**stage, gamma=0.6), 'k1_togo', jnp.asarray(score_NA + 5.0))
  assert_same(got_AXV, shifted_AXV)  # what all scores share is no reward


@functools.cache
def world_scores():
  """score_NA, any numbers; that of attempt 1 depends on its own tokens alone."""
  rng = np.random.default_rng(8)
  first_N = np.arange(N) // V**SPAN
  return np.stack([rng.normal(size=V**SPAN)[first_N], 3 * rng.normal(size=N)], axis=1)


@pytest.mark.parametrize('kl_form', ['k2_token', 'exact'])
def test_holding_prefixes_fixed_is_another_gradient(kl_form):
  only_kl = stage_values(reward_weights=(0, 0), bonus=(0, 0), kl_weights=(1, 1), gamma=0)
  whole_AXV, frozen_AXV = (np.asarray(loss_gradient(only_kl, form)) for form in ('k1_togo', kl_form))
  for i in range(ATTEMPTS):
    assert np.linalg.norm(whole_AXV[i] - frozen_AXV[i]) > 0.1 * np.linalg.norm(whole_AXV[i])


@pytest.mark.parametrize('name', STAGES)
@pytest.mark.parametrize('kl_form', WHOLE_ATTEMPT)
def test_gamma_1_descends_the_printed_objective(kl_form, name):
  stage = STAGES[name]
  gradient_XV = loss_gradient(stage_values(**stage, gamma=1.0), kl_form).sum(0)
  assert_same(gradient_XV, -objective_gradient(stage))


def test_gamma_0_is_not_the_gradient_of_the_printed_objective():
  stage = STAGES['stage 2']
  gradient_XV = loss_gradient(stage_values(**stage, gamma=0.0), 'k1_togo').sum(0)
  assert np.linalg.norm(gradient_XV + objective_gradient(stage)) > 0.1


def test_stage_1_moves_attempt_1_by_its_reward_under_gamma_1_alone():
  stage = STAGES['stage 1'] | dict(kl_weights=(0, 0))
  before_XV = np.asarray(loss_gradient(stage_values(**stage, gamma=0.0), 'k1_togo'))[0]
  after_XV = np.asarray(loss_gradient(stage_values(**stage, gamma=1.0), 'k1_togo'))[0]
  assert not before_XV.any()
  assert np.linalg.norm(after_XV) > 0.01


@pytest.mark.parametrize('kl_form', KL_FORMS)
def test_at_gamma_0_the_bonus_pays_attempt_2_like_eleven_times_its_own_reward(kl_form):
  """-alpha r1 is settled before attempt 2 begins, so it moves nothing."""
  with_bonus, without = STAGES['stage 2'], STAGES['stage 2'] | dict(reward_weights=(1, 11), bonus=(0, 0))
  gradients = [loss_gradient(stage_values(**stage, gamma=0.0), kl_form) for stage in (with_bonus, without)]
  assert_same(*gradients)


def test_at_gamma_1_the_bonus_reaches_attempt_1():
  with_bonus, without = STAGES['stage 2'], STAGES['stage 2'] | dict(reward_weights=(1, 11), bonus=(0, 0))
  first, second = (loss_gradient(stage_values(**stage, gamma=1.0), 'k1_togo') for stage in (with_bonus, without))
  assert np.linalg.norm(first[0] - second[0]) > 0.1
  assert_same(first[1], second[1])


def test_attempt_1_owns_its_prefixes_and_attempt_2_the_rest():
  """Each attempt's loss moves only the table's rows that predict its own tokens."""
  gradient_AXV = np.asarray(loss_gradient(stage_values(**STAGES['stage 2'], gamma=1.0), 'k1_togo'))
  owned = (V**SPAN - 1) // (V - 1)
  assert not gradient_AXV[0, owned:].any()
  assert not gradient_AXV[1, :owned].any()
  assert gradient_AXV[0, :owned].any() and gradient_AXV[1, owned:].any()
