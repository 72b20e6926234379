# SPDX-License-Identifier: Apache-2.0
"""Rotary position embeddings: a dataclass, by the fields of config.json, for each kind."""

import dataclasses
import math

import numpy as np


@dataclasses.dataclass(frozen=True)
class Plain:
  """Su et al. 2021 (arXiv 2104.09864): frequency i of a head of width C is theta^(-2i/C)."""

  rope_theta: float

  def frequencies(self, width: int) -> np.ndarray:
    """Returns f64 [C/2], radians per position."""
    return self.rope_theta ** (-np.arange(0, width, 2, dtype=np.float64) / width)

  def factor_on_embedding(self) -> float:
    """Returns what cosine and sine are multiplied by."""
    return 1.0


@dataclasses.dataclass(frozen=True)
class Linear(Plain):
  """Positions divided by `factor`."""

  factor: float

  def frequencies(self, width: int) -> np.ndarray:
    return super().frequencies(width) / self.factor


@dataclasses.dataclass(frozen=True)
class Llama3(Plain):
  """Llama 3.1: long wavelengths are stretched by `factor`, short ones kept."""

  factor: float
  low_freq_factor: float
  high_freq_factor: float
  original_max_position_embeddings: int

  def frequencies(self, width: int) -> np.ndarray:
    frequency = super().frequencies(width)
    # Turns over the original context; between the bounds, 0 is stretched, 1 kept.
    turns = self.original_max_position_embeddings * frequency / (2 * np.pi)
    kept = np.clip((turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor), 0, 1)
    return frequency * ((1 - kept) / self.factor + kept)


@dataclasses.dataclass(frozen=True)
class Yarn(Plain):
  """YaRN (Peng et al. 2023, arXiv 2309.00071): a ramp over dimensions, and a temperature."""

  factor: float
  original_max_position_embeddings: int
  beta_fast: float = 32.0
  beta_slow: float = 1.0
  attention_factor: float | None = None
  mscale: float | None = None
  mscale_all_dim: float | None = None
  truncate: bool = True

  def frequencies(self, width: int) -> np.ndarray:
    frequency = super().frequencies(width)

    def dimension(turns: float) -> float:
      positions = self.original_max_position_embeddings / (turns * 2 * math.pi)
      return width * math.log(positions) / (2 * math.log(self.rope_theta))

    low, high = dimension(self.beta_fast), dimension(self.beta_slow)
    if self.truncate:
      low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, width - 1)
    if low == high:
      high += 0.001  # as the reference does, against a division by 0
    stretched = np.clip((np.arange(width // 2) - low) / (high - low), 0, 1)
    return frequency * (stretched / self.factor + (1 - stretched))

  def factor_on_embedding(self) -> float:
    def temperature(scale: float) -> float:
      return 0.1 * scale * math.log(self.factor) + 1.0 if self.factor > 1 else 1.0

    if self.attention_factor is not None:
      return self.attention_factor
    if self.mscale and self.mscale_all_dim:
      return temperature(self.mscale) / temperature(self.mscale_all_dim)
    return temperature(1.0)


@dataclasses.dataclass(frozen=True)
class Absent:
  """No rotation, exactly: cosine 1 and sine 0 at every position."""

  def frequencies(self, width: int) -> np.ndarray:
    return np.zeros(width // 2)

  def factor_on_embedding(self) -> float:
    return 1.0


Rope = Plain | Linear | Llama3 | Yarn | Absent

# rope_type of config.json -> its kind.
KINDS: dict[str, type] = {'default': Plain, 'linear': Linear, 'llama3': Llama3, 'yarn': Yarn}


def name_of(rope: Rope) -> str:
  return next((name for name, kind in KINDS.items() if type(rope) is kind), 'absent')
