"""Any text gets a verdict: the same one every time, in any thread, within its budget."""

from concurrent.futures import ThreadPoolExecutor
import random

import pytest

from score_jax.core_types import Graded, Verdict
from score_jax.graders.math import budget, grade
from score_jax.graders.math.algebra.equality import Scalars
from score_jax.graders.math.compare.comparison import Comparison
from score_jax.graders.math.parser.answers import read

GOLDS = [
  '18', '-5', r'\frac{3}{56}', '0.25', r'2\sqrt{3}', r'4\pi - 2\sqrt{3}', '(3,-1)', '[0,1)', r'\{1,2,3\}',
  r'(-\infty,2)\cup(2,\infty)',
  'x^2-7x+12', 'y=2x+3', r'\begin{pmatrix}1\\-2\end{pmatrix}', r'\text{Evelyn}', '204_5', '1:2', r'3+4i', r'30\%',
  r'90^\circ',
  r'\frac{1}{2004!}', r'\sin x \cos y', r'1 - \frac{1}{e}', r'2^{n+1}', r'\log_2 3', r'x > 5', r'\$16,\!386.16',
  r'12\text{ cm}^2', r'3\frac12',
]  # fmt: skip
_ATOMS = [
  '0', '1', '2', '7', '12', '99', '3.5', '.25', '1,000', 'x', 'y', 'n', 'e', 'i', r'\pi', r'\infty', 'A', 'f(x)',
  r'\theta', r'x_1', r'\text{cm}',
  r'\dots',
]  # fmt: skip
_BINARY = [
  '+',
  '-',
  '*',
  '/',
  r'\cdot ',
  r'\times ',
  '^',
  ' ',
  '=',
  '<',
  r'\le ',
  r'\pm ',
  ',',
  ':',
  r'\cup ',
  r'\in ',
  ' or ',
  ';',
  '!',
  '%',
]
_WRAP = [
  r'\frac{%s}{%s}', r'\sqrt{%s}+%s', r'\sqrt[3]{%s}-%s', '(%s,%s)', '[%s,%s)', r'\{%s,%s\}', r'\left(%s\right)%s',
  r'|%s|%s', r'\binom{%s}{%s}',
  r'\sin %s+\cos %s', r'\log_{%s} %s', '{%s}^{%s}', r'\begin{pmatrix}%s\\%s\end{pmatrix}', r'\lfloor %s\rfloor %s',
  r'\ln(%s)%s', r'%s!-%s',
  r'\sum_{k=1}^{%s} %s', r'\text{%s}%s', r'\boxed{%s}%s', r'\{x|%s<x\}%s',
]  # fmt: skip
_TEMPLATES = [
  r'\boxed{%s}', 'Final Answer: The final answer is $%s$. I hope it is correct.', '#### %s', 'The answer is %s.',
  '$%s$', r'\[%s\]', '%s', 'so x is %s',
]  # fmt: skip


def expression(draw: random.Random, depth: int = 0) -> str:
  """An expression of the grammar, well formed or nearly so."""
  kind = draw.random()
  if depth > 5 or kind < 0.3:
    return draw.choice(_ATOMS)
  left, right = expression(draw, depth + 1), expression(draw, depth + 1)
  return left + draw.choice(_BINARY) + right if kind < 0.65 else draw.choice(_WRAP) % (left, right)


def mutated(draw: random.Random, text: str) -> str:
  """A few characters of a text taken out, doubled, exchanged or put in."""
  for _ in range(draw.randint(1, 4)):
    at = draw.randrange(len(text) + 1)
    kind = draw.randrange(4)
    piece = draw.choice(_ATOMS + _BINARY + list('{}()[]|\\$%_^!&~#\u200b\u00b2\uff15\u0663'))
    text = (text[:at] + piece + text[at:], text[:at] + text[at + 1 :],
    text[:at] + text[at : at + 3] * 2 + text[at + 3 :],
            text[:at] + piece + text[at + 1 :])[kind]  # fmt: skip
  return text


def noise(draw: random.Random) -> str:
  """Characters from everywhere, macros among them."""
  alphabet = (
    [chr(draw.randrange(1, 0x3000)) for _ in range(8)]
    + list('0123456789{}()[]\\$%^_-+=,. ')
    + [r'\boxed{', r'\frac', r'\sqrt']
  )
  return ''.join(draw.choice(alphabet) for _ in range(draw.randint(0, 120)))


