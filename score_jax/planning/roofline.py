"""The least that a step's programs can take: what they must compute, move and send, over a chip's published rates.

FLOPs are those of products, whatever is computed twice; a rollout's are of conversations that use their whole budgets.
TPUs: docs.cloud.google.com/tpu/docs/v4, /v5e, /tpu7x (which has v5p, v6e and TPU7x side by side).
"""

import dataclasses
import re

import numpy as np

from score_jax.errors import ConfigError
from score_jax.models import weights
from score_jax.models.families import DecoderConfig
from score_jax.planning import collectives
from score_jax.planning import memory
from score_jax.planning.programs import Plan
from score_jax.planning.programs import Program

GIB = 1 << 30


@dataclasses.dataclass(frozen=True)
class Chip:
  """A device as JAX counts them: half a chip of TPU7x."""

  name: str
  kind: str  # device_kind
  memory: float  # bytes, published
  usable: float  # bytes that a program may take: what libtpu 0.0.52 names when it refuses one that is too large
  flops: float  # bf16 FLOP/s
  bandwidth: float  # bytes/s of its memory
  interconnect: float  # bytes/s, both directions together; 0 where it is not published
  settings: tuple[tuple[str, str], ...] = ()  # of a topology of it


CHIPS = {
  'v4': Chip('v4', 'TPU v4', 32 * GIB, 30.75 * GIB, 275e12, 1200e9, 0, (('chip_config_name', 'megacore'),)),
  'v5e': Chip('v5e', 'TPU v5 lite', 16 * GIB, 15.75 * GIB, 197e12, 819e9, 400e9),
  'v5p': Chip('v5p', 'TPU v5', 95 * GIB, 95.73 * GIB, 459e12, 2765e9, 1200e9),
  'v6e': Chip('v6e', 'TPU v6 lite', 32 * GIB, 31.24 * GIB, 918e12, 1638e9, 800e9),
  'tpu7x': Chip('tpu7x', 'TPU7x', 96 * GIB, 94.74 * GIB, 2307e12 / 2, 7380e9 / 2, 600e9),
}


def chip_of(topology: str) -> Chip:
  """Returns the chip of a topology like 'v5e:4x4'.

  Raises:
    ConfigError: no such name.
  """
  match = re.fullmatch(r'(\w+):\d+(?:x\d+){1,2}', topology)
  if not match or match[1] not in CHIPS:
    raise ConfigError(
      f'--topology={topology} is no TPU topology; write one of {", ".join(CHIPS)}, a colon and its shape in chips, '
      'like v5e:4x4 or v5p:4x4x8'
    )
  return CHIPS[match[1]]


@dataclasses.dataclass(frozen=True)
class Cost:
  """Of one device and one call."""

  flops: float
  bytes: float  # of its memory, read or written once

  def seconds(self, chip: Chip) -> float:
    """Returns what the slower of the two takes."""
    return max(self.flops / chip.flops, self.bytes / chip.bandwidth)


def costs(plan: Plan) -> dict[str, Cost]:
  """Returns the cost of each program, for conversations that all use their whole budgets."""
  sizes, growth = memory.sizes(plan), plan.rollout.growth
  forward = update_flops(plan.decoder, np.full(plan.rows, plan.length)) / 3 / plan.mesh.size
  passes = plan.rollout.attempts if plan.update.attempt_gradient_norms else 1
  share = 2 if plan.update.reference_in_update else 1
  # The weights once a step, and the live cache of every decode slot: half of what grows, on average.
  live = (plan.prompt + growth / 2) / plan.length
  return dict(
    layout=Cost(0, sizes.parameters + 2 * sizes.policy),
    rollout=Cost(forward, _decode_steps(plan) * (sizes.policy + live * sizes.cache)),
    reference=Cost(forward, sizes.base),
    update=Cost(forward * (share + 2 * passes), 2 * (sizes.parameters + sizes.moments)),
  )


def link_seconds(plan: Plan, program: Program, chip: Chip) -> float:
  """Returns what its collectives take at least, if nothing of it hides behind computing: what they yield, over half of
  the published bandwidth, which counts both directions. 0 where that is not published.

  A rollout's steps are counted as if all rows used their whole budgets; refills of decode slots are left out.
  """
  if not chip.interconnect:
    return 0.0
  times = {collectives.ALWAYS: 1, collectives.PASS: _decode_steps(plan), collectives.OUTER_PASS: 0}
  return sum(sent.bytes * times[sent.scope] for sent in program.sent) / (chip.interconnect / 2)


def update_flops(config: DecoderConfig, length_B: np.ndarray) -> float:
  """Returns the FLOPs of the policy's forward and backward pass over rows of given lengths: 6 a token and parameter,
  and attention's under its causal mask."""
  lengths = length_B.astype(np.float64)
  attention = 6 * config.layers * config.heads * config.head_width * np.sum(lengths**2)
  return 6 * multiplied_parameters(config) * lengths.sum() + attention


def multiplied_parameters(config: DecoderConfig) -> int:
  """Returns how many parameters every token meets in a product: all but an embedding that is only looked up."""
  return weights.weight_table(config).parameters() - (0 if config.tied else config.vocab * config.width)


def _decode_steps(plan: Plan) -> int:
  """Decode steps of a device whose rows all use their whole budgets."""
  return -(-plan.rows // plan.shards // plan.decode_slots) * plan.rollout.growth
