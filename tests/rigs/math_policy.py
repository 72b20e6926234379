"""What counts as the same answer where graders and readers differ: one row a decision, with an example.

`tests/math_compare_test.py` runs every row, so the table can't differ from the code.
"""

from typing import NamedTuple


class Policy(NamedTuple):
  """`answer` is a whole response; it is accepted for the reference `gold` or not, and why."""

  name: str
  gold: str
  answer: str
  accepted: bool
  why: str


POLICIES = (
  Policy('last box', '5', r'\boxed{7}. Wait: \boxed{5}', True, 'An attempt may correct itself: its last word counts.'),
  Policy('boxes side by side', '5', r'\boxed{7}, \boxed{5}', False,
         'Joined by commas, and, or, they are one list: a hedge.'),
  Policy('boxes of a list', '1,2', r'\boxed{1} papers and \boxed{2} bins', True, 'A list may be boxed one by one.'),
  Policy('empty box', '5', r'\boxed{5} so \boxed{}', False,
         'An empty last box says nothing; no earlier one stands in.'),
  Policy('box cut off', '7', r'\boxed{7}. Wait: \boxed{5', True, 'A box without its end is no box.'),
  Policy('only a box cut off', '5', r'so \boxed{5', False, 'What it would have said is not known.'),
  Policy('reasoning', '5', r'<think>\boxed{5}</think> I do not know.', False,
         'Only what follows the reasoning is the answer.'),
  Policy('either, or', '5', r'\boxed{4 \text{ or } 5}', False, 'A hedge is a list, and a list is not a number.'),
  Policy('plus-minus', '3', r'\boxed{\pm 3}', False, 'It is the list 3, -3.'),
  Policy('plus-minus as list', r'\pm 3', r'\boxed{-3, 3}', True, 'It is the list 3, -3.'),
  Policy('echo: sum', r'\frac56', r'\boxed{\frac12+\frac13}', False,
         'Arithmetic left undone may be the question itself.'),
  Policy('echo: product', '12', r'\boxed{3 \cdot 4}', False, 'As above.'),
  Policy('echo: sum sign', '10', r'\boxed{\sum_{i=1}^4 i}', False,
         'As above; sums, products, integrals, limits are kept as written.'),
  Policy('echo: function', r'\frac{\sqrt3}{2}', r'\boxed{\sin 60^\circ}', False, 'As above, for functions of numbers.'),
  Policy('same work as the reference', r'\ln 12', r'\boxed{2\ln 2+\ln 3}', True,
         'The reference leaves such work undone, too.'),
  Policy('unreduced fraction', r'\frac12', r'\boxed{\frac{2}{4}}', True,
         'A fraction is a number; reducing it is form.'),
  Policy('power, factorial, binomial', '120', r'\boxed{5!}', True,
         'Closed forms by custom; with the question given, not if it contains them.'),
  Policy('equal radicals', r'\sqrt2+\sqrt3', r'\boxed{\sqrt{5+2\sqrt6}}', True,
         'Equal to 60 digits, no small number hidden.'),
  Policy('equal polynomials', 'x^2-1', r'\boxed{(x+1)(x-1)}', True,
         'Decided exactly. Factored or expanded is not asked.'),
  Policy('false chain', '5', r'\boxed{x = 4 = 5}', False, 'A chain with a false step is no answer.'),
  Policy('true chain', '11', r'\boxed{x = 5 + 6 = 11}', True, 'Its last value counts.'),
  Policy('chain with approximation', r'\frac13', r'\boxed{x = \frac13 \approx 0.333}', True,
         'The exact value counts; the other must be within 1 %.'),
  Policy('false approximation', '4', r'\boxed{x = 3 \approx 4}', False, 'More than 1 % off.'),
  Policy('name of the unknown', '5', r'\boxed{x = 5}', True, 'What stands left of = names the value.'),
  Policy('another unknown', 'x=5', r'\boxed{y = 5}', False, 'Another letter is another answer.'),
  Policy('unsolved equation', 'x=5', r'\boxed{2x = 10}', False, 'The reference is solved; the answer must be.'),
  Policy('equation, moved and scaled', 'y=2x+3', r'\boxed{2x-y+3=0}', True, 'The same solutions, decided exactly.'),
  Policy('percent for percent', r'28\%', r'\boxed{28}', True, 'The reference says percent.'),
  Policy('percent as number', r'28\%', r'\boxed{0.28}', True, 'Equal in value.'),
  Policy('percent unasked', '28', r'\boxed{28\%}', False, '28 % is 0.28; accepted if a given question says percent.'),
  Policy('rounded', r'\frac13', r'\boxed{0.333}', False, 'Not equal.'),
  Policy('rounded to 8 digits', r'\frac13', r'\boxed{0.33333333}', True,
         'A decimal of 8 significant digits or more stands for what it rounds.'),
  Policy('repeating decimal', r'\frac13', r'\boxed{0.333...}', True, 'Three repeated digits before dots are a period.'),
  Policy('decimal comma', '2.74', '2,74', True, 'Beside a decimal with a point, if it is no separator of thousands.'),
  Policy('thousands', '32349', r'\boxed{32,349}', True,
         'Groups of three digits without blanks, or with LaTeX spacing.'),
  Policy('comma and blank', '32349', r'\boxed{32, 349}', False, 'That is a list of two.'),
  Policy('mixed number', r'\frac72', r'\boxed{3\frac12}', True,
         'A whole number before a proper fraction is added to it.'),
  Policy('unit left out', r'15\text{ cm}', r'\boxed{15}', True, 'The question names the unit.'),
  Policy('unit added', '15', r'\boxed{15\text{ cm}}', True, 'The reference leaves it out.'),
  Policy('another unit', r'15\text{ cm}', r'\boxed{15\text{ m}}', False, 'Units are not converted.'),
  Policy('degrees', r'90^\circ', r'\boxed{90}', True, 'As for units.'),
  Policy('degrees and radians', r'\frac{\pi}{2}', r'\boxed{90^\circ}', True, 'The same angle.'),
  Policy('tuple and set', '(1,2)', r'\boxed{\{1,2\}}', False, 'Types differ.'),
  Policy('tuple and list', '(1,2)', '1, 2', False,
         'Types differ; from three entries on a list in order is taken for a tuple.'),
  Policy('list and set', '1,2', r'\boxed{\{2,1\}}', True, 'Neither has an order.'),
  Policy('repeated solution', '1,2', r'\boxed{1,2,2}', True, 'A set is not changed by it.'),
  Policy('vector', r'\begin{pmatrix}1\\2\end{pmatrix}', r'\boxed{(1,2)}', True, 'Two notations of one vector.'),
  Policy('row and column', r'\begin{pmatrix}1\\2\end{pmatrix}', r'\boxed{\begin{pmatrix}1&2\end{pmatrix}}', False,
         'Shapes differ.'),
  Policy('bounds', '(0,1]', r'\boxed{[0,1)}', False, 'Other numbers are in it.'),
  Policy('interval and inequality', r'[-2,7]', r'\boxed{-2 \le x \le 7}', True, 'The same set of reals.'),
  Policy('interval and pair', '(0,1)', r'\boxed{0 < x < 1}', True,
         'A pair in increasing order may be an open interval.'),
  Policy('base', '10_2', r'\boxed{10_3}', False, 'Another number.'),
  Policy('base left out', '204_5', r'\boxed{204}', False, 'Another number; accepted if a given question names a base.'),
  Policy('value in another base', '204_5', r'\boxed{54}', False, 'The base is part of the answer.'),
  Policy('ratio', '1:2', r'\boxed{2:4}', True, 'Ratios are scaled.'),
  Policy('ratio as fraction', '1:2', r'\boxed{\frac12}', True, 'The quotient of a ratio.'),
  Policy('fraction as ratio', r'\frac12', r'\boxed{1:2}', False, '1:2 may be odds.'),
  Policy('time', '12:00', r'\boxed{1:00}', False, 'Hours and minutes are compared, not a ratio.'),
  Policy('logarithm without base', r'\log_{10} 7', r'\boxed{\log 7}', True,
         'log is the decimal one, ln the natural one.'),
  Policy('infinity', r'\infty', r'\boxed{-\infty}', False, 'Signs differ; infinity is not reckoned with.'),
  Policy('words', r'\text{Evelyn}', r'\boxed{evelyn}', True, 'Letters without case, articles and punctuation.'),
  Policy('number in words', '5', r'\boxed{\text{five}}', False, 'Not read as a number.'),
  Policy('letter of a choice', r'\text{(A)}', r'\boxed{A}', True, 'Brackets around one letter mean nothing.'),
  Policy('other scripts', '5', '\\boxed{\uff15}', True,
         'Digits of every script are digits; format characters are nothing.'),
  Policy('unreadable reference', r'\heartsuit', r'\boxed{\heartsuit}', True, 'Compared by spelling alone.'),
)  # fmt: skip

# Not used: another grader for what this one can't read. Math-Verify 0.9.0 behind it would have to run without its
# timeouts, which need signals. On MATH and GSM8K nothing is unreadable. On 1,684 pairs of references of MATH,
# college_math, gaokao and olympiadbench with mutated ones (2026-11) it accepted 37 that this grader did not; at most
# 8 of the 37 were right.


def markdown() -> str:
  """The table as docs/math.md has it."""

  def cell(text: str) -> str:
    return '`' + text.replace('|', '\\|').replace('\n', ' ') + '`'

  lines = ['| case | reference | response | accepted | why |', '|---|---|---|---|---|']
  for row in POLICIES:
    verdict = 'yes' if row.accepted else 'no'
    lines.append(f'| {row.name} | {cell(row.gold)} | {cell(row.answer)} | {verdict} | {row.why} |')
  return '\n'.join(lines)
