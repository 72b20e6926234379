"""One-token attention over the live part of a cache, as a GPU kernel (Pallas, Triton).

The plain path reads whole cache buffers, most slots of which are not the row's for most of a rollout, and needs a
kernel for each of scores, softmax and sum. This one reads a row's slots from its first, or from its window's, to the
newest, once, around the end of the ring if they lie so. The range is cut into equal parts that run side by side and are
joined at the end (flash decoding).
"""

import functools
import math

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
import jax.numpy as jnp

from score_jax.models import attention
from score_jax.models.families import DecoderConfig

BLOCK = 64  # slots at a time, and what the slots of a cache are a multiple of
_QUERIES = 16  # rows of the smallest matrix product there is
_ENOUGH = 512  # programs that keep a large GPU busy


def fits(config: DecoderConfig, dtype: jnp.dtype) -> bool:
  """Whether the kernel can run a model: 16-bit numbers (a product of f32 would be rounded), heads of fitting sizes."""
  return (
    dtype.itemsize == 2
    and config.heads // config.kv_heads <= _QUERIES
    and config.head_width >= _QUERIES
    and config.head_width & (config.head_width - 1) == 0
  )


def attend_live(
  q_BHC: jax.Array,
  k_BSKC: jax.Array,
  v_BSKC: jax.Array,
  first_B: jax.Array,
  time: jax.Array,
  *,
  window: int,
  scale: float,
  softcap: float,
  interpret: bool = False,
) -> jax.Array:
  """Attention of one query a row, at `time`, to the row's tokens in a ring of slots (`attention.Cache`).

  Args:
    q_BHC: queries; C a power of two, H / K at most 16.
    k_BSKC: keys of all slots, the query's own written already; S a multiple of BLOCK.
    v_BSKC: values.
    first_B: i32, time of each row's first token; at most S tokens back.
    time: i32 [], the query's.
    window: newest tokens that are seen; 0: all.
    scale: on query-key products.
    softcap: c tanh(x / c) on them; 0: off.
    interpret: run as plain JAX, for tests without a GPU.

  Returns:
    out_BHC in the dtype of the queries.
  """
  B, H, C = q_BHC.shape
  S, K = k_BSKC.shape[1:3]
  M = H // K  # query heads per key/value head
  parts = max(1, min(math.ceil(_ENOUGH / (B * K)), 16, S // BLOCK))
  if S % BLOCK:
    raise ValueError(f'a cache of {S} slots is not a multiple of {BLOCK}')
  length_B = time + 1 - first_B
  length_B = jnp.minimum(length_B, window) if window else length_B
  begin_B = (time + 1 - length_B) % S
  kernel = functools.partial(_kernel, heads=M, slots=S, parts=parts, scale=scale, softcap=softcap)
  buffer = pl.BlockSpec((None, S, None, C), lambda b, k, p: (b, 0, k, 0))
  result = (B, K, parts, M)
  out, most, total = pl.pallas_call(
    kernel,
    grid=(B, K, parts),
    in_specs=[
      pl.BlockSpec((None, None, _QUERIES, C), lambda b, k, p: (b, k, 0, 0)),
      buffer,
      buffer,
      pl.BlockSpec((None,), lambda b, k, p: (b,)),
      pl.BlockSpec((None,), lambda b, k, p: (b,)),
    ],
    out_specs=[
      pl.BlockSpec((None, None, None, _QUERIES, C), lambda b, k, p: (b, k, p, 0, 0)),
      pl.BlockSpec((None, None, None, _QUERIES), lambda b, k, p: (b, k, p, 0)),
      pl.BlockSpec((None, None, None, _QUERIES), lambda b, k, p: (b, k, p, 0)),
    ],
    out_shape=[
      jax.ShapeDtypeStruct((*result, C), jnp.float32 if parts > 1 else q_BHC.dtype),
      jax.ShapeDtypeStruct(result, jnp.float32),
      jax.ShapeDtypeStruct(result, jnp.float32),
    ],
    compiler_params=triton.CompilerParams(num_warps=4, num_stages=3),
    interpret=interpret,
    name='attend_live',
  )(q_BHC.reshape(B, K, M, C), k_BSKC, v_BSKC, begin_B, length_B)
  if parts == 1:
    return out.reshape(B, H, C)
  share = jnp.exp(most - jnp.max(most, axis=2, keepdims=True))
  joined = jnp.sum(out * share[..., None], axis=2) / jnp.sum(total * share, axis=2)[..., None]
  return joined.reshape(B, H, C).astype(q_BHC.dtype)


def _kernel(
  q_ref, k_ref, v_ref, begin_ref, length_ref, out_ref, most_ref, total_ref, *, heads, slots, parts, scale, softcap
):
  """One key/value head of one row, one part of its live slots: unnormalised output, maximum and sum of its softmax."""
  length = length_ref[...]
  block0, skipped = begin_ref[...] // BLOCK, begin_ref[...] % BLOCK  # slots of the first block before the row's own
  blocks = pl.cdiv(skipped + length, BLOCK)
  per_part = pl.cdiv(blocks, parts)
  begin = pl.program_id(2) * per_part
  end = jnp.minimum(begin + per_part, blocks)
  rows = pl.ds(0, _QUERIES)
  real = jnp.arange(_QUERIES) < heads
  q = triton.load(q_ref.at[rows, :], mask=real[:, None], other=0.0)

  def body(n, carry):
    out, most, total = carry
    token = n * BLOCK + jnp.arange(BLOCK) - skipped  # counted from the row's first
    here = pl.ds((block0 + n) % (slots // BLOCK) * BLOCK, BLOCK)
    live = (token >= 0) & (token < length)
    k = triton.load(k_ref.at[here, :], mask=live[:, None], other=0.0)
    v = triton.load(v_ref.at[here, :], mask=live[:, None], other=0.0)
    score = attention.softcapped(triton.dot(q, k.T) * scale, softcap)
    score = jnp.where(live[None, :], score, attention.HIDDEN)
    most_new = jnp.maximum(most, jnp.max(score, axis=-1))
    weight = jnp.exp(score - most_new[:, None])
    shrink = jnp.exp(most - most_new)
    out = out * shrink[:, None] + triton.dot(weight.astype(v.dtype), v)
    return out, most_new, total * shrink + jnp.sum(weight, axis=-1)

  empty = (
    jnp.zeros(q.shape, jnp.float32),
    jnp.full((_QUERIES,), attention.HIDDEN, jnp.float32),
    jnp.zeros((_QUERIES,), jnp.float32),
  )
  out, most, total = jax.lax.fori_loop(begin, end, body, empty)
  if parts == 1:
    out = out / total[:, None]
  triton.store(out_ref.at[rows, :], out.astype(out_ref.dtype), mask=real[:, None])
  triton.store(most_ref.at[rows], most, mask=real)
  triton.store(total_ref.at[rows], total, mask=real)
