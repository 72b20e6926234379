# SPDX-License-Identifier: Apache-2.0
"""config.json in and out: a Hugging Face configuration as a `DecoderConfig`.

A field that is in no family's row, not in `_READ` and no bookkeeping is an error that names it.
"""

from collections.abc import Callable, Collection
import dataclasses
import re
import sys
from typing import Any

from absl import logging
import numpy as np

from score_jax.errors import DataError
from score_jax.models import rope as ropes
from score_jax.models.families import ACTIVATIONS, FAMILIES, FULL, SLIDING, DecoderConfig, Family, LayerKind, Wrapper
from score_jax.models.rope import Absent, Rope

# More than any model has; a broken config.json must not cost memory.
_MOST_LAYERS, _MOST = 1000, 2**31 - 1
_ORIGINAL = 'original_max_position_embeddings'

# Fields of DecoderConfig that are whole numbers.
_WHOLE = {
  'vocab': 'vocab_size',
  'width': 'hidden_size',
  'heads': 'num_attention_heads',
  'ffn': 'intermediate_size',
  'max_positions': 'max_position_embeddings',
}
# Soft caps, which None turns off.
_SOFTCAPS = {
  'attention_softcap': 'attn_logit_softcapping',
  'final_softcap': 'final_logit_softcapping',
}

# How layers slide: (fields, layer number) -> bool.
SLIDES = {
  'never': lambda fields, n: False,
  'no_rope': lambda fields, n: fields['sliding_window'] is not None and not fields['no_rope_layers'][n],
  'always': lambda fields, n: fields['sliding_window'] is not None,
  'late': lambda fields, n: fields['sliding_window'] is not None and n >= fields['max_window_layers'],
  'pattern': lambda fields, n: (n + 1) % fields['sliding_window_pattern'] != 0,
}

# Fields that are read, beside those of a family's row.
_READ = frozenset([
  'model_type', 'vocab_size', 'hidden_size', 'num_hidden_layers', 'num_attention_heads', 'num_key_value_heads',
  'head_dim', 'intermediate_size', 'rope_theta', 'rope_parameters', 'rope_scaling', 'rms_norm_eps',
  'tie_word_embeddings', 'max_position_embeddings', 'layer_types',
])  # fmt: skip

# Fields that change nothing in the forward pass. Null is 'not there' of any.
_BOOKKEEPING = re.compile(
  r"""_.+|transformers.+|unsloth.+|name_or_path|model_name|architectures|tokenizer_class
  |(torch_)?dtype|use_bfloat16|torchscript|attn_implementation|use_cache|cache_.+
  |output_.+|return_dict.*|keys_to_ignore_.+|tf_legacy_loss|chunk_size_.+|prefix
  |(.+_)?dropout(_prob)?|.+_pdrop|classifier_.+|initializer_(range|factor)|init_std|.+_loss_coef|loss_type
  |neftune_.+|gradient_checkpointing|model_parallel|use_flash_att.+|base_model_.+_plan|num_logits_to_keep
  |trust_remote_code|revision|(model_)?max_(seq_)?len(gth)?|seq_len(gth)?|(bos|eos|pad|unk|sep|mask)_token
  |id2label|label2id|num_labels|problem_type|finetuning_task|task_specific_params
  |is_(encoder_)?decoder|is_llama_config|add_cross_attention|cross_attention_hidden_size
  |tie_encoder_decoder|.+_token_ids?|.+_words_ids|.+_decoder_ids|(.+_)?suppress_tokens
  |do_sample|temperature|(top|min|typical)_[hkp]|.+_cutoff|(.+_)?penalty(_alpha)?
  |(max|min)_(sequence_)?length|(max|min)_new_tokens|max_time|early_stopping
  |stop_strings|num_beam.+|num_return_.+|(.+_)?ngram_size|guidance_scale|sequence_bias
  |remove_invalid_values|renormalize_logits|token_healing|(watermarking|compile)_config""",
  re.VERBOSE,
)

