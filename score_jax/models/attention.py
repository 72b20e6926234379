"""Attention and its key/value cache. Where a row starts and which slot is written is known here and nowhere else."""

from flax import struct
import jax
import jax.numpy as jnp

from score_jax.models.families import DecoderConfig
from score_jax.models.rope import Rope

# Large and finite: a query that sees no key (padding) then averages, and never makes a NaN.
HIDDEN = -1e30


@struct.dataclass
class Cache:
  """Keys and values of every layer; one buffer a layer, so that a decode step updates each in place."""

  k: tuple[jax.Array, ...]  # N times [B, S, K, C]
  v: tuple[jax.Array, ...]
  start: jax.Array  # i32 [B]  first slot of each row; slots before it are padding


def empty_cache(layers: int, shape: tuple[int, int, int, int], dtype: jnp.dtype, start_B: jax.Array) -> Cache:
  """A cache of zeros; shape is (B, S, K, C)."""
  zeros = tuple(jnp.zeros(shape, dtype) for _ in range(layers))
  return Cache(k=zeros, v=tuple(jnp.zeros(shape, dtype) for _ in range(layers)), start=start_B)


def write(cache: Cache, layer: int, k_BTKC: jax.Array, v_BTKC: jax.Array, slot: jax.Array) -> Cache:
  """Writes T tokens of every row at slots [slot, slot + T): all rows share the write slot (design: one timeline)."""

  def put(buffers, new):
    updated = jax.lax.dynamic_update_slice_in_dim(buffers[layer], new.astype(buffers[layer].dtype), slot, axis=1)
    return buffers[:layer] + (updated,) + buffers[layer + 1 :]

  return cache.replace(k=put(cache.k, k_BTKC), v=put(cache.v, v_BTKC))


@struct.dataclass
class View:
  """How the layers of one kind look at the row: computed once, shared by all of them."""

  cos: jax.Array  # f32 [B, T, C/2]  rope's
  sin: jax.Array
  visible: jax.Array | None = None  # bool [B, T, S]  key slots that each query may see; None: whole rows see to it


def views(config: DecoderConfig, position_BT: jax.Array) -> tuple[View, ...]:
  """The view of each of `config.kinds`, for queries at the given positions of their rows."""
  return tuple(View(*_cos_sin(position_BT, kind.rope, config.head_width)) for kind in config.kinds)


def cache_views(config: DecoderConfig, start_B: jax.Array, query_slots_T: jax.Array, slots: int) -> tuple[View, ...]:
  """The same for queries at the given slots of a cache of `slots` slots, with what they may see there."""
  found = views(config, positions(start_B, query_slots_T))
  return tuple(
    view.replace(visible=visible(start_B, query_slots_T, slots, kind.window))
    for view, kind in zip(found, config.kinds, strict=True)
  )


def visible(start_B: jax.Array, query_slots_T: jax.Array, slots: int, window: int) -> jax.Array:
  """bool [B, T, S]: key slots of a query's own row up to itself, the newest `window` of them (0: all)."""
  key_S = jnp.arange(slots, dtype=jnp.int32)
  back_TS = query_slots_T[:, None] - key_S[None, :]
  near_TS = (back_TS >= 0) & (back_TS < window) if window else back_TS >= 0
  return near_TS[None] & (key_S[None, None, :] >= start_B[:, None, None])


def positions(start_B: jax.Array, slots_T: jax.Array) -> jax.Array:
  """i32 [B, T]: position of each slot counted from its row's own start; padding before it is 0."""
  return jnp.maximum(slots_T[None, :] - start_B[:, None], 0)


def _cos_sin(position_BT: jax.Array, rope: Rope, head_width: int) -> tuple[jax.Array, jax.Array]:
  frequency_C = jnp.asarray(rope.frequencies(head_width), jnp.float32)
  angle_BTC = position_BT.astype(jnp.float32)[..., None] * frequency_C[None, None]
  factor = rope.factor_on_embedding()
  return jnp.cos(angle_BTC) * factor, jnp.sin(angle_BTC) * factor


def rotate(x_BTHC: jax.Array, view: View) -> jax.Array:
  """Rotary embedding in the half-rotation layout of HF checkpoints, computed in f32."""
  cos, sin = view.cos[:, :, None], view.sin[:, :, None]
  first, second = jnp.split(x_BTHC.astype(jnp.float32), 2, axis=-1)
  rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
  return rotated.astype(x_BTHC.dtype)


def softcapped(x: jax.Array, cap: float) -> jax.Array:
  """cap tanh(x / cap); cap 0 is off."""
  return cap * jnp.tanh(x / cap) if cap else x


def attend(
  q_BTHC: jax.Array, k_BSKC: jax.Array, v_BSKC: jax.Array, visible_BTS: jax.Array, *, scale: float, softcap: float
) -> jax.Array:
  """Grouped-query attention, softmax in f32; query head h reads key/value head h // (H/K).

  Returns:
    out_BTHC in the dtype of the queries.
  """
  B, T, H, C = q_BTHC.shape
  K = k_BSKC.shape[2]
  q_BTKMC = q_BTHC.reshape(B, T, K, H // K, C)  # M: query heads per key/value head
  k_BSKC, v_BSKC = k_BSKC.astype(q_BTHC.dtype), v_BSKC.astype(q_BTHC.dtype)
  scores = jnp.einsum('btkmc,bskc->bkmts', q_BTKMC, k_BSKC, preferred_element_type=jnp.float32) * scale
  scores = jnp.where(visible_BTS[:, None, None], softcapped(scores, softcap), HIDDEN)
  weights = jax.nn.softmax(scores, axis=-1).astype(q_BTHC.dtype)
  return jnp.einsum('bkmts,bskc->btkmc', weights, v_BSKC).reshape(B, T, H, C)
