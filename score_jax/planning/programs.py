"""The four programs of a step, as a run compiles them, built from shapes alone: nothing is loaded and nothing is run.

    layout     parameters from the training layout to the sampler's
    rollout    every conversation of the step
    reference  the batch's log-probabilities under the reference
    update     loss, gradient and optimizer

For a TPU topology they are compiled by the TPU's own compiler: it needs libtpu (`pip install 'jax[tpu]'`), but no TPU.
"""

import dataclasses
import functools
import os
import pathlib
import re
import tempfile
import time
from typing import Any

import jax
from jax.experimental import topologies
import jax.numpy as jnp
from jax.sharding import Mesh

from score_jax.config import OptimConfig
from score_jax.errors import ConfigError
from score_jax.models import lora as loras
from score_jax.models import weights
from score_jax.models.families import DecoderConfig
from score_jax.models.lora import Lora
from score_jax.parallel import mesh as meshes
from score_jax.planning import collectives
from score_jax.planning.collectives import Collectives
from score_jax.sampling import rollout as rollouts
from score_jax.sampling import sampler
from score_jax.sampling.rollout import RolloutSpec
from score_jax.states import Batch
from score_jax.states import StageValues
from score_jax.training import optim
from score_jax.training import specs
from score_jax.training import update as updates
from score_jax.training.update import UpdateSpec

# libtpu looks for TPUs where there are none, for minutes, and for other processes that use it.
_NO_TPU_HERE = {
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
  'TPU_SKIP_MDS_QUERY': '1',
  'TPU_ACCELERATOR_TYPE': 'v5litepod-16',
  'TPU_WORKER_HOSTNAMES': 'localhost',
}
NAMES = ('layout', 'rollout', 'reference', 'update')
_NEEDS = re.compile(r'(?:memory required\D*|Used )\(?([\d.]+)([KMGT])')
_SCALE = {'K': 1 << 10, 'M': 1 << 20, 'G': 1 << 30, 'T': 1 << 40}


@dataclasses.dataclass(frozen=True)
class Plan:
  """What decides the programs of a step."""

  decoder: DecoderConfig
  lora: Lora
  optim: OptimConfig
  mesh: Mesh
  dtype: Any  # compute dtype
  rollout: RolloutSpec
  update: UpdateSpec
  prompt: int  # P
  rows: int  # B, over all devices
  references: int = 0  # copies of the trained weights that stages keep as their references at the same time

  @property
  def trained(self) -> weights.WeightTable:
    """The weights that training changes."""
    return loras.trained_table(self.decoder, self.lora)

  @property
  def length(self) -> int:
    """L."""
    return self.prompt + self.rollout.growth

  @property
  def shards(self) -> int:
    """Devices that rows are spread over."""
    return meshes.row_shards(self.mesh)

  @property
  def decode_slots(self) -> int:
    """Rows that a device decodes at a time."""
    local = self.rows // self.shards
    return min(self.rollout.decode_slots or local, local)

  def deciding(self, name: str) -> 'Plan':
    """Returns what decides one program: plans that are equal in it share the program."""
    weights_alone = dict(optim=None, rollout=None, update=None, prompt=0, rows=0)
    slots = dict(rollout=dataclasses.replace(self.rollout, decode_slots=0))
    others = dict(layout=weights_alone, rollout=dict(update=None), reference=slots, update=slots)
    return dataclasses.replace(self, **others[name])


@dataclasses.dataclass(frozen=True)
class Program:
  """A compiled program; bytes are of one device."""

  name: str
  seconds: float  # of tracing and compiling
  cpu_seconds: float  # the same in time of this process, which a busy machine does not stretch
  arguments: int
  results: int  # beside those that take the place of an argument
  temporary: int
  peak: int  # arguments, results and temporaries at the worst moment
  sent: tuple[Collectives, ...]
  refused: bool = False  # the compiler judged that it does not fit; then only `peak` is known


def topology_devices(topology: str, **settings: str) -> tuple[Any, ...]:
  """Returns the devices of a topology that need not be here.

  Raises:
    ConfigError: there is no TPU compiler, or no such topology.
  """
  for name, value in _NO_TPU_HERE.items():
    os.environ.setdefault(name, value)
  try:
    return tuple(topologies.get_topology_desc(topology, 'tpu', **settings).devices)
  except Exception as error:  # the runtime's own error, of no public type
    raise ConfigError(
      f"--topology={topology} cannot be compiled for: {error}; it takes libtpu (pip install 'jax[tpu]') and a name "
      'like v5e:4x4'
    ) from error


