"""The decoder against transformers, and against itself: cached, chunked, recomputed."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from score_jax.models import decoder, flash, scoring
from score_jax.models.packing import left_padded
from score_jax.storage import hf_export

VARIANTS = {
  'qwen2_tied': dict(family='qwen2', tied=True),
  'qwen2_untied': dict(family='qwen2', tied=False),
  'llama_untied_wide_heads': dict(family='llama', tied=False, head_width=6),
  'llama_tied': dict(family='llama', tied=True, rope_theta=500.0, norm_eps=1e-3),
}
B, L, PROMPT = 3, 10, 7
START = np.array([0, 3, 6], np.int32)


@functools.partial(jax.jit, static_argnames=('config', 'chunk', 'remat'))
def logps_and_logits(params, tokens, start, *, config, chunk=512, remat='none'):
  """token_logps, and whole logits from the public hidden states."""
  logp = scoring.token_logps(
    params, config, tokens, left_padded(start, tokens.shape[1]), dtype=jnp.float32, chunk=chunk, remat=remat
  )
  hidden = decoder.hidden_states(params, config, tokens, left_padded(start, tokens.shape[1]), dtype=jnp.float32)
  return logp, jnp.einsum('bld,vd->blv', hidden, params.get('head', params['embed']))


@functools.partial(jax.jit, static_argnames=('config', 'chunk', 'remat'))
def weighted_gradient(params, tokens, start, weight, *, config, chunk, remat):
  """Values of token_logps, and the gradient of their weighted sum."""

  def weighted(params):
    logp = scoring.token_logps(
      params, config, tokens, left_padded(start, tokens.shape[1]), dtype=jnp.float32, chunk=chunk, remat=remat
    )
    return jnp.sum(logp * weight), logp

  (_, logp), grad = jax.value_and_grad(weighted, has_aux=True)(params)
  return logp, grad


def random_rows(config, seed=0):
  """Ragged left-padded rows; what lies in the padding must not matter, so it is filled at random too."""
  return np.random.default_rng(seed).integers(0, config.vocab, (B, L)).astype(np.int32)


def log_softmax(logits):
  logits = np.asarray(logits, np.float64)
  logits = logits - logits.max(-1, keepdims=True)
  return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


@pytest.fixture(scope='module', params=VARIANTS)
def variant(request):
  """(config, params, rows, logp, logits) of one architecture."""
  config = tiny.decoder_config(**VARIANTS[request.param])
  params = tiny.random_params(config, seed=1)
  rows = random_rows(config)
  return config, params, rows, *logps_and_logits(params, rows, START, config=config)


@pytest.fixture(scope='module')
def base():
  """(config, params, rows, weights of a sum, its logp, its gradient) without chunks and recomputation."""
  config = tiny.decoder_config('qwen2', tied=True)
  params, rows = tiny.random_params(config, seed=2), random_rows(config, seed=2)
  weight = np.random.default_rng(2).normal(size=(B, L)).astype(np.float32)
  weight[np.arange(L)[None] <= START[:, None]] = 0
  plain = weighted_gradient(params, rows, START, weight, config=config, chunk=512, remat='none')
  return config, params, rows, weight, *plain


def test_logits_and_logps_equal_those_of_transformers(variant, tmp_path):
  torch = pytest.importorskip('torch')
  transformers = pytest.importorskip('transformers')

  config, params, rows, logp, logits = variant
  hf_export.write_folder(tmp_path / 'hf', params, config, source=None, dtype=np.dtype(np.float32))
  model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / 'hf', dtype=torch.float32)
  for row, start, row_logp, row_logits in zip(rows, START, logp, logits, strict=True):
    ids = row[start:]
    with torch.no_grad():
      expected = model(torch.tensor(ids[None], dtype=torch.long)).logits[0].numpy()
    np.testing.assert_allclose(row_logits[start:], expected, atol=1e-4)
    expected_logp = log_softmax(expected)[np.arange(len(ids) - 1), ids[1:]]
    np.testing.assert_allclose(row_logp[start + 1 :], expected_logp, atol=1e-4)
  assert np.all(np.asarray(logp)[:, 0] == 0)


@pytest.mark.parametrize('together', [True, False])
def test_prefill_and_decode_steps_give_the_uncached_logits(variant, together):
  config, params, rows, _, logits = variant
  params = decoder.for_decoding(params, config, together=together)
  step = jax.jit(decoder.decode_step, static_argnums=1)
  cached, cache = jax.jit(functools.partial(decoder.prefill, dtype=jnp.float32), static_argnums=(1, 4))(
    params, config, rows[:, :PROMPT], START, L
  )
  np.testing.assert_allclose(cached, logits[:, PROMPT - 1], atol=1e-5)
  for t in range(PROMPT, L):
    cached, cache = step(params, config, rows[:, t : t + 1], jnp.int32(t), cache)
    np.testing.assert_allclose(cached, logits[:, t], atol=1e-5)


def test_prefill_by_a_gpus_attention_gives_the_same_logits_and_cache(base, monkeypatch):
  """By what cudnn is asked for, computed without it."""

  def without_cudnn(*arrays, implementation, **settings):
    assert implementation == 'cudnn' and arrays[0].shape[1] % 128 == 0
    return attend(*arrays, **settings)

  attend = jax.nn.dot_product_attention
  monkeypatch.setattr(jax.nn, 'dot_product_attention', without_cudnn)
  config, params, rows, *_ = base
  arguments = decoder.for_decoding(params, config, together=True), config, rows[:, :PROMPT], START, L
  plain, by_cudnn = (
    jax.jit(functools.partial(decoder.prefill, dtype=jnp.float32, attention=attention), static_argnums=(1, 4))(
      *arguments
    )
    for attention in (flash.PLAIN, flash.Attention('cudnn'))
  )
  np.testing.assert_allclose(by_cudnn[0], plain[0], atol=1e-5)
  is_real_BS = (np.arange(L) >= START[:, None]) & (np.arange(L) < PROMPT)
  for ours, theirs in zip(by_cudnn[1].k + by_cudnn[1].v, plain[1].k + plain[1].v, strict=True):
    ours, theirs = (np.moveaxis(x, 1, 2)[is_real_BS] for x in (ours, theirs))  # heads come first
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_norms_that_are_cast_before_the_steps_change_no_bit(base):
  config, params, rows, *_ = base
  cast = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
  prefill = jax.jit(functools.partial(decoder.prefill, dtype=jnp.bfloat16), static_argnums=(1, 4))
  results = []
  for norms_dtype in (None, jnp.float32):
    laid_out = decoder.for_decoding(cast, config, together=True, norms_dtype=norms_dtype)
    assert laid_out['layers'][1]['ffn_norm'].dtype == laid_out['final_norm'].dtype == (norms_dtype or jnp.bfloat16)
    results.append(prefill(laid_out, config, rows[:, :PROMPT], START, L))
  jax.tree.map(np.testing.assert_array_equal, *results)


def test_a_later_token_does_not_reach_earlier_logps(variant):
  config, params, rows, logp, _ = variant
  changed = rows.copy()
  changed[:, 8] = (changed[:, 8] + 1) % config.vocab
  other, _ = logps_and_logits(params, changed, START, config=config)
  for row_other, row_logp, start in zip(np.asarray(other), np.asarray(logp), START, strict=True):
    np.testing.assert_array_equal(row_other[start + 1 : 8], row_logp[start + 1 : 8])
    assert np.all(row_other[8:] != row_logp[8:])


def test_padding_does_not_reach_a_row(variant):
  config, params, rows, logp, _ = variant
  padding = np.arange(L)[None] < START[:, None]
  other, _ = logps_and_logits(params, np.where(padding, 0, rows), START, config=config)
  after = np.arange(L)[None] > START[:, None]
  np.testing.assert_allclose(np.asarray(other)[after], np.asarray(logp)[after], atol=1e-6)


def test_chunks_and_recomputation_change_neither_values_nor_gradients(base):
  config, params, rows, weight, logp, grad = base
  got_logp, got_grad = weighted_gradient(params, rows, START, weight, config=config, chunk=4, remat='full')
  np.testing.assert_allclose(got_logp, logp, atol=2e-6)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-5), got_grad, grad)


@pytest.mark.parametrize('softcap', [0.0, 2.0])
def test_the_gradient_written_by_hand_is_that_of_log_softmax(softcap):
  config = dataclasses.replace(tiny.decoder_config('llama'), final_softcap=softcap)
  params = jax.tree.map(lambda leaf: 5 * leaf, tiny.random_params(config))
  rows = np.random.default_rng(5).integers(0, config.vocab, (2, L)).astype(np.int32)
  weight = np.random.default_rng(6).normal(size=rows.shape).astype(np.float32)
  where = left_padded(np.array([0, 3], np.int32), L)

  def by_hand(params):
    return jnp.sum(weight * scoring.token_logps(params, config, rows, where, dtype=jnp.float32, chunk=4))

  def by_jax(params):
    hidden = decoder.hidden_states(params, config, rows, where, dtype=jnp.float32)
    scores = jnp.einsum('bld,vd->blv', hidden, params.get('head', params['embed']))
    scores = softcap * jnp.tanh(scores / softcap) if softcap else scores
    logp = jnp.take_along_axis(jax.nn.log_softmax(scores)[:, :-1], rows[:, 1:, None], axis=-1)[..., 0]
    return jnp.sum(weight[:, 1:] * logp)

  (value, actual), (expected, wanted) = (jax.jit(jax.value_and_grad(total))(params) for total in (by_hand, by_jax))
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(wanted), strict=True):
    np.testing.assert_allclose(a, b, atol=2e-4 * np.abs(b).max())


def test_exact_kl_equals_a_sum_over_the_whole_vocabulary(base):
  config, params, rows, *_ = base
  reference = tiny.random_params(config, seed=3)
  scores = jax.jit(functools.partial(scoring.token_logps_and_kl, dtype=jnp.float32, chunk=4), static_argnums=2)
  logp, ref_logp, kl = scores(params, reference, config, rows, left_padded(START, rows.shape[1]))
  expected_logp, logits = logps_and_logits(params, rows, START, config=config)
  expected_ref_logp, ref_logits = logps_and_logits(reference, rows, START, config=config)
  policy, ref = log_softmax(logits), log_softmax(ref_logits)
  expected_kl = (np.exp(policy) * (policy - ref)).sum(-1)
  np.testing.assert_allclose(kl[:, 1:], expected_kl[:, :-1], atol=1e-5)
  np.testing.assert_allclose(logp, expected_logp, atol=1e-5)
  np.testing.assert_allclose(ref_logp, expected_ref_logp, atol=1e-5)


def test_exact_kl_gives_the_reference_no_gradient(base):
  config, params, rows, *_ = base

  def total(reference):
    scores = scoring.token_logps_and_kl(
      params, reference, config, rows, left_padded(START, rows.shape[1]), dtype=jnp.float32
    )
    return sum(map(jnp.sum, scores))

  grad = jax.jit(jax.grad(total))(tiny.random_params(config, seed=3))
  assert all(not np.any(leaf) for leaf in jax.tree.leaves(grad))
