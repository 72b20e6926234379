# SPDX-License-Identifier: Apache-2.0
"""An answer of the search as data, and the same as text."""

import dataclasses
import math
from typing import Any

from jax.sharding import Mesh

from score_jax.models import attention
from score_jax.planning import collectives, costs, decoding
from score_jax.planning.programs import Plan, Program
from score_jax.planning.search import Answer, Request, Setting

_SCOPES = {
  collectives.ALWAYS: 'in all',
  collectives.PASS: 'each step of its open loop',
  collectives.OUTER_PASS: 'each refill of its open loop',
}
_NOTES = """
memory in GiB; TFLOP, GB moved in memory, and floor: the least that a call can take, from shapes;
link: what its collectives take over the interconnect, if nothing hides them

collectives, and the MB that they yield on a chip:"""


def _gib(size: float) -> str:
  return f'{size / costs.GIB:.2f}'


_BYTES = ('arguments', 'results', 'temporary')
_TITLES = ('program', 'compiled', *_BYTES, 'held beside', 'peak', 'of', '', 'TFLOP', 'GB', 'floor', 'link')


def axes(mesh: Mesh) -> str:
  return ' x '.join(f'{name} {size}' for name, size in mesh.shape.items())


def chip_line(request: Request) -> str:
  chip = request.chip
  link = f'{chip.interconnect / 1e9:,.0f} GB/s' if chip.interconnect else 'not published'
  return (
    f'{len(request.devices)} x {chip.kind}, each {chip.memory / costs.GIB:.4g} GiB ({_gib(chip.usable)} for programs), '
    f'{chip.flops / 1e12:,.3g} TFLOP/s {chip.dtype}, memory {chip.bandwidth / 1e9:,.0f} GB/s, interconnect {link}'
  )


def text(answer: Answer) -> str:
  """Returns the answer: the setting asked for, the remedy, the one proposed."""
  tables = [each and _table(answer.request, each) for each in (answer.asked, answer.proposed)]
  return '\n\n'.join(filter(None, [tables[0], remedy(answer), tables[1], _faster(answer)]))


def _faster(answer: Answer) -> str:
  """Tells of a sampling mesh that is worth a try; '' without one."""
  best = answer.faster
  if not best:
    return ''
  flags = ' '.join(answer.request.flags(best.changes))
  return (
    f"A sampling mesh of its own would lower the rollout's floor from {best.asked:.3g} s to {best.floor:.3g} s, by "
    f'shapes, without what its collectives take: {flags}'
  )


def remedy(answer: Answer) -> str:
  """Tells in a line whether a configuration fits, and what to do if not."""
  request, asked = answer.request, answer.asked
  if answer.estimated:
    return _guess(answer)
  if answer.fits:
    return 'It fits.'
  reason = answer.refusal
  if asked:
    reason = f'{asked.worst} takes {_gib(asked.peak)} GiB of {_gib(request.chip.usable)}'
  advice = 'None of the settings that were tried does; score-jax doctor --tries=N tries more'
  if answer.proposed:
    flags = ' '.join(request.flags(answer.proposed.changes))
    advice = f'The nearest setting found that does: {flags}'
  elif close := answer.nearest:
    flags = ' '.join(request.flags(close.changes)) or 'as it is'
    advice = (
      f'No setting on these devices is estimated to; the nearest needs about {close.peak / costs.GIB:.1f} GiB of '
      f'each: {flags}. Take more devices'
    )
    if request.mode != 'evaluate' and not request.config.lora.rank:
      advice += ', or adapters (--config.lora.rank=16)'
  return f'It does not fit: {reason}. {advice}'


