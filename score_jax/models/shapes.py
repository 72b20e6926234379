# SPDX-License-Identifier: Apache-2.0
"""config.json of published models, for benchmarks and planning without a folder."""

from typing import Any

_QWEN = dict(
  model_type='qwen2',
  hidden_act='silu',
  max_position_embeddings=32768,
  rms_norm_eps=1e-6,
  rope_theta=1e6,
  sliding_window=32768,
  tie_word_embeddings=True,
  use_sliding_window=False,
  vocab_size=151936,
)
_LLAMA = dict(
  model_type='llama',
  attention_bias=False,
  hidden_act='silu',
  max_position_embeddings=8192,
  rms_norm_eps=1e-5,
  rope_theta=5e5,
  tie_word_embeddings=False,
  vocab_size=128256,
)


_SIZES = 'num_hidden_layers hidden_size num_attention_heads num_key_value_heads intermediate_size'


def _sizes(*sizes: int) -> dict[str, Any]:
  return dict(zip(_SIZES.split(), sizes, strict=True))


def _qwen(*sizes: int, **fields: Any) -> dict[str, Any]:
  return _QWEN | _sizes(*sizes) | dict(max_window_layers=sizes[0]) | fields


SHAPES: dict[str, dict[str, Any]] = {
  'tiny': _qwen(2, 64, 4, 2, 128, vocab_size=512),
  'qwen2.5-0.5b': _qwen(24, 896, 14, 2, 4864),
  'qwen2.5-1.5b': _qwen(28, 1536, 12, 2, 8960),
  'qwen2.5-7b': _qwen(28, 3584, 28, 4, 18944, tie_word_embeddings=False, vocab_size=152064),
  'gemma-2-2b': _sizes(26, 2304, 8, 4, 9216)
  | dict(
    model_type='gemma2',
    attn_logit_softcapping=50.0,
    final_logit_softcapping=30.0,
    head_dim=256,
    hidden_activation='gelu_pytorch_tanh',
    max_position_embeddings=8192,
    query_pre_attn_scalar=256,
    rms_norm_eps=1e-6,
    rope_theta=1e4,
    sliding_window=4096,
    vocab_size=256000,
  ),
  'llama-3-8b': _LLAMA | _sizes(32, 4096, 32, 8, 14336),
  'llama-3-70b': _LLAMA | _sizes(80, 8192, 64, 8, 28672),
}
