"""What a compiled program sends: its collectives by kind, with the bytes that they yield, in loops and outside.

Read from the text of the optimized program. A loop whose condition compares a counter with a constant is taken to run
that often; what is inside counts so many times. Other loops (the rollout's, which ends when all rows are done) are
told apart: what one pass of each sends.
"""

import dataclasses
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
        if trips := _trips(line, bodies.get(loop[1], ())):
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


def _trips(line: str, condition: list[str] | tuple) -> int | None:
  """How often a loop runs, if its text says so."""
  if known := _TRIPS.search(line):
    return int(known[1])
  integers = dict(found for part in condition for found in _INTEGER.findall(part))
  for part in condition:
    if 'ROOT' in part and (below := _BELOW.search(part)) and below[2] in integers:
      return int(integers[below[2]])
  return None
