# SPDX-License-Identifier: Apache-2.0
"""A decode step's attention as a TPU kernel (Pallas, Mosaic): write new tokens to the cache, attend to what is live.

XLA reads a row's whole ring under a mask, and on v5e copies it back. This kernel reads the blocks that hold a row's
tokens, R rows at a time, the next block while it works on this one. New tokens are attended to from where they come and
written as tiles. Every row has an index of its own in its ring, and brings Q tokens.

A head of 64 fills half of a row of a TPU's tiles, so two lie side by side (`attention.paired`): queries are zero in the
half of the other head.
"""

import functools
import math

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
import numpy as np

from score_jax.models import attention
from score_jax.models import decode_rings_tpu as rings
from score_jax.models.families import DecoderConfig

BLOCK = rings.BLOCK  # slots at a time; it divides the slots of a cache
_WIDTH = 128  # of a tile
_ROWS = 8  # at a time
_CORES = 2  # of the chips that have most; on others, halves follow one another
_TILE_BYTES = 32  # of a column of a tile: 8 numbers of 32 bit
_BUFFERS = 2


def fits(config: DecoderConfig, dtype: jnp.dtype, cache_dtype: jnp.dtype) -> bool:
  """Tells whether the kernel can run a model: it computes in 16 bit, heads fill rows of tiles or pair up."""
  width = attention.paired(config.kv_heads, config.head_width)[1]
  return dtype.itemsize == 2 and cache_dtype.itemsize <= 2 and width % _WIDTH == 0


