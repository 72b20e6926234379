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
    for names, prompt in ((('double',), ''), (('area',), PROMPT)):
      parts = extract.extract(text, names, prompt)
      assert sum(map(len, (*parts.programs, *parts.others))) < 3 * len(text)


# What a model writes on behind the program, until it is cut.


def test_what_follows_the_program_is_no_failure(grader):
  for reference, code, wrong in ((MBPP, DOUBLE, WORSE), (AREA, BODY, BODY.replace('pi *', 'pi +'))):
    kinds = sandbox_measure.run_ons(reference, code)
    assert len(kinds) == 8
    for kind, text in kinds.items():
      assert (kind, grader.grade(reference, text).verdict) == (kind, CORRECT)
    for kind, text in sandbox_measure.run_ons(reference, wrong).items():
      assert (kind, grader.grade(reference, text).verdict) == (kind, WRONG)


@pytest.mark.parametrize(
  'text',
  [
    DOUBLE + '\nimport numpy\n\ndef later(): pass\n\nlater(1)\n',
    'def double(x):\n  return twice(x)\n\nimport numpy\n\ndef twice(x):\n  return x + x\n\ndef other(',
    f'{DOUBLE}\nYou are an expert.\n[BEGIN]\ndef other(x):\n  return [DONE]',
    f'```python\ndef twice(x):\n  return x + x\n```\nand\n```python\n{DOUBLE.replace("x + x", "twice(x)")}```',
    f'```python\nimport operator\n```\n```python\n{DOUBLE.replace("x + x", "operator.add(x, x)")}```',
    '1. Code:\n\n   ```python\n   def double(x):\n     return x + x\n   ```\n',
    'def double(x):\n\treturn x + x\n\nprint("',
    '```python\ndef double(x):\n  """Doubles.\n\n  ```\n  double(1)\n  ```\n  """\n  return x + x\n```',
    f'<think>\n```python\n{WORSE}```\n</think>\n```python\n{DOUBLE}```',
  ],
)
def test_reads_the_program_out_of_what_surrounds_it(grader, text):
  assert grader.grade(MBPP, text).verdict == CORRECT


@pytest.mark.parametrize(
  'text, verdict',
  [
    (f'<think>\n```python\n{DOUBLE}```\n</think>\nNo idea.', UNPARSED),  # a draft counts for nothing
    (f'<think>\n```python\n{DOUBLE}```', UNPARSED),
    ('def double(x):\n  return x + (', WRONG),
    ('def double(x):\n  """Doubles."""\nreturn x + x', WRONG),
    (f'import numpy\n{DOUBLE}', WRONG),  # before the function it fails as it does in Python
    (f'{DOUBLE}\nraise SystemExit', WRONG),
    (f'{DOUBLE}\n{WORSE}\nprint("', WRONG),  # of two functions the second one counts
    (f'{WORSE}\n{DOUBLE[:-3]}(', WRONG),
    (f'{WORSE}\nassert double(2) == 4\nprint("', WRONG),
    (f'1 / 0\n{DOUBLE}\nprint("', WRONG),  # a cut behind it hides no failure before it
    (f'{DOUBLE}\nimport os\nos._exit(0)', WRONG),
    (f'{DOUBLE}\nexec("def double(x): return 5")\n1 / 0', WRONG),  # what is overwritten stays so
    (f'{DOUBLE}\ndel double\nprint("', WRONG),
    (f'{DOUBLE}\nif double:\n  double = len\n', WRONG),
    (f'{DOUBLE}\nfrom nowhere import double\n', WRONG),
    (f'{WORSE}\nAssertionError = Exception\n', WRONG),
    (f'```python\n{WORSE}```\n```python\n{DOUBLE}\nx = (\n', WRONG),  # an open block does not replace a complete one
  ],
)
def test_what_is_no_program_stays_none(grader, text, verdict):
  assert grader.grade(MBPP, text).verdict == verdict


def test_a_body_may_have_tabs_or_stand_in_a_sentence(grader):
  assert grader.grade(AREA, '\tsquare = r * r\n\treturn math.pi * square\n').verdict == CORRECT
  assert grader.grade(AREA, 'You can do: `return math.pi * r ** 2`').verdict == CORRECT
  assert grader.grade(AREA, 'You can do: `return math.pi * r ** 3`').verdict == WRONG
  assert grader.grade(AREA, 'You can do: `math`').verdict == UNPARSED


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


