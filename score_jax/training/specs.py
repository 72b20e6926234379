# SPDX-License-Identifier: Apache-2.0
"""What a run's programs are compiled for."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import optax

from score_jax.config import RunConfig
from score_jax.errors import ConfigError
from score_jax.models import flash
from score_jax.models.families import DecoderConfig
from score_jax.models.weights import WeightTable
from score_jax.parallel import mesh as meshes
from score_jax.states import TrainState
from score_jax.training.update import UpdateSpec


def check_spread(config: RunConfig, mesh: Mesh) -> None:
  """Raises ConfigError unless devices divide a micro-batch, and packing its problems."""
  batch, shards = config.batch, meshes.row_shards(mesh)
  part = batch.problems // batch.micro_batches * batch.samples
  if part % shards:
    raise ConfigError(
      f'a micro-batch of {part} rows (config.batch) cannot be spread over {shards} devices; '
      'change batch.problems, batch.samples, batch.micro_batches or the mesh'
    )
  if batch.pack and batch.problems % (shards * batch.micro_batches):
    raise ConfigError(
      f'config.batch.pack needs config.batch.problems = {batch.problems} to be a multiple of {shards} devices x '
      f'config.batch.micro_batches = {batch.micro_batches}'
    )


def update_spec(config: RunConfig, decoder: DecoderConfig, dtype: Any, mesh: Mesh) -> UpdateSpec:
  """Returns what the update is compiled for, without packing."""
  batch, loss, model = config.batch, config.loss, config.model
  return UpdateSpec(
    config=decoder,
    lora=config.lora,
    dtype=dtype,
    group=batch.samples,
    micro_batches=batch.micro_batches,
    kl_form=loss.kl_form,
    importance_cap=loss.importance_cap,
    remat=model.remat,
    logits_mb=model.logits_mb,
    attempt_gradient_norms=loss.attempt_gradient_norms,
    attention=flash.best(decoder, dtype, mesh),
    shards=meshes.row_shards(mesh),
  )


def abstract_state_of(mesh: Mesh, trained: WeightTable, optimizer: optax.GradientTransformation) -> TrainState:
  """Returns shapes, dtypes and shardings of a run's state."""
  params = trained.abstract(jnp.float32)
  number = jax.ShapeDtypeStruct((), jnp.int32, sharding=meshes.replicated(mesh))
  moments = placed(jax.eval_shape(optimizer.init, params), meshes.opt_state(mesh, optimizer, trained))
  params = placed(params, meshes.params(mesh, trained, meshes.TRAINING_RULES))
  return TrainState(number, params, moments, number, number)


def placed(shapes: Any, shardings: Any) -> Any:
  """Returns a tree of shapes with its arrays' shardings."""
  return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)
