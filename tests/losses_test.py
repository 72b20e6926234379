"""Which tokens the loss reaches, and with what weight, given the models' log-probabilities."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import stage_values

from score_jax.algorithm import losses, rewards
from score_jax.core_types import KL_FORMS, Verdict

W, C, T, E = Verdict.WRONG, Verdict.CORRECT, Verdict.TIMEOUT, Verdict.ERROR
# Two problems of two rows: prompt, attempt 1, instruction, attempt 2 (and in A3 a third attempt), padding.
A3_BL = np.array(
  [
    [0, 0, 1, 1, 1, 0, 0, 2, 2, 0, 3, 3],
    [0, 1, 1, 0, 0, 2, 2, 2, 0, 3, 3, 0],
    [1, 1, 0, 0, 2, 2, 0, 3, 0, 0, 0, 0],
    [0, 0, 0, 1, 0, 0, 2, 2, 2, 2, 0, 3],
  ],
  np.int8,
)
ATTEMPT_BL = np.where(A3_BL == 3, 0, A3_BL).astype(np.int8)
VERDICT_BA = np.array([[C, W], [W, C], [W, W], [W, C]], np.int8)
STAGE_1 = dict(reward_weights=(0, 1), bonus=(0, 0))
STAGE_2 = dict(reward_weights=(1, 1), bonus=(0, 10))


def token_scores(seed=0):
  """Random scores of a batch of A3_BL's shape; the policy is not the reference."""
  logp_BL, ref_BL, kl_BL = np.abs(np.random.default_rng(seed).normal(size=(3, *A3_BL.shape))).astype(np.float32)
  return losses.TokenScores(logp=-logp_BL, ref_logp=-ref_BL, kl=kl_BL)


@functools.partial(jax.jit, static_argnames='kl_form')
def _losses(scores, attempt_BL, importance_BL, verdict_BA, trained_BA, stage, kl_form):
  advantage_BA, share_BA = rewards.reward_credit(verdict_BA, trained_BA, stage, 2)
  kl_share_BA = rewards.shares(trained_BA, jnp.float32)
  credit = losses.Credit(advantage=advantage_BA, reward_share=share_BA, trained=trained_BA, kl_share=kl_share_BA)

  def total(logp_BL, kl_BL):
    current = scores.replace(logp=logp_BL, kl=kl_BL)
    loss_A, ratio_BA = losses.attempt_losses(
      current, attempt_BL, importance_BL, credit, stage, kl_form=kl_form, group=2
    )
    return jnp.sum(loss_A), (loss_A, ratio_BA)

  gradient, (loss_A, ratio_BA) = jax.grad(total, argnums=(0, 1), has_aux=True)(scores.logp, scores.kl)
  return loss_A, ratio_BA, *gradient


def run(stage, kl_form='k1_togo', *, scores=None, attempt=ATTEMPT_BL, verdict=VERDICT_BA, trained=None, importance=1.0):
  """loss_A, ratio_BA, and the gradient by logp_BL and by kl_BL."""
  scores = token_scores() if scores is None else scores
  trained = np.ones(verdict.shape, bool) if trained is None else trained
  importance_BL = np.broadcast_to(np.float32(importance), attempt.shape)
  out = _losses(scores, attempt, importance_BL, verdict, trained, stage_values(**stage), kl_form)
  return tuple(map(np.asarray, out))


@pytest.mark.parametrize('kl_form', KL_FORMS)
def test_stage_1_at_gamma_0_reaches_attempt_1_through_its_kl_alone(kl_form):
  first_BL = ATTEMPT_BL == 1
  _, _, by_logp_BL, by_kl_BL = run(STAGE_1 | dict(kl_weights=(0, 0.1)), kl_form)
  assert not by_logp_BL[first_BL].any() and not by_kl_BL[first_BL].any()
  assert by_logp_BL[ATTEMPT_BL == 2].any()
  _, _, by_logp_BL, by_kl_BL = run(STAGE_1 | dict(kl_weights=(0.1, 0.1)), kl_form)
  assert (by_kl_BL if kl_form == 'exact' else by_logp_BL)[first_BL].all()


def test_an_answer_that_times_out_loses_probability():
  attempt_BL = jnp.array([[1, 2], [1, 2]], jnp.int8)
  verdict_BA, trained_BA = jnp.array([[C, C], [T, T]], jnp.int8), jnp.ones((2, 2), bool)
  stage, ones_BL = stage_values(reward_weights=(1, 1), bonus=(0, 0)), jnp.ones((2, 2))

  def loss(logits_V):
    """Row 0 answers with token 0 both times, row 1 with token 1; the policy is the reference."""
    logp_BL = jnp.broadcast_to(jax.nn.log_softmax(logits_V)[:2, None], (2, 2))
    scores = losses.TokenScores(logp=logp_BL, ref_logp=jax.lax.stop_gradient(logp_BL), kl=jnp.zeros((2, 2)))
    advantage_BA, share_BA = rewards.reward_credit(verdict_BA, trained_BA, stage, 2)
    credit = losses.Credit(advantage=advantage_BA, reward_share=share_BA, trained=trained_BA, kl_share=share_BA)
    loss_A, _ = losses.attempt_losses(scores, attempt_BL, ones_BL, credit, stage, kl_form='k1_togo', group=2)
    return jnp.sum(loss_A)

  logits_V = jnp.array([0.5, 1.0, -0.5])
  gradient_V = jax.jit(jax.grad(loss))(logits_V)
  assert gradient_V[0] < 0 < gradient_V[1]  # a step down the gradient goes from token 1 to token 0


