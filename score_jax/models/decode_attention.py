# SPDX-License-Identifier: Apache-2.0
"""Which kernel attends in decode steps, as suits the device.

''      none: the cache is read under a mask, on any device and in any dtype
triton  decode_attention_gpu.py: NVIDIA GPUs, 16 bit, whole heads
mosaic  decode_attention_tpu.py: TPUs, 16 bit, a cache of 16 or 8 bit, heads also on the tensor axis
"""

from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh

from score_jax.models import decode_attention_gpu, decode_attention_tpu
from score_jax.models.families import DecoderConfig

BLOCKS = {'': 1, 'triton': decode_attention_gpu.BLOCK, 'mosaic': decode_attention_tpu.BLOCK}  # a cache has whole ones


def best(config: DecoderConfig, dtype: Any, cache_dtype: Any, mesh: Mesh) -> str:
  """Returns the kernel for a model's decode steps on a mesh, '': none."""
  platform, dtype, cache_dtype = mesh.devices.flat[0].platform, jnp.dtype(dtype), jnp.dtype(cache_dtype)
  if platform == 'gpu' and mesh.shape['tensor'] == 1 and cache_dtype == dtype:
    return 'triton' if decode_attention_gpu.fits(config, dtype) else ''
  if platform == 'tpu':
    return 'mosaic' if decode_attention_tpu.fits(config, dtype, cache_dtype) else ''
  return ''
