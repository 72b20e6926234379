# SPDX-License-Identifier: Apache-2.0
"""From logits to the next token by inverse CDF, one uniform a row."""

import jax
import jax.numpy as jnp

_CHUNK = 512  # vocabulary entries that are summed before any is looked at alone


def next_token(logits_BV: jax.Array, uniform_B: jax.Array, *, temperature: float) -> jax.Array:
  """Draws one token a row, token_B (i32).

  Temperature 0 is greedy; ties go to the lowest id. Inverse CDFs of a chunk, then of a token, cost less than one over
  the vocabulary.
  """
  if temperature == 0:
    return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
  logits_BNT = _chunks(logits_BV / temperature if temperature != 1 else logits_BV)
  most_B, sum_BN = _mass(logits_BNT)
  chosen_B = inverse_cdf(sum_BN, uniform_B)
  through_BN = jnp.cumsum(sum_BN, axis=-1)
  inside_BT = jnp.take_along_axis(logits_BNT, chosen_B[:, None, None], axis=1)[:, 0]
  inside_BT = jnp.exp(inside_BT - most_B[:, None])
  # What of u is left within the chunk, as a fraction of it.
  passed_B = jnp.take_along_axis(through_BN - sum_BN, chosen_B[:, None], axis=1)[:, 0]
  share_B = (uniform_B * through_BN[:, -1] - passed_B) / jnp.sum(inside_BT, axis=-1)
  return chosen_B * logits_BNT.shape[-1] + inverse_cdf(inside_BT, jnp.clip(share_B, 0, 1))


def log_probability(logits_BV: jax.Array, token_B: jax.Array) -> jax.Array:
  """f32 [B]: log-probability of a token at T=1, however it was drawn."""
  logit_B = jnp.take_along_axis(logits_BV, token_B[:, None], axis=-1)[:, 0]
  most_B, sum_BN = _mass(_chunks(logits_BV))
  return logit_B - most_B - jnp.log(jnp.cumsum(sum_BN, axis=-1)[:, -1])


def _chunks(logits_BV: jax.Array) -> jax.Array:
  """[B, N, T]; -inf fills the last chunk."""
  B, V = logits_BV.shape
  chunk = min(_CHUNK, V)
  padded_BV = jnp.pad(logits_BV, ((0, 0), (0, -V % chunk)), constant_values=-jnp.inf)
  return padded_BV.reshape(B, -1, chunk)


def _mass(logits_BNT: jax.Array) -> tuple[jax.Array, jax.Array]:
  """The largest logit [B], and the sums [B, N] of exp(logit - largest) of chunks.

  Sum these cumulatively: of a sum of sums XLA makes one over the vocabulary.
  """
  most_B = jnp.max(logits_BNT, axis=(1, 2))
  return most_B, jnp.sum(jnp.exp(logits_BNT - most_B[:, None, None]), axis=-1)


def inverse_cdf(probability_BV: jax.Array, uniform_B: jax.Array) -> jax.Array:
  """Returns the first token whose cumulative weight exceeds u times the total.

  The f32 sum may fall in places and end below 1.
  """
  cdf_BV = jnp.cumsum(probability_BV, axis=-1)
  possible_BV = probability_BV > 0
  reached_BV = possible_BV & (cdf_BV > (uniform_B * cdf_BV[:, -1])[:, None])
  first_B, last_B = _outermost(reached_BV, possible_BV)
  return jnp.where(first_B < probability_BV.shape[-1], first_B, last_B)


def _outermost(reached_BV: jax.Array, possible_BV: jax.Array) -> tuple[jax.Array, jax.Array]:
  """i32 [B]: the first token reached, else V; the last possible one."""
  V = reached_BV.shape[-1]
  token_V = jnp.arange(V, dtype=jnp.int32)
  if jax.default_backend() == 'gpu':  # faster there than an argmax
    first_B = jnp.min(jnp.where(reached_BV, token_V[None], V), axis=-1)
    return first_B, jnp.max(jnp.where(possible_BV, token_V[None], 0), axis=-1)
  # The form above makes TPUs gather weights (tests/tpu_programs_test.py).
  first_B = jnp.where(jnp.any(reached_BV, axis=-1), jnp.argmax(reached_BV, axis=-1), V)
  last_B = V - 1 - jnp.argmax(possible_BV[:, ::-1], axis=-1)
  return first_B.astype(jnp.int32), last_B.astype(jnp.int32)