# Another name for a field, which must then say the same.
_SYNONYMS = {'sliding_window_size': 'sliding_window', '_sliding_window_pattern': 'sliding_window_pattern'}
_SYNONYMS['num_local_experts'] = 'num_experts'

_REFUSED_FIELDS = {
  'auto_map': 'it asks to run code of the folder, which is never done',
  'pruned_heads': 'heads are missing from the weights',
}
# Of transformers, MLX, compressed-tensors.
_QUANTIZED = 'quantization_config', 'quantization', 'compression_config'
_REFUSED_FIELDS |= dict.fromkeys(_QUANTIZED, 'the weights are quantized; save the model in bfloat16 first')


def _is_positive(value: Any) -> bool:
  return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < sys.float_info.max


_REMEDY = 'if it changes nothing in the forward pass, remove it from the file'


class _Fields:
  def __init__(self, values: dict[str, Any], where: str):
    self.values, self.where = values, where

  def error(self, message: str) -> DataError:
    return DataError(f'{self.where}: {message}')

  def wrong(self, name: str, reason: str) -> DataError:
    return self.error(f'{name} = {self[name]!r:.200} {reason}')

  def __getitem__(self, name: str) -> Any:
    return self.values.get(name)

  def whole(self, name: str, most: int = _MOST) -> int:
    value = self._value(name, lambda value: type(value) is int, 'of type int')
    if not 1 <= value <= most:
      raise self.wrong(name, f'must lie in 1..{most}')
    return value

  def number(self, name: str) -> float:
    return float(self._value(name, _is_positive, 'a number above 0'))

  def flag(self, name: str) -> bool:
    return self._value(name, lambda value: isinstance(value, bool), 'of type bool')

  def _value(self, name: str, fits: Callable[[Any], bool], kind: str) -> Any:
    if self[name] is None:
      raise self.error(f'field {name!r} is missing')
    if not fits(self[name]):
      raise self.wrong(name, f'must be {kind}')
    return self[name]


def from_hf(config: dict[str, Any], where: str = 'config.json') -> DecoderConfig:
  """Reads a config.json, in the spelling of transformers 4 (`rope_theta`) or 5 (`rope_parameters`).

  Raises DataError: unknown family, missing field, or a value that the decoder does not implement.
  """
  if not isinstance(config, dict):
    raise DataError(f'{where}: must hold a JSON object, not {type(config).__name__}')
  name = config.get('model_type')
  if not isinstance(name, str) or name not in FAMILIES:
    known = ', '.join(FAMILIES)
    raise DataError(f'{where}: model_type {name!r} is not supported; known families: {known}')
  family = FAMILIES[name]
  if family.wrapper.section:
    config = _unwrapped(config, family.wrapper, where)
  values = family.implied | config
  if family.experts and 'num_experts' not in config:  # as transformers 5 writes it
    values['num_experts'] = config.get('num_local_experts', values['num_experts'])
  if not values.get('use_sliding_window', True):
    values['sliding_window'] = None
  fields = _Fields(values, where)
  _check_fields(config, name, fields)
  heads = fields.whole('num_attention_heads')
  kv_heads = heads if fields['num_key_value_heads'] is None else fields.whole('num_key_value_heads')
  if heads % kv_heads:
    raise fields.wrong('num_key_value_heads', f'must divide num_attention_heads = {heads}')
  whole = {name: fields.whole(field) for name, field in (_WHOLE | {'ffn': family.ffn}).items()}
  width = whole['width']
  head_width = width // heads if fields['head_dim'] is None else fields.whole('head_dim')
  if head_width < 2 or head_width % 2:
    raise fields.error(f'head_dim = {head_width} must be even for rope')
  values['no_rope_layers'] = roped = _roped(fields, family)
  types = list(zip(_layer_types(fields, family), roped, strict=True))
  kinds = {kind: _layer_kind(fields, family, *kind) for kind in dict.fromkeys(types)}
  experts = fields.whole('num_experts') if family.experts else 0
  biased = fields.flag('attention_bias')
  gate = 'hidden_activation' if family.gemma else 'hidden_act'
  if fields[gate] not in ACTIVATIONS:
    raise fields.wrong(gate, f'is not implemented; use one of {ACTIVATIONS}')
  return DecoderConfig(
    family=name,
    layers=len(types),
    kv_heads=kv_heads,
    head_width=head_width,
    norm_eps=fields.number('rms_norm_eps'),
    tied=fields.flag('tie_word_embeddings'),
    kinds=tuple(kinds.values()),
    kind_of_layer=tuple(list(kinds).index(kind) for kind in types),
    query_scale=(fields.number('query_pre_attn_scalar') if family.gemma else head_width) ** -0.5,
    activation=fields[gate],
    qkv_bias=biased,
    o_bias=biased and family.o_bias,
    ffn_bias=fields.flag('mlp_bias'),
    qk_norm=family.qk_norm,
    qk_norm_whole=family.olmo,
    pre_norms=not family.olmo,
    post_norms=family.gemma or family.olmo,
    norm_offset=1.0 if family.gemma else 0.0,
    embed_scale=width**0.5 if family.gemma else 1.0,
    **whole,
    experts=experts,
    experts_per_token=fields.whole('num_experts_per_tok', experts) if experts else 1,
    normed_experts=bool(experts) and fields.flag('norm_topk_prob'),
    **{name: 0.0 if fields[f] is None else fields.number(f) for name, f in _SOFTCAPS.items()},
  )


