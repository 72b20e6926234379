"""The decoder: one layer function, and the ways to run it (whole sequence, prefill, one decode step, scores).

Parameters are a plain tree (`weights.py`); policy and reference are the same functions on two trees. `logp[b, t]`
belongs to `tokens[b, t]`: the one shift between a token and its prediction is in `_scored`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from score_jax.models import attention
from score_jax.models.attention import Cache
from score_jax.models.families import DecoderConfig

Params = dict[str, Any]


def _rms_norm(x: jax.Array, scale_D: jax.Array, eps: float) -> jax.Array:
  """RMS norm in f32, back in the dtype of x."""
  x32 = x.astype(jnp.float32)
  normed = x32 * jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + eps)
  return normed.astype(x.dtype) * scale_D.astype(x.dtype)[None, None]


def _layer(
  w: Params, config: DecoderConfig, x_BTD: jax.Array, position_BT: jax.Array, attend: Callable
) -> tuple[jax.Array, Any]:
  """One layer. `attend(q, k, v) -> (out, carried)` decides where keys and values live."""

  def project(x, name):
    y = jnp.einsum('btd,dhc->bthc', x, w[name].astype(x.dtype))
    bias = w.get(name + '_bias')
    return y if bias is None else y + bias.astype(x.dtype)[None, None]

  with jax.named_scope('attention'):
    normed = _rms_norm(x_BTD, w['attention_norm'], config.norm_eps)
    q = attention.rope(project(normed, 'q'), position_BT, config.rope_theta)
    k = attention.rope(project(normed, 'k'), position_BT, config.rope_theta)
    out_BTHC, carried = attend(q, k, project(normed, 'v'))
    x_BTD = x_BTD + jnp.einsum('bthc,hcd->btd', out_BTHC, w['o'].astype(x_BTD.dtype))
  with jax.named_scope('ffn'):
    normed = _rms_norm(x_BTD, w['ffn_norm'], config.norm_eps)
    gate = jnp.einsum('btd,df->btf', normed, w['gate'].astype(normed.dtype))
    up = jnp.einsum('btd,df->btf', normed, w['up'].astype(normed.dtype))
    x_BTD = x_BTD + jnp.einsum('btf,fd->btd', jax.nn.silu(gate) * up, w['down'].astype(normed.dtype))
  return x_BTD, carried


def _embed(params: Params, tokens: jax.Array, dtype: jnp.dtype) -> jax.Array:
  return params['embed'].astype(dtype)[tokens]


def _logits(params: Params, hidden: jax.Array) -> jax.Array:
  """f32 logits of final hidden states [..., D]."""
  head_VD = params.get('head', params['embed']).astype(hidden.dtype)
  return jnp.einsum('...d,vd->...v', hidden, head_VD, preferred_element_type=jnp.float32)


def hidden_states(
  params: Params, config: DecoderConfig, tokens_BL: jax.Array, start_B: jax.Array, *, dtype: jnp.dtype, remat: bool
) -> jax.Array:
  """Final hidden states [B, L, D] of whole rows; layers are scanned, and recomputed in the backward pass if `remat`."""
  slots_L = jnp.arange(tokens_BL.shape[1], dtype=jnp.int32)
  position_BL = attention.positions(start_B, slots_L)
  visible_BLL = attention.visible(start_B, slots_L, tokens_BL.shape[1])

  def layer(x_BLD, w):
    return _layer(w, config, x_BLD, position_BL, lambda q, k, v: (attention.attend(q, k, v, visible_BLL), None))

  x_BLD, _ = jax.lax.scan(jax.checkpoint(layer) if remat else layer, _embed(params, tokens_BL, dtype), params['layers'])
  return _rms_norm(x_BLD, params['final_norm'], config.norm_eps)


def _cached(
  params: Params, config: DecoderConfig, tokens_BT: jax.Array, slot: jax.Array, cache: Cache, dtype: jnp.dtype
):
  """Runs T tokens of every row at slots [slot, slot + T) on the cache; layers are unrolled.

  Unrolled because a scan would copy every layer's cache in and out of its stacked carry at each step.
  """
  slots_T = slot + jnp.arange(tokens_BT.shape[1], dtype=jnp.int32)
  position_BT = attention.positions(cache.start, slots_T)
  visible_BTS = attention.visible(cache.start, slots_T, cache.k[0].shape[1])
  x_BTD = _embed(params, tokens_BT, dtype)
  for n in range(config.layers):

    def attend(q, k, v, n=n, cache=cache):
      written = attention.write(cache, n, k, v, slot)
      return attention.attend(q, written.k[n], written.v[n], visible_BTS), written

    w = jax.tree.map(lambda leaf, n=n: leaf[n], params['layers'])
    x_BTD, cache = _layer(w, config, x_BTD, position_BT, attend)
  last_B1D = _rms_norm(x_BTD[:, -1:], params['final_norm'], config.norm_eps)
  return _logits(params, last_B1D)[:, 0], cache


def prefill(
  params: Params, config: DecoderConfig, tokens_BP: jax.Array, start_B: jax.Array, slots: int, *, dtype: jnp.dtype
) -> tuple[jax.Array, Cache]:
  """Fills a new cache of `slots` slots with left-padded prompts.

  Returns:
    f32 logits [B, V] of the last position alone (never [B, P, V]), and the cache.
  """
  shape = (tokens_BP.shape[0], slots, config.kv_heads, config.head_width)
  cache = attention.empty_cache(config.layers, shape, dtype, start_B)
  return _cached(params, config, tokens_BP, jnp.int32(0), cache, dtype)


def decode_step(
  params: Params, config: DecoderConfig, token_B: jax.Array, slot: jax.Array, cache: Cache, *, dtype: jnp.dtype
) -> tuple[jax.Array, Cache]:
  """Feeds one token a row at `slot`; returns f32 logits [B, V] for the next one, and the cache."""
  return _cached(params, config, token_B[:, None], slot, cache, dtype)


def token_logps(
  params: Params,
  config: DecoderConfig,
  tokens_BL: jax.Array,
  start_B: jax.Array,
  *,
  dtype: jnp.dtype,
  remat: bool = False,
  chunk: int = 512,
) -> jax.Array:
  """logp_BL (f32): log-probability of tokens[b, t] given tokens[b, :t]; 0 at t = 0.

  Logits exist for `chunk` positions at a time and are recomputed in the backward pass, so the vocabulary is never
  materialised over the sequence.
  """
  hidden_BLD = hidden_states(params, config, tokens_BL, start_B, dtype=dtype, remat=remat)

  def score(hidden_BTD, next_BT):
    return _token_logp(jax.nn.log_softmax(_logits(params, hidden_BTD)), next_BT)

  return _scored(score, (hidden_BLD,), tokens_BL, chunk)


def token_logps_and_kl(
  params: Params,
  reference: Params,
  config: DecoderConfig,
  tokens_BL: jax.Array,
  start_B: jax.Array,
  *,
  dtype: jnp.dtype,
  remat: bool = False,
  chunk: int = 512,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Policy logp_BL, reference logp_BL, and the full-vocabulary KL(policy || reference) at each token's prefix.

  Both models are at the same prefix in the same chunk, which is the only way to have the exact KL without [B, L, V].
  """
  hidden_BLD = hidden_states(params, config, tokens_BL, start_B, dtype=dtype, remat=remat)
  reference = jax.lax.stop_gradient(reference)
  ref_hidden_BLD = hidden_states(reference, config, tokens_BL, start_B, dtype=dtype, remat=False)

  def score(hidden_BTD, ref_hidden_BTD, next_BT):
    log_BTV = jax.nn.log_softmax(_logits(params, hidden_BTD))
    ref_BTV = jax.nn.log_softmax(_logits(reference, ref_hidden_BTD))
    kl_BT = jnp.sum(jnp.exp(log_BTV) * (log_BTV - ref_BTV), axis=-1)
    return _token_logp(log_BTV, next_BT), _token_logp(ref_BTV, next_BT), kl_BT

  return _scored(score, (hidden_BLD, ref_hidden_BLD), tokens_BL, chunk)


