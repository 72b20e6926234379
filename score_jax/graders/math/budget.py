# SPDX-License-Identifier: Apache-2.0
"""What one grading may cost, in steps and sizes: the same on any machine.

A step is about one product of two terms. Beyond a size, a value stays unevaluated or an answer is unreadable; beyond
the steps, the grading ends with Verdict.TIMEOUT.
"""

import dataclasses

STEPS = 12_000  # of one grading; tens of milliseconds of one core
ANSWER_CHARS = 1_000  # of an extracted answer
TOKENS = 500  # of an answer
DEPTH = 32  # of brackets, fractions and powers inside one another
BITS = 24_000  # of an integer; 2004! has 19,053, 2^2007 has 2,008
DIGITS = 800  # of a numeral as written
POWER = 64  # of a sum of several terms
FACTORIAL = 2_200  # the largest n of n! and of binomials that is multiplied out
TERMS = 600  # of a sum in canonical form
KEY = 4_000  # characters that name a canonical form


class Exhausted(Exception):
  """The step budget is used up."""


class Unreadable(Exception):
  """Not in the language that this grader reads."""


@dataclasses.dataclass
class Budget:
  """The steps left to one grading."""

  steps: int = STEPS

  def spend(self, steps: int = 1) -> None:
    """Takes steps. Raises Exhausted if there are too few."""
    self.steps -= steps
    if self.steps < 0:
      raise Exhausted
