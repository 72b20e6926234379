"""What is equal and what is not: the policy table, then rows by type, then the arithmetic against other arithmetic."""

from fractions import Fraction
import math
import pathlib
import random

import flint
import math_policy
from math_policy import POLICIES
import pytest

from score_jax.core_types import Verdict
from score_jax.graders.math import grade, readable
from score_jax.graders.math.algebra.equality import Scalars
from score_jax.graders.math.budget import Budget, Unreadable
from score_jax.graders.math.parser.answers import read
from score_jax.graders.math.parser.clean import clean


@pytest.mark.parametrize('row', POLICIES, ids=lambda row: row.name)
def test_policies_are_what_the_table_says(row):
  graded = grade({'answer': row.gold}, row.answer)
  assert (graded.verdict == Verdict.CORRECT) == row.accepted, graded


EQUAL = r"""
10/9 ## \frac{10}{9} ## -- ## \dfrac{10}9
7425000 ## 7,425,000 ## 7{,}425{,}000 ## 7\,425\,000 ## 7,\!425,\!000 ## 7 425 000 ## 7.425\times10^6 ## 7425000.0
0.4 ## .4 ## 2/5 ## 40\% ## \frac25
5460 ## 5,\!460 ## \$5460 ## 5460\text{ dollars} ## \textbf{5460} ## \mathrm{5460}
-\frac{3}{4} ## \frac{-3}{4} ## -0.75 ## \frac{3}{-4} ## -(3/4)
\frac{5\sqrt3}{3} ## \frac{5}{\sqrt3} ## 5/\sqrt{3} ## 5\cdot3^{-1/2} ## \sqrt{\frac{25}{3}}
2\sqrt{113} ## \sqrt{452} ## 2 \cdot \sqrt{113} ## 2√113 ## sqrt(452)
\sqrt[3]{4} ## 4^{1/3} ## 2^{2/3} ## \sqrt[6]{16} ## ∛4
\frac{1}{1+\sqrt2} ## \sqrt2-1 ## -1+\sqrt{2} ## \frac{\sqrt2-1}{1}
4\pi - 2\sqrt{3} ## -2\sqrt3+4\pi ## 2(2\pi-\sqrt3) ## 4π − 2√3
3+4i ## 4i+3 ## 3 + 4 i ## i(4-3i)
x^2-7x+12 ## (x-3)(x-4) ## 12 - 7x + x^2 ## x(x-7)+12 ## \frac{(x-3)(x^2-8x+16)}{x-4}
\frac{11x+5}{x-2} ## 11+\frac{27}{x-2} ## -\frac{11x+5}{2-x}
36x\sqrt{35x} ## 36\sqrt{35}x^{3/2} ## 36 x \sqrt{35} \sqrt{x}
2\sin x\cos x ## \sin 2x ## \sin(2x) ## 2\cos x\sin x
\sec^2 y ## \tan^2 y + 1 ## \frac{1}{\cos^2 y}
\log_2 3 ## \frac{\ln 3}{\ln 2} ## \frac{\log 3}{\log 2} ## \log_4 9
e^{i\pi/3} ## \frac12+\frac{\sqrt3}{2}i
\cos 20^\circ ## \sin 70^\circ ## \cos\frac{\pi}{9}
2^{n+1} ## 2\cdot 2^n ## 4^n 2^{1-n}
(-1)^{n+1} ## -(-1)^n ## (-1)^{n-1}
\frac{1}{2004!} ## 1/2004! ## (2004!)^{-1}
\frac{n!}{(n-2)!} ## n(n-1)
\binom{n}{2} ## \frac{n(n-1)}{2}
(-\infty,2)\cup(2,\infty) ## x \ne 2 ## \mathbb{R}\setminus\{2\} ## (2,\infty)\cup(-\infty,2) ## x<2 \text{ or } x>2
[-2,7] ## x\in[-2,7] ## -2\le x\le 7 ## \{x\mid -2 \leq x \leq 7\} ## 7 \ge x \ge -2 ## [-2,3]\cup[3,7]
[0,1) ## \{x\mid 0 \leq x < 1\} ## 0\le x<1
x>5 ## (5,\infty) ## 5<x ## 2x>10 ## -x<-5
[-1,1]\cup[3,4] ## -1\le x\le1 \text{ or } 3\le x\le4
(3,-1) ## \left(3,-1\right) ## x=3, y=-1 ## (x,y)=(3,-1) ## \langle 3,-1\rangle ## (\frac62,-1.0)
1,-2 ## -2,1 ## \{1,-2\} ## x=1,-2 ## x=1 \text{ or } x=-2 ## 1 \text{ and } -2 ## x_1=-2, x_2=1
x=4, y=-1 ## y=-1, x=4 ## (4,-1)
\{1,2,3\} ## \{3,2,1\} ## 1,2,3 ## \left\{1, 2, 3\right\}
1\pm\sqrt{19} ## 1+\sqrt{19}, 1-\sqrt{19} ## x=1\pm\sqrt{19}
p=5,q=2;p=7,q=2 ## (5,2),(7,2)
\begin{pmatrix}1&2\\3&4\end{pmatrix} ## \begin{bmatrix}1&2\\3&4\end{bmatrix} ## [\begin{array}{cc}1&2\\3&4\end{array}]
\begin{pmatrix}1/5\\-3/5\end{pmatrix} ## \frac15\begin{pmatrix}1\\-3\end{pmatrix} ## (1/5,-3/5)
y=-\frac12x^2+4x-6 ## 2y=-x^2+8x-12 ## y+6=4x-\frac{x^2}{2} ## -\frac12x^2+4x-6
5x-7y+11z+4=0 ## -5x+7y-11z=4
x^2/4+y^2/3=1 ## x^2/16+y^2/12=1/4
f(2)<f(1)<f(4) ## f(4)>f(1)>f(2)
152A_{11} ## 152A_{11} ## (152A)_{11}
\text{4:30 p.m.} ## 4:30 PM ## 4:30\text{ p.m.}
7:32 ## 14:64 ## 7/32
0.\overline{36} ## \frac{4}{11} ## .\overline{36} ## 0.363636...
30\% ## 30 ## 30 percent ## 0.3 ## 30\text{ pct}
35^\circ ## 35 ## 35° ## 35\text{ degrees} ## 35^{\circ}
\text{(B)} ## B ## (B) ## \textbf{(B)} ## \mathrm{B}
\text{even} ## even ## Even ## \textit{even}
\infty ## +\infty ## infinity
a=4,\,-8,\,-10 ## -10,-8,4
|x-1| ## |1-x| ## \sqrt{(x-1)^2}
17.5\text{ cm}^2 ## 17.5 ## 17.5\,\mathrm{cm}^2 ## \frac{35}{2}\text{ square cm}
"""
EQUAL = [line.replace(' ## --', '').split(' ## ') for line in EQUAL.strip().splitlines()]