def compiled(plan: Plan, name: str) -> tuple[Program, str]:
  """Returns a program and its text; the text is '' where the compiler refused it for its size."""
  traced = dict(rollout=_rollout, reference=functools.partial(_update, reference_alone=True), update=_update)
  wall, cpu = time.perf_counter(), time.process_time()
  built, text, peak = None, '', 0
  try:
    with meshes.by_rows_compiles(plan.mesh):
      built, text = _layout(plan.deciding(name)) if name == 'layout' else _built(traced[name](plan), plan.mesh)
  except jax.errors.JaxRuntimeError as error:
    needs = _NEEDS.search(str(error))
    if 'RESOURCE_EXHAUSTED' not in str(error) or not needs:
      raise
    peak = int(float(needs[1]) * _SCALE[needs[2]])
  seconds = time.perf_counter() - wall, time.process_time() - cpu
  if built is None:
    return Program(name, *seconds, 0, 0, 0, peak, (), refused=True), ''
  memory = built.memory_analysis()
  arguments, temporary = memory.argument_size_in_bytes, memory.temp_size_in_bytes
  results = memory.output_size_in_bytes - memory.alias_size_in_bytes
  # The sum: XLA's own `peak_memory_in_bytes` was 0.3 % below it where both were looked at (an update on v5e).
  peak = arguments + results + temporary
  return Program(name, *seconds, arguments, results, temporary, peak, collectives.read(text)), text


def _built(traced: Any, mesh: Mesh) -> tuple[Any, str]:
  """Compiles a program; returns it with the optimized program's text.

  On TPU the text is as the compiler writes it to a file, because jaxlib can't read back all that a newer libtpu can say
  (0.10.2 and 0.0.52: work that is handed to the sparse cores of a v5p).
  """
  if mesh.devices.flat[0].platform != 'tpu':
    built = traced.compile()
    return built, built.as_text()
  with tempfile.TemporaryDirectory() as folder:
    built = traced.compile(compiler_options=dict(xla_dump_to=folder, xla_dump_hlo_as_text=True))
    texts = sorted(pathlib.Path(folder).glob('*after_optimizations.txt'))
    return built, texts[-1].read_text() if texts else built.as_text()


def weights_in(mesh: Mesh, table: weights.WeightTable, dtype: Any) -> Any:
  """Returns the shapes of a table's weights in the training layout."""
  return specs.placed(table.abstract(dtype), meshes.params(mesh, table, meshes.TRAINING_RULES))


@functools.lru_cache(maxsize=2)
def _layout(plan: Plan) -> tuple[Any, str]:
  """The layout's program, whose results the rollout is given, and its text."""
  policy = weights_in(plan.mesh, weights.weight_table(plan.decoder), plan.dtype if plan.lora.rank else jnp.float32)
  if plan.lora.rank:
    adapters = weights_in(plan.mesh, plan.trained, jnp.float32)
    policy = {**policy, 'layers': {**policy['layers'], **adapters['layers']}}
  options = dict(config=plan.decoder, dtype=plan.dtype, mesh=plan.mesh, lora=plan.lora)
  return _built(sampler.laid_out.lower(policy, **options), plan.mesh)


def sampling_policy(plan: Plan) -> Any:
  """Returns the shapes of the sampler's copy of the policy, as the compiled layout yields them."""
  with meshes.by_rows_compiles(plan.mesh):
    built, _ = _layout(plan.deciding('layout'))
  return specs.placed(built.out_info, built.output_shardings)


def _array(plan: Plan, dtype: Any, *shape: int, whole: bool = False) -> jax.ShapeDtypeStruct:
  """An array with a row for each conversation, [B, *shape], or one that every device has as a whole."""
  if whole:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=meshes.replicated(plan.mesh))
  return jax.ShapeDtypeStruct((plan.rows, *shape), dtype, sharding=meshes.rows(plan.mesh))


def _rollout(plan: Plan) -> Any:
  prompts, number = _array(plan, jnp.int32, plan.prompt), _array(plan, jnp.int32)
  key, forced = _array(plan, jax.random.key(0).dtype, whole=True), _array(plan, jnp.int32, plan.rollout.budgets[0])
  options = dict(config=plan.decoder, spec=plan.rollout, dtype=plan.dtype, mesh=plan.mesh)
  return rollouts.compiled.lower(sampling_policy(plan), prompts, number, number, key, forced, **options)


def _update(plan: Plan, reference_alone: bool = False) -> Any:
  batch = Batch(
    tokens=_array(plan, jnp.int32, plan.length),
    attempt=_array(plan, jnp.int8, plan.length),
    sampler_logp=_array(plan, jnp.float32, plan.length),
    length=_array(plan, jnp.int32),
    verdict=None,
    trained=_array(plan, jnp.bool_, plan.rollout.attempts),
  )
  base = weights_in(plan.mesh, weights.weight_table(plan.decoder), plan.dtype)
  frozen, reference = (base, {}) if plan.lora.rank else ({}, base)
  if reference_alone:
    return updates.reference_logps.lower(frozen, reference, batch, spec=plan.update)
  batch = batch.replace(verdict=_array(plan, jnp.int8, plan.rollout.attempts))
  if not plan.update.reference_in_update:
    reference, batch = None, batch.replace(ref_logp=batch.sampler_logp)
  # As `step.stage_values` makes them: on one device, copied to all.
  attempts = _array(plan, jnp.float32, plan.rollout.attempts, whole=True)
  one = _array(plan, jnp.float32, whole=True)
  stage = StageValues(reward_weights=attempts, bonus=attempts, kl_weights=attempts, gamma=one, learning_rate=one)
  optimizer = optim.make_optimizer(plan.optim, plan.trained)
  state = specs.abstract_state_of(plan.mesh, plan.trained, optimizer)
  return updates.update.lower(state, frozen, reference, batch, stage, spec=plan.update, optimizer=optimizer)
