"""Attention and its key/value cache. Where a row starts and which slot is written is known here and nowhere else."""

from flax import struct
import jax
import jax.numpy as jnp

# Large and finite: a query that sees no key (padding) then averages, and never makes a NaN.
_HIDDEN = -1e30


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


def visible(start_B: jax.Array, query_slots_T: jax.Array, slots: int) -> jax.Array:
  """bool [B, T, S]: key slots that each query may see: its own row's, up to and including itself."""
  key_S = jnp.arange(slots, dtype=jnp.int32)
  causal_TS = key_S[None, :] <= query_slots_T[:, None]
  return causal_TS[None] & (key_S[None, None, :] >= start_B[:, None, None])


def positions(start_B: jax.Array, slots_T: jax.Array) -> jax.Array:
  """i32 [B, T]: position of each slot counted from its row's own start; padding before it is 0."""
  return jnp.maximum(slots_T[None, :] - start_B[:, None], 0)


def rope(x_BTHC: jax.Array, position_BT: jax.Array, theta: float) -> jax.Array:
  """Rotary embedding in the half-rotation layout of HF checkpoints, computed in f32."""
  half = x_BTHC.shape[-1] // 2
  frequency_C = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
  angle_BT1C = (position_BT.astype(jnp.float32)[..., None] * frequency_C[None, None])[:, :, None]
  cos, sin = jnp.cos(angle_BT1C), jnp.sin(angle_BT1C)
  x = x_BTHC.astype(jnp.float32)
  first, second = x[..., :half], x[..., half:]
  rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
  return rotated.astype(x_BTHC.dtype)


def attend(q_BTHC: jax.Array, k_BSKC: jax.Array, v_BSKC: jax.Array, visible_BTS: jax.Array) -> jax.Array:
  """Grouped-query attention, softmax in f32; query head h reads key/value head h // (H/K).

  Returns:
    out_BTHC in the dtype of the queries.
  """
  B, T, H, C = q_BTHC.shape
  K = k_BSKC.shape[2]
  q_BTKMC = q_BTHC.reshape(B, T, K, H // K, C)  # M: query heads per key/value head
  k_BSKC, v_BSKC = k_BSKC.astype(q_BTHC.dtype), v_BSKC.astype(q_BTHC.dtype)
  scores = jnp.einsum('btkmc,bskc->bkmts', q_BTKMC, k_BSKC, preferred_element_type=jnp.float32) * C**-0.5
  scores = jnp.where(visible_BTS[:, None, None], scores, _HIDDEN)
  weights = jax.nn.softmax(scores, axis=-1).astype(q_BTHC.dtype)
  return jnp.einsum('bkmts,bskc->btkmc', weights, v_BSKC).reshape(B, T, H, C)
