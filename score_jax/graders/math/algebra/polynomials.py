# SPDX-License-Identifier: Apache-2.0
"""Exact arithmetic on sums of products of generators with rational coefficients and exponents.

A generator is a name: 'p:3' (a prime, with exponents in [0, 1): sqrt(3) is p:3 to 1/2), 'i', 'pi', 'e', 's:x' (a
symbol), or one made by `functions.py` for a value without a closed form (sin of something, a root of a sum).
Real roots of different square-free products of primes are linearly independent over Q (Besicovitch, J. London Math.
Soc. 15, 1940), so a sum over 'p:' and 'i' alone is zero only if every coefficient is.

A term's key is a sorted tuple of (generator, exponent). `Ring.relations` has powers that are sums of other terms, as
sin^2 = 1 - cos^2.
"""

import dataclasses
from fractions import Fraction

from score_jax.graders.math import budget

Terms = dict  # {((generator, exponent), ...): coefficient}
ONE = {(): Fraction(1)}


@dataclasses.dataclass(frozen=True)
class Value:
  """num / den; den is not zero."""

  num: Terms
  den: Terms

  @property
  def rational(self) -> Fraction | None:
    """The value, if it is rational; else None."""
    if self.den == ONE and not self.num:
      return Fraction(0)
    return self.num.get(()) if self.den == ONE and len(self.num) == 1 else None

  @property
  def single(self) -> bool:
    """True for one term over 1."""
    return self.den == ONE and len(self.num) == 1

  def generators(self) -> set[str]:
    return {generator for terms in (self.num, self.den) for key in terms for generator, _ in key}


