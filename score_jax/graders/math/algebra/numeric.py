"""Real values of canonical forms as balls, at sample points where there are symbols."""

from fractions import Fraction
import math
import zlib

from score_jax.graders.math.algebra import balls
from score_jax.graders.math.algebra.balls import Ball
from score_jax.graders.math.algebra.balls import Undefined
from score_jax.graders.math.algebra.polynomials import Ring
from score_jax.graders.math.algebra.polynomials import Terms
from score_jax.graders.math.algebra.polynomials import Value

ROUNDS = 8
SPREAD = 80  # bits between the largest and the smallest term of a sum, and of the numbers in it
_SMALL, _LARGE = balls.P - 80, balls.P + 80  # bits of 2^-80 and 2^80: magnitudes that an equality may be judged by
_WHOLE_ONLY = ('fact(', 'binom(', 'floor(', 'ceil(', 'pow(-1;')


class Sampler:
  """Evaluates at one sample point. `tame` turns False when a value is met that is too large, too small or maybe 0."""

  def __init__(self, ring: Ring, round_: int, whole: bool):
    self.ring = ring
    self.round = round_
    self.whole = whole
    self.tame = True
    self.cache: dict[str, Ball] = {}

  def value(self, value: Value) -> Ball:
    """The real value. Raises Undefined if it is not real or not defined."""
    num, imaginary, _ = self.parts(value.num)
    den, imaginary_den, _ = self.parts(value.den)
    if imaginary is not None or imaginary_den is not None:
      raise Undefined
    return balls.divide(num, den)

  def parts(self, terms: Terms) -> tuple[Ball, Ball | None, list[int]]:
    """Real part, imaginary part (None without i), and the magnitude of each term."""
    parts: list[Ball | None] = [balls.ball(0), None]
    sizes = []
    for key, coefficient in terms.items():
      self.ring.budget.spend(4)
      if max(coefficient.numerator.bit_length(), coefficient.denominator.bit_length()) > SPREAD:
        self.tame = False
      term = balls.ball(coefficient)
      imaginary = 0
      for generator, exponent in key:
        if generator == 'i':
          imaginary = 1
          continue
        if max(abs(exponent.numerator), exponent.denominator).bit_length() > SPREAD:
          self.tame = False
        term = balls.multiply(term, balls.power(self.generator(generator), exponent, self.ring.budget))
      sizes.append(abs(term.mid))
      if sizes[-1] < max(sizes) >> SPREAD or sizes[0] < sizes[-1] >> SPREAD:
        self.tame = False
      parts[imaginary] = term if parts[imaginary] is None else balls.add(parts[imaginary], term)
    return parts[0], parts[1], sizes

  def generator(self, name: str) -> Ball:
    if name not in self.cache:
      result = self.cache[name] = self.evaluate(name)
      if not result.sign or not _SMALL < result.mid.bit_length() < _LARGE:
        self.tame = False
    return self.cache[name]

  def evaluate(self, name: str) -> Ball:
    if name.startswith('p:'):
      return balls.ball(int(name[2:]))
    if name == 'pi':
      return balls.pi()
    if name == 'e':
      return balls.exp(balls.ball(1), self.ring.budget)
    if name.startswith('ln '):
      return balls.ln(self.generator(name[3:]), self.ring.budget)
    if name not in self.ring.meanings or name.startswith(('apply ', 'big ')):
      return balls.ball(self.sample(name))
    kind, *arguments = self.ring.meanings[name]
    return self.function(kind, [self.value(argument) for argument in arguments])

  def sample(self, name: str) -> Fraction:
    """A number that depends on the name and the round alone: small positive, of either sign, or larger."""
    drawn = zlib.crc32(f'{name} {self.round}'.encode())
    if self.whole:
      return Fraction(3 + drawn % 13)
    value = Fraction(100 + drawn % 9901, 3331)
    if self.round in (2, 3, 4) and drawn & 1 << 20:
      return -value
    return value + 7 if self.round >= 6 else value

  def function(self, kind: str, arguments: list[Ball]) -> Ball:
    budget = self.ring.budget
    first = arguments[0]
    if kind == 'same':
      return first
    if kind == 'pow':
      return self.raised(first, arguments[1])
    if kind == 'ln':
      return balls.ln(first, budget)
    if kind in ('sin', 'cos'):
      return balls.sine(first, budget, quarter=int(kind == 'cos'))
    if kind == 'arctan':
      return balls.arctan(first, budget)
    if kind in ('arcsin', 'arccos'):
      return self.arc(kind, first)
    if kind in ('sinh', 'cosh', 'tanh'):
      return self.hyperbolic(kind, first)
    if kind == 'abs':
      if not first.sign:
        raise Undefined
      return first if first.sign > 0 else balls.negative(first)
    return balls.ball(self.whole_function(kind, [self.integer(argument) for argument in arguments], first))

  def raised(self, base: Ball, exponent: Ball) -> Ball:
    whole = self.integer(exponent)
    if whole is not None:
      return balls.power(base, Fraction(whole), self.ring.budget)
    return balls.exp(balls.multiply(exponent, balls.ln(base, self.ring.budget)), self.ring.budget)

  def arc(self, kind: str, x: Ball) -> Ball:
    budget = self.ring.budget
    other = balls.root(balls.add(balls.ball(1), balls.negative(balls.multiply(x, x))))
    angle = balls.arctan(balls.divide(x, other), budget)
    if kind == 'arcsin':
      return angle
    return balls.add(balls.divide(balls.pi(), balls.ball(2)), balls.negative(angle))

  def hyperbolic(self, kind: str, x: Ball) -> Ball:
    up = balls.exp(x, self.ring.budget)
    down = balls.divide(balls.ball(1), up)
    less = balls.add(up, balls.negative(down))
    more = balls.add(up, down)
    if kind == 'tanh':
      return balls.divide(less, more)
    return balls.divide(less if kind == 'sinh' else more, balls.ball(2))

  def integer(self, x: Ball) -> int | None:
    """The whole number in a ball of rounding errors."""
    nearest = (x.mid + (1 << (balls.P - 1))) >> balls.P
    return nearest if abs(x.mid - (nearest << balls.P)) <= x.rad < 1 << 20 else None

  def whole_function(self, kind: str, values: list[int | None], first: Ball) -> int:
    if kind in ('floor', 'ceil'):
      if first.low >> balls.P != first.high >> balls.P:
        raise Undefined
      return (first.low >> balls.P) + (kind == 'ceil')
    if None in values or any(not 0 <= value < 200 for value in values):
      raise Undefined
    return math.factorial(values[0]) if kind == 'fact' else math.comb(*values)


def needs_whole(ring: Ring, generators: set[str]) -> bool:
  """True if some function among these, or in their arguments, is defined on whole numbers alone."""
  return any(mark in generator for generator in generators for mark in _WHOLE_ONLY)