@pytest.mark.parametrize('forms', EQUAL, ids=lambda forms: forms[0])
def test_forms_of_one_answer(forms):
  gold, *answers = forms
  for answer in [gold, *answers]:
    for response in (
      rf'Thus \boxed{{{answer}}}.',
      rf'Final Answer: The final answer is ${answer}$. I hope it is correct.',
    ):
      assert grade({'answer': gold}, response).verdict == Verdict.CORRECT, response


@pytest.mark.parametrize('most', [1, pytest.param(9, marks=pytest.mark.slow)])
def test_different_answers_differ(most):
  """Every row's reference against every other row's forms, up to `most`; rows that are equal by policy are left out."""
  same = {('35^\\circ', '35'), ('[-2,7]', 'x'), ('x>5', 'x')}
  for i, (gold, *_) in enumerate(EQUAL):
    for j, (_, *answers) in enumerate(EQUAL):
      for answer in answers[-most:]:
        if i != j and (gold, answer) not in same:
          assert grade({'answer': gold}, rf'\boxed{{{answer}}}').verdict != Verdict.CORRECT, (gold, answer)


def test_the_question_widens_what_need_not_be_written():
  assert grade({'answer': '20', 'question': 'What percent is it?'}, r'\boxed{20\%}').verdict == Verdict.CORRECT
  assert grade({'answer': '204_5', 'question': 'Write it in base 5.'}, r'\boxed{204}').verdict == Verdict.CORRECT
  assert grade({'answer': '204_5', 'question': 'Write it in base 5.'}, r'\boxed{54}').verdict == Verdict.WRONG


def test_verdicts():
  assert grade({'answer': 5}, r'\boxed{5}').verdict == Verdict.CORRECT
  assert grade({'answer': '5'}, r'\boxed{6}').verdict == Verdict.WRONG
  assert grade({'answer': '5'}, r'\boxed{\frac{5}{}}').verdict == Verdict.UNPARSED
  assert grade({'answer': '5'}, 'I do not know.').verdict == Verdict.UNPARSED
  assert readable({'answer': r'\frac{3}{56}'})
  assert not readable({'answer': r'\heartsuit'})


@pytest.mark.parametrize(
  'text', ['4 5', 'x2', '(1,2', '[1,2', '1,,2', '{', r'\frac{1}', '^2', '1/0.0.0', '5 or', '< 5', r'\foo', '']
)
def test_unreadable(text):
  with pytest.raises(Unreadable):
    read(text)