@dataclasses.dataclass
class Ring:
  """One grading's budget and generators."""

  budget: budget.Budget
  relations: dict[str, tuple[int, Terms]] = dataclasses.field(default_factory=dict)
  meanings: dict[str, tuple] = dataclasses.field(default_factory=dict)  # (kind, arguments) for numeric.py

  def constant(self, value: Fraction | int) -> Value:
    value = Fraction(value)
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > budget.BITS:
      raise budget.Exhausted
    return Value({(): value} if value else {}, ONE)

  def generator(self, name: str, exponent: Fraction | int = 1) -> Value:
    return Value(self.product({((name, Fraction(exponent)),): Fraction(1)}, ONE), ONE)

  def plus(self, left: Terms, right: Terms) -> Terms:
    total = dict(left)
    for key, coefficient in right.items():
      self.budget.spend()
      summed = total.get(key, 0) + coefficient
      if summed:
        total[key] = summed
      else:
        total.pop(key, None)
    return total

  def scaled(self, terms: Terms, factor: Fraction) -> Terms:
    self.budget.spend(len(terms))
    return {key: coefficient * factor for key, coefficient in terms.items()} if factor else {}

  def product(self, left: Terms, right: Terms) -> Terms:
    total: Terms = {}
    for left_key, left_coefficient in left.items():
      for right_key, right_coefficient in right.items():
        coefficient = left_coefficient * right_coefficient
        bits = coefficient.numerator.bit_length() + coefficient.denominator.bit_length()
        self.budget.spend(1 + len(left_key) + len(right_key) + bits // 500)
        if bits > 2 * budget.BITS:
          raise budget.Exhausted
        for key, value in self.reduced(left_key, right_key, coefficient).items():
          summed = total.get(key, 0) + value
          if summed:
            total[key] = summed
          else:
            total.pop(key, None)
      if len(total) > budget.TERMS:
        raise budget.Exhausted
    return total

  def reduced(self, left: tuple, right: tuple, coefficient: Fraction) -> Terms:
    """Returns coefficient * left * right, exponents in their ranges."""
    exponents = dict(left)
    for generator, exponent in right:
      exponents[generator] = exponents.get(generator, 0) + exponent
    rest = []
    key = []
    for generator, exponent in exponents.items():
      if not exponent:
        continue
      if generator.startswith('p:'):
        whole = exponent.__floor__()
        coefficient *= power_of(int(generator[2:]), whole)
        exponent -= whole
      elif generator == 'i':
        if exponent.denominator != 1:
          raise budget.Unreadable
        turns = exponent.numerator % 4
        coefficient *= -1 if turns in (2, 3) else 1
        exponent = Fraction(turns % 2)
      elif generator in self.relations:
        size, terms = self.relations[generator]
        times = exponent.__floor__() // size
        if times > 0:
          rest += [terms] * times
          exponent -= times * size
          self.budget.spend(times)
      if exponent:
        key.append((generator, exponent))
    result = {tuple(sorted(key)): coefficient}
    for terms in rest:
      result = self.product(result, terms)
    return result

  def add(self, left: Value, right: Value) -> Value:
    if left.den == right.den:
      return Value(self.plus(left.num, right.num), left.den)
    num = self.plus(self.product(left.num, right.den), self.product(right.num, left.den))
    return Value(num, self.product(left.den, right.den))

  def multiply(self, left: Value, right: Value) -> Value:
    return Value(self.product(left.num, right.num), self.product(left.den, right.den))

  def negate(self, value: Value) -> Value:
    return Value(self.scaled(value.num, Fraction(-1)), value.den)

  def subtract(self, left: Value, right: Value) -> Value:
    return self.add(left, self.negate(right))

  def inverse(self, value: Value) -> Value:
    """Returns 1 / value. Raises Unreadable for 1 / 0."""
    if not value.num:
      raise budget.Unreadable
    if len(value.num) > 1:
      return Value(value.den, value.num)
    [(key, coefficient)] = value.num.items()
    flipped = {tuple((generator, -exponent) for generator, exponent in key): 1 / coefficient}
    return Value(self.product(flipped, value.den), ONE)

  def divide(self, left: Value, right: Value) -> Value:
    return self.multiply(left, self.inverse(right))

  def power(self, value: Value, exponent: int) -> Value:
    if exponent < 0:
      return self.power(self.inverse(value), -exponent)
    if value.single:
      [(key, coefficient)] = value.num.items()
      raised = {tuple((generator, own * exponent) for generator, own in key): power_of(coefficient, exponent)}
      return Value(self.product(raised, ONE), ONE)
    if exponent > budget.POWER:
      raise budget.Exhausted
    result, square = Value(ONE, ONE), value
    while exponent:
      if exponent & 1:
        result = self.multiply(result, square)
      exponent >>= 1
      if exponent:
        square = self.multiply(square, square)
    return result

  def key(self, value: Value) -> str:
    """Names the value: equal names mean equal values; one value may have several names."""
    lead = value.den[max(value.den)]
    num, den = (terms if lead == 1 else self.scaled(terms, 1 / lead) for terms in (value.num, value.den))
    named = f'{_listing(num)}/{_listing(den)}' if den != ONE else _listing(num)
    if len(named) > budget.KEY:
      raise budget.Exhausted
    return named


def _listing(terms: Terms) -> str:
  bits = sum(c.numerator.bit_length() + c.denominator.bit_length() for c in terms.values())
  if bits > 8 * budget.KEY:
    raise budget.Exhausted
  parts = (f'{c.numerator:x}|{c.denominator:x}' for c in terms.values())
  return '+'.join(sorted(f'{part}*{_key_name(key)}' for part, key in zip(parts, terms, strict=True)))


def _key_name(key: tuple) -> str:
  return '.'.join(f'[{generator}]^{exponent}' for generator, exponent in key)


def power_of(base: Fraction | int, exponent: int) -> Fraction:
  """Returns base ** exponent. Raises Exhausted if it does not fit BITS."""
  base = Fraction(base)
  bits = max(base.numerator.bit_length(), base.denominator.bit_length())
  if abs(base) != 1 and base and bits * abs(exponent) > budget.BITS + bits:
    raise budget.Exhausted
  if not base and exponent < 0:
    raise budget.Unreadable
  if abs(base) == 1:
    return base if exponent % 2 else Fraction(1)
  return base**exponent
