# SPDX-License-Identifier: Apache-2.0
"""What a step's programs need of a chip: memory, and the least time that computing, moving and sending take.

FLOPs are those of products, whatever is computed twice. Rates: docs.cloud.google.com/tpu/docs/v4, /v5e, /tpu7x, and
NVIDIA's data sheets of T4 and L4.
"""

import dataclasses
import functools
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_jax.errors import ConfigError
from score_jax.models import attention, decoder, weights
from score_jax.models import lora as loras
from score_jax.models.families import DecoderConfig
from score_jax.parallel import mesh as meshes
from score_jax.planning import collectives, programs
from score_jax.planning.programs import Plan
from score_jax.sampling.spec import cache_dtype
from score_jax.training import specs

GIB = 1 << 30


@dataclasses.dataclass(frozen=True)
class Chip:
  """A device as JAX counts them: half a chip of TPU7x."""

  name: str  # in a topology
  kind: str  # device_kind
  memory: float  # bytes, published
  usable: float  # bytes that libtpu 0.0.52 names in a refusal; of a GPU, JAX's share
  flops: float  # FLOP/s in `dtype`
  bandwidth: float  # bytes/s of its memory
  interconnect: float  # bytes/s in both directions; 0: not published
  dtype: str = 'bfloat16'  # what config.model.dtype 'auto' means
  platform: str = 'tpu'

  def seconds(self, flops: float, moved: float) -> float:
    """Returns what the slower of computing and moving bytes takes."""
    return max(flops / self.flops, moved / self.bandwidth)


CHIPS = {
  'v4': Chip('v4', 'TPU v4', 32 * GIB, 30.75 * GIB, 275e12, 1200e9, 0),
  'v5e': Chip('v5e', 'TPU v5 lite', 16 * GIB, 15.75 * GIB, 197e12, 819e9, 400e9),
  'v5p': Chip('v5p', 'TPU v5', 95 * GIB, 95.73 * GIB, 459e12, 2765e9, 1200e9),
  'v6e': Chip('v6e', 'TPU v6 lite', 32 * GIB, 31.24 * GIB, 918e12, 1638e9, 800e9),
  'tpu7x': Chip('tpu7x', 'TPU7x', 96 * GIB, 94.74 * GIB, 2307e12 / 2, 7380e9 / 2, 600e9),
}

_SHARE = 0.75  # of a GPU's memory that JAX takes (XLA_PYTHON_CLIENT_MEM_FRACTION)
# By their name in a topology. CUDA reports somewhat less memory than is published. A T4 has no bfloat16 (compute
# capability 7.5), so runs there are in float32.
GPUS = {
  't4': Chip('t4', 'Tesla T4', 16e9, _SHARE * 14.5 * GIB, 8.1e12, 320e9, 0, 'float32', 'gpu'),
  'l4': Chip('l4', 'NVIDIA L4', 24e9, _SHARE * 22.0 * GIB, 121e12, 300e9, 0, platform='gpu'),
}

_TPUS = re.compile(r'(\w+):(\d+(?:x\d+){1,2})(?:x(\d+)slices)?')
_GPUS = re.compile(r'(\w+):(\d{1,3})')

# Bytes/s of the memory of other GPUs by device_kind, as their data sheets say.
_GPU_BANDWIDTHS = {
  'NVIDIA A100-SXM4-40GB': 1555e9,
  'NVIDIA A100-SXM4-80GB': 2039e9,
  'NVIDIA H100 80GB HBM3': 3350e9,
  'NVIDIA H100 PCIe': 2000e9,
  'NVIDIA H200': 4800e9,
}


def bandwidth_of(kind: str) -> float | None:
  """Returns the published bytes/s of the memory of a device_kind; None: not known here."""
  known = (chip.bandwidth for chip in (*CHIPS.values(), *GPUS.values()) if chip.kind == kind)
  return _GPU_BANDWIDTHS.get(kind) or next(known, None)