@pytest.mark.parametrize('kl_form', KL_FORMS)
def test_context_and_padding_have_exactly_no_gradient(kl_form):
  _, _, by_logp_BL, by_kl_BL = run(STAGE_2 | dict(kl_weights=(0.2, 0.1), gamma=0.5), kl_form)
  assert not by_logp_BL[ATTEMPT_BL == 0].any() and not by_kl_BL[ATTEMPT_BL == 0].any()
  assert by_logp_BL[ATTEMPT_BL > 0].all()


@pytest.mark.parametrize('kl_form', KL_FORMS)
def test_at_the_reference_there_is_policy_gradient_alone(kl_form):
  scores = token_scores()
  scores = scores.replace(ref_logp=scores.logp, kl=np.zeros_like(scores.kl))
  loss_A, ratio_BA, by_logp_BL, _ = run(STAGE_2 | dict(kl_weights=(0.2, 0.1)), kl_form, scores=scores)
  # Rewards of attempt 1: 1 0 | 0 0; of attempt 2: -10 11 | 0 11. The baseline is the other row's; a share is 1/4.
  advantage_BA = np.array([[1, -21], [-1, 21], [0, -11], [0, 11]], np.float32)
  weight_BL = np.zeros(ATTEMPT_BL.shape, np.float32)
  for b, t in zip(*np.nonzero(ATTEMPT_BL), strict=True):
    weight_BL[b, t] = -advantage_BA[b, ATTEMPT_BL[b, t] - 1] / 4
  assert not ratio_BA.any()
  np.testing.assert_allclose(by_logp_BL, weight_BL, rtol=1e-6)
  expected_A = [(weight_BL * scores.logp * (a == ATTEMPT_BL)).sum() for a in (1, 2)]
  np.testing.assert_allclose(loss_A, expected_A, rtol=1e-5)


@pytest.mark.parametrize('kl_form', KL_FORMS)
def test_a_third_attempt_without_weights_changes_nothing(kl_form):
  two = STAGE_2 | dict(kl_weights=(0.2, 0.1), gamma=0.5)
  three = dict(reward_weights=(1, 1, 0), bonus=(0, 10, 0), kl_weights=(0.2, 0.1, 0), gamma=0.5)
  verdict_BA = np.concatenate([VERDICT_BA, [[C], [W], [W], [C]]], axis=1).astype(np.int8)
  loss_A, _, by_logp_BL, by_kl_BL = run(three, kl_form, attempt=A3_BL, verdict=verdict_BA)
  expected_A, _, expected_logp_BL, expected_kl_BL = run(two, kl_form)
  np.testing.assert_allclose(loss_A, [*expected_A, 0], rtol=1e-6)
  np.testing.assert_allclose(by_logp_BL, expected_logp_BL, rtol=1e-6)
  np.testing.assert_allclose(by_kl_BL, expected_kl_BL, rtol=1e-6)


@pytest.mark.parametrize('kl_form', KL_FORMS)
def test_an_offline_attempt_has_no_gradient_and_no_share_in_the_mean(kl_form):
  stage = STAGE_2 | dict(kl_weights=(0.2, 0.1), gamma=0.5)
  trained_BA = np.array([[False, True]] * 2 + [[True, True]] * 2)
  verdict_BA = VERDICT_BA[::-1].copy()  # the last two rows differ in attempt 1
  loss_A, _, *gradients = run(stage, kl_form, trained=trained_BA, verdict=verdict_BA)
  # The mean over the last two rows alone is the mean over the same rows said twice.
  twice = np.array([2, 3, 2, 3])
  scores = jax.tree.map(lambda x: x[twice], token_scores())
  twice_A, _, *twice_gradients = run(
    stage, kl_form, scores=scores, attempt=ATTEMPT_BL[twice], verdict=verdict_BA[twice]
  )
  np.testing.assert_allclose(loss_A[0], twice_A[0], rtol=1e-6)
  for got_BL, twice_BL in zip(gradients, twice_gradients, strict=True):
    assert not got_BL[:2][ATTEMPT_BL[:2] == 1].any()
    trained_BL = ATTEMPT_BL[2:] == 1
    np.testing.assert_allclose(got_BL[2:][trained_BL], 2 * twice_BL[2:][trained_BL], rtol=1e-6)
  assert gradients[0][ATTEMPT_BL == 1].any()


