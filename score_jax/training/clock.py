"""Seconds by phase of a step, and the deadlines that go with them."""

import contextlib
import time

from score_jax.faults import watchdog


class Clock:
  """Wall time by phase."""

  def __init__(self):
    self.seconds: dict[str, float] = {}

  @contextlib.contextmanager
  def __call__(self, phase: str):
    begun = time.perf_counter()
    with watchdog.phase(phase):
      yield
    self.seconds[phase] = round(time.perf_counter() - begun, 4)
