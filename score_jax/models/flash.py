# SPDX-License-Identifier: Apache-2.0
"""Attention of whole rows to themselves, as suits the device.

plain   scores [L, L] in memory; any device, dtype and soft cap
cudnn   NVIDIA GPUs, 16-bit, no soft cap: never holds scores
splash  TPU (Pallas), heads of a multiple of 64: never holds scores, and takes packed streams as they are
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
_SPLASH_BLOCKS = range(3, 9)  # of 128: sizes of splash's blocks, all of one; smaller ones waste the matrix unit
_WIDE_BLOCKS = range(3, 8)  # for heads wider than 128: backward blocks of 1,024 overflow the core's memory
_BLOCK_SIZES = tuple(f.name for f in dataclasses.fields(splash_attention.BlockSizes) if f.name.startswith('block_'))
_SPLASH_WIDTH = 64  # such heads fill half of a row of a TPU's tiles


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
  if platform == 'tpu' and config.head_width % _SPLASH_WIDTH == 0 and _takes(config.head_width):
    return Attention('splash', mesh)
  return Attention('plain', mesh)


@functools.cache
def _takes(width: int) -> bool:
  """Tells whether the installed splash has heads of this width: some releases take multiples of 128 alone."""
  x_HLC = jax.ShapeDtypeStruct((1, _BLOCK, width), jnp.bfloat16)
  try:
    jax.eval_shape(_splash_kernel(1, _BLOCK, _BLOCK, 0, 0.0, interpret=False), x_HLC, x_HLC, x_HLC)
  except (NotImplementedError, ValueError):
    return False
  return True


def slots(longest: int, attention: Attention) -> int:
  """Returns the slots of left-aligned rows: cudnn takes whole blocks."""
  return longest if attention.kind == 'plain' else -(-longest // _BLOCK) * _BLOCK


def blocks(longest: int, width: int) -> tuple[int, int]:
  """Returns splash's slots for `longest` tokens, and its block, which divides them: the fewest slots, then the largest.

  It is all slots up to 1,024 (896 where heads are wider than 128), else at least 384: blocks of 128 take 3 to 5 times
  as long (docs/performance.md).
  """
  units, sizes = -(-longest // _BLOCK), _SPLASH_BLOCKS if width <= _BLOCK else _WIDE_BLOCKS
  if units <= max(sizes):
    return units * _BLOCK, units * _BLOCK
  padded, block = min((-(-units // size) * size, -size) for size in sizes)
  return padded * _BLOCK, -block * _BLOCK


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
  """Returns causal attention out_NLHC within left-aligned rows of i32 `length_N` tokens, plain or by cudnn.

  For cudnn L is a multiple of 128. A query sees the newest `window` positions (0: all);
  `softcap` 0 is off. What stands after a row's end is finite.
  """
  if attention.kind == 'cudnn':
    lengths = dict(query_seq_lengths=length_N, key_value_seq_lengths=length_N)
    lengths |= dict(local_window_size=(window - 1, 0) if window else None)
    cudnn = functools.partial(jax.nn.dot_product_attention, implementation='cudnn')
    return cudnn(q_NLHC, k_NLKC, v_NLKC, scale=scale, is_causal=True, **lengths)
  L = q_NLHC.shape[1]
  start_N = jnp.zeros((1,), jnp.int32)
  visible_1LL = attentions.visible(start_N, jnp.arange(L, dtype=jnp.int32)[None], L, window)
  return attentions.attend(q_NLHC, k_NLKC, v_NLKC, visible_1LL, scale=scale, softcap=softcap)


def attend_prompts(
  q_BPHC: jax.Array, k_BPKC: jax.Array, v_BPKC: jax.Array, start_B: jax.Array, attention: Attention, **settings: Any
) -> jax.Array:
  """Returns causal attention out_BPHC within rows that end together, each from slot `start_B` on, i32.

  `settings` are those of `attend`; what stands before a row is finite.
  """
  P = q_BPHC.shape[1]
  slot_L, slot_P = (jnp.arange(count, dtype=jnp.int32)[None] for count in (slots(P, attention), P))
  left_BL = jnp.minimum(slot_L + start_B[:, None], P - 1)
  back_BP = jnp.maximum(slot_P - start_B[:, None], 0)
  aligned = (jnp.take_along_axis(x, left_BL[..., None, None], axis=1) for x in (q_BPHC, k_BPKC, v_BPKC))
  out_BLHC = attend(*aligned, P - start_B, attention, **settings)
  return jnp.take_along_axis(out_BLHC, back_BP[..., None, None], axis=1)


def attend_streams(
  q_XTHC: jax.Array,
  k_XTKC: jax.Array,
  v_XTKC: jax.Array,
  row_XT: jax.Array | None,
  attention: Attention,
  *,
  window: int,
  scale: float,
  softcap: float,
) -> jax.Array:
  """Returns causal attention out_XTHC within the conversations of streams, by splash.

  i32 `row_XT` tells a token's conversation; tokens of one lie side by side. None: a stream is one conversation, before
  its padding. `window` and `softcap` are those of `attend`.
  """
  T, H, C = q_XTHC.shape[1:]
  tensor = attention.mesh.shape['tensor']
  shared_heads = H // k_XTKC.shape[2]
  if k_XTKC.shape[2] % tensor:  # devices may share keys
    k_XTKC, v_XTKC = (jnp.repeat(x, shared_heads, axis=2) for x in (k_XTKC, v_XTKC))
  length, block = blocks(T, C)
  kernel = _splash_kernel(H // tensor, length, block, window, softcap, interpret=attention.interpret)
  rows = PartitionSpec(('data', 'fsdp'), None, 'tensor' if tensor > 1 else None)
  streams = PartitionSpec(('data', 'fsdp'))

  def padded(x_XT: jax.Array, filler: int = 0) -> jax.Array:
    return jnp.pad(x_XT, ((0, 0), (0, length - T)) + ((0, 0),) * (x_XT.ndim - 2), constant_values=filler)

  @functools.partial(
    jax.shard_map, mesh=attention.mesh, in_specs=(rows,) * 3 + (streams,), out_specs=rows, check_vma=False
  )
  def local(q, k, v, row_XT):
    segments = None if row_XT is None else splash_attention.SegmentIds(row_XT, row_XT)
    out_XHTC = jax.vmap(kernel)(*(jnp.swapaxes(x, 1, 2) for x in (q, k, v)), segments)
    return jnp.swapaxes(out_XHTC, 1, 2)

  if row_XT is not None:
    row_XT = padded(row_XT, -1)
  qkv = (padded(x) for x in (q_XTHC * np.asarray(scale, q_XTHC.dtype), k_XTKC, v_XTKC))
  return local(*qkv, row_XT)[:, :T]


def _splash_kernel(heads: int, length: int, block: int, window: int, softcap: float, *, interpret: bool) -> Any:
  """Returns splash for q [H, L, C], k and v [K, L, C], and segments or None."""
  one = (length, length)
  mask = splash_attention.LocalMask(one, (window - 1, 0), 0) if window else splash_attention.CausalMask(one)
  return splash_attention.make_splash_mha(
    splash_attention.MultiHeadMask([mask] * heads),
    block_sizes=splash_attention.BlockSizes(**dict.fromkeys(_BLOCK_SIZES, block)),
    head_shards=1,
    q_seq_shards=1,
    attn_logits_soft_cap=softcap or None,
    interpret=interpret,
  )