@pytest.mark.parametrize(
  ('text', 'cleaned'),
  [
    ('$ 5 $.', '5'),
    (r'\left( 1,\,2 \right)', '( 1, 2 )'),
    ('３½', r'3\frac{1}{2}'),
    ('2²⁰', '2^{20}'),
    ('5\u200b0', '50'),
    ('٣', '3'),
    (r'12,\!000,\!003', '12000003'),
    ('**7**', '7'),
    (r'\$18.90', '18.90'),
  ],
)
def test_clean(text, cleaned):
  assert clean(text) == cleaned


FUNCTIONS = {
  r'\sin(%s)': math.sin,
  r'\cos(%s)': math.cos,
  r'\arctan(%s)': math.atan,
  r'\sinh(%s)': math.sinh,
  r'\tanh(%s)': math.tanh,
  'e^{%s}': math.exp,
  r'\ln(%s)': math.log,
  r'\sqrt[3]{%s}': lambda x: x ** (1 / 3),
  r'\arcsin(%s/9)': lambda x: math.asin(x / 9),
  r'\arccos(%s/9)': lambda x: math.acos(x / 9),
  r'\pi^{%s/2}': lambda x: math.pi ** (x / 2),
}


@pytest.mark.parametrize('form', FUNCTIONS)
def test_values_of_functions_are_those_of_another_library(form):
  draw = random.Random(4)
  for _ in range(20):
    x = draw.randint(10, 80) / 10 + 0.05
    value = FUNCTIONS[form](x)
    right, wrong = f'{value:.10f}', f'{value + 3.14e-8:.10f}'
    gold = {'answer': form % x}
    assert grade(gold, rf'\boxed{{{right}}}').verdict == Verdict.CORRECT, (form, x)
    assert grade(gold, rf'\boxed{{{wrong}}}').verdict == Verdict.WRONG, (form, x)


def test_the_precision_is_set_for_one_grading_and_set_back():
  gold, answer = {'answer': r'\sqrt2+\sqrt3'}, r'\boxed{\sqrt{5+2\sqrt6}}'
  before = flint.ctx.prec
  for bits in (10, 5000):
    flint.ctx.prec = bits
    try:
      assert grade(gold, answer).verdict == Verdict.CORRECT
      assert grade(gold, r'\boxed{\sqrt{5+2\sqrt6}+10^{-20}}').verdict == Verdict.WRONG
      assert flint.ctx.prec == bits
    finally:
      flint.ctx.prec = before


def test_inverse_functions_meet():
  for x in ('1/7', '22/7', '99/2', r'\sqrt{7}'):
    for there_and_back in (
      r'\ln(e^{%s})',
      r'e^{\ln(%s)}',
      r'(\sqrt{%s})^2',
      r'\tan(\arctan(%s))',
      r'\tan(\arctan(%s))+10^{-60}',
    ):
      same = Scalars(Budget()).equal(read(x).node, read(there_and_back % x).node)
      assert same == ('10^' not in there_and_back), (x, there_and_back)


def test_polynomial_identities_against_evaluation():
  """Random products, expanded by repeated evaluation at integers: a polynomial of degree 4 is known by 5 values."""
  draw = random.Random(6)
  for _ in range(60):
    a, b, c, d = (draw.randint(-9, 9) for _ in range(4))
    product = f'({a}x+{b})({c}x+{d})(x^2+{abs(a) + 1})'.replace('+-', '-')
    values = [Fraction((a * x + b) * (c * x + d) * (x * x + abs(a) + 1)) for x in range(5)]
    coefficients = interpolated(values)
    expanded = '+'.join(f'({coefficient})x^{power}' for power, coefficient in enumerate(coefficients))
    scalars = Scalars(Budget())
    assert scalars.equal(read(product).node, read(expanded).node), (product, expanded)
    assert not scalars.equal(read(product).node, read(expanded + '+1').node)


def interpolated(values: list[Fraction]) -> list[Fraction]:
  """Coefficients of the polynomial with these values at 0, 1, 2, ...: Newton's forward differences."""
  total = [Fraction(0)] * len(values)
  basis, row = [Fraction(1)], list(values)
  for order in range(len(values)):
    for power, coefficient in enumerate(basis):
      total[power] += row[0] * coefficient
    basis = [Fraction(0), *basis]
    for power in range(len(basis) - 1):
      basis[power] -= order * basis[power + 1]
    basis = [coefficient / (order + 1) for coefficient in basis]
    row = [right - left for left, right in zip(row, row[1:], strict=False)] or [Fraction(0)]
  return total


def test_the_docs_have_the_table_as_it_is():
  page = pathlib.Path(__file__).parent.parent / 'docs/math.md'
  assert math_policy.markdown() in page.read_text()
