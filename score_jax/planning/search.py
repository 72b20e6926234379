# SPDX-License-Identifier: Apache-2.0
"""Whether a configuration fits, and the nearest that does: by estimates, then by the compiler.

Near means few and small changes. None changes a result, but for the order of sums.
"""

from collections.abc import Iterable
import contextlib
import dataclasses
import functools
import itertools
import math
import operator
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_jax.config import REMATS, RunConfig
from score_jax.errors import ConfigError, DataError
from score_jax.models import config_json
from score_jax.models.families import DecoderConfig
from score_jax.models.shapes import SHAPES
from score_jax.parallel import mesh as meshes
from score_jax.planning import costs, programs
from score_jax.sampling.spec import RolloutSpec, suited
from score_jax.storage import hf
from score_jax.training import batches, specs
from score_jax.training import run as runs

_MARGIN = 0.97  # of the memory that an estimate may fill
_UNKNOWN = 1.15  # times an estimate where nothing was compiled yet
_MOST_TENSOR = 16
_GAIN = 0.8  # of a floor, above which another mesh is not worth proposing
_LEAST_LOGITS_MB = 32.0

Changes = dict[str, Any]  # 'mesh.fsdp' -> its new value
Options = Iterable[tuple[float, Changes]]  # what each costs


@dataclasses.dataclass(frozen=True)
class Request:
  """What is to fit where."""

  config: RunConfig
  decoder: DecoderConfig
  rollout: RolloutSpec
  dtype: Any
  devices: tuple[Any, ...]
  chip: costs.Chip
  mode: str = 'score'  # of programs.OF_MODE
  rows: int = 0  # of an evaluation at a time; 0: those of a step
  brief: bool = False  # for a run that is about to begin: says nothing, and reads no collectives

  @functools.cached_property
  def settled(self) -> RunConfig:
    """What is asked for, with all that follows from device and model."""
    length = self.config.sampling.prompt_tokens + self.rollout.growth
    here = dict(platform=self.devices[0].platform, length=length, memory=self.chip.usable)
    return specs.settled(self.config, self.decoder, self.dtype, **here)

  def plan(self, changes: Changes) -> programs.Plan:
    """Returns what is compiled after changes; ConfigError: the mesh does not suit devices or batch."""
    config, dtype = changed(self.settled, changes), jnp.dtype(self.dtype)
    batch, prompt = config.batch, config.sampling.prompt_tokens
    mesh = meshes.make_mesh(*dataclasses.astuple(config.mesh), list(self.devices))
    sampling_mesh = meshes.sampling_mesh(mesh, **vars(config.sampling.mesh))
    if self.mode != 'evaluate':
      specs.check_spread(config, mesh, sampling_mesh)
    update = specs.update_spec(config, self.decoder, dtype, mesh)
    rollout = dataclasses.replace(self.rollout, decode_slots=config.sampling.decode_slots)
    rollout = suited(rollout, self.decoder, dtype, sampling_mesh)
    if batch.pack:  # for full streams
      full = np.full(config.rows, prompt + rollout.growth)
      packed = batches.packed_length(full, full[0], batch.samples, update.shards, batch.micro_batches)
      update = dataclasses.replace(update, packed_length=packed)
    references = any(stage.reference == 'stage_start' for stage in config.stage_runs)
    model = self.decoder, config.lora, config.optim, mesh, sampling_mesh, dtype
    rows, scored = self.rows or config.rows, bool(config.task.reward_weights)
    return programs.Plan(*model, rollout, update, prompt, rows, int(references), self.mode, scored)

  def flags(self, changes: Changes) -> list[str]:
    """Returns the flags that make the changes."""
    old = {name: operator.attrgetter(name)(self.settled) for name in changes}
    return [f'--config.{name}={new}' for name, new in changes.items() if new != old[name]]


