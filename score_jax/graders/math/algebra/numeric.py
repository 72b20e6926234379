# SPDX-License-Identifier: Apache-2.0
"""Computes certified real values of canonical forms, at sample points where there are symbols.

The values are balls of FLINT's `arb` (Johansson, "Arb: efficient arbitrary-precision midpoint-radius interval
arithmetic", IEEE Trans. Comput. 66(8), 2017): a ball holds the exact result, so values whose balls are apart are proven
different. Comparisons of balls are true only if they hold for all points.
"""

from collections.abc import Iterator
import contextlib
from fractions import Fraction
import math
import threading
import zlib

from flint import arb, ctx, fmpq

from score_jax.graders.math.algebra.polynomials import Ring, Terms, Value

ROUNDS = 8
SPREAD = 80  # bits between the largest and the smallest term of a sum, and of the numbers in it
_PRECISION = 800  # bits of a ball's middle; over twice _LARGEST, so that 2^-400 is seen beside it
_SPREAD = arb(2) ** SPREAD
_LARGEST = arb(2) ** 384  # magnitudes over it are not followed, nor are balls wider than 1
_WHOLE_RADIUS = arb(2) ** -364  # of a ball that may stand for the whole number in it
_LARGEST_EXPONENT = 4096  # of a power
_LARGEST_EXP = 400  # of an argument of exp
_LARGEST_TURN = arb(2) ** 64  # of an argument of sin and cos
_STEPS = 40  # of the budget, for exp, log, sin, cos or arctan once
_FUNCTIONS = {  # with the largest argument that is followed
  'sin': (_LARGEST_TURN, arb.sin), 'cos': (_LARGEST_TURN, arb.cos), 'arctan': (_LARGEST, arb.atan),
  'arcsin': (1, arb.asin), 'arccos': (1, arb.acos), 'sinh': (_LARGEST_EXP, arb.sinh), 'cosh': (_LARGEST_EXP, arb.cosh),
  'tanh': (_LARGEST_EXP, arb.tanh),
}  # fmt: skip
_WHOLE_ONLY = ('fact(', 'binom(', 'floor(', 'ceil(', 'pow(-1;')
_lock = threading.RLock()


class Undefined(Exception):
  """No real value here, or none that this precision can hold."""


@contextlib.contextmanager
def precision() -> Iterator[None]:
  """Sets FLINT's working precision, which is the whole process's: one thread at a time."""
  with _lock, ctx.workprec(_PRECISION):
    yield


def ball(value: Fraction | int) -> arb:
  """Returns the ball of a rational number."""
  value = Fraction(value)
  return _checked(arb(fmpq(value.numerator, value.denominator)))


def sign(value: arb) -> int:
  """Returns 1 or -1 if proven, 0 if the ball holds zero."""
  return (value > 0) - (value < 0)


def _checked(value: arb) -> arb:
  if not (value.is_finite() and abs(value.mid()) <= _LARGEST and value.rad() <= 1):
    raise Undefined
  return value


