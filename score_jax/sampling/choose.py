# SPDX-License-Identifier: Apache-2.0
"""From logits to the next token by inverse CDF, one uniform a row; on GPUs by kernels of its own (`choose_gpu.py`).

Where the vocabulary lies on the mesh's axis 'tensor', a device draws among its own part, and parts are told apart by
their sums: logits stay where they are.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from score_jax.sampling import choose_gpu

_AXIS = 'tensor'


def sampled(
  logits_NV: jax.Array,
  uniform_N: jax.Array,
  given_N: jax.Array,
  *,
  temperature: float,
  kernel: str = '',
  mesh: Mesh | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Returns the tokens given or else drawn, i32 [N], and their log-probabilities at T=1, f32 [N].

  Args:
    logits_NV, uniform_N: f32.
    given_N: i32; -1: none.
    temperature: as in `next_token`.
    kernel: of `decode_attention.BLOCKS`; where it is 'triton', a GPU's kernels draw too.
    mesh: as in `next_token`.
  """
  if kernel == 'triton' and temperature:
    return choose_gpu.sampled(logits_NV, uniform_N, given_N, temperature=temperature)
  drawn_N = next_token(logits_NV, uniform_N, temperature=temperature, mesh=mesh)
  token_N = jnp.where(given_N >= 0, given_N, drawn_N)
  return token_N, log_probability(logits_NV, token_N, mesh=mesh)


def next_token(
  logits_BV: jax.Array, uniform_B: jax.Array, *, temperature: float, mesh: Mesh | None = None
) -> jax.Array:
  """Draws one token a row, token_B (i32).

  Temperature 0 is greedy; ties go to the lowest id. Inverse CDFs of a chunk, then of a token, cost less than one over
  the vocabulary. `mesh`: logits may lie on its axis 'tensor', None: they are whole.
  """
  if temperature == 0:
    if _parts(logits_BV, mesh) > 1:
      return _by_part(_most_likely, logits_BV)
    return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
  scaled_BV = logits_BV / temperature if temperature != 1 else logits_BV
  if _parts(logits_BV, mesh) > 1:
    return _by_part(_drawn_of_parts, scaled_BV, uniform_B)
  logits_BNT = _chunks(scaled_BV)
  most_B = _most(logits_BNT)
  return _drawn(logits_BNT, most_B, _mass(logits_BNT, most_B), uniform_B)


def log_probability(logits_BV: jax.Array, token_B: jax.Array, *, mesh: Mesh | None = None) -> jax.Array:
  """f32 [B]: log-probability of a token at T=1, however it was drawn; `mesh` as in `next_token`."""
  if _parts(logits_BV, mesh) > 1:
    return _by_part(_log_probability_of_parts, logits_BV, token_B)
  logit_B = jnp.take_along_axis(logits_BV, token_B[:, None], axis=-1)[:, 0]
  logits_BNT = _chunks(logits_BV)
  most_B = _most(logits_BNT)
  return logit_B - most_B - jnp.log(_total(_mass(logits_BNT, most_B)))


def _drawn(logits_BNT: jax.Array, most_B: jax.Array, sum_BN: jax.Array, uniform_B: jax.Array) -> jax.Array:
  chosen_B, share_B = _narrowed(sum_BN, uniform_B)
  inside_BT = jnp.take_along_axis(logits_BNT, chosen_B[:, None, None], axis=1)[:, 0]
  inside_BT = jnp.exp(inside_BT - most_B[:, None])
  share_B = share_B / jnp.sum(inside_BT, axis=-1)
  return chosen_B * logits_BNT.shape[-1] + inverse_cdf(inside_BT, jnp.clip(share_B, 0, 1))


