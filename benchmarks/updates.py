# SPDX-License-Identifier: Apache-2.0
"""Speed and memory of the compiled update on random weights, beside the machine's matmul rate.

FLOPs are counted from the shape: 6 a token and parameter, and attention's own under its mask. The reference's pass (2 a
token and parameter) is timed apart.
"""

import dataclasses
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np

from benchmarks import machine
from benchmarks.rollouts import random_params
from benchmarks.setting import Setting
from score_jax.config import from_config_dict, load_config
from score_jax.errors import ConfigError
from score_jax.models import config_json, flash, weights
from score_jax.models.families import DecoderConfig
from score_jax.models.shapes import SHAPES
from score_jax.parallel import mesh as meshes
from score_jax.planning import costs
from score_jax.states import Batch, StageValues
from score_jax.training import batches, optim
from score_jax.training import run as runs
from score_jax.training import update as updates

GROUP = 4
FIELDS = (
  *('shape', 'layers', 'vocab', 'rows', 'slots', 'mean_length', 'pack', 'micro_batches', 'remat', 'logits_mb'),
  *('attempt_gradient_norms', 'dtype', 'mesh', 'repeats'),
)


def measure(setting: Setting) -> dict[str, Any]:
  """Measures updates; seconds are medians over `repeats`.

  Raises:
    ConfigError: the rows are not whole problems.
  """
  if setting.rows % GROUP:
    raise ConfigError(f'--rows={setting.rows} must be a multiple of {GROUP}, the samples of a problem')
  config = decoder_config(setting.shape, setting.layers, setting.vocab)
  mesh = meshes.make_mesh(*setting.mesh)
  dtype = jnp.dtype(setting.dtype)
  settings = from_config_dict(load_config('score')).optim
  optimizer = optim.make_optimizer(settings, weights.weight_table(config))
  state, reference = placed(config, optimizer, mesh, dtype)
  spec = update_spec(setting, config, mesh)
  batch = _random_batch(setting, config)
  if setting.pack:
    parts = (GROUP, spec.shards, spec.micro_batches)
    order = batches.balanced_order(batch.length, *parts)
    batch = jax.tree.map(lambda x: x[order], batch)
    packed = batches.packed_length(batch.length, setting.slots, *parts)
    spec = dataclasses.replace(spec, packed_length=packed)
  batch = meshes.put_rows(mesh, batch)
  compiles = machine.Compiles()
  reference_seconds, update_seconds = [], []
  for _ in range(setting.repeats + 1):
    begun = time.perf_counter()
    scored = batch.replace(ref_logp=updates.reference_logps({}, reference, batch, spec=spec))
    jax.block_until_ready(scored)
    middle = time.perf_counter()
    state, metrics = updates.update(state, {}, None, scored, _stage(), spec=spec, optimizer=optimizer)
    jax.block_until_ready((state, metrics))
    reference_seconds.append(middle - begun)
    update_seconds.append(time.perf_counter() - middle)
  if int(state.rejected):
    raise ValueError('an update of the benchmark was not finite')
  seconds = statistics.median(update_seconds[1:])
  ref_seconds = statistics.median(reference_seconds[1:])
  lengths = np.asarray(batch.length)
  flops, rate = costs.update_flops(config, lengths), machine.matmul_rate(dtype)
  return dict(
    device=jax.devices()[0].device_kind,
    devices=mesh.size,
    attention=spec.attention.kind,
    parameters=weights.weight_table(config).parameters(),
    tokens=int(lengths.sum()),
    positions=spec.packed_length * spec.shards * spec.micro_batches or setting.rows * setting.slots,
    update_seconds=round(seconds, 4),
    reference_seconds=round(ref_seconds, 4),
    tokens_per_second=round(lengths.sum() / seconds),
    tflops_per_device=round(flops / seconds / mesh.size / 1e12, 1),
    matmul_tflops=round(rate / 1e12, 1),
    of_matmul_rate=round(flops / seconds / mesh.size / rate, 3),
    with_reference=round(4 / 3 * flops / (seconds + ref_seconds) / mesh.size / rate, 3),
    peak_mb=machine.peak_mb(),
    compiles=compiles.count,
    compile_seconds=round(compiles.seconds, 1),
  )


def decoder_config(shape: str, layers: int = 0, vocab: int = 0) -> DecoderConfig:
  """Returns a published shape, with other layers or vocabulary if not 0."""
  config = config_json.from_hf(SHAPES[shape], shape)
  if layers:
    config = dataclasses.replace(config, layers=layers, kind_of_layer=config.kind_of_layer[:1] * layers)
  return dataclasses.replace(config, vocab=vocab) if vocab else config


def update_spec(setting: Setting, config: DecoderConfig, mesh: Mesh) -> updates.UpdateSpec:
  return updates.UpdateSpec(
    config=config,
    dtype=jnp.dtype(setting.dtype),
    group=GROUP,
    micro_batches=setting.micro_batches,
    kl_form='k1_togo',
    importance_cap=0.0,
    remat=setting.remat,
    logits_mb=setting.logits_mb,
    attempt_gradient_norms=setting.attempt_gradient_norms,
    attention=flash.best(config, setting.dtype, mesh),
    shards=meshes.row_shards(mesh),
  )


def placed(config: DecoderConfig, optimizer: Any, mesh: Mesh, dtype: Any) -> tuple[Any, Any]:
  """Returns a random f32 state, and its parameters in `dtype` as the reference."""
  table = weights.weight_table(config)
  shardings = meshes.params(mesh, table, meshes.TRAINING_RULES)
  params = random_params(config, jnp.float32, shardings)
  cast = jax.jit(lambda tree: jax.tree.map(lambda x: x.astype(dtype), tree), out_shardings=shardings)
  return runs.fresh_state(params, optimizer, mesh, table), cast(params)


def _random_batch(setting: Setting, config: DecoderConfig) -> Batch:
  """Draws rows whose first quarter is the prompt, the rest two attempts."""
  rng = np.random.default_rng(0)
  shape = setting.rows, setting.slots
  length = np.full(shape[:1], setting.slots, np.int32)
  if setting.mean_length:
    length = np.clip(rng.geometric(1 / setting.mean_length, shape[:1]), 8, setting.slots).astype(np.int32)
  share = np.arange(setting.slots)[None] / length[:, None]
  return Batch(
    tokens=rng.integers(0, config.vocab, shape).astype(np.int32),
    attempt=np.select([share < 0.25, share < 0.625, share < 1], [0, 1, 2]).astype(np.int8),
    sampler_logp=np.zeros(shape, np.float32),
    length=length,
    verdict=rng.integers(0, 2, (setting.rows, 2)).astype(np.int8),
    trained=np.ones((setting.rows, 2), bool),
  )


def _stage() -> StageValues:
  values = dict(reward_weights=(1.0, 1.0), bonus=(0.0, 10.0), kl_weights=(0.01, 0.01), gamma=0.0, learning_rate=1e-6)
  return StageValues(**{name: jnp.asarray(value, jnp.float32) for name, value in values.items()})