def topology_request(config: RunConfig, topology: str, model: str, instruction: int) -> Request:
  """Returns the request for devices that need not be here; UserError: no such topology, model or compiler."""
  chip = costs.chip_of(topology)
  if model in SHAPES:  # else a folder
    decoder = config_json.from_hf(SHAPES[model], model)
    rollout = assumed_rollout(config, instruction)
  else:
    try:
      folder = hf.folder_of(model or config.model.path)
    except DataError as error:
      raise DataError(f'{error}; or --model=NAME, one of {", ".join(SHAPES)}') from error
    here = changed(config, {'sampling.mesh.data': 0, 'sampling.mesh.tensor': 0})
    sampler = runs.open_sampler(here, folder, meshes.make_mesh(-1, 1, 1, jax.devices('cpu')[:1]))
    decoder, rollout = sampler.config, sampler.spec()
  dtype = jnp.dtype(chip.dtype if config.model.dtype == 'auto' else config.model.dtype)
  return Request(config, decoder, rollout, dtype, _absent_devices(topology, chip), chip)


def _absent_devices(topology: str, chip: costs.Chip) -> tuple[Any, ...]:
  if gpus := costs.gpus_of(topology):
    return tuple(programs.AbsentGpu(number, chip.kind) for number in range(gpus))
  megacore = dict(chip_config_name='megacore') if chip.kind == 'TPU v4' else {}
  one, slices = costs.slices_of(topology)
  several = dict(num_slices=slices) if slices > 1 else {}
  return programs.topology_devices(one, **megacore, **several)


def assumed_rollout(config: RunConfig, instruction: int) -> RolloutSpec:
  """Returns a rollout's settings without a tokenizer: `instruction` ids stand between attempts."""
  sampling, separators = config.sampling, (tuple(range(instruction)),) * (config.attempts - 1)
  fields = {name: getattr(sampling, name) for name in ('decode_slots', 'drafts', 'longest_draft', 'cache_dtype')}
  return RolloutSpec(sampling.attempt_tokens, separators, 0, (0,), 0, **fields)


@dataclasses.dataclass(frozen=True)
class Estimate:
  """A configuration with changes."""

  changes: Changes
  peaks: dict[str, float]  # bytes of a chip while each program runs
  cost: float = 0.0  # of the changes

  @property
  def worst(self) -> str:
    """The program that takes the most memory."""
    return max(self.peaks, key=self.peaks.get)

  @property
  def peak(self) -> float:
    return self.peaks[self.worst]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting(Estimate):
  """One that was compiled."""

  plan: programs.Plan
  programs: list[programs.Program]


@dataclasses.dataclass(frozen=True)
class Faster:
  """A sampling mesh on which a rollout takes less time at least, by shapes; it was not compiled."""

  changes: Changes
  asked: float  # seconds, the floor of the rollout without them
  floor: float


@dataclasses.dataclass(frozen=True)
class Answer:
  """Whether a request fits, and what does if it does not."""

  request: Request
  asked: Setting | None  # None: not compiled, for the reason in `refusal`
  refusal: str
  proposed: Setting | None = None  # it fits
  nearest: Estimate | None = None  # where nothing is estimated to fit, or nothing was compiled
  faster: Faster | None = None  # than what fits
  estimated: bool = False  # nothing was compiled: `nearest` is all that is known

  @property
  def fits(self) -> bool:
    """Whether what was asked for does, as it is."""
    usable = self.request.chip.usable
    if self.estimated:
      return self.nearest is not None and self.nearest.peak <= usable and not self.request.flags(self.nearest.changes)
    return self.asked is not None and self.asked.peak <= usable


def answer(request: Request, tries: int, *, compiling: bool = True) -> Answer:
  """Compiles a configuration; if it does not fit, up to `tries` that are estimated to.

  Without `compiling`, and of GPUs that are not here, it is all by estimates.
  """
  if not compiling or isinstance(request.devices[0], programs.AbsentGpu):
    return Answer(request, None, '', nearest=nearest(request), estimated=True)
  refusal, usable = _refusal(request), request.chip.usable
  asked = known = None if refusal else compiled(request, {})
  for _ in range(tries):
    if known and known.peak <= usable:
      break
    close = nearest(request, known)
    if close is None or close.peak > usable:
      return Answer(request, asked, refusal, nearest=close)
    known = compiled(request, close.changes)
  if not known or known.peak > usable:
    return Answer(request, asked, refusal)
  return Answer(request, asked, refusal, None if known is asked else known, faster=faster(request, known))


