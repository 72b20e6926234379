# SPDX-License-Identifier: Apache-2.0
"""Errors of this machine's fast paths, on random weights.

Every error is against f32: of the fast path, and of the plain one in the same dtype, which is rounding's.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np

from benchmarks.rollouts import random_params
from benchmarks.setting import Setting
from benchmarks.updates import decoder_config
from score_jax.models import attention as attentions
from score_jax.models import decode_attention, decode_attention_gpu, decode_layers, decoder, flash, scoring
from score_jax.models.families import DecoderConfig
from score_jax.models.packing import PackedRows, end_to_end, left_padded
from score_jax.parallel import mesh as meshes
from score_jax.sampling import rollout as rollouts
from score_jax.sampling.spec import RolloutSpec, suited

_LENGTHS = np.array([[384, 1, 200, 300]], np.int32)  # of the scored conversations, end to end
_TOKENS = (1, 5)  # of a decode step
FIELDS = ('shape', 'layers', 'dtype')


def measure(setting: Setting) -> dict[str, Any]:
  """Returns the errors of each fast path, and of its plain one."""
  config, dtype = decoder_config(setting.shape, setting.layers), jnp.dtype(setting.dtype)
  mesh = meshes.make_mesh(1, 1, 1, jax.devices()[:1])
  params = random_params(config, jnp.float32)
  attention = flash.best(config, dtype, mesh)
  kernel = decode_attention.best(config, dtype, dtype, mesh)
  return dict(
    device=jax.devices()[0].device_kind,
    attention=attention.kind,
    decode_kernel=kernel,
    decode_attention={
      f'tokens_{tokens}': _decode_attention(config, dtype, tokens) for tokens in _TOKENS if kernel != 'mosaic'
    },
    prefill=_prefill(params, config, dtype, attention) if kernel == 'triton' else {},
    decode_step=_decode_step(params, config, dtype, kernel, mesh) if kernel else {},
    scores=_scores(params, config, dtype, attention),
    sampler_and_trainer=_sampler_and_trainer(params, config, dtype, mesh, attention),
  )


def _decode_attention(config: DecoderConfig, dtype: Any, tokens: int) -> dict[str, float]:
  if not decode_attention_gpu.fits(config, dtype):
    return {}
  B, Q, S = 8, tokens, 256
  keys = jax.random.split(jax.random.key(0), 6)
  shapes = [(B, Q, config.heads, config.head_width)] + 2 * [(B, Q, config.kv_heads, config.head_width)]
  shapes += 2 * [(B, S, config.kv_heads, config.head_width)]
  q, k, v, k_cache, v_cache = (jax.random.normal(key, s, dtype) for key, s in zip(keys, shapes, strict=False))
  angle = jax.random.uniform(keys[5], (B, Q, config.head_width // 2), jnp.float32, 0, 6)
  write_B = (S - Q) * jnp.arange(B, dtype=jnp.int32) // (B - 1)
  slot_BQ, first_B = write_B[:, None] + jnp.arange(Q)[None], write_B // 2
  errors = dict(fast=0.0, plain=0.0)
  for window in (0, 100):
    visible = attentions.visible(first_B, slot_BQ, S, window)
    view = attentions.View(jnp.cos(angle), jnp.sin(angle), visible)
    settings = dict(scale=config.query_scale, softcap=config.attention_softcap)

    def plain(kind: Any, view: attentions.View = view, settings: Any = settings) -> jax.Array:
      new, row_B1 = [attentions.rotate(q, view), attentions.rotate(k, view), v], jnp.arange(B)[:, None]
      buffers = [x.at[row_B1, slot_BQ].set(y) for x, y in zip((k_cache, v_cache), new[1:], strict=True)]
      with jax.default_matmul_precision('highest'):
        return attentions.attend(*(x.astype(kind) for x in (new[0], *buffers)), view.visible, **settings)

    interpret = jax.default_backend() != 'gpu'
    qkv_1NE, length_B = jnp.concatenate([q, k, v], axis=2).reshape(1, B * Q, -1), write_B + Q - first_B
    kernel = dict(dtype=q.dtype, window=window, interpret=interpret)
    inputs = qkv_1NE, None, view, k_cache, v_cache, write_B, length_B
    fast = decode_attention_gpu.attend_live(*inputs, **kernel, **settings)[0].reshape(q.shape)
    exact = plain(jnp.float32)
    for name, results in (('fast', fast), ('plain', plain(dtype))):
      error = jnp.max(jnp.abs(results.astype(jnp.float32) - exact))
      errors[name] = max(errors[name], float(error))
  return {name: round(error, 6) for name, error in errors.items()}


def _prefill(params: Any, config: DecoderConfig, dtype: Any, fast: flash.Attention) -> dict[str, float]:
  """Returns the mean errors of the logits after prompts by the attention `fast` and by the plain one."""
  B, P, errors = 8, 200, {}
  tokens, start_B = jax.random.randint(jax.random.key(2), (B, P), 0, config.vocab), 20 * jnp.arange(B, dtype=jnp.int32)

  @functools.partial(jax.jit, static_argnums=(0, 1))
  def logits(kind: Any, attention: flash.Attention) -> jax.Array:
    laid_out = decoder.for_decoding(jax.tree.map(lambda leaf: leaf.astype(kind), params), config, together=True)
    return decoder.prefill(laid_out, config, tokens, start_B, P, dtype=kind, attention=attention)[0]

  with jax.default_matmul_precision('highest'):
    exact = logits(jnp.dtype('float32'), flash.PLAIN)
  for name, attention in (('fast', fast), ('plain', flash.PLAIN)):
    errors[name] = round(float(jnp.mean(jnp.abs(logits(dtype, attention) - exact))), 6)
  return errors


def _decode_step(params: Any, config: DecoderConfig, dtype: Any, fast: str, mesh: Mesh) -> dict[str, float]:
  """Returns the mean errors of a step's logits by the kernel `fast` and without, the larger of two numbers of rows."""
  P, slots, errors = 16, decode_attention.BLOCKS[fast], dict(fast=0.0, plain=0.0)

  @functools.partial(jax.jit, static_argnums=(2, 3))
  def logits(params: Any, tokens: jax.Array, kind: Any, kernel: str) -> jax.Array:
    start_B = jnp.arange(len(tokens), dtype=jnp.int32) % P
    cast = jax.tree.map(lambda leaf: leaf.astype(kind), params)
    laid_out = decoder.for_decoding(cast, config, together=True)
    _, cache = decoder.prefill(laid_out, config, tokens[:, :P], start_B, slots, dtype=kind, kernel=kernel)
    return decoder.decode_step(laid_out, config, tokens[:, P:], jnp.int32(P), cache, dtype=kind, mesh=mesh)[0]

  for B in decode_layers.ROWS:
    tokens = jax.random.randint(jax.random.key(B), (B, P + 1), 0, config.vocab)
    with jax.default_matmul_precision('highest'):
      exact = logits(params, tokens, jnp.dtype('float32'), '')
    for name, kernel in (('fast', fast), ('plain', '')):
      error = jnp.mean(jnp.abs(logits(params, tokens, dtype, kernel) - exact))
      errors[name] = max(errors[name], float(error))
  return {name: round(error, 6) for name, error in errors.items()}