def _token_logp(log_BTV, token_BT):
  return jnp.take_along_axis(log_BTV, token_BT[..., None], axis=-1)[..., 0]


def _scored(score: Callable, hiddens: tuple[jax.Array, ...], tokens_BL: jax.Array, chunk: int) -> Any:
  """Applies `score(*hidden chunks [B, T, D], next tokens [B, T])` over chunks of positions.

  The one shift of the code base: position t - 1 predicts token t, and results are laid back at t, with 0 at t = 0.
  """
  B, L = tokens_BL.shape
  before = tuple(hidden[:, :-1] for hidden in hiddens)
  after_BT = tokens_BL[:, 1:]
  if chunk >= L - 1:
    scores = score(*before, after_BT)
  else:
    count = -(-(L - 1) // chunk)
    pad = count * chunk - (L - 1)

    def chunked(x):
      padded = jnp.pad(x, ((0, 0), (0, pad)) + ((0, 0),) * (x.ndim - 2))
      return jnp.moveaxis(padded.reshape(B, count, chunk, *x.shape[2:]), 1, 0)

    one = jax.checkpoint(lambda xs: score(*xs))
    stacked = jax.lax.map(one, (*map(chunked, before), chunked(after_BT)))
    scores = jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(B, count * chunk)[:, : L - 1], stacked)
  return jax.tree.map(lambda x: jnp.pad(x, ((0, 0), (1, 0))), scores)