def _guess(answer: Answer) -> str:
  """The same where nothing was compiled."""
  request, close = answer.request, answer.nearest
  if close is None:
    return 'It does not fit: batch and devices suit no mesh; change config.batch or the number of devices'
  size, usable, flags = _gib(close.peak), _gib(request.chip.usable), ' '.join(request.flags(close.changes))
  told = f'{close.worst} takes about {size} GiB of {usable}: an estimate, nothing was compiled'
  if answer.fits:
    return f'It is estimated to fit; {told}.'
  if close.peak <= request.chip.usable:
    return f'It is estimated not to fit. The nearest setting that is, where {told}: {flags}'
  return f'No setting on these devices is estimated to fit. The nearest, where {told}: {flags or "as it is"}'


def foreseen(answer: Answer) -> str:
  """Returns what a setting that fits will take at most."""
  peak, usable = answer.asked.peak, answer.request.chip.usable
  there = f'{_gib(usable)} there' if usable < math.inf else 'which does not tell what it has'
  return f'{_gib(peak)} GiB of a device at most ({answer.asked.worst}), {there}'


def as_data(answer: Answer) -> dict[str, Any]:
  """Returns the answer as plain data; bytes, FLOPs and seconds are of one chip."""
  request, asked, close = answer.request, answer.asked, answer.nearest
  data = dict(fits=answer.fits, refusal=answer.refusal, asked=asked and _setting(request, asked))
  data |= dict(estimated=answer.estimated, usable=request.chip.usable)
  if answer.proposed:
    data['proposed'] = _setting(request, answer.proposed)
  if answer.faster:
    flags = request.flags(answer.faster.changes)
    data['faster'] = dict(flags=flags, rollout_floor=answer.faster.floor, asked_rollout_floor=answer.faster.asked)
  if close:
    floor = sum(request.chip.seconds(*each) for each in costs.work(request.plan(close.changes)).values())
    data['nearest'] = dict(flags=request.flags(close.changes), bytes=close.peak, program=close.worst, floor=floor)
  return data


def _setting(request: Request, setting: Setting) -> dict[str, Any]:
  plan = setting.plan
  return dict(
    flags=request.flags(setting.changes),
    chip=dataclasses.asdict(request.chip),
    mesh=dict(plan.mesh.shape),
    sampling_mesh=dict(plan.sampling_mesh.shape),
    rows=plan.rows,
    slots=plan.length,
    attention=plan.update.attention.kind,
    decode_kernel=plan.rollout.kernel,
    decode_step=_decode_step(setting),
    held=dataclasses.asdict(costs.sizes(plan)) | dict(references=plan.references),
    programs={each.name: _program(request.chip, setting, each) for each in setting.programs},
    fits=setting.peak <= request.chip.usable,
  )


def _decode_step(setting: Setting) -> dict[str, dict[str, float]]:
  """Bytes that a decode step moves on a chip and must move, by lengths of rows; {}: not known."""
  plan, [outside] = setting.plan, [each.step_bytes for each in setting.programs if each.name == 'rollout'] or [0]
  if not outside:
    return {}
  lengths = dict(whole_budgets=decoding.whole_budgets(plan), real_lengths=decoding.real_lengths(plan))
  steps = {name: decoding.step(plan, outside, one) for name, one in lengths.items()}
  return {name: dict(moved=one.moved, floor=one.floor, ratio=one.ratio) for name, one in steps.items()}


def _program(chip: costs.Chip, setting: Setting, program: Program) -> dict[str, Any]:
  peak, (flops, moved) = setting.peaks[program.name], costs.work(setting.plan)[program.name]
  return dataclasses.asdict(program) | dict(
    with_what_is_held=peak,
    fits=peak <= chip.usable,
    floor=dict(flops=flops, bytes=moved, seconds=chip.seconds(flops, moved)),
    link_seconds=costs.link_seconds(setting.plan, program, chip),
  )


