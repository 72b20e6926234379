"""Whether a configuration fits, and the nearest that does: by estimates, which are cheap, then by the compiler.

Near means few and small changes. A mesh and a batch cut otherwise change the order of sums and no result; less kept
by the backward pass, fewer decode slots and smaller chunks of logits cost time.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
import contextlib
import dataclasses
import itertools
import math
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_jax.config import REMATS
from score_jax.config import RunConfig
from score_jax.errors import ConfigError
from score_jax.errors import DataError
from score_jax.models import config_json
from score_jax.models.families import DecoderConfig
from score_jax.models.shapes import SHAPES
from score_jax.parallel import mesh as meshes
from score_jax.planning import memory
from score_jax.planning import programs
from score_jax.planning.programs import Plan
from score_jax.planning.programs import Program
from score_jax.planning.roofline import GIB
from score_jax.planning.roofline import Chip
from score_jax.planning.roofline import chip_of
from score_jax.sampling.rollout import RolloutSpec
from score_jax.storage import hf
from score_jax.training import batches
from score_jax.training import run as runs
from score_jax.training import specs

_MARGIN = 0.97  # of the memory that an estimate may fill
_UNKNOWN = 1.15  # what estimates are multiplied by where nothing was compiled yet
_MOST_TENSOR = 16
_LEAST_LOGITS_MB = 32.0
_SECTIONS = ('mesh', 'sampling', 'batch', 'model')

Changes = dict[str, Any]  # a field of the configuration, like 'mesh.fsdp' -> its new value


@dataclasses.dataclass(frozen=True)
class Request:
  """What is to fit where."""

  config: RunConfig
  decoder: DecoderConfig
  rollout: RolloutSpec
  dtype: Any
  devices: tuple[Any, ...]
  chip: Chip

  def plan(self, changes: Changes) -> Plan:
    """Returns what is compiled for the configuration with changes; packed updates for streams that are full.

    Raises:
      ConfigError: the mesh does not suit the devices or the batch.
    """
    config, dtype = changed(self.config, changes), jnp.dtype(self.dtype)
    mesh = meshes.make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor, list(self.devices))
    specs.check_spread(config, mesh)
    update = specs.update_spec(config, self.decoder, dtype, mesh)
    rollout = dataclasses.replace(self.rollout, decode_slots=config.sampling.decode_slots)
    batch, prompt = config.batch, config.sampling.prompt_tokens
    if batch.pack:
      full = np.full(config.rows, prompt + rollout.growth)
      packed = batches.packed_length(full, full[0], batch.samples, meshes.row_shards(mesh), batch.micro_batches)
      update = dataclasses.replace(update, packed_length=packed)
    references = int(any(stage.reference == 'stage_start' for stage in config.stage_runs))
    model = self.decoder, config.lora, config.optim, mesh, dtype
    return Plan(*model, rollout, update, prompt, config.rows, references)

  def flags(self, changes: Changes) -> list[str]:
    """Returns the flags that make the changes."""
    new = {name: value for name, value in changes.items() if value != operator.attrgetter(name)(self.config)}
    names = sorted(new, key=lambda name: _SECTIONS.index(name.partition('.')[0]))
    return [f'--config.{name}={f"{new[name]:g}" if isinstance(new[name], float) else new[name]}' for name in names]


def topology_request(config: RunConfig, topology: str, model: str, instruction: int) -> Request:
  """Returns the request for TPUs that need not be here.

  Args:
    config: of the run.
    topology: a name like 'v5e:4x4'.
    model: a folder, a name of `SHAPES`, or '' for config.model.path.
    instruction: tokens between attempts of a shape, which has no tokenizer.

  Raises:
    UserError: there is no such topology or model, or no compiler, or the model's template fails.
  """
  chip = chip_of(topology)
  if model in SHAPES:
    decoder, rollout = config_json.from_hf(SHAPES[model], model), assumed_rollout(config, instruction)
  else:
    try:
      folder = hf.folder_of(model or config.model.path)
    except DataError as error:
      raise DataError(f'{error}; without a folder: --model=NAME of a shape, one of {", ".join(SHAPES)}') from error
    sampler = runs.open_sampler(config, folder, meshes.make_mesh(-1, 1, 1, jax.devices('cpu')[:1]))
    decoder, rollout = sampler.config, sampler.spec()
  dtype = jnp.dtype('bfloat16' if config.model.dtype == 'auto' else config.model.dtype)
  return Request(config, decoder, rollout, dtype, programs.topology_devices(topology, **dict(chip.settings)), chip)


def assumed_rollout(config: RunConfig, instruction: int) -> RolloutSpec:
  """Returns a rollout's settings without a tokenizer: `instruction` ids stand between attempts."""
  separators, sampling = (tuple(range(instruction)),) * (config.attempts - 1), config.sampling
  return RolloutSpec(sampling.attempt_tokens, separators, 0, (0,), 0, cache_dtype=sampling.cache_dtype)


