# SPDX-License-Identifier: Apache-2.0
"""One decode step's layers as a few GPU kernels (Pallas, Triton), for small batches.

At 64 rows a library's kernels for norms, biases and sums each take a tenth of the products. Here it is

    parts of normed W_qkv | attention of their sum + bias | parts of out W_o | x + their sum, and its norm
    act(normed W_gate) * (normed W_up) | parts of hidden W_down | x + their sum, and the next layer's norm

A product into few columns is cut along its inner axis too. It rounds where the plain path does.
"""

from collections.abc import Callable
import functools
import math
from typing import Any

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
import jax.numpy as jnp

from score_jax.models.attention import Cache
from score_jax.models.families import DecoderConfig

ROWS = (32, 64, 128)  # as measured; with more, a library's product is faster
_BLOCK = 64  # of the inner axis, at a time
_PROGRAMS = 132  # that keep a large GPU busy
_LARGEST = 2**24  # numbers of a weight; with more, a library's product is faster
_WEIGHTS = {'attention_norm', 'q+k+v', 'o', 'ffn_norm', 'gate+up', 'down'}


def fits(layers: tuple[dict[str, Any], ...], rows: int, dtype: jnp.dtype) -> bool:
  """Tells whether layers and rows are of the form and size that the kernels take."""
  w = layers[0]
  if rows not in ROWS or dtype.itemsize != 2 or not _WEIGHTS <= w.keys() <= _WEIGHTS | {'q+k+v_bias'}:
    return False
  D, F = w['attention_norm'].shape[0], w['down'].shape[0]
  if w['gate+up'].size > _LARGEST:
    return False
  sides = D, F, math.prod(w['o'].shape[:-1]), math.prod(w['q+k+v'].shape[1:])
  return not any(side % (2 * _BLOCK) for side in sides) and all(leaf.dtype == dtype for leaf in w.values())


def run(
  layers: tuple[dict[str, Any], ...],
  final_norm_D: jax.Array,
  config: DecoderConfig,
  x_BD: jax.Array,
  normed_BD: jax.Array,
  cache: Cache,
  attend: Callable,
  *,
  activation: Callable,
  interpret: bool = False,
) -> tuple[jax.Array, Cache]:
  """Runs B tokens; returns hidden states [B, D] after the last norm, and the cache.

  `layers` are of `decoder.for_decoding`, B a power of two from 16 on, normed_BD x_BD after the first norm;
  `attend(layer, cache, qkv_PBE, bias_E) -> (out_BHC, cache)` adds up and rotates; `interpret` is for tests.
  """
  B, D = x_BD.shape
  add = functools.partial(joined, eps=config.norm_eps, offset=config.norm_offset, interpret=interpret)
  parts = functools.partial(partial_sums, interpret=interpret)
  following = [w['attention_norm'] for w in layers[1:]] + [final_norm_D]
  for n, (w, next_norm_D) in enumerate(zip(layers, following, strict=True)):
    bias = w.get('q+k+v_bias')
    qkv_PBE = parts(normed_BD, w['q+k+v'].reshape(D, -1))
    out_BHC, cache = attend(n, cache, qkv_PBE, bias if bias is None else bias.reshape(-1))
    out_PBD = parts(out_BHC.reshape(B, -1), w['o'].reshape(-1, D))
    x_BD, normed_BD = add(out_PBD, x_BD, w['ffn_norm'])
    hidden_BF = gated(normed_BD, w['gate+up'], activation, interpret=interpret)
    x_BD, normed_BD = add(parts(hidden_BF, w['down']), x_BD, next_norm_D)
  return normed_BD, cache


