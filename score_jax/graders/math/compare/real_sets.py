# SPDX-License-Identifier: Apache-2.0
"""Compares sets of real numbers made of intervals, points and inequalities.

All bounds are put in order; two sets are equal if they agree on every bound and on every gap between neighbours.
"""

import dataclasses

from score_jax.graders.math.algebra.equality import Scalars
from score_jax.graders.math.algebra.polynomials import Value
from score_jax.graders.math.budget import Unreadable
from score_jax.graders.math.parser import values
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
  """Returns True if both are the same set of reals. Raises Unreadable if one is no such set."""
  regions = [region(scalars, gold), region(scalars, answer)]
  bounds: list[Value] = []
  for one in regions:
    for bound in _bounds(one):
      _insert(scalars, bounds, bound)
  inside = [_inside(scalars, one, bounds) for one in regions]
  return inside[0] == inside[1]


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


def _inside(scalars: Scalars, one, bounds: list[Value]) -> set[int]:
  """Returns which of gap 0, bound 0, gap 1, bound 1, ... lie in a region."""
  if isinstance(one, Joined):
    left, right = _inside(scalars, one.left, bounds), _inside(scalars, one.right, bounds)
    return {'cup': left | right, 'cap': left & right, 'setminus': left - right}[one.kind]
  first = 0 if one.low is None else _number(scalars, one.low, bounds) + (not one.low_closed)
  last = 2 * len(bounds) if one.high is None else _number(scalars, one.high, bounds) - (not one.high_closed)
  return set(range(first, last + 1))


def _number(scalars: Scalars, bound: Value, bounds: list[Value]) -> int:
  same = [index for index, other in enumerate(bounds) if other is bound]
  equal = (i for i, other in enumerate(bounds) if scalars.sign_of(scalars.ring.subtract(bound, other)) == 0)
  return 2 * (same[0] if same else next(equal)) + 1


def region(scalars: Scalars, value):
  """Returns the Span or Joined of an interval, set, inequality or open pair."""
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
  """Returns an interval's Span. Raises Unreadable for (7, 6), (1, 1), [-oo, 0)."""
  if values.infinite(low) and (low == values.const('inf') or low_closed):
    raise Unreadable
  if values.infinite(high) and (high != values.const('inf') or high_closed):
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
  if values.infinite(node):
    return None
  if not scalars.constant(node):
    raise Unreadable
  return scalars.form(node)


def _relation(scalars: Scalars, relation: values.Relation):
  """Returns the set of x < 5; 1 < x <= 5; 2x > 10; x != 3; x in S; |x| < 3."""
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
  """Returns the set of `left op right`, linear in one symbol, or of |symbol| beside a constant."""
  for one, other, sign in ((left, right, op), (right, left, _FLIPPED[op])):
    if values.infinite(other):
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