@dataclasses.dataclass(frozen=True)
class Setting:
  """A configuration with changes, compiled or estimated."""

  changes: Changes
  plan: Plan
  # Bytes of a chip at the worst moment of each program, with what the run holds beside it.
  peaks: dict[str, float]
  cost: float = 0.0  # of the changes
  programs: dict[str, Program] = dataclasses.field(default_factory=dict)  # none: estimated

  @property
  def worst(self) -> str:
    """The program that takes the most memory."""
    return max(self.peaks, key=self.peaks.get)

  @property
  def peak(self) -> float:
    """What that program takes."""
    return self.peaks[self.worst]


@dataclasses.dataclass(frozen=True)
class Answer:
  """Whether a request fits, and what does if it does not."""

  request: Request
  asked: Setting | None  # None: not compiled, for the reason in `refusal`
  refusal: str
  proposed: Setting | None = None  # compiled, and fits; None: not looked for, or none
  nearest: Setting | None = None  # where nothing is estimated to fit: what comes nearest

  @property
  def fits(self) -> bool:
    return self.asked is not None and self.asked.peak <= self.request.chip.usable


def answer(request: Request, tries: int, log: Callable[[str], None] = print) -> Answer:
  """Compiles the configuration of a request; if it does not fit, up to `tries` settings that are estimated to.

  `log` is told, in a line, what is being done; compiling takes minutes.
  """
  search, asked, refusal = Search(request, log), None, _refusal(request)
  if not refusal:
    asked = search.compiled({})
    if asked.peak <= request.chip.usable or not tries:
      return Answer(request, asked, '')
  for _ in range(tries):
    nearest = search.nearest()
    if nearest is None or nearest.peak > request.chip.usable:
      return Answer(request, asked, refusal, nearest=nearest)
    log(f'trying {" ".join(request.flags(nearest.changes)) or "it as it is"}')
    proposed = search.compiled(nearest.changes)
    if proposed.peak <= request.chip.usable:
      return Answer(request, asked, refusal, proposed)
  return Answer(request, asked, refusal)


def _refusal(request: Request) -> str:
  """Why compiling would tell nothing new; '' if it would."""
  try:
    plan = request.plan({})
  except ConfigError as error:
    return str(error)
  held = memory.beside(plan, 'rollout') + memory.sizes(plan).policy
  if held <= request.chip.usable:
    return ''
  return (
    f'parameters, optimizer, base and the copy that is sampled from take {held / GIB:.1f} GiB of each device, which '
    f'has {request.chip.usable / GIB:.1f}; nothing was compiled'
  )


