"""The decoder: one layer function, and the ways to run it (whole sequence, prefill, one decode step, scores).

Parameters are a plain tree (`weights.py`); policy and reference are the same functions on two trees. `logp[b, t]`
belongs to `tokens[b, t]`: the one shift between a token and its prediction is in `_scored`.
"""

from collections.abc import Callable
import functools
from typing import Any

import jax
import jax.numpy as jnp

from score_jax.models import attention
from score_jax.models import decode_attention
from score_jax.models import lora
from score_jax.models.attention import Cache
from score_jax.models.attention import View
from score_jax.models.families import DecoderConfig

Params = dict[str, Any]

# Names of config.json -> functions; `families.ACTIVATIONS` lists them.
_ACTIVATIONS = {
  'silu': jax.nn.silu,
  'gelu': functools.partial(jax.nn.gelu, approximate=False),
  'gelu_pytorch_tanh': functools.partial(jax.nn.gelu, approximate=True),
}

# Projections of one input, which decoding may hold side by side.
QKV, GATE_UP = ('q', 'k', 'v'), ('gate', 'up')


def _rms_norm(x: jax.Array, scale: jax.Array, config: DecoderConfig) -> jax.Array:
  """RMS norm of the last axis in f32, times offset + scale, back in the dtype of x."""
  # The scale as the compute dtype holds it, which is all that the sampler's copy has.
  x32, scale32 = x.astype(jnp.float32), scale.astype(x.dtype).astype(jnp.float32)
  normed = x32 * jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + config.norm_eps)
  scale32 = scale32 + config.norm_offset if config.norm_offset else scale32
  return (normed * scale32.reshape((1,) * (x.ndim - 1) + scale32.shape)).astype(x.dtype)


def _product(x: jax.Array, inputs: str, weight: jax.Array, outputs: str) -> jax.Array:
  return jnp.einsum(f'bt{inputs},{inputs}{outputs}->bt{outputs}', x, weight.astype(x.dtype))


def _project(w: Params, name: str, x: jax.Array, inputs: str, outputs: str) -> jax.Array:
  """x W + bias + (x A) B, the last two where the tree has them; `inputs` and `outputs` are W's letters."""
  return _adapted(w, name, x, inputs, outputs, _biased(w, name, _product(x, inputs, w[name], outputs)))


def _biased(w: Params, name: str, y: jax.Array) -> jax.Array:
  bias = w.get(name + '_bias')
  return y if bias is None else y + bias.astype(y.dtype)[None, None]


def _rounded(y: jax.Array) -> jax.Array:
  """y as its dtype holds it: a compiler that fuses what follows may otherwise go on with more digits."""
  kind = jnp.finfo(y.dtype)
  return jax.lax.reduce_precision(y, kind.nexp, kind.nmant)


def _adapted(w: Params, name: str, x: jax.Array, inputs: str, outputs: str, y: jax.Array) -> jax.Array:
  """y + (x A) B where the tree has adapters; rounded in both cases, so that an adapter of zeros changes no bit."""
  y = _rounded(y)
  if name + lora.A not in w:
    return y
  return _rounded(y + _product(_product(x, inputs, w[name + lora.A], 'r'), 'r', w[name + lora.B], outputs))


def _project_all(w: Params, names: tuple[str, ...], x: jax.Array, outputs: str, sizes: tuple[int, ...]) -> tuple:
  """Projections of one input, to `sizes` of their first output letter: one product where they lie together."""
  together = '+'.join(names)
  if together not in w:
    return tuple(_project(w, name, x, 'd', outputs) for name in names)
  y = _biased(w, together, _product(x, 'd', w[together], outputs))
  ends = [sum(sizes[: i + 1]) for i in range(len(sizes) - 1)]
  parts = jnp.split(y, ends, axis=2)
  return tuple(_adapted(w, name, x, 'd', outputs, part) for name, part in zip(names, parts, strict=True))


