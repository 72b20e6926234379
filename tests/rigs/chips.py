"""TPU chips that are not there: what a mesh and a plan ask of them."""

import dataclasses
import itertools

import numpy as np


@dataclasses.dataclass(frozen=True)
class Chip:
  """A chip of a host of 2 x 2."""

  id: int
  coords: tuple[int, int, int]
  process_index: int
  slice_index: int = 0
  platform: str = 'tpu'
  device_kind: str = 'TPU v5 lite'
  core_on_chip: int = 0


def chips(width: int, height: int, slices: int = 1) -> list[Chip]:
  """Slices of width x height chips, in an order that says nothing."""
  made = []
  for number, y, x in itertools.product(range(slices), range(height), range(width)):
    host = number * width * height // 4 + y // 2 * (width // 2) + x // 2
    made.append(Chip(len(made), (x, y, 0), host, number))
  np.random.default_rng(0).shuffle(made)
  return made
