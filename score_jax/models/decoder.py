# SPDX-License-Identifier: Apache-2.0
"""The decoder: one layer function, and the ways to run it (whole rows, prefill, one decode step)."""

from collections.abc import Callable
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from score_jax.models import attention as attentions
from score_jax.models import decode_attention_gpu, decode_attention_tpu, decode_layers, experts, flash, lora, packing
from score_jax.models.attention import Cache, View
from score_jax.models.families import DecoderConfig, LayerKind
from score_jax.models.flash import Attention
from score_jax.models.packing import PackedRows
from score_jax.models.weights import Params

# By `families.ACTIVATIONS`.
_ACTIVATIONS = {
  'silu': jax.nn.silu,
  'gelu': functools.partial(jax.nn.gelu, approximate=False),
  'gelu_pytorch_tanh': functools.partial(jax.nn.gelu, approximate=True),
}

# What the backward pass computes again: nothing, all but products, all but products by weights, layers.
REMATS: dict[str, Callable] = {
  'none': lambda layer: layer,
  # Layers are scanned, where nothing could be shared with the forward pass: no need to prevent it.
  'elementwise': functools.partial(jax.checkpoint, policy=jax.checkpoint_policies.dots_saveable, prevent_cse=False),
  'dots': functools.partial(jax.checkpoint, policy=jax.checkpoint_policies.dots_with_no_batch_dims_saveable),
  'full': jax.checkpoint,
}

# Projections of one input, which decoding may join.
QKV, GATE_UP = ('q', 'k', 'v'), ('gate', 'up')


def kept(config: DecoderConfig, remat: str, length: int, *, tensor: int, itemsize: int, plain: bool) -> int:
  """Returns about how many bytes a layer keeps of a token for the backward pass, of the REMATS[remat].

  Args:
    config: of the model; `tensor` devices share heads and feed-forward.
    remat: a name of REMATS.
    length: L of the token's row, all of which a `plain` attention scores (f32); kernels keep no scores.
    tensor, itemsize: devices, and bytes of a number of the compute dtype.
    plain: whether attention is.
  """
  ffn, width = config.ffn * config.experts_per_token // tensor, config.width
  heads, inner = max(1, config.heads // tensor), config.heads * config.head_width // tensor
  numbers, scores = dict(
    none=(4 * ffn + 5 * inner + 6 * width, 2),
    elementwise=(3 * ffn + 4 * inner + 3 * width, 1),
    dots=(3 * ffn + 3 * inner + 2 * width, 0),
    full=(width, 0),
  )[remat]
  return numbers * itemsize + scores * length * heads * 4 * plain


def _rms_norm(x: jax.Array, scale: jax.Array, config: DecoderConfig) -> jax.Array:
  """Computes the RMS norm of the scale's axes, the last, in f32, times offset + scale."""
  x32, scale32 = x.astype(jnp.float32), scale.astype(jnp.float32)
  axes = tuple(range(-scale.ndim, 0))
  normed = x32 * jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=axes, keepdims=True) + config.norm_eps)
  scale32 = scale32 + config.norm_offset if config.norm_offset else scale32
  return (normed * scale32.reshape((1,) * (x.ndim - scale.ndim) + scale.shape)).astype(x.dtype)


def _product(x: jax.Array, weight: jax.Array, inputs: int) -> jax.Array:
  """Multiplies x [B, T, ...] by a weight whose first `inputs` axes are x's last.

  As matrices: einsums with more axes take twice the time in XLA:CPU's backward pass.
  """
  inner, outputs = weight.shape[:inputs], weight.shape[inputs:]
  matrix = weight.astype(x.dtype).reshape(math.prod(inner), math.prod(outputs))
  return (x.reshape(-1, matrix.shape[0]) @ matrix).reshape(*x.shape[:2], *outputs)


def _project(w: Params, name: str, x: jax.Array) -> jax.Array:
  return _adapted(w, name, x, _biased(w, name, _product(x, w[name], x.ndim - 2)))


def _biased(w: Params, name: str, y: jax.Array) -> jax.Array:
  bias = w.get(name + '_bias')
  return y if bias is None else y + bias.astype(y.dtype)[None, None]


