"""Model families as data: what a Hugging Face `config.json` says, as one frozen `DecoderConfig`.

A family is a row of FAMILIES: the settings its config.json leaves implicit, and the fields that must have the one
value the decoder implements. A field outside both lists and outside `_READ` or `_NO_EFFECT` is an error that names it.
"""

import dataclasses
from typing import Any

from score_jax.errors import DataError


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
  """Everything that the decoder's shape and arithmetic depend on. Letters: `types.py`."""

  family: str  # model_type of config.json
  vocab: int  # V
  width: int  # D
  layers: int  # N
  heads: int  # H
  kv_heads: int  # K
  head_width: int  # C
  ffn: int  # F
  rope_theta: float
  norm_eps: float
  qkv_bias: bool
  tied: bool  # the output head is the embedding
  max_positions: int

  def sizes(self) -> dict[str, int]:
    """Shape letter -> size."""
    return dict(V=self.vocab, D=self.width, N=self.layers, H=self.heads, K=self.kv_heads, C=self.head_width, F=self.ffn)


@dataclasses.dataclass(frozen=True)
class Family:
  """How one model_type's config.json maps to the decoder."""

  implied: dict[str, Any]  # HF field -> value when config.json does not say
  required: dict[str, tuple]  # HF field -> the values that the decoder implements


FAMILIES = {
  'qwen2': Family(
    implied=dict(attention_bias=True, tie_word_embeddings=False, rms_norm_eps=1e-6, rope_theta=10000.0),
    required=dict(hidden_act=('silu',), use_sliding_window=(False, None), attention_bias=(True,)),
  ),
  'llama': Family(
    implied=dict(attention_bias=False, tie_word_embeddings=False, rms_norm_eps=1e-6, rope_theta=10000.0),
    required=dict(hidden_act=('silu',), attention_bias=(False,), mlp_bias=(False, None), pretraining_tp=(1, None)),
  ),
}

# Fields that DecoderConfig is read from.
_READ = frozenset(
  [
    'model_type',
    'vocab_size',
    'hidden_size',
    'num_hidden_layers',
    'num_attention_heads',
    'num_key_value_heads',
    'head_dim',
    'intermediate_size',
    'rope_theta',
    'rope_parameters',
    'rope_scaling',
    'rms_norm_eps',
    'tie_word_embeddings',
    'max_position_embeddings',
    'layer_types',
  ]
)

# Fields that change nothing in the forward pass: bookkeeping, generation defaults, training-time settings of other
# tools, window fields that `use_sliding_window=False` turns off.
_NO_EFFECT = frozenset(
  [
    'architectures',
    'torch_dtype',
    'dtype',
    'transformers_version',
    'use_cache',
    'bos_token_id',
    'eos_token_id',
    'pad_token_id',
    'initializer_range',
    'attention_dropout',
    'sliding_window',
    'max_window_layers',
    '_name_or_path',
    'name_or_path',
    'output_attentions',
    'output_hidden_states',
    'return_dict',
    'is_encoder_decoder',
    'chunk_size_feed_forward',
    'id2label',
    'label2id',
    'problem_type',
  ]
)


def from_hf(config: dict[str, Any], where: str = 'config.json') -> DecoderConfig:
  """Reads a config.json, in the spelling of transformers 4 (`rope_theta`) or 5 (`rope_parameters`).

  Raises:
    DataError: unknown family, missing field, or a field whose value the decoder does not implement.
  """
  if not isinstance(config, dict):
    raise DataError(f'{where}: must hold a JSON object, not {type(config).__name__}')
  family_name = config.get('model_type')
  if family_name not in FAMILIES:
    raise DataError(f'{where}: model_type {family_name!r} is not supported; known families: {", ".join(FAMILIES)}')
  family = FAMILIES[family_name]
  for field in config:
    if field not in _READ and field not in _NO_EFFECT and field not in family.required:
      raise DataError(f'{where}: field {field!r} = {config[field]!r} is not honoured by the {family_name} decoder')
  settings = {**family.implied, **config}
  for field, allowed in family.required.items():
    if field in settings and settings[field] not in allowed:
      raise DataError(
        f'{where}: {field} = {settings[field]!r} is not implemented for {family_name}; it must be one of {allowed}'
      )

  def need(field: str, kind: type = int) -> Any:
    value = settings.get(field)
    if value is None:
      raise DataError(f'{where}: field {field!r} is missing')
    if not isinstance(value, (int, float) if kind is float else kind) or isinstance(value, bool) != (kind is bool):
      raise DataError(f'{where}: {field} = {value!r} must be of type {kind.__name__}')
    return kind(value)

  if set(settings.get('layer_types') or ['full_attention']) != {'full_attention'}:
    raise DataError(f'{where}: layer_types = {settings["layer_types"]!r}: only full_attention is implemented')
  heads = need('num_attention_heads')
  kv_heads = heads if settings.get('num_key_value_heads') is None else need('num_key_value_heads')
  if heads % kv_heads:
    raise DataError(f'{where}: num_key_value_heads = {kv_heads} must divide num_attention_heads = {heads}')
  return DecoderConfig(
    family=family_name,
    vocab=need('vocab_size'),
    width=need('hidden_size'),
    layers=need('num_hidden_layers'),
    heads=heads,
    kv_heads=kv_heads,
    head_width=need('hidden_size') // heads if settings.get('head_dim') is None else need('head_dim'),
    ffn=need('intermediate_size'),
    rope_theta=_rope_theta(settings, where),
    norm_eps=need('rms_norm_eps', float),
    qkv_bias=need('attention_bias', bool),
    tied=need('tie_word_embeddings', bool),
    max_positions=need('max_position_embeddings'),
  )


def _rope_theta(settings: dict[str, Any], where: str) -> float:
  """Rope base of either spelling; refuses a scaled, partial or per-layer-type rope, wherever it is written."""
  theta = settings['rope_theta']
  for field in ('rope_scaling', 'rope_parameters'):
    rope = settings.get(field) or {}
    if not isinstance(rope, dict):
      raise DataError(f'{where}: {field} = {rope!r} must be a section')
    unknown = sorted(set(rope) - {'rope_type', 'type', 'rope_theta'})
    kind = rope.get('rope_type', rope.get('type', 'default'))
    if kind != 'default' or unknown:
      raise DataError(f'{where}: {field} = {rope!r} is not implemented; only the plain, unscaled rope is')
    theta = rope.get('rope_theta', theta)
  if not isinstance(theta, (int, float)):
    raise DataError(f'{where}: rope_theta = {theta!r} must be a number')
  return float(theta)


def to_hf(config: DecoderConfig) -> dict[str, Any]:
  """A config.json for a model made here (an imported one keeps its own file). Opens in transformers 4 and 5."""
  architectures = {'qwen2': 'Qwen2ForCausalLM', 'llama': 'LlamaForCausalLM'}
  return dict(
    architectures=[architectures[config.family]],
    model_type=config.family,
    vocab_size=config.vocab,
    hidden_size=config.width,
    num_hidden_layers=config.layers,
    num_attention_heads=config.heads,
    num_key_value_heads=config.kv_heads,
    head_dim=config.head_width,
    intermediate_size=config.ffn,
    hidden_act='silu',
    rope_theta=config.rope_theta,
    rms_norm_eps=config.norm_eps,
    tie_word_embeddings=config.tied,
    max_position_embeddings=config.max_positions,
  )