def cases(seed: int, count: int) -> list[tuple[str, str]]:
  """Pairs of a reference and a response."""
  draw = random.Random(seed)
  pairs = []
  for index in range(count):
    gold = draw.choice(GOLDS)
    text = (expression(draw), mutated(draw, gold), noise(draw))[index % 3]
    pairs.append((gold, draw.choice(_TEMPLATES).replace('%s', text)))
  return pairs


CASES = cases(seed=1, count=1000)


def verdicts(pairs) -> list[Graded]:
  return [grade({'answer': gold}, response) for gold, response in pairs]


def test_every_text_gets_the_same_verdict_again_and_in_threads():
  first = verdicts(CASES)
  assert verdicts(CASES) == first
  with ThreadPoolExecutor(4) as pool:
    assert list(pool.map(lambda pair: grade({'answer': pair[0]}, pair[1]), CASES)) == first
  assert {graded.verdict for graded in first} >= {Verdict.CORRECT, Verdict.WRONG, Verdict.UNPARSED}
  assert all(len(graded.answer) <= 200 for graded in first)


BOMBS = [
  '9**9**9', '9^{9^{9^9}}', '10^{10^{10}}', '1000000!', '(((9!)!)!)!', r'\binom{1000000000}{500000000}',
  r'\sum_{i=1}^{1000000000} i',
  r'\int_0^1 \sin^{100000}(x) dx', '{' * 500 + '1' + '}' * 500, '(' * 2000 + '1' + ')' * 2000, '1 ' * 20000,
  '1' * 10**6, '1e999999999',
  '(x+1)^{1000000}', '(x+y+z+w)^{60}', '((x+1)^{60})^{60}', r'\frac{1}{' * 200 + '2' + '}' * 200,
  r'\sqrt{2+' * 28 + '2' + '}' * 28,
  '+'.join(rf'\sqrt{{{n}}}' for n in range(2, 120)), '+'.join(rf'\sin({n}x)' for n in range(2, 80)), '1=' * 300 + '1',
  '2^' * 400 + '2',
  '*'.join(f'(x_{{{n}}}+1)' for n in range(60)), r'\{x|' * 120, r'\cup'.join(f'[{n},{n}.5]' for n in range(80)),
  '-' * 900 + '1',
  r'\boxed{' * 3000, '$' * 30000, r'\(' * 10000, '\\' * 10**6, '{' * 10**6, 'a' * 10**7, 'answer is ' * 10**5,
  '####' * 10**5, '<|a' * 10**5,
  '\u200b' * 10**5, '\u0301' * 10**5, '\ud800' * 100, '\x00' * 1000, '9' * 400 + '/' + '7' * 400, r'e^{1000000}',
  r'\sin(10^{300})', r'\frac12' * 100,
]  # fmt: skip


@pytest.mark.parametrize('bomb', BOMBS, ids=lambda bomb: ascii(bomb[:20]))
def test_bombs_end_within_their_budget(bomb):
  for gold in ('5', 'x^2+1', r'\sqrt2+\sqrt3', r'\{1,2\}'):
    for response in (bomb, rf'\boxed{{{bomb}}}'):
      assert grade({'answer': gold}, response).verdict != Verdict.CORRECT
  grade({'answer': bomb}, rf'\boxed{{{bomb}}}')


def test_a_spent_budget_is_a_timeout():
  with pytest.raises(budget.Exhausted):
    budget.Budget(5).spend(6)
  assert grade({'answer': 'x^2+1'}, r'\boxed{(x+y+z+w)^{60}}').verdict == Verdict.TIMEOUT


def test_steps_bound_the_work(monkeypatch):
  spent = []
  original = budget.Budget.spend
  monkeypatch.setattr(budget.Budget, 'spend', lambda self, steps=1: (spent.append(steps), original(self, steps))[1])
  scalars = Scalars(budget.Budget())
  assert Comparison(scalars).same(read('x^2+2x+1'), read('(x+1)^2'))
  assert 10 < sum(spent) < 300