class Sampler:
  """Evaluates at one sample point; `tame` is False after a value too large, too small or maybe 0.

  All of it runs under `precision()`.
  """

  def __init__(self, ring: Ring, round_: int, whole: bool):
    self.ring = ring
    self.round = round_
    self.whole = whole
    self.tame = True
    self.cache: dict[str, arb] = {}

  def value(self, value: Value) -> arb:
    """Returns the real value. Raises Undefined if it is not real or not defined."""
    num, imaginary, _ = self.parts(value.num)
    den, imaginary_den, _ = self.parts(value.den)
    if imaginary is not None or imaginary_den is not None:
      raise Undefined
    return _checked(num / den)

  def parts(self, terms: Terms) -> tuple[arb, arb | None, list[arb]]:
    """Returns the real part, the imaginary part (None without i), and each term's magnitude."""
    parts: list[arb | None] = [arb(0), None]
    sizes = []
    for key, coefficient in terms.items():
      self.ring.budget.spend(4)
      if max(coefficient.numerator.bit_length(), coefficient.denominator.bit_length()) > SPREAD:
        self.tame = False
      term = ball(coefficient)
      imaginary = 0
      for generator, exponent in key:
        if generator == 'i':
          imaginary = 1
          continue
        if max(abs(exponent.numerator), exponent.denominator).bit_length() > SPREAD:
          self.tame = False
        term = _checked(term * self.power(self.generator(generator), exponent))
      sizes.append(abs(term.mid()))
      if sizes[-1] * _SPREAD < max(sizes) or sizes[0] * _SPREAD < sizes[-1]:
        self.tame = False
      parts[imaginary] = term if parts[imaginary] is None else _checked(parts[imaginary] + term)
    return parts[0], parts[1], sizes

  def generator(self, name: str) -> arb:
    if name not in self.cache:
      result = self.cache[name] = _checked(self.evaluate(name))
      if not (sign(result) and 1 / _SPREAD < abs(result.mid()) < _SPREAD):
        self.tame = False
    return self.cache[name]

  def evaluate(self, name: str) -> arb:
    if name.startswith('p:'):
      return ball(int(name[2:]))
    if name == 'pi':
      return arb.pi()
    if name == 'e':
      return self.exp(arb(1))
    if name.startswith('ln '):
      return self.log(self.generator(name[3:]))
    if name not in self.ring.meanings or name.startswith(('apply ', 'big ')):
      return ball(self.sample(name))
    kind, *arguments = self.ring.meanings[name]
    return self.function(kind, [self.value(argument) for argument in arguments])

  def sample(self, name: str) -> Fraction:
    """Draws a number by name and round: small positive, of either sign, or larger."""
    drawn = zlib.crc32(f'{name} {self.round}'.encode())
    if self.whole:
      return Fraction(3 + drawn % 13)
    value = Fraction(100 + drawn % 9901, 3331)
    if self.round in (2, 3, 4) and drawn & 1 << 20:
      return -value
    return value + 7 if self.round >= 6 else value

  def function(self, kind: str, arguments: list[arb]) -> arb:
    first = arguments[0]
    if kind == 'same':
      return first
    if kind == 'pow':
      whole = _integer(arguments[1])
      return self.exp(arguments[1] * self.log(first)) if whole is None else self.power(first, Fraction(whole))
    if kind == 'ln':
      return self.log(first)
    if kind in _FUNCTIONS:
      largest, function = _FUNCTIONS[kind]
      if not abs(first.mid()) <= largest:
        raise Undefined
      self.ring.budget.spend(_STEPS)
      return function(first)
    if kind == 'abs':
      return abs(first)
    return ball(_whole_function(kind, [_integer(argument) for argument in arguments], first))

  def power(self, base: arb, exponent: Fraction) -> arb:
    """Returns base ** exponent; a fractional one needs a base proven positive."""
    if exponent.denominator == 1:
      if abs(exponent) > _LARGEST_EXPONENT:
        raise Undefined
      self.ring.budget.spend(2 * abs(exponent.numerator).bit_length())
      return _checked(base ** int(exponent))
    if exponent == Fraction(1, 2) and base > 0:
      return base.sqrt()
    return self.exp(ball(exponent) * self.log(base))

  def exp(self, x: arb) -> arb:
    if not (abs(x.mid()) <= _LARGEST_EXP and x.rad() <= 1):
      raise Undefined
    self.ring.budget.spend(_STEPS)
    return _checked(x.exp())

  def log(self, x: arb) -> arb:
    if not x > 0:
      raise Undefined
    self.ring.budget.spend(_STEPS)
    return x.log()


def _integer(x: arb) -> int | None:
  whole = x.unique_fmpz() if x.rad() < _WHOLE_RADIUS else None
  return None if whole is None else int(whole)


def _whole_function(kind: str, values: list[int | None], first: arb) -> int:
  if kind in ('floor', 'ceil'):
    below = first.floor().unique_fmpz()
    if below is None:
      raise Undefined
    return int(below) + (kind == 'ceil')
  if None in values or any(not 0 <= value < 200 for value in values):
    raise Undefined
  return math.factorial(values[0]) if kind == 'fact' else math.comb(*values)


def needs_whole(ring: Ring, generators: set[str]) -> bool:
  """Returns True if some function in these is defined on whole numbers alone."""
  return any(mark in generator for generator in generators for mark in _WHOLE_ONLY)
