# SPDX-License-Identifier: Apache-2.0
"""The next token and its log-probability as two GPU kernels (Pallas, Triton), where the vocabulary is whole.

The first reads the logits once and sums up chunks of them, each relative to its own largest. The second draws a chunk
and then a token in it, a program a row, where a library takes a dozen kernels (`choose.next_token`). N rows have C
chunks of T entries.
"""

import functools

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
import jax.numpy as jnp

CHUNK = 512  # vocabulary entries that are summed before any is looked at alone
_TOGETHER = 16  # chunks of a program


def sampled(
  logits_NV: jax.Array, uniform_N: jax.Array, given_N: jax.Array, *, temperature: float, interpret: bool = False
) -> tuple[jax.Array, jax.Array]:
  """Returns i32 [N], the tokens given or else drawn by inverse CDF, and their log-probabilities at T=1, f32 [N].

  Args:
    logits_NV: f32.
    uniform_N: f32.
    given_N: i32; -1: none.
    temperature: above 0.
    interpret: for tests.
  """
  chunks = functools.partial(_chunks, interpret=interpret)
  drawn_from = chunks(logits_NV, temperature)
  likely_in = drawn_from if temperature == 1 else chunks(logits_NV, 1.0)
  return _drawn(logits_NV, uniform_N, given_N, drawn_from, likely_in, temperature, interpret)


def _chunks(logits_NV: jax.Array, temperature: float, *, interpret: bool) -> tuple[jax.Array, jax.Array]:
  """Returns the largest of each chunk of scaled logits, and the sum of exp(logit - largest), f32 [N, C]."""
  N, V = logits_NV.shape
  C = pl.cdiv(V, CHUNK)

  def kernel(logits_ref, most_ref, mass_ref):
    chunk_M = pl.program_id(1) * _TOGETHER + jnp.arange(_TOGETHER)
    entry_MT = chunk_M[:, None] * CHUNK + jnp.arange(CHUNK)[None]
    x_MT = triton.load(logits_ref.at[entry_MT], mask=entry_MT < V, other=-jnp.inf) / temperature
    most_M = jnp.max(x_MT, axis=1)
    mass_M = jnp.sum(jnp.exp(x_MT - jnp.where(most_M == -jnp.inf, 0.0, most_M)[:, None]), axis=1)
    triton.store(most_ref.at[chunk_M], most_M, mask=chunk_M < C)
    triton.store(mass_ref.at[chunk_M], mass_M, mask=chunk_M < C)

  sums = _of_row(C)
  return pl.pallas_call(
    kernel,
    grid=(N, pl.cdiv(C, _TOGETHER)),
    in_specs=[_of_row(V)],
    out_specs=[sums, sums],
    out_shape=[jax.ShapeDtypeStruct((N, C), jnp.float32)] * 2,
    compiler_params=triton.CompilerParams(num_warps=8, num_stages=1),
    interpret=interpret,
    name='chunks',
  )(logits_NV)


def _drawn(
  logits_NV: jax.Array,
  uniform_N: jax.Array,
  given_N: jax.Array,
  drawn_from: tuple[jax.Array, jax.Array],
  likely_in: tuple[jax.Array, jax.Array],
  temperature: float,
  interpret: bool,
) -> tuple[jax.Array, jax.Array]:
  """Returns what `sampled` does, from the sums of chunks by which it draws and those at T=1."""
  (N, V), C = logits_NV.shape, drawn_from[0].shape[1]

  def kernel(logits_ref, uniform_ref, given_ref, most_ref, mass_ref, most_1_ref, mass_1_ref, token_ref, logp_ref):
    chunk_C, entry_T = jnp.arange(pl.next_power_of_2(C)), jnp.arange(CHUNK)

    def sums(most_ref, mass_ref) -> tuple[jax.Array, jax.Array]:
      """Returns the largest logit, and the chunks' sums of exp(logit - largest)."""
      most_C = triton.load(most_ref.at[chunk_C], mask=chunk_C < C, other=-jnp.inf)
      mass_C = triton.load(mass_ref.at[chunk_C], mask=chunk_C < C, other=0.0)
      most = jnp.max(most_C)
      return most, mass_C * jnp.exp(most_C - most)

    most, sum_C = sums(most_ref, mass_ref)
    chunk, left = _inverse_cdf(sum_C, uniform_ref[...] * _last(jnp.cumsum(sum_C)))
    x_T = triton.load(logits_ref.at[chunk * CHUNK + entry_T], mask=chunk * CHUNK + entry_T < V, other=-jnp.inf)
    weight_T = jnp.exp(x_T / temperature - most)
    share = jnp.clip(left / jnp.sum(weight_T), 0, 1)
    inside, _ = _inverse_cdf(weight_T, share * _last(jnp.cumsum(weight_T)))
    token = jnp.where(given_ref[...] >= 0, given_ref[...], chunk * CHUNK + inside)
    most_1, sum_1_C = sums(most_1_ref, mass_1_ref)
    token_ref[...] = token
    logp_ref[...] = triton.load(logits_ref.at[token]) - most_1 - jnp.log(jnp.sum(sum_1_C))

  one = _of_row()
  return pl.pallas_call(
    kernel,
    grid=(N,),
    in_specs=[_of_row(V), one, one, *[_of_row(C)] * 4],
    out_specs=[one, one],
    out_shape=[jax.ShapeDtypeStruct((N,), jnp.int32), jax.ShapeDtypeStruct((N,), jnp.float32)],
    compiler_params=triton.CompilerParams(num_warps=4, num_stages=1),
    interpret=interpret,
    name='drawn',
  )(logits_NV, uniform_N, given_N, *drawn_from, *likely_in)


def _of_row(*shape: int) -> pl.BlockSpec:
  """Returns what a program sees of an array [N, ...]: its row, which the grid's first axis counts."""
  return pl.BlockSpec((None, *shape), lambda n, *_: (n, *(0,) * len(shape)))


def _inverse_cdf(weight_T: jax.Array, reached: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns the first entry whose cumulative weight exceeds `reached`, and what is left of that before the entry.

  The f32 sum may fall in places and end below its total: the last entry that weighs anything then.
  """
  entry_T, through_T = jnp.arange(weight_T.shape[0]), jnp.cumsum(weight_T)
  possible_T, size = weight_T > 0, weight_T.shape[0]
  first = jnp.min(jnp.where(possible_T & (through_T > reached), entry_T, size))
  chosen = jnp.where(first < size, first, jnp.max(jnp.where(possible_T, entry_T, 0)))
  return chosen, reached - jnp.sum(jnp.where(entry_T == chosen, through_T - weight_T, 0.0))


def _last(x_T: jax.Array) -> jax.Array:
  return jnp.sum(jnp.where(jnp.arange(x_T.shape[0]) == x_T.shape[0] - 1, x_T, 0.0))
