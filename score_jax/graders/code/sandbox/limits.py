# SPDX-License-Identifier: Apache-2.0
"""The limits of a job."""

import dataclasses

from score_jax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Limits:
  """Limits of one job: a program and the tests that call it.

  Net time is wall time less the time in which the job's processes were ready and others had the processor: a loaded
  host turns no pass into a timeout. Sleeping is net time.
  """

  seconds: float = 5.0  # net time; beyond it: TIMEOUT
  wall_seconds: float = 60.0  # on the clock; beyond it the host was too slow: ERROR
  memory_mb: int = 512  # address space of each process, beyond the interpreter's own
  stack_mb: int = 64
  source_bytes: int = 100_000  # of the program; a longer one is WRONG
  output_bytes: int = 8_000_000  # of all that the program returns, as codec.py writes and counts it
  calls: int = 10_000  # of the program by its tests

  def __post_init__(self):
    for field in dataclasses.fields(self):
      if not getattr(self, field.name) > 0:
        raise ConfigError(f'limits.{field.name} is {getattr(self, field.name)!r}; it must be greater than 0')
    if self.wall_seconds < 2 * self.seconds:
      raise ConfigError(f'limits.wall_seconds is {self.wall_seconds}; it must be at least twice limits.seconds')

  @property
  def cpu_seconds(self) -> int:
    """RLIMIT_CPU of each process, in case the client's clock fails."""
    return int(self.seconds) + 2
