"""The nearest setting that fits: first by estimates, which are cheap, then by the compiler, which is right.

Near means few and small changes. A mesh and a batch cut otherwise change the order of sums and no result; less kept
by the backward pass, fewer decode_slots and smaller chunks of logits cost time.
"""

from collections.abc import Iterator
import dataclasses
import itertools
import math
from typing import Any

from score_jax.config import REMATS
from score_jax.config import RunConfig
from score_jax.errors import ConfigError
from score_jax.models.families import DecoderConfig
from score_jax.parallel import mesh as meshes
from score_jax.planning import memory
from score_jax.planning import settings
from score_jax.planning.programs import NAMES
from score_jax.planning.programs import Plan
from score_jax.planning.programs import Program
from score_jax.sampling.rollout import RolloutSpec

_MARGIN = 0.97  # of the memory that an estimate may fill
_UNKNOWN = 1.15  # what estimates are multiplied by where nothing was compiled yet
# What a doubling of each costs, or one step.
_COSTS = dict(fsdp=0.5, tensor=2.0, decode_slots=1.0, micro_batches=0.7, remat=1.0, logits_mb=0.3, pack=1.5)
_MOST_TENSOR = 16
_LEAST_LOGITS_MB = 32.0


@dataclasses.dataclass(frozen=True)
class Wanted:
  """What is to fit where."""

  config: RunConfig
  decoder: DecoderConfig
  rollout: RolloutSpec
  dtype: Any
  devices: tuple[Any, ...]
  limit: float  # bytes of a chip

  def plan(self, config: RunConfig) -> Plan:
    """What is compiled for a configuration.

    Raises:
      ConfigError: its mesh does not suit the devices or the batch.
    """
    mesh = meshes.make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor, list(self.devices))
    return settings.plan_of(config, self.decoder, self.rollout, self.dtype, mesh)


@dataclasses.dataclass(frozen=True)
class Candidate:
  """A setting that is estimated to fit, or to come nearest to it."""

  cost: float
  config: RunConfig
  most: float  # bytes of a chip, estimated


def factor(plan: Plan, program: Program) -> float:
  """Of a program's estimated temporary bytes, how many times these the compiler takes."""
  known, guess = memory.estimated(plan, program.name)
  taken = program.peak - known if program.refused else program.temporary
  return min(4.0, max(0.25, taken / max(guess, 1)))


def estimate(plan: Plan, name: str, factors: dict[str, float], references: int) -> float:
  """The most that a chip holds while a program runs, estimated."""
  known, guess = memory.estimated(plan, name)
  return known + factors.get(name, _UNKNOWN) * guess + memory.beside(plan, name, references)


def candidates(wanted: Wanted, factors: dict[str, float]) -> list[Candidate]:
  """Settings that are estimated to fit, the nearest first; where none is, the one that comes nearest to it."""
  fitting, nearest = [], None
  for cost, config in _meshes(wanted):
    # The update first: a batch that it can't cut has no plan at all.
    updated = _best(wanted, _updates(wanted, config), ('reference', 'update'), factors)
    if updated is None:
      continue
    sampled = _best(wanted, _decode_slots(wanted, updated.config), ('layout', 'rollout'), factors)
    found = Candidate(cost + updated.cost + sampled.cost, sampled.config, max(sampled.most, updated.most))
    if found.most <= _MARGIN * wanted.limit:
      fitting.append(found)
    elif nearest is None or found.most < nearest.most:
      nearest = found
  return sorted(fitting, key=lambda found: found.cost) or ([nearest] if nearest else [])


def _best(
  wanted: Wanted, options: list[tuple[float, RunConfig]], names: tuple[str, ...], factors: dict[str, float]
) -> Candidate | None:
  """The cheapest option that fits; else the smallest; None if the batch can't be cut so at all."""
  references, smallest = settings.references(wanted.config), None
  for cost, option in options:
    try:
      plan = wanted.plan(option)
    except ConfigError:
      continue
    found = Candidate(cost, option, max(estimate(plan, name, factors, references) for name in names))
    if found.most <= _MARGIN * wanted.limit:
      return found
    if smallest is None or found.most < smallest.most:
      smallest = found
  return smallest


