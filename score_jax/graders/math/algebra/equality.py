# SPDX-License-Identifier: Apache-2.0
"""Decides whether two scalar expressions are equal.

The difference is brought to canonical form. Zero proves equality. Without opaque generators anything else disproves it
(for numbers whose factors over 1000 are prime). With them, certified values decide: apart at a point disproves it;
equality is assumed if the difference vanishes to 60 digits of its largest term at every sample point that is defined
(one for a constant, at least two with symbols), while every number written and every generator's magnitude lies
between 2^-80 and 2^80 and no term of a sum is 2^80 times smaller than another: no small number hides in a large one.
"""

from fractions import Fraction

from flint import arb

from score_jax.graders.math.algebra import numeric
from score_jax.graders.math.algebra.canonical import canonical
from score_jax.graders.math.algebra.polynomials import ONE, Ring, Value
from score_jax.graders.math.budget import Budget
from score_jax.graders.math.parser.values import Node

_AGREE = arb(2) ** -200  # 60 digits
_SMALLEST = arb(2) ** -375  # of a largest term
_EXACT = ('p:', 's:', 'vec ')
DIGITS = 8  # significant digits of a decimal that may stand for the number that it rounds


class Scalars:
  """Compares expressions of one grading."""

  def __init__(self, budget: Budget):
    self.ring = Ring(budget)
    self.forms: dict[Node, Value] = {}

  def form(self, node: Node) -> Value:
    if node not in self.forms:
      self.forms[node] = canonical(self.ring, node)
    return self.forms[node]

  def equal(self, left: Node, right: Node) -> bool:
    """Raises Unreadable if one of the two has no value."""
    if left == right:
      self.form(left)
      return True
    return self.zero(self.difference(self.form(left), self.form(right)))

  def difference(self, left: Value, right: Value) -> Value:
    """Returns a value over 1 that is zero exactly if left = right."""
    if left.den == right.den:
      return Value(self.ring.plus(left.num, self.ring.scaled(right.num, Fraction(-1))), ONE)
    crossed = self.ring.scaled(self.ring.product(right.num, left.den), Fraction(-1))
    return Value(self.ring.plus(self.ring.product(left.num, right.den), crossed), ONE)

  def zero(self, value: Value) -> bool:
    if not value.num:
      return True
    generators = value.generators()
    if all(g.startswith(_EXACT) or g in ('i', 'pi') for g in generators) or generators <= {'e', 'i'}:
      return False
    return self.vanishes(value, generators)

  def vanishes(self, value: Value, generators: set[str]) -> bool:
    """Returns True if the value is zero to 60 digits at every sample point where it is defined."""
    symbolic = any('s:' in g or 'apply ' in g or 'big ' in g for g in generators)
    samplers = [
      numeric.Sampler(self.ring, round_, numeric.needs_whole(self.ring, generators))
      for round_ in range(numeric.ROUNDS if symbolic else 1)
    ]
    agreed = 0
    with numeric.precision():
      for sampler in samplers:
        try:
          real, imaginary, sizes = sampler.parts(value.num)
        except numeric.Undefined:
          continue
        largest = max(sizes)
        if not all(part is None or self.small(part, largest) for part in (real, imaginary)):
          return False
        if not (sampler.tame and largest > _SMALLEST):
          return False
        agreed += 1
    return agreed >= (2 if symbolic else 1)

  def small(self, part: arb, largest: arb) -> bool:
    """Returns True if a ball holds zero, and is narrow beside the largest term."""
    return not numeric.sign(part) and part.rad() <= largest * _AGREE

  def constant(self, node: Node) -> bool:
    """Returns True if no symbol is in it."""
    return not any('s:' in g or 'apply ' in g for g in self.form(node).generators())

  def sign_of(self, value: Value) -> int | None:
    """Returns 1, 0 or -1 if proven for a real constant, else None."""
    rational = value.rational
    if rational is not None:
      return (rational > 0) - (rational < 0)
    if self.zero(Value(value.num, ONE)):
      return 0
    try:
      with numeric.precision():
        return numeric.sign(numeric.Sampler(self.ring, 0, False).value(value)) or None
    except numeric.Undefined:
      return None

  def rounds_to(self, exact: Node, decimal: Node) -> bool:
    """Returns True if `decimal` has DIGITS digits or more and is `exact`, rounded or cut off."""
    value, digits = _decimal(decimal)
    if digits < DIGITS or not self.constant(exact):
      return False
    unit = Fraction(1, 10 ** _decimals(value))
    form = self.form(exact)
    try:
      with numeric.precision():
        ball = numeric.Sampler(self.ring, 0, False).value(form)
        return numeric.ball(value - unit) < ball < numeric.ball(value + unit)
    except numeric.Undefined:
      return False


def _decimal(node: Node) -> tuple[Fraction, int]:
  if node.kind == 'neg':
    value, digits = _decimal(node.args[0])
    return -value, digits
  if node.kind == 'mul' and len(node.args) == 2 and node.args[1].kind == 'pow':  # 2.5 x 10^{-3}
    (value, digits), (base, exponent) = _decimal(node.args[0]), node.args[1].args
    power, whole = _decimal(exponent)[0], exponent.args[0] if exponent.kind == 'neg' else exponent
    if base == Node('num', (Fraction(10), 0)) and whole.kind == 'num' and power.denominator == 1 and abs(power) < 400:
      return value * Fraction(10) ** int(power), digits
  return node.args if node.kind == 'num' else (Fraction(0), 0)


def _decimals(value: Fraction) -> int:
  count = 0
  while value.denominator != 1 and count < 400:
    value *= 10
    count += 1
  return count
