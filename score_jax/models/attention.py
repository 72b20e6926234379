# SPDX-License-Identifier: Apache-2.0
"""Attention and its key/value cache."""

import functools

from flax import struct
import jax
import jax.numpy as jnp

from score_jax.models.families import DecoderConfig
from score_jax.models.rope import Rope

# Large and finite: a query that sees no key (padding) then averages, and never makes a NaN.
HIDDEN = -1e30
_TILE_WIDTH = 128  # of a TPU


@struct.dataclass
class Cache:
  """Keys and values, a buffer a layer; a token lies where it lies in its row.

  Slots come before heads for the GPU kernel, after them elsewhere: XLA:CPU would copy the cache each step. The TPU
  kernel's narrow heads lie side by side (`paired`).
  """

  k: tuple[jax.Array, ...]  # N times [B, S, K, C] or [B, K, S, C]
  v: tuple[jax.Array, ...]
  first: jax.Array  # i32 [B]  slot of each row's first token
  kernel: str = struct.field(pytree_node=False)  # of `decode_attention.BLOCKS`

  @property
  def heads_first(self) -> bool:
    return self.kernel != 'triton'

  @property
  def slots(self) -> int:
    return self.k[0].shape[2 if self.heads_first else 1]


def paired(kv_heads: int, width: int) -> tuple[int, int]:
  """Returns heads and width of a TPU's cache: two heads of 64 are one of 128, which fills a row of a tile."""
  return (kv_heads // 2, 2 * width) if width == _TILE_WIDTH // 2 and kv_heads % 2 == 0 else (kv_heads, width)


def cached_heads(config: DecoderConfig, kernel: str) -> tuple[int, int]:
  """Returns heads and width of a cache for a kernel of `decode_attention`."""
  heads = config.kv_heads, config.head_width
  return paired(*heads) if kernel == 'mosaic' else heads


def empty_cache(config: DecoderConfig, slots: int, dtype: jnp.dtype, first_B: jax.Array, kernel: str) -> Cache:
  heads, width = cached_heads(config, kernel)
  inner = (slots, heads) if kernel == 'triton' else (heads, slots)
  shape = (first_B.shape[0], *inner, width)
  k, v = (tuple(jnp.zeros(shape, dtype) for _ in range(config.layers)) for _ in range(2))
  return Cache(k=k, v=v, first=first_B, kernel=kernel)


def put(cache: Cache, layer: int, k: jax.Array, v: jax.Array) -> Cache:
  k, v = (old[:layer] + (new,) + old[layer + 1 :] for old, new in ((cache.k, k), (cache.v, v)))
  return cache.replace(k=k, v=v)


def write(cache: Cache, layer: int, k_BTKC: jax.Array, v_BTKC: jax.Array, slot: jax.Array) -> Cache:
  """Writes T tokens of every row at slots from `slot` on: one for all rows, i32 [], or one a row, i32 [B]."""

  def updated(buffer, new_BTKC):
    B, T = new_BTKC.shape[:2]
    if cache.heads_first:
      new = jnp.swapaxes(new_BTKC.reshape(B, T, buffer.shape[1], buffer.shape[3]), 1, 2).astype(buffer.dtype)
    else:
      new = new_BTKC.astype(buffer.dtype)
    axis = 2 if cache.heads_first else 1
    if not slot.ndim:
      return jax.lax.dynamic_update_slice_in_dim(buffer, new, slot, axis)
    one_row = functools.partial(jax.lax.dynamic_update_slice_in_dim, axis=axis - 1)
    return jax.vmap(one_row)(buffer, new, slot)

  return put(cache, layer, updated(cache.k[layer], k_BTKC), updated(cache.v[layer], v_BTKC))


def grown(cache: Cache, slots: int) -> Cache:
  """Returns a cache with empty slots behind its own."""
  axis = 2 if cache.heads_first else 1
  pads = [(0, slots - cache.slots if i == axis else 0) for i in range(4)]
  k, v = (tuple(jnp.pad(x, pads) for x in side) for side in (cache.k, cache.v))
  return cache if slots == cache.slots else cache.replace(k=k, v=v)


def insert(cache: Cache, row_R: jax.Array, prompts: Cache) -> Cache:
  """Lays R prompts into the first slots of rows; drops rows past the last."""
  P = prompts.slots

  def laid(old, new):
    first_P = (slice(None), slice(P)) if cache.heads_first else (slice(P),)
    return old.at[row_R, *first_P].set(new, mode='drop', unique_indices=True)

  k, v = (tuple(map(laid, old, new)) for old, new in ((cache.k, prompts.k), (cache.v, prompts.v)))
  return cache.replace(k=k, v=v)


@struct.dataclass
class View:
  """How layers of one kind look at rows."""

  cos: jax.Array  # f32 [B, T, C/2]  rope's
  sin: jax.Array
  visible: jax.Array | None = None  # bool [B, T, S]  slots that a query sees; None: of whole rows


def views(config: DecoderConfig, position_BT: jax.Array) -> tuple[View, ...]:
  """Returns the view of each of `config.kinds`, for queries at these positions."""

  def view(rope: Rope) -> View:
    frequency_C = jnp.asarray(rope.frequencies(config.head_width), jnp.float32)
    angle_BTC = position_BT.astype(jnp.float32)[..., None] * frequency_C[None, None]
    factor = rope.factor_on_embedding()
    return View(jnp.cos(angle_BTC) * factor, jnp.sin(angle_BTC) * factor)

  return tuple(view(kind.rope) for kind in config.kinds)


def cache_views(config: DecoderConfig, first_B: jax.Array, slot_BT: jax.Array, slots: int) -> tuple[View, ...]:
  """Returns the same for queries at these slots (i32 [B, T] or [1, T]), which see a cache."""
  pairs = zip(views(config, positions(first_B, slot_BT)), config.kinds, strict=True)
  return tuple(view.replace(visible=visible(first_B, slot_BT, slots, kind.window)) for view, kind in pairs)


def visible(first_B: jax.Array, slot_BT: jax.Array, slots: int, window: int) -> jax.Array:
  """Returns, bool [B, T, S], which slots hold a row's newest `window` (0: all) tokens up to each query's slot."""
  age_BTS = slot_BT[..., None] - jnp.arange(slots, dtype=jnp.int32)[None, None]
  length_BT = slot_BT - first_B[:, None] + 1
  if window:
    length_BT = jnp.minimum(length_BT, window)
  return (age_BTS >= 0) & (age_BTS < length_BT[..., None])


def positions(first_B: jax.Array, slot_BT: jax.Array) -> jax.Array:
  """Returns (i32 [B, T]) the position of each slot in its row; 0 before it."""
  return jnp.maximum(slot_BT - first_B[:, None], 0)


def rotate(x_BTHC: jax.Array, view: View) -> jax.Array:
  """Applies the rotary embedding in f32, in the half-rotation layout of HF."""
  cos, sin = view.cos[:, :, None], view.sin[:, :, None]
  first, second = jnp.split(x_BTHC.astype(jnp.float32), 2, axis=-1)
  rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
  return rotated.astype(x_BTHC.dtype)


def softcapped(x: jax.Array, cap: float) -> jax.Array:
  """Returns cap tanh(x / cap); cap 0 is off."""
  return cap * jnp.tanh(x / cap) if cap else x


def numbers(fed_N: jax.Array, rows: int, tokens: int) -> jax.Array:
  """Returns the number of each of [rows, tokens] among `fed_N`, i32; -1: none."""
  number_N = jnp.arange(fed_N.shape[0], dtype=jnp.int32)
  return jnp.full((rows * tokens,), -1, jnp.int32).at[fed_N].set(number_N).reshape(rows, tokens)


def attend(
  q_BTHC: jax.Array,
  k_BSKC: jax.Array,
  v_BSKC: jax.Array,
  visible_BTS: jax.Array,
  *,
  scale: float,
  softcap: float,
  heads_first: bool = False,
) -> jax.Array:
  """Returns attention out_BTHC, softmax in f32; query head h reads key/value head h // (H/K).

  Keys and values are [B, K, S, C] if `heads_first`.
  """
  B, T, H, C = q_BTHC.shape
  letters, K = ('bksc', k_BSKC.shape[1]) if heads_first else ('bskc', k_BSKC.shape[2])
  q_BTKMC = q_BTHC.reshape(B, T, K, H // K, C)  # M: query heads per key/value head
  k_BSKC, v_BSKC = k_BSKC.astype(q_BTHC.dtype), v_BSKC.astype(q_BTHC.dtype)
  scores = jnp.einsum(f'btkmc,{letters}->bkmts', q_BTKMC, k_BSKC, preferred_element_type=jnp.float32) * scale
  scores = jnp.where(visible_BTS[:, None, None], softcapped(scores, softcap), HIDDEN)
  weights = jax.nn.softmax(scores, axis=-1).astype(q_BTHC.dtype)
  return jnp.einsum(f'bkmts,{letters}->btkmc', weights, v_BSKC).reshape(B, T, H, C)
