# SPDX-License-Identifier: Apache-2.0
"""Attention of whole left-aligned rows to themselves, as suits the device.

plain   scores [L, L] in memory; any device, dtype and soft cap
cudnn   NVIDIA GPUs, 16-bit, no soft cap: never holds scores
splash  TPU (Pallas), heads of a multiple of 128: never holds scores
"""

import dataclasses
import functools
from typing import Any

import jax
from jax.experimental.pallas.ops.tpu import splash_attention
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

from score_jax.models import attention as attentions
from score_jax.models.families import DecoderConfig

KINDS = ('plain', 'cudnn', 'splash')
_BLOCK = 128  # rows are padded to a multiple of it for the kernels
_BLOCK_SIZES = tuple(f.name for f in dataclasses.fields(splash_attention.BlockSizes) if f.name.startswith('block_'))
_LANES = 128  # of a TPU: the smallest head width that splash takes


@dataclasses.dataclass(frozen=True)
class Attention:
  """The implementation, compiled in."""

  kind: str = 'plain'
  mesh: Mesh | None = None  # rows lie on data and fsdp, heads on tensor
  interpret: bool = False  # run splash as plain JAX, for tests

  def spread(self, x_X: jax.Array) -> jax.Array:
    """Keeps activations where their rows are, not as weights are cut."""
    return self._placed(x_X, ('data', 'fsdp'))

  @property
  def shards(self) -> int:
    """Returns the number of parts that rows are cut into."""
    return 1 if self.mesh is None else self.mesh.shape['data'] * self.mesh.shape['fsdp']

  def whole(self, head_VD: jax.Array) -> jax.Array:
    """Returns the output head, gathered once for all chunks of logits."""
    return self._placed(head_VD, self._vocabulary(head_VD), None)

  def partial(self, sum_SVD: jax.Array) -> jax.Array:
    """Returns the head's gradient, a part on each shard of rows."""
    return self._placed(sum_SVD, ('data', 'fsdp'), self._vocabulary(sum_SVD), None)

  def _vocabulary(self, x: jax.Array) -> str | None:
    return None if self.mesh is None or x.shape[-2] % self.mesh.shape['tensor'] else 'tensor'

  def _placed(self, x: jax.Array, *axes: Any) -> jax.Array:
    if self.mesh is None or self.mesh.size == 1:
      return x
    return jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, PartitionSpec(*axes)))


PLAIN = Attention()


def best(config: DecoderConfig, dtype: Any, mesh: Mesh) -> Attention:
  platform = mesh.devices.flat[0].platform
  narrow = jnp.dtype(dtype).itemsize == 2
  if platform == 'gpu' and narrow and not config.attention_softcap and config.head_width % 8 == 0:
    return Attention('cudnn' if config.head_width <= 128 else 'plain', mesh)
  if platform == 'tpu' and config.head_width % _LANES == 0:
    return Attention('splash', mesh)
  return Attention('plain', mesh)


def slots(longest: int, attention: Attention) -> int:
  """Returns the slots of left-aligned rows: kernels take whole blocks."""
  return longest if attention.kind == 'plain' else -(-longest // _BLOCK) * _BLOCK


def attend(
  q_NLHC: jax.Array,
  k_NLKC: jax.Array,
  v_NLKC: jax.Array,
  length_N: jax.Array,
  attention: Attention,
  *,
  window: int,
  scale: float,
  softcap: float,
) -> jax.Array:
  """Returns causal attention out_NLHC within left-aligned rows of i32 `length_N` tokens.

  For kernels L is a multiple of 128. A query sees the newest `window` positions (0: all);
  `softcap` 0 is off. What stands after a row's end is finite.
  """
  if attention.kind == 'cudnn':
    lengths = dict(query_seq_lengths=length_N, key_value_seq_lengths=length_N)
    lengths |= dict(local_window_size=(window - 1, 0) if window else None)
    cudnn = functools.partial(jax.nn.dot_product_attention, implementation='cudnn')
    return cudnn(q_NLHC, k_NLKC, v_NLKC, scale=scale, is_causal=True, **lengths)
  if attention.kind == 'splash':
    return _splash(q_NLHC, k_NLKC, v_NLKC, attention, window=window, scale=scale, softcap=softcap)
  L = q_NLHC.shape[1]
  start_N = jnp.zeros((1,), jnp.int32)
  visible_1LL = attentions.visible(start_N, jnp.arange(L, dtype=jnp.int32), L, window)
  return attentions.attend(q_NLHC, k_NLKC, v_NLKC, visible_1LL, scale=scale, softcap=softcap)


def _splash(q_NLHC, k_NLKC, v_NLKC, attention: Attention, *, window: int, scale: float, softcap: float) -> jax.Array:
  L, H = q_NLHC.shape[1:3]
  tensor = attention.mesh.shape['tensor']
  shared_heads = H // k_NLKC.shape[2]
  if k_NLKC.shape[2] % tensor:  # devices may share keys
    k_NLKC, v_NLKC = (jnp.repeat(x, shared_heads, axis=2) for x in (k_NLKC, v_NLKC))
  one = (L, L)
  mask = splash_attention.LocalMask(one, (window - 1, 0), 0) if window else splash_attention.CausalMask(one)
  block = next(size for size in (512, 256, 128) if L % size == 0)
  kernel = splash_attention.make_splash_mha(
    splash_attention.MultiHeadMask([mask] * (H // tensor)),
    block_sizes=splash_attention.BlockSizes(**dict.fromkeys(_BLOCK_SIZES, block)),
    head_shards=1,
    q_seq_shards=1,
    attn_logits_soft_cap=softcap or None,
    interpret=attention.interpret,
  )
  rows = PartitionSpec(('data', 'fsdp'), None, 'tensor' if tensor > 1 else None)

  @functools.partial(jax.shard_map, mesh=attention.mesh, in_specs=(rows,) * 3, out_specs=rows, check_vma=False)
  def local(*qkv):
    out_NHLC = jax.vmap(kernel)(*(jnp.swapaxes(x, 1, 2) for x in qkv))
    return jnp.swapaxes(out_NHLC, 1, 2)

  return local(q_NLHC * np.asarray(scale, q_NLHC.dtype), k_NLKC, v_NLKC)