def _rounded(y: jax.Array) -> jax.Array:
  """Rounds y to its dtype; a compiler that fuses may keep more digits."""
  kind = jnp.finfo(y.dtype)
  return jax.lax.reduce_precision(y, kind.nexp, kind.nmant)


def _adapted(w: Params, name: str, x: jax.Array, y: jax.Array) -> jax.Array:
  """Returns y + (x A) B, rounded with and without adapters: zeros change no bit."""
  y = _rounded(y)
  if name + lora.A not in w:
    return y
  return _rounded(y + _product(_product(x, w[name + lora.A], x.ndim - 2), w[name + lora.B], 1))


def _project_all(w: Params, names: tuple[str, ...], x: jax.Array, sizes: tuple[int, ...]) -> tuple:
  together = '+'.join(names)
  if together not in w:
    return tuple(_project(w, name, x) for name in names)
  y = _biased(w, together, _product(x, w[together], 1))
  ends = [sum(sizes[: i + 1]) for i in range(len(sizes) - 1)]
  parts = jnp.split(y, ends, axis=2)
  return tuple(_adapted(w, name, x, part) for name, part in zip(names, parts, strict=True))


def _layer(w: Params, config: DecoderConfig, x_BTD: jax.Array, attend: Callable, mesh=None) -> tuple[jax.Array, Any]:
  """Runs one layer; `attend(q, k, v) -> (out, aux)` rotates; rows lie on `mesh`, None: here."""

  def norm(x, name):
    return _rms_norm(x, w[name], config) if name in w else x

  with jax.named_scope('attention'):
    normed = norm(x_BTD, 'attention_norm')
    q_BTHC, k_BTKC, v_BTKC = _project_all(w, QKV, normed, (config.heads, config.kv_heads, config.kv_heads))
    out_BTHC, aux = attend(norm(q_BTHC, 'q_norm'), norm(k_BTKC, 'k_norm'), v_BTKC)
    x_BTD = x_BTD + norm(_project(w, 'o', out_BTHC), 'post_attention_norm')
  with jax.named_scope('ffn'):
    normed, activation = norm(x_BTD, 'ffn_norm'), _ACTIVATIONS[config.activation]
    if config.experts:
      out_BTD = experts.feed_forward(w, config, normed, activation, mesh)
    else:
      gate_BTF, up_BTF = _project_all(w, GATE_UP, normed, (config.ffn, config.ffn))
      out_BTD = _project(w, 'down', activation(gate_BTF) * up_BTF)
    x_BTD = x_BTD + norm(out_BTD, 'post_ffn_norm')
  return x_BTD, aux


def _embed(params: Params, config: DecoderConfig, tokens: jax.Array, dtype: jnp.dtype) -> jax.Array:
  embedded = _lookup(params['embed'].astype(dtype), tokens)
  # As transformers does it: sqrt(3072) is 55.5 in bfloat16.
  return embedded if config.embed_scale == 1 else embedded * jnp.asarray(config.embed_scale, dtype)


@jax.custom_vjp
def _lookup(table_VD: jax.Array, tokens: jax.Array) -> jax.Array:
  """Returns table[tokens]; gradients are summed in f32."""
  return table_VD[tokens]


def _lookup_backward(inputs, cotangent):
  table_VD, tokens = inputs
  total_VD = jnp.zeros(table_VD.shape, jnp.float32).at[tokens].add(cotangent.astype(jnp.float32))
  return total_VD.astype(table_VD.dtype), None


_lookup.defvjp(lambda *inputs: (_lookup(*inputs), inputs), _lookup_backward)


def head(params: Params, dtype: jnp.dtype) -> jax.Array:
  """Returns the output head [V, D]: the embedding, where they are tied."""
  return params.get('head', params['embed']).astype(dtype)


def logits(hidden: jax.Array, head_VD: jax.Array, config: DecoderConfig) -> jax.Array:
  """Returns f32 logits [..., V] of hidden states [..., D]."""
  return attentions.softcapped(_head_product(hidden, head_VD), config.final_softcap)


@jax.custom_vjp
def _head_product(hidden: jax.Array, head_VD: jax.Array) -> jax.Array:
  """Returns f32 products of the compute dtype."""
  return jnp.einsum('...d,vd->...v', hidden, head_VD, preferred_element_type=jnp.float32)