def _layer(w: Params, config: DecoderConfig, x_BTD: jax.Array, view: View, attend: Callable) -> tuple[jax.Array, Any]:
  """One layer. `attend(q, k, v) -> (out, carried)` decides where keys and values live."""

  def norm(x, name):
    return _rms_norm(x, w[name], config) if name in w else x

  with jax.named_scope('attention'):
    normed = norm(x_BTD, 'attention_norm')
    q_BTHC, k_BTKC, v_BTKC = _project_all(w, QKV, normed, 'hc', (config.heads, config.kv_heads, config.kv_heads))
    q_BTHC = attention.rotate(norm(q_BTHC, 'q_norm'), view)
    k_BTKC = attention.rotate(norm(k_BTKC, 'k_norm'), view)
    out_BTHC, carried = attend(q_BTHC, k_BTKC, v_BTKC)
    x_BTD = x_BTD + norm(_project(w, 'o', out_BTHC, 'hc', 'd'), 'post_attention_norm')
  with jax.named_scope('ffn'):
    normed = norm(x_BTD, 'ffn_norm')
    gate_BTF, up_BTF = _project_all(w, GATE_UP, normed, 'f', (config.ffn, config.ffn))
    hidden_BTF = _ACTIVATIONS[config.activation](gate_BTF) * up_BTF
    x_BTD = x_BTD + norm(_project(w, 'down', hidden_BTF, 'f', 'd'), 'post_ffn_norm')
  return x_BTD, carried


def _embed(params: Params, config: DecoderConfig, tokens: jax.Array, dtype: jnp.dtype) -> jax.Array:
  embedded = params['embed'].astype(dtype)[tokens]
  # The scale is rounded to the compute dtype, as transformers does: sqrt(3072) is 55.5 in bfloat16.
  return embedded if config.embed_scale == 1 else embedded * jnp.asarray(config.embed_scale, dtype)


def _logits(params: Params, config: DecoderConfig, hidden: jax.Array) -> jax.Array:
  """f32 logits of final hidden states [..., D]."""
  head_VD = params.get('head', params['embed']).astype(hidden.dtype)
  logits = jnp.einsum('...d,vd->...v', hidden, head_VD, preferred_element_type=jnp.float32)
  return attention.softcapped(logits, config.final_softcap)


def _attend(config: DecoderConfig, view: View, q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
  return attention.attend(q, k, v, view.visible, scale=config.query_scale, softcap=config.attention_softcap)


def hidden_states(
  params: Params, config: DecoderConfig, tokens_BL: jax.Array, start_B: jax.Array, *, dtype: jnp.dtype, remat: bool
) -> jax.Array:
  """Final hidden states [B, L, D] of whole rows; layers are scanned, and recomputed in the backward pass if `remat`."""
  slots_L = jnp.arange(tokens_BL.shape[1], dtype=jnp.int32)
  views = attention.views(config, start_B, slots_L, tokens_BL.shape[1])
  # One program for all layers: where they differ in kind, each picks its view from the stack of them.
  stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *views) if len(views) > 1 else None

  def layer(x_BLD, inputs):
    w, kind = inputs
    view = views[0] if stacked is None else jax.tree.map(lambda leaf: leaf[kind], stacked)
    return _layer(w, config, x_BLD, view, lambda q, k, v: (_attend(config, view, q, k, v), None))

  embedded_BLD = _embed(params, config, tokens_BL, dtype)
  kind_N = jnp.asarray(config.kind_of_layer, jnp.int32)
  x_BLD, _ = jax.lax.scan(jax.checkpoint(layer) if remat else layer, embedded_BLD, (params['layers'], kind_N))
  return _rms_norm(x_BLD, params['final_norm'], config)