def chip_of(topology: str) -> Chip:
  """Returns the chip of a topology like 'v5e:4x4' or 't4:2', or raises a ConfigError."""
  for form, chips in ((_TPUS, CHIPS), (_GPUS, GPUS)):
    match = form.fullmatch(topology)
    if match and match[1] in chips and (form is _TPUS or int(match[2])):
      return chips[match[1]]
  raise ConfigError(
    f'--topology={topology} is no TPU topology; write one of {", ".join(CHIPS)} and its chips, like v5e:4x4, or '
    f'v5e:4x4x2slices; '
    f'or one of {", ".join(GPUS)} and how many, like t4:1'
  )


def gpus_of(topology: str) -> int:
  """Returns how many GPUs a topology of them has; 0: it is of TPUs."""
  match = _GPUS.fullmatch(topology)
  return int(match[2]) if match else 0


def slices_of(topology: str) -> tuple[str, int]:
  """Returns the topology of a slice, and how many there are."""
  match = _TPUS.fullmatch(topology)
  return f'{match[1]}:{match[2]}', int(match[3] or 1)


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Bytes on one device."""

  parameters: int  # trained, f32
  moments: int  # of the optimizer
  base: int  # compute dtype
  references: int  # that stages keep
  policy: int  # the sampler's copy
  cache: int  # of a rollout's decode slots

  @property
  def held(self) -> int:
    """What a run holds all the time."""
    return self.parameters + self.moments + self.base + self.references


def on_device(tree: Any) -> int:
  """Returns the bytes of a tree of placed shapes on one device."""
  return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))


@functools.lru_cache
def _weights(plan: Plan) -> tuple[int, int, int]:
  mesh, policy = plan.mesh, loras.policy_table(plan.decoder, plan.lora)
  shardings = meshes.params(plan.sampling_mesh, policy, meshes.SAMPLING_RULES)
  return (
    on_device(programs.weights_in(mesh, plan.trained, jnp.float32)),
    on_device(programs.weights_in(mesh, plan.table, plan.dtype)),
    on_device(specs.placed(policy.abstract(plan.dtype), shardings)),
  )


def sizes(plan: Plan) -> Sizes:
  """Returns what a plan's arrays take, without padding."""
  config, tensor = plan.decoder, plan.sampling_mesh.shape['tensor']
  trained, base, policy = _weights(plan.deciding('layout'))
  if plan.mode == 'evaluate':  # nothing beside the policy
    trained = base = 0
  reference = trained if plan.lora.rank else trained // 4 * plan.dtype.itemsize
  heads, width = attention.cached_heads(config, plan.rollout.kernel)
  heads = heads if heads % tensor else heads // tensor  # else each device has all of them
  itemsize = cache_dtype(plan.rollout, plan.dtype).itemsize
  cache = plan.decode_slots * (plan.length + plan.rollout.guesses) * 2 * config.layers * heads * width * itemsize
  return Sizes(trained, 2 * trained, base, plan.references * reference, policy, cache)