def _head_product_backward(inputs, cotangent):
  hidden, head_VD = inputs
  d_NV = cotangent.astype(hidden.dtype).reshape(-1, head_VD.shape[0])
  hidden_ND = hidden.reshape(-1, head_VD.shape[1])
  d_head_VD = jnp.einsum('nv,nd->vd', d_NV, hidden_ND, preferred_element_type=jnp.float32)
  return (d_NV @ head_VD).reshape(hidden.shape), d_head_VD.astype(head_VD.dtype)


_head_product.defvjp(lambda *inputs: (_head_product(*inputs), inputs), _head_product_backward)


def _attend(config: DecoderConfig, view: View, q: jax.Array, k: jax.Array, v: jax.Array, **layout: bool) -> jax.Array:
  scale, softcap = config.query_scale, config.attention_softcap
  return attentions.attend(q, k, v, view.visible, scale=scale, softcap=softcap, **layout)


def _attention_of(config: DecoderConfig, layer: int) -> dict[str, Any]:
  """Returns a layer's window, and the scale and soft cap of scores."""
  window = config.kinds[config.kind_of_layer[layer]].window
  return dict(window=window, scale=config.query_scale, softcap=config.attention_softcap)


def hidden_states(
  params: Params,
  config: DecoderConfig,
  tokens_XT: jax.Array,
  rows: PackedRows,
  *,
  dtype: jnp.dtype,
  remat: str = 'none',
  attention: Attention = flash.PLAIN,
) -> jax.Array:
  """Returns the final hidden states [X, T, D] of the conversations at `rows`.

  Layers are scanned; the backward pass computes again what `REMATS[remat]` says.
  """
  params = _with_norms(params, dtype)  # as the sampler's copy has them
  _, position_XT = packing.row_and_position(rows, tokens_XT.shape[1])
  views = attentions.views(config, position_XT)
  # One program for all layers: each picks its view from a stack.
  stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *views)
  attend = _row_attention(config, rows, tokens_XT.shape[1], attention)

  def layer(x_XTD, inputs):
    w, kind = inputs
    view = jax.tree.map(lambda leaf: leaf[kind], stacked) if len(views) > 1 else views[0]

    def attend_rows(q, k, v):
      return attend(kind, attentions.rotate(q, view), attentions.rotate(k, view), v), None

    x_XTD, _ = _layer(w, config, x_XTD, attend_rows, attention.mesh)
    return attention.spread(x_XTD), None

  embedded_XTD = attention.spread(_embed(params, config, tokens_XT, dtype))
  kind_N = jnp.asarray(config.kind_of_layer, jnp.int32)
  x_XTD, _ = jax.lax.scan(REMATS[remat](layer), embedded_XTD, (params['layers'], kind_N))
  return _rms_norm(x_XTD, params['final_norm'], config)


def _row_attention(config: DecoderConfig, rows: PackedRows, packed_length: int, attention: Attention) -> Callable:
  """Returns `attend(kind, q, k, v) -> out`, all [X, T, heads, C]."""
  products = dict(scale=config.query_scale, softcap=config.attention_softcap)
  if attention.kind == 'splash':
    row_XT = None if rows.first is None else packing.row_and_position(rows, packed_length)[0]
    # A window leaves blocks of conversations out that lie far before.
    longest = rows.longest if rows.length.shape[1] > 1 else 0

    def attend(kind: LayerKind, *qkv: jax.Array) -> jax.Array:
      return flash.attend_streams(*qkv, row_XT, attention, window=kind.window or longest, **products)

  else:
    table = packing.alignment(rows, packed_length, flash.slots(rows.longest, attention))

    def attend(kind: LayerKind, *qkv: jax.Array) -> jax.Array:
      aligned = (table.to_rows(x) for x in qkv)
      out_NLHC = flash.attend(*aligned, rows.length.reshape(-1), attention, window=kind.window, **products)
      return table.to_streams(out_NLHC)

  branches = [functools.partial(attend, kind) for kind in config.kinds]
  if len(branches) == 1:
    return lambda kind, *qkv: branches[0](*qkv)
  return lambda kind, *qkv: jax.lax.switch(kind, branches, *qkv)


