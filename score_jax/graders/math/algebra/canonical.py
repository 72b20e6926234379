# SPDX-License-Identifier: Apache-2.0
"""Brings an expression tree to its canonical form: the same number, written as the ring's `Value`.

Roots of rationals, i, symbols, powers and trigonometric values at multiples of pi/6 and pi/4 are exact. What has no
closed form becomes a generator named after its argument; `Ring.meanings` keeps what it stands for.
"""

from fractions import Fraction
import math

from score_jax.graders.math import budget
from score_jax.graders.math.algebra import functions
from score_jax.graders.math.algebra.polynomials import Ring, Value
from score_jax.graders.math.parser.values import Node, infinite


def canonical(ring: Ring, node: Node) -> Value:
  """Returns the canonical form. Raises Unreadable without one (1/0, infinity in arithmetic)."""
  ring.budget.spend()
  if node.kind not in ('const', 'neg') and any(isinstance(arg, Node) and infinite(arg) for arg in node.args):
    raise budget.Unreadable  # infinity is a bound or an answer, no number
  return _RULES[node.kind](ring, *node.args)


def _add(ring, *nodes):
  total = ring.constant(0)
  for node in nodes:
    total = ring.add(total, canonical(ring, node))
  return total


def _mul(ring, *nodes):
  total = ring.constant(1)
  for node in nodes:
    total = ring.multiply(total, canonical(ring, node))
  return total


def _pow(ring, base, exponent):
  base = canonical(ring, base)
  try:
    exponent = canonical(ring, exponent)
  except budget.Exhausted:
    if base.rational != 1:
      raise
    return base  # 1 to any power
  rational = exponent.rational
  if rational is not None:
    return functions.power_by_rational(ring, base, rational)
  return functions.exponential(ring, base, exponent)


def _root(ring, node, degree):
  degree = canonical(ring, degree).rational
  if degree is None or degree.denominator != 1 or not 2 <= degree <= budget.POWER:
    raise budget.Unreadable
  return functions.power_by_rational(ring, canonical(ring, node), 1 / degree)


def _fact(ring, node):
  value = canonical(ring, node)
  n = value.rational
  if n is None:
    return functions.opaque(ring, 'fact', value)
  if n < 0 or n.denominator != 1:
    raise budget.Unreadable
  if n > budget.FACTORIAL:
    raise budget.Exhausted
  ring.budget.spend(int(n) // 4)
  return ring.constant(math.factorial(int(n)))


def _binom(ring, top, bottom):
  n, k = canonical(ring, top), canonical(ring, bottom)
  if n.rational is None or k.rational is None:
    return functions.opaque(ring, 'binom', n, k)
  if n.rational.denominator != 1 or k.rational.denominator != 1 or n.rational < 0:
    raise budget.Unreadable
  if n.rational > budget.FACTORIAL:
    raise budget.Exhausted
  ring.budget.spend(int(n.rational) // 4)
  return ring.constant(math.comb(int(n.rational), int(k.rational)) if k.rational >= 0 else 0)


def _rounded(ring, name, rule, value):
  if value.rational is not None:
    return ring.constant(rule(value.rational))
  return functions.opaque(ring, name, value)


def _log(ring, base, node):
  return ring.divide(functions.log_of(ring, canonical(ring, node)), functions.log_of(ring, canonical(ring, base)))


def _deg(ring, node):
  return ring.multiply(canonical(ring, node), ring.multiply(ring.generator('pi'), ring.constant(Fraction(1, 180))))


def _big(ring, what, nodes):
  """Works gcd, lcm, mod, max, min of whole numbers and determinants out; keeps others as written."""
  forms = [canonical(ring, node) for node in nodes]
  if what == 'det':
    return _determinant(ring, forms)
  numbers = [form.rational for form in forms]
  if what in _OF_NUMBERS and all(number is not None and number.denominator == 1 for number in numbers):
    return ring.constant(_OF_NUMBERS[what](*map(int, numbers)))
  return functions.opaque(ring, 'big ' + what, *forms)


def _determinant(ring, entries):
  """Expands along the first row; up to 4 rows."""
  size = math.isqrt(len(entries))
  if size > 4 or size * size != len(entries):
    raise budget.Unreadable
  if size == 1:
    return entries[0]
  total = ring.constant(0)
  for column in range(size):
    minor = [entries[row * size + other] for row in range(1, size) for other in range(size) if other != column]
    term = ring.multiply(entries[column], _determinant(ring, minor))
    total = ring.subtract(total, term) if column % 2 else ring.add(total, term)
  return total


def _modulo(left: int, right: int) -> int:
  if not right:
    raise budget.Unreadable
  return left % right


_OF_NUMBERS = {'gcd': math.gcd, 'lcm': math.lcm, 'max': max, 'min': min, 'mod': _modulo}


def _kept(ring, kind, nodes):
  return functions.opaque(ring, kind, *(canonical(ring, node) for node in nodes))


def _pm(ring, sign, node):
  raise budget.Unreadable


_RULES = {
  'num': lambda ring, value, digits: ring.constant(value),
  'const': lambda ring, name: ring.generator('s:inf' if name == 'inf' else name),
  'sym': lambda ring, name: ring.generator('s:' + name),
  'add': _add,
  'mul': _mul,
  'neg': lambda ring, node: ring.negate(canonical(ring, node)),
  'div': lambda ring, top, bottom: ring.divide(canonical(ring, top), canonical(ring, bottom)),
  'pow': _pow,
  'root': _root,
  'fact': _fact,
  'binom': _binom,
  'fn': lambda ring, name, node: functions.apply(ring, name, canonical(ring, node)),
  'log': _log,
  'abs': lambda ring, node: functions.abs_of(ring, canonical(ring, node)),
  'floor': lambda ring, node: _rounded(ring, 'floor', math.floor, canonical(ring, node)),
  'ceil': lambda ring, node: _rounded(ring, 'ceil', math.ceil, canonical(ring, node)),
  'deg': _deg,
  'percent': lambda ring, node: ring.multiply(canonical(ring, node), ring.constant(Fraction(1, 100))),
  'apply': lambda ring, name, *nodes: _kept(ring, 'apply ' + name, nodes),
  'big': lambda ring, what, *nodes: _big(ring, what, nodes),
  'pm': _pm,
}