def read_in_a_step(plan: Plan) -> int:
  """Returns the bytes of weights on a device that a decode step reads: an embedding of its own is only looked up."""
  config, tensor = plan.decoder, plan.sampling_mesh.shape['tensor']
  looked_up = 0 if config.tied else config.vocab * config.width * plan.dtype.itemsize
  return sizes(plan).policy - (looked_up if config.vocab % tensor else looked_up // tensor)


def beside(plan: Plan, name: str) -> int:
  """Returns the bytes that a run holds and does not give to a program."""
  size, lora = sizes(plan), bool(plan.lora.rank)
  given = dict(
    layout=size.parameters + lora * size.base,
    rollout=0,
    reference=size.base,
    update=size.parameters + size.moments + (lora or plan.update.reference_in_update) * size.base,
  )
  return size.held - given[name]


def estimated(plan: Plan, name: str) -> tuple[int, int]:
  """Returns the bytes that lie on a device while a program runs, and a guess of its temporary ones.

  An update's: gradients, cast weights, kept activations, a layer, the head, two chunks of logits.
  """
  config, spec, size = plan.decoder, plan.update, sizes(plan)
  tensor, itemsize = plan.mesh.shape['tensor'], plan.dtype.itemsize
  slots, tokens = plan.decode_slots, plan.local_rows // spec.micro_batches * plan.length
  prompts = min(slots, plan.rollout.prompts or slots)
  # Of a device: numbers per token, in the head, in a chunk of logits, in plain attention.
  ffn, width = config.ffn * config.experts_per_token // tensor, config.width
  heads, inner = max(1, config.heads // tensor), config.heads * config.head_width // tensor
  shared = plan.sampling_mesh.shape['tensor']
  head, logits = config.vocab * width // tensor, spec.logits_mb * 1e6 / tensor
  scores = 2 * tokens * plan.length * heads * 4 if spec.attention.kind == 'plain' else 0

  sampled = 2 * (config.ffn * config.experts_per_token + config.heads * config.head_width) // shared + 2 * width
  prefill = sampled * itemsize + max(1, config.heads // shared) * plan.prompt * 4
  plain = spec.attention.kind == 'plain'
  kept = decoder.kept(config, spec.remat, plan.length, tensor=tensor, itemsize=itemsize, plain=plain)
  layers = tokens * (config.layers * kept + 4 * (ffn + inner + width) * itemsize)
  trees = plan.rollout.attempts if spec.attempt_gradient_norms else 1
  gradient = trees * (itemsize if spec.micro_batches == 1 else 4) + 2 * itemsize
  head_gradient = itemsize + (0 if plan.lora.rank else 4)
  guess = dict(
    layout=size.policy,
    rollout=size.cache + prompts * plan.prompt * prefill + 3 * plan.rollout.step_tokens(slots) * config.vocab * 4,
    reference=(tokens * (2 * ffn + 3 * inner + 3 * width) + head) * itemsize + logits + scores,
    update=size.parameters // 4 * gradient + head * head_gradient + layers + 2 * logits + scores,
  )
  rows = plan.sampled_rows if name == 'rollout' else plan.local_rows
  batch = 0 if name == 'layout' else rows * plan.length * 16
  policy = size.policy if name in ('layout', 'rollout') else 0
  return size.held + policy + batch, int(guess[name])


def work(plan: Plan) -> dict[str, tuple[float, float]]:
  """Returns FLOPs and bytes moved by a call of each program; conversations use whole budgets."""
  size, spec = sizes(plan), plan.update
  forward = update_flops(plan.decoder, np.full(plan.rows, plan.length)) / 3 / plan.mesh.size
  backward = 2 * (plan.rollout.attempts if spec.attempt_gradient_norms else 1)
  passes = backward + (2 if spec.reference_in_update else 1)
  # The weights once a step, and of the cache what is live: half of what grows, on average.
  live = (plan.prompt + plan.rollout.growth / 2) / plan.length
  return dict(
    layout=(0, size.parameters + 2 * size.policy),
    rollout=(forward, _decode_steps(plan) * (read_in_a_step(plan) + live * size.cache)),
    reference=(forward, size.base),
    update=(forward * passes, 2 * (size.parameters + size.moments)),
  )


def link_seconds(plan: Plan, program: programs.Program, chip: Chip) -> float:
  """Returns what collectives take at least, if nothing hides them; 0 without a published rate."""
  times = {collectives.ALWAYS: 1, collectives.PASS: _decode_steps(plan)}  # without refills of decode slots
  sent = sum(sent.bytes * times.get(sent.scope, 0) for sent in program.sent)
  return sent / (chip.interconnect / 2) if chip.interconnect else 0.0  # of one direction


def update_flops(config: DecoderConfig, length_B: np.ndarray) -> float:
  """Returns the policy's FLOPs, forward and backward: 6 a token and parameter, and causal attention's."""
  lengths = length_B.astype(np.float64)
  attention = config.layers * config.heads * config.head_width * np.sum(lengths**2)
  looked_up = 0 if config.tied else config.vocab * config.width  # in no product
  idle = 3 * config.layers * max(0, config.experts - config.experts_per_token) * config.width * config.ffn
  parameters = weights.weight_table(config).parameters() - looked_up - idle
  return 6 * (parameters * lengths.sum() + attention)


def _decode_steps(plan: Plan) -> int:
  return -(-plan.sampled_rows // plan.decode_slots) * plan.rollout.growth
