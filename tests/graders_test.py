"""Graders alone: without jax, and without the rest of the package."""

import ast
import pathlib
import subprocess
import sys

import pytest

from score_jax import graders

ROOT = pathlib.Path(__file__).parent.parent
FOLDER = pathlib.Path(graders.__file__).parent
USES = {
  'math': r"""
from score_jax.graders import math
assert math.grade({'answer': r'\frac{1}{2}'}, r'Thus $x = \boxed{0.5}$.') == Graded(Verdict.CORRECT, '0.5')
assert math.grade({'answer': r'\sqrt2+\sqrt3'}, r'\boxed{\sqrt{5+2\sqrt6}}').verdict == Verdict.CORRECT
assert math.grade({'answer': '7'}, '#### 8').verdict == Verdict.WRONG
assert math.readable({'answer': 'x^2'}) and not math.readable({'answer': r'\heartsuit'})
""",
  'code': r"""
from score_jax.graders import code
with code.CodeGrader() as grader:
  reference = {'setup': '', 'tests': ['assert add(2, 3) == 5']}
  assert grader.grade(reference, 'def add(a, b):\n  return a + b').verdict == Verdict.CORRECT
  assert grader.grade(reference, 'def add(a, b):\n  return a - b').verdict == Verdict.WRONG
assert str(code.layers()) and code.Limits(seconds=1.0).seconds == 1.0
assert set(code.__all__) == {'CodeGrader', 'layers', 'Limits'}
""",
  'text and countdown': r"""
from score_jax.graders import countdown, text
assert text.grade({'answer': 'Paris'}, 'Answer: Paris').verdict == Verdict.CORRECT
assert countdown.grade({'numbers': [7, 12, 3], 'target': 81}, '7*12=84;84-3=81').verdict == Verdict.CORRECT
""",
  'pool': r"""
from score_jax.graders import pool
grader = pool.open_grader('math')
graded = grader.grade([({'answer': '1/2'}, r'\boxed{0.5}'), ({'answer': '7'}, '#### 8')])
assert [one.verdict for one in graded] == [Verdict.CORRECT, Verdict.WRONG]
grader.close()
""",
}


@pytest.mark.parametrize('use', USES)
def test_a_grader_works_alone_and_without_jax(use):
  head = "import sys\nsys.modules['jax'] = sys.modules['numpy'] = None  # importing one is an error\n"
  source = head + 'from score_jax.core_types import Graded, Verdict\n' + USES[use]
  done = subprocess.run([sys.executable, '-c', source], cwd=ROOT, check=False, capture_output=True, text=True)
  assert (done.returncode, done.stderr) == (0, '')


@pytest.mark.parametrize('path', sorted(FOLDER.rglob('*.py')), ids=lambda path: str(path.relative_to(FOLDER)))
def test_graders_import_little(path):
  allowed = sys.stdlib_module_names | {'absl', 'flint'}
  if path.name == 'math_verify.py':  # of an extra
    allowed |= {'latex2sympy2_extended', 'math_verify'}
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      assert {alias.name.split('.')[0] for alias in node.names} <= allowed
    elif isinstance(node, ast.ImportFrom):
      within = node.module.startswith(('score_jax.core_types', 'score_jax.errors', 'score_jax.graders'))
      assert within or node.module.split('.')[0] in allowed, node.module
