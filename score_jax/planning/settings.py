"""From a configuration to what its programs are compiled for, and to the flags that make another one of it."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np

from score_jax.config import RunConfig
from score_jax.errors import DataError
from score_jax.models import config_json
from score_jax.models.families import DecoderConfig
from score_jax.models.shapes import SHAPES
from score_jax.parallel import mesh as meshes
from score_jax.planning.programs import Plan
from score_jax.sampling.rollout import RolloutSpec
from score_jax.storage import hf
from score_jax.training import batches
from score_jax.training import run as runs
from score_jax.training import specs

# Fields that the search changes, and their flags.
FIELDS = {
  'config.mesh.data': lambda config: config.mesh.data,
  'config.mesh.fsdp': lambda config: config.mesh.fsdp,
  'config.mesh.tensor': lambda config: config.mesh.tensor,
  'config.sampling.decode_slots': lambda config: config.sampling.decode_slots,
  'config.batch.micro_batches': lambda config: config.batch.micro_batches,
  'config.batch.pack': lambda config: config.batch.pack,
  'config.model.remat': lambda config: config.model.remat,
  'config.model.logits_mb': lambda config: config.model.logits_mb,
}


def compute_dtype(config: RunConfig, platform: str) -> Any:
  """The compute dtype of a run on other devices than those here."""
  name = config.model.dtype
  return jnp.dtype(('float32' if platform == 'cpu' else 'bfloat16') if name == 'auto' else name)


def model_of(config: RunConfig, model: str, instruction: int) -> tuple[DecoderConfig, RolloutSpec]:
  """The decoder and the rollout's settings of a folder, or of a published shape.

  Args:
    config: of the run.
    model: a folder, a name of `SHAPES`, or '' for config.model.path.
    instruction: tokens between attempts, where there is no tokenizer.

  Raises:
    UserError: it is neither, or its template fails.
  """
  if model in SHAPES:
    return config_json.from_hf(SHAPES[model], model), assumed_rollout(config, instruction)
  try:
    folder = hf.folder_of(model or config.model.path)
  except DataError as error:
    raise DataError(f'{error}; without a folder: --model=NAME of a shape, one of {", ".join(SHAPES)}') from error
  sampler = runs.open_sampler(config, folder, meshes.make_mesh(-1, 1, 1, jax.devices('cpu')[:1]))
  return sampler.config, sampler.spec()


def assumed_rollout(config: RunConfig, instruction: int) -> RolloutSpec:
  """A rollout's settings without a tokenizer: so many ids are fed between attempts."""
  return RolloutSpec(
    budgets=config.sampling.attempt_tokens,
    separators=(tuple(range(instruction)),) * (config.attempts - 1),
    end_of_turn=0,
    stops=(0,),
    pad=0,
    decode_slots=config.sampling.decode_slots,
    cache_dtype=config.sampling.cache_dtype,
  )


def plan_of(config: RunConfig, decoder: DecoderConfig, rollout: RolloutSpec, dtype: Any, mesh: Mesh) -> Plan:
  """What is compiled for a configuration on a mesh; packed updates for streams that are full.

  Raises:
    ConfigError: the mesh can not share out the batch.
  """
  specs.check_spread(config, mesh)
  dtype = jnp.dtype(dtype)
  update, rollout = (
    specs.update_spec(config, decoder, dtype, mesh),
    dataclasses.replace(rollout, decode_slots=config.sampling.decode_slots),
  )
  length = config.sampling.prompt_tokens + rollout.growth
  if config.batch.pack:
    shards = meshes.row_shards(mesh)
    full = np.full(config.rows, length)
    places = batches.stream_places(full, length, config.batch.samples, shards, config.batch.micro_batches)
    update = dataclasses.replace(update, places=places)
  return Plan(
    decoder=decoder,
    lora=config.lora,
    optim=config.optim,
    mesh=mesh,
    dtype=dtype,
    rollout=rollout,
    update=update,
    prompt=config.sampling.prompt_tokens,
    rows=config.rows,
  )


def references(config: RunConfig) -> int:
  """Copies of the trained weights that stages keep as references of their own, at the same time."""
  return int(any(stage.reference == 'stage_start' for stage in config.stage_runs))


def changed(config: RunConfig, **fields: Any) -> RunConfig:
  """A configuration with other values of `FIELDS`, by the last words of their names."""
  sections: dict[str, dict[str, Any]] = {}
  for flag in FIELDS:
    _, section, name = flag.split('.')
    if name in fields:
      sections.setdefault(section, {})[name] = fields.pop(name)
  if fields:
    raise ValueError(f'{", ".join(fields)}: not among the fields of a search')
  parts = {section: dataclasses.replace(getattr(config, section), **values) for section, values in sections.items()}
  return dataclasses.replace(config, **parts)


def flags_between(before: RunConfig, after: RunConfig) -> list[str]:
  """The flags that make `after` of `before`."""
  pairs = ((flag, read(before), read(after)) for flag, read in FIELDS.items())
  return [
    f'--{flag}={new:g}' if isinstance(new, float) else f'--{flag}={new}' for flag, old, new in pairs if old != new
  ]