@pytest.mark.parametrize(
  'value, test',
  [
    ('collections.namedtuple("P", "a b")(1, 2)', 'f() == (1, 2)'),
    ('enum.IntEnum("E", "A B").B', 'f() == 2'),
    ('fractions.Fraction(1, 2)', 'f() == 0.5'),
    ('decimal.Decimal("2.50")', 'f() == 2.5'),
    ('bytearray(b"a")', 'f() == bytearray(b"a") == b"a"'),
    ('collections.deque([1, 2])', 'list(f()) == [1, 2]'),
    ('range(3)', 'f() == range(3) and list(f()) == [0, 1, 2]'),
    ('{"a": 1}.keys()', 'f() == {"a"} and sorted(f()) == ["a"]'),
    ('{"a": [1]}.values()', 'list(f()) == [[1]]'),
    ('collections.OrderedDict(a=1).items()', 'f() == {("a", 1)}'),
    ('(x for x in (1, 2, 1))', 'set(f()) == {1, 2}'),
    ('map(abs, range(-3000, 0))', 'list(f()) == list(range(3000, 0, -1))'),
    ('itertools.count(5)', 'next(f()) == 5 and [x for x, _ in zip(f(), range(3))] == [5, 6, 7]'),
    ('"x" * 5_000_000', 'len(f()) == 5_000_000'),
  ],
)
def test_results_compare_as_in_python(grader, value, test):
  imports = 'import collections, decimal, enum, fractions, itertools\n'
  program = f'{imports}def f():\n  return {value}'
  assert grader.grade({'tests': [f'assert {test}']}, program).verdict == CORRECT
  assert grader.grade({'tests': [f'assert not ({test})']}, program).verdict == WRONG


@pytest.mark.parametrize('base', ['int', 'tuple', 'dict', 'fractions.Fraction', 'collections.deque'])
def test_no_result_decides_what_it_is_equal_to(grader, base):
  program = (
    f'import collections, fractions\nclass Equal({base}):\n  __eq__ = lambda self, other: True\n'
    '  __hash__ = lambda self: 0\ndef f():\n  return Equal()'
  )
  assert grader.grade({'tests': ['assert f() == 7']}, program).verdict == WRONG
  assert grader.grade({'tests': ['assert f() != 7 and f() == 8']}, program).verdict == WRONG


def test_a_derived_object_is_passed_back_whole(grader):
  program = (
    'import collections\nPair = collections.namedtuple("Pair", "a b")\ndef make():\n  return [Pair(1, 2)]\n'
    'def total(pair):\n  return pair.a + pair.b\n'
  )
  assert grader.grade({'tests': ['assert total(make()[0]) == 3']}, program).verdict == CORRECT


def test_attributes_are_read_of_what_a_test_makes_alone(grader):
  stack = (
    'class Stack:\n  def __init__(self):\n    self.items = []\n  def push(self, x):\n    self.items.append(x)\n'
    '    return self\n  def pop(self):\n    return self.items.pop()\n'
  )
  used = {
    'tests': [
      's = Stack()\ns.push(1).push(2)\nassert s.items == [1, 2] and s.pop() == 2\ns.items = [7]\nassert s.pop() == 7'
    ]
  }
  assert grader.grade(used, stack).verdict == CORRECT
  assert grader.grade(used, stack.replace('pop()', 'pop(0)')).verdict == WRONG
  liar = 'class Liar:\n  isdigit = lambda self: True\ndef f():\n  return Liar()'
  assert grader.grade({'tests': ['assert f().isdigit()']}, liar).verdict == WRONG


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


@pytest.mark.parametrize('kinds, count', [(sandbox_measure.forms, 11), (sandbox_measure.run_ons, 16)])
def test_published_reference_programs(kinds, count):
  if not sandbox_measure.DATA.is_dir():
    pytest.skip(f'{sandbox_measure.DATA} with mbpp.jsonl and HumanEval.jsonl.gz is not there')
  counts = sandbox_measure.published(sandbox_measure.DATA, every=15, forms=kinds)
  assert len(counts) == count
  assert {verdict for counter in counts.values() for verdict in counter} == {'CORRECT'}
