"""The programs of a run, compiled for a TPU topology on a machine without a TPU: do they compile, do they fit, what do
they send.

Needs libtpu (`pip install 'jax[tpu]'`), whose compiler runs anywhere. Nothing is executed and no memory is taken.
"""

import dataclasses
import os
import re
import time
from typing import Any

import jax
from jax.experimental import topologies
import jax.numpy as jnp
from jax.sharding import Mesh

from score_jax.benchmarks import updates as benches
from score_jax.errors import ConfigError
from score_jax.models import weights
from score_jax.parallel import mesh as meshes
from score_jax.sampling import rollout as rollouts
from score_jax.sampling import sampler
from score_jax.sampling.rollout import RolloutSpec
from score_jax.states import Batch
from score_jax.states import StageValues
from score_jax.states import TrainState
from score_jax.training import optim
from score_jax.training import update as updates

# A search for TPUs by libtpu where there are none would take minutes.
_NO_TPU_HERE = {
  'TPU_SKIP_MDS_QUERY': '1',
  'TPU_ACCELERATOR_TYPE': 'v5litepod-16',
  'TPU_WORKER_HOSTNAMES': 'localhost',
}
_COLLECTIVE = re.compile(r'= (.*?) (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(-start)?\(')
_ARRAY = re.compile(r'\b(pred|[sufbc]+\d+)\[([\d,]*)\]')


@dataclasses.dataclass(frozen=True)
class Setting:
  """What is compiled."""

  shape: str
  topology: str  # e.g. v5e:4x4
  mesh: tuple[int, int, int]
  rows: int  # B, over all chips
  prompt: int
  budgets: tuple[int, ...]
  instruction: int
  micro_batches: int
  remat: str
  logits_mb: float
  attempt_gradient_norms: bool
  dtype: str


def measure(setting: Setting) -> dict[str, Any]:
  """One line of results: for each program compile seconds, bytes a chip, and its collectives."""
  mesh = topology_mesh(setting.topology, setting.mesh)
  config = benches.decoder_config(setting.shape)
  table, dtype = weights.weight_table(config), jnp.dtype(setting.dtype)
  optimizer = optim.make_optimizer(benches.ADAM, table)
  spec = RolloutSpec(
    budgets=setting.budgets,
    feeds=(tuple(range(setting.instruction)),) * (len(setting.budgets) - 1),
    end_of_turn=0,
    stops=(0,),
    pad=0,
  )
  update_spec = benches.update_spec(setting, config, mesh)
  state = _state(table, optimizer, mesh)
  reference = _placed(table.abstract(dtype), meshes.params(mesh, table, meshes.TRAINING_RULES))
  batch, stage = _batch(setting.rows, setting.prompt + spec.growth, len(setting.budgets), mesh)
  scored = batch.replace(ref_logp=batch.sampler_logp)
  layout = sampler.laid_out.lower(state.params, config=config, dtype=dtype, mesh=mesh)
  programs = {}
  laid, programs['layout'] = _compiled(layout)
  rollout = rollouts.compiled.lower(
    _placed(layout.out_info, laid.output_shardings),
    _rows(mesh, jnp.int32, setting.rows, setting.prompt),
    batch.length,
    batch.length,
    _whole(mesh, jax.random.key(0).dtype),
    _rows(mesh, jnp.int32, setting.rows, setting.budgets[0]),
    config=config,
    spec=spec,
    dtype=dtype,
    mesh=mesh,
  )
  scores = updates.reference_logps.lower({}, reference, batch, spec=update_spec)
  update = updates.update.lower(state, {}, None, scored, stage, spec=update_spec, optimizer=optimizer)
  for name, lowered in (('rollout', rollout), ('reference', scores), ('update', update)):
    _, programs[name] = _compiled(lowered)
  return dict(
    bench='compile',
    **dataclasses.asdict(setting),
    attention=update_spec.how.kind,
    programs=programs,
  )


