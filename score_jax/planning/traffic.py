# SPDX-License-Identifier: Apache-2.0
"""What a decode step moves in a TPU's memory, read from a rollout's optimized text; kernels are counted apart.

Counted are the operands and results of the top-level operations of the loop's body, as they lie in memory, padded to
tiles. What stays in the core's own memory (`S(1)`) is not, nor what is updated in place but for the part that changes.
"""

from collections import Counter
import dataclasses
import math
import re

from score_jax.planning.collectives import Line, Lines, computations, loops

_ARRAY = re.compile(r'\b([a-z]+\d*(?:e\dm\d\w*)?)\[([\d,]*)\](?:\{([^}]*)\})?')
_TILE = re.compile(r'T\(([\d,]+)\)')
_CALLS = re.compile(r'calls=%?([\w.\-]+)')
_MOVES_NOTHING = {
  'get-tuple-element', 'parameter', 'tuple', 'bitcast', 'constant', 'after-all', 'copy-done', 'async-done',
  'all-reduce-done', 'all-gather-done', 'collective-permute-done', 'slice-done', 'while', 'conditional',
}  # fmt: skip
_SLICES = {'gather', 'dynamic-slice'}
_KERNEL = 'tpu_custom_call'


@dataclasses.dataclass(frozen=True)
class Array:
  """An array of a program's text."""

  shape: tuple[int, ...]
  size: int  # bytes, with what pads its tiles
  in_core: bool  # it lies in the core's own memory

  @property
  def bytes(self) -> int:
    """Bytes of the device's memory."""
    return 0 if self.in_core else self.size


@dataclasses.dataclass(frozen=True)
class Moved:
  """What one operation reads and writes."""

  name: str
  opcode: str
  shapes: tuple[tuple[int, ...], ...]  # of arrays that it reads or writes whole
  bytes: int


def decode_step(program: str) -> tuple[list[Moved], int]:
  """Returns what the operations of a rollout's decode loop move, and the number of kernels among them."""
  bodies, _ = computations(program)
  body = _decode_body(bodies)
  moved = [_moved(line, body, bodies) for line in body.values() if line.opcode not in _MOVES_NOTHING]
  kernels = sum(map(_is_kernel, body.values()))
  return [one for one in moved if one.bytes], kernels


def operations(program: str) -> Counter[str]:
  """Returns how many operations of each opcode a decode step starts; kernels count as 'custom-call'."""
  body = _decode_body(computations(program)[0])
  return Counter(line.opcode for line in body.values() if line.opcode not in _MOVES_NOTHING)


def _decode_body(bodies: dict[str, Lines]) -> Lines:
  """Returns the body of the loop of decode steps."""

  def likely(name: str) -> tuple[int, bool, int]:
    # A loop around it admits rows, by a prefill that has no such kernel and is larger.
    lines = bodies[name].values()
    return sum(map(_is_kernel, lines)), not any(line.opcode == 'while' for line in lines), len(lines)

  return bodies[max(loops(bodies), key=likely)]


def arrays(text: str) -> list[Array]:
  """Returns the arrays of a type, like 'bf16[4,8]{1,0:T(8,128)}'."""
  return [_array(*match) for match in _ARRAY.findall(text)]


def _array(kind: str, dimensions: str, layout: str) -> Array:
  bits = re.search(r'\d+', kind)
  if kind != 'pred' and not bits:
    return Array((), 0, in_core=True)  # a token
  itemsize = 1 if kind == 'pred' else max(1, int(bits[0]) // 8)
  shape = tuple(map(int, filter(None, dimensions.split(','))))
  laid = list(shape)
  order = [int(axis) for axis in layout.partition(':')[0].split(',') if axis] if layout else []
  if (tile := _TILE.search(layout)) and order and shape:
    laid = [shape[axis] for axis in reversed(order)]
    for i, extent in enumerate(reversed(tile[1].split(',')), 1):
      if i <= len(laid):
        laid[-i] = -(-laid[-i] // int(extent)) * int(extent)
  return Array(shape, math.prod(laid) * itemsize, in_core='S(' in layout)


def _is_kernel(line: Line) -> bool:
  return line.opcode == 'custom-call' and _KERNEL in line.rest


def _moved(line: Line, body: Lines, bodies: dict[str, Lines]) -> Moved:
  results = arrays(line.type)
  operands = [arrays(body[name].type) if name in body else [] for name in line.operands]
  if _is_kernel(line):
    return Moved(line.name, line.opcode, (), 0)
  if line.opcode in ('copy-start', 'async-start', 'slice-start'):
    # (destination, source, ...) or ((source), destination, ...): the smaller of both is what is moved.
    ends = [array for array in results if len(array.shape)][:2]
    size = min((array.size for array in ends), default=0)
    count = sum(1 for array in ends if array.bytes)
    return Moved(line.name, line.opcode, tuple(array.shape for array in ends), size * count)
  if line.opcode == 'dynamic-update-slice':
    part = sum(array.size for array in operands[1]) if results[0].bytes else 0
    return Moved(line.name, line.opcode, (), 2 * part)
  parts: dict[int, int] = {}
  written = None
  if line.opcode == 'fusion':
    parts, written = _fused(bodies.get(_CALLS.search(line.rest)[1], {}))
  size, shapes = 0, []
  for i, operand in enumerate(operands):
    if len(operand) != 1 or not operand[0].bytes:
      continue
    if i in parts:
      size += min(parts[i], operand[0].bytes)
    else:
      size += operand[0].bytes
      shapes.append(operand[0].shape)
  total = sum(array.bytes for array in results)
  size += total if written is None else min(written, total)
  shapes += [array.shape for array in results if array.bytes and written is None]
  return Moved(line.name, line.opcode, tuple(shapes), size)


def _fused(lines: Lines) -> tuple[dict[int, int], int | None]:
  """Returns the bytes of operands that are read in part, and of a result that is updated in place."""
  parts = {}
  for line in lines.values():
    if line.opcode != 'parameter':
      continue
    names = {line.name}
    for other in lines.values():  # in order
      if other.opcode == 'bitcast' and set(other.operands) & names:
        names.add(other.name)
    users = [one for one in lines.values() if one.opcode != 'bitcast' and set(one.operands) & names]
    if users and all(one.opcode in _SLICES | {'dynamic-update-slice'} and one.operands[0] in names for one in users):
      parts[int(line.rest.partition(')')[0])] = sum(_changed(one, lines) for one in users)
  root = next((line for line in lines.values() if line.root), None)
  while root and root.opcode == 'bitcast':
    root = lines.get(root.operands[0])
  return parts, _changed(root, lines) if root and root.opcode == 'dynamic-update-slice' else None


def _changed(line: Line, lines: Lines) -> int:
  type_ = line.type if line.opcode in _SLICES else lines[line.operands[1]].type
  return sum(array.size for array in arrays(type_))
