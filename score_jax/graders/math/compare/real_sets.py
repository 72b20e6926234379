"""Sets of real numbers made of intervals, points and inequalities, compared as sets.

All bounds that occur are put in order; two sets are equal if they agree on every bound and on every gap between
neighbours.
"""

import dataclasses

from score_jax.graders.math.algebra.equality import Scalars
from score_jax.graders.math.algebra.polynomials import Value
from score_jax.graders.math.budget import Unreadable
from score_jax.graders.math.parser import values
from score_jax.graders.math.parser.brackets import infinite
from score_jax.graders.math.parser.values import Node

_FLIPPED = {'<': '>', '>': '<', '<=': '>=', '>=': '<=', '!=': '!='}


@dataclasses.dataclass(frozen=True)
class Span:
  """Numbers between two bounds; None is no bound."""

  low: Value | None
  high: Value | None
  low_closed: bool
  high_closed: bool


@dataclasses.dataclass(frozen=True)
class Joined:
  kind: str  # cup, cap, setminus
  left: object
  right: object


EMPTY = Joined('setminus', Span(None, None, False, False), Span(None, None, False, False))


def same_set(scalars: Scalars, gold, answer) -> bool:
  """True if both are the same set of reals. Raises Unreadable if one is no such set."""
  regions = [region(scalars, gold), region(scalars, answer)]
  bounds: list[Value] = []
  for one in regions:
    for bound in _bounds(one):
      _insert(scalars, bounds, bound)
  positions = {id(bound): index for index, bound in enumerate(bounds)}
  for probe in range(2 * len(bounds) + 1):  # gap, bound, gap, bound, ..., gap
    inside = [_holds(scalars, one, probe, bounds, positions) for one in regions]
    if inside[0] != inside[1]:
      return False
  return True


def _insert(scalars: Scalars, bounds: list[Value], bound: Value) -> None:
  for index, other in enumerate(bounds):
    order = scalars.sign_of(scalars.ring.subtract(bound, other))
    if order is None:
      raise Unreadable
    if order == 0:
      return
    if order < 0:
      bounds.insert(index, bound)
      return
  bounds.append(bound)


def _bounds(one) -> list[Value]:
  if isinstance(one, Joined):
    return _bounds(one.left) + _bounds(one.right)
  return [bound for bound in (one.low, one.high) if bound is not None]


def _holds(scalars: Scalars, one, probe: int, bounds: list[Value], positions: dict) -> bool:
  if isinstance(one, Joined):
    left = _holds(scalars, one.left, probe, bounds, positions)
    right = _holds(scalars, one.right, probe, bounds, positions)
    return {'cup': left or right, 'cap': left and right, 'setminus': left and not right}[one.kind]
  above = one.low is None or _after(scalars, probe, one.low, one.low_closed, bounds, positions, 1)
  below = one.high is None or _after(scalars, probe, one.high, one.high_closed, bounds, positions, -1)
  return above and below


def _after(scalars: Scalars, probe: int, bound: Value, closed: bool, bounds, positions, side: int) -> bool:
  index = positions.get(id(bound))
  if index is None:
    index = next(i for i, other in enumerate(bounds) if scalars.sign_of(scalars.ring.subtract(bound, other)) == 0)
    positions[id(bound)] = index
  distance = (probe - (2 * index + 1)) * side
  return distance > 0 or (distance == 0 and closed)


def region(scalars: Scalars, value):
  """Span or Joined of an interval, set, inequality or open pair."""
  if isinstance(value, values.Interval):
    return _span(scalars, value.low, value.high, value.low_closed, value.high_closed)
  if isinstance(value, values.SetOperation):
    return Joined(value.kind, region(scalars, value.left), region(scalars, value.right))
  if isinstance(value, values.Relation):
    return _relation(scalars, value)
  if isinstance(value, values.Sequence) and value.kind == 'tuple' and len(value.items) == 2:
    return _span(scalars, _node(value.items[0]), _node(value.items[1]), False, False)
  if isinstance(value, values.Sequence) and value.kind == 'set':
    total = EMPTY
    for item in value.items:
      point = scalars.form(_node(item))
      total = Joined('cup', total, Span(point, point, True, True))
    return total
  raise Unreadable


