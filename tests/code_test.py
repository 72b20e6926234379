"""Grading programs: finding them in texts, what the names of a test mean, and the published reference programs."""

import pytest
import sandbox_measure

from score_jax.core_types import Verdict
from score_jax.errors import DataError
from score_jax.graders.code import CodeGrader, extract, unit_tests
from score_jax.graders.code.sandbox.limits import Limits

CORRECT, WRONG, UNPARSED, TIMEOUT, ERROR = (
  Verdict.CORRECT,
  Verdict.WRONG,
  Verdict.UNPARSED,
  Verdict.TIMEOUT,
  Verdict.ERROR,
)
MBPP = {'setup': '', 'tests': ['assert double(2) == 4', 'assert double("a") == "aa"'], 'challenge': []}
DOUBLE = 'def double(x):\n  return x + x\n'
WORSE = 'def double(x):\n  return x\n'
PROMPT = 'import math\n\ndef half(x):\n    return x / 2\n\ndef area(r: float) -> float:\n    """Of a circle."""\n'
AREA = {
  'prompt': PROMPT,
  'entry_point': 'area',
  'test': 'def check(f):\n    assert math.isclose(f(2), 4 * math.pi)\n    assert half(f(0)) == 0\n',
}
BODY = '    square = r * r\n    return math.pi * square\n'


@pytest.fixture(scope='module')
def grader():
  with CodeGrader(Limits(seconds=2, wall_seconds=30)) as grader:
    yield grader


# Finding the program.


@pytest.mark.parametrize(
  'text',
  [
    DOUBLE,
    DOUBLE.replace('\n', '\r\n'),
    f'```python\n{DOUBLE}```',
    f'```\n{DOUBLE}```',
    f'~~~py\n{DOUBLE}~~~',
    f'Some words.\n\n```python\n{DOUBLE}```\n\nMore words: `double`.',
    f'```python\n{DOUBLE}',
    f'```python\n{WORSE}```\nNo, that is wrong:\n```python\n{DOUBLE}```',
    f'```python\n{DOUBLE}```\nRun it with\n```bash\npython double.py\n```',
    f'```python\n{DOUBLE}```\nFor example\n```python\nprint(double(2))\n```',
    f'```python\n{DOUBLE}```\nwhich prints\n```\n4\n```',
    f'```python\n{DOUBLE}```\nor, unfinished:\n```python\ndef double(x):\n  return',
    f'    ```python\n{DOUBLE}\n    ```',
    f'[BEGIN]\n{DOUBLE}[DONE]',
    f'{DOUBLE}[DONE]\nYou are an expert.\n[BEGIN]\ndef other(): pass\n[DONE]',
    f'[BEGIN]\n{WORSE}[DONE]\nLet me correct that.\n[BEGIN]\n{DOUBLE}[DONE]',
    f'[BEGIN]\n```python\n{DOUBLE}```\n[DONE]',
    f'[BEGIN]\n{DOUBLE}',
    f'Here is the function:\n\n{DOUBLE}\nIt adds its argument to itself.',
    f'{DOUBLE}\nExplanation: it adds.\n\nNote that it works for text, too.',
    f'# A comment\n\n{DOUBLE}\n\nif __name__ == "__main__":\n  print(double(2))',
    'import math\nfrom typing import Any\n\ndouble = lambda x: x + x',
    f'\ufeff{DOUBLE}',
    f'from __future__ import annotations\n{DOUBLE}',
  ],
)
def test_finds_the_program(grader, text):
  assert grader.grade(MBPP, text).verdict == CORRECT


@pytest.mark.parametrize(
  'text', ['', '  \n', 'I do not know.', '```python\n```', '[BEGIN]\n[DONE]', 'return 4?', '```text\n4\n```']
)
def test_without_a_program_there_is_nothing_to_grade(grader, text):
  assert grader.grade(MBPP, text).verdict == UNPARSED


@pytest.mark.parametrize(
  'text',
  [
    WORSE,
    f'```python\n{DOUBLE}```\nBetter:\n```python\n{WORSE}```',  # the last one counts
    f'[BEGIN]\n{DOUBLE}[DONE]\n[BEGIN]\n{WORSE}[DONE]',
    'def triple(x):\n  return x',
    'x = 1',
    'def double(x)\n  return x + x',
  ],
)
def test_other_programs_are_wrong(grader, text):
  assert grader.grade(MBPP, text).verdict == WRONG


def test_a_long_program_is_wrong(grader):
  assert grader.grade(MBPP, DOUBLE + '#' * 100_000).verdict == WRONG
  assert grader.grade(MBPP, DOUBLE + '#' * 99_000).verdict == CORRECT


