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
  """Keys and values of every layer; one buffer a layer, so that a decode step updates each in place.

  A ring: what belongs to time t lies in slot t mod S. A row may be as long as the ring, and begin at any time.
  """

  k: tuple[jax.Array, ...]  # N times [B, S, K, C]
  v: tuple[jax.Array, ...]
  first: jax.Array  # i32 [B]  time of each row's first token; what is older is not the row's


def empty_cache(layers: int, shape: tuple[int, int, int, int], dtype: jnp.dtype, first_B: jax.Array) -> Cache:
  """A cache of zeros; shape is (B, S, K, C)."""
  zeros = tuple(jnp.zeros(shape, dtype) for _ in range(layers))
  return Cache(k=zeros, v=tuple(jnp.zeros(shape, dtype) for _ in range(layers)), first=first_B)


def put(cache: Cache, layer: int, k_BSKC: jax.Array, v_BSKC: jax.Array) -> Cache:
  """The cache with other buffers for a layer."""
  k, v = (old[:layer] + (new,) + old[layer + 1 :] for old, new in ((cache.k, k_BSKC), (cache.v, v_BSKC)))
  return cache.replace(k=k, v=v)


def write(cache: Cache, layer: int, k_BTKC: jax.Array, v_BTKC: jax.Array, slot: jax.Array) -> Cache:
  """Writes T tokens of every row at slots [slot, slot + T), which don't wrap: all rows share the clock."""

  def updated(buffer, new):
    return jax.lax.dynamic_update_slice_in_dim(buffer, new.astype(buffer.dtype), slot, axis=1)

  return put(cache, layer, updated(cache.k[layer], k_BTKC), updated(cache.v[layer], v_BTKC))


def insert(cache: Cache, row_R: jax.Array, prompts: Cache, time: jax.Array) -> Cache:
  """Lays R prompts of P slots into rows of the cache, at the P times before `time`. Rows past the last are dropped."""
  slots, P = cache.k[0].shape[1], prompts.k[0].shape[1]
  slot_P = (time - P + jnp.arange(P, dtype=jnp.int32)) % slots

  def laid(buffers, new):
    return tuple(
      old.at[row_R[:, None], slot_P[None]].set(x, mode='drop', unique_indices=True)
      for old, x in zip(buffers, new, strict=True)
    )

  return cache.replace(k=laid(cache.k, prompts.k), v=laid(cache.v, prompts.v))


@struct.dataclass
class View:
  """How the layers of one kind look at the row: computed once, shared by all of them."""

  cos: jax.Array  # f32 [B, T, C/2]  rope's
  sin: jax.Array
  visible: jax.Array | None = None  # bool [B, T, S]  key slots that each query may see; None: whole rows see to it


def views(config: DecoderConfig, position_BT: jax.Array) -> tuple[View, ...]:
  """The view of each of `config.kinds`, for queries at the given positions of their rows."""
  return tuple(View(*_cos_sin(position_BT, kind.rope, config.head_width)) for kind in config.kinds)


def cache_views(config: DecoderConfig, first_B: jax.Array, time_T: jax.Array, slots: int) -> tuple[View, ...]:
  """The same for queries at the given times, with what they may see of a cache of `slots` slots."""
  found = views(config, positions(first_B, time_T))
  return tuple(
    view.replace(visible=visible(first_B, time_T, slots, kind.window))
    for view, kind in zip(found, config.kinds, strict=True)
  )


def visible(first_B: jax.Array, time_T: jax.Array, slots: int, window: int) -> jax.Array:
  """bool [B, T, S]: slots that hold a query's own row up to itself, the newest `window` of them (0: all)."""
  slot_S = jnp.arange(slots, dtype=jnp.int32)
  age_TS = (time_T[:, None] - slot_S[None, :]) % slots
  length_BT = time_T[None] - first_B[:, None] + 1
  if window:
    length_BT = jnp.minimum(length_BT, window)
  return age_TS[None] < length_BT[..., None]


def positions(first_B: jax.Array, time_T: jax.Array) -> jax.Array:
  """i32 [B, T]: position of each time counted from its row's own first; padding before it is 0."""
  return jnp.maximum(time_T[None, :] - first_B[:, None], 0)


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
