"""The canonical form of an expression tree: the same number, written as the ring's `Value`.

Roots of rationals, i, symbols, powers and the trigonometric values at multiples of pi/6 and pi/4 come out exact. What
has no closed form becomes a generator named after its argument; `Ring.meanings` keeps what it stands for.
"""

from fractions import Fraction
import math

from score_jax.graders.math import budget
from score_jax.graders.math.algebra.functions import abs_of
from score_jax.graders.math.algebra.functions import apply
from score_jax.graders.math.algebra.functions import exponential
from score_jax.graders.math.algebra.functions import log_of
from score_jax.graders.math.algebra.functions import opaque
from score_jax.graders.math.algebra.functions import power_by_rational
from score_jax.graders.math.algebra.polynomials import Ring
from score_jax.graders.math.algebra.polynomials import Value
from score_jax.graders.math.budget import Exhausted
from score_jax.graders.math.budget import Unreadable
from score_jax.graders.math.parser.brackets import infinite
from score_jax.graders.math.parser.values import Node


def canonical(ring: Ring, node: Node) -> Value:
  """The canonical form. Raises Unreadable where it has no value (1/0, infinity in arithmetic)."""
  ring.budget.spend()
  if node.kind not in ('const', 'neg') and any(isinstance(arg, Node) and infinite(arg) for arg in node.args):
    raise Unreadable  # infinity is a bound or an answer, not a number to reckon with
  return _RULES[node.kind](ring, *node.args)


def _num(ring, value, digits):
  return ring.constant(value)


def _const(ring, name):
  if name == 'inf':
    return ring.generator('s:inf')
  return ring.generator(name)


def _sym(ring, name):
  return ring.generator('s:' + name)


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


def _neg(ring, node):
  return ring.negate(canonical(ring, node))


def _div(ring, top, bottom):
  return ring.divide(canonical(ring, top), canonical(ring, bottom))


def _pow(ring, base, exponent):
  base, exponent = canonical(ring, base), canonical(ring, exponent)
  rational = exponent.rational
  if rational is not None:
    return power_by_rational(ring, base, rational)
  return exponential(ring, base, exponent)


def _root(ring, node, degree):
  degree = canonical(ring, degree).rational
  if degree is None or degree.denominator != 1 or not 2 <= degree <= budget.POWER:
    raise Unreadable
  return power_by_rational(ring, canonical(ring, node), 1 / degree)


def _fact(ring, node):
  value = canonical(ring, node)
  n = value.rational
  if n is None:
    return opaque(ring, 'fact', value)
  if n < 0 or n.denominator != 1:
    raise Unreadable
  if n > budget.FACTORIAL:
    raise Exhausted
  ring.budget.spend(int(n) // 4)
  return ring.constant(math.factorial(int(n)))


def _binom(ring, top, bottom):
  n, k = canonical(ring, top), canonical(ring, bottom)
  if n.rational is None or k.rational is None:
    return opaque(ring, 'binom', n, k)
  if n.rational.denominator != 1 or k.rational.denominator != 1 or n.rational < 0:
    raise Unreadable
  if n.rational > budget.FACTORIAL:
    raise Exhausted
  ring.budget.spend(int(n.rational) // 4)
  return ring.constant(math.comb(int(n.rational), int(k.rational)) if k.rational >= 0 else 0)


def _fn(ring, name, node):
  return apply(ring, name, canonical(ring, node))


def _log(ring, base, node):
  return ring.divide(log_of(ring, canonical(ring, node)), log_of(ring, canonical(ring, base)))


def _abs(ring, node):
  return abs_of(ring, canonical(ring, node))


def _floor(ring, node):
  return _rounded(ring, 'floor', math.floor, canonical(ring, node))


def _ceil(ring, node):
  return _rounded(ring, 'ceil', math.ceil, canonical(ring, node))


def _rounded(ring, name, rule, value):
  if value.rational is not None:
    return ring.constant(rule(value.rational))
  return opaque(ring, name, value)


def _deg(ring, node):
  return ring.multiply(canonical(ring, node), ring.multiply(ring.generator('pi'), ring.constant(Fraction(1, 180))))


def _percent(ring, node):
  return ring.multiply(canonical(ring, node), ring.constant(Fraction(1, 100)))


def _apply(ring, name, *nodes):
  return opaque(ring, 'apply ' + name, *(canonical(ring, node) for node in nodes))


def _big(ring, what, *nodes):
  return opaque(ring, 'big ' + what, *(canonical(ring, node) for node in nodes))


def _pm(ring, sign, node):
  raise Unreadable


_RULES = {
  'num': _num, 'const': _const, 'sym': _sym, 'add': _add, 'mul': _mul, 'neg': _neg, 'div': _div, 'pow': _pow,
  'root': _root,
  'fact': _fact, 'binom': _binom, 'fn': _fn, 'log': _log, 'abs': _abs, 'floor': _floor, 'ceil': _ceil, 'deg': _deg,
  'percent': _percent, 'apply': _apply, 'big': _big, 'pm': _pm,
}  # fmt: skip
