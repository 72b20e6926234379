"""Answers that were graded wrongly once, by kind: the rows of testdata/math_cases.jsonl."""

import json
import pathlib

import pytest

from score_jax.core_types import Verdict
from score_jax.graders.math import grade, readable

CASES = pathlib.Path(__file__).parent / 'testdata' / 'math_cases.jsonl'
ROWS = [json.loads(line) for line in CASES.read_text(encoding='utf-8').splitlines()]


@pytest.mark.parametrize('row', ROWS, ids=lambda row: f'{row["kind"]}: {row["gold"]}')
def test_answers_of_a_kind(row):
  reference = {'answer': row['gold'], 'question': row.get('question', '')}
  graded = grade(reference, row['response'])
  assert (graded.verdict == Verdict.CORRECT) == row['accepted'], graded


@pytest.mark.parametrize(
  'gold', ["['12']", "['1', '2']", '19 (games)', 'Solution is: $-2$', r'$-\frac{3}{4} \# \#-0.75$']
)
def test_shapes_of_data_sets_are_read(gold):
  assert readable({'answer': gold})


ECHO = (r'Simplify $\frac{6}{\sqrt3}$.', r'2\sqrt3', r'\frac{6}{\sqrt3}')


WRAPPERS = r"""
%s ## x = %s ## (%s) ## \left(%s\right) ## +%s ## %s\text{ units} ## %s \approx %s ## %s = %s ## \{%s\} ## f(x) = %s
%s = x ## x = y = %s ## [%s] ## {%s} ## %s + 0 ## 0 + %s ## %s \cdot 1 ## 1 %s ## \frac{%s}{1} ## (%s)^1 ## -(-(%s))
(-1)(-(%s)) ## \sqrt{(%s)^2} ## \frac{2(%s)}{2} ## %s + y - y ## \frac{1}{1/(%s)} ## \ln e^{%s} ## e^{\ln(%s)} ## |%s|
\textbf{(E)}\ %s ## \text{answer} = %s ## \boxed{%s} ## %s \approx 3.46 ## %s, %s ## %s \text{ or } %s
\$%s ## %s (units)
"""


@pytest.mark.parametrize('wrapped', [one for row in WRAPPERS.strip().splitlines() for one in row.split(' ## ')])
def test_a_wrapped_echo_is_not_paid(wrapped):
  question, gold, formula = ECHO
  answer = wrapped.replace('%s', formula)
  assert grade({'answer': gold, 'question': question}, rf'\boxed{{{answer}}}').verdict == Verdict.WRONG
