# SPDX-License-Identifier: Apache-2.0
"""A decode step's attention as a GPU kernel (Pallas, Triton): rotate, write to the cache, attend.

Launches are most of the plain path's time at small batches. This kernel reads a row's live slots once, in parts that
are joined at the end (flash decoding). The first part attends to the new tokens and writes them. Every row has an index
of its own in its ring, and brings up to Q of N tokens, which lie in one line.
"""

from collections.abc import Iterator
import dataclasses
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
_ENOUGH, _ENOUGH_LONG = 256, 128  # programs that keep a large GPU busy: of one token each, of several
_WHOLE = 128  # columns up to which a product of whole vectors of several tokens takes less time than two of halves
_NARROW, _WIDE = triton.CompilerParams(num_warps=4, num_stages=3), triton.CompilerParams(num_warps=8, num_stages=2)


def fits(config: DecoderConfig, dtype: jnp.dtype) -> bool:
  """Tells whether the kernel can run a model: 16 bit (it rounds), and fitting heads."""
  width, queries = config.head_width, config.heads // config.kv_heads
  return dtype.itemsize == 2 and queries <= _SMALLEST and width >= 2 * _SMALLEST and width & (width - 1) == 0


def attend_live(
  qkv_PNE: jax.Array,
  bias_E: jax.Array | None,
  view: View,
  k_BSKC: jax.Array,
  v_BSKC: jax.Array,
  write_B: jax.Array,
  length_B: jax.Array,
  number_BQ: jax.Array | None = None,
  *,
  dtype: jnp.dtype,
  window: int,
  scale: float,
  softcap: float,
  interpret: bool = False,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Attends from up to Q new tokens a row to the row's tokens in its ring of slots and to each other.

  C is a power of two, H / K at most 16, S a multiple of BLOCK. Token i of a row comes to slot (write_B + i) mod S; i32
  `length_B` counts the row's tokens with Q new ones, at most S. A query sees the newest `window` (0: all) up to itself.

  Args:
    qkv_PNE: queries, keys and values of N tokens side by side, E = (H + 2 K) C, as P terms of a sum.
    bias_E: what is added to it; both are rounded to `dtype`. None: nothing.
    view: by which it rotates, [B, Q, C/2].
    k_BSKC, v_BSKC: the caches.
    write_B, length_B: i32.
    number_BQ: i32, which of the N tokens a row has; -1: none, nor any after it. None: Q = N / B each, in order.
    dtype, window, scale: of the products; of the layer.
    softcap: 0 is off.
    interpret: for tests.

  Returns:
    out_NHC in `dtype`; the caches, updated in row.

  Raises:
    ValueError: S is no multiple of BLOCK.
  """
  (P, N, E), (B, S, K, C), Q = qkv_PNE.shape, k_BSKC.shape, view.cos.shape[1]
  if S % BLOCK:
    raise ValueError(f'a cache of {S} slots is not a multiple of {BLOCK}')
  each = E // C  # heads of a token
  H = each - 2 * K
  parts = max(1, min(math.ceil((_ENOUGH if Q == 1 else _ENOUGH_LONG) / (B * K)), 16, S // BLOCK))
  cached_B = length_B - Q
  seen_B = jnp.minimum(cached_B, window - 1) if window else cached_B  # by the first query
  scalars = jnp.stack([(write_B - seen_B) % S, seen_B, write_B], axis=1)
  if number_BQ is not None:
    scalars = jnp.concatenate([scalars, number_BQ], axis=1)
  biases = [] if bias_E is None else [bias_E.reshape(each, C)]
  rotation = pl.BlockSpec((None, Q, C // 2), lambda b, k, p: (b, 0, 0))
  buffer = pl.BlockSpec((None, S, None, C), lambda b, k, p: (b, 0, k, 0))
  own = pl.BlockSpec((None, scalars.shape[1]), lambda b, k, p: (b, 0))
  line = [pl.BlockSpec((P * N * each, C), lambda b, k, p: (0, 0))]
  line += [pl.BlockSpec((each, C), lambda b, k, p: (0, 0))] * len(biases)
  attended = pl.BlockSpec((N * H * parts, C), lambda b, k, p: (0, 0))
  summary = pl.BlockSpec((N * H * parts,), lambda b, k, p: (0,))
  sizes = _Sizes(H, K, N, Q, P, S, parts, window, number_BQ is None, dtype, scale, softcap)
  out, most, total, k_BSKC, v_BSKC = pl.pallas_call(
    functools.partial(_kernel, sizes=sizes),
    grid=(B, K, parts),
    in_specs=[*line, rotation, rotation, own, buffer, buffer],
    out_specs=[attended, summary, summary, buffer, buffer],
    out_shape=[
      jax.ShapeDtypeStruct((N * H * parts, C), jnp.float32 if parts > 1 else dtype),
      *[jax.ShapeDtypeStruct((N * H * parts,), jnp.float32)] * 2,
      *(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (k_BSKC, v_BSKC)),
    ],
    input_output_aliases={4 + len(biases): 3, 5 + len(biases): 4},
    compiler_params=_WIDE if C > 128 else _NARROW,
    interpret=interpret,
    name='attend_live',
  )(qkv_PNE.reshape(P * N * each, C), *biases, view.cos, view.sin, scalars, k_BSKC, v_BSKC)
  if parts == 1:
    return out.reshape(N, H, C), k_BSKC, v_BSKC
  most, total = (x.reshape(N, H, parts) for x in (most, total))
  share = jnp.exp(most - jnp.max(most, axis=2, keepdims=True))
  out = jnp.sum(out.reshape(N, H, parts, C) * share[..., None], axis=2) / jnp.sum(total * share, axis=2)[..., None]
  return out.astype(dtype), k_BSKC, v_BSKC


def _tile(rows: int) -> int:
  """Returns the rows of a matrix product that hold these."""
  return max(_SMALLEST, pl.next_power_of_2(rows))


def _crossed(row_N: jax.Array, column_C: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns indices [N, C] of rows and columns."""
  return tuple(jnp.broadcast_arrays(row_N[:, None], column_C[None]))


def _columns(piece: pl.Slice) -> jax.Array:
  """Returns the indices of columns side by side."""
  return piece.start + jnp.arange(piece.size)


@dataclasses.dataclass(frozen=True)
class _Sizes:
  """What a program of the kernel is compiled for."""

  heads: int  # H
  kv_heads: int  # K
  line: int  # N tokens
  tokens: int  # Q
  terms: int  # P
  slots: int  # S
  parts: int
  window: int
  in_order: bool  # a row's tokens are Q in a line, as rows follow one another
  dtype: jnp.dtype
  scale: float
  softcap: float

  @property
  def shared(self) -> int:
    """M, query heads of a cache's head."""
    return self.heads // self.kv_heads


@dataclasses.dataclass(frozen=True)
class _Vectors:
  """Heads of a row's tokens, as many as the row of a tile."""

  token: jax.Array  # i32, of the row
  number: jax.Array  # i32, of the token in the line
  head: jax.Array  # i32, one for all or one each
  real: jax.Array  # bool


def _kernel(qkv_ref, *refs, sizes: _Sizes):
  *bias_refs, cos_ref, sin_ref, scalars_ref, k_ref, v_ref, out_ref, most_ref, total_ref, k_out_ref, v_out_ref = refs
  (H, K, Q, M), k_head, part = _letters(sizes), pl.program_id(1), pl.program_id(2)
  begin, seen, slot = (scalars_ref[i] for i in range(3))  # of cached tokens; of the first new one
  C = qkv_ref.shape[-1]
  whole, column_C = pl.ds(0, C), jnp.arange(C)
  pieces = (whole,) if Q > 1 and C <= _WHOLE else (pl.ds(0, C // 2), pl.ds(C // 2, C // 2))
  query_N, new_T = jnp.arange(_tile(Q * M)), jnp.arange(_tile(Q) if Q > 1 else 1)
  queries = _vectors(scalars_ref, sizes, query_N // M, k_head * M + query_N % M, query_N < Q * M)
  keys = _vectors(scalars_ref, sizes, new_T, H + k_head, new_T < Q)
  load = functools.partial(_loaded, qkv_ref, bias_refs, sizes)

  def rotated(of: _Vectors) -> tuple[jax.Array, ...]:
    def angles(at_C: jax.Array) -> Iterator[jax.Array]:  # of one token the same for all
      return (ref[0][None] if Q == 1 else triton.load(ref.at[_crossed(of.token, at_C)]) for ref in (cos_ref, sin_ref))

    if len(pieces) == 1:
      cos, sin = angles(column_C % (C // 2))
      x, other = (load(of, at_C).astype(jnp.float32) for at_C in (column_C, (column_C + C // 2) % C))
      turned = (x * cos + jnp.where(column_C[None] < C // 2, -other, other) * sin,)
    else:
      cos, sin = angles(_columns(pieces[0]))
      first, second = (load(of, _columns(half)).astype(jnp.float32) for half in pieces)
      turned = first * cos - second * sin, second * cos + first * sin
    return tuple(piece.astype(k_ref.dtype) for piece in turned)

  q, k = rotated(queries), rotated(keys)
  v = load(dataclasses.replace(keys, head=H + K + k_head), column_C).astype(v_ref.dtype)

  @pl.when(part == 0)
  def _():
    here_T = (slot + new_T) % sizes.slots
    stored = [(k_out_ref, piece, new) for piece, new in zip(pieces, k, strict=True)]
    for ref, piece, new in (*stored, (v_out_ref, whole, v)):
      triton.store(ref.at[_crossed(here_T, _columns(piece))], new, mask=keys.real[:, None])

  block0, skipped = begin // BLOCK, begin % BLOCK  # slots of the first block before those seen
  blocks = pl.cdiv(skipped + seen, BLOCK)
  per_part = pl.cdiv(blocks, sizes.parts)

  def body(n, sums):
    cached = n * BLOCK + jnp.arange(BLOCK) - skipped  # counted from the first that is seen
    here = pl.ds((block0 + n) % (sizes.slots // BLOCK) * BLOCK, BLOCK)
    live = (cached >= 0) & (cached < seen)
    cached_keys = tuple(triton.load(k_ref.at[here, piece], mask=live[:, None], other=0.0) for piece in pieces)
    values = triton.load(v_ref.at[here, whole], mask=live[:, None], other=0.0)
    visible = live[None, :]
    if sizes.window and Q > 1:  # the first query sees all that are `seen`
      visible &= seen - cached[None, :] + queries.token[:, None] < sizes.window
    return _with_block(sums, _scores(q, cached_keys, visible, sizes), values)

  age = queries.token[:, None] - new_T[None, :]
  score = _scores(q, k, (age >= 0) & (age < (sizes.window or Q)) & (part == 0), sizes)
  before = _of_new(score, v, part == 0)
  first, last = part * per_part, jnp.minimum((part + 1) * per_part, blocks)
  out, most, total = jax.lax.fori_loop(first, last, body, before)
  if sizes.parts == 1:
    out = out / total[:, None]
  row_N = (queries.number * H + queries.head) * sizes.parts + part
  row_N = jnp.where(queries.real, row_N, sizes.line * H * sizes.parts)
  triton.store(out_ref.at[_crossed(row_N, column_C)], out.astype(out_ref.dtype), mask=queries.real[:, None])
  triton.store(most_ref.at[row_N], most, mask=queries.real)
  triton.store(total_ref.at[row_N], total, mask=queries.real)


def _letters(sizes: _Sizes) -> tuple[int, int, int, int]:
  """Returns H, K, Q and M."""
  return sizes.heads, sizes.kv_heads, sizes.tokens, sizes.shared


def _vectors(scalars_ref, sizes: _Sizes, token: jax.Array, head: jax.Array, fits: jax.Array) -> _Vectors:
  """Returns heads of tokens where they `fit` and the row has the token; tokens past the last stand for it."""
  token = jnp.minimum(token, sizes.tokens - 1)
  in_order = sizes.in_order
  number = pl.program_id(0) * sizes.tokens + token if in_order else triton.load(scalars_ref.at[3 + token])
  return _Vectors(token, number, head, fits & (number >= 0))


def _loaded(qkv_ref, bias_refs: list, sizes: _Sizes, of: _Vectors, column_C: jax.Array) -> jax.Array:
  """Returns columns of vectors: the sum of terms, and of the bias, each rounded to the dtype."""
  each, x = sizes.heads + 2 * sizes.kv_heads, 0.0
  for term in range(sizes.terms):
    row = (term * sizes.line + of.number) * each + of.head
    x += triton.load(qkv_ref.at[_crossed(row, column_C)], mask=of.real[:, None], other=0.0).astype(jnp.float32)
  x = x.astype(sizes.dtype)
  for ref in bias_refs:
    x += triton.load(ref.at[_crossed(of.head + 0 * of.number, column_C)])
  return x


def _scores(q: tuple, k: tuple, visible: jax.Array, sizes: _Sizes) -> jax.Array:
  """Returns the scores of queries and keys, each in pieces."""

  def product(x, y):  # one row y is too small for a product of matrices
    if y.shape[0] > 1:
      return triton.dot(x, y.T)
    return jnp.sum(x.astype(jnp.float32) * y.astype(jnp.float32), axis=-1, keepdims=True)

  score = functools.reduce(jnp.add, map(product, q, k)) * sizes.scale
  return jnp.where(visible, attention.softcapped(score, sizes.softcap), attention.HIDDEN)


def _of_new(score: jax.Array, v: jax.Array, is_first: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Returns the weighed values, the largest score and the sum of weights of new tokens; of the first part alone."""
  most = jnp.max(score, axis=-1)
  weight = jnp.where(is_first, jnp.exp(score - most[:, None]), 0.0)
  several = v.shape[0] > 1
  out = triton.dot(weight.astype(v.dtype), v) if several else weight * v.astype(jnp.float32)
  return out, most, jnp.sum(weight, axis=-1)


def _with_block(sums: tuple, score: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Returns the same after a block of cached tokens."""
  out, most, total = sums
  higher = jnp.maximum(most, jnp.max(score, axis=-1))
  weight = jnp.exp(score - higher[:, None])
  shrink = jnp.exp(most - higher)
  out = out * shrink[:, None] + triton.dot(weight.astype(v.dtype), v)
  return out, higher, total * shrink + jnp.sum(weight, axis=-1)
