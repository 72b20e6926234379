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
from jax.sharding import Mesh

from score_jax.models import lora as loras
from score_jax.models import weights
from score_jax.models.families import DecoderConfig
from score_jax.models.lora import Lora
from score_jax.parallel import mesh as meshes
from score_jax.planning import programs
from score_jax.planning.programs import Plan
from score_jax.planning.programs import Program
from score_jax.sampling import rollout as rollouts


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Bytes on one device."""

  parameters: int  # trained, f32
  moments: int  # of the optimizer
  base: int  # compute dtype
  policy: int  # the sampler's copy
  cache: int  # keys and values of a rollout's decode_slots


def parameters(decoder: DecoderConfig, lora: Lora = loras.NONE) -> int:
  """How many weights a model has, or how many of it are trained."""
  return loras.trained_table(decoder, lora).parameters()


def on_device(tree: Any) -> int:
  """Bytes of a tree of placed shapes on one device."""
  return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def shards(plan: Plan) -> int:
  """Devices that rows are spread over."""
  return meshes.row_shards(plan.mesh)


def decode_slots(plan: Plan) -> int:
  """Rows that a device decodes at a time."""
  local = plan.rows // shards(plan)
  return min(plan.rollout.decode_slots or local, local)


@functools.lru_cache
def _held(decoder: DecoderConfig, lora: Lora, dtype: Any, mesh: Mesh) -> tuple[int, int, int]:
  """Bytes of the trained parameters, the base and the sampler's copy."""
  trained = loras.trained_table(decoder, lora)
  policy = loras.policy_table(decoder, lora)
  sampled = meshes.params(mesh, policy, meshes.SAMPLING_RULES)
  shapes = policy.abstract(dtype)
  return (
    on_device(programs.weights_in(mesh, trained, jnp.float32)),
    on_device(programs.weights_in(mesh, weights.weight_table(decoder), dtype)),
    on_device(jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, sampled)),
  )


def sizes(plan: Plan) -> Sizes:
  """What a plan's arrays take; from shapes, so exact but for padding."""
  parameters, base, policy = _held(plan.decoder, plan.lora, jnp.dtype(plan.dtype), plan.mesh)
  return Sizes(parameters, 2 * parameters, base, policy, _cache(plan))


def _cache(plan: Plan) -> int:
  config, tensor = plan.decoder, plan.mesh.shape['tensor']
  heads = config.kv_heads // tensor if config.kv_heads % tensor == 0 else config.kv_heads
  itemsize = rollouts.cache_dtype(plan.rollout, plan.dtype).itemsize
  return 2 * config.layers * decode_slots(plan) * plan.length * heads * config.head_width * itemsize


def beside(plan: Plan, name: str, references: int) -> int:
  """Bytes of what a run holds while a program runs that is no argument of it.

  The state and the base lie there for the whole run; `references` counts copies of the trained weights, in the base's
  dtype, that stages take as they begin.
  """
  held = sizes(plan)
  state = held.parameters + held.moments
  passed = dict(
    layout=held.parameters + (held.base if plan.lora.rank else 0),
    rollout=0,
    reference=held.base,
    update=state + (held.base if plan.lora.rank or plan.update.reference_in_update else 0),
  )
  return state + held.base + copies(plan, references) - passed[name]