def _meshes(wanted: Wanted) -> Iterator[tuple[float, RunConfig]]:
  """Every mesh over the devices, with what the change to it costs."""
  count, old, decoder = len(wanted.devices), wanted.config.mesh, wanted.decoder
  for tensor in _divisors(count):
    if tensor > _MOST_TENSOR or decoder.heads % tensor or decoder.ffn % tensor:
      continue
    for fsdp in _divisors(count // tensor):
      if decoder.width % fsdp:
        continue
      cost = _COSTS['fsdp'] * _steps(fsdp, old.fsdp) + _COSTS['tensor'] * _steps(tensor, old.tensor)
      data = -1 if old.data == -1 else count // tensor // fsdp
      yield cost, settings.changed(wanted.config, data=data, fsdp=fsdp, tensor=tensor)


def _decode_slots(wanted: Wanted, config: RunConfig) -> list[tuple[float, RunConfig]]:
  """As many decode_slots as asked for, or fewer."""
  mesh = config.mesh
  local = max(1, config.rows * mesh.tensor // len(wanted.devices))
  most = min(config.sampling.decode_slots or local, local)
  options = [(0.0, config)]
  for halvings in range(1, most.bit_length()):
    options.append((_COSTS['decode_slots'] * halvings, settings.changed(config, decode_slots=max(1, most >> halvings))))
  return options


def _updates(wanted: Wanted, config: RunConfig) -> list[tuple[float, RunConfig]]:
  """Ways to lower an update's memory, the cheapest first."""
  batch, model = config.batch, config.model
  parts = [(_steps(parts, batch.micro_batches), parts) for parts in _divisors(batch.problems)]
  remats = list(enumerate(REMATS[REMATS.index(model.remat) :]))
  logits = [(n, model.logits_mb / 2**n) for n in range(6) if n == 0 or model.logits_mb / 2**n >= _LEAST_LOGITS_MB]
  packs = [(0, batch.pack)] + ([(1, False)] if batch.pack else [])
  options = []
  for (a, micro_batches), (b, remat), (c, logits_mb), (d, pack) in itertools.product(parts, remats, logits, packs):
    cost = sum(n * _COSTS[name] for n, name in ((a, 'micro_batches'), (b, 'remat'), (c, 'logits_mb'), (d, 'pack')))
    changed = settings.changed(config, micro_batches=micro_batches, remat=remat, logits_mb=logits_mb, pack=pack)
    options.append((cost, changed))
  return sorted(options, key=lambda option: option[0])


def _steps(new: float, old: float) -> float:
  """Doublings or halvings between two numbers."""
  return abs(math.log2(new / old))


def _divisors(number: int) -> list[int]:
  return [n for n in range(1, number + 1) if number % n == 0]


class Compiler:
  """Compiles programs, each once: a setting that changes the decode_slots alone has the update of the one before."""

  def __init__(self, say: Any):
    """`say(text)` is told what is compiled, which takes minutes."""
    self._say, self._known = say, {}

  def programs(self, plan: Plan) -> dict[str, Program]:
    """All programs of a plan."""
    return {name: self._program(plan, name) for name in NAMES}

  def _program(self, plan: Plan, name: str) -> Program:
    from score_jax.planning import programs

    model = plan.decoder, plan.lora, plan.dtype, plan.mesh
    rows = plan.rows, plan.prompt, plan.rollout.growth, plan.rollout.budgets
    matters = dict(layout=(), rollout=(rows, plan.rollout), reference=(rows, plan.update), update=(rows, plan.update))
    key = (name, *model, *matters[name])
    if key not in self._known:
      self._say(f'compiling {name} ...')
      self._known[key] = programs.compiled(plan, name)[0]
    return self._known[key]
