# SPDX-License-Identifier: Apache-2.0
"""A mixture of experts: each token goes to the few feed-forwards that its router gives the most weight.

Tokens are sorted by expert, for `jax.lax.ragged_dot`. Each device sorts those of its rows; `tensor` cuts every expert's
width. M: tokens; J: the experts of each; R: M times J.
"""

from collections.abc import Callable
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from score_jax.models.families import DecoderConfig

_NAMES = ('router', 'expert_gate', 'expert_up', 'expert_down')


def feed_forward(
  w: dict[str, Any], config: DecoderConfig, x_BTD: jax.Array, activation: Callable, mesh: Mesh | None
) -> jax.Array:
  """Returns a layer's mixture [B, T, D]; rows lie on `mesh`, None: here."""
  run = functools.partial(_routed, config=config, activation=activation)
  weights = [w[name].astype(x_BTD.dtype) for name in _NAMES]
  if mesh is None or mesh.size == 1:
    return run(x_BTD, *weights)
  axis = None if config.ffn % mesh.shape['tensor'] else 'tensor'
  run, rows = functools.partial(run, axis=axis), PartitionSpec(('data', 'fsdp'))
  columns, inner = PartitionSpec(None, None, axis), PartitionSpec(None, axis)
  specs = rows, PartitionSpec(), columns, columns, inner
  return jax.shard_map(run, mesh=mesh, in_specs=specs, out_specs=rows, check_vma=False)(x_BTD, *weights)


def _routed(x_BTD, router_DE, gate_EDF, up_EDF, down_EFD, *, config, activation, axis=None) -> jax.Array:
  x_MD = x_BTD.reshape(-1, x_BTD.shape[-1])
  weight_MJ, expert_MJ = route(x_MD, router_DE, config)
  order_R = jnp.argsort(expert_MJ.reshape(-1))
  sizes_E = jnp.bincount(expert_MJ.reshape(-1), length=config.experts).astype(jnp.int32)
  M, J = expert_MJ.shape
  sorted_RD = _permuted(jnp.repeat(x_MD, J, axis=0), order_R)
  product = functools.partial(jax.lax.ragged_dot, group_sizes=sizes_E)
  hidden_RF = activation(product(sorted_RD, gate_EDF)) * product(sorted_RD, up_EDF)
  out_MJD = _permuted(product(hidden_RF, down_EFD), jnp.argsort(order_R)).reshape(M, J, -1)
  total_MD = jnp.einsum('mjd,mj->md', out_MJD, weight_MJ, preferred_element_type=jnp.float32)
  total_MD = jax.lax.psum(total_MD, axis) if axis else total_MD
  return total_MD.astype(x_BTD.dtype).reshape(x_BTD.shape)


def route(x_MD: jax.Array, router_DE: jax.Array, config: DecoderConfig) -> tuple[jax.Array, jax.Array]:
  """Returns weight_MJ and expert_MJ (i32), the most probable first."""
  probability_ME = jax.nn.softmax((x_MD @ router_DE).astype(jnp.float32), axis=-1)
  weight_MJ, expert_MJ = jax.lax.top_k(probability_ME, config.experts_per_token)
  if config.normed_experts:
    weight_MJ /= jnp.sum(weight_MJ, axis=-1, keepdims=True)
  return weight_MJ.astype(x_MD.dtype), expert_MJ


def _permuted(x_R: jax.Array, order_R: jax.Array) -> jax.Array:
  return x_R.at[order_R].get(unique_indices=True, mode='promise_in_bounds')
