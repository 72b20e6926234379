"""config.json: as published by each family, in both spellings, and every field that is not honoured refused by name."""

import json

import numpy as np
import pytest

from score_jax.errors import DataError
from score_jax.models import config_json, families, rope, weights
from score_jax.models.families import FULL, SLIDING

BOOKKEEPING = dict(
  architectures=['X'],
  attention_dropout=0.0,
  bos_token_id=1,
  eos_token_id=[2, 3],
  initializer_range=0.02,
  torch_dtype='bfloat16',
  transformers_version='4.51.3',
  use_cache=True,
)


def published(model_type, layers, width, heads, kv_heads, ffn, vocab, **more):
  return BOOKKEEPING | dict(
    model_type=model_type,
    num_hidden_layers=layers,
    hidden_size=width,
    num_attention_heads=heads,
    num_key_value_heads=kv_heads,
    intermediate_size=ffn,
    vocab_size=vocab,
    **more,
  )


QWEN = dict(hidden_act='silu', rms_norm_eps=1e-6, use_sliding_window=False, max_position_embeddings=32768)
GEMMA = dict(
  attention_bias=False,
  cache_implementation='hybrid',
  head_dim=256,
  hidden_activation='gelu_pytorch_tanh',
  pad_token_id=0,
  query_pre_attn_scalar=256,
  rms_norm_eps=1e-6,
)
LLAMA3_ROPE = dict(
  factor=32.0, high_freq_factor=4.0, low_freq_factor=1.0, original_max_position_embeddings=8192, rope_type='llama3'
)
# The settings of published models, and the parameters that their pages state.
PUBLISHED = {
  'Qwen2.5-0.5B': (
    published(
      'qwen2', 24, 896, 14, 2, 4864, 151936,
      max_window_layers=24, rope_theta=1e6, sliding_window=32768, tie_word_embeddings=True, use_mrope=False, **QWEN,
    ),
    494_032_768,
  ),
  'Qwen2.5-1.5B': (
    published(
      'qwen2', 28, 1536, 12, 2, 8960, 151936,
      max_window_layers=28, rope_theta=1e6, sliding_window=131072, tie_word_embeddings=True, **QWEN,
    ),
    1_543_714_304,
  ),
  'Qwen3-0.6B': (
    published(
      'qwen3', 28, 1024, 16, 8, 3072, 151936,
      attention_bias=False, head_dim=128, max_window_layers=28, rope_scaling=None, rope_theta=1e6,
      sliding_window=None, tie_word_embeddings=True, **QWEN,
    ),
    596_049_920,
  ),
  'Llama-3.2-1B': (
    published(
      'llama', 16, 2048, 32, 8, 8192, 128256,
      attention_bias=False, head_dim=64, hidden_act='silu', max_position_embeddings=131072, mlp_bias=False,
      pretraining_tp=1, rms_norm_eps=1e-5, rope_scaling=LLAMA3_ROPE, rope_theta=5e5, tie_word_embeddings=True,
    ),
    1_235_814_400,
  ),
  'Llama-3-8B': (
    published(
      'llama', 32, 4096, 32, 8, 14336, 128256,
      attention_bias=False, hidden_act='silu', max_position_embeddings=8192, pretraining_tp=1, rms_norm_eps=1e-5,
      rope_scaling=None, rope_theta=5e5, tie_word_embeddings=False,
    ),
    8_030_261_248,
  ),
  'Mistral-7B-v0.1': (
    published(
      'mistral', 32, 4096, 32, 8, 14336, 32000,
      hidden_act='silu', max_position_embeddings=32768, rms_norm_eps=1e-5, rope_theta=1e4, sliding_window=4096,
      tie_word_embeddings=False,
    ),
    7_241_732_096,
  ),
  'gemma-2-2b': (
    published(
      'gemma2', 26, 2304, 8, 4, 9216, 256000,
      attn_logit_softcapping=50.0, final_logit_softcapping=30.0, hidden_act='gelu_pytorch_tanh',
      max_position_embeddings=8192, rope_theta=1e4, sliding_window=4096, sliding_window_size=4096, **GEMMA,
    ),
    2_614_341_888,
  ),
  'gemma-3-1b': (
    published(
      'gemma3_text', 26, 1152, 4, 1, 6912, 262144,
      attn_logit_softcapping=None, final_logit_softcapping=None, max_position_embeddings=32768,
      rope_local_base_freq=10000, rope_scaling=None, rope_theta=1000000, sliding_window=512, sliding_window_pattern=6,
      **GEMMA,
    ),
    999_885_952,
  ),
  # The text alone: a vision tower and projector of 419,816,304 stand beside it, 4,300,079,472 in all.
  'gemma-3-4b': (
    dict(
      architectures=['X'], boi_token_index=255999, eoi_token_index=256000, eos_token_id=[1, 106],
      image_token_index=262144, initializer_range=0.02, mm_tokens_per_image=256, model_type='gemma3',
      torch_dtype='bfloat16', transformers_version='4.50.0.dev0', vision_config=dict(model_type='siglip_vision_model'),
      text_config=dict(
        hidden_size=2560, intermediate_size=10240, model_type='gemma3_text', num_hidden_layers=34,
        rope_scaling=dict(factor=8.0, rope_type='linear'), sliding_window=1024,
      ),
    ),
    3_880_263_168,
  ),
  'OLMo-2-1124-7B': (
    published(
      'olmo2', 32, 4096, 32, 32, 11008, 100352,
      attention_bias=False, hidden_act='silu', max_position_embeddings=4096, pad_token_id=100277, rms_norm_eps=1e-6,
      rope_scaling=None, rope_theta=500000, tie_word_embeddings=False,
    ),
    7_298_617_344,
  ),
  'SmolLM3-3B': (
    published(
      'smollm3', 36, 2048, 16, 4, 11008, 128256,
      attention_bias=False, hidden_act='silu', layer_types=[FULL] * 36, max_position_embeddings=65536,
      max_window_layers=28, mlp_bias=False, no_rope_layer_interval=4, no_rope_layers=[1, 1, 1, 0] * 9,
      pretraining_tp=2, rms_norm_eps=1e-6, rope_scaling=None, rope_theta=5000000.0, sliding_window=None,
      use_sliding_window=False,
    ),
    3_075_098_624,
  ),
  'Qwen3-30B-A3B': (
    published(
      'qwen3_moe', 48, 2048, 32, 4, 6144, 151936,
      attention_bias=False, decoder_sparse_step=1, head_dim=128, hidden_act='silu', max_position_embeddings=40960,
      max_window_layers=48, mlp_only_layers=[], moe_intermediate_size=768, norm_topk_prob=True, num_experts=128,
      num_experts_per_tok=8, output_router_logits=False, rms_norm_eps=1e-6, rope_scaling=None, rope_theta=1000000.0,
      router_aux_loss_coef=0.001, sliding_window=None, tie_word_embeddings=False, use_sliding_window=False,
    ),
    30_532_122_624,
  ),
}  # fmt: skip