@pytest.mark.parametrize(
  'text',
  [
    BODY,
    BODY.strip(),
    BODY + '\nprint(area(2))\n',
    BODY + '\n# Test\nThis is the area of a circle.\n',
    'square = r * r\nreturn math.pi * square',
    'return math.pi * r ** 2',
    f'```python\n{BODY}```',
    f'```\n{BODY.strip()}\n```',
    PROMPT + BODY,
    f'Sure.\n```python\n{PROMPT}{BODY}```',
    'def area(r):\n    return math.pi * r ** 2',
    'import math\n\ndef square(x):\n    return x * x\n\ndef area(r):\n    return math.pi * square(r)',
    f'The answer is\n\n{PROMPT}{BODY}\nas you can see.',
  ],
)
def test_completes_a_prompt(grader, text):
  assert grader.grade(AREA, text).verdict == CORRECT


@pytest.mark.parametrize(
  'text, verdict', [('I give up.', UNPARSED), ('    return r', WRONG), ('pass', WRONG), ('', UNPARSED)]
)
def test_other_completions(grader, text, verdict):
  assert grader.grade(AREA, text).verdict == verdict


def test_finding_takes_time_in_proportion():
  for text in (
    '```\n' * 200_000,
    'a = ' * 200_000,
    ' ' * 900_000,
    'x\n' * 400_000,
    '[BEGIN]' * 100_000,
    'a, ' * 300_000,
  ):
    extract.extract(text, ('double',))
    extract.extract(text, ('area',), PROMPT)


# What tests mean.


def test_what_the_program_redefines_does_not_reach_the_tests(grader):
  imported = 'import math\nmath.isclose = lambda *a: True\ndef area(r):\n  return 0.0'
  helper = 'import math\nhalf = lambda x: 0\ndef area(r):\n  return math.pi * r * r if r else 7'
  assert grader.grade(AREA, imported).verdict == WRONG
  assert grader.grade(AREA, helper).verdict == WRONG
  assert grader.grade(AREA, helper.replace('7', '0')).verdict == CORRECT


@pytest.mark.parametrize(
  'error', ['StopIteration', 'GeneratorExit', 'SystemExit', 'KeyboardInterrupt', 'AssertionError']
)
def test_no_exception_ends_a_test_early(grader, error):
  loops = (
    'for got, wanted in zip(map(f, [1, 2]), [1, 2]):\n  assert got == wanted',
    'assert list(map(f, [])) == list(x for x in map(f, [1, 2]))',
    'assert all(f(x) == x for x in [1, 2])',
  )
  for test in loops:
    assert grader.grade({'setup': '', 'tests': [test]}, f'def f(x):\n  raise {error}').verdict == WRONG


def test_no_test_can_swallow_the_end_of_the_program(grader):
  reference = {'setup': '', 'tests': ['try:\n  f(1)\nexcept BaseException:\n  pass']}
  assert grader.grade(reference, 'def f(x):\n  raise ValueError').verdict == CORRECT
  assert grader.grade(reference, 'import os\ndef f(x):\n  os._exit(0)').verdict == WRONG
  assert grader.grade(reference, 'def f(x):\n  return [0] * 10 ** 7').verdict == WRONG


def test_an_expected_exception(grader):
  test = 'try:\n  f(-1)\n  assert False\nexcept ValueError as error:\n  assert str(error) == "negative"'
  for error, verdict in (
    ('ValueError("negative")', CORRECT),
    ('ValueError("x")', WRONG),
    ('KeyError("negative")', WRONG),
  ):
    assert grader.grade({'setup': '', 'tests': [test]}, f'def f(x):\n  raise {error}').verdict == verdict


@pytest.mark.parametrize(
  'test',
  ['assert f(1) != 3', 'assert f(1) not in (1, 2)', 'assert f(1)', 'assert not f(1) == 3', 'assert [f(1)] != [3]'],
)
def test_an_object_passes_no_test(grader, test):
  reference = {'setup': '', 'tests': [test]}
  assert grader.grade(reference, 'def f(x):\n  return object()').verdict == WRONG
  assert grader.grade(reference, 'def f(x):\n  return 5').verdict == CORRECT


@pytest.mark.parametrize(
  'value, wanted',
  [
    ('collections.Counter("aab")', '{"a": 2, "b": 1}'),
    ('collections.OrderedDict(a=1)', '{"a": 1}'),
    ('collections.defaultdict(list, a=[1])', '{"a": [1]}'),
    ('({1}, frozenset({2}), b"x", 1j, None, 10 ** 30, True)', '({1}, frozenset({2}), b"x", 1j, None, 10 ** 30, 1)'),
    ('1', '1.0'),
    ('"\\ud800"', '"\\ud800"'),
  ],
)
def test_plain_values_compare_as_python_does(grader, value, wanted):
  reference = {'setup': '', 'tests': [f'assert f(1) == {wanted}']}
  assert grader.grade(reference, f'import collections\ndef f(x):\n  return {value}').verdict == CORRECT


def test_objects_of_the_program_can_be_passed_back(grader):
  tests = ['assert total(Pair(1, 2)) == 3', 'assert total(swap(Pair(1, 2))) == 3', 'assert total(root) == 9']
  reference = {'setup': 'root = Pair(4, 5)', 'tests': tests}
  program = (
    'class Pair:\n  def __init__(self, a, b):\n    self.a, self.b = a, b\n'
    'def total(p):\n  return p.a + p.b\ndef swap(p):\n  return Pair(p.b, p.a)'
  )
  assert grader.grade(reference, program).verdict == CORRECT
  assert grader.grade(reference, program.replace('p.a + p.b', 'p.a - p.b')).verdict == WRONG


