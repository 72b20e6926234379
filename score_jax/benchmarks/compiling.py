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
from score_jax.models import flash
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


def measure(setting: Setting) -> dict[str, Any]:
  """One line of results: for each program compile seconds, bytes a chip, and its collectives."""
  mesh = topology_mesh(setting.topology, setting.mesh)
  config = benches.decoder_config(setting.shape)
  table = weights.weight_table(config)
  dtype = jnp.dtype('bfloat16')
  optimizer = optim.make_optimizer(benches.ADAM, table)
  whole = meshes.replicated(mesh)

  def tree(kind: Any, rules: dict[str, str]) -> Any:
    return _placed(table.abstract(kind), meshes.params(mesh, table, rules))

  def array(shape: tuple[int, ...], kind: Any, sharding: Any = None) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, kind, sharding=sharding or meshes.rows(mesh))

  trained = tree(jnp.float32, meshes.TRAINING_RULES)
  reference = tree(dtype, meshes.TRAINING_RULES)
  moments = jax.eval_shape(optimizer.init, table.abstract(jnp.float32))
  number = array((), jnp.int32, whole)
  state = TrainState(
    step=number,
    params=trained,
    opt_state=_placed(moments, meshes.opt_state(mesh, optimizer, table)),
    rejected=number,
    rejected_in_a_row=number,
  )
  spec = RolloutSpec(
    budgets=setting.budgets,
    feeds=(tuple(range(setting.instruction)),) * (len(setting.budgets) - 1),
    end_of_turn=0,
    stops=(0,),
    pad=0,
  )
  B, A, L = setting.rows, len(setting.budgets), setting.prompt + spec.growth
  batch = Batch(
    tokens=array((B, L), jnp.int32),
    attempt=array((B, L), jnp.int8),
    sampler_logp=array((B, L), jnp.float32),
    length=array((B,), jnp.int32),
    verdict=array((B, A), jnp.int8),
    trained=array((B, A), jnp.bool_),
  )
  scored = batch.replace(ref_logp=array((B, L), jnp.float32))
  pair, one = array((A,), jnp.float32, whole), array((), jnp.float32, whole)
  stage = StageValues(pays=pair, bonus=pair, kl=pair, gamma=one, learning_rate=one)
  update_spec = updates.UpdateSpec(
    config=config,
    dtype=dtype,
    group=benches.GROUP,
    micro_batches=setting.micro_batches,
    kl_form='k1_togo',
    importance_cap=0.0,
    remat=setting.remat,
    logits_mb=setting.logits_mb,
    attempt_gradient_norms=False,
    how=flash.best(config, dtype, mesh),
    shards=meshes.row_shards(mesh),
  )
  layout = sampler.laid_out.lower(trained, config=config, dtype=dtype, mesh=mesh)
  programs = {}
  laid, programs['layout'] = _compiled(layout)
  rollout = rollouts.compiled.lower(
    _placed(layout.out_info, laid.output_shardings),
    array((B, setting.prompt), jnp.int32),
    array((B,), jnp.int32),
    array((B,), jnp.int32),
    jax.ShapeDtypeStruct((), jax.random.key(0).dtype, sharding=whole),
    array((B, setting.budgets[0]), jnp.int32),
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
