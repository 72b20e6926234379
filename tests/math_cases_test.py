# ruff: noqa: E501
"""Answers that were graded wrongly once, by kind: rows of (reference, response, accepted, question)."""

import pytest

from score_jax.core_types import Verdict
from score_jax.graders.math import grade, readable

ROWS = [
  # extraction
  ('18', '...\n#### Answer: 18', True, ''),
  ('18', 'Answer: $18 per day', True, ''),
  ('18', 'A: 18', True, ''),
  ('18', '答案是18。', True, ''),
  ('2, 3', '$x=\\boxed{2}$ or $x=\\boxed{3}$', True, ''),
  ('2, 3', '\\boxed{2} is one root. The other root is \\boxed{3}.', True, ''),
  ('12', 'The correct answer is \\boxed{\\textbf{(E)}\\ 12}', True, ''),
  ('18', '#### Step 1: eggs\n16-3-4 = 9\n\n#### Step 2: money\n9*2 = 18\n\nSo she makes **$18** every day.', True, ''),
  ('18', '\\boxed{18}\n\n#### Verification\n9*2=18. OK.', True, ''),
  ('18', 'The final answer is 18.\n\n#### Check\n18/2 = 9.', True, ''),
  ('9', '36 - 20 - 7 = 9. Jenny eats 9 cookies.', True, ''),
  ('\\frac{1}{2}', 'The answer is $\\frac{1}{2}$ or $0.5$.', True, ''),
  ('5,6', '**Part (a)** \\boxed{5}\n\n**Part (b)** \\boxed{6}', True, ''),
  ('(5,6)', '$x=\\boxed{5}$, $y=\\boxed{6}$', True, ''),
  ('5', '\\boxed{5 \\quad (x>0)}', True, ''),
  ('5', '\\boxed{\\text{The answer is } 5}', True, ''),
  # comparison
  ('47', 'The answer is $\\boxed{5\\star 1 = 47}$.', True, ''),
  ('2k', 'The answer is $\\boxed{a+d+e+f = 2k}$.', True, ''),
  ('10', 'The answer is $\\boxed{a+b+c=10}$.', True, ''),
  ('10', 'The answer is $\\boxed{\\sum_{i=1}^4 i = 10}$.', True, ''),
  ('1', 'The answer is $\\boxed{\\lim_{x\\to 0}\\frac{\\sin x}{x} = 1}$.', True, ''),
  ('2', 'The answer is $\\boxed{17 \\bmod 5 = 2}$.', True, ''),
  ('3', 'The answer is $\\boxed{\\begin{vmatrix} 2 & 1 \\\\ 1 & 2\\end{vmatrix} = 3}$.', True, ''),
  ('6', 'The answer is $\\boxed{\\gcd(12,18) = 6}$.', True, ''),
  ('36', 'The answer is $\\boxed{\\text{lcm}(12,18) = 36}$.', True, ''),
  ('15x-80', 'The answer is $\\boxed{19x - 4x + 1 - 81 = 15x - 80}$.', True, ''),
  ('x^2-1', 'The answer is $\\boxed{(x-1)(x+1) = x^2-1}$.', True, ''),
  ('2^6 3^5 5^4', 'The answer is $\\boxed{2^6 * 3^5 * 5^4}$.', True, ''),
  ('\\frac{1}{432}', 'The answer is $\\boxed{2.314814814815 \\times 10^{-3}}$.', True, ''),
  ('\\frac{1}{3}', 'The answer is $\\boxed{3.3333333333 \\times 10^{-1}}$.', True, ''),
  ('1.6 \\times 10^{-19}', 'The answer is $\\boxed{1.6x10^{-19}}$.', True, ''),
  ('4:30 \\text{ p.m.}', 'The answer is $\\boxed{16:30}$.', True, ''),
  ('19 (games)', 'The answer is $\\boxed{19}$.', True, ''),
  ('E', 'The answer is $\\boxed{\\textbf{(E)}\\ 12}$.', True, ''),
  ('12', 'The answer is $\\boxed{\\textbf{(E)}\\ 12}$.', True, ''),
  ('B', 'The answer is $\\boxed{(B)\\ 12}$.', True, ''),
  ('B', 'The answer is $\\boxed{B. 12}$.', True, ''),
  ('AC', 'The answer is $\\boxed{A, C}$.', True, ''),
  ('\\text{no solution}', 'The answer is $\\boxed{\\emptyset}$.', True, ''),
  ('\\text{even}', 'The answer is $\\boxed{even"}$.', True, ''),
  ('x^2+C', 'The answer is $\\boxed{x^2+c}$.', True, ''),
  ('x^2+C', 'The answer is $\\boxed{x^2+K}$.', True, ''),
  ('\\{x \\mid x=3k, k\\in\\mathbb{Z}\\}', 'The answer is $\\boxed{x=3k, k \\in \\mathbb{Z}}$.', True, ''),
  ('\\frac{\\pi}{2}+k\\pi, k\\in\\mathbb{Z}', 'The answer is $\\boxed{\\frac{\\pi}{2}+n\\pi, n\\in\\mathbb{Z}}$.', True, ''),
  ('\\frac{\\pi}{2}+k\\pi', 'The answer is $\\boxed{\\frac{\\pi}{2}+k\\pi, k \\in \\mathbb{Z}}$.', True, ''),
  ('(n-1)!', 'The answer is $\\boxed{\\Gamma(n)}$.', True, ''),
  ('x=3', 'The answer is $\\boxed{3=x}$.', True, ''),
  ('\\mathbf{i}+2\\mathbf{j}', 'The answer is $\\boxed{\\langle 1,2 \\rangle}$.', True, ''),
  ('3\\mathbf{i}-4\\mathbf{j}', 'The answer is $\\boxed{3i-4j}$.', True, ''),
  ('A5_{16}', 'The answer is $\\boxed{\\text{A5}_{16}}$.', True, ''),
  ('\\frac{1}{3}', 'The answer is $\\boxed{33\\frac13\\%}$.', True, ''),
  # false positive
  ('0', '$\\boxed{x(0)}$', False, ''),
  ('0', '$\\boxed{P(0)}$', False, ''),
  ('x', '$\\boxed{x(1)}$', False, ''),
  ('N(0)e^{kt}', '$\\boxed{0}$', False, ''),
  ('u(1)+u(2)', '$\\boxed{3u}$', False, ''),
  ('C(0)e^{-kt}', '$\\boxed{D(0)}$', False, ''),
  ('\\vec{a}\\cdot\\vec{b}=0', '$\\boxed{0}$', False, ''),
  ('y^{\\prime}+r y-r x(t)=0', '$\\boxed{0}$', False, ''),
  ('1,5', '$\\boxed{1.5}$', False, ''),
  ('0,2', '$\\boxed{0.2}$', False, ''),
  ('0,2', '$\\boxed{\\frac15}$', False, ''),
  ('0,2', '$\\boxed{20\\%}$', False, ''),
  ('2,3', '$\\boxed{2.3}$', False, ''),
  ('10,4', '$\\boxed{10.4}$', False, ''),
  ('5\\text{ million}', '$\\boxed{5\\text{ thousand}}$', False, ''),
  ('5\\text{ dozen}', '$\\boxed{5}$', False, ''),
  ('12 \\text{ years ago}', '$\\boxed{12 \\text{ years from now}}$', False, ''),
  ('12 \\text{ north}', '$\\boxed{12 \\text{ south}}$', False, ''),
  ('5\\text{ profit}', '$\\boxed{5 \\text{ loss}}$', False, ''),
  ('3\\text{ BC}', '$\\boxed{3\\text{ AD}}$', False, ''),
  ('E(X)=2', '$\\boxed{Var(X)=2}$', False, ''),
  ('P(A)=\\frac12', '$\\boxed{P(B)=\\frac12}$', False, ''),
  ('x \\neq 2', '$\\boxed{y \\ne 2}$', False, ''),
  # echo under another spelling is paid
  ('20', '$\\boxed{x = (2-2i)(5+5i)}$', False, 'Evaluate $(2-2i)(5+5i).$'),
  ('20', '$\\boxed{((2-2i)(5+5i))}$', False, 'Evaluate $(2-2i)(5+5i).$'),
  ('3s^2', '$\\boxed{x = \\frac{2s^5}{s^3} - 6s^2 + \\frac{7s^3}{s}}$', False, 'Simplify $\\frac{2s^5}{s^3} - 6s^2 + \\frac{7s^3}{s}$.'),
  ('3s^2', '$\\boxed{(\\frac{2s^5}{s^3} - 6s^2 + \\frac{7s^3}{s})}$', False, 'Simplify $\\frac{2s^5}{s^3} - 6s^2 + \\frac{7s^3}{s}$.'),
  ('625', '$\\boxed{x = (-125)^{4/3}}$', False, 'Evaluate $(-125)^{4/3}$.'),
  ('625', '$\\boxed{((-125)^{4/3})}$', False, 'Evaluate $(-125)^{4/3}$.'),
  ('169', '$\\boxed{x = (\\sqrt[3]{13})^6}$', False, 'Evaluate $(\\sqrt[3]{13})^6$.'),
  ('169', '$\\boxed{((\\sqrt[3]{13})^6)}$', False, 'Evaluate $(\\sqrt[3]{13})^6$.'),
  ('\\frac{\\sqrt{3}}{3}', '$\\boxed{x = \\frac{3}{\\sqrt{27}}}$', False, 'Rationalize: $\\frac{3}{\\sqrt{27}}$.'),
  ('\\frac{\\sqrt{3}}{3}', '$\\boxed{(\\frac{3}{\\sqrt{27}})}$', False, 'Rationalize: $\\frac{3}{\\sqrt{27}}$.'),
  ('3s^2', '$\\boxed{\\dfrac{2s^5}{s^3} - 6s^2 + \\dfrac{7s^3}{s}}$', False, 'Simplify $\\frac{2s^5}{s^3} - 6s^2 + \\frac{7s^3}{s}$.'),
  # echo as written is paid
  ('\\frac{5}{9}', '$\\boxed{0.\\overline{5}}$', False, 'Express $0.\\overline{5}$ as a common fraction.'),
  ('\\frac{19}{30}', '$\\boxed{0.6\\overline{333}}$', False, 'Express $0.6\\overline{333}$ as a common fraction.'),
  ('-\\dfrac{4}{25}', '$\\boxed{\\left(\\dfrac{-2i}{5}\\right)^2}$', False, 'Evaluate $\\left(\\dfrac{-2i}{5}\\right)^2$.'),
  ('\\frac78', '$\\boxed{\\frac{. \\overline{7} }{. \\overline{8} }}$', False, 'Express as a common fraction: $\\frac{. \\overline{7} }{. \\overline{8} }$'),
  ('\\frac{3280}{999}', '$\\boxed{3.283283283\\ldots}$', False, 'Convert the repeating decimal $3.283283283\\ldots$ to an improper fraction.'),
  # echo rule refuses a right answer
  ('\\dfrac{3}{10}', '$\\boxed{\\frac{3}{10}}$', True, 'I have a spinner that lands on 1 with a probability of $\\frac{1}{10}$, 2 with a probability of $\\frac{2}{10}$, 3 with a probability of $\\frac{3}{10}$, and 4 with a probability of $\\frac{4}{10}$. If I spin twice, what is the probability that the sum is 5 ...?'),
  ('8', '$\\boxed{+8}$', True, 'If $(x,y) = (3,9)$, what is $y^2 - 3xy + 8$?'),
  # real output
  ('47', 'We have that $5\\star1 = 9(5)+2(1)-5(1)+5 = 45+2-5+5 = 47$.', True, ''),
  ('15x-80', 'So it is $19x - 4x + 1 - 81 = 15x - 80.$', True, 'Simplify $19x - 4x + 1 - 81$.'),
  ('1', 'We have that $1^{(2^{235423523})}=1$.', True, 'Simplify $1^{235423523}$-like powers.'),
  # real output: currency signs read as formula
  ('20', 'So the profit is 92 - 72 = 20. It made $92. The profit is what remains. Lucas will make a profit of $20 each week.', True, ''),
  # real output: unmarked last sentence
  ('18', '4 times the floor is 12. 12 plus 6 is 18. Bill is now on the 18th floor.', True, ''),
  ('60', '```output\n60.0\n```\n60% of the students enrolled in hip-hop dance.', True, ''),
  # suite
  ('\\boxed{ p = 5, q = 2 \\quad \\text{and} \\quad p = 7, q = 2}', '$p=5,q=2;p=7,q=2$', True, ''),
  ('\\frac{1}{432}', '\\boxed{2.314814814815 \\times 10^{-3}}', True, ''),
  ('1', '$\\lim_{x \\to 0} \\frac{\\sin x}{x} = 1$', True, ''),
  ('3', '$\\begin{vmatrix} 2 & 1 \\\\ 1 & 2 \\end{vmatrix} = 3$', True, ''),
  ('a = +\\frac{1}{2} \\hbar \\omega_{L}^{\\prime} \\frac{v}{c}', '\\boxed{\\frac{1}{2} \\hbar \\omega_{L}^{\\prime} \\frac{v}{c}}', True, ''),
  ('C', '\\boxed{c}', True, ''),
  # unreadable gold
  ("['12']", '$\\boxed{12}$', True, ''),
  ("['$548 \\\\pi$']", '$\\boxed{548\\pi}$', True, ''),
  ('$-\\frac{3}{4} \\# \\#-0.75$', '$\\boxed{-\\frac34}$', True, ''),
  ('Solution is: $-2$', '$\\boxed{-2}$', True, ''),
]  # fmt: skip


@pytest.mark.parametrize(('gold', 'response', 'accepted', 'question'), ROWS)
def test_answers_of_a_kind(gold, response, accepted, question):
  reference = {'answer': gold} | ({'question': question} if question else {})
  graded = grade(reference, response)
  assert (graded.verdict == Verdict.CORRECT) == accepted, graded


@pytest.mark.parametrize(
  'gold', ["['12']", "['1', '2']", '19 (games)', 'Solution is: $-2$', r'$-\frac{3}{4} \# \#-0.75$']
)
def test_shapes_of_data_sets_are_read(gold):
  assert readable({'answer': gold})


ECHO = (r'Simplify $\frac{6}{\sqrt3}$.', r'2\sqrt3', r'\frac{6}{\sqrt3}')


@pytest.mark.parametrize(
  'wrapped',
  ['%s', 'x = %s', '(%s)', r'\left(%s\right)', '+%s', r'%s\text{ units}', r'%s \approx %s', '%s = %s', r'\{%s\}'],
)
def test_a_wrapped_echo_is_not_paid(wrapped):
  question, gold, formula = ECHO
  answer = wrapped.replace('%s', formula)
  assert grade({'answer': gold, 'question': question}, rf'\boxed{{{answer}}}').verdict == Verdict.WRONG