def faster(request: Request, known: Setting) -> Faster | None:
  """Returns the sampling mesh on which the rollout of a setting that fits has the lowest floor; None: as it is.

  Where few rows lie on a device, a decode step takes what reading the weights takes; tensor-parallel devices read a
  part each, for the rows of all of them. What their sums take is not in a floor, so a small gain is none.
  """
  if request.brief or not request.chip.bandwidth:
    return None

  def floor(plan: programs.Plan) -> float:
    return request.chip.seconds(*costs.work(plan)['rollout'])

  asked, candidates = floor(known.plan), []
  for tensor in _divisors(len(request.devices)):
    if _suits_heads(request.decoder, tensor):
      changes = known.changes | {'sampling.mesh.data': 0, 'sampling.mesh.tensor': tensor}
      with contextlib.suppress(ConfigError):  # groups over several hosts, or rows that do not divide
        peaks = estimated(request, changes, known, ('layout', 'rollout'))
        if max(peaks.values()) <= _MARGIN * request.chip.usable:
          candidates.append(Faster(changes, asked, floor(request.plan(changes))))
  best = min(candidates, key=operator.attrgetter('floor'), default=None)
  return best if best and best.floor <= _GAIN * asked else None


def _refusal(request: Request) -> str:
  """Why compiling would tell nothing new; '' if it would."""
  try:
    size = costs.sizes(request.plan({}))
  except ConfigError as error:
    return str(error)
  held, usable = (size.held + size.policy) / costs.GIB, request.chip.usable / costs.GIB
  if held <= usable:
    return ''
  arrays = 'parameters, optimizer, base and the copy that is sampled from take'
  if request.mode == 'evaluate':
    arrays = 'the weights take'
  return f'{arrays} {held:.1f} GiB of each device, which has {usable:.1f}; nothing was compiled'


def compiled(request: Request, changes: Changes) -> Setting:
  """Compiles a setting; tells on stderr what, for it takes minutes."""
  plan, done = request.plan(changes), []
  for name in plan.names:
    if not request.brief:
      print('compiling', name, *request.flags(changes), '...', file=sys.stderr, flush=True)
    done.append(programs.compiled(plan, name, read=not request.brief)[0])
  peaks = {each.name: each.peak + costs.beside(plan, each.name) for each in done}
  return Setting(changes, peaks, plan=plan, programs=done)


def estimated(
  request: Request, changes: Changes, known: Setting | None = None, names: tuple[str, ...] = programs.NAMES
) -> dict[str, float]:
  """Returns the peaks expected of a setting, by one that was compiled; ConfigError: it has no plan."""
  plan, factors = request.plan(changes), dict.fromkeys(names, _UNKNOWN)
  names = tuple(name for name in names if name in plan.names)
  for program in known.programs if known else ():
    held, guess = costs.estimated(known.plan, program.name)
    taken = known.peaks[program.name] - held if program.refused else program.temporary
    factors[program.name] = min(4.0, max(0.25, taken / max(guess, 1)))
  parts = {name: costs.estimated(plan, name) for name in names}
  return {name: held + factors[name] * guess for name, (held, guess) in parts.items()}