class Search:
  """What is known of a request: programs, each compiled once, and by how much they exceed the estimates."""

  def __init__(self, request: Request, log: Callable[[str], None] = print):
    self._request, self._log = request, log
    self._programs: dict[Any, Program] = {}
    self._factors: dict[str, float] = {}

  def compiled(self, changes: Changes) -> Setting:
    """Compiles a setting; one that changes the decode slots alone shares all but its rollout with the one before."""
    plan, compiled, peaks = self._request.plan(changes), {}, {}
    for name in programs.NAMES:
      key = name, plan.deciding(name)
      if key not in self._programs:
        self._log(f'compiling {name} ...')
        self._programs[key] = programs.compiled(plan, name)[0]
      program = compiled[name] = self._programs[key]
      peaks[name] = program.peak + memory.beside(plan, name)
      fixed, guess = memory.estimated(plan, name)
      taken = program.peak - fixed if program.refused else program.temporary
      self._factors[name] = min(4.0, max(0.25, taken / max(guess, 1)))
    return Setting(changes, plan, peaks, programs=compiled)

  def estimated(self, changes: Changes, names: Iterable[str] = programs.NAMES, cost: float = 0.0) -> Setting:
    """Returns a setting with estimates of what its programs take; raises a ConfigError where it has no plan."""
    plan, peaks = self._request.plan(changes), {}
    for name in names:
      fixed, guess = memory.estimated(plan, name)
      peaks[name] = fixed + self._factors.get(name, _UNKNOWN) * guess + memory.beside(plan, name)
    return Setting(changes, plan, peaks, cost)

  def nearest(self) -> Setting | None:
    """Returns the nearest setting that is estimated to fit; where none is, the one that takes the least."""
    settings, update_options = [], sorted(_update_options(self._request.config), key=operator.itemgetter(0))
    for cost, mesh in _mesh_options(self._request):
      # The update first: a batch that it cannot cut has no plan at all.
      if updated := self._best(mesh, update_options, ('reference', 'update')):
        slots = _slot_options(self._request, mesh['mesh.tensor'])
        sampled = self._best(updated.changes, slots, ('layout', 'rollout'))
        cost, peaks = cost + updated.cost + sampled.cost, updated.peaks | sampled.peaks
        settings.append(dataclasses.replace(sampled, cost=cost, peaks=peaks))
    return min(settings, key=self._rank, default=None)

  def _best(self, changes: Changes, options: Iterable[tuple[float, Changes]], names: tuple[str, ...]) -> Setting | None:
    """The best option on top of changes, of those with the cheapest first; None if the batch can't be cut so at all."""
    settings = []
    for cost, option in options:
      with contextlib.suppress(ConfigError):
        settings.append(self.estimated(changes | option, names, cost))
        if settings[-1].peak <= _MARGIN * self._request.chip.usable:
          break
    return min(settings, key=self._rank, default=None)

  def _rank(self, setting: Setting) -> tuple[float, float]:
    return max(_MARGIN * self._request.chip.usable, setting.peak), setting.cost


def _mesh_options(request: Request) -> Iterator[tuple[float, Changes]]:
  """Every mesh over the devices, with what the change to it costs."""
  count, old, decoder = len(request.devices), request.config.mesh, request.decoder
  for tensor in _divisors(count):
    if tensor > _MOST_TENSOR or decoder.heads % tensor or decoder.ffn % tensor:
      continue
    for fsdp in _divisors(count // tensor):
      if decoder.width % fsdp == 0:
        data = -1 if old.data == -1 else count // tensor // fsdp
        cost = 0.5 * _doublings(fsdp, old.fsdp) + 2.0 * _doublings(tensor, old.tensor)
        yield cost, {'mesh.data': data, 'mesh.fsdp': fsdp, 'mesh.tensor': tensor}


def _slot_options(request: Request, tensor: int) -> Iterator[tuple[float, Changes]]:
  """As many decode slots as asked for, or fewer."""
  local = max(1, request.config.rows * tensor // len(request.devices))
  most = min(request.config.sampling.decode_slots or local, local)
  yield 0.0, {}
  for halvings in range(1, most.bit_length()):
    yield float(halvings), {'sampling.decode_slots': most >> halvings}


def _update_options(config: RunConfig) -> Iterator[tuple[float, Changes]]:
  """Ways to lower an update's memory."""
  batch, model = config.batch, config.model
  chunks = [model.logits_mb / 2**n for n in range(6)]
  axes = {
    'batch.micro_batches': [(0.7 * _doublings(n, batch.micro_batches), n) for n in _divisors(batch.problems)],
    'model.remat': list(enumerate(REMATS[REMATS.index(model.remat) :])),
    'model.logits_mb': [(0.3 * n, mb) for n, mb in enumerate(chunks) if n == 0 or mb >= _LEAST_LOGITS_MB],
    'batch.pack': [(0, batch.pack)] + ([(1.5, False)] if batch.pack else []),
  }
  for options in itertools.product(*axes.values()):
    yield sum(cost for cost, _ in options), dict(zip(axes, (value for _, value in options), strict=True))


def changed(config: RunConfig, changes: Changes) -> RunConfig:
  """Returns a configuration with other values of some of its fields."""
  for name, value in changes.items():
    section, field = name.split('.')
    config = dataclasses.replace(config, **{section: dataclasses.replace(getattr(config, section), **{field: value})})
  return config


def _doublings(new: float, old: float) -> float:
  """Between two numbers, or halvings."""
  return abs(math.log2(new / old))


def _divisors(number: int) -> list[int]:
  return [n for n in range(1, number + 1) if number % n == 0]