def config(name='Qwen2.5-0.5B', **changes):
  return config_json.from_hf({**PUBLISHED[name][0], **changes})


@pytest.mark.parametrize('name', PUBLISHED)
def test_published_models_have_the_parameters_that_their_pages_state(name):
  assert weights.weight_table(config(name)).parameters() == PUBLISHED[name][1]


def test_layer_kinds_of_published_models():
  plain = families.LayerKind(0, rope.Plain(1e6))
  assert config().kinds == (plain,)
  assert config('Mistral-7B-v0.1').kinds == (families.LayerKind(4096, rope.Plain(1e4)),)
  gemma2 = config('gemma-2-2b')
  assert gemma2.kinds == (families.LayerKind(4096, rope.Plain(1e4)), families.LayerKind(0, rope.Plain(1e4)))
  assert gemma2.kind_of_layer == (0, 1) * 13
  gemma3 = config('gemma-3-1b')
  assert gemma3.kinds == (families.LayerKind(512, rope.Plain(1e4)), families.LayerKind(0, rope.Plain(1e6)))
  assert gemma3.kind_of_layer == ((0,) * 5 + (1,)) * 4 + (0, 0)
  assert config('Llama-3.2-1B').kinds[0].rope == rope.Llama3(5e5, 32.0, 1.0, 4.0, 8192)
  larger = config('gemma-3-4b')
  assert larger.kinds == (families.LayerKind(1024, rope.Plain(1e4)), families.LayerKind(0, rope.Linear(1e6, 8.0)))
  smollm3 = config('SmolLM3-3B')
  assert smollm3.kinds == (families.LayerKind(0, rope.Plain(5e6)), families.LayerKind(0, rope.Absent()))
  assert smollm3.kind_of_layer == (0, 0, 0, 1) * 9
  assert not np.any(rope.Absent().frequencies(8)) and rope.Absent().factor_on_embedding() == 1


