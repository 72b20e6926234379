"""Attention of whole rows: the TPU kernel, in interpret mode, against the plain one. The GPU's needs a GPU."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from score_jax.models import attention as attentions
from score_jax.models import decoder, flash, packing
from score_jax.models.flash import Attention
from score_jax.parallel import mesh as meshes


def inputs(rows, slots, heads, kv_heads, width=128):
  rng = np.random.default_rng(0)
  return tuple(rng.normal(size=(rows, slots, h, width)).astype(np.float32) for h in (heads, kv_heads, kv_heads))


@pytest.mark.parametrize(
  ('mesh', 'kv_heads', 'window', 'softcap', 'width'),
  [
    pytest.param((1, 1, 1), 2, 0, 0.0, 128, marks=pytest.mark.slow),
    ((1, 1, 1), 2, 100, 5.0, 64),
    pytest.param((2, 1, 4), 2, 0, 0.0, 128, marks=pytest.mark.slow),
    ((2, 2, 2), 2, 0, 0.0, 64),
  ],
)
def test_splash_equals_plain_attention_and_its_gradient(mesh, kv_heads, window, softcap, width):
  """Also where heads outnumber the key/value heads of a device's share, and where streams are no whole blocks."""
  mesh = meshes.make_mesh(*mesh, jax.devices()[: int(np.prod(mesh))])
  splash = Attention('splash', mesh, interpret=True)
  qkv = inputs(4, 250, 4, kv_heads, width)
  length = np.array([250, 200, 17, 1], np.int32)
  settings = dict(window=window, scale=0.1, softcap=softcap)
  weight = np.where(np.arange(250)[None, :, None, None] < length[:, None, None, None], 1.0, 0.0).astype(np.float32)
  weight = weight * np.random.default_rng(1).normal(size=qkv[0].shape).astype(np.float32)

  def total(qkv, attention):
    if attention.kind == 'splash':
      out = flash.attend_streams(*qkv, None, attention, **settings)
    else:
      out = flash.attend(*qkv, length, attention, **settings)
    return jnp.sum(out * weight), jnp.where(weight != 0, out, 0)

  grad = jax.jit(jax.grad(total, has_aux=True), static_argnums=1)
  (actual_grad, actual), (grad, out) = grad(qkv, splash), grad(qkv, flash.PLAIN)
  np.testing.assert_allclose(actual, out, atol=2e-5)
  for a, b in zip(actual_grad, grad, strict=True):
    np.testing.assert_allclose(a, b, atol=2e-4)


@pytest.mark.parametrize('window', [pytest.param(0, marks=pytest.mark.slow), 60])
def test_splash_takes_packed_streams_as_they_are(window):
  """Hidden states of conversations end to end, and of one after padding, equal those of plain attention on rows."""
  mesh = meshes.make_mesh(1, 1, 1, jax.devices()[:1])
  config = tiny.decoder_config('llama', head_width=64, heads=4, kv_heads=2)
  config = dataclasses.replace(config, kinds=tuple(dataclasses.replace(kind, window=window) for kind in config.kinds))
  params, rng = tiny.random_params(config), np.random.default_rng(2)
  length_XR = np.array([[70, 130, 33], [100, 1, 0]], np.int32)
  layouts = [packing.end_to_end(jnp.asarray(length_XR), 130), packing.left_padded(np.array([30, 199]), 260)]
  tokens = rng.integers(3, config.vocab, size=(2, 260)).astype(np.int32)
  for rows in layouts:
    real = np.asarray(packing.row_and_position(rows, 260)[0]) >= 0
    run = functools.partial(decoder.hidden_states, params, config, tokens, rows, dtype=jnp.float32)
    plain, splash = run(), run(attention=Attention('splash', mesh, interpret=True))
    np.testing.assert_allclose(np.asarray(splash)[real], np.asarray(plain)[real], atol=2e-5)


def test_blocks_of_splash_are_large_and_divide_the_slots():
  # The default conversation, 2,624 tokens, was 21 blocks of 128.
  assert flash.blocks(2624, 128) == flash.blocks(2624, 256) == (2688, 896)
  for width, most in ((64, 1024), (128, 1024), (256, 896)):
    for longest in range(1, 9000, 37):
      slots, block = flash.blocks(longest, width)
      assert longest <= slots < longest + 384 and slots % block == 0 and block % 128 == 0
      assert block == slots <= most or 384 <= block <= most, longest


class Device:
  """What `flash.best` asks of one."""

  def __init__(self, platform):
    self.platform = platform


class Mesh:
  """What `flash.best` asks of one."""

  def __init__(self, platform):
    self.devices = np.array([Device(platform)])


@pytest.mark.parametrize(
  ('platform', 'dtype', 'changes', 'kind'),
  [
    ('cpu', 'bfloat16', {}, 'plain'),
    ('gpu', 'bfloat16', dict(head_width=64), 'cudnn'),
    ('gpu', 'float32', dict(head_width=64), 'plain'),
    ('gpu', 'bfloat16', dict(head_width=64, attention_softcap=50.0), 'plain'),
    ('gpu', 'bfloat16', dict(head_width=256), 'plain'),
    ('tpu', 'bfloat16', dict(head_width=128), 'splash'),
    ('tpu', 'bfloat16', dict(head_width=256, attention_softcap=50.0), 'splash'),
    ('tpu', 'bfloat16', dict(head_width=64), 'splash'),
    ('tpu', 'bfloat16', dict(head_width=32), 'plain'),
  ],
)
def test_the_kind_follows_from_device_dtype_and_heads(platform, dtype, changes, kind):
  config = dataclasses.replace(tiny.decoder_config('llama'), **changes)
  assert flash.best(config, dtype, Mesh(platform)).kind == kind


def test_slots_are_whole_blocks_of_a_kernel_and_exact_without_one():
  assert [flash.slots(longest, Attention('cudnn')) for longest in (1, 128, 129)] == [128, 128, 256]
  assert flash.slots(129, flash.PLAIN) == 129


@pytest.mark.parametrize(('window', 'softcap'), [(0, 0.0), (3, 2.0)])
def test_prompts_that_end_together_attend_as_under_a_mask(window, softcap):
  rng = np.random.default_rng(0)
  B, P, start = 3, 9, np.array([0, 4, 8], np.int32)
  q, k, v = (rng.normal(size=(B, P, heads, 4)).astype(np.float32) for heads in (4, 2, 2))
  settings = dict(scale=0.5, softcap=softcap)
  out = flash.attend_prompts(q, k, v, start, flash.PLAIN, window=window, **settings)
  visible = attentions.visible(start, np.arange(P, dtype=np.int32)[None], P, window)
  expected = attentions.attend(q, k, v, visible, **settings)
  is_real = np.arange(P) >= start[:, None]
  np.testing.assert_allclose(out[is_real], expected[is_real], atol=1e-6)
  assert np.all(np.isfinite(out))
