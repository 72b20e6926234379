# SPDX-License-Identifier: Apache-2.0
"""Model families as data: one `DecoderConfig` for every model, one row a family."""

import dataclasses
from typing import Any

from score_jax.models.rope import Rope

# Names of config.json.
FULL, SLIDING = 'full_attention', 'sliding_attention'
ACTIVATIONS = ('silu', 'gelu', 'gelu_pytorch_tanh')


@dataclasses.dataclass(frozen=True)
class LayerKind:
  """What layers differ in."""

  window: int  # newest positions that a query sees, with its own; 0: all
  rope: Rope


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
  """The decoder's shape and arithmetic. Letters: `core_types.py`."""

  family: str  # model_type of config.json
  vocab: int  # V
  width: int  # D
  layers: int  # N
  heads: int  # H
  kv_heads: int  # K
  head_width: int  # C
  ffn: int  # F
  norm_eps: float
  tied: bool  # the output head is the embedding
  max_positions: int
  kinds: tuple[LayerKind, ...]  # distinct
  kind_of_layer: tuple[int, ...]  # [N] index into `kinds`
  query_scale: float  # on query-key products
  activation: str = 'silu'  # of the feed-forward gate; one of ACTIVATIONS
  experts: int = 0  # E; 0: one feed-forward for all tokens
  experts_per_token: int = 1
  normed_experts: bool = False  # a token's weights add up to 1
  qkv_bias: bool = False
  o_bias: bool = False
  ffn_bias: bool = False
  qk_norm: bool = False  # RMS norm of each query and key head, before rope
  qk_norm_whole: bool = False  # of all heads together
  pre_norms: bool = True  # RMS norm of what enters blocks
  post_norms: bool = False  # RMS norm of attention's and feed-forward's outputs
  norm_offset: float = 0.0  # norms multiply by offset + weight
  embed_scale: float = 1.0  # on embeddings
  attention_softcap: float = 0.0  # c tanh(x / c) on query-key products; 0: off
  final_softcap: float = 0.0  # the same on logits

  def sizes(self) -> dict[str, int]:
    sizes = dict(V=self.vocab, D=self.width, N=self.layers, H=self.heads, K=self.kv_heads)
    return sizes | dict(C=self.head_width, F=self.ffn, E=self.experts)

  @property
  def wrapper(self) -> 'Wrapper':
    return FAMILIES[self.family].wrapper


@dataclasses.dataclass(frozen=True)
class Wrapper:
  """Where a larger model has its language model; a model alone has it everywhere."""

  section: str = ''  # of config.json
  model_type: str = ''  # of the section
  fields: tuple[str, ...] = ()  # of other parts
  prefix: str = 'model.'  # of weights
  module: str = 'model.'  # the same in transformers
  others: tuple[str, ...] = ()  # prefixes of other parts' weights


@dataclasses.dataclass(frozen=True)
class Family:
  """How one model_type's config.json maps to the decoder."""

  architecture: str  # class of transformers
  implied: dict[str, Any]  # HF field -> transformers' default
  fixed: dict[str, tuple]  # HF field -> the values that the decoder implements
  sliding: str  # of `config_json.SLIDES`, where `layer_types` does not say
  layer_types: bool = False  # whether config.json may list each layer's type
  rope_per_type: bool = False  # whether each layer type has its rope
  o_bias: bool = True  # whether attention_bias is of the output projection too
  qk_norm: bool = False
  olmo: bool = False  # norms after blocks alone, and of whole queries and keys
  gemma: bool = False  # norms of 1 + weight, norms after each block, embeddings times sqrt(D)
  no_rope: bool = False  # whether layers may do without
  experts: bool = False  # whether feed-forwards are mixtures
  ffn: str = 'intermediate_size'
  wrapper: Wrapper = Wrapper()


_IMPLIED = dict(
  attention_bias=False,
  head_dim=None,
  hidden_act='silu',
  layer_types=None,
  mlp_bias=False,
  num_key_value_heads=None,
  rms_norm_eps=1e-6,
  rope_theta=10000.0,
  sliding_window=None,
  tie_word_embeddings=False,
)
_GEMMA = _IMPLIED | dict(
  attn_logit_softcapping=None,
  final_logit_softcapping=None,
  head_dim=256,
  hidden_activation='gelu_pytorch_tanh',
  num_key_value_heads=4,
  query_pre_attn_scalar=256,
  sliding_window=4096,
  tie_word_embeddings=True,
)
_QWEN = _IMPLIED | dict(
  max_position_embeddings=32768,
  max_window_layers=28,
  num_key_value_heads=32,
  sliding_window=4096,
  use_sliding_window=False,
)
_MOE = dict(decoder_sparse_step=1, mlp_only_layers=None, moe_intermediate_size=768, norm_topk_prob=False)
_MOE |= dict(num_experts=128, num_experts_per_tok=8, router_aux_loss_coef=0.0)  # a loss that is not trained with
_NO_MROPE = dict(use_mrope=(False, None))
_CAUSAL = dict(use_bidirectional_attention=(False, None))