def _narrowed(sum_BN: jax.Array, uniform_B: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns the part that a uniform falls into, and what is left of it within the part, in the sums' unit."""
  chosen_B = inverse_cdf(sum_BN, uniform_B)
  through_BN = jnp.cumsum(sum_BN, axis=-1)
  passed_B = jnp.take_along_axis(through_BN - sum_BN, chosen_B[:, None], axis=1)[:, 0]
  return chosen_B, uniform_B * through_BN[:, -1] - passed_B


# Of a vocabulary that lies on several devices.


def _parts(logits_BV: jax.Array, mesh: Mesh | None) -> int:
  """Returns how many devices the vocabulary lies on: an axis that they do not divide is whole on each."""
  parts = mesh.shape[_AXIS] if mesh is not None else 1
  return parts if logits_BV.shape[-1] % parts == 0 else 1


def _by_part(function: Callable, logits_BV: jax.Array, *others_B: jax.Array) -> jax.Array:
  specs = PartitionSpec(None, _AXIS), *(PartitionSpec(),) * len(others_B)
  local = jax.shard_map(function, in_specs=specs, out_specs=PartitionSpec(), axis_names={_AXIS}, check_vma=False)
  return local(logits_BV, *others_B)


def _most_likely(logits_BV: jax.Array) -> jax.Array:
  V = logits_BV.shape[-1]
  token_B = jnp.argmax(logits_BV, axis=-1).astype(jnp.int32) + jax.lax.axis_index(_AXIS) * V
  most_B = jnp.max(logits_BV, axis=-1)
  is_most_B = most_B == jax.lax.pmax(most_B, _AXIS)
  return jax.lax.pmin(jnp.where(is_most_B, token_B, jnp.iinfo(jnp.int32).max), _AXIS)


def _drawn_of_parts(logits_BV: jax.Array, uniform_B: jax.Array) -> jax.Array:
  logits_BNT, part = _chunks(logits_BV), jax.lax.axis_index(_AXIS)
  most_B = _most(logits_BNT)
  sum_BN = _mass(logits_BNT, most_B)
  sum_BS, _ = _sums_of_parts(most_B, sum_BN)
  chosen_B, left_B = _narrowed(sum_BS, uniform_B)
  # Parts that were not chosen draw in vain.
  own_B = jnp.take_along_axis(sum_BS, jnp.full_like(chosen_B, part)[:, None], axis=1)[:, 0]
  share_B = jnp.clip(left_B / jnp.maximum(own_B, jnp.finfo(own_B.dtype).tiny), 0, 1)
  token_B = _drawn(logits_BNT, most_B, sum_BN, share_B) + part * logits_BV.shape[-1]
  return jax.lax.psum(jnp.where(chosen_B == part, token_B, 0), _AXIS)


def _log_probability_of_parts(logits_BV: jax.Array, token_B: jax.Array) -> jax.Array:
  V = logits_BV.shape[-1]
  here_B = token_B - jax.lax.axis_index(_AXIS) * V
  logit_B = jnp.take_along_axis(logits_BV, jnp.clip(here_B, 0, V - 1)[:, None], axis=-1)[:, 0]
  logit_B = jax.lax.psum(jnp.where((here_B >= 0) & (here_B < V), logit_B, 0), _AXIS)
  logits_BNT = _chunks(logits_BV)
  most_B = _most(logits_BNT)
  sum_BS, most_of_all_B = _sums_of_parts(most_B, _mass(logits_BNT, most_B))
  return logit_B - most_of_all_B - jnp.log(_total(sum_BS))


def _sums_of_parts(most_B: jax.Array, sum_BN: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns the sums [B, S] of exp(logit - largest) of S parts, and the largest logit of all [B]: one exchange."""
  most_SB, sum_SB = jnp.moveaxis(jax.lax.all_gather(jnp.stack([most_B, _total(sum_BN)]), _AXIS), 1, 0)
  most_of_all_B = jnp.max(most_SB, axis=0)
  return (sum_SB * jnp.exp(most_SB - most_of_all_B[None])).T, most_of_all_B


def _chunks(logits_BV: jax.Array) -> jax.Array:
  """[B, N, T]; -inf fills the last chunk."""
  B, V = logits_BV.shape
  chunk = min(choose_gpu.CHUNK, V)
  padded_BV = jnp.pad(logits_BV, ((0, 0), (0, -V % chunk)), constant_values=-jnp.inf)
  return padded_BV.reshape(B, -1, chunk)


def _most(logits_BNT: jax.Array) -> jax.Array:
  return jnp.max(logits_BNT, axis=(1, 2))


def _mass(logits_BNT: jax.Array, most_B: jax.Array) -> jax.Array:
  """The sums [B, N] of exp(logit - largest) of chunks."""
  return jnp.sum(jnp.exp(logits_BNT - most_B[:, None, None]), axis=-1)


def _total(sum_BN: jax.Array) -> jax.Array:
  """The sum of sums, cumulative: of a sum of sums XLA makes one over the vocabulary."""
  return jnp.cumsum(sum_BN, axis=-1)[:, -1]


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