def copies(plan: Plan, references: int) -> int:
  """Bytes of so many references of stages' own: of the whole model in the compute dtype, or of adapters in f32."""
  parameters = sizes(plan).parameters
  return references * (parameters if plan.lora.rank else parameters // 4 * plan.dtype.itemsize)


def most(plan: Plan, program: Program, references: int) -> int:
  """The most that a chip holds while a program runs."""
  return program.peak + beside(plan, program.name, references)


def estimated(plan: Plan, name: str) -> tuple[int, int]:
  """Bytes of a program's arguments and results, and a guess of its temporary ones."""
  held = sizes(plan)
  state, batch = held.parameters + held.moments, plan.rows // shards(plan) * plan.length * 16
  frozen = held.base if plan.lora.rank else 0
  known = dict(
    layout=held.parameters + frozen + held.policy,
    rollout=held.policy + batch,
    reference=held.base + batch,
    update=state + batch + (held.base if plan.lora.rank or plan.update.reference_in_update else 0),
  )
  guess = dict(
    layout=lambda: held.policy,
    rollout=lambda: _rollout(plan),
    reference=lambda: _scores(plan),
    update=lambda: _update(plan),
  )
  return known[name], int(guess[name]())


def _width(plan: Plan) -> tuple[int, int, int]:
  """Numbers a token takes in a layer: feed-forward and heads of a device, and the residual stream."""
  config, tensor = plan.decoder, plan.mesh.shape['tensor']
  return config.ffn // tensor, config.heads * config.head_width // tensor, config.width


def _rollout(plan: Plan) -> float:
  """The cache, and a prefill's layer."""
  config, tensor, P = plan.decoder, plan.mesh.shape['tensor'], plan.prompt
  ffn, heads, width = _width(plan)
  rows, itemsize = decode_slots(plan), plan.dtype.itemsize
  layer = rows * P * (2 * ffn + 2 * heads + 2 * width) * itemsize
  scores = rows * max(1, config.heads // tensor) * P * P * 4
  return sizes(plan).cache + layer + scores + 3 * rows * config.vocab * 4


def _part(plan: Plan) -> int:
  """Places of a device's rows in one micro-batch."""
  return plan.rows // shards(plan) // plan.update.micro_batches * plan.length


def _head(plan: Plan) -> int:
  """Numbers of the output head of a device, gathered over fsdp."""
  return plan.decoder.vocab * plan.decoder.width // plan.mesh.shape['tensor']


def _logits(plan: Plan) -> float:
  return plan.update.logits_mb * 1e6 / plan.mesh.shape['tensor']


def _scores(plan: Plan) -> float:
  """A layer of a micro-batch, the head, and a chunk of logits."""
  ffn, heads, width = _width(plan)
  layer = _part(plan) * (2 * ffn + 3 * heads + 3 * width) * plan.dtype.itemsize
  return layer + _head(plan) * plan.dtype.itemsize + _logits(plan) + _plain_scores(plan)


def _plain_scores(plan: Plan) -> float:
  """Attention's scores, where no kernel does without them."""
  if plan.update.how.kind != 'plain':
    return 0
  heads = max(1, plan.decoder.heads // plan.mesh.shape['tensor'])
  return 2 * _part(plan) * plan.length * heads * 4


def _update(plan: Plan) -> float:
  """Gradients, cast weights, what the backward pass keeps of the layers, the head's gradient, one layer again."""
  config, itemsize = plan.decoder, plan.dtype.itemsize
  ffn, heads, width = _width(plan)
  trained = sizes(plan).parameters // 4
  trees = _gradients(plan)
  gradients = trained * (trees * (4 if plan.update.micro_batches > 1 else itemsize) + 2 * itemsize)
  kept = dict(none=4 * ffn + 5 * heads + 6 * width, dots=3 * ffn + 3 * heads + 2 * width, full=width)
  layers = config.layers * _part(plan) * kept[plan.update.remat] * itemsize
  if plan.update.remat == 'none':
    layers += (config.layers - 1) * _plain_scores(plan)
  layer = _part(plan) * (4 * ffn + 4 * heads + 4 * width) * itemsize
  head = _head(plan) * (itemsize + 4 * (0 if plan.lora.rank else 1))
  return gradients + layers + layer + head + 2 * _logits(plan) + _plain_scores(plan)


def _gradients(plan: Plan) -> int:
  """Trees of gradients that exist side by side."""
  return plan.rollout.attempts if plan.update.attempt_gradient_norms else 1