FAMILIES = {
  'qwen2': Family(
    architecture='Qwen2ForCausalLM',
    implied=_QWEN | dict(attention_bias=True),
    fixed=_NO_MROPE | dict(attention_bias=(True,), mlp_bias=(False,)),
    sliding='late',
    layer_types=True,
    o_bias=False,
  ),
  'qwen3': Family(
    architecture='Qwen3ForCausalLM',
    implied=_QWEN | dict(head_dim=128),
    fixed=_NO_MROPE | dict(mlp_bias=(False,)),
    sliding='late',
    layer_types=True,
    qk_norm=True,
  ),
  'qwen3_moe': Family(
    architecture='Qwen3MoeForCausalLM',
    implied=_QWEN | _MOE | dict(head_dim=None, num_key_value_heads=4),
    fixed=_NO_MROPE | dict(mlp_bias=(False,), mlp_only_layers=(None, []), decoder_sparse_step=(1,)),
    sliding='always',
    qk_norm=True,
    experts=True,
    ffn='moe_intermediate_size',
  ),
  'llama': Family(
    architecture='LlamaForCausalLM',
    implied=_IMPLIED | dict(max_position_embeddings=2048),
    fixed=dict(pretraining_tp=(1, None), rope_interleaved=(False,), sliding_window=(None,)),
    sliding='never',
  ),
  'mistral': Family(
    architecture='MistralForCausalLM',
    implied=_IMPLIED | dict(max_position_embeddings=131072, num_key_value_heads=8, sliding_window=4096),
    fixed=dict(attention_bias=(False,), mlp_bias=(False,)),
    sliding='always',
  ),
  'olmo2': Family(
    architecture='Olmo2ForCausalLM',
    implied=_IMPLIED | dict(max_position_embeddings=2048, rms_norm_eps=1e-5),
    fixed=dict(mlp_bias=(False,), sliding_window=(None,)),
    sliding='never',
    qk_norm=True,
    olmo=True,
  ),
  'smollm3': Family(
    architecture='SmolLM3ForCausalLM',
    implied=_IMPLIED
    | dict(
      max_position_embeddings=32768,
      max_window_layers=28,  # transformers does not read it
      no_rope_layer_interval=4,
      no_rope_layers=None,
      num_key_value_heads=4,
      pretraining_tp=1,  # nor this
      rope_theta=2_000_000.0,
      tie_word_embeddings=True,
      use_sliding_window=False,
    ),
    fixed={},
    sliding='no_rope',
    layer_types=True,
    no_rope=True,
  ),
  'gemma2': Family(
    architecture='Gemma2ForCausalLM',
    implied=_GEMMA
    | dict(
      attn_logit_softcapping=50.0,
      final_logit_softcapping=30.0,
      max_position_embeddings=8192,
      sliding_window_pattern=2,
    ),
    fixed=_CAUSAL | dict(mlp_bias=(False,), sliding_window_pattern=(2,)),
    sliding='pattern',
    layer_types=True,
    gemma=True,
  ),
  'gemma3_text': Family(
    architecture='Gemma3ForCausalLM',
    implied=_GEMMA
    | dict(
      max_position_embeddings=131072,
      rope_theta=1_000_000.0,
      rope_local_base_freq=10_000.0,
      sliding_window_pattern=6,
    ),
    # transformers reads attn_logit_softcapping and does not apply it.
    fixed=_CAUSAL | dict(mlp_bias=(False,), attn_logit_softcapping=(None,)),
    sliding='pattern',
    layer_types=True,
    rope_per_type=True,
    qk_norm=True,
    gemma=True,
  ),
}
# The text of Gemma 3 4B and larger.
FAMILIES['gemma3'] = dataclasses.replace(
  FAMILIES['gemma3_text'],
  architecture='Gemma3ForConditionalGeneration',
  implied=FAMILIES['gemma3_text'].implied | dict(num_attention_heads=8, vocab_size=262208),
  fixed=FAMILIES['gemma3_text'].fixed | dict(final_logit_softcapping=(None,), tie_word_embeddings=(True,)),
  wrapper=Wrapper(
    section='text_config',
    model_type='gemma3_text',
    fields=('boi_token_index', 'eoi_token_index', 'image_token_index', 'mm_tokens_per_image', 'vision_config'),
    prefix='language_model.model.',
    module='model.language_model.',
    others=('vision_tower.', 'multi_modal_projector.'),
  ),
)
