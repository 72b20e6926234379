"""The GPU's decode attention, in interpret mode, against plain attention over the whole ring."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax.models import attention, decode_attention_gpu

# B, Q, S, H, K, C, window, softcap
CASES = {
  'several parts a row': (3, 1, 256, 6, 2, 32, 0, 0.0),
  'a window, a soft cap, a head of its own': (2, 1, 192, 4, 4, 32, 50, 2.0),
  'a part of a block': (2, 1, 64, 14, 2, 64, 0, 0.0),
  'a window of a few tokens': (4, 1, 128, 16, 1, 32, 7, 0.0),
  'one part a row': (260, 1, 64, 4, 2, 32, 0, 0.0),
  'several tokens': (3, 8, 192, 6, 2, 32, 0, 0.0),
  'several tokens, no power of two, and a window': (3, 5, 128, 14, 2, 64, 6, 2.0),
  'more tokens than a tile has rows': (2, 17, 128, 2, 2, 32, 0, 0.0),
  'several tokens of wide heads': (2, 3, 64, 2, 1, 256, 0, 0.0),
}


def case(name):
  """Inputs as `attend_live` takes them; caches are NaN wherever nothing may be read."""
  B, Q, S, H, K, C, window, softcap = CASES[name]
  rng = np.random.default_rng(B)
  q, k, v = (rng.normal(size=(B, Q, heads, C)).astype(np.float32) for heads in (H, K, K))
  caches = [rng.normal(size=(B, S, K, C)).astype(np.float32) for _ in range(2)]
  length = rng.integers(Q, S + 1, B).astype(np.int32)
  length[:2] = S, Q  # a full ring, and a row without cached tokens
  write = rng.integers(0, S, B).astype(np.int32)
  write[0] = S - 1  # new tokens come to both ends of the ring
  age = (write[:, None] - 1 - np.arange(S)) % S  # of cached tokens
  for cache in caches:
    cache[age >= (length - Q)[:, None]] = np.nan
  angle = rng.uniform(0, 6, (B, Q, C // 2)).astype(np.float32)
  view = attention.View(np.cos(angle), np.sin(angle))
  return (q, k, v, view, *caches, write, length), dict(window=window, scale=0.3, softcap=softcap)


def plain(q, k, v, view, k_cache, v_cache, write, length, *, window, scale, softcap):
  """out_BQHC and the caches, by `attention.attend` over all slots."""
  (B, Q), S = q.shape[:2], k_cache.shape[1]
  slot_BQ = (write[:, None] + np.arange(Q)) % S
  k_cache, v_cache = np.array(k_cache), np.array(v_cache)
  k_cache[np.arange(B)[:, None], slot_BQ], v_cache[np.arange(B)[:, None], slot_BQ] = attention.rotate(k, view), v
  age = (slot_BQ[:, :, None] - np.arange(S)) % S
  seen = length[:, None] - np.arange(Q)[::-1]
  visible = age < (np.minimum(seen, window) if window else seen)[..., None]
  caches = map(np.nan_to_num, (k_cache, v_cache))
  out = attention.attend(attention.rotate(q, view), *caches, jnp.asarray(visible), scale=scale, softcap=softcap)
  return out, k_cache, v_cache


def attended(q, k, v, *others, number=None, **options):
  """The kernel's results for tokens that lie in a line row after row; q, k and v [B, Q, heads, C]."""
  qkv_1NE = jnp.concatenate([q, k, v], axis=2).reshape(1, q.shape[0] * q.shape[1], -1)
  settings = dict(dtype=qkv_1NE.dtype) | options
  return decode_attention_gpu.attend_live(qkv_1NE, None, *others, number, **settings)


_QUICK = (
  'a window, a soft cap, a head of its own',
  'several tokens, no power of two, and a window',
  'several tokens of wide heads',
)


@pytest.mark.parametrize(
  'name', [name if name in _QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)
def test_it_equals_plain_attention_and_writes_the_same_cache(name):
  arguments, options = case(name)
  out, *caches = jax.jit(functools.partial(attended, interpret=True, **options))(*arguments)
  expected, *written = plain(*arguments, **options)
  np.testing.assert_allclose(out, expected.reshape(out.shape), atol=1e-5)
  for ours, theirs in zip(caches, written, strict=True):
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_rows_bring_some_of_a_line_of_tokens_in_any_order_and_terms_are_added_up():
  (q, k, v, view, *caches, write, length), options = case('several tokens')
  (B, Q), rng = q.shape[:2], np.random.default_rng(1)
  brought = np.array([8, 5, 0])  # by each row
  number_BQ = np.full((B, Q), -1, np.int32)
  is_brought = np.arange(Q) < brought[:, None]
  number_BQ[is_brought] = rng.permutation(brought.sum())
  whole_BQE = np.concatenate([q, k, v], axis=2).reshape(B, Q, -1)
  bias_E = rng.normal(size=whole_BQE.shape[-1]).astype(np.float32)
  first_NE = rng.normal(size=(brought.sum(), len(bias_E))).astype(np.float32)
  sum_NE = np.empty_like(first_NE)
  sum_NE[number_BQ[is_brought]] = whole_BQE[is_brought]
  terms_PNE = np.stack([first_NE, sum_NE - bias_E - first_NE])
  attend = functools.partial(decode_attention_gpu.attend_live, dtype=jnp.dtype('float32'), interpret=True, **options)
  out_NHC, *written = jax.jit(attend)(terms_PNE, bias_E, view, *caches, write, length, number_BQ)
  expected_BQHC, *expected_written = plain(q, k, v, view, *caches, write, length, **options)
  np.testing.assert_allclose(out_NHC[number_BQ[is_brought]], expected_BQHC[is_brought], atol=1e-5)
  slot_BQ = (write[:, None] + np.arange(Q)) % caches[0].shape[1]
  row, slot = np.broadcast_to(np.arange(B)[:, None], slot_BQ.shape)[~is_brought], slot_BQ[~is_brought]
  for before, ours, theirs in zip(caches, written, expected_written, strict=True):
    theirs[row, slot] = before[row, slot]  # what is not brought is not written
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize('tokens', [1, 8])
def test_it_becomes_a_gpus_kernel(tokens):
  """Without a GPU it is lowered to Triton's language, not compiled."""
  B, S, H, K, C = 4, 128, 14, 2, 64
  dtype, half = jnp.dtype('bfloat16'), functools.partial(jax.ShapeDtypeStruct, dtype=jnp.bfloat16)
  f32, i32 = (functools.partial(jax.ShapeDtypeStruct, dtype=dtype) for dtype in (jnp.float32, jnp.int32))
  E, N = (H + 2 * K) * C, 6
  view = attention.View(*[f32((B, tokens, C // 2))] * 2)
  attend = functools.partial(decode_attention_gpu.attend_live, dtype=dtype, window=0, scale=0.1, softcap=0.0)
  rows = i32((B,)), i32((B,)), i32((B, tokens))
  traced = jax.jit(attend).trace(f32((2, N, E)), half((E,)), view, *[half((B, S, K, C))] * 2, *rows)
  assert 'attend_live' in traced.lower(lowering_platforms=('cuda',)).as_text()


def test_a_cache_of_half_a_block_is_refused():
  arguments, options = case('a part of a block')
  short = [x[:, :40] for x in arguments[4:6]]
  with pytest.raises(ValueError, match='40 slots is not a multiple of 64'):
    attended(*arguments[:4], *short, *arguments[6:], **options)