@pytest.mark.parametrize('kl_form', KL_FORMS)
def test_the_kl_of_a_row_that_could_not_be_graded_still_acts(kl_form):
  failed_BA = np.array([[E, E], [W, C], [W, W], [W, C]], np.int8)
  stage = STAGE_2 | dict(kl_weights=(0.2, 0.1))
  _, _, *gradients = run(stage, kl_form, verdict=failed_BA)
  _, _, *kl_alone = run(stage | dict(reward_weights=(0, 0), bonus=(0, 0)), kl_form)
  for got_BL, expected_BL in zip(gradients, kl_alone, strict=True):
    np.testing.assert_allclose(got_BL[0], expected_BL[0], rtol=1e-6)
  assert kl_alone[1 if kl_form == 'exact' else 0][0].any()


@pytest.mark.parametrize('kl_form', ['k1', 'k1_togo'])
def test_an_importance_weight_scales_its_own_token(kl_form):
  stage = STAGE_2 | dict(kl_weights=(0.2, 0.1), gamma=0.5)
  weight_BL = np.random.default_rng(3).uniform(0.5, 2, ATTEMPT_BL.shape).astype(np.float32)
  _, _, weighted_BL, _ = run(stage, kl_form, importance=weight_BL)
  _, _, plain_BL, _ = run(stage, kl_form)
  np.testing.assert_allclose(weighted_BL, weight_BL * plain_BL, rtol=1e-5)


def test_the_kl_sample_of_an_attempt_is_the_sum_of_its_log_ratios():
  scores = token_scores()
  _, ratio_BA, _, _ = run(STAGE_2)
  log_ratio_BL = np.asarray(scores.logp - scores.ref_logp)
  expected_BA = np.stack([(log_ratio_BL * (a == ATTEMPT_BL)).sum(1) for a in (1, 2)], axis=1)
  np.testing.assert_allclose(ratio_BA, expected_BA, rtol=1e-5)


def test_the_ratio_to_go_stops_at_the_end_of_the_attempt():
  ratio_BL = np.random.default_rng(4).normal(size=ATTEMPT_BL.shape).astype(np.float32)
  mask_BLA = losses.attempt_mask(jnp.asarray(ATTEMPT_BL), 2, jnp.float32)
  expected_BL = np.zeros_like(ratio_BL)
  for b, t in zip(*np.nonzero(ATTEMPT_BL), strict=True):
    expected_BL[b, t] = sum(ratio_BL[b, s] for s in range(t, 12) if ATTEMPT_BL[b, s] == ATTEMPT_BL[b, t])
  np.testing.assert_allclose(losses.log_ratio_to_go(jnp.asarray(ratio_BL), mask_BLA), expected_BL, atol=1e-6)


def test_the_importance_weight_is_the_ratio_up_to_its_cap():
  logp_BL = jnp.log(jnp.array([[0.5, 0.2, 0.9]]))
  sampler_BL = jnp.log(jnp.array([[0.25, 0.4, 0.1]]))
  np.testing.assert_allclose(losses.importance_weights(logp_BL, sampler_BL, 2.5), [[2.0, 0.5, 2.5]], rtol=1e-6)


def test_importance_weights_are_ones_when_they_are_off():
  logp_BL = jnp.array([[-1.0, -2.0]])
  assert losses.importance_weights(logp_BL, logp_BL - 1, 0.0).tolist() == [[1, 1]]


def test_no_gradient_flows_through_the_importance_weight():
  logp_BL = jnp.array([[-1.0, -2.0]])
  gradient_BL = jax.grad(lambda x: jnp.sum(losses.importance_weights(x, logp_BL, 2.0)))(logp_BL)
  assert not gradient_BL.any()


def test_an_unknown_kl_form_is_refused_by_name():
  with pytest.raises(ValueError, match="'k3'"):
    run(STAGE_2, 'k3')


def test_the_supervised_loss_is_the_mean_over_the_tokens_of_trained_attempts():
  logp_BL = -jnp.array([[1.0, 2.0, 4.0, 8.0], [16.0, 32.0, 64.0, 128.0]])
  attempt_BL = jnp.array([[0, 1, 2, 2], [1, 0, 2, 0]], jnp.int8)
  trained_BA = jnp.array([[False, True], [True, True]])
  mask_BLA = losses.trained_mask(attempt_BL, trained_BA, jnp.float32)
  assert losses.supervised_losses(logp_BL, mask_BLA, jnp.sum(mask_BLA)).tolist() == [16 / 4, (4 + 8 + 64) / 4]
  nothing = losses.trained_mask(attempt_BL, jnp.zeros_like(trained_BA), jnp.float32)
  assert losses.supervised_losses(logp_BL, nothing, jnp.sum(nothing)).tolist() == [0, 0]