def partial_sums(x_BK: jax.Array, w_KN: jax.Array, *, interpret: bool = False) -> jax.Array:
  """Returns x W as P parts of the inner axis, f32 [P, B, N]."""
  (B, K), N = x_BK.shape, w_KN.shape[1]
  columns = 32
  parts = inner_parts(K, N // columns)
  share = K // parts

  def kernel(x_ref, w_ref, y_ref):
    part, here = pl.program_id(1), pl.ds(pl.program_id(0) * columns, columns)
    (y,) = _products(x_ref, w_ref, [here], (part * share, share))
    triton.store(y_ref.at[part, pl.ds(0, B), here], y)

  grid, shape = (N // columns, parts), jax.ShapeDtypeStruct((parts, B, N), jnp.float32)
  return _call(kernel, 'partial_sums', grid, shape, 4, min(8, share // _BLOCK), interpret)(x_BK, w_KN)


def inner_parts(inner: int, programs: int) -> int:
  """Returns how many parts of whole blocks fill the GPU."""
  blocks = inner // _BLOCK
  return max(n for n in range(1, blocks + 1) if blocks % n == 0 and (n == 1 or n * programs <= _PROGRAMS))


def gated(x_BK: jax.Array, w_KG: jax.Array, activation: Callable, *, interpret: bool = False) -> jax.Array:
  """Returns act(x W_gate) * (x W_up) [B, F]; both W lie side by side."""
  (B, K), F = x_BK.shape, w_KG.shape[1] // 2
  columns = 64

  def kernel(x_ref, w_ref, y_ref):
    first = pl.program_id(0) * columns
    here, there = pl.ds(first, columns), pl.ds(F + first, columns)
    gate, up = _products(x_ref, w_ref, [here, there], (0, K))
    gate, up = (y.astype(y_ref.dtype) for y in (gate, up))
    triton.store(y_ref.at[pl.ds(0, B), here], activation(gate.astype(jnp.float32)).astype(gate.dtype) * up)

  shape = jax.ShapeDtypeStruct((B, F), x_BK.dtype)
  return _call(kernel, 'gated', (F // columns,), shape, *((8, 5) if B > 64 else (4, 6)), interpret)(x_BK, w_KG)


def joined(
  sums_PBD: jax.Array, x_BD: jax.Array, scale_D: jax.Array, *, eps: float, offset: float, interpret: bool = False
) -> tuple[jax.Array, jax.Array]:
  """Returns x + the sum of P parts [B, D], and its RMS norm, times offset + scale."""
  P, B, D = sums_PBD.shape
  width = pl.next_power_of_2(D)

  def kernel(sums_ref, x_ref, scale_ref, y_ref, normed_ref):
    row, here = pl.program_id(0), pl.ds(0, width)
    real = jnp.arange(width) < D

    def load(ref, *index):
      return triton.load(ref.at[*index, here], mask=real, other=0.0)

    total = functools.reduce(jnp.add, [load(sums_ref, jnp.int32(part), row) for part in range(P)])
    y = load(x_ref, row) + total.astype(y_ref.dtype)
    y32 = y.astype(jnp.float32)
    normed = y32 * jax.lax.rsqrt(jnp.sum(y32 * y32) / D + eps)
    scale = load(scale_ref).astype(y_ref.dtype).astype(jnp.float32) + offset
    triton.store(y_ref.at[row, here], y, mask=real)
    triton.store(normed_ref.at[row, here], (normed * scale).astype(y_ref.dtype), mask=real)

  shape = jax.ShapeDtypeStruct((B, D), x_BD.dtype)
  return _call(kernel, 'joined', (B,), [shape, shape], 8 if D > 512 else 2, 1, interpret)(sums_PBD, x_BD, scale_D)


def _call(kernel: Callable, name: str, grid: tuple, shape: Any, warps: int, stages: int, interpret: bool) -> Callable:
  params = triton.CompilerParams(num_warps=warps, num_stages=stages)
  return pl.pallas_call(kernel, grid=grid, out_shape=shape, compiler_params=params, interpret=interpret, name=name)


def _products(x_ref, w_ref, columns: list, inner: tuple) -> tuple[jax.Array, ...]:
  """Returns x times each of `columns`, f32 [B, n], over `inner` = (begin, length)."""
  begin, length = inner
  B = x_ref.shape[0]

  def body(i, totals):
    here = pl.ds(begin + i * _BLOCK, _BLOCK)
    x = triton.load(x_ref.at[pl.ds(0, B), here])
    return tuple(y + triton.dot(x, triton.load(w_ref.at[here, c])) for y, c in zip(totals, columns, strict=True))

  zeros = tuple(jnp.zeros((B, c.size), jnp.float32) for c in columns)
  return jax.lax.fori_loop(0, length // _BLOCK, body, zeros)
