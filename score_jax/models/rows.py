"""Where conversations lie in what a whole-row pass computes.

A pass works on X streams of T places. A stream holds R conversations, each in one piece: one, before or after its
padding, or many, end to end, with no padding between them. Everything in the decoder but attention looks at one place
alone and need not know; attention looks at left-aligned rows, so that causality alone hides the padding after them.
"""

from flax import struct
import jax
import jax.numpy as jnp


@struct.dataclass
class Rows:
  """The conversations of every stream, in the order in which they lie. Places in none of them are padding."""

  first: jax.Array | None  # i32 [X, R]  place of a conversation's first token; None: R is 1, all begin at place 0
  length: jax.Array  # i32 [X, R]  tokens; 0: there is none
  longest: int = struct.field(pytree_node=False)  # tokens that a conversation may have


def left_aligned(length_B: jax.Array, slots: int) -> Rows:
  """One conversation a stream, before its padding."""
  return Rows(first=None, length=length_B[:, None], longest=slots)


def left_padded(start_B: jax.Array, slots: int) -> Rows:
  """One conversation a stream, from its start to the end of `slots` places."""
  first_XR = jnp.asarray(start_B, jnp.int32)[:, None]
  return Rows(first=first_XR, length=slots - first_XR, longest=slots)


def end_to_end(length_XR: jax.Array, longest: int) -> Rows:
  """Conversations laid one after another from place 0 on."""
  return Rows(first=jnp.cumsum(length_XR, axis=1) - length_XR, length=length_XR, longest=longest)


def row_and_position(rows: Rows, places: int) -> tuple[jax.Array, jax.Array]:
  """i32 [X, T] each: the conversation that a place belongs to (-1: padding), and the place counted from its first."""
  place_XT = jnp.arange(places, dtype=jnp.int32)[None]
  first_XR = jnp.zeros_like(rows.length) if rows.first is None else rows.first
  begun_XT = jnp.sum((first_XR[:, None] <= place_XT[..., None]).astype(jnp.int32), axis=-1) - 1
  row_XT = jnp.maximum(begun_XT, 0)
  position_XT = place_XT - jnp.take_along_axis(first_XR, row_XT, axis=1)
  inside_XT = (begun_XT >= 0) & (position_XT < jnp.take_along_axis(rows.length, row_XT, axis=1))
  return jnp.where(inside_XT, row_XT, -1), jnp.where(inside_XT, position_XT, 0)


@struct.dataclass
class Alignment:
  """From streams to left-aligned rows and back: two index tables, each the other's inverse, -1 where nothing is."""

  place: jax.Array | None  # i32 [X, R * L]  place of each slot of each row; None: the rows are aligned as they are
  slot: jax.Array | None  # i32 [X, T]  slot (row * L + position) of each place
  places: int = struct.field(pytree_node=False)  # T
  slots: int = struct.field(pytree_node=False)  # L

  def to_rows(self, x_XT: jax.Array) -> jax.Array:
    """[X, T, ...] -> [X * R, L, ...], zeros after each row's end (or, of aligned rows, what stood there)."""
    if self.place is None:
      return jnp.pad(x_XT, ((0, 0), (0, self.slots - self.places)) + ((0, 0),) * (x_XT.ndim - 2))
    return _moved(x_XT, self.place, self.slot).reshape(-1, self.slots, *x_XT.shape[2:])

  def to_streams(self, x_NL: jax.Array) -> jax.Array:
    """[X * R, L, ...] -> [X, T, ...], zeros in the padding (or, of aligned rows, what stood there)."""
    if self.place is None:
      return x_NL[:, : self.places]
    return _moved(x_NL.reshape(self.place.shape[0], -1, *x_NL.shape[2:]), self.slot, self.place)


def alignment(rows: Rows, places: int, slots: int) -> Alignment:
  """The tables for streams of `places` and rows of `slots`, which hold the longest."""
  if rows.first is None:
    return Alignment(None, None, places, slots)
  row_XT, position_XT = row_and_position(rows, places)
  slot_L = jnp.arange(slots, dtype=jnp.int32)[None, None]
  place_XRL = jnp.where(slot_L < rows.length[..., None], rows.first[..., None] + slot_L, -1)
  slot_XT = jnp.where(row_XT >= 0, row_XT * slots + position_XT, -1)
  return Alignment(place_XRL.reshape(rows.first.shape[0], -1), slot_XT, places, slots)


@jax.custom_vjp
def _moved(x_XM: jax.Array, index_XN: jax.Array, inverse_XM: jax.Array) -> jax.Array:
  """x[index] along axis 1, 0 where the index is -1. Its transpose is a gather too, which a scatter-add is not."""
  del inverse_XM
  wide = (...,) + (None,) * (x_XM.ndim - 2)
  taken = jnp.take_along_axis(x_XM, jnp.maximum(index_XN, 0)[wide], axis=1)
  return jnp.where((index_XN >= 0)[wide], taken, jnp.zeros((), x_XM.dtype))


def _moved_forward(x_XM, index_XN, inverse_XM):
  return _moved(x_XM, index_XN, inverse_XM), (index_XN, inverse_XM)


def _moved_backward(tables, cotangent_XN):
  index_XN, inverse_XM = tables
  return _moved(cotangent_XN, inverse_XM, index_XN), None, None


_moved.defvjp(_moved_forward, _moved_backward)