def _unwrapped(config: dict[str, Any], wrapper: Wrapper, where: str) -> dict[str, Any]:
  section, fields = config.get(wrapper.section), _Fields(config, where)
  if not isinstance(section, dict) or section.get('model_type', wrapper.model_type) != wrapper.model_type:
    raise fields.error(f'{wrapper.section} = {section!r:.80} must be a section of model_type {wrapper.model_type}')
  _check_known(config, {'model_type', 'tie_word_embeddings', wrapper.section, *wrapper.fields}, fields)
  tied = config.get('tie_word_embeddings', True) and section.get('tie_word_embeddings', True)
  return {**section, 'model_type': config['model_type'], 'tie_word_embeddings': tied}


def _check_known(config: dict[str, Any], known: Collection[str], fields: _Fields) -> None:
  for field, value in config.items():
    if field in _REFUSED_FIELDS:
      if value not in (None, {}):
        raise fields.error(f'field {field!r} is set: {_REFUSED_FIELDS[field]}')
    elif field not in known and value is not None and not _BOOKKEEPING.fullmatch(field):
      raise fields.wrong(field, f'is not honoured by the {config["model_type"]} decoder; {_REMEDY}')


def _check_fields(config: dict[str, Any], name: str, fields: _Fields) -> None:
  family = FAMILIES[name]
  _check_known(config, _READ | set(family.implied) | set(family.fixed) | set(_SYNONYMS), fields)
  for field, allowed in family.fixed.items():
    if field in fields.values and fields[field] not in allowed:
      raise fields.wrong(field, f'is not implemented for {name}; use one of {allowed}')
  for field, meant in _SYNONYMS.items():
    settled = meant == 'sliding_window_pattern' and fields['layer_types'] is not None
    if field in config and not settled and fields[field] != fields[meant]:
      raise fields.wrong(field, f'contradicts {meant} = {fields[meant]!r}')


def _layer_types(fields: _Fields, family: Family) -> list[str]:
  layers = fields.whole('num_hidden_layers', _MOST_LAYERS)
  listed = fields['layer_types']
  if listed is None or not family.layer_types:
    for name in ('max_window_layers', 'sliding_window_pattern'):
      value = fields[name]
      if name in family.implied and (type(value) is not int or value < (name != 'max_window_layers')):
        raise fields.wrong(name, 'must be a number of layers')
    derived = [SLIDING if SLIDES[family.sliding](fields, n) else FULL for n in range(layers)]
  if listed is None:
    return derived
  if not isinstance(listed, list) or len(listed) != layers or not all(kind in (FULL, SLIDING) for kind in listed):
    raise fields.wrong('layer_types', f'must list {FULL} or {SLIDING} for each of {layers} layers')
  if not family.layer_types and listed != derived:
    raise fields.wrong('layer_types', f'is not honoured by this family, whose layers are {derived[0]}')
  return listed


