"""Where a chip's memory goes: exactly for what lies there between programs, estimated for what programs use meanwhile.

Estimates are for the search alone (`search.py`), which scales them by what the compiler said of a setting that it did
compile, and has the setting that it proposes compiled in its turn.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from score_jax.models import lora as loras
from score_jax.models import weights
from score_jax.parallel import mesh as meshes
from score_jax.planning import programs
from score_jax.planning.programs import Plan
from score_jax.sampling import rollout as rollouts
from score_jax.training import specs


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Bytes on one device."""

  parameters: int  # trained, f32
  moments: int  # of the optimizer
  base: int  # compute dtype
  policy: int  # the sampler's copy
  cache: int  # keys and values of a rollout's decode slots


def on_device(tree: Any) -> int:
  """Returns the bytes of a tree of placed shapes on one device."""
  return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))


@functools.lru_cache
def _weights_held(plan: Plan) -> tuple[int, int, int]:
  """Bytes of the trained parameters, the base and the sampler's copy."""
  policy = loras.policy_table(plan.decoder, plan.lora)
  shardings = meshes.params(plan.mesh, policy, meshes.SAMPLING_RULES)
  return (
    on_device(programs.weights_in(plan.mesh, plan.trained, jnp.float32)),
    on_device(programs.weights_in(plan.mesh, weights.weight_table(plan.decoder), plan.dtype)),
    on_device(specs.placed(policy.abstract(plan.dtype), shardings)),
  )


def sizes(plan: Plan) -> Sizes:
  """Returns what a plan's arrays take; from shapes, so exact but for padding."""
  config, tensor = plan.decoder, plan.mesh.shape['tensor']
  parameters, base, policy = _weights_held(plan.deciding('layout'))
  heads = config.kv_heads // tensor if config.kv_heads % tensor == 0 else config.kv_heads
  itemsize = rollouts.cache_dtype(plan.rollout, plan.dtype).itemsize
  cache = 2 * config.layers * plan.decode_slots * plan.length * heads * config.head_width * itemsize
  return Sizes(parameters, 2 * parameters, base, policy, cache)


def _passed(plan: Plan, name: str) -> int:
  """Bytes of the arguments of a program that a run holds all the time: of the state and the base."""
  held = sizes(plan)
  frozen = held.base if plan.lora.rank else 0
  return dict(
    layout=held.parameters + frozen,
    rollout=0,
    reference=held.base,
    update=held.parameters + held.moments + (held.base if plan.update.reference_in_update else frozen),
  )[name]


def references(plan: Plan) -> int:
  """Returns the bytes of stages' own references: of the whole model in the compute dtype, or of adapters in f32."""
  parameters = sizes(plan).parameters
  return plan.references * (parameters if plan.lora.rank else parameters // 4 * plan.dtype.itemsize)


def beside(plan: Plan, name: str) -> int:
  """Returns the bytes of what a run holds while a program runs that is no argument of it.

  The state and the base lie there for the whole run, and so do the references that stages take as they begin.
  """
  held = sizes(plan)
  return held.parameters + held.moments + held.base + references(plan) - _passed(plan, name)


def estimated(plan: Plan, name: str) -> tuple[int, int]:
  """Returns the bytes of a program's arguments and results, and a guess of its temporary ones.

  An update holds gradients and cast weights, what the backward pass keeps of the layers, one layer again, the head with
  its gradient, and two chunks of logits; the reference a layer, the head and a chunk; a rollout the cache and a
  prefill's layer. Attention's scores are added where no kernel does without them.
  """
  config, update, tensor, itemsize = plan.decoder, plan.update, plan.mesh.shape['tensor'], plan.dtype.itemsize
  held, slots, local = sizes(plan), plan.decode_slots, plan.rows // plan.shards
  known = dict(layout=held.policy, rollout=held.policy).get(name, 0) + _passed(plan, name)
  known += 0 if name == 'layout' else local * plan.length * 16  # the batch
  # Numbers of a device: per token in a layer, in one micro-batch, in the output head gathered over fsdp.
  ffn, heads, width = config.ffn // tensor, config.heads * config.head_width // tensor, config.width
  tokens, one_head = local // update.micro_batches * plan.length, max(1, config.heads // tensor)
  head, logits = config.vocab * width // tensor, update.logits_mb * 1e6 / tensor
  scores = 2 * tokens * plan.length * one_head * 4 if update.attention.kind == 'plain' else 0

  layer = (4 * ffn + 4 * heads + 4 * width) * itemsize * tokens
  prefill = (2 * ffn + 2 * heads + 2 * width) * itemsize + one_head * plan.prompt * 4
  trees = plan.rollout.attempts if update.attempt_gradient_norms else 1
  gradients = trees * (itemsize if update.micro_batches == 1 else 4) + 2 * itemsize
  kept = dict(none=4 * ffn + 5 * heads + 6 * width, dots=3 * ffn + 3 * heads + 2 * width, full=width)[update.remat]
  kept = config.layers * tokens * kept * itemsize + (config.layers - 1) * scores * (update.remat == 'none')
  weights_update = held.parameters // 4 * gradients + head * (itemsize if plan.lora.rank else itemsize + 4)
  guess = dict(
    layout=held.policy,
    rollout=held.cache + slots * plan.prompt * prefill + 3 * slots * config.vocab * 4,
    reference=(tokens * (2 * ffn + 3 * heads + 3 * width) + head) * itemsize + logits + scores,
    update=weights_update + kept + layer + 2 * logits + scores,
  )
  return known, int(guess[name])