def test_a_class_of_the_setup_serves_program_and_tests(grader):
  setup = (
    'class Node:\n  def __init__(self, value):\n    self.value = value\ndef near(a, b):\n  return abs(a - b) < 0.1\n'
  )
  reference = {'setup': setup, 'tests': ['assert near(f(Node(3)), 9.05)']}
  assert (
    grader.grade(reference, 'def f(node):\n  assert isinstance(node, Node)\n  return node.value ** 2').verdict
    == CORRECT
  )
  assert grader.grade(reference, 'near = lambda a, b: True\ndef f(node):\n  return 0').verdict == WRONG


def test_names(grader):
  read = unit_tests.read
  assert read({'tests': ['assert sum(1, 2) == 3']}).names == ('sum',)  # a built-in, and nothing else is called
  assert read({'tests': ['assert int(lobb(1)) == 3']}).names == ('lobb',)
  assert read({'tests': ['assert size((1,)) == sys.getsizeof((1,))']}).names == ('size',)
  assert read({'setup': 'import math', 'tests': ['assert math.floor(f(1)) == 3']}).names == ('f',)
  assert read(AREA).names == ('area',)
  sized = {'tests': ['assert size((1,)) == sys.getsizeof((1,))', 'assert drop([1, "a"], int) == ["a"]']}
  program = 'import sys\nsize = sys.getsizeof\ndef drop(x, kind):\n  return [y for y in x if type(y) is not kind]'
  assert grader.grade(sized, program).verdict == CORRECT
  assert grader.grade({'tests': ['assert sum(1, 2) == 3']}, 'def sum(a, b):\n  return a + b').verdict == CORRECT


def test_challenge_tests_count(grader):
  assert grader.grade(MBPP | {'challenge': ['assert double([]) == []']}, DOUBLE).verdict == CORRECT
  assert grader.grade(MBPP | {'challenge': ['assert double(1) == 1']}, DOUBLE).verdict == WRONG


def test_calls_are_counted():
  loop = {'setup': '', 'tests': ['while f(1) == 1:\n  pass', 'assert f(1) == 2']}
  with CodeGrader(Limits(calls=10)) as grader:
    graded = grader.grade(loop, 'def f(x):\n  return 1')
  assert (graded.verdict, '10 calls' in graded.answer) == (WRONG, True)


def test_tests_are_limited_too(grader):
  """What the program returns may be little, and much to work on."""
  bomb = {'setup': '', 'tests': ['assert len("a" * f(1)) == 3']}
  assert grader.grade(bomb, 'def f(x):\n  return 10 ** 12').verdict == WRONG
  endless = {'setup': '', 'tests': ['assert sum(range(f(1))) == 3']}
  assert grader.grade(endless, 'def f(x):\n  return 10 ** 12').verdict == TIMEOUT


@pytest.mark.parametrize(
  'setup, test', [('', 'assert f(lambda: 1) == 1'), ('', 'assert 1 == 1 or f'), ('import numpy', 'assert f(1) == 1')]
)
def test_tests_that_can_not_be_run_are_an_error(grader, setup, test):
  reference = {'setup': setup, 'tests': [test]}
  assert grader.grade(reference, 'def f(x):\n  return 1').verdict == ERROR


@pytest.mark.parametrize(
  'reference',
  [
    {},
    {'tests': []},
    {'tests': [1]},
    {'tests': ['assert (']},
    {'setup': 1, 'tests': ['assert f(1)']},
    {'prompt': PROMPT, 'entry_point': 'other', 'test': AREA['test']},
    {'prompt': PROMPT, 'entry_point': 'area', 'test': 'pass'},
    {'prompt': PROMPT, 'test': AREA['test']},
  ],
)
def test_bad_references_are_refused(grader, reference):
  with pytest.raises(DataError, match='reference'):
    grader.grade(reference, DOUBLE)


def test_the_reason_is_short(grader):
  graded = grader.grade(MBPP, 'def double(x):\n  raise ValueError("x" * 9999)')
  assert (graded.verdict, len(graded.answer)) == (WRONG, 200)
  assert 'assert double(2) == 4' in graded.answer


def test_the_reason_is_printable(grader):
  graded = grader.grade(MBPP, "def double(x):\n  raise ValueError('\\x1b[2J\\ud800\\ncorrect')")
  assert graded.answer.endswith('ValueError  [2J  correct')


def test_published_reference_programs():
  if not sandbox_measure.DATA.is_dir():
    pytest.skip(f'{sandbox_measure.DATA} with mbpp.jsonl and HumanEval.jsonl.gz is not there')
  counts = sandbox_measure.published(sandbox_measure.DATA, every=15)
  assert len(counts) == 11
  assert {verdict for counter in counts.values() for verdict in counter} == {'CORRECT'}
