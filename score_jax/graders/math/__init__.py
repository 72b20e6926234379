# SPDX-License-Identifier: Apache-2.0
"""The grader of mathematical answers: compares the value of a text's answer with the reference's.

    from score_jax.graders import math

    math.grade({'answer': r'\\frac{1}{2}'}, r'Thus $x = \\boxed{0.5}$.').verdict  # Verdict.CORRECT

extract.py  where a text gives its answer       parser/   from the answer's text to a value
grader.py   from a text to a verdict            algebra/  exact values of expressions
golds.py    what a file gives as reference      echo.py   whether an answer repeats its question
budget.py   what one grading may cost           compare/  whether two values are the same answer
"""

from score_jax.graders.math.golds import gold_text
from score_jax.graders.math.grader import grade, readable

__all__ = ['gold_text', 'grade', 'readable']