def _roped(fields: _Fields, family: Family) -> list[bool]:
  layers = fields.whole('num_hidden_layers', _MOST_LAYERS)
  listed = fields['no_rope_layers'] if family.no_rope else [1] * layers
  if listed is None:
    interval = fields.whole('no_rope_layer_interval')
    listed = [int((n + 1) % interval > 0) for n in range(layers)]
  if not isinstance(listed, list) or len(listed) != layers or not all(has in (0, 1) for has in listed):
    raise fields.wrong('no_rope_layers', f'must list 1 (rope) or 0 for each of {layers} layers')
  return [bool(has) for has in listed]


def _layer_kind(fields: _Fields, family: Family, kind: str, roped: bool) -> LayerKind:
  if kind == SLIDING and fields['sliding_window'] is None:
    raise fields.error(f'sliding_window is missing or turned off, but layers are of type {SLIDING}')
  window = fields.whole('sliding_window') if kind == SLIDING else 0
  return LayerKind(window=window, rope=_rope(fields, family, kind) if roped else Absent())


def _rope(fields: _Fields, family: Family, kind: str) -> Rope:
  """Returns a layer type's rope, from one spelling, or both where they agree."""
  theta = fields['rope_local_base_freq'] if family.rope_per_type and kind == SLIDING else fields['rope_theta']
  ropes_given = {}
  for name in ('rope_scaling', 'rope_parameters'):
    section = fields[name]
    if section is None:
      continue
    if not isinstance(section, dict):
      raise fields.wrong(name, 'must be a section')
    if family.rope_per_type and name == 'rope_parameters':
      if set(section) - {FULL, SLIDING}:
        raise fields.wrong(name, f'must have a section for {FULL} and for {SLIDING}')
      section = section.get(kind) or {}
      if not isinstance(section, dict) or section.get('truncate') is False:
        raise fields.error(f'{name}.{kind} = {section!r:.200} must be a section, without truncate = false')
    elif family.rope_per_type and kind == SLIDING:
      continue  # the older spelling scales full layers only
    elif family.rope_per_type and ('rope_type' not in section or section.get('truncate') is False):
      raise fields.wrong(name, 'must name a rope_type, without truncate = false, for this family')
    if section:
      ropes_given[name] = _rope_of(fields, name, section, theta)
  if len(set(ropes_given.values())) > 1:
    given = ', '.join(map(str, ropes_given.values()))
    raise fields.error(f'rope_scaling and rope_parameters contradict each other: {given}')
  return next(iter(ropes_given.values()), None) or _rope_of(fields, 'rope_theta', {}, theta)


def _rope_of(fields: _Fields, name: str, section: dict[str, Any], theta: Any) -> Rope:
  def refuse(reason: str) -> DataError:
    return fields.error(f'{name} = {section or theta!r} is not implemented: {reason}')

  values = {'rope_theta': theta, **section}
  kind_name = values.pop('rope_type', values.pop('type', 'default'))
  if 'attn_factor' in values:  # of some published models
    ignored = f'{name}.attn_factor = {values.pop("attn_factor")!r:.40} is ignored, as transformers does'
    logging.log_first_n(logging.WARNING, '%s: %s', 1, fields.where, ignored)
  if not isinstance(kind_name, str) or kind_name not in ropes.KINDS:
    raise refuse(f'rope_type {kind_name!r} is unknown; known: {", ".join(ropes.KINDS)}')
  if values.pop('partial_rotary_factor', 1.0) not in (1, None):
    raise refuse('partial_rotary_factor must be 1')
  known = {field.name: field for field in dataclasses.fields(ropes.KINDS[kind_name])}
  if _ORIGINAL in known and values.get(_ORIGINAL) is None:
    values[_ORIGINAL] = fields['max_position_embeddings']
  values = {f: value for f, value in values.items() if value is not None or f not in known or f == 'truncate'}
  for field, value in values.items():
    if field not in known:
      raise refuse(f'{field!r} is not a field of rope_type {kind_name!r}; {_REMEDY}')
    if field == 'truncate':
      if not isinstance(value, bool):
        raise refuse(f'truncate = {value!r} must be of type bool')
    elif not _is_positive(value) or (field == _ORIGINAL and value != int(value)):
      raise refuse(f'{field} = {value!r:.80} must be a number above 0')
    else:
      values[field] = int(value) if field == _ORIGINAL else float(value)
  missing = [field for field, spec in known.items() if field not in values and spec.default is dataclasses.MISSING]
  if missing:
    raise refuse(f'{missing[0]!r} is missing')
  if 'high_freq_factor' in values and values['high_freq_factor'] <= values['low_freq_factor']:
    raise refuse('high_freq_factor must be above low_freq_factor')
  rope = ropes.KINDS[kind_name](**values)
  try:
    usable = np.all(np.isfinite(rope.frequencies(64))) and _is_positive(rope.factor_on_embedding())
  except (ArithmeticError, ValueError):
    usable = False
  if not usable:
    raise refuse('its numbers give no frequencies')
  return rope