def _with_norms(params: Params, dtype: jnp.dtype) -> Params:
  """Returns a tree whose norms' scales have a dtype."""

  def cast(tree: Params) -> Params:
    return {name: leaf.astype(dtype) if name.endswith('_norm') else leaf for name, leaf in tree.items()}

  return cast(params) | {'layers': cast(params['layers'])}


def for_decoding(params: Params, config: DecoderConfig, *, together: bool, norms_dtype: Any = None) -> Params:
  """Returns a policy's tree with a tuple of layers: a stack's slices would be copied.

  `together` makes projections of one input one product; not for sharded heads. `norms_dtype` is that of norms' scales,
  None: their own; they count in f32, and a TPU would else cast each in every step.
  """
  params = params if norms_dtype is None else _with_norms(params, norms_dtype)

  def layer(n: int) -> Params:
    w = jax.tree.map(lambda leaf: leaf[n], params['layers'])
    for names in (QKV, GATE_UP) if together else ():
      for ending in ('', '_bias'):
        parts = [w.pop(name + ending) for name in names if name + ending in w]
        if parts:  # outputs are a matrix's second axis, a bias's first
          w['+'.join(names) + ending] = jnp.concatenate(parts, axis=0 if ending else 1)
    return w

  return params | {'layers': tuple(layer(n) for n in range(config.layers))}


def _run(
  params: Params,
  config: DecoderConfig,
  tokens_BT: jax.Array,
  views: tuple[View, ...],
  cache: Cache,
  attend: Callable,
  dtype: jnp.dtype,
) -> tuple[jax.Array, Cache]:
  """Runs T tokens of every row; returns their hidden states [B, T, D] before the last norm, and the cache.

  Layers are unrolled: a scan would copy caches. `attend(n, view, cache, q, k, v) -> (out, cache)`.
  """
  x_BTD = _embed(params, config, tokens_BT, dtype)
  for n, kind in enumerate(config.kind_of_layer):
    here = functools.partial(attend, n, views[kind], cache)
    x_BTD, cache = _layer(params['layers'][n], config, x_BTD, here)
  return x_BTD, cache


def _next_logits(params: Params, config: DecoderConfig, x_BTD: jax.Array) -> jax.Array:
  return logits(_rms_norm(x_BTD, params['final_norm'], config), head(params, x_BTD.dtype), config)


def prefill(
  params: Params,
  config: DecoderConfig,
  tokens_BP: jax.Array,
  start_B: jax.Array,
  slots: int,
  *,
  dtype: jnp.dtype,
  cache_dtype: jnp.dtype | None = None,
  kernel: str = '',
  attention: Attention = flash.PLAIN,
) -> tuple[jax.Array, Cache]:
  """Fills a new cache with left-padded prompts; returns the last f32 logits [B, V], and it.

  `params` are of `for_decoding`. The cache is of `cache_dtype` or else `dtype`, for `kernel` (`decode_attention`).
  `attention` is plain or cudnn.
  """
  P = tokens_BP.shape[1]
  cache = attentions.empty_cache(config, slots, cache_dtype or dtype, start_B, kernel)
  slot_1P = jnp.arange(P, dtype=jnp.int32)[None]

  def attend(n, view, cache, q, k, v):
    q, k = attentions.rotate(q, view), attentions.rotate(k, view)
    # The prompt sees itself alone, not the empty slots after it.
    if attention.kind == 'plain':
      out_BPHC = _attend(config, view, q, k, v)
    else:
      out_BPHC = flash.attend_prompts(q, k, v, start_B, attention, **_attention_of(config, n))
    return out_BPHC, attentions.write(cache, n, k, v, jnp.int32(0))

  views = attentions.cache_views(config, start_B, slot_1P, P)
  x_BPD, cache = _run(params, config, tokens_BP, views, cache, attend, dtype)
  cache = decode_attention_tpu.laid_out(cache) if kernel == 'mosaic' else cache
  return _next_logits(params, config, x_BPD[:, -1:])[:, 0], cache


