"""What a compiled program sends: its collectives by kind, with the bytes that they yield, in loops and outside.

Read from the text of the optimized program. A loop whose condition compares a counter with a constant is taken to run
from 0 up to it, by what its body adds; what is inside counts once for each pass. Other loops (the rollout's, which ends
when all rows are done) are told apart: what one pass of each sends.
"""

from collections.abc import Iterator
import dataclasses
import math
import re

_HEAD = re.compile(r'^(ENTRY )?%?([\w.\-]+) .*\{$')
_COLLECTIVE = re.compile(r'= (.*?) (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(-start)?\(')
_ARRAY = re.compile(r'\b(pred|[sufbc]+\d+\w*)\[([\d,]*)\]')
_LOOP = re.compile(r' while\(.*?condition=%?([\w.\-]+), body=%?([\w.\-]+)')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_CALLED = re.compile(r'(?:calls|to_apply|true_computation|false_computation|branch_computations)=(\{[^}]*\}|[%\w.\-]+)')
_INTEGER = re.compile(r'%?([\w.\-]+) = [su]\d+\[\]\S* constant\((\d+)\)')
_BELOW = re.compile(r'ROOT .*compare\((?:\S+ )?%?([\w.\-]+), (?:\S+ )?%?([\w.\-]+)\), direction=LT')
_ELEMENT = re.compile(r'%?([\w.\-]+) = [su]\d+\[\]\S* get-tuple-element\(.*\), index=(\d+)')
_RESULT = re.compile(r'ROOT .*? tuple\((.*?)\)(?:,|$)')
_RAISED = re.compile(r'%?([\w.\-]+) = [su]\d+\[\]\S* (add|copy)\((.*?)\)')
_NAME = re.compile(r'%([\w.\-]+)')
_COMMENT = re.compile(r'/\*.*?\*/')

# Where a collective stands: run as often in all; in one pass of a loop of unknown length; in one that holds such loops.
ALWAYS, PASS, OUTER_PASS = 'always', 'pass', 'outer pass'


@dataclasses.dataclass(frozen=True)
class Collectives:
  """All of one kind in one scope."""

  scope: str
  kind: str
  count: int
  bytes: int  # that they yield on a device


def read(program: str) -> tuple[Collectives, ...]:
  """Returns all collectives of a program's text; of loops of unknown length side by side, what the largest sends."""
  bodies, entry = _computations(program)
  largest: dict[tuple[str, str], tuple[int, int]] = {}

  def add(name: str, scope: str) -> None:
    loops: list[str] = []
    totals: dict[str, tuple[int, int]] = {}
    for kind, count, size in _sent(name, 1, bodies, loops):
      before = totals.get(kind, (0, 0))
      totals[kind] = before[0] + count, before[1] + size
    scope = scope or (OUTER_PASS if loops else PASS)
    for kind, total in totals.items():
      largest[scope, kind] = max(largest.get((scope, kind), (0, 0)), total, key=lambda total: total[1])
    for loop in loops:
      add(loop, '')

  add(entry, ALWAYS)
  return tuple(Collectives(scope, kind, *total) for (scope, kind), total in sorted(largest.items()))


def _computations(program: str) -> tuple[dict[str, list[str]], str]:
  """Name -> lines of each computation of a program's text, and the name of the first to run."""
  bodies: dict[str, list[str]] = {}
  entry, name = '', ''
  for line in program.splitlines():
    if not line.startswith(' ') and (head := _HEAD.match(line)):
      name = head[2]
      bodies[name] = []
      entry = name if head[1] else entry
    elif name:
      bodies[name].append(line)
  return bodies, entry


def _sent(name: str, times: int, bodies: dict[str, list[str]], loops: list[str]) -> Iterator[tuple[str, int, int]]:
  """Yields kind, count and bytes of what a computation sends; loops of unknown length are appended to `loops`."""
  for line in bodies.get(name, ()):
    if match := _COLLECTIVE.search(line):
      arrays = _ARRAY.findall(match[1])
      # An asynchronous one yields its operand as well, and its result after it.
      arrays = arrays[1:2] if match[3] and match[1].startswith('(') else arrays
      yield match[2], times, times * sum(_array_bytes(*array) for array in arrays)
    for group in _CALLED.findall(line):  # of a conditional all branches
      for called in re.findall(r'[\w.\-]+', group):
        yield from _sent(called, times, bodies, loops)
    if loop := _LOOP.search(line):
      trips = _trips(line, *(bodies.get(part, []) for part in loop.groups()))
      if trips:
        yield from _sent(loop[2], times * trips, bodies, loops)
      else:
        loops.append(loop[2])


def _array_bytes(kind: str, shape: str) -> int:
  """Bytes of an HLO array type, e.g. ('bf16', '8,128')."""
  size = 1 if kind == 'pred' else max(1, int(re.match(r'\D*(\d+)', kind)[1]) // 8)
  return size * math.prod(map(int, filter(None, shape.split(','))))


def _trips(line: str, condition: list[str], body: list[str]) -> int | None:
  """How often a loop runs, if its text says so: from 0 up to a constant, by a constant."""
  if known := _TRIPS.search(line):
    return int(known[1])
  limits = _integers(condition)
  for below in filter(None, map(_BELOW.search, condition)):
    if below[2] in limits:
      return math.ceil(limits[below[2]] / _stride(below[1], condition, body))
  return None


def _stride(counter: str, condition: list[str], body: list[str]) -> int:
  """By how much a pass raises the counter that the condition reads: more than 1 where the compiler unrolled the loop.

  1 where the body does not say it plainly.
  """
  elements = {match[1]: int(match[2]) for match in map(_ELEMENT.search, condition) if match}
  results = next((match[1] for match in map(_RESULT.search, body) if match), '')
  names = dict(enumerate(_NAME.findall(_COMMENT.sub('', results))))
  raised = {match[1]: match for match in map(_RAISED.search, body) if match}
  name, integers = names.get(elements.get(counter, -1), ''), _integers(body)
  while name in raised and raised[name][2] == 'copy':
    name = _NAME.findall(raised[name][3])[0]
  operands = _NAME.findall(raised[name][3]) if name in raised else ()
  return next((integers[operand] for operand in operands if operand in integers), 1)


def _integers(lines: list[str]) -> dict[str, int]:
  return {name: int(value) for line in lines for name, value in _INTEGER.findall(line)}
