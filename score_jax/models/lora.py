# SPDX-License-Identifier: Apache-2.0
"""Low-rank adapters (Hu et al. 2021, arXiv 2106.09685): y = x W + (alpha / R) (x A) B, as leaves beside W."""

import dataclasses
import re

import jax
import jax.numpy as jnp

from score_jax.models import weights
from score_jax.models.families import DecoderConfig
from score_jax.models.weights import Params, Weight, WeightTable

A, B = '_lora_a', '_lora_b'  # endings of names in the tree


@dataclasses.dataclass(frozen=True)
class Lora:
  """Which projections are adapted, and how."""

  rank: int  # R; 0: no adapters, the whole model is trained
  alpha: float
  targets: str  # regular expression of whole names of modules: 'q_proj|v_proj'

  @property
  def scale(self) -> float:
    return self.alpha / self.rank


NONE = Lora(rank=0, alpha=1.0, targets='')


def module_of(weight: Weight) -> str:
  """Returns a weight's HF module: 'q_proj'."""
  return weight.hf_name.split('.')[-2]


def targets(config: DecoderConfig, lora: Lora) -> list[Weight]:
  """Returns the matrices that the pattern names; ValueError if it names none."""
  matrices = [w for w in weights.weight_table(config).weights if w.role == 'matrix' and w.per_layer]
  try:
    chosen = [w for w in matrices if re.fullmatch(lora.targets, module_of(w))]
  except re.error as error:
    raise ValueError(f'targets = {lora.targets!r} is not a regular expression: {error}') from error
  if not chosen:
    raise ValueError(f'targets = {lora.targets!r} names none of {", ".join(map(module_of, matrices))}')
  return chosen


def peft_targets(config: DecoderConfig, lora: Lora) -> list[str] | str:
  """Returns names of modules, or a pattern where other parts have them too."""
  names, wrapper = [module_of(weight) for weight in targets(config, lora)], config.wrapper
  return rf'{re.escape(wrapper.module)}.*\.({"|".join(names)})' if wrapper.section else names


def adapter_table(config: DecoderConfig, lora: Lora) -> WeightTable:
  """Returns two weights for each target, under PEFT's names and layouts."""
  rows = []
  for weight in targets(config, lora):
    out_letters, in_letters = weight.hf_groups
    hf_out, hf_in = (f'({" ".join(group)})' if len(group) > 1 else group[0] for group in weight.hf_groups)
    module = config.wrapper.module + weight.hf_name.removeprefix(config.wrapper.prefix)
    stem = 'base_model.model.' + module.removesuffix('.weight')
    section, name = weight.path
    rows += [
      Weight((section, name + A), f'{" ".join(in_letters)} R', f'{stem}.lora_A.weight', f'R {hf_in}', 'lora_a'),
      Weight((section, name + B), f'R {" ".join(out_letters)}', f'{stem}.lora_B.weight', f'{hf_out} R', 'lora_b'),
    ]
  return WeightTable(tuple(rows), config.sizes() | dict(R=lora.rank))


def trained_table(config: DecoderConfig, lora: Lora) -> WeightTable:
  """Returns the weights that are trained: the adapters, else the decoder's."""
  return adapter_table(config, lora) if lora.rank else weights.weight_table(config)


def policy_table(config: DecoderConfig, lora: Lora) -> WeightTable:
  table = weights.weight_table(config)
  if not lora.rank:
    return table
  adapters = adapter_table(config, lora)
  return WeightTable(table.weights + adapters.weights, adapters.sizes)


def joined(frozen: Params, trained: Params, lora: Lora) -> Params:
  """Returns the policy's tree: the leaves of `frozen` and the trained ones.

  Without adapters it is `trained`; an empty `trained` turns adapters off.
  """
  if not lora.rank:
    return trained
  return frozen | {'layers': frozen['layers'] | scaled(trained, lora).get('layers', {})}


def scaled(trained: Params, lora: Lora) -> Params:
  """Returns trained weights as in a policy: an adapter's B times alpha / R."""
  if not lora.rank:
    return trained
  return {
    section: {name: leaf * lora.scale if name.endswith(B) else leaf for name, leaf in leaves.items()}
    for section, leaves in trained.items()
  }


def leaves_of(policy: Params, weight: Weight) -> Params:
  """Returns a weight of a policy, and its adapters if any, by their endings."""
  *sections, name = weight.path
  node = policy
  for section in sections:
    node = node.get(section, {})
  return {ending: node[name + ending] for ending in ('', A, B) if name + ending in node}


def merged(weight: Weight, leaves: dict[str, jax.Array]) -> jax.Array:
  """Returns a layer's W + A B in f32, or W where there are no adapters."""
  if A not in leaves:
    return leaves['']
  out_letters, in_letters = (''.join(group).lower() for group in weight.hf_groups)
  ours = ''.join(weight.ours.split()).lower()
  a, b = (leaves[ending].astype(jnp.float32) for ending in (A, B))
  return leaves[''].astype(jnp.float32) + jnp.einsum(f'{in_letters}r,r{out_letters}->{ours}', a, b)
