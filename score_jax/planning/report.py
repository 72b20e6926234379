"""An answer of the search as data, and the same as text."""

import dataclasses
from typing import Any

from score_jax.planning import collectives
from score_jax.planning import costs
from score_jax.planning.search import Answer
from score_jax.planning.search import Request
from score_jax.planning.search import Setting

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


_BYTES = ('arguments', 'results', 'temporary', 'beside', 'peak')
_TITLES = ('program', *_BYTES, 'of', '', 'TFLOP', 'GB', 'floor', 'link')


def chip_line(request: Request) -> str:
  """Returns what the devices are."""
  chip = request.chip
  link = f'{chip.interconnect / 1e9:,.0f} GB/s' if chip.interconnect else 'not published'
  return (
    f'{len(request.devices)} x {chip.kind}, each {chip.memory / costs.GIB:.4g} GiB '
    f'({_gib(chip.usable)} for programs), {chip.flops / 1e12:,.0f} TFLOP/s bf16, '
    f'memory {chip.bandwidth / 1e9:,.0f} GB/s, interconnect {link}'
  )


def text(answer: Answer) -> str:
  """Returns the answer to be read: the setting asked for, the remedy, the setting proposed."""
  data = as_data(answer)
  tables = [data[key] and _table(data[key]) for key in ('asked', 'proposed')]
  return '\n\n'.join(filter(None, [tables[0], remedy(answer), tables[1]]))


def remedy(answer: Answer) -> str:
  """Returns in a line whether a configuration fits, and what to do where it does not."""
  request, asked = answer.request, answer.asked
  if answer.fits:
    return 'It fits.'
  reason = answer.refusal
  if asked:
    reason = f'{asked.worst} takes {_gib(asked.peak)} GiB of {_gib(request.chip.usable)}'
  advice = 'None of the settings that were tried does; --tries=N tries more'
  if answer.proposed:
    flags = ' '.join(request.flags(answer.proposed.changes))
    advice = f'The nearest setting found that does: {flags}'
  elif answer.exhausted:
    advice = 'No setting on these devices is estimated to. Take more devices, or adapters (--config.lora.rank=16)'
  return f'It does not fit: {reason}. {advice}'


def as_data(answer: Answer) -> dict[str, Any]:
  """Returns the answer as plain data; bytes, FLOPs and seconds are of one chip."""
  asked, proposed = (setting and _setting(answer.request, setting) for setting in (answer.asked, answer.proposed))
  return dict(fits=answer.fits, refusal=answer.refusal, asked=asked, proposed=proposed)


def _setting(request: Request, setting: Setting) -> dict[str, Any]:
  plan, chip, rows = setting.plan, request.chip, []
  for program in setting.programs:
    peak = setting.peaks[program.name]
    flops, moved = costs.work(plan)[program.name]
    floor, link = chip.seconds(flops, moved), costs.link_seconds(plan, program, chip)
    row = dict(beside=peak - program.peak, peak=peak, flops=flops, moved=moved)
    rows.append(dataclasses.asdict(program) | row | dict(floor=floor, link=link))
  shape = dict(rows=plan.rows, tokens=plan.length, decode_slots=plan.decode_slots)
  return dict(
    flags=request.flags(setting.changes),
    fits=setting.peak <= chip.usable,
    usable=chip.usable,
    shape=dict(plan.mesh.shape) | shape,
    attention=plan.update.attention.kind,
    sizes=dataclasses.asdict(costs.sizes(plan)),
    programs=rows,
  )


def _table(data: dict[str, Any]) -> str:
  """Describes a setting, and each program's memory, least times and collectives."""
  shape = ', '.join(f'{name} {value}' for name, value in data['shape'].items())
  sizes = ', '.join(f'{name} {_gib(size)}' for name, size in data['sizes'].items())
  table = [_TITLES, *(_cells(row, data['usable']) for row in data['programs'])]
  widths = [max(map(len, column)) for column in zip(*table, strict=True)]
  lines = [f'{shape}, attention {data["attention"]}', f'of a chip, in GiB: {sizes}', '']
  for name, *numbers in table:
    cells = map(str.rjust, numbers, widths[1:])
    lines.append('  '.join([name.ljust(widths[0]), *cells]))
  return '\n'.join([*lines, _NOTES, *map(_sent, data['programs'])])


def _cells(row: dict[str, Any], usable: float) -> list[str]:
  unknown = _BYTES[:3] if row['refused'] else ()
  return [
    row['name'],
    *('?' if key in unknown else _gib(row[key]) for key in _BYTES),
    _gib(usable),
    'fits' if row['peak'] <= usable else 'TOO MUCH',
    f'{row["flops"] / 1e12:,.1f}',
    f'{row["moved"] / 1e9:,.1f}',
    f'{row["floor"]:.3g} s',
    f'{row["link"]:.3g} s',
  ]


def _sent(row: dict[str, Any]) -> str:
  """The lines of a program's collectives."""
  scopes: dict[str, list[str]] = {}
  for sent in row['sent']:
    size = f'{sent["count"]} {sent["kind"]} ({sent["bytes"] / 1e6:,.1f})'
    scopes.setdefault(_SCOPES[sent['scope']], []).append(size)
  lines = [f'  {row["name"]}, {scope}: {", ".join(kinds)}' for scope, kinds in scopes.items()]
  return '\n'.join(lines or [f'  {row["name"]}: {"?" if row["refused"] else "none"}'])