def _scores(params: Any, config: DecoderConfig, dtype: Any, attention: flash.Attention) -> dict[str, Any]:
  """Returns mean errors of log-probabilities, and their gradient's as shares of its norm."""
  rows = end_to_end(jnp.asarray(_LENGTHS), int(_LENGTHS.max()))
  tokens = jax.random.randint(jax.random.key(1), (1, int(_LENGTHS.sum())), 0, config.vocab)

  def run(kind: Any, attention: flash.Attention) -> tuple[np.ndarray, Any]:
    def total(params: Any) -> tuple[jax.Array, jax.Array]:
      logp = scoring.token_logps(params, config, tokens, rows, dtype=kind, remat='full', chunk=256, attention=attention)
      return jnp.mean(logp), logp

    with jax.default_matmul_precision('highest'):
      grad, logp = jax.jit(jax.grad(total, has_aux=True))(params)
    return np.asarray(logp), jax.device_get(grad)

  exact_logp, exact_grad = run(jnp.dtype('float32'), flash.PLAIN)
  size = _norm(exact_grad)
  results = {}
  for name, kind in (('fast', attention), ('plain', flash.PLAIN)):
    logp, grad = run(dtype, kind)
    difference = _norm(jax.tree.map(np.subtract, grad, exact_grad))
    error = float(np.mean(np.abs(logp - exact_logp)))
    results[name] = dict(logp=round(error, 6), gradient=round(difference / size, 6))
  return results


def _norm(tree: Any) -> float:
  squares = (np.sum(np.square(leaf, dtype=np.float64)) for leaf in jax.tree.leaves(tree))
  return float(np.sqrt(sum(squares)))


def _sampler_and_trainer(
  params: Any, config: DecoderConfig, dtype: Any, mesh: Any, attention: flash.Attention
) -> float:
  """Returns the mean difference of log-probabilities, on decode slots that are refilled."""
  rows, prompt = 80, 32
  spec = RolloutSpec(
    budgets=(96, 96),
    separators=((0, 1, 2),),
    end_of_turn=0,
    stops=tuple(range(config.vocab // 64)),
    pad=0,
    decode_slots=64,
  )
  spec = suited(spec, config, dtype, mesh)
  tokens = jax.random.randint(jax.random.key(2), (rows, prompt), 0, config.vocab)
  start = jnp.arange(rows, dtype=jnp.int32)
  cast = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
  out = rollouts.rollout(
    decoder.for_decoding(cast, config, together=True),
    tokens,
    start,
    jnp.arange(rows, dtype=jnp.int32),
    jax.random.key(3),
    rollouts.no_forced(rows, spec),
    config=config,
    spec=spec,
    dtype=dtype,
    mesh=mesh,
  )
  layout: PackedRows = left_padded(out.start, out.tokens.shape[1])
  logp = scoring.token_logps(cast, config, out.tokens, layout, dtype=dtype, chunk=64, attention=attention)
  sampled = out.attempt > 0
  total = jnp.sum(jnp.where(sampled, jnp.abs(logp - out.logp), 0))
  return round(float(total / jnp.sum(sampled)), 6)
