# SPDX-License-Identifier: Apache-2.0
"""The packing layout: where conversations lie in the streams that a whole-row pass computes.

A pass works on X streams of T tokens, each of R conversations. Only attention depends on the layout: it sees rows
left-aligned. An `index` is in a stream, a `position` in a conversation, a `slot` in a left-aligned row.
"""

from flax import struct
import jax
import jax.numpy as jnp


@struct.dataclass
class PackedRows:
  """The conversations of every stream, in order; other tokens are padding."""

  first: jax.Array | None  # i32 [X, R]  index of a first token; None: R is 1, all begin at index 0
  length: jax.Array  # i32 [X, R]  tokens; 0: there is none
  longest: int = struct.field(pytree_node=False)  # a conversation may have


def left_aligned(length_B: jax.Array, slots: int) -> PackedRows:
  """Lays one conversation in each stream, before its padding."""
  return PackedRows(first=None, length=length_B[:, None], longest=slots)


def left_padded(start_B: jax.Array, slots: int) -> PackedRows:
  """Lays one conversation in each stream, after its padding."""
  first_XR = jnp.asarray(start_B, jnp.int32)[:, None]
  return PackedRows(first=first_XR, length=slots - first_XR, longest=slots)


def end_to_end(length_XR: jax.Array, longest: int) -> PackedRows:
  """Lays conversations one after another, from index 0 on."""
  return PackedRows(first=jnp.cumsum(length_XR, axis=1) - length_XR, length=length_XR, longest=longest)


def row_and_position(rows: PackedRows, packed_length: int) -> tuple[jax.Array, jax.Array]:
  """Returns a token's conversation (-1: padding) and position, i32 [X, T] each."""
  index_XT = jnp.arange(packed_length, dtype=jnp.int32)[None]
  first_XR = jnp.zeros_like(rows.length) if rows.first is None else rows.first
  begun_XT = jnp.sum((first_XR[:, None] <= index_XT[..., None]).astype(jnp.int32), axis=-1) - 1
  row_XT = jnp.maximum(begun_XT, 0)
  position_XT = index_XT - jnp.take_along_axis(first_XR, row_XT, axis=1)
  inside_XT = (begun_XT >= 0) & (position_XT < jnp.take_along_axis(rows.length, row_XT, axis=1))
  return jnp.where(inside_XT, row_XT, -1), jnp.where(inside_XT, position_XT, 0)


@struct.dataclass
class Alignment:
  """Tables from streams to left-aligned rows and back; -1 where nothing is."""

  index: jax.Array | None  # i32 [X, R * L]  index of each slot; None: rows are aligned as they are
  slot: jax.Array | None  # i32 [X, T]  slot (row * L + position) of each index
  packed_length: int = struct.field(pytree_node=False)  # T
  slots: int = struct.field(pytree_node=False)  # L

  def to_rows(self, x_XT: jax.Array) -> jax.Array:
    """Returns [X, T, ...] as [X * R, L, ...]."""
    if self.index is None:
      return jnp.pad(x_XT, ((0, 0), (0, self.slots - self.packed_length)) + ((0, 0),) * (x_XT.ndim - 2))
    return _moved(x_XT, self.index, self.slot).reshape(-1, self.slots, *x_XT.shape[2:])

  def to_streams(self, x_NL: jax.Array) -> jax.Array:
    if self.index is None:
      return x_NL[:, : self.packed_length]
    return _moved(x_NL.reshape(self.index.shape[0], -1, *x_NL.shape[2:]), self.slot, self.index)


def alignment(rows: PackedRows, packed_length: int, slots: int) -> Alignment:
  if rows.first is None:
    return Alignment(None, None, packed_length, slots)
  row_XT, position_XT = row_and_position(rows, packed_length)
  slot_L = jnp.arange(slots, dtype=jnp.int32)[None, None]
  index_XRL = jnp.where(slot_L < rows.length[..., None], rows.first[..., None] + slot_L, -1)
  slot_XT = jnp.where(row_XT >= 0, row_XT * slots + position_XT, -1)
  return Alignment(index_XRL.reshape(rows.first.shape[0], -1), slot_XT, packed_length, slots)


@jax.custom_vjp
def _moved(x_XM: jax.Array, index_XN: jax.Array, inverse_XM: jax.Array) -> jax.Array:
  """Returns x[index] along axis 1, 0 where it is -1."""
  del inverse_XM
  wide = (...,) + (None,) * (x_XM.ndim - 2)
  moved = jnp.take_along_axis(x_XM, jnp.maximum(index_XN, 0)[wide], axis=1)
  return jnp.where((index_XN >= 0)[wide], moved, jnp.zeros((), x_XM.dtype))


def _moved_backward(tables, cotangent_XN):
  index_XN, inverse_XM = tables
  return _moved(cotangent_XN, inverse_XM, index_XN), None, None


_moved.defvjp(lambda x_XM, *tables: (_moved(x_XM, *tables), tables), _moved_backward)
