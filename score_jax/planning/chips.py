"""What accelerators have, as published; for TPUs also the memory that their compiler lets a program have.

TPUs: docs.cloud.google.com/tpu/docs/v4, /v5e, /tpu7x (which has v5p, v6e and TPU7x side by side). GPUs: NVIDIA's data
sheets (A100, H100, H200, L4; dense bf16, SXM where there are several). Interconnect is per chip and both directions
together; 0 where that page has no such number. `usable` of a TPU is what libtpu 0.0.52 names as available when it
refuses a program that is too large.
"""

import dataclasses
import math
import re

from score_jax.errors import ConfigError

GIB = 1 << 30


@dataclasses.dataclass(frozen=True)
class Chip:
  """A device as JAX counts them: of TPU7x half a chip."""

  name: str
  kind: str  # device_kind begins with it
  memory: float  # bytes, published
  usable: float  # bytes that a program may take
  flops: float  # bf16 FLOP/s
  bandwidth: float  # bytes/s of its memory
  interconnect: float  # bytes/s
  settings: tuple[tuple[str, str], ...] = ()  # of a topology of it


def _tpu(name, kind, memory_gib, usable_gib, tflops, gbps, ici_gbps, **settings: str) -> Chip:
  return Chip(
    name, kind, memory_gib * GIB, usable_gib * GIB, tflops * 1e12, gbps * 1e9, ici_gbps * 1e9, tuple(settings.items())
  )


def _gpu(name: str, memory_gb: float, tflops: float, gbps: float, link_gbps: float) -> Chip:
  # JAX leaves a quarter of a GPU's memory alone unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise.
  return Chip(
    name, f'NVIDIA {name}', memory_gb * 1e9, 0.75 * memory_gb * 1e9, tflops * 1e12, gbps * 1e9, link_gbps * 1e9
  )


CHIPS = (
  _tpu('v4', 'TPU v4', 32, 30.75, 275, 1200, 0, chip_config_name='megacore'),
  _tpu('v5e', 'TPU v5 lite', 16, 15.75, 197, 819, 400),
  _tpu('v5p', 'TPU v5', 95, 95.73, 459, 2765, 1200),
  _tpu('v6e', 'TPU v6 lite', 32, 31.24, 918, 1638, 800),
  _tpu('tpu7x', 'TPU7x', 96, 94.74, 2307 / 2, 7380 / 2, 600),
  _gpu('A100-SXM4-40GB', 40, 312, 1555, 600),
  _gpu('A100-SXM4-80GB', 80, 312, 2039, 600),
  _gpu('H100 80GB HBM3', 80, 989, 3350, 900),
  _gpu('H200', 141, 989, 4800, 900),
  _gpu('L4', 24, 121, 300, 0),
)


def of_topology(topology: str) -> tuple[Chip, int]:
  """The chip of a topology like 'v5e:4x4', and how many devices JAX finds in it.

  Raises:
    ConfigError: no such name.
  """
  known = {chip.name: chip for chip in CHIPS if chip.kind.startswith('TPU')}
  found = re.fullmatch(r'(\w+):(\d+(?:x\d+){1,2})', topology)
  if not found or found[1] not in known:
    raise ConfigError(
      f'--topology={topology} is no TPU topology; write one of {", ".join(known)}, a colon and its shape in chips, '
      'like v5e:4x4 or v5p:4x4x8'
    )
  chips = math.prod(int(extent) for extent in found[2].split('x'))
  return known[found[1]], chips * (2 if found[1] == 'tpu7x' else 1)


def of_device(device_kind: str) -> Chip | None:
  """The chip of that device_kind; None if it is not in the table."""
  # The longest first: 'TPU v5' begins 'TPU v5 lite' as well.
  matching = [chip for chip in CHIPS if device_kind.startswith(chip.kind)]
  return max(matching, key=lambda chip: len(chip.kind), default=None)
