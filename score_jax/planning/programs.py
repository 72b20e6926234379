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
from score_jax.planning import chips
from score_jax.planning import collectives
from score_jax.planning.collectives import Sent
from score_jax.sampling import rollout as rollouts
from score_jax.sampling import sampler
from score_jax.sampling.rollout import RolloutSpec
from score_jax.states import Batch
from score_jax.states import StageValues
from score_jax.states import TrainState
from score_jax.training import optim
from score_jax.training import specs
from score_jax.training import update as updates
from score_jax.training.update import UpdateSpec

NAMES = ('layout', 'rollout', 'reference', 'update')
# libtpu looks for TPUs where there are none, for minutes, and for other processes that use it.
_NO_TPU_HERE = {
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
  'TPU_SKIP_MDS_QUERY': '1',
  'TPU_ACCELERATOR_TYPE': 'v5litepod-16',
  'TPU_WORKER_HOSTNAMES': 'localhost',
}
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

  @property
  def trained(self) -> weights.WeightTable:
    """The weights that training changes."""
    return loras.trained_table(self.decoder, self.lora)

  @property
  def length(self) -> int:
    """L."""
    return self.prompt + self.rollout.growth


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
  sent: tuple[Sent, ...]
  refused: bool = False  # the compiler found that it does not fit; then only `peak` is known


def topology_mesh(topology: str, axes: tuple[int, int, int]) -> Mesh:
  """A mesh over the chips of a topology that need not be here.

  Raises:
    ConfigError: there is no TPU compiler, or no such topology.
  """
  chip, _ = chips.of_topology(topology)
  for name, value in _NO_TPU_HERE.items():
    os.environ.setdefault(name, value)
  try:
    found = topologies.get_topology_desc(platform='tpu', topology_name=topology, **dict(chip.settings))
  except Exception as error:  # the runtime's own error, of no public type
    raise ConfigError(
      f"--topology={topology} can not be compiled for: {error}; it takes libtpu (pip install 'jax[tpu]') and a name "
      'like v5e:4x4'
    ) from error
  return meshes.make_mesh(*axes, found.devices)


def compiled(plan: Plan, name: str) -> tuple[Program, str]:
  """A program and its text; the text is '' where the compiler refused it for its size."""
  begun = time.perf_counter(), time.process_time()
  traced = dict(rollout=_rollout, reference=_reference, update=_update)
  try:
    with meshes.by_rows_compiles(plan.mesh):
      built, text = _layout(*_layout_key(plan))[:2] if name == 'layout' else _built(traced[name](plan), plan.mesh)
  except jax.errors.JaxRuntimeError as error:
    needs = _NEEDS.search(str(error))
    if 'RESOURCE_EXHAUSTED' not in str(error) or not needs:
      raise
    peak = int(float(needs[1]) * _SCALE[needs[2]])
    return Program(name, *_since(begun), 0, 0, 0, peak, (), refused=True), ''
  seconds = _since(begun)
  memory = built.memory_analysis()
  arguments, temporary = memory.argument_size_in_bytes, memory.temp_size_in_bytes
  results = memory.output_size_in_bytes - memory.alias_size_in_bytes
  # The sum: XLA's own `peak_memory_in_bytes` was 0.3 % below it where both were looked at (an update on v5e).
  peak = arguments + results + temporary
  return Program(name, *seconds, arguments, results, temporary, peak, collectives.sent(text)), text


def _since(begun: tuple[float, float]) -> tuple[float, float]:
  return time.perf_counter() - begun[0], time.process_time() - begun[1]


def _built(traced: Any, mesh: Mesh) -> tuple[Any, str]:
  """Compiled, with the optimized program's text.

  TPU: as the compiler writes it to a file, because jaxlib can't read back all that a newer libtpu can say (0.10.2 and
  0.0.52: work that is handed to the sparse cores of a v5p).
  """
  if mesh.devices.flat[0].platform != 'tpu':
    built = traced.compile()
    return built, built.as_text()
  with tempfile.TemporaryDirectory() as folder:
    built = traced.compile(compiler_options=dict(xla_dump_to=folder, xla_dump_hlo_as_text=True))
    texts = sorted(pathlib.Path(folder).glob('*after_optimizations.txt'))
    return built, texts[-1].read_text() if texts else built.as_text()