def _span(scalars: Scalars, low: Node, high: Node, low_closed: bool, high_closed: bool) -> Span:
  """Raises Unreadable for what is no interval: (7, 6), (1, 1), [-oo, 0)."""
  if infinite(low) and (low == values.const('inf') or low_closed):
    raise Unreadable
  if infinite(high) and (high != values.const('inf') or high_closed):
    raise Unreadable
  first, last = _bound(scalars, low), _bound(scalars, high)
  if first is not None and last is not None:
    order = scalars.sign_of(scalars.ring.subtract(last, first))
    if order is None or order < (0 if low_closed and high_closed else 1):
      raise Unreadable
  return Span(first, last, low_closed, high_closed)


def _node(item) -> Node:
  if not isinstance(item, values.Scalar) or item.percent:
    raise Unreadable
  return item.node


def _bound(scalars: Scalars, node: Node) -> Value | None:
  if infinite(node):
    return None
  if not scalars.constant(node):
    raise Unreadable
  return scalars.form(node)


def _relation(scalars: Scalars, relation: values.Relation):
  """x < 5; 1 < x <= 5; 2x > 10; x != 3; x in S; |x| < 3."""
  if relation.ops == ('in',) and isinstance(relation.parts[1], values.Interval | values.SetOperation | values.Sequence):
    if _node(relation.parts[0]).kind not in ('sym', 'apply'):
      raise Unreadable  # -x in [-2, 7]
    return region(scalars, relation.parts[1])
  total = None
  for left, op, right in zip(relation.parts, relation.ops, relation.parts[1:], strict=False):
    if op not in _FLIPPED:
      raise Unreadable
    one = _inequality(scalars, _node(left), op, _node(right))
    total = one if total is None else Joined('cap', total, one)
  return total


def _inequality(scalars: Scalars, left: Node, op: str, right: Node):
  """left op right in one symbol, linear, or |symbol| against a constant."""
  for one, other, sign in ((left, right, op), (right, left, _FLIPPED[op])):
    if infinite(other):
      return Span(None, None, False, False)
    if one.kind in ('abs', 'apply') and scalars.constant(other):
      bound = scalars.form(other)
      if one.kind == 'apply':
        return _half(bound, sign)
      inner = Joined('cap', _half(bound, sign), _half(scalars.ring.constant(0), '>='))
      if sign in ('>', '>=', '!='):
        mirrored = Joined(
          'cap', _half(scalars.ring.negate(bound), _FLIPPED[sign]), _half(scalars.ring.constant(0), '<=')
        )
        return Joined('cup', inner, mirrored)
      return Joined('cap', _half(bound, sign), _half(scalars.ring.negate(bound), _FLIPPED[sign]))
  difference = scalars.ring.subtract(scalars.form(left), scalars.form(right))
  if difference.den != {(): 1}:
    raise Unreadable
  symbols = {key for key in difference.num if any('s:' in generator for generator, _ in key)}
  if len(symbols) != 1:
    raise Unreadable
  [key] = symbols
  if len(key) != 1 or not key[0][0].startswith('s:') or key[0][1] != 1:
    raise Unreadable
  slope = difference.num[key]
  rest = Value({k: c for k, c in difference.num.items() if k != key}, difference.den)
  bound = scalars.ring.multiply(rest, scalars.ring.constant(-1 / slope))
  return _half(bound, op if slope > 0 else _FLIPPED[op])


def _half(bound: Value, op: str):
  if op == '!=':
    return Joined('setminus', Span(None, None, False, False), Span(bound, bound, True, True))
  closed = op in ('<=', '>=')
  return Span(None, bound, False, closed) if op in ('<', '<=') else Span(bound, None, closed, False)
