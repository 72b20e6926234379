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
from score_jax.models.families import DecoderConfig

BLOCK = 128  # slots at a time; it divides the slots of a cache
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
  tiles = 1 + -(-(Q - 1) // tile)
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
    functools.partial(
      _kernel, counts=(rows, groups, Q, M), slots=S, tile=tile, window=window, scale=scale, softcap=softcap
    ),
    grid_spec=pltpu.PrefetchScalarGridSpec(
      num_scalar_prefetch=2,
      grid=(cores, groups),
      in_specs=[grouped(queries, width), grouped(new, width), grouped(new, width), in_hbm, in_hbm],
      out_specs=[grouped(queries, width), in_hbm, in_hbm],
      scratch_shapes=[
        *[pltpu.VMEM((_BUFFERS, rows, K, BLOCK, width), k_BKSC.dtype)] * 2,
        *[pltpu.VMEM((rows, tiles, K, tile, width), k_BKSC.dtype)] * 2,
        pltpu.SemaphoreType.DMA((_BUFFERS, 2, rows)),
        pltpu.SemaphoreType.DMA((2, rows, tiles)),
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
  k_buffer, v_buffer, k_tile, v_tile, loaded, stored, count_ref,
  *, counts, slots, tile, window, scale, softcap,
):  # fmt: skip
  rows, groups, Q, M = counts
  K, queries = q_ref.shape[1:3]
  new = new_k_ref.shape[2]
  g = pl.program_id(1)
  group = pl.program_id(0) * groups + g
  tiles = k_tile.shape[1]
  pairs = ((k_hbm, k_buffer, k_tile, new_k_ref), (v_hbm, v_buffer, v_tile, new_v_ref))

  def wrapped(x: jax.Array, size: int) -> jax.Array:  # from -size on
    return jnp.where(x < 0, x + size, x)

  def newest(row: jax.Array) -> jax.Array:
    """The slot of a row's newest token but the new ones."""
    return wrapped(write_ref[row] - 1, slots)

  def seen(row: jax.Array) -> jax.Array:
    """How many cached tokens its first query sees."""
    cached = length_ref[row] - Q
    return jnp.minimum(cached, window - 1) if window else cached

  def blocks(row: jax.Array) -> jax.Array:
    length = seen(row)
    older = jnp.maximum(0, length - 1 - newest(row) % BLOCK)  # than the newest block's
    return jnp.where(length > 0, pl.cdiv(older, BLOCK) + 1, 0)

  def most_blocks(group: jax.Array) -> jax.Array:
    return functools.reduce(jnp.maximum, [blocks(group * rows + r) for r in range(rows)])

  def load(group: jax.Array, j: jax.Array, buffer: jax.Array, act) -> None:
    """Acts on the copies of the j-th newest block of every row that has one."""
    for r in range(rows):
      row = group * rows + r

      @pl.when(j < blocks(row))
      def _(r=r, row=row):
        # A full ring's newest block comes first and last.
        block = wrapped(newest(row) // BLOCK - j, slots // BLOCK)
        source = pl.ds(pl.multiple_of(block * BLOCK, BLOCK), BLOCK)
        for n, (hbm, there, _, _) in enumerate(pairs):
          act(pltpu.make_async_copy(hbm.at[row, :, source, :], there.at[buffer, r], loaded.at[buffer, n, r]))

  def move_tiles(act, out: bool) -> None:
    """Acts on the copies of the tiles that new tokens come to."""
    for r in range(rows):
      row = group * rows + r
      for i in range(tiles):
        first = (write_ref[row] // tile + i) % (slots // tile) * tile
        here = pl.ds(pl.multiple_of(first, tile), tile)
        for n, (hbm, _, tiled, _) in enumerate(pairs):
          ends = (hbm.at[row, :, here, :], tiled.at[r, i])
          act(pltpu.make_async_copy(*(ends[::-1] if out else ends), stored.at[n, r, i]))

  @pl.when(g == 0)
  def _():
    count_ref[0] = 0
    for _, buffer, _, _ in pairs:  # what is masked is multiplied by zero, so it must be finite
      buffer[...] = jnp.zeros_like(buffer)
    load(group, jnp.int32(0), jnp.int32(0), lambda copy: copy.start())

  move_tiles(lambda copy: copy.start(), out=False)
  before = count_ref[0]
  steps = most_blocks(group)

  # Of the queries in order [Q, M], and of keys.
  query_NS = jax.lax.broadcasted_iota(jnp.int32, (queries, BLOCK), 0) // M
  slot_NS = jax.lax.broadcasted_iota(jnp.int32, (queries, BLOCK), 1)
  query_NT = jax.lax.broadcasted_iota(jnp.int32, (queries, new), 0) // M
  age_NT = query_NT - jax.lax.broadcasted_iota(jnp.int32, (queries, new), 1)
  visible_NT = (age_NT >= 0) & (age_NT < (window or Q))
  # Padding queries see what the last one sees.
  visible_NT |= (query_NT >= Q) & (age_NT == query_NT)

  scores = functools.partial(_scores, scale=scale, softcap=softcap)

  def of_new(r: int, k: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    q_NC = q_ref[r, k]
    score_NT = scores(q_NC, new_k_ref[r, k], visible_NT)
    most_N1 = jnp.max(score_NT, axis=1, keepdims=True)
    return most_N1, *_summed(q_NC, new_v_ref[r, k], score_NT, most_N1)

  def body(j: jax.Array, carry: tuple) -> tuple:
    here, there = (before + j) % _BUFFERS, (before + j + 1) % _BUFFERS

    @pl.when(j + 1 < steps)
    def _():
      load(group, j + 1, there, lambda copy: copy.start())

    load(group, j, here, lambda copy: copy.wait())
    after = []
    for r in range(rows):
      row = group * rows + r
      age_NS = newest(row) % BLOCK + j * BLOCK - slot_NS
      live_NS = (age_NS >= 0) & (age_NS < length_ref[row] - Q)
      if window:
        live_NS &= age_NS + query_NS + 1 < window
      for k in range(K):
        most_N1, total_N1, out_NC = carry[r * K + k]
        q_NC = q_ref[r, k]
        score_NS = scores(q_NC, k_buffer[here, r, k], live_NS)
        higher_N1 = jnp.maximum(most_N1, jnp.max(score_NS, axis=1, keepdims=True))
        shrink_N1 = jnp.exp(most_N1 - higher_N1)
        more_N1, more_NC = _summed(q_NC, v_buffer[here, r, k], score_NS, higher_N1)
        after.append((higher_N1, total_N1 * shrink_N1 + more_N1, out_NC * shrink_N1 + more_NC))
    return tuple(after)

  carry = jax.lax.fori_loop(0, steps, body, tuple(of_new(r, k) for r in range(rows) for k in range(K)))
  count_ref[0] = (before + steps) % _BUFFERS

  @pl.when(g + 1 < groups)
  def _():
    load(group + 1, jnp.int32(0), count_ref[0], lambda copy: copy.start())

  move_tiles(lambda copy: copy.wait(), out=False)
  for r in range(rows):
    for i in range(tiles):
      shift = write_ref[group * rows + r] % tile - i * tile
      for k in range(K):
        for _, _, tiled, fresh_ref in pairs:
          tiled[r, i, k] = _blended(tiled[r, i, k], fresh_ref[r, k].astype(q_ref.dtype), shift, Q)
  move_tiles(lambda copy: copy.start(), out=True)
  for r in range(rows):
    for k in range(K):
      _, total_N1, out_NC = carry[r * K + k]
      out_ref[r, k] = (out_NC / total_N1).astype(out_ref.dtype)
  move_tiles(lambda copy: copy.wait(), out=True)


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


def _blended(old_WC: jax.Array, new_TC: jax.Array, shift: jax.Array, tokens: int) -> jax.Array:
  """Returns a tile of W slots with `tokens` new rows, the first at slot `shift`, where they fall into it."""
  W, T = old_WC.shape[0], new_TC.shape[0]
  slot_WT = jax.lax.broadcasted_iota(jnp.int32, (W, T), 0)
  token_WT = jax.lax.broadcasted_iota(jnp.int32, (W, T), 1)
  comes_WT = ((slot_WT == shift + token_WT) & (token_WT < tokens)).astype(new_TC.dtype)
  kept_W1 = jnp.sum(comes_WT.astype(jnp.float32), axis=1, keepdims=True) == 0
  value_WC = _product(comes_WT, new_TC, (1, 0))  # exact: one term
  return jnp.where(kept_W1, old_WC.astype(jnp.float32), value_WC).astype(old_WC.dtype)
