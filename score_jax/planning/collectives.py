# SPDX-License-Identifier: Apache-2.0
"""The collectives of a compiled program, read from its optimized text.

A loop that counts to a constant multiplies what it sends; of an open one, like a rollout's, one pass is counted.
"""

from collections import Counter
from collections.abc import Iterator
import dataclasses
import math
import operator
import re
from typing import NamedTuple

# Outside of open loops, in the innermost, or in one around it.
ALWAYS, PASS, OUTER_PASS = 'always', 'pass', 'outer pass'

_HEAD = re.compile(r'(ENTRY )?%?([\w.\-]+) .*\{$')
_LINE = re.compile(r'\s+(ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)')
_KIND = re.compile(r'(all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(-start)?')
_ARRAY = re.compile(r'\b(pred|[sufbc]+\d+\w*)\[([\d,]*)\]')
_CALLED = re.compile(r'(?:calls|to_apply|(?:true|false|branch)_computations?)=(\{[^}]*\}|[%\w.\-]+)')
_LOOP = re.compile(r'condition=%?([\w.\-]+), body=%?([\w.\-]+)')


@dataclasses.dataclass(frozen=True)
class Collectives:
  """All of one kind in one scope."""

  scope: str
  kind: str
  count: int
  bytes: int  # that they yield on a device


class Line(NamedTuple):
  root: str = ''
  name: str = ''
  type: str = ''
  opcode: str = ''
  rest: str = ''  # operands and attributes

  @property
  def operands(self) -> list[str]:
    return re.findall(r'%([\w.\-]+)', self.rest.split('), ')[0])


Lines = dict[str, Line]  # of a computation, by name


def read(program: str) -> tuple[Collectives, ...]:
  """Returns the collectives of a program; of open loops side by side, what the largest sends."""
  bodies, entry = computations(program)
  largest: dict[tuple[str, str], Collectives] = {}
  scopes = [(entry, ALWAYS)]
  for name, scope in scopes:  # which grows meanwhile
    loops: list[str] = []
    counts, sizes = Counter(), Counter()
    for kind, count, size in _sent(bodies, name, 1, loops):
      counts[kind] += count
      sizes[kind] += size
    scope = scope or (OUTER_PASS if loops else PASS)
    for kind in counts:
      total = Collectives(scope, kind, counts[kind], sizes[kind])
      known = largest.get((scope, kind), total)
      largest[scope, kind] = max(known, total, key=operator.attrgetter('bytes'))
    scopes += [(loop, '') for loop in loops]
  return tuple(largest[key] for key in sorted(largest))


def computations(program: str) -> tuple[dict[str, Lines], str]:
  """All computations by name, and the name of the first to run."""
  bodies: dict[str, Lines] = {}
  entry = name = ''
  for text in program.splitlines():
    if head := _HEAD.match(text):
      name = head[2]
      bodies[name] = {}
      entry = name if head[1] else entry
    elif name and (match := _LINE.match(text)):
      line = Line(*match.groups())
      bodies[name][line.name] = line
  return bodies, entry


def loops(bodies: dict[str, Lines]) -> list[str]:
  """Returns the bodies of all loops."""
  lines = (line for body in bodies.values() for line in body.values() if line.opcode == 'while')
  return [_LOOP.search(line.rest)[2] for line in lines]


def _sent(bodies: dict[str, Lines], name: str, times: int, loops: list[str]) -> Iterator[tuple[str, int, int]]:
  """Yields kind, count and bytes; appends open loops to `loops`."""
  for line in bodies.get(name, {}).values():
    if match := _KIND.fullmatch(line.opcode):
      arrays = _ARRAY.findall(line.type)
      if match[2] and line.type.startswith('('):
        arrays = arrays[1:2]  # an asynchronous one yields its operand first
      yield match[1], times, times * sum(_size(*array) for array in arrays)
    elif line.opcode == 'while':
      condition, body = _LOOP.search(line.rest).groups()
      if trips := _trips(line, bodies.get(condition, {}), bodies.get(body, {})):
        yield from _sent(bodies, body, times * trips, loops)
      else:
        loops.append(body)
    for group in _CALLED.findall(line.rest):  # of a conditional all branches
      for called in re.findall(r'[\w.\-]+', group):
        yield from _sent(bodies, called, times, loops)


def _size(kind: str, shape: str) -> int:
  bits = 8 if kind == 'pred' else int(re.search(r'\d+', kind)[0])
  return max(1, bits // 8) * math.prod(map(int, filter(None, shape.split(','))))


def _trips(loop: Line, condition: Lines, body: Lines) -> int | None:
  """How often a loop runs; None if it does not count up to a constant."""
  if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest):
    return int(known[1])
  test, limits = _root(condition), _constants(condition)
  if 'direction=LT' not in test.rest or test.operands[1] not in limits:
    return None
  # An unrolled loop adds more than 1 in a pass.
  index = re.search(r'index=(\d+)', condition.get(test.operands[0], Line()).rest)
  results = dict(enumerate(_root(body).operands))
  line = body.get(results.get(int(index[1])), Line()) if index else Line()
  while line.opcode == 'copy':
    line = body[line.operands[0]]
  steps = _constants(body) if line.opcode == 'add' else {}
  step = next((steps[name] for name in line.operands if name in steps), 1)
  return math.ceil(limits[test.operands[1]] / step)


def _root(lines: Lines) -> Line:
  return next((line for line in lines.values() if line.root), Line())


def _constants(lines: Lines) -> dict[str, int]:
  values = {line.name: line.rest.partition(')')[0] for line in lines.values() if line.opcode == 'constant'}
  return {name: int(value) for name, value in values.items() if value.isdigit()}
