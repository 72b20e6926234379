"""What a run's programs are compiled for, worked out of its configuration before anything is loaded."""

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
  """Raises ConfigError if a micro-batch is no multiple of the devices, or packing would cut a problem."""
  part = config.batch.problems // config.batch.micro_batches * config.batch.samples
  if part % meshes.row_shards(mesh):
    raise ConfigError(
      f'a micro-batch of {part} rows (config.batch) cannot be spread over {meshes.row_shards(mesh)} devices; '
      'change batch.problems, batch.samples, batch.micro_batches or the mesh'
    )
  if config.batch.pack and config.batch.problems % (meshes.row_shards(mesh) * config.batch.micro_batches):
    raise ConfigError(
      f'config.batch.pack needs whole problems on each of {meshes.row_shards(mesh)} devices in each of '
      f'config.batch.micro_batches = {config.batch.micro_batches} parts; config.batch.problems = '
      f'{config.batch.problems} is no multiple of their product'
    )


def update_spec(config: RunConfig, decoder: DecoderConfig, dtype: Any, mesh: Mesh) -> UpdateSpec:
  """Returns what the update of a configuration is compiled for; without packing."""
  return UpdateSpec(
    config=decoder,
    lora=config.lora,
    dtype=dtype,
    group=config.batch.samples,
    micro_batches=config.batch.micro_batches,
    kl_form=config.loss.kl_form,
    importance_cap=config.loss.importance_cap,
    remat=config.model.remat,
    logits_mb=config.model.logits_mb,
    attempt_gradient_norms=config.loss.attempt_gradient_norms,
    attention=flash.best(decoder, dtype, mesh),
    shards=meshes.row_shards(mesh),
  )


def abstract_state_of(mesh: Mesh, trained: WeightTable, optimizer: optax.GradientTransformation) -> TrainState:
  """Returns shapes, dtypes and shardings of the state of a run, by its mesh, what it trains, and its optimizer."""
  params = trained.abstract(jnp.float32)
  number = jax.ShapeDtypeStruct((), jnp.int32, sharding=meshes.replicated(mesh))
  return TrainState(
    step=number,
    params=placed(params, meshes.params(mesh, trained, meshes.TRAINING_RULES)),
    opt_state=placed(jax.eval_shape(optimizer.init, params), meshes.opt_state(mesh, optimizer, trained)),
    rejected=number,
    rejected_in_a_row=number,
  )


def placed(shapes: Any, shardings: Any) -> Any:
  """Returns a tree of shapes that says where each array lies."""
  return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)