def _rows(mesh: Mesh, dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(shape, dtype, sharding=meshes.rows(mesh))


def _whole(mesh: Mesh, dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(shape, dtype, sharding=meshes.replicated(mesh))


def _state(table: weights.WeightTable, optimizer: Any, mesh: Mesh) -> TrainState:
  """Shapes and shardings of a state that trains all weights."""
  params = table.abstract(jnp.float32)
  number = _whole(mesh, jnp.int32)
  return TrainState(
    step=number,
    params=_placed(params, meshes.params(mesh, table, meshes.TRAINING_RULES)),
    opt_state=_placed(jax.eval_shape(optimizer.init, params), meshes.opt_state(mesh, optimizer, table)),
    rejected=number,
    rejected_in_a_row=number,
  )


def _batch(B: int, L: int, A: int, mesh: Mesh) -> tuple[Batch, StageValues]:
  """Shapes and shardings of a graded batch, yet to be scored by the reference, and of its stage."""
  batch = Batch(
    tokens=_rows(mesh, jnp.int32, B, L),
    attempt=_rows(mesh, jnp.int8, B, L),
    sampler_logp=_rows(mesh, jnp.float32, B, L),
    length=_rows(mesh, jnp.int32, B),
    verdict=_rows(mesh, jnp.int8, B, A),
    trained=_rows(mesh, jnp.bool_, B, A),
  )
  attempts, one = _whole(mesh, jnp.float32, A), _whole(mesh, jnp.float32)
  return batch, StageValues(pays=attempts, bonus=attempts, kl=attempts, gamma=one, learning_rate=one)


def topology_mesh(topology: str, axes: tuple[int, int, int]) -> Mesh:
  """A mesh over the chips of a topology that need not be here.

  Raises:
    ConfigError: there is no TPU compiler, or no such topology.
  """
  for name, value in _NO_TPU_HERE.items():
    os.environ.setdefault(name, value)
  try:
    devices = topologies.get_topology_desc(platform='tpu', topology_name=topology).devices
  except Exception as error:  # the runtime's own error, of no public type
    raise ConfigError(
      f"--topology={topology} can not be compiled for: {error}; it takes libtpu (pip install 'jax[tpu]') and a name "
      'like v5e:4x4'
    ) from error
  return meshes.make_mesh(*axes, devices)


def _placed(shapes: Any, shardings: Any) -> Any:
  return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)


def _compiled(lowered: Any) -> tuple[Any, dict[str, Any]]:
  """A program, and what is said of it; MB are of one chip."""
  begun = time.perf_counter()
  compiled = lowered.compile()
  seconds = time.perf_counter() - begun
  memory = compiled.memory_analysis()
  return compiled, dict(
    seconds=round(seconds, 1),
    arguments_mb=round(memory.argument_size_in_bytes / 1e6),
    results_mb=round((memory.output_size_in_bytes - memory.alias_size_in_bytes) / 1e6),
    temporary_mb=round(memory.temp_size_in_bytes / 1e6),
    collectives=collectives(compiled.as_text()),
  )


def collectives(program: str) -> dict[str, dict[str, float]]:
  """Of each kind: how many there are in a program's text (in a loop: once), and the MB that they yield on a chip."""
  found: dict[str, dict[str, float]] = {}
  for match in _COLLECTIVE.finditer(program):
    entry = found.setdefault(match[2], dict(count=0, mb=0.0))
    entry['count'] += 1
    arrays = _ARRAY.findall(match[1])
    # An asynchronous one yields its operand as well; its result is the last.
    for kind, shape in arrays[-1:] if match[3] else arrays:
      size = 1 if kind == 'pred' else max(1, int(re.sub(r'\D', '', kind)) // 8)
      for extent in filter(None, shape.split(',')):
        size *= int(extent)
      entry['mb'] = round(entry['mb'] + size / 1e6, 3)
  return found
