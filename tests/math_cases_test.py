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


# The reference as a file of the data set has it, and an answer.
SHAPES = [
  ('DeepScaleR', "['12']", '12'),
  ('DeepScaleR', r"['$548 \\pi$']", r'548\pi'),
  ('DeepScaleR', r"['9.6\n']", '9.6'),
  ('DeepScaleR', r"['7 \\times 10^{37}\n']", r'7 \times 10^{37}'),
  ('DeepScaleR', "['1', '2']", '2, 1'),
  ('ASDiv', '19 (games)', '19'),
  ('ASDiv', '12 (star-shaped stones)', '12'),
  ('college_math', 'Solution is: $-2$', '-2'),
  ('college_math', 'Solution is: $[x=2, y=-1]$.', 'x=2, y=-1'),
  ('college_math', r'$-9 \leqslant x \leqslant 0:[-9,0]$', '[-9,0]'),
  ('college_math', r'$-9 \leqslant x \leqslant 0:[-9,0]$', r'-9 \le x \le 0'),
  ('college_math', r'$k \geqslant 2$ or $k<-20:(-\infty,-20) \cup[2, \infty)$', r'(-\infty,-20) \cup [2,\infty)'),
  ('college_math', r'No solution : $\oslash$', r'\emptyset'),
  ('Odyssey', r'$-\frac{3}{4} \# \#-0.75$', r'-\frac34'),
  ('LIMO', r'C. 1-\mathrm{i}', '1-i'),
  ('LIMO', r'C. 1-\mathrm{i}', 'C'),
  ('LIMO', '充要条件', '充要条件'),
  ('OlympiadBench', '$(1,8,19), (2,7,13)$', '(2,7,13), (1,8,19)'),
  ('OlympiadBench', '$2.5 \\mathrm{~km}$', '2.5'),
  ('Minerva', r'4.5e33', r'4.5 \times 10^{33}'),
  ('Minerva', r'x_{0} \cos (\omega t)+\dot{x}_{0} \sin (\omega t) / \omega', None),
  ('gaokao', '$\\frac{3}{2}$或$4$', '4, 1.5'),
]


@pytest.mark.parametrize(('name', 'gold', 'answer'), SHAPES)
def test_shapes_of_data_sets_are_read(name, gold, answer):
  assert readable({'answer': gold}) == (answer is not None), name
  if answer is not None:
    assert grade({'answer': gold}, rf'\boxed{{{answer}}}').verdict == Verdict.CORRECT
    assert grade({'answer': gold}, rf'\boxed{{{answer}+1}}').verdict != Verdict.CORRECT


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
