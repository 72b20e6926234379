# SPDX-License-Identifier: Apache-2.0
"""What the machine itself can do, measured in the same run."""

from collections.abc import Callable
import functools
import time
from typing import Any

import jax
import jax.numpy as jnp


def peak_mb() -> float | None:
  """Returns the peak memory of the first device in MB; None if unknown."""
  stats = jax.devices()[0].memory_stats() or {}
  return round(stats['peak_bytes_in_use'] / 1e6, 1) if 'peak_bytes_in_use' in stats else None


class Compiles:
  """Counts XLA's compilations in this process, and their seconds."""

  def __init__(self):
    self.count, self.seconds = 0, 0.0
    jax.monitoring.register_event_duration_secs_listener(self._add)

  def _add(self, event: str, seconds: float, **_: Any) -> None:
    if event == '/jax/core/compile/backend_compile_duration':
      self.count += 1
      self.seconds += seconds


def timed(call: Callable[[], Any], repeats: int) -> tuple[float, list[float]]:
  """Returns the seconds of a first call, which compiles, and of `repeats` more."""
  seconds = []
  for _ in range(repeats + 1):
    begun = time.perf_counter()
    jax.block_until_ready(call())
    seconds.append(time.perf_counter() - begun)
  return seconds[0], seconds[1:]


def matmul_rate(dtype: Any, size: int = 8192) -> float:
  """Returns the FLOP/s of one device: the fastest of ten square products."""
  a, b = (jax.random.normal(key, (size, size), dtype) for key in jax.random.split(jax.random.key(0)))
  product = jax.jit(jnp.matmul)
  return 2 * size**3 / min(timed(lambda: product(a, b), 10)[1])


def copy_rate(megabytes: int = 1024) -> float:
  """Returns the bytes per second, read and written, of the fastest of three copies."""
  elements = megabytes * 1_000_000 // 4
  x = jnp.ones((elements,), jnp.float32)
  copies = [jax.jit(copy) for copy in (lambda x: x + 1, lambda x: -x, lambda x: jnp.flip(x))]
  return 2 * x.nbytes / min(min(timed(functools.partial(copy, x), 5)[1]) for copy in copies)
