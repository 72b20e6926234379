# SPDX-License-Identifier: Apache-2.0
"""The loss of a batch: policy gradient and KL, one term per attempt.

Equations are numbered as in docs/method.md.
"""

from flax import struct
import jax
import jax.numpy as jnp

from score_jax.algorithm import rewards
from score_jax.states import StageValues


@struct.dataclass
class TokenScores:
  """Of a micro-batch's tokens; `logp` and `kl` carry a gradient."""

  logp: jax.Array  # f32 [B, L]  policy being trained
  ref_logp: jax.Array  # f32 [B, L]
  kl: jax.Array  # f32 [B, L]  KL(policy || reference) at each prefix; zeros unless 'exact'


@struct.dataclass
class Credit:
  """Detached weights of attempts, from the whole batch."""

  advantage: jax.Array  # f32 [B, A]  rewards.reward_credit
  reward_share: jax.Array  # f32 [B, A]
  trained: jax.Array  # bool [B, A]
  kl_share: jax.Array  # f32 [B, A]  1/n over trained rows


def attempt_mask(attempt_BL: jax.Array, attempts: int, dtype: jnp.dtype) -> jax.Array:
  """One-hot mask_BLA of each attempt's sampled tokens."""
  return (attempt_BL[..., None] == jnp.arange(1, attempts + 1, dtype=attempt_BL.dtype)[None, None]).astype(dtype)


def log_ratio_to_go(ratio_BL: jax.Array, mask_BLA: jax.Array) -> jax.Array:
  """Sums each token's log-ratios from itself to the end of its attempt (to-go form of eq. 5)."""
  ratio_BLA = ratio_BL[..., None] * mask_BLA
  togo_BLA = jnp.cumsum(ratio_BLA[:, ::-1], axis=1)[:, ::-1]
  return jnp.sum(togo_BLA * mask_BLA, axis=-1)


def attempt_losses(
  scores: TokenScores,
  attempt_BL: jax.Array,
  importance_BL: jax.Array,
  credit: Credit,
  stage: StageValues,
  *,
  kl_form: str,
  group: int,
) -> tuple[jax.Array, jax.Array]:
  """The loss of each attempt; their sum is minimised (eq. 4 and 5).

  The reward's part is -sum_b share_b advantage_b log pi(attempt). The KL's part depends on the form (l = log pi -
  log ref; "later" is the discounted KL of the attempts after this one):

    k1        [l + later], detached, leave-one-out, times log pi  unbiased gradient
    k1_togo   l from a token to its attempt's end, times log pi   the same, lower variance
    k2_seq    half the squared l of the attempt                   the same
    k2_token  half the squared l of each token                    approximation: prefixes fixed
    exact     full-vocabulary KL at each token                    approximation: prefixes fixed

  Whole groups of G rows must be present, for the KL's baseline.

  Returns:
    loss_A; ratio_BA, each attempt's summed log-ratio (its KL sample, in nats).
  """
  mask_BLA = attempt_mask(attempt_BL, credit.advantage.shape[1], scores.logp.dtype)
  weighted_BA = jnp.einsum('bl,bla->ba', scores.logp * importance_BL, mask_BLA)
  ratio_BL = scores.logp - scores.ref_logp
  ratio_BA = jnp.einsum('bl,bla->ba', jax.lax.stop_gradient(ratio_BL), mask_BLA)

  reward_A = -jnp.sum(credit.reward_share * credit.advantage * weighted_BA, axis=0)

  kl_BA = stage.kl_weights[None] * ratio_BA
  from_here_BA = rewards.discounted(kl_BA, stage.gamma)
  charged_BA = from_here_BA if kl_form == 'k1' else from_here_BA - kl_BA
  charge_BA, _ = rewards.leave_one_out(charged_BA, credit.trained, group)
  later_BA = charge_BA * weighted_BA
  own_BA = stage.kl_weights[None] * _own_kl(kl_form, scores, ratio_BL, mask_BLA, importance_BL)
  kl_A = jnp.sum(credit.kl_share * (later_BA + own_BA), axis=0)
  return reward_A + kl_A, ratio_BA


def _own_kl(kl_form, scores, ratio_BL, mask_BLA, importance_BL):
  """own_BA: the term of an attempt's own KL, before beta; 'k1' has it in its return."""
  if kl_form == 'k1':
    return jnp.zeros_like(mask_BLA[:, 0])
  if kl_form == 'k2_seq':
    return 0.5 * jnp.square(jnp.einsum('bl,bla->ba', ratio_BL, mask_BLA))
  if kl_form == 'k1_togo':
    togo_BL = jax.lax.stop_gradient(log_ratio_to_go(ratio_BL, mask_BLA))
    token_BL = togo_BL * importance_BL * scores.logp
  elif kl_form == 'k2_token':
    token_BL = 0.5 * jnp.square(ratio_BL)
  elif kl_form == 'exact':
    token_BL = scores.kl
  else:
    raise ValueError(f'unknown kl_form {kl_form!r}')
  return jnp.einsum('bl,bla->ba', token_BL, mask_BLA)


def importance_weights(logp_BL: jax.Array, sampler_logp_BL: jax.Array, cap: float) -> jax.Array:
  """Truncated importance weight per token, min(pi / sampler, cap), detached; ones when `cap` is 0.

  It corrects a sampler in lower precision than the trainer.
  """
  if cap == 0:
    return jnp.ones_like(logp_BL)
  return jnp.minimum(jnp.exp(jax.lax.stop_gradient(logp_BL) - sampler_logp_BL), cap)


def trained_mask(attempt_BL: jax.Array, trained_BA: jax.Array, dtype: jnp.dtype) -> jax.Array:
  """mask_BLA of the tokens of trained attempts."""
  mask_BLA = attempt_mask(attempt_BL, trained_BA.shape[1], dtype)
  return mask_BLA * trained_BA.astype(dtype)[:, None]


def supervised_losses(logp_BL: jax.Array, mask_BLA: jax.Array, tokens: jax.Array) -> jax.Array:
  """loss_A of a micro-batch, whose mean is over `tokens` of the whole batch."""
  return -jnp.einsum('bl,bla->a', logp_BL, mask_BLA) / jnp.maximum(tokens, 1)
