# SPDX-License-Identifier: Apache-2.0
"""The programs of a step or an evaluation, compiled as a run compiles them, but from shapes: nothing is loaded or run.

layout     parameters from the training layout to the sampler's
rollout    every conversation of the step
reference  the batch's log-probabilities under the reference
update     loss, gradient and optimizer
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
from score_jax.parallel import mesh as meshes
from score_jax.planning import collectives, traffic
from score_jax.sampling import rollout as rollouts
from score_jax.sampling import sampler
from score_jax.sampling.spec import RolloutSpec
from score_jax.states import Batch, StageValues
from score_jax.training import optim, specs
from score_jax.training import update as updates

NAMES = ('layout', 'rollout', 'reference', 'update')
# By config.mode; and of `score_jax.evaluate`.
OF_MODE = dict(score=NAMES, supervised=('layout', 'rollout', 'update'), evaluate=('layout', 'rollout'))
# Else libtpu looks for TPUs, for minutes, and for other processes that use it.
_NO_TPU = dict(
  ALLOW_MULTIPLE_LIBTPU_LOAD='1',
  TPU_SKIP_MDS_QUERY='1',
  TPU_ACCELERATOR_TYPE='v5litepod-16',
  TPU_WORKER_HOSTNAMES='localhost',
)
_ONE_CHIP = re.compile(r'\w+:1x1(?:x1)?')
_NEEDS = re.compile(r'(?:memory required\D*|Used )\(?([\d.]+)([KMGT])')


@dataclasses.dataclass(frozen=True)
class Plan:
  """What decides the programs of a step."""

  decoder: DecoderConfig
  lora: loras.Lora
  optim: OptimConfig
  mesh: Mesh
  sampling_mesh: Mesh  # over the same devices
  dtype: Any  # compute dtype
  rollout: RolloutSpec
  update: updates.UpdateSpec
  prompt: int  # P
  rows: int  # B, over all devices
  references: int = 0  # copies of the trained weights that stages keep
  mode: str = 'score'  # of OF_MODE
  scored: bool = False  # by reward functions, not verdicts alone

  @property
  def names(self) -> tuple[str, ...]:
    """The programs that it runs."""
    return OF_MODE[self.mode]

  @property
  def table(self) -> weights.WeightTable:
    return weights.weight_table(self.decoder)

  @property
  def trained(self) -> weights.WeightTable:
    return loras.trained_table(self.decoder, self.lora)

  @property
  def length(self) -> int:
    return self.prompt + self.rollout.growth

  @property
  def local_rows(self) -> int:
    """Rows that a device scores."""
    return self.rows // meshes.row_shards(self.mesh)

  @property
  def sampled_rows(self) -> int:
    """Rows that a device, or a group of tensor-parallel ones, samples."""
    return self.rows // meshes.row_shards(self.sampling_mesh)

  @property
  def decode_slots(self) -> int:
    """Rows that it decodes at a time."""
    return min(self.rollout.decode_slots or self.sampled_rows, self.sampled_rows)

  def deciding(self, name: str) -> 'Plan':
    """Returns what decides one program: plans that are equal in it share the program."""
    if name in ('reference', 'update'):
      slots = dataclasses.replace(self.rollout, decode_slots=0)
      return dataclasses.replace(self, rollout=slots, sampling_mesh=self.mesh)
    rollout = self.rollout if name == 'rollout' else None
    return dataclasses.replace(self, rollout=rollout, update=None)


@dataclasses.dataclass(frozen=True)
class AbsentGpu:
  """What a mesh and a plan ask of a GPU that is not here."""

  id: int
  device_kind: str
  process_index: int = 0
  platform: str = 'gpu'


@dataclasses.dataclass(frozen=True)
class Program:
  """A compiled program; bytes are of one device."""

  name: str
  seconds: float  # of tracing and compiling
  cpu_seconds: float  # of this process for the same
  arguments: int
  results: int  # but those in the place of an argument
  temporary: int
  peak: int  # the sum of the three
  sent: tuple[collectives.Collectives, ...]
  step_bytes: int = 0  # of a TPU's rollout: what a decode step moves beside the kernel
  step_operations: int = 0  # of the same: what a decode step starts
  refused: bool = False  # for its size: only `peak` is known


def topology_devices(topology: str, **settings: Any) -> tuple[Any, ...]:
  """Returns a topology's devices; ConfigError: no TPU compiler, or no such topology."""
  os.environ.update(_NO_TPU | os.environ)
  if _ONE_CHIP.fullmatch(topology):  # else libtpu looks for a whole host's
    settings = dict(chips_per_host_bounds=(1, 1, 1)) | settings
  try:
    return tuple(topologies.get_topology_desc(topology, 'tpu', **settings).devices)
  except Exception as error:  # the runtime's, of no public type
    remedy = "it takes libtpu (pip install 'jax[tpu]') and a name like v5e:4x4"
    raise ConfigError(f'--topology={topology} cannot be compiled for: {error}; {remedy}') from error