def decode_step(
  params: Params,
  config: DecoderConfig,
  tokens_BQ: jax.Array,
  slot: jax.Array,
  cache: Cache,
  *,
  fed_N: jax.Array | None = None,
  dtype: jnp.dtype | None = None,
  mesh: Mesh | None = None,
) -> tuple[jax.Array, Cache]:
  """Feeds up to Q tokens a row; returns the f32 logits after each [N, V], and the cache.

  Args:
    params: of `for_decoding`.
    config: of the model.
    tokens_BQ: i32; they follow what a row's cache holds.
    slot: of the first of them: one for all rows, i32 [], or one a row, i32 [B].
    cache: of Q more slots at least.
    fed_N: which of the B Q tokens are computed, i32; none without those before it in its row. None: all.
    dtype: what it computes in; None: as the cache.
    mesh: for kernels of TPUs: rows are a device's own.
  """
  B, Q = tokens_BQ.shape
  write_B = jnp.broadcast_to(slot, (B,))
  slot_BQ = slot.reshape(-1, 1) + jnp.arange(Q, dtype=jnp.int32)[None]
  views = attentions.cache_views(config, cache.first, slot_BQ, cache.slots)
  length_B = write_B + Q - cache.first

  def attend_tpu(n, view, cache, q, k, v):
    assert mesh is not None
    inputs = attentions.rotate(q, view), attentions.rotate(k, view), v, cache.k[n], cache.v[n]
    interpret = mesh.devices.flat[0].platform != 'tpu'
    attend = functools.partial(decode_attention_tpu.attend_sharded, mesh=mesh, interpret=interpret)
    out_BQHC, *buffers = attend(*inputs, write_B, length_B, **_attention_of(config, n))
    return out_BQHC, attentions.put(cache, n, *buffers)

  def attend(n, view, cache, q, k, v):
    q, k = attentions.rotate(q, view), attentions.rotate(k, view)
    cache = attentions.write(cache, n, k, v, slot)
    return _attend(config, view, q, cache.k[n], cache.v[n], heads_first=True), cache

  dtype, layers, tokens_N = jnp.dtype(dtype or cache.k[0].dtype), params['layers'], tokens_BQ.reshape(-1)
  number_BQ = None
  if fed_N is not None:
    tokens_N, number_BQ = tokens_N[fed_N], attentions.numbers(fed_N, B, Q)

  def attend_gpu(n, cache, qkv_PNE, bias_E):
    inputs = qkv_PNE, bias_E, views[config.kind_of_layer[n]], cache.k[n], cache.v[n], write_B, length_B, number_BQ
    out_NHC, *buffers = decode_attention_gpu.attend_live(*inputs, dtype=dtype, **_attention_of(config, n))
    return out_NHC, attentions.put(cache, n, *buffers)

  def attend_line(n, view, cache, q, k, v):
    """Attends where tokens lie in one line, [N, 1, heads, C]."""
    if cache.kernel == 'triton':
      qkv_1NE = jnp.concatenate([q, k, v], axis=2).reshape(1, tokens_N.size, -1)
      out_NHC, cache = attend_gpu(n, cache, qkv_1NE, None)
      return out_NHC[:, None], cache
    # What is not computed is seen by nothing that is: any token stands in for it.
    rows = slice(None) if number_BQ is None else jnp.maximum(number_BQ.reshape(-1), 0)
    qkv_BQhC = [x[rows].reshape(B, Q, *x.shape[2:]) for x in (q, k, v)]
    out_BQHC, cache = (attend_tpu if cache.kernel else attend)(n, view, cache, *qkv_BQhC)
    out_N1HC = out_BQHC.reshape(B * Q, 1, *out_BQHC.shape[2:])
    return out_N1HC if fed_N is None else out_N1HC[fed_N], cache

  if cache.kernel != 'triton' or not decode_layers.fits(layers, tokens_N.size, dtype):
    x_N1D, cache = _run(params, config, tokens_N[:, None], views, cache, attend_line, dtype)
    return _next_logits(params, config, x_N1D)[:, 0], cache

  x_ND, act = _embed(params, config, tokens_N, dtype), _ACTIVATIONS[config.activation]
  inputs = x_ND, _rms_norm(x_ND, layers[0]['attention_norm'], config), cache, attend_gpu
  last_ND, cache = decode_layers.run(layers, params['final_norm'], config, *inputs, activation=act)
  return logits(last_ND, head(params, dtype), config), cache