def test_traits_of_published_models():
  gemma2, qwen3, qwen2 = config('gemma-2-2b'), config('Qwen3-0.6B'), config()
  assert (gemma2.attention_softcap, gemma2.final_softcap, gemma2.norm_offset) == (50.0, 30.0, 1.0)
  assert (gemma2.embed_scale, gemma2.query_scale, gemma2.activation) == (48.0, 1 / 16, 'gelu_pytorch_tanh')
  assert gemma2.post_norms and not gemma2.qk_norm and gemma2.tied
  assert qwen3.qk_norm and not qwen3.qkv_bias and qwen3.head_width == 128 and qwen3.query_scale == 128**-0.5
  assert qwen2.qkv_bias and not qwen2.o_bias and qwen2.head_width == 64
  assert config('gemma-3-1b').final_softcap == 0.0
  olmo2, moe = config('OLMo-2-1124-7B'), config('Qwen3-30B-A3B')
  assert olmo2.qk_norm_whole and olmo2.post_norms and not olmo2.pre_norms and not gemma2.qk_norm_whole
  assert (moe.experts, moe.experts_per_token, moe.normed_experts, moe.ffn) == (128, 8, True, 768)
  renamed = {field: value for field, value in PUBLISHED['Qwen3-30B-A3B'][0].items() if field != 'num_experts'}
  assert config_json.from_hf(renamed | dict(num_local_experts=16)).experts == 16


# What the library that wrote a file, generation, training or another task leaves in it.
LEFT = dict(
  _attn_implementation_autoset=True, _flash_attn_2_enabled=True, unk_token_id=0, sep_token_id=None,
  decoder_start_token_id=1, keys_to_ignore_at_inference=['past_key_values'], max_length=20, max_sequence_length=2048,
  do_sample=True, temperature=0.6, top_k=50, top_p=0.95, typical_p=1.0, repetition_penalty=1.05, penalty_alpha=0.6,
  num_beams=1, early_stopping=False, no_repeat_ngram_size=0, bad_words_ids=None, forced_eos_token_id=None,
  pruned_heads={}, torchscript=False, use_bfloat16=False, attn_implementation='eager', neftune_noise_alpha=5,
  num_labels=2, model_name='x', output_scores=False, return_dict_in_generate=False, tf_legacy_loss=False,
  add_cross_attention=False, cross_attention_hidden_size=None, is_decoder=False, tie_encoder_decoder=False,
  finetuning_task=None, task_specific_params=None, prefix=None, gradient_checkpointing=False, max_new_tokens=64,
  hidden_dropout=0.1, hidden_dropout_prob=0.0, resid_pdrop=0.0, embd_pdrop=0.0, residual_dropout=0.0, dropout=0.0,
  classifier_dropout=None, classifier_bias=False, classifier_activation='gelu', initializer_factor=1.0, init_std=0.02,
  loss_type='ForCausalLM', router_aux_loss_coef=0.1, model_parallel=False, use_flash_attn=True, revision='main',
  base_model_tp_plan={}, base_model_pp_plan=None, num_logits_to_keep=0, trust_remote_code=False, model_max_length=4096,
  max_seq_len=4096, seq_length=2048, bos_token='<s>', eos_token='</s>', pad_token=None, quantization=None,
  # Null is not there.
  adapters=None, mrope_section=None, qkv_bias=None, logits_scaling=None, dual_chunk_attention_config=None,
  **{'transformers.js_config': {}},
)  # fmt: skip


@pytest.mark.parametrize('name', PUBLISHED)
def test_bookkeeping_changes_nothing(name):
  assert config(name, **LEFT) == config(name)


