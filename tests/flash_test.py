"""Attention of whole rows: the TPU kernel, in interpret mode, against the plain one. The GPU's needs a GPU."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from score_jax.models import flash
from score_jax.models.flash import Attention
from score_jax.parallel import mesh as meshes


def inputs(rows, slots, heads, kv_heads):
  rng = np.random.default_rng(0)
  return tuple(rng.normal(size=(rows, slots, h, 128)).astype(np.float32) for h in (heads, kv_heads, kv_heads))


@pytest.mark.parametrize(
  ('mesh', 'kv_heads', 'window', 'softcap'),
  [((1, 1, 1), 2, 0, 0.0), ((1, 1, 1), 2, 100, 5.0), ((2, 1, 4), 2, 0, 0.0), ((2, 2, 2), 2, 0, 0.0)],
)
def test_splash_equals_plain_attention_and_its_gradient(mesh, kv_heads, window, softcap):
  """Also where heads outnumber the key/value heads of a device's share."""
  mesh = meshes.make_mesh(*mesh, jax.devices()[: int(np.prod(mesh))])
  splash = Attention('splash', mesh, interpret=True)
  qkv = inputs(4, 256, 4, kv_heads)
  length = np.array([256, 200, 17, 1], np.int32)
  settings = dict(window=window, scale=0.1, softcap=softcap)
  weight = np.where(np.arange(256)[None, :, None, None] < length[:, None, None, None], 1.0, 0.0).astype(np.float32)
  weight = weight * np.random.default_rng(1).normal(size=qkv[0].shape).astype(np.float32)

  def total(qkv, attention):
    out = flash.attend(*qkv, length, attention, **settings)
    return jnp.sum(out * weight), jnp.where(weight != 0, out, 0)

  grad = jax.jit(jax.grad(total, has_aux=True), static_argnums=1)
  (actual_grad, actual), (grad, out) = grad(qkv, splash), grad(qkv, flash.PLAIN)
  np.testing.assert_allclose(actual, out, atol=2e-5)
  for a, b in zip(actual_grad, grad, strict=True):
    np.testing.assert_allclose(a, b, atol=2e-4)


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
    ('tpu', 'bfloat16', dict(head_width=64), 'plain'),
  ],
)
def test_the_kind_follows_from_device_dtype_and_heads(platform, dtype, changes, kind):
  config = dataclasses.replace(tiny.decoder_config('llama'), **changes)
  assert flash.best(config, dtype, Mesh(platform)).kind == kind


def test_slots_are_whole_blocks_of_a_kernel_and_exact_without_one():
  assert [flash.slots(longest, Attention('cudnn')) for longest in (1, 128, 129)] == [128, 128, 256]
  assert flash.slots(129, flash.PLAIN) == 129