def nearest(request: Request, known: Setting | None = None) -> Estimate | None:
  """Returns the nearest setting estimated to fit, else the least; None where the batch suits no mesh."""
  wanted = _MARGIN * request.chip.usable

  def rank(setting: Estimate) -> tuple[float, float]:
    return max(wanted, setting.peak), setting.cost

  def best(changes: Changes, options: Options, names: tuple[str, ...]) -> Estimate | None:
    tried = []
    for cost, option in options:
      with contextlib.suppress(ConfigError):  # the batch cannot be cut so
        peaks = estimated(request, changes | option, known, names)
        tried.append(Estimate(changes | option, peaks, cost))
        if tried[-1].peak <= wanted:
          break
    return min(tried, key=rank, default=None)

  settings = []
  options = sorted(_updates(request), key=operator.itemgetter(0))
  for cost, mesh in _meshes(request):
    if request.mode == 'evaluate':
      if sampled := best(mesh, _slots(request, mesh), ('layout', 'rollout')):
        settings.append(dataclasses.replace(sampled, cost=cost + sampled.cost))
      continue
    # The update first: a batch that it cannot cut has no plan at all.
    if updated := best(mesh, options, ('reference', 'update')):
      sampled = best(updated.changes, _slots(request, mesh), ('layout', 'rollout'))
      peaks = updated.peaks | sampled.peaks
      settings.append(Estimate(sampled.changes, peaks, cost + updated.cost + sampled.cost))
  return min(settings, key=rank, default=None)


def _meshes(request: Request) -> Options:
  count, old, decoder = len(request.devices), request.config.mesh, request.decoder
  asked = old.fsdp if old.fsdp > 0 else max(1, count // (old.data * old.tensor))
  for tensor in _divisors(count):
    if not _suits_heads(decoder, tensor):
      continue
    for fsdp in _divisors(count // tensor):
      if decoder.width % fsdp == 0:
        data = -1 if old.data == -1 else count // tensor // fsdp
        cost = 0.5 * _doublings(fsdp, asked) + 2.0 * _doublings(tensor, old.tensor)
        yield cost, {'mesh.data': data, 'mesh.fsdp': fsdp, 'mesh.tensor': tensor}


def _suits_heads(decoder: DecoderConfig, tensor: int) -> bool:
  return tensor <= _MOST_TENSOR and decoder.heads % tensor == 0 and decoder.ffn % tensor == 0


def _slots(request: Request, mesh: Changes) -> Options:
  """As many decode slots as asked for, or fewer."""
  sampling = request.config.sampling.mesh
  groups = sampling.data or len(request.devices) // (sampling.tensor or mesh['mesh.tensor'])
  local = max(1, (request.rows or request.config.rows) // groups)
  most = min(request.config.sampling.decode_slots or local, local)
  yield 0.0, {}
  for halvings in range(1, most.bit_length()):
    yield float(halvings), {'sampling.decode_slots': most >> halvings}


def _updates(request: Request) -> Options:
  """Smaller parts, less kept, smaller chunks, rows one a stream."""
  batch, model = request.settled.batch, request.settled.model
  parts, least = _divisors(batch.problems), min(model.logits_mb, _LEAST_LOGITS_MB)
  chunks = [(0.3 * n, model.logits_mb / 2**n) for n in range(6)]
  axes = {
    'batch.micro_batches': [(0.7 * _doublings(n, batch.micro_batches), n) for n in parts],
    'model.remat': enumerate(REMATS[REMATS.index(model.remat) :]),
    'model.logits_mb': [each for each in chunks if each[1] >= least],
    'batch.pack': [(0, batch.pack), (1.5, False)][: 1 + batch.pack],
  }
  for options in itertools.product(*axes.values()):
    costs_, values = zip(*options, strict=True)
    yield sum(costs_), dict(zip(axes, values, strict=True))


def changed(config: RunConfig, changes: Changes) -> RunConfig:
  """Returns a configuration with other values of some of its fields."""
  for name, value in changes.items():
    config = _with(config, name.split('.'), value)
  return config


def _with(part: Any, path: list[str], value: Any) -> Any:
  """A section, or a value of it, with another value at a path."""
  field, *inner = path
  return dataclasses.replace(part, **{field: _with(getattr(part, field), inner, value) if inner else value})


def _doublings(new: float, old: float) -> float:
  return abs(math.log2(new / old))


def _divisors(number: int) -> list[int]:
  return [n for n in range(1, number + 1) if number % n == 0]
