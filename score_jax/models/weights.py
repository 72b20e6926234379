# SPDX-License-Identifier: Apache-2.0
"""Weight tables, from which initialization, shardings, HF import and HF export follow.

A row spells a weight's shape in letters (`core_types.py`), in our order and the HF file's: `ours='D H C', hf='(H C) D'`
reads "the file holds [H*C, D], we hold [D, H, C]". Layers are stacked on a leading N, their experts on an E after it.
"""

import dataclasses
import functools
import itertools
import math
import re
from typing import Any

import jax
import jax.numpy as jnp

from score_jax.models.families import DecoderConfig

Params = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Weight:
  """One weight of the model, or one per layer (and expert) when the HF name holds `{n}` (and `{e}`)."""

  path: tuple[str, ...]  # where it sits in our tree
  ours: str  # shape in letters, without N and E
  hf_name: str
  hf: str  # the file's layout of the same letters; brackets are flattened axes
  role: str  # 'matrix', 'expert' (a matrix without adapters), 'norm', 'bias', 'lora_a' or 'lora_b'

  @property
  def per_layer(self) -> bool:
    return '{n}' in self.hf_name

  @property
  def stacked(self) -> list[str]:
    return [letter for letter, mark in (('N', '{n}'), ('E', '{e}')) if mark in self.hf_name]

  @property
  def letters(self) -> list[str]:
    """Returns our axes as letters, the stacked ones first."""
    return self.stacked + self.ours.split()

  @property
  def hf_groups(self) -> list[list[str]]:
    """Returns the file's axes: '(H C) D' -> [['H', 'C'], ['D']]."""
    return [(many or one).split() for many, one in re.findall(r'\((.*?)\)|(\S+)', self.hf)]

  def shape(self, sizes: dict[str, int]) -> tuple[int, ...]:
    return tuple(sizes[letter] for letter in self.letters)

  def hf_shape(self, sizes: dict[str, int]) -> tuple[int, ...]:
    """Returns the shape of one layer's array in the HF file."""
    return tuple(math.prod(sizes[letter] for letter in group) for group in self.hf_groups)

  def from_hf(self, array: Any, sizes: dict[str, int]) -> Any:
    """Brings one layer's array from the file's layout to ours."""
    flat = [letter for group in self.hf_groups for letter in group]
    spread = array.reshape([sizes[letter] for letter in flat])
    return spread.transpose([flat.index(letter) for letter in self.ours.split()])

  def to_hf(self, array: Any, sizes: dict[str, int]) -> Any:
    ours = self.ours.split()
    ordered = array.transpose([ours.index(letter) for group in self.hf_groups for letter in group])
    return ordered.reshape(self.hf_shape(sizes))


@dataclasses.dataclass(frozen=True)
class WeightTable:
  """All weights of a tree, and the size of each letter."""

  weights: tuple[Weight, ...]
  sizes: dict[str, int]

  def __hash__(self) -> int:
    return hash(self.weights)

  def tree(self, leaf) -> Params:
    tree = {}
    for weight in self.weights:
      node = tree
      for name in weight.path[:-1]:
        node = node.setdefault(name, {})
      node[weight.path[-1]] = leaf(weight)
    return tree

  def abstract(self, dtype: jnp.dtype) -> Params:
    return self.tree(lambda weight: jax.ShapeDtypeStruct(weight.shape(self.sizes), dtype))

  def decay_mask(self) -> Params:
    """Tells which weights AdamW decays: neither norms nor biases."""
    return self.tree(lambda weight: weight.role not in ('norm', 'bias'))

  def hf_names(self, weight: Weight) -> dict[str, tuple[int, ...]]:
    """Returns the HF names of a weight, and where each lies on its stacked axes."""
    indices = itertools.product(*(range(self.sizes[letter]) for letter in weight.stacked))
    return {weight.hf_name.format(**dict(zip('ne', index, strict=False))): index for index in indices}

  def by_hf_name(self) -> dict[str, tuple[Weight, tuple[int, ...]]]:
    """Returns the weight of each HF name, and where it lies on its stacked axes."""
    return {name: (weight, index) for weight in self.weights for name, index in self.hf_names(weight).items()}

  def hf_shapes(self) -> dict[str, tuple[int, ...]]:
    return {name: weight.hf_shape(self.sizes) for name, (weight, _) in self.by_hf_name().items()}

  def parameters(self) -> int:
    return sum(math.prod(weight.shape(self.sizes)) for weight in self.weights)

  def initial(self, key: jax.Array, scale: float = 0.02, norm: float = 1.0) -> Params:
    """Draws random f32 parameters; norms are `norm`.

    Matrices have standard deviation `scale`, over sqrt(2N) where they write to the residual, as in GPT-2.
    """
    keys = iter(jax.random.split(key, len(self.weights)))

    def leaf(weight: Weight) -> jax.Array:
      shape, leaf_key = weight.shape(self.sizes), next(keys)
      if weight.role in ('matrix', 'expert'):
        spread = scale / math.sqrt(2 * self.sizes['N']) if weight.path[-1] in ('o', 'down', 'expert_down') else scale
        return spread * jax.random.normal(leaf_key, shape, jnp.float32)
      if weight.role == 'lora_a':  # uniform, as torch's Linear and PEFT have it
        fan_in = math.prod(self.sizes[letter] for letter in weight.ours.split()[:-1])
        return jax.random.uniform(leaf_key, shape, jnp.float32, -(fan_in**-0.5), fan_in**-0.5)
      return jnp.full(shape, norm if weight.role == 'norm' else 0.0, jnp.float32)

    return self.tree(leaf)