def compiled(plan: Plan, name: str, *, read: bool = True) -> tuple[Program, str]:
  """Returns a program, compiled now or lately, and its text; '' where it is refused.

  Without `read` it has no text and no collectives, and a run in this process that comes to it will not compile it anew.
  """
  if name == 'rollout' and (layout := compiled(plan, 'layout', read=read)[0]).refused:
    return dataclasses.replace(layout, name=name), ''
  return _compiled(plan.deciding(name), name, read)[:2]


def sampling_policy(plan: Plan, read: bool = True) -> Any:
  """Returns the shapes of the sampler's policy, as the compiled layout yields them."""
  return _compiled(plan.deciding('layout'), 'layout', read)[2]


def weights_in(mesh: Mesh, table: weights.WeightTable, dtype: Any) -> Any:
  """Returns the shapes of a table's weights in the training layout."""
  return specs.placed(table.abstract(dtype), meshes.params(mesh, table, meshes.TRAINING_RULES))


@functools.lru_cache(maxsize=8)  # two settings
def _compiled(plan: Plan, name: str, read: bool) -> tuple[Program, str, Any]:
  """A program, its text, and the shapes of its results."""
  wall, cpu = time.perf_counter(), time.process_time()
  built, text, peak = None, '', 0
  try:
    with meshes.by_rows_compiles(plan.mesh):
      lowered = _rollout(plan, read) if name == 'rollout' else _LOWERED[name](plan)
      built, text = _read(lowered, plan.mesh) if read else (lowered.compile(), '')
  except jax.errors.JaxRuntimeError as error:
    needs = _NEEDS.search(str(error))
    if 'RESOURCE_EXHAUSTED' not in str(error) or not needs:
      raise
    peak = int(float(needs[1]) * 2 ** (10 * ' KMGT'.index(needs[2])))
  seconds = time.perf_counter() - wall, time.process_time() - cpu
  if built is None:
    return Program(name, *seconds, 0, 0, 0, peak, (), refused=True), text, None
  memory = built.memory_analysis()
  results = memory.output_size_in_bytes - memory.alias_size_in_bytes
  sizes = memory.argument_size_in_bytes, results, memory.temp_size_in_bytes
  # XLA's own `peak_memory_in_bytes` was 0.3 % below the sum (an update on v5e).
  sent = collectives.read(text) if read else ()
  program = Program(name, *seconds, *sizes, sum(sizes), sent)
  if read and name == 'rollout' and plan.rollout.kernel == 'mosaic':
    step_bytes = sum(one.bytes for one in traffic.decode_step(text)[0])
    program = dataclasses.replace(
      program, step_bytes=step_bytes, step_operations=sum(traffic.operations(text).values())
    )
  return program, text, specs.placed(built.out_info, built.output_shardings)


def _read(lowered: Any, mesh: Mesh) -> tuple[Any, str]:
  """Compiles a program; a TPU's text comes from a file: jaxlib 0.10.2 can't read all of libtpu 0.0.52."""
  if mesh.devices.flat[0].platform != 'tpu':
    built = lowered.compile()
    return built, built.as_text()
  with tempfile.TemporaryDirectory() as folder:
    built = lowered.compile(dict(xla_dump_to=folder, xla_dump_hlo_as_text=True))
    texts = sorted(pathlib.Path(folder).glob('*after_optimizations.txt'))
    return built, texts[-1].read_text() if texts else built.as_text()