def test_a_factor_that_transformers_ignores_is_ignored_with_a_warning(caplog):
  scaling = dict(rope_type='yarn', factor=4.0, original_max_position_embeddings=32768)
  with caplog.at_level('WARNING'):
    actual = config('Qwen3-0.6B', rope_scaling=scaling | dict(attn_factor=0.8782488562869419))
  assert actual == config('Qwen3-0.6B', rope_scaling=scaling)
  assert 'rope_scaling.attn_factor = 0.87' in caplog.text and 'ignored, as transformers does' in caplog.text


@pytest.mark.parametrize(
  ('name', 'four', 'five'),
  [
    ('Qwen2.5-0.5B', dict(rope_theta=1e6), dict(rope_parameters=dict(rope_type='default', rope_theta=1e6))),
    (
      'Qwen2.5-0.5B',
      dict(rope_theta=1e6, rope_scaling=dict(type='yarn', factor=4.0, original_max_position_embeddings=8192)),
      dict(
        rope_parameters=dict(rope_type='yarn', rope_theta=1e6, factor=4.0, original_max_position_embeddings=8192),
        dtype='bfloat16',
      ),
    ),
    (
      'Llama-3.2-1B',
      dict(rope_theta=5e5, rope_scaling=LLAMA3_ROPE),
      dict(rope_parameters=LLAMA3_ROPE | dict(rope_theta=5e5)),
    ),
    (
      'gemma-3-1b',
      dict(rope_theta=1e6, rope_local_base_freq=1e4, rope_scaling=dict(rope_type='linear', factor=8.0)),
      dict(
        rope_parameters={
          FULL: dict(rope_type='linear', factor=8.0, rope_theta=1e6),
          SLIDING: dict(rope_type='default', rope_theta=1e4),
        },
        layer_types=([SLIDING] * 5 + [FULL]) * 4 + [SLIDING] * 2,
      ),
    ),
  ],
  ids=['default', 'yarn', 'llama3', 'per_type'],
)  # fmt: skip
def test_both_spellings_read_the_same(name, four, five):
  ropes = (
    'rope_theta',
    'rope_scaling',
    'rope_parameters',
    'rope_local_base_freq',
    'torch_dtype',
    'sliding_window_pattern',
  )
  rest = {field: value for field, value in PUBLISHED[name][0].items() if field not in ropes}
  assert config_json.from_hf({**rest, **four}) == config_json.from_hf({**rest, **five})
  assert config_json.from_hf({**rest, **four, **five}) == config_json.from_hf(
    {**rest, **five}
  )  # both, where they agree


def test_sliding_layers_of_qwen_are_the_late_ones_or_those_listed():
  late = config(use_sliding_window=True, sliding_window=64, max_window_layers=20)
  assert late.kind_of_layer == (0,) * 20 + (1,) * 4
  assert [kind.window for kind in late.kinds] == [0, 64]
  listed = config(use_sliding_window=True, sliding_window=64, layer_types=[SLIDING, FULL] * 12)
  assert listed.kind_of_layer == (0, 1) * 12
  assert [kind.window for kind in listed.kinds] == [64, 0]
  assert [kind.window for kind in config(sliding_window=64, max_window_layers=0).kinds] == [0]  # switched off


