# SPDX-License-Identifier: Apache-2.0
"""One decode step's attention as a GPU kernel (Pallas, Triton): rotate, write to the cache, attend.

Launches are most of the plain path's time at small batches. This kernel reads a row's live slots once, in parts that
are joined at the end (flash decoding). The first part attends to the newest token and writes it.
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
_QUERIES = 16  # rows of the smallest matrix product
_ENOUGH = 256  # programs that keep a large GPU busy


def fits(config: DecoderConfig, dtype: jnp.dtype) -> bool:
  """Tells whether the kernel can run a model: 16 bit (it rounds), and fitting heads."""
  width, queries = config.head_width, config.heads // config.kv_heads
  return dtype.itemsize == 2 and queries <= _QUERIES and width >= 2 * _QUERIES and width & (width - 1) == 0


def attend_live(
  q_BHC: jax.Array,
  k_BKC: jax.Array,
  v_BKC: jax.Array,
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
  """Attends from one new token a row to the row's tokens in its ring of slots.

  C is a power of two, H / K at most 16, S a multiple of BLOCK. It rotates by `view` [B, 1, C/2]. A row's token comes to
  slot i32 `write_B`; `length_B` counts its tokens with the new one, at most S. A token sees the newest `window` (0:
  all). `softcap` 0 is off; `interpret` is for tests.

  Returns:
    out_BHC in the dtype of the queries; the caches, updated in place.
  """
  B, H, C = q_BHC.shape
  S, K = k_BSKC.shape[1:3]
  if S % BLOCK:
    raise ValueError(f'a cache of {S} slots is not a multiple of {BLOCK}')
  parts = max(1, min(math.ceil(_ENOUGH / (B * K)), 16, S // BLOCK))
  length_B = jnp.minimum(length_B, window) if window else length_B
  scalars_B3 = jnp.stack([(write_B + 1 - length_B) % S, length_B - 1, write_B], axis=1)
  qkv_BNC = jnp.concatenate([q_BHC, k_BKC, v_BKC], axis=1)
  whole = pl.BlockSpec((None, H + 2 * K, C), lambda b, k, p: (b, 0, 0))
  rotation = pl.BlockSpec((None, None, C // 2), lambda b, k, p: (b, 0, 0))
  buffer = pl.BlockSpec((None, S, None, C), lambda b, k, p: (b, 0, k, 0))
  attended = pl.BlockSpec((None, None, None, _QUERIES, C), lambda b, k, p: (b, k, p, 0, 0))
  summary = pl.BlockSpec((None, None, None, _QUERIES), lambda b, k, p: (b, k, p, 0))
  result = (B, K, parts, H // K)
  out, most, total, k_BSKC, v_BSKC = pl.pallas_call(
    functools.partial(_kernel, heads=(H, K), slots=S, parts=parts, scale=scale, softcap=softcap),
    grid=(B, K, parts),
    in_specs=[whole, rotation, rotation, pl.BlockSpec((None, 3), lambda b, k, p: (b, 0)), buffer, buffer],
    out_specs=[attended, summary, summary, buffer, buffer],
    out_shape=[
      jax.ShapeDtypeStruct((*result, C), jnp.float32 if parts > 1 else q_BHC.dtype),
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
  return out.reshape(B, H, C).astype(q_BHC.dtype), k_BSKC, v_BSKC


def _kernel(*refs, heads, slots, parts, scale, softcap):
  qkv_ref, cos_ref, sin_ref, scalars_ref, k_ref, v_ref = refs[:6]
  out_ref, most_ref, total_ref, k_out_ref, v_out_ref = refs[6:]
  (H, K), k_head, part = heads, pl.program_id(1), pl.program_id(2)
  C = qkv_ref.shape[-1]
  begin, length, slot = (scalars_ref[i] for i in range(3))  # of cached tokens; of the newest
  left, right, all_of = pl.ds(0, C // 2), pl.ds(C // 2, C // 2), pl.ds(0, C)
  cos, sin = cos_ref[...][None], sin_ref[...][None]

  def rotated(load):
    first, second = load(left).astype(jnp.float32), load(right).astype(jnp.float32)
    return tuple(x.astype(k_ref.dtype) for x in (first * cos - second * sin, second * cos + first * sin))

  real = jnp.arange(_QUERIES) < H // K
  own = pl.ds(k_head * (H // K), _QUERIES)
  q1, q2 = rotated(lambda half: triton.load(qkv_ref.at[own, half], mask=real[:, None], other=0.0))
  k1, k2 = rotated(lambda half: triton.load(qkv_ref.at[H + k_head, half])[None])
  v = triton.load(qkv_ref.at[H + K + k_head, all_of])

  @pl.when(part == 0)
  def _():
    triton.store(k_out_ref.at[slot, left], k1[0])
    triton.store(k_out_ref.at[slot, right], k2[0])
    triton.store(v_out_ref.at[slot, all_of], v)

  def summed(q, k):
    return jnp.sum(q.astype(jnp.float32) * k.astype(jnp.float32), axis=-1)

  def body(n, carry):
    out, most, total = carry
    token = n * BLOCK + jnp.arange(BLOCK) - skipped  # counted from the row's first
    here = pl.ds((block0 + n) % (slots // BLOCK) * BLOCK, BLOCK)
    live = (token >= 0) & (token < length)
    k1, k2 = (triton.load(k_ref.at[here, half], mask=live[:, None], other=0.0) for half in (left, right))
    v = triton.load(v_ref.at[here, all_of], mask=live[:, None], other=0.0)
    score = attention.softcapped((triton.dot(q1, k1.T) + triton.dot(q2, k2.T)) * scale, softcap)
    score = jnp.where(live[None, :], score, attention.HIDDEN)
    most_new = jnp.maximum(most, jnp.max(score, axis=-1))
    weight = jnp.exp(score - most_new[:, None])
    shrink = jnp.exp(most - most_new)
    out = out * shrink[:, None] + triton.dot(weight.astype(v.dtype), v)
    return out, most_new, total * shrink + jnp.sum(weight, axis=-1)

  block0, skipped = begin // BLOCK, begin % BLOCK  # slots of the first block before the row's own
  blocks = pl.cdiv(skipped + length, BLOCK)
  per_part = pl.cdiv(blocks, parts)
  newest = attention.softcapped((summed(q1, k1) + summed(q2, k2)) * scale, softcap)
  is_first = (part == 0).astype(jnp.float32)
  before = (
    is_first * jnp.broadcast_to(v.astype(jnp.float32)[None], (_QUERIES, C)),
    jnp.where(part == 0, newest, attention.HIDDEN),
    jnp.full((_QUERIES,), 1.0, jnp.float32) * is_first,
  )
  out, most, total = jax.lax.fori_loop(part * per_part, jnp.minimum((part + 1) * per_part, blocks), body, before)
  if parts == 1:
    out = out / total[:, None]
  rows = pl.ds(0, _QUERIES)
  triton.store(out_ref.at[rows, all_of], out.astype(out_ref.dtype), mask=real[:, None])
  triton.store(most_ref.at[rows], most, mask=real)
  triton.store(total_ref.at[rows], total, mask=real)
