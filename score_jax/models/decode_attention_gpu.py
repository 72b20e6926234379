# SPDX-License-Identifier: Apache-2.0
"""A decode step's attention as a GPU kernel (Pallas, Triton): rotate, write to the cache, attend.

Launches are most of the plain path's time at small batches. This kernel reads a row's live slots once, in parts that
are joined at the end (flash decoding). The first part attends to the new tokens and writes them. Every row has an index
of its own in its ring, and brings Q tokens.
"""

import functools
import math

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
import jax.numpy as jnp

from score_jax.models import attention
from score_jax.models.attention import View
from score_jax.models.families import DecoderConfig

BLOCK = 64  # slots at a time; it divides the slots of a cache
_SMALLEST = 16  # rows of a matrix product
_ENOUGH = 256  # programs that keep a large GPU busy


def fits(config: DecoderConfig, dtype: jnp.dtype) -> bool:
  """Tells whether the kernel can run a model: 16 bit (it rounds), and fitting heads."""
  width, queries = config.head_width, config.heads // config.kv_heads
  return dtype.itemsize == 2 and queries <= _SMALLEST and width >= 2 * _SMALLEST and width & (width - 1) == 0


def attend_live(
  q_BQHC: jax.Array,
  k_BQKC: jax.Array,
  v_BQKC: jax.Array,
  view: View,
  k_BSKC: jax.Array,
  v_BSKC: jax.Array,
  write_B: jax.Array,
  length_B: jax.Array,
  *,
  window: int,
  scale: float,
  softcap: float,
  interpret: bool = False,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Attends from Q new tokens a row to the row's tokens in its ring of slots and to each other.

  C is a power of two, H / K at most 16, S a multiple of BLOCK. It rotates by `view` [B, Q, C/2]. Token i of a row comes
  to slot (write_B + i) mod S; i32 `length_B` counts the row's tokens with the new ones, at most S. A query sees the
  newest `window` (0: all) up to itself. `softcap` 0 is off; `interpret` is for tests.

  Returns:
    out_BQHC in the dtype of the queries; the caches, updated in row.

  Raises:
    ValueError: S is no multiple of BLOCK.
  """
  B, Q, H, C = q_BQHC.shape
  S, K = k_BSKC.shape[1:3]
  if S % BLOCK:
    raise ValueError(f'a cache of {S} slots is not a multiple of {BLOCK}')
  M = H // K  # query heads of a cache's head
  queries = _tile(Q * M)
  parts = max(1, min(math.ceil(_ENOUGH / (B * K)), 16, S // BLOCK))
  cached_B = length_B - Q
  seen_B = jnp.minimum(cached_B, window - 1) if window else cached_B  # by the first query
  scalars_B3 = jnp.stack([(write_B - seen_B) % S, seen_B, write_B], axis=1)
  qkv_BNC = jnp.concatenate([q_BQHC, k_BQKC, v_BQKC], axis=2).reshape(B, Q * (H + 2 * K), C)
  whole = pl.BlockSpec((None, Q * (H + 2 * K), C), lambda b, k, p: (b, 0, 0))
  rotation = pl.BlockSpec((None, Q, C // 2), lambda b, k, p: (b, 0, 0))
  buffer = pl.BlockSpec((None, S, None, C), lambda b, k, p: (b, 0, k, 0))
  attended = pl.BlockSpec((None, None, None, queries, C), lambda b, k, p: (b, k, p, 0, 0))
  summary = pl.BlockSpec((None, None, None, queries), lambda b, k, p: (b, k, p, 0))
  result = (B, K, parts, Q * M)
  counts = dict(heads=(H, K), tokens=Q, slots=S, parts=parts, window=window)
  out, most, total, k_BSKC, v_BSKC = pl.pallas_call(
    functools.partial(_kernel, **counts, scale=scale, softcap=softcap),
    grid=(B, K, parts),
    in_specs=[whole, rotation, rotation, pl.BlockSpec((None, 3), lambda b, k, p: (b, 0)), buffer, buffer],
    out_specs=[attended, summary, summary, buffer, buffer],
    out_shape=[
      jax.ShapeDtypeStruct((*result, C), jnp.float32 if parts > 1 else q_BQHC.dtype),
      *[jax.ShapeDtypeStruct(result, jnp.float32)] * 2,
      *(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (k_BSKC, v_BSKC)),
    ],
    input_output_aliases={4: 3, 5: 4},
    compiler_params=triton.CompilerParams(num_warps=4, num_stages=3),
    interpret=interpret,
    name='attend_live',
  )(qkv_BNC, view.cos, view.sin, scalars_B3, k_BSKC, v_BSKC)
  if parts > 1:
    share = jnp.exp(most - jnp.max(most, axis=2, keepdims=True))
    out = jnp.sum(out * share[..., None], axis=2) / jnp.sum(total * share, axis=2)[..., None]
  out_BQKMC = out.reshape(B, K, Q, M, C).swapaxes(1, 2)
  return out_BQKMC.reshape(B, Q, H, C).astype(q_BQHC.dtype), k_BSKC, v_BSKC


def _tile(rows: int) -> int:
  """Returns the rows of a matrix product that hold these."""
  return max(_SMALLEST, pl.next_power_of_2(rows))


def _crossed(row_N: jax.Array, columns: pl.Slice) -> tuple[jax.Array, jax.Array]:
  """Returns indices [N, C] of any rows and of columns side by side."""
  return tuple(jnp.broadcast_arrays(row_N[:, None], columns.start + jnp.arange(columns.size)[None]))


def _kernel(*refs, heads, tokens, slots, parts, window, scale, softcap):
  qkv_ref, cos_ref, sin_ref, scalars_ref, k_ref, v_ref = refs[:6]
  out_ref, most_ref, total_ref, k_out_ref, v_out_ref = refs[6:]
  (H, K), Q, k_head, part = heads, tokens, pl.program_id(1), pl.program_id(2)
  C, M = qkv_ref.shape[-1], H // K
  begin, seen, slot = (scalars_ref[i] for i in range(3))  # of cached tokens; of the first new one
  left, right, all_of = pl.ds(0, C // 2), pl.ds(C // 2, C // 2), pl.ds(0, C)
  query_N, new_T = jnp.arange(_tile(Q * M)), jnp.arange(_tile(Q) if Q > 1 else 1)
  token_N = jnp.minimum(query_N // M, Q - 1)  # of each query
  is_query, is_new = query_N < Q * M, new_T < Q
  row_T = jnp.minimum(new_T, Q - 1)

  def load(row, columns, real):
    return triton.load(qkv_ref.at[_crossed(row, columns)], mask=real[:, None], other=0.0)

  def angle(ref, token):  # of one token, all the same
    return ref[0][None] if Q == 1 else triton.load(ref.at[_crossed(token, left)])

  def rotated(row, token, real):
    cos, sin = angle(cos_ref, token), angle(sin_ref, token)
    first, second = (load(row, half, real).astype(jnp.float32) for half in (left, right))
    return tuple(x.astype(k_ref.dtype) for x in (first * cos - second * sin, second * cos + first * sin))

  each = H + 2 * K  # heads of a token
  q1, q2 = rotated(token_N * each + k_head * M + query_N % M, token_N, is_query)
  k1, k2 = rotated(row_T * each + H + k_head, row_T, is_new)
  v = load(row_T * each + H + K + k_head, all_of, is_new)

  @pl.when(part == 0)
  def _():
    here = (slot + new_T) % slots
    for ref, columns, new in ((k_out_ref, left, k1), (k_out_ref, right, k2), (v_out_ref, all_of, v)):
      triton.store(ref.at[_crossed(here, columns)], new, mask=is_new[:, None])

  def product(x, y):  # one row y is too small for a product of matrices
    if y.shape[0] > 1:
      return triton.dot(x, y.T)
    return jnp.sum(x.astype(jnp.float32) * y.astype(jnp.float32), axis=-1, keepdims=True)

  def scores(k1, k2, visible):
    score = attention.softcapped((product(q1, k1) + product(q2, k2)) * scale, softcap)
    return jnp.where(visible, score, attention.HIDDEN)

  def body(n, carry):
    out, most, total = carry
    cached = n * BLOCK + jnp.arange(BLOCK) - skipped  # counted from the first that is seen
    here = pl.ds((block0 + n) % (slots // BLOCK) * BLOCK, BLOCK)
    live = (cached >= 0) & (cached < seen)
    k1, k2 = (triton.load(k_ref.at[here, half], mask=live[:, None], other=0.0) for half in (left, right))
    v = triton.load(v_ref.at[here, all_of], mask=live[:, None], other=0.0)
    visible = live[None, :]
    if window:
      visible &= seen - cached[None, :] + token_N[:, None] < window
    score = scores(k1, k2, visible)
    most_new = jnp.maximum(most, jnp.max(score, axis=-1))
    weight = jnp.exp(score - most_new[:, None])
    shrink = jnp.exp(most - most_new)
    out = out * shrink[:, None] + triton.dot(weight.astype(v.dtype), v)
    return out, most_new, total * shrink + jnp.sum(weight, axis=-1)

  block0, skipped = begin // BLOCK, begin % BLOCK  # slots of the first block before those seen
  blocks = pl.cdiv(skipped + seen, BLOCK)
  per_part = pl.cdiv(blocks, parts)
  age = token_N[:, None] - new_T[None, :]
  score = scores(k1, k2, (age >= 0) & (age < (window or Q)) & (part == 0))
  most = jnp.max(score, axis=-1)
  weight = jnp.where(part == 0, jnp.exp(score - most[:, None]), 0.0)
  newest = triton.dot(weight.astype(v.dtype), v) if Q > 1 else weight * v.astype(jnp.float32)
  before = newest, most, jnp.sum(weight, axis=-1)
  out, most, total = jax.lax.fori_loop(part * per_part, jnp.minimum((part + 1) * per_part, blocks), body, before)
  if parts == 1:
    out = out / total[:, None]
  rows = pl.ds(0, query_N.size)
  triton.store(out_ref.at[rows, all_of], out.astype(out_ref.dtype), mask=is_query[:, None])
  triton.store(most_ref.at[rows], most, mask=is_query)
  triton.store(total_ref.at[rows], total, mask=is_query)
