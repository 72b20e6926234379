"""The kernels of a decode step's layers, run as plain JAX, beside numpy; and which models they are for."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special
import tiny

from benchmarks import rollouts
from score_jax.models import attention, decode_layers, decoder

SIZES = dict(width=128, layers=2, heads=4, kv_heads=2, head_width=64, ffn=384, vocab=64)
BF16 = jnp.dtype('bfloat16')


def config_of(**changes):
  return tiny.decoder_config(**SIZES | changes)


def params_of(config, dtype, together=True):
  """Random weights, large enough that every one of them is felt."""
  params = jax.tree.map(lambda leaf: 4 * leaf, rollouts.random_params(config, jnp.dtype('float32')))
  return jax.tree.map(lambda leaf: leaf.astype(dtype), decoder.for_decoding(params, config, together=together))


def layers_in_numpy(params, config, x_BD, attend):
  """In f64, from the equations of the layer; `attend` mixes q, k and v [B, heads, C]."""
  x_BD = np.float64(x_BD)

  def norm(x, scale):
    mean = np.mean(x * x, axis=-1, keepdims=True)
    return x / np.sqrt(mean + config.norm_eps) * (np.float64(scale) + config.norm_offset)

  def activation(x):
    return x * special.expit(x) if config.activation == 'silu' else x * special.ndtr(x)

  D, H, K = config.width, config.heads, config.kv_heads
  for w in params['layers']:
    w = {name: np.float64(leaf) for name, leaf in w.items()}
    qkv = norm(x_BD, w['attention_norm']) @ w['q+k+v'].reshape(D, -1)
    qkv = (qkv + w.get('q+k+v_bias', np.zeros(1)).reshape(1, -1)).reshape(len(x_BD), H + 2 * K, -1)
    out = attend(np, qkv[:, :H], qkv[:, H : H + K], qkv[:, H + K :])
    x_BD = x_BD + out.reshape(len(x_BD), -1) @ w['o'].reshape(-1, D)
    gate, up = np.split(norm(x_BD, w['ffn_norm']) @ w['gate+up'], 2, axis=-1)
    x_BD = x_BD + (activation(gate) * up) @ w['down']
  return norm(x_BD, params['final_norm'])


def mixed(xp, q, k, v):
  """Something of queries, keys and values in which each matters."""
  return q * xp.repeat(k, q.shape[1] // k.shape[1], axis=1) + xp.repeat(v, q.shape[1] // v.shape[1], axis=1)


@pytest.mark.parametrize(('rows', 'changes'), [(16, {}), (32, dict(qkv_bias=True, norm_offset=1.0))])
def test_layers_are_those_of_numpy(rows, changes):
  config = config_of(**changes)
  params = params_of(config, jnp.float32)
  x_BD = jax.random.normal(jax.random.key(1), (rows, config.width))

  def attend(n, cache, qkv_PBE, bias_E):
    qkv_BE = jnp.sum(qkv_PBE, axis=0) + (0 if bias_E is None else bias_E[None])
    return mixed(jnp, *jnp.split(qkv_BE.reshape(rows, -1, config.head_width), (4, 6), axis=1)), cache + [n]

  actual_BD, seen = decode_layers.run(
    params['layers'],
    params['final_norm'],
    config,
    x_BD,
    decoder._rms_norm(x_BD, params['layers'][0]['attention_norm'], config),
    [],
    attend,
    activation=jax.nn.silu,
    interpret=True,
  )
  expected_BD = layers_in_numpy(params, config, x_BD, mixed)
  assert seen == [0, 1]
  np.testing.assert_allclose(actual_BD, expected_BD, atol=3e-4 * np.abs(expected_BD).max())


def test_products_round_where_the_plain_path_does():
  key = functools.partial(jax.random.fold_in, jax.random.key(0))
  x_BK, w_KN, scale_N = (
    jax.random.normal(key(i), shape, BF16) for i, shape in enumerate([(16, 128), (128, 128), (128,)])
  )
  product_BN = np.float64(x_BK) @ np.float64(w_KN)
  parts_PBN = decode_layers.partial_sums(x_BK, w_KN, interpret=True)
  assert parts_PBN.shape == (2, 16, 128) and parts_PBN.dtype == jnp.float32
  np.testing.assert_allclose(np.sum(parts_PBN, axis=0), product_BN, atol=1e-4)
  total_BN, normed_BN = decode_layers.joined(parts_PBN, x_BK, scale_N, eps=1e-6, offset=1.0, interpret=True)
  assert_within_a_rounding(total_BN, product_BN + np.float64(x_BK), roundings=2)
  size_B1 = np.sqrt(np.mean(np.square(np.float64(total_BN)), axis=-1, keepdims=True) + 1e-6)
  assert_within_a_rounding(normed_BN, np.float64(total_BN) / size_B1 * (1 + np.float64(scale_N)), roundings=1)


def assert_within_a_rounding(actual, expected, roundings):
  """Of bf16, of which `roundings` may add up; relative to the largest."""
  assert actual.dtype == BF16
  np.testing.assert_allclose(np.float64(actual), expected, atol=roundings * 2**-8 * np.abs(expected).max())


def test_an_inner_axis_is_cut_so_that_the_gpu_is_full_and_no_fuller():
  assert decode_layers.inner_parts(4864, 28) == 4  # 76 blocks: 4 divides, 112 programs
  assert decode_layers.inner_parts(896, 28) == 2  # 14 blocks: 7 would be 196 programs
  assert decode_layers.inner_parts(14336, 128) == 1  # 128 programs are enough


@pytest.mark.parametrize(
  ('changes', 'rows', 'dtype', 'together'),
  [
    (dict(qk_norm=True), 64, BF16, True),
    (dict(post_norms=True), 64, BF16, True),
    (dict(o_bias=True), 64, BF16, True),
    (dict(width=96), 64, BF16, True),
    ({}, 256, BF16, True),
    ({}, 63, BF16, True),
    (dict(ffn=2**17), 64, BF16, True),
    ({}, 64, jnp.dtype('float32'), True),
    ({}, 64, BF16, False),
  ],
)
def test_other_layers_other_rows_and_wider_numbers_take_the_plain_path(changes, rows, dtype, together):
  assert decode_layers.fits(layers_of(config_of(), BF16), 64, BF16)
  assert not decode_layers.fits(layers_of(config_of(**changes), dtype, together), rows, dtype)


def test_adapters_take_the_plain_path():
  layers = layers_of(config_of(), BF16)
  assert not decode_layers.fits(tuple(w | {'q_lora_a': w['down']} for w in layers), 64, BF16)


def layers_of(config, dtype, together=True):
  """Shapes alone."""
  return jax.eval_shape(functools.partial(params_of, config, dtype, together))['layers']


def test_a_step_through_the_kernels_is_the_step_of_the_plain_path(monkeypatch):
  """Attention's own kernel is replaced by the plain one on the same layout: what is tested is how layers are wired."""
  config, B = config_of(qkv_bias=True), 32
  params = params_of(config, BF16)
  start_B = jnp.arange(B, dtype=jnp.int32) % 3
  tokens_BP = jax.random.randint(jax.random.key(5), (B, 6), 0, config.vocab)

  def attend_live(qkv, bias, view, k_BSKC, v_BSKC, write_B, length_B, _number, *, dtype, window, **products):
    qkv_NE = jnp.sum(qkv, axis=0).astype(dtype) + bias[None]
    qkv_BQhC = qkv_NE.reshape(*view.cos.shape[:2], -1, config.head_width)
    q, k, v = jnp.split(qkv_BQhC, (config.heads, config.heads + config.kv_heads), axis=2)
    q, k = attention.rotate(q, view), attention.rotate(k, view)
    row_B1, slot_BQ = jnp.arange(len(q))[:, None], write_B[:, None] + jnp.arange(q.shape[1])[None]
    k_BSKC, v_BSKC = k_BSKC.at[row_B1, slot_BQ].set(k), v_BSKC.at[row_B1, slot_BQ].set(v)
    first_B = write_B + q.shape[1] - length_B
    visible = attention.visible(first_B, slot_BQ, k_BSKC.shape[1], window)
    out_BQHC = attention.attend(q, k_BSKC, v_BSKC, visible, **products)
    return out_BQHC.reshape(len(qkv_NE), *out_BQHC.shape[2:]), k_BSKC, v_BSKC

  monkeypatch.setattr(decoder.decode_attention_gpu, 'attend_live', attend_live)
  monkeypatch.setattr(decoder.decode_layers, 'run', functools.partial(decode_layers.run, interpret=True))

  def logits(kernel):
    _, cache = decoder.prefill(params, config, tokens_BP, start_B, 64, dtype=BF16, kernel=kernel)
    actual = []
    for t in range(2):
      actual_BQV, cache = decoder.decode_step(params, config, tokens_BP[:, t : t + 2], jnp.int32(6 + 2 * t), cache)
      actual.append(actual_BQV)
    return np.float64(jnp.stack(actual))

  plain = logits(kernel='')
  np.testing.assert_allclose(logits(kernel='triton'), plain, atol=0.02 * np.abs(plain).max())