def _table(request: Request, setting: Setting) -> str:
  size, rows = costs.sizes(setting.plan), _setting(request, setting)['programs'].values()
  held = {
    'parameters (f32)': size.parameters,
    'optimizer (f32)': size.moments,
    f'base and reference ({setting.plan.dtype.name})': size.base,
    "references of stages' own": size.references,
  }
  sizes = ', '.join(f'{name} {_gib(each)}' for name, each in held.items() if each)
  table = [_TITLES, *(_cells(row, request.chip.usable) for row in rows)]
  widths = [max(map(len, column)) for column in zip(*table, strict=True)]
  lines = [
    _shape(setting.plan),
    f'a chip holds all the time (GiB): {sizes}',
    f'while it samples: policy {_gib(size.policy)}, cache {_gib(size.cache)}{_whole_heads(setting.plan)}',
    '',
  ]
  for name, *numbers in table:
    lines.append('  '.join([name.ljust(widths[0]), *map(str.rjust, numbers, widths[1:])]))
  lines += _step_lines(_decode_step(setting))
  return '\n'.join([*lines, _NOTES, *map(_sent, rows)])


def _whole_heads(plan: Plan) -> str:
  """Tells where each device of a tensor-parallel group holds the whole cache."""
  (heads, _), tensor = attention.cached_heads(plan.decoder, plan.rollout.kernel), plan.sampling_mesh.shape['tensor']
  if heads % tensor == 0:
    return ''
  return f', the whole of {plan.decoder.kv_heads} key/value heads on each of {tensor} chips, which do not divide them'


def _step_lines(steps: dict[str, dict[str, float]]) -> list[str]:
  told = dict(
    whole_budgets='rows use whole budgets', real_lengths=f'answers have {decoding.MEAN_ANSWER} tokens on average'
  )
  return [
    f'a decode step moves {step["moved"] / 1e9:.2f} GB on a chip, {step["ratio"]:.2f} times the floor, '
    f'where {told[name]}'
    for name, step in steps.items()
  ]


def _shape(plan: Plan) -> str:
  update, tensor = plan.update, plan.sampling_mesh.shape['tensor']
  sampling = '' if plan.sampling_mesh == plan.mesh else f', of rollouts {axes(plan.sampling_mesh)}'
  tokens = ' + '.join(map(str, (plan.prompt, *plan.rollout.budgets)))
  return (
    f'mesh {axes(plan.mesh)}{sampling}; '
    f'{plan.rows} conversations of {tokens} tokens and {sum(map(len, plan.rollout.separators))} between them, '
    f'{plan.sampled_rows} per {"chip" if tensor == 1 else f"{tensor} chips"}, {plan.decode_slots} at a time; '
    f'update in {update.micro_batches} parts{", packed" if update.packed_length else ""}, '
    f'remat {update.remat}, logits {update.logits_mb:g} MB, attention {update.attention.kind}, '
    f'of decode steps {plan.rollout.kernel or "plain"}'
  )


def _cells(row: dict[str, Any], usable: float) -> list[str]:
  peak, floor = row['with_what_is_held'], row['floor']
  return [
    row['name'],
    f'{row["seconds"]:.0f} s',
    *('?' if row['refused'] else _gib(row[key]) for key in _BYTES),
    _gib(peak - row['peak']),
    _gib(peak),
    _gib(usable),
    'fits' if row['fits'] else 'TOO MUCH',
    f'{floor["flops"] / 1e12:,.1f}',
    f'{floor["bytes"] / 1e9:,.1f}',
    f'{floor["seconds"]:.3g} s',
    f'{row["link_seconds"]:.3g} s',
  ]


def _sent(row: dict[str, Any]) -> str:
  scopes: dict[str, list[str]] = {}
  for sent in row['sent']:
    size = f'{sent["count"]} {sent["kind"]} ({sent["bytes"] / 1e6:,.1f})'
    scopes.setdefault(_SCOPES[sent['scope']], []).append(size)
  lines = [f'  {row["name"]}, {scope}: {", ".join(kinds)}' for scope, kinds in scopes.items()]
  return '\n'.join(lines or [f'  {row["name"]}: {"?" if row["refused"] else "none"}'])