def to_hf(config: DecoderConfig) -> dict[str, Any]:
  """Returns the config.json of a model made here.

  Ropes are spelled as in transformers 4, which 5 reads too; those of a layer type as in 5.
  """
  family = FAMILIES[config.family]
  types = [SLIDING if kind.window else FULL for kind in config.kinds]
  roped = [kind.rope != Absent() for kind in config.kinds]
  by_type = {type_: kind for type_, kind, has in zip(types, config.kinds, roped, strict=True) if has}
  window = max(kind.window for kind in config.kinds) or None
  values = dict(
    architectures=[family.architecture],
    model_type=config.family,
    num_hidden_layers=config.layers,
    num_key_value_heads=config.kv_heads,
    head_dim=config.head_width,
    rms_norm_eps=config.norm_eps,
    tie_word_embeddings=config.tied,
    **{field: getattr(config, name) for name, field in (_WHOLE | {'ffn': family.ffn}).items()},
    **_rope_fields(family, by_type),
  )
  values['hidden_activation' if family.gemma else 'hidden_act'] = config.activation
  if family.layer_types:
    values['layer_types'] = [types[kind] for kind in config.kind_of_layer]
  if family.sliding != 'never':
    values['sliding_window'] = window
  if 'use_sliding_window' in family.implied:
    values['use_sliding_window'] = window is not None
  if 'attention_bias' not in family.fixed:
    values['attention_bias'] = config.qkv_bias
  if 'mlp_bias' not in family.fixed:
    values['mlp_bias'] = config.ffn_bias
  if family.gemma:
    values['query_pre_attn_scalar'] = round(config.query_scale**-2)  # transformers takes whole numbers alone
    values |= {field: getattr(config, name) or None for name, field in _SOFTCAPS.items()}
  if family.no_rope:
    values['no_rope_layers'] = [int(roped[kind]) for kind in config.kind_of_layer]
  if family.experts:
    values |= dict(num_experts=config.experts, num_experts_per_tok=config.experts_per_token)
    values['norm_topk_prob'] = config.normed_experts
  if family.wrapper.section:
    inner = {**values, 'model_type': family.wrapper.model_type}
    return dict(model_type=config.family, architectures=inner.pop('architectures')) | {family.wrapper.section: inner}
  return values


def _rope_fields(family: Family, by_type: dict[str, LayerKind]) -> dict[str, Any]:
  def section(rope: Rope) -> dict[str, Any]:
    given = {field: value for field, value in dataclasses.asdict(rope).items() if value is not None}
    return dict(rope_type=ropes.name_of(rope), **given)

  if not family.rope_per_type:
    rope = next((kind.rope for kind in by_type.values()), ropes.Plain(family.implied['rope_theta']))
    scaled = section(rope)
    theta = scaled.pop('rope_theta')
    return dict(rope_theta=theta, rope_scaling=None if type(rope) is ropes.Plain else scaled)
  return dict(rope_parameters={kind: section(layer.rope) for kind, layer in by_type.items()})
