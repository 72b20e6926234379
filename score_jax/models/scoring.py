# SPDX-License-Identifier: Apache-2.0
"""Log-probabilities of given tokens, without holding logits for all of them.

`logp[b, t]` belongs to `tokens[b, t]`: the one shift between both is `_shifted`.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from score_jax.models import decoder, flash
from score_jax.models.decoder import Params
from score_jax.models.families import DecoderConfig
from score_jax.models.flash import Attention
from score_jax.models.packing import PackedRows


def chunk_of(megabytes: float, vocab: int, streams: int) -> int:
  """Returns how many tokens of each stream have f32 logits that fit; at least 1."""
  return max(1, int(megabytes * 1e6 / 4 / vocab / streams))


def token_logps(
  params: Params,
  config: DecoderConfig,
  tokens_XT: jax.Array,
  rows: PackedRows,
  *,
  dtype: jnp.dtype,
  remat: str = 'none',
  chunk: int = 512,
  attention: Attention = flash.PLAIN,
) -> jax.Array:
  """Returns logp_XT (f32) of tokens[x, t] given those of its row before it; 0 at t = 0.

  A row's first number means nothing. Logits exist for `chunk` tokens of every stream at a time.
  """
  hidden_XTD = decoder.hidden_states(params, config, tokens_XT, rows, dtype=dtype, remat=remat, attention=attention)
  head_VD = decoder.head(params, dtype)
  return _shifted(_next_token_logps(hidden_XTD, head_VD, _next(tokens_XT), config, chunk, attention))


def token_logps_and_kl(
  params: Params,
  reference: Params,
  config: DecoderConfig,
  tokens_XT: jax.Array,
  rows: PackedRows,
  *,
  dtype: jnp.dtype,
  remat: str = 'none',
  chunk: int = 512,
  attention: Attention = flash.PLAIN,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Returns policy logp_XT, reference logp_XT, and the exact KL(policy || reference) of prefixes.

  Both models go through the same chunk: nothing is [X, T, V].
  """
  reference = jax.lax.stop_gradient(reference)
  settings = dict(dtype=dtype, attention=attention)
  hidden_XTD = decoder.hidden_states(params, config, tokens_XT, rows, remat=remat, **settings)
  ref_hidden_XTD = decoder.hidden_states(reference, config, tokens_XT, rows, **settings)
  head_VD, ref_head_VD = (attention.whole(decoder.head(tree, dtype)) for tree in (params, reference))

  @jax.checkpoint
  def score(inputs):
    hidden_XCD, ref_hidden_XCD, token_XC = inputs
    log_XCV = jax.nn.log_softmax(decoder.logits(hidden_XCD, head_VD, config))
    ref_XCV = jax.nn.log_softmax(decoder.logits(ref_hidden_XCD, ref_head_VD, config))
    kl_XC = jnp.sum(jnp.exp(log_XCV) * (log_XCV - ref_XCV), axis=-1)
    return _at(log_XCV, token_XC), _at(ref_XCV, token_XC), kl_XC

  scores = jax.lax.map(score, _cut((hidden_XTD, ref_hidden_XTD, _next(tokens_XT)), chunk))
  return jax.tree.map(_shifted, _joined(scores, tokens_XT.shape[1]))


def _next(tokens_XT: jax.Array) -> jax.Array:
  return jnp.pad(tokens_XT[:, 1:], ((0, 0), (0, 1)))


def _shifted(score_XT: jax.Array) -> jax.Array:
  """Shifts scores from the index that predicts to the token predicted."""
  return jnp.pad(score_XT[:, :-1], ((0, 0), (1, 0)))


def _at(x_XCV: jax.Array, token_XC: jax.Array) -> jax.Array:
  return jnp.take_along_axis(x_XCV, token_XC[..., None], axis=-1)[..., 0]


def _cut(tree: Any, chunk: int) -> Any:
  """Cuts [X, T, ...] into [chunks, X, C, ...], the last chunk padded with zeros."""

  def cut(x):
    X, T = x.shape[:2]
    size = min(chunk, T)
    padded = jnp.pad(x, ((0, 0), (0, -T % size)) + ((0, 0),) * (x.ndim - 2))
    return jnp.moveaxis(padded.reshape(X, -1, size, *x.shape[2:]), 1, 0)

  return jax.tree.map(cut, tree)


def _joined(tree: Any, length: int) -> Any:
  return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(x.shape[1], -1, *x.shape[3:])[:, :length], tree)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _next_token_logps(hidden_XTD, head_VD, token_XT, config: DecoderConfig, chunk: int, attention: Attention):
  return _forward(hidden_XTD, head_VD, token_XT, config, chunk, attention)[0]


def _forward(hidden_XTD, head_VD, token_XT, config, chunk, attention):
  whole_VD = attention.whole(head_VD)

  def score(inputs):
    hidden_XCD, token_XC = inputs
    logits_XCV = decoder.logits(hidden_XCD, whole_VD, config)
    total_XC = jax.nn.logsumexp(logits_XCV, axis=-1)
    return _at(logits_XCV, token_XC) - total_XC, total_XC

  scores = jax.lax.map(score, _cut((hidden_XTD, token_XT), chunk))
  logp_XT, total_XT = _joined(scores, token_XT.shape[1])
  return logp_XT, (hidden_XTD, head_VD, token_XT, total_XT)


def _backward(config, chunk, attention, kept, cotangent_XT):
  """Writes d logp / d logits = onehot - p once."""
  hidden_XTD, head_VD, token_XT, total_XT = kept
  whole_VD, S = attention.whole(head_VD), attention.shards
  vocabulary_V = jnp.arange(head_VD.shape[0], dtype=jnp.int32)

  def backward(sum_SVD, inputs):
    hidden_XCD, token_XC, total_XC, cotangent_XC = inputs
    logits_XCV = decoder.logits(hidden_XCD, whole_VD, config)
    chosen_XCV = (token_XC[..., None] == vocabulary_V[None, None]).astype(jnp.float32)
    d_XCV = cotangent_XC[..., None] * (chosen_XCV - jnp.exp(logits_XCV - total_XC[..., None]))
    if config.final_softcap:
      d_XCV *= 1 - jnp.square(logits_XCV / config.final_softcap)  # of c tanh(x / c)
    d_XCV = d_XCV.astype(hidden_XCD.dtype)
    d_SXCV, hidden_SXCD = (x.reshape(S, -1, *x.shape[1:]) for x in (d_XCV, hidden_XCD))
    d_head_SVD = jnp.einsum('sxcv,sxcd->svd', d_SXCV, hidden_SXCD, preferred_element_type=jnp.float32)
    return attention.partial(sum_SVD + d_head_SVD), jnp.einsum('xcv,vd->xcd', d_XCV, whole_VD)

  inputs = _cut((hidden_XTD, token_XT, total_XT, cotangent_XT), chunk)
  sum_SVD, d_hidden = jax.lax.scan(backward, attention.partial(jnp.zeros((S, *head_VD.shape), jnp.float32)), inputs)
  return _joined(d_hidden, token_XT.shape[1]), jnp.sum(sum_SVD, axis=0).astype(head_VD.dtype), None


_next_token_logps.defvjp(_forward, _backward)
