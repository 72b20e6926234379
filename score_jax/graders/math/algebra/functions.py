# SPDX-License-Identifier: Apache-2.0
"""Roots, powers, logarithms, sines and absolute values of canonical forms, exact where possible."""

from fractions import Fraction
import math

from flint import fmpz

from score_jax.graders.math.algebra.polynomials import ONE, Ring, Value, power_of
from score_jax.graders.math.budget import Unreadable

_SMALL_PRIMES = [n for n in range(2, 1000) if all(n % d for d in range(2, int(n**0.5) + 1))]
_SINES = {0: (0, 1), 1: (Fraction(1, 2), 1), 2: (Fraction(1, 2), 3), 3: (1, 1)}  # of k pi/6: a sqrt(b)


def opaque(ring: Ring, kind: str, *arguments: Value) -> Value:
  """Returns a generator for kind(arguments), which has no closed form here."""
  name = f'{kind}({";".join(ring.key(argument) for argument in arguments)})'
  ring.meanings[name] = (kind, *arguments)
  return ring.generator(name)


def factored(ring: Ring, number: int) -> list[tuple[int, int]]:
  """Returns (prime, exponent) pairs; a rest without factors under 1000 stays whole, a square or cube as its root."""
  pairs = []
  ring.budget.spend(len(_SMALL_PRIMES) // 16 + number.bit_length() // 20)
  for prime in _SMALL_PRIMES:
    if prime * prime > number:
      break
    count = 0
    while number % prime == 0:
      number //= prime
      count += 1
    if count:
      pairs.append((prime, count))
  if number > 1:
    pairs.append(_whole_root(number))
  return pairs


def _whole_root(number: int) -> tuple[int, int]:
  """Returns (r, k) with r ** k = number for k = 2 or 3, else (number, 1)."""
  for degree in (2, 3):
    root = int(fmpz(number).root(degree))
    if root**degree == number:
      return root, degree
  return number, 1


def root_of_rational(ring: Ring, value: Fraction, exponent: Fraction) -> Value:
  """Returns value ** exponent for a fractional exponent. Odd roots of negatives are real."""
  result = ring.constant(1)
  if value == 0:
    if exponent < 0:
      raise Unreadable
    return ring.constant(0)
  if value < 0:
    if exponent.denominator == 2:
      result = ring.generator('i', exponent.numerator)
    elif exponent.denominator % 2:
      result = ring.constant(-1 if exponent.numerator % 2 else 1)
    else:
      raise Unreadable
  for number, sign in ((abs(value.numerator), 1), (value.denominator, -1)):
    for prime, count in factored(ring, number):
      result = ring.multiply(result, ring.generator(f'p:{prime}', sign * count * exponent))
  return result


def power_by_rational(ring: Ring, base: Value, exponent: Fraction) -> Value:
  if exponent.denominator == 1:
    return ring.power(base, int(exponent))
  if base.den != ONE:
    return ring.divide(
      power_by_rational(ring, Value(base.num, ONE), exponent), power_by_rational(ring, Value(base.den, ONE), exponent)
    )
  if base.rational is not None:
    return root_of_rational(ring, base.rational, exponent)
  if base.single:
    return _power_of_term(ring, base, exponent)
  return _power_of_sum(ring, base, exponent)


def _power_of_term(ring: Ring, base: Value, exponent: Fraction) -> Value:
  [(key, coefficient)] = base.num.items()
  result = root_of_rational(ring, coefficient, exponent)
  even = []  # x^2 under a square root is |x|, kept as it is
  for generator, own in key:
    if generator == 'i':
      raise Unreadable
    raised = own * exponent
    signed = not generator.startswith('p:') and generator not in ('e', 'pi')
    if signed and exponent.denominator % 2 == 0 and own.denominator == 1 and own % 2 == 0 and raised.numerator % 2:
      even.append((generator, own))
    else:
      result = ring.multiply(result, ring.generator(generator, raised))
  if even:
    result = ring.multiply(result, _power_of_sum(ring, Value({tuple(sorted(even)): Fraction(1)}, ONE), exponent))
  return result


def _power_of_sum(ring: Ring, base: Value, exponent: Fraction) -> Value:
  """Returns a generator, for the sum without its rational content."""
  fractions = base.num.values()
  content = Fraction(math.gcd(*(c.numerator for c in fractions)), math.lcm(*(c.denominator for c in fractions)))
  primitive = Value(ring.scaled(base.num, 1 / content), ONE)
  name = f'root({ring.key(primitive)})'
  ring.meanings[name] = ('same', primitive)
  ring.relations[name] = (1, primitive.num)
  return ring.multiply(root_of_rational(ring, content, exponent), ring.generator(name, exponent))


def exponential(ring: Ring, base: Value, exponent: Value) -> Value:
  """Returns base ** exponent for an irrational exponent: a product over its terms and the base's factors."""
  if not base.single or exponent.den != ONE:
    return opaque(ring, 'pow', base, exponent)
  [(key, coefficient)] = base.num.items()
  factors = list(key)
  if coefficient < 0:
    factors.append(('-1', Fraction(1)))
  for number, sign in ((abs(coefficient.numerator), 1), (coefficient.denominator, -1)):
    factors += [(f'p:{prime}', Fraction(sign * count)) for prime, count in factored(ring, number)]
  result = ring.constant(1)
  for generator, own in factors:
    for term, factor in exponent.num.items():
      result = ring.multiply(result, _factor_to_term(ring, generator, term, own * factor))
  return result


def _factor_to_term(ring: Ring, generator: str, term: tuple, factor: Fraction) -> Value:
  """Returns generator ** (factor * term)."""
  if not term:
    return _generator_power(ring, generator, factor)
  if generator == 'e' and len(term) == 1 and term[0][0].startswith('ln p:') and term[0][1] == 1:
    return root_of_rational(ring, Fraction(int(term[0][0][5:])), factor)
  if ('i', Fraction(1)) in term:
    if generator != 'e':
      raise Unreadable
    angle = Value({tuple(pair for pair in term if pair[0] != 'i'): factor}, ONE)
    turn = ring.multiply(ring.generator('i'), apply(ring, 'sin', angle))
    return ring.add(apply(ring, 'cos', angle), turn)
  power = Value({term: Fraction(1)}, ONE)
  if generator == '-1':
    factor %= 2
  name = f'pow({generator};{ring.key(power)})'
  meaning = ring.constant(-1) if generator == '-1' else Value({((generator, Fraction(1)),): Fraction(1)}, ONE)
  ring.meanings[name] = ('pow', meaning, power)
  return ring.generator(name, factor)


def _generator_power(ring: Ring, generator: str, exponent: Fraction) -> Value:
  if generator != '-1':
    return ring.generator(generator, exponent)
  if exponent.denominator > 1:
    return root_of_rational(ring, Fraction(-1), exponent)
  return ring.constant(power_of(-1, int(exponent)))


def log_of(ring: Ring, value: Value) -> Value:
  """Returns the natural logarithm: a sum over primes, or a generator."""
  if value.single:
    [(key, coefficient)] = value.num.items()
    if coefficient > 0 and all(g.startswith('p:') or g == 'e' for g, _ in key):
      pairs = [(f'ln {generator}', exponent) for generator, exponent in key]
      for number, sign in ((coefficient.numerator, 1), (coefficient.denominator, -1)):
        pairs += [(f'ln p:{prime}', Fraction(sign * count)) for prime, count in factored(ring, number)]
      total = ring.constant(0)
      for name, count in pairs:
        term = ring.constant(1) if name == 'ln e' else ring.generator(name)
        total = ring.add(total, ring.multiply(ring.constant(count), term))
      return total
    if coefficient == 1 and len(key) == 1 and key[0][1] != 1 and key[0][0].startswith('s:'):
      exponent = key[0][1]
      if exponent.numerator % 2 or exponent.denominator % 2 == 0:  # ln x^3 = 3 ln x; ln x^2 is not 2 ln x where x < 0
        return ring.multiply(ring.constant(exponent), log_of(ring, ring.generator(key[0][0])))
  if value.rational is not None and value.rational <= 0:
    raise Unreadable
  return opaque(ring, 'ln', value)


def abs_of(ring: Ring, value: Value) -> Value:
  """Returns the absolute value."""
  if value.rational is not None:
    return ring.constant(abs(value.rational))
  lead = value.num[max(value.num)] if value.num else 1
  if lead < 0:
    value = ring.negate(value)
  if value.single:
    [(key, coefficient)] = value.num.items()
    if all(g.startswith('p:') or g in ('e', 'pi') for g, _ in key):
      return value
    inner = opaque(ring, 'abs', Value({key: Fraction(1)}, ONE))
    return ring.multiply(ring.constant(coefficient), inner)
  if 'i' in value.generators() and value.den == ONE and not any(g.startswith('s:') for g in value.generators()):
    return _modulus(ring, value)
  return opaque(ring, 'abs', value)


def _modulus(ring: Ring, value: Value) -> Value:
  conjugate = {key: (-c if ('i', Fraction(1)) in key else c) for key, c in value.num.items()}
  return power_by_rational(ring, Value(ring.product(value.num, conjugate), ONE), Fraction(1, 2))


def apply(ring: Ring, name: str, value: Value) -> Value:
  """Applies a named function of one argument."""
  name = {'asin': 'arcsin', 'acos': 'arccos', 'atan': 'arctan', 'lg': 'log'}.get(name, name)
  if name in ('sin', 'cos'):
    return sine(ring, value, name)
  if name in _QUOTIENTS:
    top, bottom = _QUOTIENTS[name]
    parts = [ring.constant(1) if part == '1' else sine(ring, value, part) for part in (top, bottom)]
    return ring.divide(*parts)
  if name == 'ln':
    return log_of(ring, value)
  if name == 'log':
    return ring.divide(log_of(ring, value), log_of(ring, ring.constant(10)))
  if name == 'exp':
    rational = value.rational
    e = ring.generator('e')
    return power_by_rational(ring, e, rational) if rational is not None else exponential(ring, e, value)
  if name in ('arcsin', 'arccos', 'arctan', 'sinh', 'cosh', 'tanh'):
    return opaque(ring, name, value)
  if name == 'arccot':
    return opaque(ring, 'arctan', ring.inverse(value))
  raise Unreadable


_QUOTIENTS = {'tan': ('sin', 'cos'), 'cot': ('cos', 'sin'), 'sec': ('1', 'cos'), 'csc': ('1', 'sin')}


def sine(ring: Ring, value: Value, name: str) -> Value:
  """Returns sin or cos: exact at multiples of pi/6 and pi/4; x and -x share a generator."""
  if not value.num:
    return ring.constant(name == 'cos')
  turns = value.num.get((('pi', Fraction(1)),)) if value.single else None
  if turns is not None:
    exact = _exact_sine(ring, turns + (Fraction(1, 2) if name == 'cos' else 0))
    if exact is not None:
      return exact
  negative = value.num[max(value.num)] < 0
  argument = ring.negate(value) if negative else value
  both = {kind: opaque(ring, kind, argument) for kind in ('sin', 'cos')}
  [((sine_name, _),)], [cosine] = both['sin'].num, both['cos'].num
  squared = {(): Fraction(1), tuple((generator, exponent * 2) for generator, exponent in cosine): Fraction(-1)}
  ring.relations[sine_name] = (2, squared)
  return ring.negate(both[name]) if negative and name == 'sin' else both[name]


def _exact_sine(ring: Ring, turns: Fraction) -> Value | None:
  """Returns sin(turns * pi), or None if it is not exact here."""
  turns %= 2
  sign = 1
  if turns >= 1:
    turns, sign = turns - 1, -1
  if turns > Fraction(1, 2):
    turns = 1 - turns
  if turns == Fraction(1, 4):
    scale, square = Fraction(1, 2), 2
  elif (turns * 6).denominator == 1:
    scale, square = _SINES[int(turns * 6)]
  else:
    return None
  return ring.multiply(ring.constant(sign * scale), root_of_rational(ring, Fraction(square), Fraction(1, 2)))