def for_decoding(params: Params, config: DecoderConfig, *, together: bool) -> Params:
  """Parameters as `prefill` and `decode_step` read them: a tuple of layers instead of stacks.

  A slice of a stack within a loop would copy every weight at every step.

  Args:
    params: a policy's tree.
    config: of the decoder.
    together: lay projections of one input side by side, as one product. Not where heads are sharded.
  """

  def layer(n: int) -> Params:
    w = jax.tree.map(lambda leaf: leaf[n], params['layers'])
    for names in (QKV, GATE_UP) if together else ():
      for ending in ('', '_bias'):
        parts = [w.pop(name + ending) for name in names if name + ending in w]
        if parts:  # outputs are a matrix's second axis, a bias's first
          w['+'.join(names) + ending] = jnp.concatenate(parts, axis=0 if ending else 1)
    return w

  return {**params, 'layers': tuple(layer(n) for n in range(config.layers))}


def _run(
  params: Params, config: DecoderConfig, tokens_BT: jax.Array, views: tuple[View, ...], cache: Cache, attend: Callable
) -> tuple[jax.Array, Cache]:
  """Runs T tokens of every row on the cache, layer by layer; returns the last one's logits [B, V].

  Layers are unrolled: a scan would copy every layer's cache in and out of its stacked carry at each step.
  `attend(n, view, cache, q, k, v) -> (out, cache)`.
  """
  x_BTD = _embed(params, config, tokens_BT, cache.k[0].dtype)
  for n, kind in enumerate(config.kind_of_layer):
    here = functools.partial(attend, n, views[kind], cache)
    x_BTD, cache = _layer(params['layers'][n], config, x_BTD, views[kind], here)
  last_B1D = _rms_norm(x_BTD[:, -1:], params['final_norm'], config)
  return _logits(params, config, last_B1D)[:, 0], cache


def prefill(
  params: Params, config: DecoderConfig, tokens_BP: jax.Array, start_B: jax.Array, slots: int, *, dtype: jnp.dtype
) -> tuple[jax.Array, Cache]:
  """Fills a new cache of `slots` slots with left-padded prompts; `params` from `for_decoding`.

  Returns:
    f32 logits [B, V] of the last position alone (never [B, P, V]), and the cache.
  """
  B, P = tokens_BP.shape
  cache = attention.empty_cache(config.layers, (B, slots, config.kv_heads, config.head_width), dtype, start_B)
  slots_P = jnp.arange(P, dtype=jnp.int32)

  def attend(n, view, cache, q, k, v):
    # The prompt sees itself alone, not the empty slots after it.
    return _attend(config, view, q, k, v), attention.write(cache, n, k, v, jnp.int32(0))

  return _run(params, config, tokens_BP, attention.views(config, start_B, slots_P, P), cache, attend)


def decode_step(
  params: Params,
  config: DecoderConfig,
  token_B: jax.Array,
  slot: jax.Array,
  cache: Cache,
  *,
  kernel: bool = False,
) -> tuple[jax.Array, Cache]:
  """Feeds one token a row at `slot`; returns f32 logits [B, V] for the next one, and the cache.

  Args:
    params: from `for_decoding`; computed with in the cache's dtype.
    config: of the decoder.
    token_B: i32.
    slot: i32 [], where the token's key and value are written.
    cache: of the row's earlier tokens.
    kernel: attend with `decode_attention` (GPU), which reads the live part of the cache alone.
  """
  views = attention.views(config, cache.start, slot[None], cache.k[0].shape[1])

  def attend(n, view, cache, q, k, v):
    cache = attention.write(cache, n, k, v, slot)
    if not kernel:
      return _attend(config, view, q, cache.k[n], cache.v[n]), cache
    out_BHC = decode_attention.attend_live(
      q[:, 0],
      cache.k[n],
      cache.v[n],
      cache.start,
      slot,
      window=config.kinds[config.kind_of_layer[n]].window,
      scale=config.query_scale,
      softcap=config.attention_softcap,
    )
    return out_BHC[:, None], cache

  return _run(params, config, token_B[:, None], views, cache, attend)


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
    return _token_logp(jax.nn.log_softmax(_logits(params, config, hidden_BTD)), next_BT)

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
    log_BTV = jax.nn.log_softmax(_logits(params, config, hidden_BTD))
    ref_BTV = jax.nn.log_softmax(_logits(reference, config, ref_hidden_BTD))
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
