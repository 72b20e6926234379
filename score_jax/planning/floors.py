"""The least that a step's programs can take: what they must compute and move, counted from shapes, over a chip's rates.

FLOPs are those of products, whatever is computed twice; a rollout's are of conversations that use their whole budgets.
"""

import dataclasses

import numpy as np

from score_jax.models import weights
from score_jax.models.families import DecoderConfig
from score_jax.planning import collectives
from score_jax.planning import memory
from score_jax.planning.chips import Chip
from score_jax.planning.programs import Plan
from score_jax.planning.programs import Program


@dataclasses.dataclass(frozen=True)
class Floor:
  """Of one device and one call."""

  flops: float
  bytes: float  # of its memory, read or written once

  def seconds(self, chip: Chip) -> float:
    """What the slower of the two takes."""
    return max(self.flops / chip.flops, self.bytes / chip.bandwidth)


def link_seconds(plan: Plan, program: Program, chip: Chip) -> float:
  """What its collectives take at least, if nothing of it hides behind computing: what they yield, over half of the
  published bandwidth, which counts both directions. 0 where that is not published.

  A rollout's steps are counted as if all rows used their whole budgets; refills of decode_slots are left out.
  """
  if not chip.interconnect:
    return 0.0
  times = {collectives.ALWAYS: 1, collectives.PASS: _steps(plan), collectives.OUTER_PASS: 0}
  return sum(sent.bytes * times[sent.place] for sent in program.sent) / (chip.interconnect / 2)


def met_in_products(config: DecoderConfig) -> int:
  """Parameters that every token meets in a product: all but an embedding that is only looked up."""
  return weights.weight_table(config).parameters() - (0 if config.tied else config.vocab * config.width)


def update_flops(config: DecoderConfig, length_B: np.ndarray) -> float:
  """Of the policy's forward and backward pass over rows of given lengths: 6 a token and parameter, and attention's
  own under its causal mask."""
  lengths = length_B.astype(np.float64)
  attention = 6 * config.layers * config.heads * config.head_width * np.sum(lengths**2)
  return 6 * met_in_products(config) * lengths.sum() + attention


def of(plan: Plan) -> dict[str, Floor]:
  """Of each program, for conversations that all use their whole budgets."""
  devices, sizes = plan.mesh.size, memory.sizes(plan)
  forward = update_flops(plan.decoder, np.full(plan.rows, plan.length)) / 3 / devices
  passes = plan.rollout.attempts if plan.update.attempt_gradient_norms else 1
  share = 2 if plan.update.reference_in_update else 1
  return dict(
    layout=Floor(0, sizes.parameters + 2 * sizes.policy),
    rollout=Floor(forward, _rollout_bytes(plan, sizes)),
    reference=Floor(forward, sizes.base),
    update=Floor(forward * (share + 2 * passes), 2 * (sizes.parameters + sizes.moments)),
  )


def _rollout_bytes(plan: Plan, sizes: memory.Sizes) -> float:
  """The weights once a step, and the live cache of every decode slot: half of what grows, on average."""
  live = (plan.prompt + plan.rollout.growth / 2) / plan.length
  return _steps(plan) * (sizes.policy + live * sizes.cache)


def _steps(plan: Plan) -> int:
  """Decode steps of a device whose rows all use their whole budgets."""
  return -(-plan.rows // memory.shards(plan) // memory.decode_slots(plan)) * plan.rollout.growth
