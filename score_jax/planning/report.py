"""What the compiler said of a setting, as a table and as JSON."""

import dataclasses
from typing import Any

from score_jax.config import RunConfig
from score_jax.planning import collectives
from score_jax.planning import floors
from score_jax.planning import memory
from score_jax.planning import settings
from score_jax.planning.chips import GIB
from score_jax.planning.chips import Chip
from score_jax.planning.programs import Plan
from score_jax.planning.programs import Program

_PLACES = {
  collectives.ALWAYS: 'in all',
  collectives.PASS: 'each step of its open loop',
  collectives.OUTER_PASS: 'each refill of its open loop',
}


@dataclasses.dataclass(frozen=True)
class Compiled:
  """A setting whose programs were compiled."""

  config: RunConfig
  plan: Plan
  programs: dict[str, Program]
  chip: Chip

  @property
  def references(self) -> int:
    return settings.references(self.config)

  def most(self, name: str) -> int:
    """Bytes of a chip at the worst moment of a program, with what the run holds beside it."""
    return memory.most(self.plan, self.programs[name], self.references)

  @property
  def fits(self) -> bool:
    return all(self.most(name) <= self.chip.usable for name in self.programs)


def as_data(found: Compiled) -> dict[str, Any]:
  """Plain data; bytes and seconds, of one chip."""
  sizes = memory.sizes(found.plan)
  least = floors.of(found.plan)
  programs = {}
  for name, program in found.programs.items():
    programs[name] = dataclasses.asdict(program) | dict(
      with_what_is_held=found.most(name),
      fits=found.most(name) <= found.chip.usable,
      floor=dataclasses.asdict(least[name]) | dict(seconds=least[name].seconds(found.chip)),
      link_seconds=floors.link_seconds(found.plan, program, found.chip),
    )
  return dict(
    chip=dataclasses.asdict(found.chip),
    mesh=dict(found.plan.mesh.shape),
    rows=found.plan.rows,
    slots=found.plan.length,
    attention=found.plan.update.how.kind,
    held=dict(dataclasses.asdict(sizes), references=found.references),
    programs=programs,
    fits=found.fits,
  )


def chip_line(chip: Chip, count: int, where: str) -> str:
  """What the devices are."""
  link = f', interconnect {chip.interconnect / 1e9:,.0f} GB/s' if chip.interconnect else ''
  return (
    f'{where}: {count} x {chip.kind}, each {chip.memory / GIB:.4g} GiB ({chip.usable / GIB:.2f} for programs), '
    f'{chip.flops / 1e12:,.0f} TFLOP/s bf16, memory {chip.bandwidth / 1e9:,.0f} GB/s{link}'
  )


def setting_line(plan: Plan) -> str:
  """What is compiled."""
  mesh, update = plan.mesh.shape, plan.update
  attempts, between = ' + '.join(map(str, plan.rollout.budgets)), sum(map(len, plan.rollout.separators))
  where = 'chip' if mesh['tensor'] == 1 else f'{mesh["tensor"]} chips'
  return (
    f'mesh data {mesh["data"]} x fsdp {mesh["fsdp"]} x tensor {mesh["tensor"]}; {plan.rows} conversations of '
    f'{plan.prompt} + {attempts} tokens and {between} between them, {plan.rows // memory.shards(plan)} per {where}, '
    f'{memory.decode_slots(plan)} at a time; update in '
    f'{update.micro_batches} parts{", packed" if update.places else ""}, remat {update.remat}, logits '
    f'{update.logits_mb:g} MB, attention {update.how.kind}'
  )


def table(found: Compiled) -> str:
  """A chip's memory, floors and collectives."""
  sizes, least = memory.sizes(found.plan), floors.of(found.plan)
  held = {
    'parameters (f32)': sizes.parameters,
    'optimizer (f32)': sizes.moments,
    f'base and reference ({found.plan.dtype.name})': sizes.base,
    "references of stages' own": memory.copies(found.plan, found.references),
  }
  lines = [
    'a chip holds all the time (GiB): ' + ', '.join(f'{name} {_gib(size)}' for name, size in held.items() if size)
  ]
  lines.append(f'while it samples: policy {_gib(sizes.policy)}, cache {_gib(sizes.cache)}')
  memory_columns = 'arguments', 'results', 'temporary', 'held beside', 'peak', 'of', ''
  rows = [('program', 'compiled', *memory_columns, 'TFLOP', 'GB', 'floor', 'link')]
  for name, program in found.programs.items():
    parts = ('?',) * 3 if program.refused else map(_gib, (program.arguments, program.results, program.temporary))
    most = found.most(name)
    rows.append(
      (
        name,
        f'{program.seconds:.0f} s',
        *parts,
        _gib(memory.beside(found.plan, name, found.references)),
        _gib(most),
        f'{found.chip.usable / GIB:.2f}',
        'fits' if most <= found.chip.usable else 'TOO MUCH',
        f'{least[name].flops / 1e12:,.1f}',
        f'{least[name].bytes / 1e9:,.1f}',
        f'{least[name].seconds(found.chip):.3g} s',
        f'{floors.link_seconds(found.plan, program, found.chip):.3g} s',
      )
    )
  lines += ['', *_columns(rows), '']
  lines += ['memory in GiB; TFLOP, GB moved in memory, and floor: the least that a call can take, from shapes;']
  lines += ['link: what its collectives take over the interconnect, if nothing hides them']
  return '\n'.join(lines + ['', *_sent(found)])


def _sent(found: Compiled) -> list[str]:
  lines = ['collectives, and the MB that they yield on a chip:']
  for name, program in found.programs.items():
    if program.refused:
      continue
    if not program.sent:
      lines.append(f'  {name}: none')
    for place, words in _PLACES.items():
      kinds = [f'{sent.count} {sent.kind} ({sent.bytes / 1e6:,.1f})' for sent in program.sent if sent.place == place]
      if kinds:
        lines.append(f'  {name}, {words}: {", ".join(kinds)}')
  return lines


def _columns(rows: list[tuple[str, ...]]) -> list[str]:
  """Right-aligned but for the first."""
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  return [
    row[0].ljust(widths[0]) + ''.join(f'  {cell:>{width}}' for cell, width in zip(row[1:], widths[1:], strict=True))
    for row in rows
  ]


def _gib(size: float) -> str:
  return f'{size / GIB:.2f}'
