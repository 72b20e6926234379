# SPDX-License-Identifier: Apache-2.0
"""What a run's programs are compiled for."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import optax

from score_jax.config import RunConfig
from score_jax.errors import ConfigError
from score_jax.models import decoder as decoders
from score_jax.models import flash, weights
from score_jax.models.families import DecoderConfig
from score_jax.models.weights import WeightTable
from score_jax.parallel import mesh as meshes
from score_jax.states import TrainState
from score_jax.training.update import UpdateSpec

_KEPT = 1 << 30  # bytes of activations up to which a CPU keeps all: less is faster, but rounds otherwise
_LOGITS_SHARE = 48  # of a device's memory, in parts
_LOGIT_ROWS = 256  # a CPU's: enough for products to be fast
_NORMS_UP_TO = 50_000_000  # parameters


def check_spread(config: RunConfig, mesh: Mesh, sampling_mesh: Mesh) -> None:
  """Raises ConfigError unless devices divide a step's rows and a micro-batch, and packing its problems."""
  batch, shards = config.batch, meshes.row_shards(mesh)
  part = batch.problems // batch.micro_batches * batch.samples
  if part % shards:
    raise ConfigError(
      f'a micro-batch of {part} rows (config.batch) cannot be spread over {shards} devices; '
      'change batch.problems, batch.samples, batch.micro_batches or the mesh'
    )
  if config.rows % meshes.row_shards(sampling_mesh):
    raise ConfigError(
      f'config.sampling.mesh spreads rows over {meshes.row_shards(sampling_mesh)} groups of devices, which do not '
      f'divide the {config.rows} conversations of a step (config.batch); raise config.sampling.mesh.tensor'
    )
  if batch.pack and batch.problems % (shards * batch.micro_batches):
    raise ConfigError(
      f'config.batch.pack needs config.batch.problems = {batch.problems} to be a multiple of {shards} devices x '
      f'config.batch.micro_batches = {batch.micro_batches}'
    )


def settled(
  config: RunConfig, decoder: DecoderConfig, dtype: Any, *, platform: str, length: int, memory: float
) -> RunConfig:
  """Returns a configuration whose fields that say 'by device and model' have their values.

  They depend on nothing that the machine does beside, nor on how a batch is cut: a CPU's devices share its memory.

  Args:
    config: model.remat 'auto', model.logits_mb 0 and loss.attempt_gradient_norms None are settled, others stay.
    decoder, dtype: the model and its compute dtype.
    platform: of the devices: 'cpu', 'gpu', 'tpu'.
    length: L, the most tokens of a conversation.
    memory: bytes of a device; not read of a CPU.
  """
  on_cpu, model, norms = platform == 'cpu', config.model, config.loss.attempt_gradient_norms
  remat, logits_mb = model.remat, model.logits_mb
  if remat == 'auto':
    sizes = dict(tensor=1, itemsize=jnp.dtype(dtype).itemsize, plain=True)
    kept = config.rows * length * decoder.layers * decoders.kept(decoder, 'none', length, **sizes)
    remat = 'elementwise' if on_cpu and kept > _KEPT else 'none'
  if not logits_mb:
    rows_mb = math.ceil(_LOGIT_ROWS * decoder.vocab * 4 / 1e6)
    logits_mb = max(64.0, float(rows_mb)) if on_cpu else _power_of_two(memory / _LOGITS_SHARE / 1e6)
  if norms is None:
    norms = weights.weight_table(decoder).parameters() <= _NORMS_UP_TO
  return dataclasses.replace(
    config,
    model=dataclasses.replace(model, remat=remat, logits_mb=logits_mb),
    loss=dataclasses.replace(config.loss, attempt_gradient_norms=norms),
  )


def _power_of_two(megabytes: float) -> float:
  """The largest power of two up to it, within 32 and 1024."""
  return next((float(size) for size in (1024, 512, 256, 128, 64) if size <= megabytes), 32.0)


def update_spec(config: RunConfig, decoder: DecoderConfig, dtype: Any, mesh: Mesh) -> UpdateSpec:
  """Returns what the update of a `settled` configuration is compiled for, without packing."""
  batch, loss, model = config.batch, config.loss, config.model
  assert loss.attempt_gradient_norms is not None and model.logits_mb, 'the configuration is not settled'
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