def _rows(plan: Plan, dtype: Any, *shape: int, mesh: Mesh | None = None) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct((plan.rows, *shape), dtype, sharding=meshes.rows(mesh or plan.mesh))


def _number(*shape: int) -> jax.ShapeDtypeStruct:
  """Of the host's, which a call puts wherever the program wants it."""
  return jax.ShapeDtypeStruct(shape, jnp.float32)


def _layout(plan: Plan) -> Any:
  if plan.mode == 'evaluate':  # as `storage.hf` reads them
    shardings = meshes.params(plan.sampling_mesh, plan.table, meshes.SAMPLING_RULES)
    return _laid_out(plan, specs.placed(plan.table.abstract(plan.dtype), shardings))
  policy = weights_in(plan.mesh, plan.table, plan.dtype if plan.lora.rank else jnp.float32)
  if plan.lora.rank:
    adapters = weights_in(plan.mesh, plan.trained, jnp.float32)
    policy = policy | dict(layers=policy['layers'] | adapters['layers'])
  return _laid_out(plan, policy)


def _laid_out(plan: Plan, policy: Any) -> Any:
  options = dict(config=plan.decoder, dtype=plan.dtype, mesh=plan.sampling_mesh)
  return sampler.laid_out.lower(policy, lora=plan.lora, **options)


def _rollout(plan: Plan, read: bool) -> Any:
  mesh, key = plan.sampling_mesh, jax.ShapeDtypeStruct((), jax.random.key(0).dtype)
  number, prompts, forced = (
    _rows(plan, jnp.int32, *shape, mesh=mesh) for shape in ((), (plan.prompt,), plan.rollout.budgets[:1])
  )
  arguments = sampling_policy(plan, read), prompts, number, number, key, forced
  options = dict(config=plan.decoder, dtype=plan.dtype, mesh=mesh)
  return rollouts.program(mesh).lower(*arguments, spec=plan.rollout, **options)


def _scored(plan: Plan) -> tuple[Any, Any, Batch]:
  """Frozen weights, the reference and a batch that is not graded."""
  base = weights_in(plan.mesh, plan.table, plan.dtype)
  batch = Batch(
    tokens=_rows(plan, jnp.int32, plan.length),
    attempt=_rows(plan, jnp.int8, plan.length),
    sampler_logp=_rows(plan, jnp.float32, plan.length),
    length=_rows(plan, jnp.int32),
    verdict=None,
    trained=_rows(plan, jnp.bool_, plan.rollout.attempts),
  )
  return (base, {}, batch) if plan.lora.rank else ({}, base, batch)


def _update(plan: Plan) -> Any:
  frozen, reference, batch = _scored(plan)
  batch = batch.replace(verdict=_rows(plan, jnp.int8, plan.rollout.attempts))
  if not plan.update.reference_in_update:
    reference, batch = None, batch.replace(ref_logp=batch.sampler_logp)
  one = _number()
  if plan.scored:
    batch = batch.replace(score=_rows(plan, jnp.float32, plan.rollout.attempts))
  attempts = _number(plan.rollout.attempts)
  stage = StageValues(attempts, attempts, attempts, gamma=one, learning_rate=one)
  optimizer = optim.make_optimizer(plan.optim, plan.trained)
  state = specs.abstract_state_of(plan.mesh, plan.trained, optimizer)
  if plan.mode == 'supervised':
    spec = dataclasses.replace(plan.update, group=1)
    batch = batch.replace(verdict=None, ref_logp=None, score=None)
    return updates.supervised_update.lower(state, frozen, batch, one, spec=spec, optimizer=optimizer)
  return updates.update.lower(state, frozen, reference, batch, stage, spec=plan.update, optimizer=optimizer)


_LOWERED = dict(
  layout=_layout,
  reference=lambda plan: updates.reference_logps.lower(*_scored(plan), spec=plan.update),
  update=_update,
)
