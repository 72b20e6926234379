"""What the compiler said of a request, as text and as JSON."""

import dataclasses
from typing import Any

from score_jax.planning import collectives
from score_jax.planning import memory
from score_jax.planning import roofline
from score_jax.planning.roofline import GIB
from score_jax.planning.search import Answer
from score_jax.planning.search import Request
from score_jax.planning.search import Setting

_SCOPES = {
  collectives.ALWAYS: 'in all',
  collectives.PASS: 'each step of its open loop',
  collectives.OUTER_PASS: 'each refill of its open loop',
}
_HEADER = ('program', 'compiled', 'arguments', 'results', 'temporary', 'held beside', 'peak', 'of', '')
_NOTES = (
  'memory in GiB; TFLOP, GB moved in memory, and floor: the least that a call can take, from shapes;',
  'link: what its collectives take over the interconnect, if nothing hides them',
  '',
  'collectives, and the MB that they yield on a chip:',
)


def chip_line(request: Request, topology: str) -> str:
  """Returns what the devices are."""
  chip = request.chip
  link = f', interconnect {chip.interconnect / 1e9:,.0f} GB/s' if chip.interconnect else ''
  return (
    f'{topology}: {len(request.devices)} x {chip.kind}, each {chip.memory / GIB:.4g} GiB ({_gib(chip.usable)} for '
    f'programs), {chip.flops / 1e12:,.0f} TFLOP/s bf16, memory {chip.bandwidth / 1e9:,.0f} GB/s{link}'
  )


def text(answer: Answer) -> str:
  """Returns the answer to be read: the setting asked for, the remedy, and the setting proposed."""
  asked, proposed = (setting and _table(answer.request, setting) for setting in (answer.asked, answer.proposed))
  return '\n\n'.join(filter(None, [asked, remedy(answer), proposed]))


def remedy(answer: Answer) -> str:
  """Returns in a line whether a configuration fits, and if not, why not and what to do about it."""
  request, asked, proposed, nearest = answer.request, answer.asked, answer.proposed, answer.nearest
  if answer.fits:
    return 'It fits.'
  reason = answer.refusal
  if asked:
    reason = f'{asked.worst} takes {_gib(asked.peak)} GiB of {_gib(request.chip.usable)}'
  advice = 'None of the settings that were tried does; --tries=N tries more'
  if proposed:
    advice = f'The nearest setting found that does: {" ".join(request.flags(proposed.changes))}'
  elif nearest:
    advice = (
      f'No setting on these devices is estimated to; the nearest needs about {nearest.peak / GIB:.1f} GiB of each: '
      f'{" ".join(request.flags(nearest.changes)) or "as it is"}. Take more devices, or adapters '
      '(--config.lora.rank=16)'
    )
  return f'It does not fit: {reason}. {advice}'


def _table(request: Request, setting: Setting) -> str:
  """What is compiled; a chip's memory, least times and collectives."""
  plan, mesh, update = setting.plan, setting.plan.mesh.shape, setting.plan.update
  attempts, between = ' + '.join(map(str, plan.rollout.budgets)), sum(map(len, plan.rollout.separators))
  chips = 'chip' if mesh['tensor'] == 1 else f'{mesh["tensor"]} chips'
  sizes = memory.sizes(plan)
  held = {
    'parameters (f32)': sizes.parameters,
    'optimizer (f32)': sizes.moments,
    f'base and reference ({plan.dtype.name})': sizes.base,
    "references of stages' own": memory.references(plan),
  }
  lines = [
    f'mesh data {mesh["data"]} x fsdp {mesh["fsdp"]} x tensor {mesh["tensor"]}; {plan.rows} conversations of '
    f'{plan.prompt} + {attempts} tokens and {between} between them, {plan.rows // plan.shards} per '
    f'{chips}, {plan.decode_slots} at a time; update in '
    f'{update.micro_batches} parts{", packed" if update.packed_length else ""}, remat {update.remat}, logits '
    f'{update.logits_mb:g} MB, attention {update.attention.kind}',
    'a chip holds all the time (GiB): ' + ', '.join(f'{name} {_gib(size)}' for name, size in held.items() if size),
    f'while it samples: policy {_gib(sizes.policy)}, cache {_gib(sizes.cache)}',
  ]
  rows = [(*_HEADER, 'TFLOP', 'GB', 'floor', 'link')]
  for name, data in _programs_data(request, setting).items():
    parts = ['?' if data['refused'] else _gib(data[part]) for part in ('arguments', 'results', 'temporary')]
    beside, peak = data['with_what_is_held'] - data['peak'], data['with_what_is_held']
    parts += [_gib(beside), _gib(peak), _gib(request.chip.usable), 'fits' if data['fits'] else 'TOO MUCH']
    floor, link = data['floor'], data['link_seconds']
    parts += [f'{floor["flops"] / 1e12:,.1f}', f'{floor["bytes"] / 1e9:,.1f}', f'{floor["seconds"]:.3g} s']
    rows.append((name, f'{data["seconds"]:.0f} s', *parts, f'{link:.3g} s'))
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  cells = [[f'{cell:>{width}}' for cell, width in zip(row, widths, strict=True)] for row in rows]
  table = ['  '.join([row[0].strip().ljust(widths[0]), *row[1:]]) for row in cells]
  return '\n'.join([*lines, '', *table, '', *_NOTES, *_collectives(setting)])


def _collectives(setting: Setting) -> list[str]:
  lines = []
  for name, program in setting.programs.items():
    lines += [] if program.sent or program.refused else [f'  {name}: none']
    for scope, words in _SCOPES.items():
      kinds = [f'{sent.count} {sent.kind} ({sent.bytes / 1e6:,.1f})' for sent in program.sent if sent.scope == scope]
      lines += [f'  {name}, {words}: {", ".join(kinds)}'] if kinds else []
  return lines


def as_data(answer: Answer) -> dict[str, Any]:
  """Returns the answer as plain data; bytes and seconds, of one chip."""
  request, asked, proposed, nearest = answer.request, answer.asked, answer.proposed, answer.nearest
  data = dict(fits=answer.fits, refusal=answer.refusal, asked=asked and _setting_data(request, asked))
  if proposed:
    data['proposed'] = _setting_data(request, proposed) | dict(flags=request.flags(proposed.changes))
  if nearest:
    data['nearest'] = dict(flags=request.flags(nearest.changes), bytes=nearest.peak)
  return data


def _setting_data(request: Request, setting: Setting) -> dict[str, Any]:
  plan = setting.plan
  return dict(
    chip=dataclasses.asdict(request.chip),
    mesh=dict(plan.mesh.shape),
    rows=plan.rows,
    slots=plan.length,
    attention=plan.update.attention.kind,
    held=dataclasses.asdict(memory.sizes(plan)) | dict(references=plan.references),
    programs=_programs_data(request, setting),
    fits=setting.peak <= request.chip.usable,
  )


def _programs_data(request: Request, setting: Setting) -> dict[str, dict[str, Any]]:
  costs, chip, data = roofline.costs(setting.plan), request.chip, {}
  for name, program in setting.programs.items():
    data[name] = dataclasses.asdict(program) | dict(
      with_what_is_held=setting.peaks[name],
      fits=setting.peaks[name] <= chip.usable,
      floor=dataclasses.asdict(costs[name]) | dict(seconds=costs[name].seconds(chip)),
      link_seconds=roofline.link_seconds(setting.plan, program, chip),
    )
  return data


def _gib(size: float) -> str:
  return f'{size / GIB:.2f}'
