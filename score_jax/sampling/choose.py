# SPDX-License-Identifier: Apache-2.0
"""From logits to the next token: one uniform per row, inverse CDF, optional temperature, top-k and top-p."""

import jax
import jax.numpy as jnp

# Vocabulary entries that are summed before any is looked at alone.
_CHUNK = 512


def next_token(
  logits_BV: jax.Array, uniform_B: jax.Array, *, temperature: float, top_k: int = 0, top_p: float = 1.0
) -> jax.Array:
  """Draws one token a row, token_B (i32).

  Args:
    logits_BV: f32.
    uniform_B: f32 in [0, 1); unused when greedy.
    temperature: 0 is greedy (ties go to the lowest id).
    top_k: keep the k most likely tokens; 0 keeps all. Ties with the k-th are kept.
    top_p: keep the smallest set of most likely tokens whose probability reaches p; 1 keeps all.
  """
  if temperature == 0:
    return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
  if not top_k and top_p == 1:
    return _by_chunks(logits_BV / temperature if temperature != 1 else logits_BV, uniform_B)
  probability_BV = jax.nn.softmax(logits_BV / temperature)
  if top_k:
    probability_BV = _keep_top_k(probability_BV, top_k)
  if top_p < 1:
    probability_BV = _keep_top_p(probability_BV, top_p)
  return inverse_cdf(probability_BV, uniform_B)


def log_probability(logits_BV: jax.Array, token_B: jax.Array) -> jax.Array:
  """Returns the f32 log-probability [B] of a token at T=1, however it was drawn."""
  logit_B = jnp.take_along_axis(logits_BV, token_B[:, None], axis=-1)[:, 0]
  most_B, sum_BN = _mass(_chunks(logits_BV))
  return logit_B - most_B - jnp.log(jnp.cumsum(sum_BN, axis=-1)[:, -1])


def _by_chunks(logits_BV: jax.Array, uniform_B: jax.Array) -> jax.Array:
  """Takes the inverse CDF in two levels: chunk of the vocabulary, then token.

  A cumulative sum over all of it costs several times as much. `log_probability` shares the sums.
  """
  logits_BNT = _chunks(logits_BV)
  most_B, sum_BN = _mass(logits_BNT)
  chosen_B = inverse_cdf(sum_BN, uniform_B)
  through_BN = jnp.cumsum(sum_BN, axis=-1)
  inside_BT = jnp.take_along_axis(logits_BNT, chosen_B[:, None, None], axis=1)[:, 0]
  inside_BT = jnp.exp(inside_BT - most_B[:, None])
  # What of u is left within the chunk, as a fraction of it.
  passed_B = jnp.take_along_axis(through_BN - sum_BN, chosen_B[:, None], axis=1)[:, 0]
  share_B = (uniform_B * through_BN[:, -1] - passed_B) / jnp.sum(inside_BT, axis=-1)
  return chosen_B * logits_BNT.shape[-1] + inverse_cdf(inside_BT, jnp.clip(share_B, 0, 1))


def _chunks(logits_BV: jax.Array) -> jax.Array:
  """Cuts logits into chunks [B, N, T], the last filled with -inf."""
  B, V = logits_BV.shape
  chunk = min(_CHUNK, V)
  padded_BV = jnp.pad(logits_BV, ((0, 0), (0, -V % chunk)), constant_values=-jnp.inf)
  return padded_BV.reshape(B, -1, chunk)


def _mass(logits_BNT: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns the largest logit [B], and the sums [B, N] of exp(logit - largest) of chunks.

  Sum them cumulatively: of a sum of sums XLA makes one over the vocabulary.
  """
  most_B = jnp.max(logits_BNT, axis=(1, 2))
  return most_B, jnp.sum(jnp.exp(logits_BNT - most_B[:, None, None]), axis=-1)


def inverse_cdf(probability_BV: jax.Array, uniform_B: jax.Array) -> jax.Array:
  """Returns the first token whose cumulative weight exceeds u times the total.

  A cumulative sum in f32 may fall in places and end below 1, so u scales its end, and takes possible tokens alone.
  """
  cdf_BV = jnp.cumsum(probability_BV, axis=-1)
  possible_BV = probability_BV > 0
  reached_BV = possible_BV & (cdf_BV > (uniform_B * cdf_BV[:, -1])[:, None])
  first_B, last_B = _outermost(reached_BV, possible_BV)
  return jnp.where(first_B < probability_BV.shape[-1], first_B, last_B)


def _outermost(reached_BV: jax.Array, possible_BV: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns (i32 [B]) the first token reached, else V; the last possible one."""
  V = reached_BV.shape[-1]
  token_V = jnp.arange(V, dtype=jnp.int32)
  if jax.default_backend() == 'gpu':  # which finds the least of integers sooner than an argmax over truth values
    first_B = jnp.min(jnp.where(reached_BV, token_V[None], V), axis=-1)
    return first_B, jnp.max(jnp.where(possible_BV, token_V[None], 0), axis=-1)
  # From the form above the TPU's partitioner concludes that tensor-parallel devices should share out the rows, and
  # gathers weights for it (tests/tpu_programs_test.py).
  first_B = jnp.where(jnp.any(reached_BV, axis=-1), jnp.argmax(reached_BV, axis=-1), V)
  last_B = V - 1 - jnp.argmax(possible_BV[:, ::-1], axis=-1)
  return first_B.astype(jnp.int32), last_B.astype(jnp.int32)


def _keep_top_k(probability_BV: jax.Array, k: int) -> jax.Array:
  k = min(k, probability_BV.shape[-1])
  threshold_B = jax.lax.top_k(probability_BV, k)[0][:, -1]
  return jnp.where(probability_BV >= threshold_B[:, None], probability_BV, 0)


def _keep_top_p(probability_BV: jax.Array, p: float) -> jax.Array:
  order_BV = jnp.argsort(-probability_BV, axis=-1)
  sorted_BV = jnp.take_along_axis(probability_BV, order_BV, axis=-1)
  total_B1 = jnp.sum(sorted_BV, axis=-1, keepdims=True)
  before_BV = jnp.cumsum(sorted_BV, axis=-1) - sorted_BV
  kept_BV = before_BV < p * total_B1
  rank_BV = jnp.argsort(order_BV, axis=-1)
  return jnp.where(jnp.take_along_axis(kept_BV, rank_BV, axis=-1), probability_BV, 0)