@functools.lru_cache
def weight_table(config: DecoderConfig) -> WeightTable:
  """Returns every weight of the decoder, in the order of its forward pass."""

  def norm(name: str, hf_name: str, ours: str = 'D') -> Weight:
    hf = f'({ours})' if ' ' in ours else ours
    return Weight(('layers', name), ours, f'model.layers.{{n}}.{hf_name}.weight', hf, 'norm')

  def module(name: str) -> str:
    block = 'mlp' if name in ('gate', 'up', 'down') else 'self_attn'
    return f'model.layers.{{n}}.{block}.{name}_proj'

  def matrix(name: str, ours: str, hf: str) -> Weight:
    return Weight(('layers', name), ours, f'{module(name)}.weight', hf, 'matrix')

  def bias(name: str, ours: str) -> Weight:
    return Weight(('layers', name + '_bias'), ours, f'{module(name)}.bias', f'({ours})', 'bias')

  def expert(name: str, ours: str, hf: str, module: str) -> Weight:
    return Weight(('layers', name), ours, f'model.layers.{{n}}.mlp.{module}.weight', hf, 'expert')

  # transformers names the norm before the feed-forward by what precedes it, unless norms follow both.
  before_ffn = 'pre_feedforward_layernorm' if config.post_norms else 'post_attention_layernorm'
  heads = ('H C', 'K C') if config.qk_norm_whole else ('C', 'C')
  dense, prefix = not config.experts, config.wrapper.prefix
  rows = [
    (True, Weight(('embed',), 'V D', 'model.embed_tokens.weight', 'V D', 'matrix')),
    (config.pre_norms, norm('attention_norm', 'input_layernorm')),
    (True, matrix('q', 'D H C', '(H C) D')),
    (True, matrix('k', 'D K C', '(K C) D')),
    (True, matrix('v', 'D K C', '(K C) D')),
    (config.qk_norm, norm('q_norm', 'self_attn.q_norm', heads[0])),
    (config.qk_norm, norm('k_norm', 'self_attn.k_norm', heads[1])),
    (True, matrix('o', 'H C D', 'D (H C)')),
    (config.post_norms, norm('post_attention_norm', 'post_attention_layernorm')),
    (config.pre_norms, norm('ffn_norm', before_ffn)),
    (dense, matrix('gate', 'D F', 'F D')),
    (dense, matrix('up', 'D F', 'F D')),
    (dense, matrix('down', 'F D', 'D F')),
    (not dense, expert('router', 'D E', 'E D', 'gate')),
    (not dense, expert('expert_gate', 'D F', 'F D', 'experts.{e}.gate_proj')),
    (not dense, expert('expert_up', 'D F', 'F D', 'experts.{e}.up_proj')),
    (not dense, expert('expert_down', 'F D', 'D F', 'experts.{e}.down_proj')),
    (config.post_norms, norm('post_ffn_norm', 'post_feedforward_layernorm')),
    (True, Weight(('final_norm',), 'D', 'model.norm.weight', 'D', 'norm')),
    (config.qkv_bias, bias('q', 'H C')),
    (config.qkv_bias, bias('k', 'K C')),
    (config.qkv_bias, bias('v', 'K C')),
    (config.o_bias, bias('o', 'D')),
    (config.ffn_bias, bias('gate', 'F')),
    (config.ffn_bias, bias('up', 'F')),
    (config.ffn_bias, bias('down', 'D')),
    (not config.tied, Weight(('head',), 'V D', 'lm_head.weight', 'V D', 'matrix')),
  ]
  named = (dataclasses.replace(w, hf_name=re.sub(r'^model\.', prefix, w.hf_name)) for has, w in rows if has)
  return WeightTable(tuple(named), config.sizes())


def initial_params(config: DecoderConfig, key: jax.Array, scale: float = 0.02) -> Params:
  """Draws random f32 parameters; norms multiply by 1."""
  return weight_table(config).initial(key, scale, norm=1.0 - config.norm_offset)


def leaf_at(tree: Params, weight: Weight) -> Any:
  return functools.reduce(lambda node, name: node[name], weight.path, tree)