def _rows(mesh: Mesh, dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(shape, dtype, sharding=meshes.rows(mesh))


def _whole(mesh: Mesh, dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(shape, dtype, sharding=meshes.replicated(mesh))


def weights_in(mesh: Mesh, table: weights.WeightTable, dtype: Any) -> Any:
  """Shapes of a table's weights in the training layout."""
  return specs.placed(table.abstract(dtype), meshes.params(mesh, table, meshes.TRAINING_RULES))


def base(plan: Plan) -> Any:
  """Shapes of the base, which is reference and, under adapters, frozen policy."""
  return weights_in(plan.mesh, weights.weight_table(plan.decoder), plan.dtype)


@functools.lru_cache
def _optimizer(settings: OptimConfig, decoder: DecoderConfig, lora: Lora) -> Any:
  return optim.make_optimizer(settings, loras.trained_table(decoder, lora))


def state(plan: Plan) -> TrainState:
  """Shapes of what is trained, with the optimizer's moments."""
  return specs.abstract_state_of(plan.mesh, plan.trained, _optimizer(plan.optim, plan.decoder, plan.lora))


def _layout_key(plan: Plan) -> tuple[Any, ...]:
  return plan.decoder, plan.lora, jnp.dtype(plan.dtype), plan.mesh


@functools.lru_cache(maxsize=2)
def _layout(decoder: DecoderConfig, lora: Lora, dtype: Any, mesh: Mesh) -> tuple[Any, str, Any]:
  """The layout's program, its text, and the shapes and places of what it makes, which the rollout is given."""
  policy = weights_in(mesh, weights.weight_table(decoder), dtype if lora.rank else jnp.float32)
  if lora.rank:
    adapters = weights_in(mesh, loras.trained_table(decoder, lora), jnp.float32)
    policy = {**policy, 'layers': {**policy['layers'], **adapters['layers']}}
  traced = sampler.laid_out.lower(policy, config=decoder, dtype=dtype, mesh=mesh, lora=lora)
  built, text = _built(traced, mesh)
  return built, text, specs.placed(traced.out_info, built.output_shardings)


def _rollout(plan: Plan) -> Any:
  mesh, B = plan.mesh, plan.rows
  number = _rows(mesh, jnp.int32, B)
  return rollouts.compiled.lower(
    _layout(*_layout_key(plan))[2],
    _rows(mesh, jnp.int32, B, plan.prompt),
    number,
    number,
    _whole(mesh, jax.random.key(0).dtype),
    _rows(mesh, jnp.int32, B, plan.rollout.budgets[0]),
    config=plan.decoder,
    spec=plan.rollout,
    dtype=jnp.dtype(plan.dtype),
    mesh=mesh,
  )


def _batch(plan: Plan) -> Batch:
  """A batch that is neither graded nor scored."""
  B, L, A, mesh = plan.rows, plan.length, plan.rollout.attempts, plan.mesh
  return Batch(
    tokens=_rows(mesh, jnp.int32, B, L),
    attempt=_rows(mesh, jnp.int8, B, L),
    sampler_logp=_rows(mesh, jnp.float32, B, L),
    length=_rows(mesh, jnp.int32, B),
    verdict=None,
    trained=_rows(mesh, jnp.bool_, B, A),
  )


def _references(plan: Plan) -> tuple[Any, Any]:
  """`frozen` and `reference` of the base."""
  return (base(plan), {}) if plan.lora.rank else ({}, base(plan))


def _reference(plan: Plan) -> Any:
  return updates.reference_logps.lower(*_references(plan), _batch(plan), spec=plan.update)


def _update(plan: Plan) -> Any:
  mesh, batch = plan.mesh, _batch(plan)
  batch = batch.replace(verdict=_rows(mesh, jnp.int8, plan.rows, plan.rollout.attempts))
  frozen, reference = _references(plan)
  if not plan.update.reference_in_update:
    reference, batch = None, batch.replace(ref_logp=batch.sampler_logp)
  # As `step.stage_values` makes them: on one device, copied to all.
  attempts, one = _whole(mesh, jnp.float32, plan.rollout.attempts), _whole(mesh, jnp.float32)
  stage = StageValues(reward_weights=attempts, bonus=attempts, kl_weights=attempts, gamma=one, learning_rate=one)
  optimizer = _optimizer(plan.optim, plan.decoder, plan.lora)
  return updates.update.lower(state(plan), frozen, reference, batch, stage, spec=plan.update, optimizer=optimizer)
