"""What the machine itself can do, measured in the same run as what is compared with it."""

from collections.abc import Callable
import functools
import time
from typing import Any

import jax
import jax.numpy as jnp


def first_call(call: Callable[[], Any]) -> float:
  """Seconds of the first call: mostly compilation."""
  begun = time.perf_counter()
  jax.block_until_ready(call())
  return time.perf_counter() - begun


def peak_mb() -> float | None:
  """Most memory that the first device has held, if it tells."""
  stats = jax.devices()[0].memory_stats() or {}
  return round(stats['peak_bytes_in_use'] / 1e6, 1) if 'peak_bytes_in_use' in stats else None


def timed(call: Callable[[], Any], repeats: int) -> list[float]:
  """Seconds of each of `repeats` calls, results waited for; the first call, which compiles, is not among them."""
  jax.block_until_ready(call())
  seconds = []
  for _ in range(repeats):
    begun = time.perf_counter()
    jax.block_until_ready(call())
    seconds.append(time.perf_counter() - begun)
  return seconds


def copy_rate(megabytes: int = 1024) -> float:
  """Bytes per second of the fastest of three copies on one device, reads and writes counted."""
  elements = megabytes * 1_000_000 // 4
  x = jnp.ones((elements,), jnp.float32)
  copies = [jax.jit(copy) for copy in (lambda x: x + 1, lambda x: -x, lambda x: jnp.flip(x))]
  return 2 * x.nbytes / min(min(timed(functools.partial(copy, x), 5)) for copy in copies)
