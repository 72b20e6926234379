"""References pass when a response ends in them, and changed ones don't: rows of our own, and those of the data sets.

GSM8K (openai/grade-school-math) and MATH (Hendrycks et al. 2021) are read where a copy lies beside the repository.
"""

import json
import pathlib
import random
import re

import pytest

from score_jax.core_types import Verdict
from score_jax.graders.math import grade, readable
from score_jax.graders.math.extract import last_boxes

DATA = pathlib.Path(__file__).parent.parent.parent / 'shared' / 'data'
FORMS = (r'Hence it is \boxed{%s}.', 'Final Answer: The final answer is $%s$. I hope it is correct.')
_SHAPES = [
  '%d', '-%d', r'\frac{%d}{101}', r'-\frac{%d}{101}', r'%d\sqrt{2}', r'%d+\sqrt{3}', r'\frac{%d\pi}{7}', r'%d\%%',
  r'%d^\circ', '(%d,-1)', '[%d,1000)',
  r'\{%d,1001\}', r'(-\infty,%d]\cup[1000,\infty)', '%d,-1', 'x=%d', 'y=%dx+1', '%dx^2-x+1', '%d+2i',
  r'\begin{pmatrix}%d\\0\end{pmatrix}', r'%d\text{ cm}',
  r'\$%d', r'%d:7', '%d.25', r'e^{%d}', r'\log_{3} %d', r'\frac{1}{%d!}', r'%d\frac{1}{3}', r'x>%d',
  r'%d \pm \sqrt{5}', r'%d_{11}',
]  # fmt: skip
OWN = [shape % number for shape in _SHAPES for number in (5, 8, 13, 24, 30, 47, 60, 86, 97, 10)]


def dataset(name: str) -> list[str]:
  """References of a file, or a skip."""
  path = DATA / name
  if not path.exists():
    pytest.skip(f'no copy of {name} in {DATA}')
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  if 'answer' in rows[0]:
    return [row['answer'].rpartition('####')[2].strip() for row in rows]
  return [last_boxes(row['solution'])[1] for row in rows]


def failures(golds: list[str]) -> list[tuple[str, str]]:
  return [
    (gold, form)
    for gold in golds
    for form in FORMS
    if grade({'answer': gold}, form.replace('%s', gold)).verdict != Verdict.CORRECT
  ]


def test_our_references_pass():
  assert len(OWN) == 300
  assert not failures(OWN)


def test_our_references_with_another_number_do_not():
  for gold in OWN:
    changed = re.sub('[0-9]+', lambda match: str(int(match[0]) + 1), gold, count=1)
    for form in FORMS:
      assert grade({'answer': gold}, form.replace('%s', changed)).verdict != Verdict.CORRECT, (gold, changed)


@pytest.mark.parametrize('name', ['gsm8k_train.jsonl', 'gsm8k_test.jsonl', 'math_test.jsonl'])
def test_references_of_the_data_sets_pass(name):
  golds = dataset(name)
  assert not failures(golds)
  assert all(readable({'answer': gold}) for gold in golds)


def changed(draw: random.Random, gold: str) -> str:
  """A reference with a digit, a sign, an operator or a bracket changed, or with a term more."""
  kind = draw.randrange(5)
  digits = list(re.finditer('[0-9]', gold))
  if kind == 0 and digits:
    at = draw.choice(digits)
    return gold[: at.start()] + draw.choice([digit for digit in '0123456789' if digit != at[0]]) + gold[at.end() :]
  if kind == 1:
    return gold[1:] if gold.startswith('-') else '-' + gold
  operators = list(re.finditer(r'(?<=[0-9a-z}]) ?[-+] ?(?=[0-9a-z\\])', gold))
  if kind == 2 and operators:
    at = draw.choice(operators)
    return gold[: at.start()] + ('+' if '-' in at[0] else '-') + gold[at.end() :]
  if kind == 3 and re.fullmatch(r'[\[(].*,.*[\])]', gold):
    return {'(': '[', '[': '('}[gold[0]] + gold[1:]
  return gold + draw.choice(['+1', '-1', r'+\sqrt{2}', ', 1009', '+10^{-60}', '+i', ' or 1009'])


def test_changed_references_of_math_do_not_pass():
  golds = dataset('math_test.jsonl')
  draw = random.Random(8)
  for _ in range(1000):
    gold = draw.choice(golds)
    other = changed(draw, gold)
    zeros = re.sub(r'-(?=0(?![.0-9]))', '', other) == gold  # -0 is 0
    assert zeros or grade({'answer': gold}, rf'\boxed{{{other}}}').verdict != Verdict.CORRECT, (gold, other)
