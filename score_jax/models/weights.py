"""The weight table: one row per weight, from which initialization, shardings, HF import and HF export all follow.

A row spells a weight's shape in letters (`types.py`), our order and the HF file's, so no reshape is written twice:
`ours='D H C', hf='(H C) D'` reads "the file holds [H*C, D], we hold [D, H, C]". Layers are stacked on a leading N.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_jax.models.families import DecoderConfig


@dataclasses.dataclass(frozen=True)
class Weight:
  """One weight of the model, or one per layer when the HF name holds `{n}`."""

  path: tuple[str, ...]  # where it sits in our tree
  ours: str  # shape in letters, without N
  hf_name: str
  hf: str  # the file's layout of the same letters; brackets are flattened axes
  init: str  # 'normal', 'zeros' or 'ones'; matrices ('normal') are what weight decay applies to

  @property
  def per_layer(self) -> bool:
    return '{n}' in self.hf_name

  def shape(self, config: DecoderConfig) -> tuple[int, ...]:
    """Shape of our array, the stacked N first."""
    return tuple(config.sizes()[letter] for letter in self.letters)

  @property
  def letters(self) -> list[str]:
    """Our axes as letters, the stacked N first."""
    return (['N'] if self.per_layer else []) + self.ours.split()

  def hf_shape(self, config: DecoderConfig) -> tuple[int, ...]:
    """Shape of the array (one layer's) in the HF file."""
    sizes = config.sizes()
    return tuple(math.prod(sizes[letter] for letter in group) for group in _groups(self.hf))

  def from_hf(self, array: np.ndarray, config: DecoderConfig) -> np.ndarray:
    """One layer's array from the file's layout to ours; a view where numpy can make one."""
    flat = _flat(self.hf)
    spread = array.reshape([config.sizes()[letter] for letter in flat])
    return spread.transpose([flat.index(letter) for letter in self.ours.split()])

  def to_hf(self, array: np.ndarray, config: DecoderConfig) -> np.ndarray:
    """The inverse of `from_hf`, contiguous."""
    ours = self.ours.split()
    ordered = array.transpose([ours.index(letter) for letter in _flat(self.hf)])
    return np.ascontiguousarray(ordered).reshape(self.hf_shape(config))


def _groups(layout: str) -> list[list[str]]:
  """'(H C) D' -> [['H', 'C'], ['D']]."""
  groups, inside = [], False
  for word in layout.replace('(', ' ( ').replace(')', ' ) ').split():
    if word == '(':
      groups.append([])
    elif word != ')':
      if inside:
        groups[-1].append(word)
      else:
        groups.append([word])
    inside = word == '(' or (inside and word != ')')
  return groups


def _flat(layout: str) -> list[str]:
  return [letter for group in _groups(layout) for letter in group]


def weight_table(config: DecoderConfig) -> list[Weight]:
  """Every weight of the model, in the order of its forward pass."""
  layer = 'model.layers.{n}.'
  table = [
    Weight(('embed',), 'V D', 'model.embed_tokens.weight', 'V D', 'normal'),
    Weight(('layers', 'attention_norm'), 'D', layer + 'input_layernorm.weight', 'D', 'ones'),
    Weight(('layers', 'q'), 'D H C', layer + 'self_attn.q_proj.weight', '(H C) D', 'normal'),
    Weight(('layers', 'k'), 'D K C', layer + 'self_attn.k_proj.weight', '(K C) D', 'normal'),
    Weight(('layers', 'v'), 'D K C', layer + 'self_attn.v_proj.weight', '(K C) D', 'normal'),
    Weight(('layers', 'o'), 'H C D', layer + 'self_attn.o_proj.weight', 'D (H C)', 'normal'),
    Weight(('layers', 'ffn_norm'), 'D', layer + 'post_attention_layernorm.weight', 'D', 'ones'),
    Weight(('layers', 'gate'), 'D F', layer + 'mlp.gate_proj.weight', 'F D', 'normal'),
    Weight(('layers', 'up'), 'D F', layer + 'mlp.up_proj.weight', 'F D', 'normal'),
    Weight(('layers', 'down'), 'F D', layer + 'mlp.down_proj.weight', 'D F', 'normal'),
    Weight(('final_norm',), 'D', 'model.norm.weight', 'D', 'ones'),
  ]
  if config.qkv_bias:
    table += [
      Weight(('layers', 'q_bias'), 'H C', layer + 'self_attn.q_proj.bias', '(H C)', 'zeros'),
      Weight(('layers', 'k_bias'), 'K C', layer + 'self_attn.k_proj.bias', '(K C)', 'zeros'),
      Weight(('layers', 'v_bias'), 'K C', layer + 'self_attn.v_proj.bias', '(K C)', 'zeros'),
    ]
  if not config.tied:
    table.append(Weight(('head',), 'V D', 'lm_head.weight', 'V D', 'normal'))
  return table


def tree_of(config: DecoderConfig, leaf) -> dict[str, Any]:
  """The parameter tree with `leaf(weight)` in the place of each weight."""
  tree = {}
  for weight in weight_table(config):
    node = tree
    for name in weight.path[:-1]:
      node = node.setdefault(name, {})
    node[weight.path[-1]] = leaf(weight)
  return tree


def leaf_at(tree: dict[str, Any], weight: Weight) -> Any:
  """The leaf of a tree at a weight's path."""
  for name in weight.path:
    tree = tree[name]
  return tree


def initial_params(config: DecoderConfig, key: jax.Array, scale: float = 0.02) -> dict[str, Any]:
  """Random f32 parameters; projections into the residual stream are scaled by 1/sqrt(2N), as in GPT-2."""
  keys = iter(jax.random.split(key, len(weight_table(config))))

  def leaf(weight):
    shape, leaf_key = weight.shape(config), next(keys)
    if weight.init != 'normal':
      return jnp.full(shape, 1.0 if weight.init == 'ones' else 0.0, jnp.float32)
    into_residual = weight.path[-1] in ('o', 'down')
    spread = scale / math.sqrt(2 * config.layers) if into_residual else scale
    return spread * jax.random.normal(leaf_key, shape, jnp.float32)

  return tree_of(config, leaf)


def abstract_params(config: DecoderConfig, dtype: jnp.dtype = jnp.float32) -> dict[str, Any]:
  """The parameter tree as shapes."""
  return tree_of(config, lambda weight: jax.ShapeDtypeStruct(weight.shape(config), dtype))


def decay_mask(config: DecoderConfig) -> dict[str, Any]:
  """Which weights AdamW decays: matrices, neither norms nor biases."""
  return tree_of(config, lambda weight: weight.init == 'normal')
