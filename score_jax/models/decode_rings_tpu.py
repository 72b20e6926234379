# SPDX-License-Identifier: Apache-2.0
"""Where the tokens of rows lie in the rings of `decode_attention_tpu`, and the copies of them that its kernel makes.

T counts new tokens with their padding, W the slots of a tile.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any, NamedTuple

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp

BLOCK = 128  # slots at a time; it divides the slots of a cache


@dataclasses.dataclass(frozen=True)
class Sizes:
  """What is compiled into the kernel."""

  rows: int  # R of a group, which are worked on together
  groups: int  # of a core
  tokens: int  # Q new ones of a row
  shared: int  # M query heads of a cache's head
  slots: int  # S
  tile: int  # slots of a tile of the cache
  window: int
  scale: float
  softcap: float

  @property
  def tiles(self) -> int:
    """The most tiles that a row's new tokens come to."""
    return 1 + -(-(self.tokens - 1) // self.tile)


class Side(NamedTuple):
  """References of keys or of values."""

  cache: Any  # [B, K, S, C] in the device's memory
  blocks: Any  # [2, R, K, BLOCK, C] copies of blocks, one at work and one on its way
  tiles: Any  # [R, tiles, K, tile, C] copies of the tiles that new tokens come to
  new: Any  # [R, K, T, C] new tokens


class Rings(NamedTuple):
  """Where the tokens of rows lie."""

  length_ref: Any  # i32 [B]
  write_ref: Any  # i32 [B]
  sizes: Sizes

  def newest(self, row: jax.Array) -> jax.Array:
    """Returns the slot of a row's newest token but the new ones."""
    return _wrapped(self.write_ref[row] - 1, self.sizes.slots)

  def cached(self, row: jax.Array) -> jax.Array:
    """Returns how many tokens a row has but the new ones."""
    return self.length_ref[row] - self.sizes.tokens

  def blocks(self, row: jax.Array) -> jax.Array:
    """Returns how many blocks hold cached tokens that a row's first query sees."""
    window = self.sizes.window
    seen = jnp.minimum(self.cached(row), window - 1) if window else self.cached(row)
    older = jnp.maximum(0, seen - 1 - self.newest(row) % BLOCK)  # than the newest block's
    return jnp.where(seen > 0, pl.cdiv(older, BLOCK) + 1, 0)

  def most_blocks(self, group: jax.Array) -> jax.Array:
    """Returns the blocks of the row of a group that has most."""
    first, rows = group * self.sizes.rows, self.sizes.rows
    return functools.reduce(jnp.maximum, [self.blocks(first + r) for r in range(rows)])

  def slots_of_block(self, row: jax.Array, j: jax.Array) -> Any:
    """Returns the slots of a row's j-th newest block; a full ring's newest comes first and last."""
    block = _wrapped(self.newest(row) // BLOCK - j, self.sizes.slots // BLOCK)
    return pl.ds(pl.multiple_of(block * BLOCK, BLOCK), BLOCK)

  def slots_of_tile(self, row: jax.Array, i: int) -> Any:
    """Returns the slots of the i-th tile that a row's new tokens come to."""
    tile, slots = self.sizes.tile, self.sizes.slots
    first = (self.write_ref[row] // tile + i) % (slots // tile) * tile
    return pl.ds(pl.multiple_of(first, tile), tile)


def _wrapped(x: jax.Array, size: int) -> jax.Array:
  """Returns x mod size, for x from -size on."""
  return jnp.where(x < 0, x + size, x)


def start(copy: Any) -> None:
  copy.start()


def wait(copy: Any) -> None:
  copy.wait()


def copy_blocks(
  act: Callable, rings: Rings, sides: tuple[Side, ...], loaded: Any, group: jax.Array, j: jax.Array, buffer: jax.Array
) -> None:
  """Starts, or waits for, the copies of the j-th newest block of every row of a group that has one."""
  for r in range(rings.sizes.rows):
    row = group * rings.sizes.rows + r

    @pl.when(j < rings.blocks(row))
    def _(r=r, row=row):
      source = rings.slots_of_block(row, j)
      for n, side in enumerate(sides):
        copied = side.cache.at[row, :, source, :], side.blocks.at[buffer, r]
        act(pltpu.make_async_copy(*copied, loaded.at[buffer, n, r]))


def copy_tiles(
  act: Callable, rings: Rings, sides: tuple[Side, ...], stored: Any, group: jax.Array, *, out: bool
) -> None:
  """Starts, or waits for, the copies of the tiles that a group's new tokens come to, from the cache or `out` to it."""
  for r in range(rings.sizes.rows):
    row = group * rings.sizes.rows + r
    for i in range(rings.sizes.tiles):
      here = rings.slots_of_tile(row, i)
      for n, side in enumerate(sides):
        ends = side.cache.at[row, :, here, :], side.tiles.at[r, i]
        act(pltpu.make_async_copy(*(ends[::-1] if out else ends), stored.at[n, r, i]))


def write_tiles(rings: Rings, sides: tuple[Side, ...], group: jax.Array, dtype: jnp.dtype) -> None:
  """Lays a group's new tokens, rounded to `dtype`, into the copies of their tiles."""
  sizes = rings.sizes
  for r in range(sizes.rows):
    for i in range(sizes.tiles):
      shift = rings.write_ref[group * sizes.rows + r] % sizes.tile - i * sizes.tile
      for k in range(sides[0].new.shape[1]):
        for side in sides:
          side.tiles[r, i, k] = _blended(side.tiles[r, i, k], side.new[r, k].astype(dtype), shift, sizes.tokens)


def _blended(old_WC: jax.Array, new_TC: jax.Array, shift: jax.Array, tokens: int) -> jax.Array:
  """Returns a tile of W slots with `tokens` new rows, the first at slot `shift`, where they fall into it."""
  W, T = old_WC.shape[0], new_TC.shape[0]
  slot_WT = jax.lax.broadcasted_iota(jnp.int32, (W, T), 0)
  token_WT = jax.lax.broadcasted_iota(jnp.int32, (W, T), 1)
  comes_WT = ((slot_WT == shift + token_WT) & (token_WT < tokens)).astype(new_TC.dtype)
  kept_W1 = jnp.sum(comes_WT.astype(jnp.float32), axis=1, keepdims=True) == 0
  value_WC = jnp.dot(comes_WT, new_TC, preferred_element_type=jnp.float32)  # exact: one term
  return jnp.where(kept_W1, old_WC.astype(jnp.float32), value_WC).astype(old_WC.dtype)