@pytest.mark.parametrize(
  ('name', 'changes', 'message'),
  [
    ('Qwen2.5-0.5B', dict(model_type='mamba'), "model_type 'mamba' is not supported; known families: qwen2"),
    ('Qwen2.5-0.5B', dict(pruned_heads={0: [1]}), "'pruned_heads' is set: heads are missing"),
    ('Qwen2.5-0.5B', dict(num_local_experts=8), 'num_local_experts = 8 contradicts num_experts = None'),
    ('gemma-3-4b', dict(model_type='gemma3n'), "model_type 'gemma3n' is not supported"),
    ('gemma-3-4b', dict(text_config=None), 'text_config = None must be a section of model_type gemma3_text'),
    ('gemma-3-4b', dict(text_config=dict(model_type='llama')), 'must be a section of model_type gemma3_text'),
    ('gemma-3-4b', dict(quantization_config=dict(bits=4)), "'quantization_config' is set: the weights are quantized"),
    ('gemma-3-4b', dict(audio_config={}), 'audio_config = {} is not honoured by the gemma3 decoder'),
    ('gemma-3-4b', dict(tie_word_embeddings=False), 'tie_word_embeddings = False is not implemented for gemma3'),
    (
      'gemma-3-4b',
      dict(text_config=PUBLISHED['gemma-3-4b'][0]['text_config'] | dict(final_logit_softcapping=30.0)),
      'final_logit_softcapping = 30.0 is not implemented for gemma3',
    ),
    ('OLMo-2-1124-7B', dict(sliding_window=64), 'sliding_window = 64 is not implemented for olmo2'),
    ('SmolLM3-3B', dict(no_rope_layers=[1, 0]), r'no_rope_layers = \[1, 0\] must list 1 .* each of 36 layers'),
    ('SmolLM3-3B', dict(no_rope_layers=[2] * 36), 'no_rope_layers = .* must list 1'),
    ('SmolLM3-3B', dict(no_rope_layers=None, no_rope_layer_interval=0), 'no_rope_layer_interval = 0 must lie in'),
    ('Qwen3-30B-A3B', dict(mlp_only_layers=[0]), r'mlp_only_layers = \[0\] is not implemented for qwen3_moe'),
    ('Qwen3-30B-A3B', dict(decoder_sparse_step=2), 'decoder_sparse_step = 2 is not implemented'),
    ('Qwen3-30B-A3B', dict(num_experts_per_tok=129), r'num_experts_per_tok = 129 must lie in 1\.\.128'),
    ('Qwen3-30B-A3B', dict(num_local_experts=64), 'num_local_experts = 64 contradicts num_experts = 128'),
    ('Qwen3-30B-A3B', dict(norm_topk_prob=1), 'norm_topk_prob = 1 must be of type bool'),
    ('Qwen2.5-0.5B', dict(model_type=None), 'model_type None is not supported'),
    ('Qwen2.5-0.5B', dict(model_type=['qwen2']), r"model_type \['qwen2'\] is not supported"),
    ('Qwen2.5-0.5B', dict(auto_map=dict(AutoModel='x.py')), "'auto_map' is set: it asks to run code"),
    ('Qwen2.5-0.5B', dict(quantization_config=dict(bits=4)), "'quantization_config' is set: the weights are quantized"),
    ('Qwen2.5-0.5B', dict(quantization=dict(bits=4)), "'quantization' is set: the weights are quantized; save"),
    ('Qwen2.5-0.5B', dict(compression_config=dict(format='int')), "'compression_config' is set: the weights are"),
    ('Qwen2.5-0.5B', dict(partial_rotary_factor=0.5), 'partial_rotary_factor = 0.5 is not honoured .* remove it'),
    ('Qwen2.5-0.5B', dict(logits_scaling=8.0), 'logits_scaling = 8.0 is not honoured'),
    ('Qwen2.5-0.5B', dict(embedding_multiplier=12.0), 'embedding_multiplier = 12.0 is not honoured'),
    ('Qwen2.5-0.5B', dict(residual_multiplier=0.2), 'residual_multiplier = 0.2 is not honoured'),
    ('Qwen2.5-0.5B', dict(attention_multiplier=0.1), 'attention_multiplier = 0.1 is not honoured'),
    ('Qwen2.5-0.5B', dict(qkv_bias=False), 'qkv_bias = False is not honoured'),
    ('Qwen2.5-0.5B', dict(rope_interleaved=True), 'rope_interleaved = True is not honoured'),
    ('Qwen2.5-0.5B', dict(use_parallel_residual=True), 'use_parallel_residual = True is not honoured'),
    ('Qwen2.5-0.5B', dict(num_nextn_predict_layers=1), 'num_nextn_predict_layers = 1 is not honoured'),
    ('Qwen2.5-0.5B', dict(dual_chunk_attention_config=dict(a=1)), 'dual_chunk_attention_config = .* is not honoured'),
    ('Qwen2.5-0.5B', dict(layer_norm_eps=1e-5), 'layer_norm_eps = 1e-05 is not honoured'),
    ('Qwen2.5-0.5B', dict(hidden_act=None), 'hidden_act = None is not implemented; use one of'),
    ('Qwen2.5-0.5B', dict(vocab_size=151936.0), 'vocab_size = 151936.0 must be of type int'),
    ('Qwen2.5-0.5B', dict(layer_types=['chunked_attention'] * 24), 'layer_types = .* must list full_attention or'),
    (
      'Qwen2.5-0.5B',
      dict(rope_scaling=dict(rope_type='default', mrope_section=[16, 24, 24])),
      "'mrope_section' is not a field of rope_type 'default'; if it changes nothing in the forward pass, remove it",
    ),
    ('Qwen2.5-0.5B', dict(qk_norm=True), 'qk_norm = True is not honoured by the qwen2 decoder'),
    ('Qwen2.5-0.5B', dict(attention_bias=False), 'attention_bias = False is not implemented for qwen2'),
    ('Qwen2.5-0.5B', dict(attn_logit_softcapping=50.0), 'attn_logit_softcapping = 50.0 is not honoured'),
    ('Qwen2.5-0.5B', dict(use_mrope=True), 'use_mrope = True'),
    ('Qwen2.5-0.5B', dict(hidden_act='relu'), "hidden_act = 'relu' is not implemented"),
    ('Qwen2.5-0.5B', dict(num_key_value_heads=4), 'num_key_value_heads = 4 must divide num_attention_heads = 14'),
    ('Qwen2.5-0.5B', dict(hidden_size='16'), "hidden_size = '16' must be of type int"),
    ('Qwen2.5-0.5B', dict(hidden_size=True), 'hidden_size = True must be of type int'),
    ('Qwen2.5-0.5B', dict(vocab_size=0), r'vocab_size = 0 must lie in 1\.\.'),
    ('Qwen2.5-0.5B', dict(num_hidden_layers=10**9), r'num_hidden_layers = 1000000000 must lie in 1\.\.1000'),
    ('Qwen2.5-0.5B', dict(num_hidden_layers=None), "'num_hidden_layers' is missing"),
    ('Qwen2.5-0.5B', dict(rms_norm_eps=-1.0), 'rms_norm_eps = -1.0 must be a number above 0'),
    ('Qwen2.5-0.5B', dict(tie_word_embeddings=1), 'tie_word_embeddings = 1 must be of type bool'),
    ('Qwen2.5-0.5B', dict(head_dim=7), 'head_dim = 7 must be even'),
    ('Qwen2.5-0.5B', dict(layer_types=[FULL] * 3), 'layer_types = .* for each of 24 layers'),
    ('Qwen2.5-0.5B', dict(layer_types=['chunked_attention'] * 24), 'layer_types = .*chunked'),
    ('Qwen2.5-0.5B', dict(layer_types=[SLIDING] * 24), 'sliding_window is missing or turned off'),
    ('Qwen2.5-0.5B', dict(rope_theta='big'), "'big' is not implemented: rope_theta = 'big' must be a number"),
    (
      'Qwen2.5-0.5B',
      dict(rope_scaling=dict(type='dynamic', factor=2.0)),
      "rope_scaling = .*'dynamic' is unknown",
    ),
    ('Qwen2.5-0.5B', dict(rope_scaling=dict(type='linear')), "rope_scaling = .*'factor' is missing"),
    ('Qwen2.5-0.5B', dict(rope_scaling=dict(type='linear', factor=2, beta=1)), "'beta' is not a field of rope_type"),
    ('Qwen2.5-0.5B', dict(rope_scaling=dict(type='linear', factor=2, auto_map=1)), "'auto_map' is not a field"),
    ('Qwen2.5-0.5B', dict(rope_scaling=7), 'rope_scaling = 7 must be a section'),
    ('Qwen2.5-0.5B', dict(rope_parameters=dict(partial_rotary_factor=0.5)), 'partial_rotary_factor must be 1'),
    ('Qwen2.5-0.5B', dict(rope_parameters={FULL: dict(rope_theta=1e6)}), "'full_attention' is not a field"),
    (
      'Qwen2.5-0.5B',
      dict(rope_scaling=dict(type='linear', factor=2.0), rope_parameters=dict(rope_type='default', rope_theta=1e6)),
      'rope_scaling and rope_parameters contradict each other',
    ),
    ('Qwen2.5-0.5B', dict(rope_scaling=dict(type='yarn', factor=2.0, truncate='no')), 'truncate = .*bool'),
    ('Llama-3.2-1B', dict(rope_scaling=LLAMA3_ROPE | dict(low_freq_factor=4.0)), 'high_freq_factor must be above'),
    ('Llama-3.2-1B', dict(sliding_window=64), r'sliding_window = 64 is not implemented for llama'),
    ('Llama-3.2-1B', dict(use_sliding_window=True), 'use_sliding_window = True is not honoured'),
    ('Llama-3.2-1B', dict(pretraining_tp=2), 'pretraining_tp = 2'),
    ('Llama-3.2-1B', dict(rope_interleaved=True), 'rope_interleaved = True'),
    ('Mistral-7B-v0.1', dict(attention_bias=True), 'attention_bias = True is not implemented for mistral'),
    ('Mistral-7B-v0.1', dict(layer_types=[FULL] * 32), 'layer_types = .* is not honoured by this family'),
    ('gemma-2-2b', dict(use_bidirectional_attention=True), 'use_bidirectional_attention = True'),
    ('gemma-2-2b', dict(sliding_window_size=64), 'sliding_window_size = 64 contradicts sliding_window = 4096'),
    ('gemma-2-2b', dict(sliding_window=None, sliding_window_size=None), 'sliding_window is missing'),
    ('gemma-2-2b', dict(hidden_activation=None), 'hidden_activation = None is not implemented'),
    ('gemma-2-2b', dict(query_pre_attn_scalar=0), 'query_pre_attn_scalar = 0 must be a number above 0'),
    ('gemma-3-1b', dict(attn_logit_softcapping=50.0), 'attn_logit_softcapping = 50.0 is not implemented'),
    ('gemma-3-1b', dict(rope_scaling=dict(type='linear', factor=8.0)), 'rope_scaling = .* must name a rope_type'),
    ('gemma-3-1b', dict(rope_parameters={FULL: 'yarn'}), "rope_parameters.full_attention = 'yarn' must be a section"),
    (
      'gemma-3-1b',
      dict(rope_parameters={FULL: dict(rope_type='yarn', factor=2.0, truncate=False)}),
      'without truncate = false',
    ),
    ('Qwen3-0.6B', dict(rope_scaling=dict(rope_type='yarn', factor=2.0, truncate=None)), 'truncate = None'),
    (
      'Qwen3-0.6B',
      dict(rope_scaling=dict(rope_type='yarn', factor=2.0, original_max_position_embeddings=20.9)),
      'original_max_position_embeddings = 20.9 must be',
    ),
    ('Qwen3-0.6B', dict(rope_theta=1.0, rope_scaling=dict(rope_type='yarn', factor=2.0)), 'give no frequencies'),
    ('Qwen3-0.6B', dict(rope_theta=10**400), 'rope_theta = .* must be a number above 0'),
    ('Qwen3-0.6B', dict(rms_norm_eps=10**400), 'rms_norm_eps = .* must be a number above 0'),
    ('Qwen3-0.6B', dict(use_sliding_window=True, sliding_window=8, max_window_layers=None), 'max_window_layers = None'),
    ('gemma-3-1b', dict(sliding_window_pattern=0), 'sliding_window_pattern = 0 must be'),
    ('gemma-3-1b', dict(_sliding_window_pattern=2), '_sliding_window_pattern = 2 contradicts'),
    ('gemma-3-1b', dict(rope_parameters=dict(rope_type='default', rope_theta=1e6)), 'must have a section for'),
  ],
)
def test_what_is_not_honoured_is_refused_by_field(name, changes, message):
  with pytest.raises(DataError, match=message):
    config(name, **changes)


@pytest.mark.parametrize('content', [[], 'text', 3, None])
def test_a_config_must_be_an_object(content):
  with pytest.raises(DataError, match='must hold a JSON object'):
    config_json.from_hf(json.loads(json.dumps(content)))


def test_an_implied_value_counts_where_config_json_is_silent():
  silent = {field: value for field, value in PUBLISHED['gemma-2-2b'][0].items() if 'softcapping' not in field}
  assert config_json.from_hf(silent).attention_softcap == 50.0
  mistral = {field: value for field, value in PUBLISHED['Mistral-7B-v0.1'][0].items() if field != 'sliding_window'}
  assert config_json.from_hf(mistral).kinds[0].window == 4096


def test_a_null_where_there_is_nothing_to_honour_is_no_obstacle():
  assert config(quantization_config=None, auto_map=None) == config()
  pattern = dict(layer_types=([SLIDING] * 5 + [FULL]) * 4 + [SLIDING] * 2)
  assert config('gemma-3-1b', sliding_window_pattern=None, **pattern) == config('gemma-3-1b')
