"""Rope frequencies against transformers' own functions, over the settings of each kind."""

import dataclasses

import numpy as np
import pytest

from score_jax.models import rope

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')

YARN = rope.Yarn(rope_theta=1e4, factor=8.0, original_max_position_embeddings=64)
KINDS = {
  'linear': rope.Linear(1e4, 3.0),
  'llama3': rope.Llama3(5e5, 8.0, 1.0, 4.0, 8192),
  'llama3_near': rope.Llama3(100.0, 2.0, 2.0, 3.0, 64),
  'yarn': YARN,
  'yarn_short': dataclasses.replace(YARN, original_max_position_embeddings=8),
  'yarn_betas': dataclasses.replace(YARN, beta_fast=16.0, beta_slow=2.0),
  'yarn_untruncated': dataclasses.replace(YARN, truncate=False),
  'yarn_factor': dataclasses.replace(YARN, attention_factor=1.7),
  'yarn_mscale': dataclasses.replace(YARN, mscale=0.7, mscale_all_dim=1.3),
  'yarn_mscale_alone': dataclasses.replace(YARN, mscale=0.7),
}


@pytest.mark.parametrize('width', [8, 64])
@pytest.mark.parametrize('name', KINDS)
def test_frequencies_equal_those_of_transformers(name, width):
  from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

  kind = KINDS[name]
  settings = {field: value for field, value in dataclasses.asdict(kind).items() if value is not None}
  config = transformers.LlamaConfig(
    hidden_size=2 * width,
    num_attention_heads=2,
    head_dim=width,
    max_position_embeddings=int(getattr(kind, 'original_max_position_embeddings', 64) * kind.factor),
    rope_parameters=dict(rope_type=rope.name_of(kind), **settings),
  )
  expected, factor = ROPE_INIT_FUNCTIONS[rope.name_of(kind)](config, device='cpu')
  np.testing.assert_allclose(kind.frequencies(width), expected.numpy(), rtol=1e-5)
  assert kind.factor_on_embedding() == pytest.approx(factor, rel=1e-12)


def test_plain_frequencies_by_hand():
  np.testing.assert_allclose(rope.Plain(16.0).frequencies(4), [1.0, 0.25])
  assert rope.Plain(16.0).factor_on_embedding() == 1.0
