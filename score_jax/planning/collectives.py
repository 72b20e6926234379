"""What a compiled program sends: its collectives by kind, with the bytes that they yield, in loops and outside.

Read from the text of the optimized program. A loop whose condition compares a counter with a constant is taken to run
from 0 up to it, by what its body adds; what is inside counts so many times. Other loops (the rollout's, which ends when
all rows are done) are told apart: what one pass of each sends.
"""

import dataclasses
import math
import re

_HEAD = re.compile(r'^(ENTRY )?%?([\w.\-]+) .*\{$')
_COLLECTIVE = re.compile(r'= (.*?) (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(-start)?\(')
_ARRAY = re.compile(r'\b(pred|[sufbc]+\d+\w*)\[([\d,]*)\]')
_LOOP = re.compile(r' while\(.*?condition=%?([\w.\-]+), body=%?([\w.\-]+)')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_CALLED = re.compile(r'(?:calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)')
_BRANCHES = re.compile(r'branch_computations=\{([^}]*)\}')
_INTEGER = re.compile(r'%?([\w.\-]+) = [su]\d+\[\]\S* constant\((\d+)\)')
_BELOW = re.compile(r'compare\((?:\S+ )?%?([\w.\-]+), (?:\S+ )?%?([\w.\-]+)\), direction=LT')

_ELEMENT = re.compile(r'%?([\w.\-]+) = [su]\d+\[\]\S* get-tuple-element\(.*\), index=(\d+)')
_RESULT = re.compile(r'ROOT .*? tuple\((.*?)\)(?:,|$)')
_RAISED = re.compile(r'%?([\w.\-]+) = [su]\d+\[\]\S* (add|copy)\((.*?)\)')
_NAME = re.compile(r'%([\w.\-]+)')
_COMMENT = re.compile(r'/\*.*?\*/')

# Where a collective stands: run so often in all; in one pass of a loop of unknown length; in one that holds such loops.
ALWAYS, PASS, OUTER_PASS = 'always', 'pass', 'outer pass'


@dataclasses.dataclass(frozen=True)
class Sent:
  """Collectives of one kind in one place."""

  place: str
  kind: str
  count: int
  bytes: int  # that they yield on a device


def array_bytes(kind: str, shape: str) -> int:
  """Bytes of an HLO array type, e.g. ('bf16', '8,128')."""
  size = 1 if kind == 'pred' else max(1, int(re.match(r'\D*(\d+)', kind)[1]) // 8)
  for extent in filter(None, shape.split(',')):
    size *= int(extent)
  return size


def computations(program: str) -> tuple[dict[str, list[str]], str]:
  """Name -> lines of each computation of a program's text, and the name of the first to run."""
  found: dict[str, list[str]] = {}
  entry, name = '', ''
  for line in program.splitlines():
    if not line.startswith(' ') and (head := _HEAD.match(line)):
      name = head[2]
      found[name] = []
      entry = name if head[1] else entry
    elif name:
      found[name].append(line)
  return found, entry


def sent(program: str) -> tuple[Sent, ...]:
  """All collectives of a program's text; of loops of unknown length that stand side by side, what the largest sends."""
  bodies, entry = computations(program)
  found: dict[tuple[str, str], tuple[int, int]] = {}

  def keep(place: str, totals: dict[str, list[int]]) -> None:
    for kind, (count, size) in totals.items():
      found[place, kind] = max(found.get((place, kind), (0, 0)), (count, size), key=lambda total: total[1])

  def walk(name: str, times: int, totals: dict[str, list[int]]) -> bool:
    """Adds what a computation sends to `totals`; whether it holds a loop of unknown length."""
    open_ended = False
    for line in bodies.get(name, ()):
      _count(line, times, totals)
      for called in _called(line):
        open_ended |= walk(called, times, totals)
      if loop := _LOOP.search(line):
        if trips := _trips(line, bodies):
          open_ended |= walk(loop[2], times * trips, totals)
          continue
        own: dict[str, list[int]] = {}
        keep(OUTER_PASS if walk(loop[2], 1, own) else PASS, own)
        open_ended = True
    return open_ended

  always: dict[str, list[int]] = {}
  walk(entry, 1, always)
  keep(ALWAYS, always)
  return tuple(Sent(place, kind, *total) for (place, kind), total in sorted(found.items()))


def _count(line: str, times: int, totals: dict[str, list[int]]) -> None:
  """Adds a line's collective, if it is one."""
  found = _COLLECTIVE.search(line)
  if not found:
    return
  arrays = _ARRAY.findall(found[1])
  # An asynchronous one yields its operand as well, and its result after it.
  arrays = arrays[1:2] if found[3] and found[1].startswith('(') else arrays
  total = totals.setdefault(found[2], [0, 0])
  total[0] += times
  total[1] += times * sum(array_bytes(*array) for array in arrays)


def _called(line: str) -> list[str]:
  """Computations that a line runs once; of a conditional all branches."""
  branches = [branch.strip().lstrip('%') for found in _BRANCHES.findall(line) for branch in found.split(',')]
  return _CALLED.findall(line) + branches


def _trips(line: str, bodies: dict[str, list[str]]) -> int | None:
  """How often a loop runs, if its text says so: from 0 up to a constant, by a constant."""
  if known := _TRIPS.search(line):
    return int(known[1])
  condition, body = (bodies.get(name, []) for name in _LOOP.search(line).groups())
  integers = _integers(condition)
  for part in condition:
    below = _BELOW.search(part) if 'ROOT' in part else None
    if below and below[2] in integers:
      return math.ceil(integers[below[2]] / _stride(below[1], condition, body))
  return None


def _stride(counter: str, condition: list[str], body: list[str]) -> int:
  """By how much a pass raises the counter that the condition reads: more than 1 where the compiler unrolled the loop.

  1 where the body does not say it plainly.
  """
  read = next((found[2] for part in condition if (found := _ELEMENT.search(part)) and found[1] == counter), None)
  results = next((found[1] for part in body if (found := _RESULT.search(part))), '')
  names = _NAME.findall(_COMMENT.sub('', results))
  if read is None or int(read) >= len(names):
    return 1
  defined = {found[1]: found for part in body if (found := _RAISED.search(part))}
  name, integers = names[int(read)], _integers(body)
  while name in defined and defined[name][2] == 'copy':
    name = _NAME.findall(defined[name][3])[0]
  if name not in defined:
    return 1
  return next((integers[word] for word in _NAME.findall(defined[name][3]) if word in integers), 1)


def _integers(lines: list[str]) -> dict[str, int]:
  return {name: int(value) for line in lines for name, value in _INTEGER.findall(line)}
