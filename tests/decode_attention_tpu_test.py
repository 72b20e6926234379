"""The TPU's decode attention, in interpret mode, against plain attention over the whole ring."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
import numpy as np
import pytest

from score_jax.models import attention
from score_jax.models import decode_attention_tpu as kernel
from score_jax.parallel import mesh as meshes

S = 384  # three blocks


def slow(*values):
  """Returns a case that only `launch/test.sh --all` runs."""
  return pytest.param(*values, marks=pytest.mark.slow)


def inputs(B, Q, H, K, C, dtype, cache_dtype=None):
  rng = np.random.default_rng(0)
  shapes = [(B, Q, h, C) for h in (H, K, K)]
  tokens = [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]
  heads, width = attention.paired(K, C)
  caches = [jnp.asarray(rng.normal(size=(B, heads, S, width)), cache_dtype or dtype) for _ in range(2)]
  return (*tokens, *caches)


def plain(q, k, v, k_cache, v_cache, write, length, *, window, scale, softcap, dtype=None):
  """out_BQHC and the caches, by `attention.attend` over all slots."""
  B, Q, H, C = q.shape
  K = k.shape[2]
  slot_BQ = (write[:, None] + np.arange(Q)) % S

  def written(cache, new):
    whole = np.array(cache)
    new = np.asarray(new.reshape(B, Q, *cache.shape[1::2]).astype(cache.dtype))
    for b in range(B):
      whole[b, :, slot_BQ[b]] = new[b]
    return jnp.asarray(whole)

  k_cache, v_cache = written(k_cache, k), written(v_cache, v)
  age = (slot_BQ[:, :, None] - np.arange(S)) % S
  seen = length[:, None] - np.arange(Q)[::-1]
  visible = age < (np.minimum(seen, window) if window else seen)[..., None]

  def apart(cache):  # [B, K, S, C], whatever lies side by side
    x = cache.reshape(B, cache.shape[1], S, -1, C).transpose(0, 1, 3, 2, 4).reshape(B, K, S, C)
    return x.astype(dtype or q.dtype)

  heads = dict(scale=scale, softcap=softcap, heads_first=True)
  out = attention.attend(q.astype(dtype or q.dtype), apart(k_cache), apart(v_cache), jnp.asarray(visible), **heads)
  return out, k_cache, v_cache


F32, BF16, FP8 = (jnp.float32, None), (jnp.bfloat16, None), (jnp.bfloat16, jnp.float8_e4m3fn)
CASES = {  # B, Q, H, K, C, window, softcap, write, length; dtypes
  'rows at their own index': (2, 1, 3, 1, 128, 0, 0.0, [5, 300], [6, 100], [F32, BF16, FP8]),
  'full and wrapped rings': (3, 1, 2, 1, 128, 0, 0.0, [0, 200, 383], [384, 384, 1], [F32]),
  'a window, capped': (2, 1, 4, 2, 256, 100, 50.0, [50, 300], [384, 90], [BF16]),
  'heads of 64 in pairs': (1, 1, 14, 2, 64, 0, 0.0, [250], [384], [F32]),
  'many tokens, over a border and around the ring': (2, 8, 2, 1, 128, 0, 0.0, [124, 380], [132, 384], [F32, BF16]),
  'many tokens and a window': (2, 8, 2, 1, 128, 20, 0.0, [125, 381], [384, 15], [F32]),
  'heads of 64, many tokens': (2, 8, 4, 2, 64, 0, 30.0, [0, 250], [200, 9], [F32]),
}


def case(name):
  B, Q, H, K, C, window, softcap, write, length, dtypes = CASES[name]
  options = dict(window=window, scale=C**-0.5, softcap=softcap)
  return (B, Q, H, K, C), np.array(write, np.int32), np.array(length, np.int32), options, dtypes


_QUICK = ('full and wrapped rings', 'heads of 64, many tokens')


@pytest.mark.parametrize('name', [*_QUICK, *(slow(name) for name in CASES if name not in _QUICK)])
def test_it_equals_plain_attention_and_writes_the_same_cache(name):
  shape, write, length, options, dtypes = case(name)
  for dtype, cache_dtype in dtypes:
    arguments = (*inputs(*shape, dtype, cache_dtype), write, length)
    out, *caches = jax.jit(functools.partial(kernel.attend_live, interpret=True, **options))(*arguments)
    exact, *expected = plain(*arguments, dtype=jnp.float32, **options)
    rounded = plain(*arguments, **options)[0]
    for ours, theirs in zip(caches, expected, strict=True):
      np.testing.assert_array_equal(np.asarray(ours, np.float32), np.asarray(theirs, np.float32))
    error, usual = (float(jnp.max(jnp.abs(x.astype(jnp.float32) - exact))) for x in (out, rounded))
    few_roundings = 8 * float(jnp.finfo(jnp.float32).eps * jnp.max(jnp.abs(exact)))  # CPUs add up in other orders
    # New tokens are not rounded to an 8-bit cache before they are attended to.
    most = few_roundings if dtype == jnp.float32 else 0.3 if cache_dtype else max(1.5 * usual, 4e-3)
    assert error < most, (dtype, error, most)


@pytest.mark.parametrize(('mesh', 'kv_heads'), [slow((1, 2, 2), 4), ((1, 1, 4), 2)])
def test_heads_lie_on_the_tensor_axis_or_every_device_has_the_cache(mesh, kv_heads):
  mesh = meshes.make_mesh(*mesh, jax.devices()[:4])
  write, length = np.array([5, 127, 128, 300], np.int32), np.array([6, 100, 384, 2], np.int32)
  arguments = (*inputs(4, 2, 8, kv_heads, 128, jnp.float32), write, length)
  options = dict(window=0, scale=0.1, softcap=0.0)

  def local(*arguments):
    return kernel.attend_sharded(*arguments, mesh=mesh, interpret=True, **options)

  rows = PartitionSpec(('data', 'fsdp'))
  manual = {'data', 'fsdp'}
  run = jax.shard_map(local, mesh=mesh, in_specs=rows, out_specs=rows, axis_names=manual, check_vma=False)
  for ours, theirs in zip(jax.jit(run)(*arguments), plain(*arguments, **options), strict=True):
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_a_cache_that_is_no_whole_blocks_is_refused():
  arguments = (*inputs(1, 1, 1, 1, 128, jnp.float32), np.zeros(1, np.int32), np.ones(1, np.int32))
  short = (*arguments[:3], *(x[:, :, :100] for x in arguments[3:5]), *arguments[5:])
  with pytest.raises(ValueError, match='a cache of 100 slots is not a multiple of 128'):
    kernel.attend_live(*short, window=0, scale=1.0, softcap=0.0, interpret=True)


@pytest.mark.parametrize('name', [slow('full and wrapped rings'), 'a window, capped', slow('many tokens and a window')])
def test_what_it_moves_is_what_it_copies(name, monkeypatch):
  shape, write, length, options, _ = case(name)
  copied = []

  class Counted:
    def __init__(self, source, target, semaphore):
      self.copy = pltpu_copy(source, target, semaphore)
      self.bytes = int(np.prod(target.shape)) * target.dtype.itemsize

    def start(self):
      jax.debug.callback(functools.partial(copied.append, self.bytes))
      self.copy.start()

    def wait(self):
      self.copy.wait()

  pltpu_copy = kernel.pltpu.make_async_copy
  monkeypatch.setattr(kernel.pltpu, 'make_async_copy', Counted)
  q, k, v, k_cache, v_cache = inputs(*shape, jnp.bfloat16)
  out = kernel.attend_live(q, k, v, k_cache, v_cache, write, length, interpret=True, **options)
  jax.block_until_ready(out)
  jax.effects_barrier()
  heads, width = k_cache.shape[1::2]
  sizes = dict(tokens=shape[1], window=options['window'], heads=heads, width=width, itemsize=2)
  assert sum(copied) == kernel.moved(length, write, **sizes) > 0
