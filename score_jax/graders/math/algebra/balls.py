"""Certified real arithmetic on big integers: a ball (mid, rad) holds every real within rad of mid, in units of 2^-P.

Each operation's ball contains the exact result of every choice of operands in the balls (ball arithmetic: van der
Hoeven, "Ball arithmetic", 2009). So two values whose balls are apart are proven different.
"""

from fractions import Fraction
from functools import cache
from math import isqrt
from typing import NamedTuple

from score_jax.graders.math.budget import Budget

P = 384  # fractional bits: 115 decimals
_ONE = 1 << P
_GUARD = 64  # further bits inside exp and ln 2
_LARGEST = 1 << (2 * P)  # magnitudes over 2^384 are not followed
_ERROR = 1 << 16  # units that a function's own rounding stays under; its series have under 400 terms


class Undefined(Exception):
  """No real value here, or none that this precision can hold."""


class Ball(NamedTuple):
  mid: int
  rad: int

  @property
  def low(self) -> int:
    return self.mid - self.rad

  @property
  def high(self) -> int:
    return self.mid + self.rad

  @property
  def sign(self) -> int:
    """1 or -1 if proven, 0 if the ball holds zero."""
    return (self.low > 0) - (self.high < 0)


def ball(value: Fraction | int) -> Ball:
  value = Fraction(value)
  mid = (value.numerator << P) // value.denominator
  return _checked(mid, 0 if value.denominator == 1 else 1)


def _checked(mid: int, rad: int) -> Ball:
  if abs(mid) > _LARGEST or rad > _ONE:
    raise Undefined
  return Ball(mid, rad)


def add(a: Ball, b: Ball) -> Ball:
  return _checked(a.mid + b.mid, a.rad + b.rad)


def negative(a: Ball) -> Ball:
  return Ball(-a.mid, a.rad)


def multiply(a: Ball, b: Ball) -> Ball:
  rad = (abs(a.mid) * b.rad + abs(b.mid) * a.rad + a.rad * b.rad >> P) + 2
  return _checked(a.mid * b.mid >> P, rad)


def divide(a: Ball, b: Ball) -> Ball:
  if not b.sign:
    raise Undefined
  least = min(abs(b.low), abs(b.high))
  mid = (a.mid << P) // b.mid
  rad = ((a.rad << P) // least) + (abs(mid) * b.rad // least) + 2
  return _checked(mid, rad)


def power(base: Ball, exponent: Fraction, budget: Budget) -> Ball:
  """base ** exponent; a fractional exponent needs a base that is proven positive."""
  if exponent.denominator == 1:
    if abs(exponent) > 4096:
      raise Undefined
    result, times = ball(1), abs(int(exponent))
    while times:
      budget.spend(2)
      if times & 1:
        result = multiply(result, base)
      times >>= 1
      if times:
        base = multiply(base, base)
    return divide(ball(1), result) if exponent < 0 else result
  if exponent == Fraction(1, 2):
    return root(base)
  return exp(multiply(ball(exponent), ln(base, budget)), budget)


def root(a: Ball) -> Ball:
  if a.sign < 1:
    raise Undefined
  low, high = isqrt(a.low << P), isqrt(a.high << P) + 1
  return _checked((low + high) // 2, (high - low) // 2 + 1)


def exp(a: Ball, budget: Budget) -> Ball:
  """By 2^k reduction and the series; e^(mid +- rad) is within 2 rad e^mid for rad < 1/2."""
  if abs(a.mid) > 400 * _ONE or a.rad > _ONE >> 1:
    raise Undefined
  budget.spend(40)
  times = a.mid // _ln2()
  work = P + _GUARD
  rest = ((a.mid - times * _ln2()) << _GUARD) >> 16
  term, total, n = 1 << work, 1 << work, 1
  while term:
    term = (term * rest >> work) // n
    total += term
    n += 1
  for _ in range(16):  # each doubles the relative error: 2^16 times that of the series, under 2^-GUARD units
    total = total * total >> work
  total >>= _GUARD
  error = (abs(times) + 2) * 4
  if times < 0:
    mid = total >> -times
    rad = (error >> -times) + 2
  else:
    mid, rad = total << times, error << times
  return _checked(mid, rad + (2 * a.rad * (mid + rad) >> P) + 1)


@cache
def _ln2() -> int:
  """Within 1 unit."""
  return 2 * _artanh((1 << (P + _GUARD)) // 3, P + _GUARD) >> _GUARD


def _artanh(x: int, bits: int = P) -> int:
  square = x * x >> bits
  term, total, n = x, 0, 1
  while term:
    total += term // n
    term = term * square >> bits
    n += 2
  return total


def ln(a: Ball, budget: Budget) -> Ball:
  if a.sign < 1:
    raise Undefined
  budget.spend(40)
  shift = a.mid.bit_length() - P - 1
  scaled = a.mid >> shift if shift >= 0 else a.mid << -shift  # in [1, 2)
  for _ in range(4):  # to 2^(1/16)
    scaled = isqrt(scaled << P)
  value = 32 * _artanh(((scaled - _ONE) << P) // (scaled + _ONE))
  return _checked(value + shift * _ln2(), (a.rad << P) // a.low + _ERROR + abs(shift) * 8)


@cache
def pi() -> Ball:
  """Machin: 16 arctan(1/5) - 4 arctan(1/239)."""
  return Ball(16 * _arctan(_ONE // 5) - 4 * _arctan(_ONE // 239), _ERROR)


def _arctan(x: int) -> int:
  square = x * x >> P
  term, total, n, sign = x, 0, 1, 1
  while term:
    total += sign * (term // n)
    term = term * square >> P
    n, sign = n + 2, -sign
  return total


def arctan(a: Ball, budget: Budget) -> Ball:
  """By three halvings of the angle and the series; the derivative is at most 1."""
  budget.spend(40)
  x = abs(a.mid)
  inverted = x > _ONE
  if inverted:
    x = (_ONE << P) // x
  for _ in range(3):
    x = (x << P) // (_ONE + isqrt((_ONE << P) + x * x))
  value = 8 * _arctan(x)
  if inverted:
    value = pi().mid // 2 - value
  return _checked(value if a.mid >= 0 else -value, a.rad + _ERROR)


def sine(a: Ball, budget: Budget, *, quarter: int = 0) -> Ball:
  """sin(a + quarter pi/2); the derivative is at most 1."""
  if abs(a.mid) > _ONE << 64:
    raise Undefined
  budget.spend(40)
  half = pi().mid // 2
  turns = (a.mid + half // 2) // half
  rest = a.mid - turns * half
  quarter = (quarter + turns) % 4
  term, n = (rest, 1) if quarter % 2 == 0 else (_ONE, 0)
  total, square = 0, rest * rest >> P
  while term:
    total += term
    term = -(term * square >> P) // ((n + 1) * (n + 2))
    n += 2
  return _checked(-total if quarter >= 2 else total, a.rad + _ERROR * (abs(turns) + 2))