def attend_live(
  q_BQHC: jax.Array,
  k_BQKC: jax.Array,
  v_BQKC: jax.Array,
  k_BKSC: jax.Array,
  v_BKSC: jax.Array,
  write_B: jax.Array,
  length_B: jax.Array,
  *,
  window: int,
  scale: float,
  softcap: float,
  interpret: bool = False,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Attends from Q new tokens a row, rotated already, to the row's tokens in its ring of slots and to each other.

  The caches have the heads and width of `attention.paired`, S a multiple of BLOCK. Token i of a row comes to slot
  (write_B + i) mod S; i32 `length_B` counts the row's tokens with the new ones, at most S. A query sees the newest
  `window` (0: all) up to itself. `softcap` 0 is off; `interpret` is for tests.

  Returns:
    out_BQHC in the dtype of the queries; the caches, updated in place.

  Raises:
    ValueError: S is no multiple of BLOCK.
  """
  B, Q, H, C = q_BQHC.shape
  K, S, width = k_BKSC.shape[1:]
  if S % BLOCK:
    raise ValueError(f'a cache of {S} slots is not a multiple of {BLOCK}')
  side = width // C  # heads that lie side by side
  M = H // K  # query heads of a cache's head
  rows, tile = math.gcd(B, _ROWS), _TILE_BYTES // k_BKSC.dtype.itemsize
  cores = math.gcd(B // rows, _CORES)
  groups = B // rows // cores
  queries, new = _up(Q * M, 16), _up(Q, 16)
  sizes = rings.Sizes(rows, groups, Q, M, S, tile, window, scale, softcap)
  q_BKNC = _beside(q_BQHC.reshape(B, Q, K, M, C), side).transpose(0, 2, 1, 3, 4).reshape(B, K, Q * M, width)
  q_BKNC = jnp.pad(q_BKNC, ((0, 0), (0, 0), (0, queries - Q * M), (0, 0)))

  def fresh(x_BQKC: jax.Array) -> jax.Array:
    x_BKQC = x_BQKC.reshape(B, Q, K, width).swapaxes(1, 2).astype(k_BKSC.dtype)
    return jnp.pad(x_BKQC, ((0, 0), (0, 0), (0, new - Q), (0, 0)))

  def grouped(*inner: int) -> pl.BlockSpec:
    return pl.BlockSpec((rows, K, *inner), lambda core, g, *_: (core * groups + g, 0) + (0,) * len(inner))

  in_hbm, space = pl.BlockSpec(memory_space=pltpu.MemorySpace.HBM), pltpu.MemorySpace.HBM
  if not interpret:  # else XLA lays a cache into VMEM, and copies all of it back
    k_BKSC, v_BKSC = (pltpu.with_memory_space_constraint(x, space) for x in (k_BKSC, v_BKSC))
  shape = jax.ShapeDtypeStruct if interpret else space
  out_BKNC, k_BKSC, v_BKSC = pl.pallas_call(
    functools.partial(_kernel, sizes=sizes),
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=2,
      grid=(cores, groups),
      in_specs=[grouped(queries, width), grouped(new, width), grouped(new, width), in_hbm, in_hbm],
      out_specs=[grouped(queries, width), in_hbm, in_hbm],
      scratch_shapes=[
        *[pltpu.VMEM((_BUFFERS, rows, K, BLOCK, width), k_BKSC.dtype)] * 2,
        *[pltpu.VMEM((rows, sizes.tiles, K, tile, width), k_BKSC.dtype)] * 2,
        pltpu.SemaphoreType.DMA((_BUFFERS, 2, rows)),
        pltpu.SemaphoreType.DMA((2, rows, sizes.tiles)),
        pltpu.SMEM((1,), jnp.int32),
      ],
    ),
    out_shape=[
      jax.ShapeDtypeStruct((B, K, queries, width), q_BQHC.dtype),
      *(shape(x.shape, x.dtype) for x in (k_BKSC, v_BKSC)),
    ],
    input_output_aliases={5: 1, 6: 2},
    compiler_params=pltpu.CompilerParams(dimension_semantics=('parallel', 'arbitrary')),
    interpret=interpret,
    name='attend_live_tpu',
  )(length_B, write_B, q_BKNC, fresh(k_BQKC), fresh(v_BQKC), k_BKSC, v_BKSC)
  out_BQKMC = out_BKNC[:, :, : Q * M].reshape(B, K, Q, M, width).swapaxes(1, 2)
  return _own_half(out_BQKMC, side).reshape(B, Q, H, C), k_BKSC, v_BKSC


def attend_sharded(*inputs: jax.Array, mesh: Mesh, **options) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Runs `attend_live` where rows are a device's own and heads may lie on 'tensor'.

  Where 'tensor' does not divide the cache's heads, each of its devices holds and reads the whole cache.
  """
  tensor = mesh.shape['tensor']
  if tensor == 1:
    return attend_live(*inputs, **options)
  heads = 'tensor' if inputs[3].shape[1] % tensor == 0 else None
  tokens, cache, rows = PartitionSpec(None, None, heads), PartitionSpec(None, heads), PartitionSpec()
  return jax.shard_map(
    functools.partial(attend_live, **options),
    in_specs=(tokens,) * 3 + (cache,) * 2 + (rows,) * 2,
    out_specs=(tokens, cache, cache),
    axis_names={'tensor'},
    check_vma=False,
  )(*inputs)


def laid_out(cache: attention.Cache) -> attention.Cache:
  """Returns a cache as `attend_sharded` takes it, within a program over rows.

  Else the prompt's attention decides: XLA lays 2 heads over halves of 4 devices, and gathers them in every step.
  """
  tensor = jax.sharding.get_abstract_mesh().shape.get('tensor', 1)
  if tensor == 1:
    return cache
  spec = PartitionSpec(None, None if cache.k[0].shape[1] % tensor else 'tensor')
  k, v = (tuple(jax.lax.with_sharding_constraint(x, spec) for x in side) for side in (cache.k, cache.v))
  return cache.replace(k=k, v=v)


def moved(
  length_B: np.ndarray, write_B: np.ndarray, *, tokens: int, window: int, heads: int, width: int, itemsize: int
) -> int:
  """Returns the bytes of a cache that a call of `attend_live` reads and writes.

  Args:
    length_B, write_B: of each row, as there.
    tokens: Q.
    window: as there.
    heads, width, itemsize: of the cache on a device.
  """
  cached_B, tile = length_B - tokens, _TILE_BYTES // itemsize
  seen_B = np.minimum(cached_B, window - 1) if window else cached_B
  older_B = np.maximum(0, seen_B - 1 - (write_B - 1) % BLOCK)
  blocks_B = np.where(seen_B > 0, -(-older_B // BLOCK) + 1, 0)
  tiles = 1 + -(-(tokens - 1) // tile)
  slots = int(blocks_B.sum()) * BLOCK + 2 * tiles * tile * length_B.size
  return 2 * slots * heads * width * itemsize


def _up(count: int, multiple: int) -> int:
  return -(-count // multiple) * multiple


def _beside(q_BQKMC: jax.Array, side: int) -> jax.Array:
  """Returns queries [..., M, C] as wide as `side` heads beside each other, zero but for their own."""
  if side == 1:
    return q_BQKMC
  *outer, M, C = q_BQKMC.shape
  own = jnp.eye(side, dtype=q_BQKMC.dtype).reshape((1,) * len(outer) + (side, 1, side, 1))
  return (q_BQKMC.reshape(*outer, side, M // side, 1, C) * own).reshape(*outer, M, side * C)


def _own_half(out_BQKMC: jax.Array, side: int) -> jax.Array:
  """Undoes `_beside`: of each result, what is of its own head."""
  if side == 1:
    return out_BQKMC
  *outer, M, width = out_BQKMC.shape
  parts = out_BQKMC.reshape(*outer, side, M // side, side, width // side)
  return jnp.stack([parts[..., i, :, i, :] for i in range(side)], axis=-3)


def _kernel(
  length_ref, write_ref, q_ref, new_k_ref, new_v_ref, _k, _v, out_ref, k_hbm, v_hbm,
  k_buffer, v_buffer, k_tile, v_tile, loaded, stored, count_ref, *, sizes,
):  # fmt: skip
  ring = rings.Rings(length_ref, write_ref, sizes)
  keys, values = rings.Side(k_hbm, k_buffer, k_tile, new_k_ref), rings.Side(v_hbm, v_buffer, v_tile, new_v_ref)
  sides = keys, values
  g = pl.program_id(1)
  group = pl.program_id(0) * sizes.groups + g
  heads = [(r, k) for r in range(sizes.rows) for k in range(q_ref.shape[1])]

  @pl.when(g == 0)
  def _():
    count_ref[0] = 0
    for side in sides:  # what is masked is multiplied by zero, so it must be finite
      side.blocks[...] = jnp.zeros_like(side.blocks)
    rings.copy_blocks(rings.start, ring, sides, loaded, group, jnp.int32(0), jnp.int32(0))

  rings.copy_tiles(rings.start, ring, sides, stored, group, out=False)
  before = count_ref[0]  # blocks of earlier groups, mod 2
  steps = ring.most_blocks(group)
  queries, new = q_ref.shape[2], new_k_ref.shape[2]
  query_NS = jax.lax.broadcasted_iota(jnp.int32, (queries, BLOCK), 0) // sizes.shared
  slot_NS = jax.lax.broadcasted_iota(jnp.int32, (queries, BLOCK), 1)
  visible_NT = _new_that_are_visible(sizes, queries, new)
  scores = functools.partial(_scores, scale=sizes.scale, softcap=sizes.softcap)

  def step(j: jax.Array, sums: tuple) -> tuple:
    here, there = (before + j) % _BUFFERS, (before + j + 1) % _BUFFERS

    @pl.when(j + 1 < steps)
    def _():
      rings.copy_blocks(rings.start, ring, sides, loaded, group, j + 1, there)

    rings.copy_blocks(rings.wait, ring, sides, loaded, group, j, here)
    after = []
    for (r, k), sum_ in zip(heads, sums, strict=True):
      if k == 0:
        row = group * sizes.rows + r
        age_NS = ring.newest(row) % BLOCK + j * BLOCK - slot_NS
        live_NS = _live(sizes, age_NS, query_NS, ring.cached(row))
      q_NC = q_ref[r, k]
      score_NS = scores(q_NC, keys.blocks[here, r, k], live_NS)
      after.append(_with_block(sum_, q_NC, values.blocks[here, r, k], score_NS))
    return tuple(after)

  def of_new(r: int, k: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    q_NC = q_ref[r, k]
    score_NT = scores(q_NC, keys.new[r, k], visible_NT)
    most_N1 = jnp.max(score_NT, axis=1, keepdims=True)
    return most_N1, *_summed(q_NC, values.new[r, k], score_NT, most_N1)

  sums = jax.lax.fori_loop(0, steps, step, tuple(of_new(r, k) for r, k in heads))
  count_ref[0] = (before + steps) % _BUFFERS

  @pl.when(g + 1 < sizes.groups)
  def _():
    rings.copy_blocks(rings.start, ring, sides, loaded, group + 1, jnp.int32(0), count_ref[0])

  rings.copy_tiles(rings.wait, ring, sides, stored, group, out=False)
  rings.write_tiles(ring, sides, group, q_ref.dtype)
  rings.copy_tiles(rings.start, ring, sides, stored, group, out=True)
  for (r, k), (_, total_N1, out_NC) in zip(heads, sums, strict=True):
    out_ref[r, k] = (out_NC / total_N1).astype(out_ref.dtype)
  rings.copy_tiles(rings.wait, ring, sides, stored, group, out=True)


def _new_that_are_visible(sizes: rings.Sizes, queries: int, new: int) -> jax.Array:
  """Returns, bool [N, T], which new tokens queries in order [Q, M] see; what pads them sees what the last one does."""
  query_NT = jax.lax.broadcasted_iota(jnp.int32, (queries, new), 0) // sizes.shared
  age_NT = query_NT - jax.lax.broadcasted_iota(jnp.int32, (queries, new), 1)
  visible_NT = (age_NT >= 0) & (age_NT < (sizes.window or sizes.tokens))
  return visible_NT | (query_NT >= sizes.tokens) & (age_NT == query_NT)


def _live(sizes: rings.Sizes, age_NS: jax.Array, query_NS: jax.Array, cached: jax.Array) -> jax.Array:
  """Returns which slots hold cached tokens that a query sees; their ages count from the newest cached token."""
  live_NS = (age_NS >= 0) & (age_NS < cached)
  return live_NS & (age_NS + query_NS + 1 < sizes.window) if sizes.window else live_NS


def _with_block(
  sums: tuple[jax.Array, jax.Array, jax.Array], q_NC: jax.Array, v_SC: jax.Array, score_NS: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Returns the largest score, the sum of weights and the sum of weighed values after one block more."""
  most_N1, total_N1, out_NC = sums
  higher_N1 = jnp.maximum(most_N1, jnp.max(score_NS, axis=1, keepdims=True))
  shrink_N1 = jnp.exp(most_N1 - higher_N1)
  more_N1, more_NC = _summed(q_NC, v_SC, score_NS, higher_N1)
  return higher_N1, total_N1 * shrink_N1 + more_N1, out_NC * shrink_N1 + more_NC


def _product(a: jax.Array, b: jax.Array, axes: tuple[int, int]) -> jax.Array:
  """Returns the product over an axis of each, f32."""
  return jax.lax.dot_general(a, b, (((axes[0],), (axes[1],)), ((), ())), preferred_element_type=jnp.float32)


def _scores(q_NC: jax.Array, k_SC: jax.Array, visible_NS: jax.Array, *, scale: float, softcap: float) -> jax.Array:
  score_NS = attention.softcapped(_product(q_NC, k_SC.astype(q_NC.dtype), (1, 1)) * scale, softcap)
  return jnp.where(visible_NS, score_NS, attention.HIDDEN)


def _summed(q_NC: jax.Array, v_SC: jax.Array, score_NS: jax.Array, most_N1: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns the sum [N, 1] of exp(score - most), and that of values weighed by them [N, C], in the queries' dtype."""
  weight_NS = jnp.exp(score_NS - most_N1)
  total_N1 = jnp.sum(weight_NS, axis=1, keepdims=True)
  return total_N1, _product(weight_NS.astype(q_NC.dtype), v_SC.astype(q_NC.dtype), (1, 0))
