"""Reward functions of the user's own: every form, weights, and whatever goes wrong in them."""

import contextlib
import dataclasses
import json
import math
import os
import pathlib
import re
import time

import numpy as np
import pytest
import tiny

import score_jax
from score_jax.algorithm import rewards
from score_jax.core_types import Graded, Verdict
from score_jax.errors import ConfigError, DataError, UserError
from score_jax.graders import reward_function, user_file, weighted
from score_jax.graders.registry import GradingSpec
from score_jax.reporting import metrics
from score_jax.reporting import rows as report_rows

SPEC = GradingSpec(workers=1, cpu_seconds=1.0, memory_mb=512, unsafe_code=False, wall_seconds=8.0)
FUNCTIONS = """
import asyncio, os, sys, time
from score_jax.core_types import Graded, Verdict

kept = []

def own(response, row): return response == row['answer']
def graded(response, row): return len(response) / 10
def trl(completions, answer, **kwargs):
  assert set(kwargs) == {'prompts', 'completion_ids', 'level'} and kwargs['completion_ids'] == [[7, 8]]
  return [0.5 if text == gold else -0.5 for text, gold in zip(completions, answer)]
def trl_messages(prompts, completions):
  return [len(prompt) + len(completion[0]['content']) / 10 for prompt, completion in zip(prompts, completions)]
async def trl_async(completions, **kwargs):
  await asyncio.sleep(0)
  return [1.0] * len(completions)
def compute_score(data_source, solution_str, ground_truth, extra_info):
  return {'score': float(solution_str == ground_truth), 'source': data_source + extra_info['level']}
def verdicts(response, row): return Graded(Verdict.UNPARSED, 'no number', score=0.25)
def left_out(response, row): return None if response == 'skip' else 1
def prints(response, row):
  print('noise'); sys.stderr.write('noise'); os.write(1, b'noise')
  return 1
def raises(response, row):
  return 1 / 0
def loops(response, row):
  while True: pass
def waits(response, row): time.sleep(60)
def leaks(response, row):
  kept.append(bytearray(10**9))
  return 1
def leaves(response, row): os._exit(3)
def nan(response, row): return float('nan')
def text(response, row): return 'good'
def none_of_one(completions, **kwargs): return [1, 2]
def numpy_score(response, row):
  import numpy
  return numpy.float32(0.5)
def key(response, row): return float(os.environ.get('JUDGE_KEY', 'nan'))
def column(response, row): return row['gold']
"""
GIVEN = dict(
  row=dict(answer='yes', level='1'), gold='yes', source='mine', prompt='Say yes.', completion_ids=[7, 8], reference={}
)


@pytest.fixture(scope='module')
def file(tmp_path_factory):
  path = tmp_path_factory.mktemp('own') / 'my_rewards.py'
  path.write_text(FUNCTIONS)
  return path


def graded(file, function, *texts, spec=SPEC, given=GIVEN, correct_at=1.0):
  grader = weighted.open_grader('', {f'{file}:{function}': 1.0}, spec, correct_at=correct_at)
  try:
    return grader.grade([(given, text) for text in texts])
  finally:
    grader.close()


@pytest.mark.parametrize(
  'function, scores',
  [
    ('own', [1.0, 0.0]),
    ('graded', [0.3, 0.2]),
    ('trl', [0.5, -0.5]),
    ('trl_async', [1.0, 1.0]),
    ('compute_score', [1.0, 0.0]),
    ('verdicts', [0.25, 0.25]),
    ('prints', [1.0, 1.0]),
    ('numpy_score', [0.5, 0.5]),
  ],
)
def test_each_form_gives_its_score(file, function, scores):
  results = graded(file, function, 'yes', 'no')
  assert [one.score for one in results] == scores
  assert [one.parts for one in results] == [{f'my_rewards.py:{function}': score} for score in scores]
  right = [score >= 1 for score in scores]
  assert [one.verdict == Verdict.CORRECT for one in results] == right
  if function == 'verdicts':
    assert results[0].verdict == Verdict.UNPARSED and results[0].answer == 'no number'


def test_workers_import_what_pythonpath_names_from_the_run_s_folder_too(tmp_path, monkeypatch):
  (tmp_path / 'site').mkdir()
  (tmp_path / 'site/scores_of_a_library.py').write_text('HALF = 0.5')
  path = tmp_path / 'mine.py'
  path.write_text('import scores_of_a_library\ndef grade(response, row): return scores_of_a_library.HALF')
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv('PYTHONPATH', os.pathsep.join(['', 'site']))
  assert [one.score for one in graded(path, 'grade', 'yes')] == [0.5]


def test_a_file_is_named_from_the_run_s_folder_though_workers_are_elsewhere(file, monkeypatch):
  monkeypatch.chdir(file.parent)
  assert [one.score for one in graded(file.name, 'own', 'yes', 'no')] == [1.0, 0.0]


def test_turns_may_be_messages(file):
  turns = [dict(role='user', content='Say yes.'), dict(role='assistant', content='no'), dict(role='user', content='?')]
  (one,) = graded(file, 'trl_messages', 'yes', given=GIVEN | dict(prompt=turns))
  assert one.score == 3.3


def test_the_score_from_which_an_attempt_is_correct_is_the_users(file):
  assert [one.verdict for one in graded(file, 'graded', 'abcde', 'abcd', correct_at=0.5)] == [1, 0]


@pytest.mark.parametrize(
  'function, verdict, told',
  [
    ('raises', Verdict.ERROR, 'my_rewards.py:raises raised ZeroDivisionError: division by zero (line 25), twice'),
    (
      'column',
      Verdict.ERROR,
      "my_rewards.py:column raised KeyError: 'gold' (line 40); the row has answer, level, twice",
    ),
    ('nan', Verdict.ERROR, 'my_rewards.py:nan returned nan, not a finite number, twice'),
    ('text', Verdict.ERROR, "my_rewards.py:text returned 'good', not a finite number"),
    ('none_of_one', Verdict.ERROR, 'my_rewards.py:none_of_one returned [1, 2], not a list of one finite number'),
    ('waits', Verdict.ERROR, 'my_rewards.py:waits: no answer within config.grading.wall_seconds = 0.5 (line'),
    ('leaks', Verdict.ERROR, 'my_rewards.py:leaks needs more than config.grading.memory_mb'),
    ('leaves', Verdict.ERROR, 'the grader my_rewards.py:leaves died (exit 3), twice'),
    ('loops', Verdict.TIMEOUT, ''),
  ],
)
def test_what_goes_wrong_is_a_verdict_and_a_line(file, function, verdict, told):
  spec = dataclasses.replace(SPEC, wall_seconds=0.5) if function == 'waits' else SPEC
  one, other = graded(file, function, 'yes', 'no', spec=spec)
  assert one.verdict == other.verdict == verdict
  assert told in one.answer
  assert one.reward == 0


# One function whose answer tells what it does: its processes are started once for all.
ANYTHING = r"""
import decimal, enum, fractions, os, pathlib, subprocess, sys, time
import numpy as np
from score_jax.core_types import Graded, Verdict

class Unshown:
  def __repr__(self): raise ValueError('no text')
class Untold(Exception):
  def __str__(self): raise ValueError('no text')
class Tensor:
  def __init__(self, *values): self.values = values
  def __repr__(self): return f'tensor({list(self.values)})'
  def item(self):
    if len(self.values) > 1: raise RuntimeError('a Tensor with 2 elements cannot be converted to Scalar')
    return self.values[0]
Tensor.__module__ = 'torch'
def nested():
  value = []
  for _ in range(100000): value = [value]
  return value
def raises(error): raise error
def deep(n): return deep(n + 1)
async def later(): return 0.5
def many(): yield 1
def swallows():
  try: time.sleep(9)
  except Exception: return 1
def swallows_all():
  try: time.sleep(9)
  except: return 1
def forks():
  child = os.fork()
  if child: os.waitpid(child, 0)
  return 1.0 if child else 0.0
def leaves_a_process(row): return subprocess.Popen(['sleep', '600']).pid
def prints():
  for _ in range(20): print('x' * 10**6)
  sys.stderr.write('y' * 10**6)
  return 1

def grade(response, row): return eval(response)
"""


@pytest.fixture(scope='module')
def anything(tmp_path_factory):
  path = tmp_path_factory.mktemp('any thing') / 'räwards.py'
  path.write_text(ANYTHING)
  spec = dataclasses.replace(SPEC, wall_seconds=0.3)
  with contextlib.closing(weighted.open_grader('', {f'{path}:grade': 1.0}, spec)) as grader:
    yield lambda *texts: grader.grade([(GIVEN, text) for text in texts])


@pytest.mark.parametrize(
  ('text', 'score'),
  [
    ('np.float16(0.5)', 0.5),
    ('np.int64(2)', 2),
    ('np.bool_(True)', 1),
    ('np.array([0.5])', 0.5),
    ('np.array(0.5)', 0.5),
    ('Tensor(0.5)', 0.5),
    ('decimal.Decimal("0.5")', 0.5),
    ('fractions.Fraction(1, 2)', 0.5),
    ('enum.IntEnum("E", "A")(1)', 1),
    ('later()', 0.5),
    ('Graded(Verdict.WRONG, 5, seconds="x", score=2)', 2),
    ('dict(score=True)', 1),
    ('prints()', 1),
    ('len(sys.stdin.read())', 0),
    ('os.chdir("/tmp") or 1', 1),
    ('forks()', 1),
    ('0.25', 0.25),  # and not what the child of the one before returned
    ('subprocess.run(["cat"], check=True).returncode', 0),
  ],
)
def test_any_finite_number_is_a_score(anything, text, score):
  (one,) = anything(text)
  assert one.score == score, one.answer


@pytest.mark.parametrize(
  ('text', 'told'),
  [
    ('float("inf")', 'returned inf, not a finite number'),
    ('np.float32("nan")', 'returned np.float32(nan), not a finite number'),
    ('decimal.Decimal("nan")', "returned Decimal('NaN'), not a finite number"),
    ('1e31', 'returned 1e+31, not a finite number'),
    ('10**400', 'returned 1000000'),
    ('10**5000', 'returned <int that cannot be shown>, not a finite number'),
    ('1j', 'returned 1j, not a finite number'),
    ('"1.0"', "returned '1.0', not a finite number"),
    ('(1.0, "why")', "returned (1.0, 'why'), not a finite number"),
    ('np.array([0.5, 1])', 'returned array([0.5, 1. ]), not a finite number'),
    ('np.array(["a"])', "returned array(['a'], dtype='<U1'), not a finite number"),
    ('Tensor(0.5, 1)', 'returned tensor([0.5, 1]), not a finite number'),
    ('dict(reward=1)', "returned {'reward': 1}, not a finite number"),
    ('many()', 'returned <generator object many'),
    ('Unshown()', 'returned <Unshown that cannot be shown>, not a finite number'),
    ('nested()', 'returned <list that cannot be shown>, not a finite number'),
    ('Graded(7)', 'returned Graded(verdict=7'),
    ('Graded("right")', "returned Graded(verdict='right'"),
    ('Graded(Verdict.CORRECT, score="a")', "score='a', parts={}), not a finite number"),
    ('Graded(Verdict.ERROR, "no service")', 'no service'),
    ('dict(score=None)', 'every reward left this row out'),
    ('sys.exit("bye")', 'raised SystemExit: bye (line 41), twice'),
    ('input()', 'raised EOFError'),
    ('raises(Untold())', 'raised Untold: <Untold that cannot be shown> (line 21), twice'),
    ('raises(ValueError("\\ud83d \\x1b[31m\\nred" + "x" * 10**6))', r'raised ValueError: \ud83d \x1b[31m redxxx'),
    ('deep(0)', 'raised RecursionError: maximum recursion depth exceeded (line 22), twice'),
    ('open("beside.txt")', "raised FileNotFoundError: [Errno 2] No such file or directory: 'beside.txt'"),
    ('swallows()', ': no answer within config.grading.wall_seconds = 0.3 (line 26), twice'),
    ('swallows_all()', ': no answer within config.grading.wall_seconds = 0.3, twice'),
    ('os._exit(0)', 'the grader räwards.py:grade died (exit 0), twice'),
    ('os.kill(os.getpid(), 11)', 'the grader räwards.py:grade died (exit -11), twice'),
  ],
)
def test_anything_else_is_told_in_a_line_and_the_next_answer_is_graded(anything, text, told):
  one, other = anything(text, '0.5')
  assert one.verdict == Verdict.ERROR and one.reward == 0
  assert told in one.answer and one.answer.isprintable() and len(one.answer) <= 500
  assert other.score == 0.5


def test_what_a_function_has_started_ends_with_its_process(anything):
  (started,) = anything('leaves_a_process(row)')
  anything('os._exit(0)')
  with pytest.raises(ProcessLookupError):
    for _ in range(100):  # it is another process's to bury
      os.kill(int(started.score), 0)
      if pathlib.Path(f'/proc/{started.score:.0f}/stat').read_text().rpartition(')')[2].split()[0] == 'Z':
        raise ProcessLookupError
      time.sleep(0.05)


def test_a_file_that_changes_during_a_run_counts_as_it_was(tmp_path):
  path = tmp_path / 'mine.py'
  path.write_text('# -*- coding: latin-1 -*-\nimport os\ndef f(response, row): return eval(response)', 'latin-1')
  with contextlib.closing(weighted.open_grader('', {f'{path}:f': 1.0}, SPEC)) as grader:
    path.write_text('def f(response, row): return 7')
    grader.grade([(GIVEN, 'os._exit(1)')])
    path.unlink()
    assert [one.score for one in grader.grade([(GIVEN, 'os._exit(1)'), (GIVEN, '0.5')])] == [None, 0.5]


FORMS = """
import dataclasses, functools, typing
import helper_beside

@dataclasses.dataclass
class Kept:
  weight: 'float' = helper_beside.WEIGHT
  most: 'typing.ClassVar[int]' = 3
  def __call__(self, response, row): return self.weight
class Twin:
  async def __call__(self, completions, **columns): return [0.5]
def halved(function):
  @functools.wraps(function)
  def inner(*args, **kwargs): return function(*args, **kwargs) / 2
  return inner

f_lambda = lambda response, row: 0.5
f_instance = Kept()
f_async_instance = Twin()
f_partial = functools.partial(lambda weight, response, row: weight, 0.5)
@halved
def f_decorated(response, row): return 1
def f_default(response, row, weight=0.5): return weight
def f_any(*args): return len(args) / 4
def f_columns(prompts, completions, answer, trainer_state=None): return [0.5]
def f_verl(data_source, solution_str, ground_truth, extra_info=None, **more): return 0.5
async def f_later(response, row): return 0.5
def f_clears(response, row): row.clear(); return 0.5

def g_keyword(*, response, row): return 1
def g_one(response): return 1
def g_three(response, row, question): return 1
def g_verl(data_source, solution_str, ground_truth, extra_info, router): return 1
def g_no_source(solution_str, ground_truth): return 1
g_builtin = len
"""


def test_any_callable_that_takes_what_it_is_given_serves(tmp_path):
  path = tmp_path / 'json.py'  # a name that others need
  path.write_text(FORMS)
  (tmp_path / 'helper_beside.py').write_text('WEIGHT = 0.5')
  for name in re.findall(r'^(?:async )?(?:def )?([fg]_\w+)', FORMS, re.M):
    source = user_file.find(f'{path}:{name}', 'config.task.reward')
    if name.startswith('f_'):
      given = GIVEN | dict(row=dict(GIVEN['row']))
      assert reward_function.load(source, 2.0)(given, 'yes').score == 0.5, name
    else:
      with pytest.raises(ConfigError, match=rf'json.py: {name}\(.*\) must have the parameters \(response, row\), '):
        reward_function.load(source, 2.0)
  assert json.loads('1') == 1


def test_none_leaves_the_reward_out_of_a_row(file):
  names = {f'{file}:left_out': 2.0, f'{file}:graded': 10.0}
  grader = weighted.open_grader('', names, SPEC, correct_at=4.0)
  both, one = grader.grade([(GIVEN, 'abc'), (GIVEN, 'skip')])
  grader.close()
  assert both.score == 2.0 * 1 + 10.0 * 0.3 and both.verdict == Verdict.CORRECT
  assert one.score == 10.0 * 0.4 and one.parts == {'my_rewards.py:graded': 0.4}
  (alone,) = graded(file, 'left_out', 'skip')
  assert alone.verdict == Verdict.ERROR and alone.answer == 'every reward left this row out'


def test_a_built_in_verifier_among_the_rewards_decides_what_is_correct(file):
  grader = weighted.open_grader('math', {'math': 1.0, f'{file}:graded': -0.1}, SPEC)
  given = GIVEN | dict(reference=dict(answer='3'))
  right, wrong = grader.grade([(given, r'\boxed{3}'), (given, r'\boxed{4}')])
  grader.close()
  assert right.verdict == Verdict.CORRECT and right.score == pytest.approx(1 - 0.1 * 0.9)
  assert wrong.verdict == Verdict.WRONG and wrong.score == pytest.approx(-0.1 * 0.9)
  assert right.parts == {'math': 1.0, 'my_rewards.py:graded': 0.9} and right.answer == '3'


def test_the_function_sees_no_variables_but_those_named(file, monkeypatch):
  monkeypatch.setenv('JUDGE_KEY', '0.75')
  assert graded(file, 'key', 'yes')[0].verdict == Verdict.ERROR
  named = GradingSpec(1, 1.0, 512, False, 1.0, ('JUDGE_KEY',))
  assert graded(file, 'key', 'yes', spec=named)[0].score == 0.75


@pytest.mark.parametrize(
  'content, name, message',
  [
    ('def f(', ':f', 'cannot be run: SyntaxError'),
    ('import nothing_of_this_name', ':f', "ModuleNotFoundError: No module named 'nothing_of_this_name' (line 1)"),
    ('x = 1\ndef g(r, row): return 1', ':f', "has no function 'f'; it has: g"),
    ('import sys; sys.exit()', ':f', 'cannot be run: SystemExit:  (line 1)'),
    (
      'import os; os._exit(3)',
      ':f',
      'its process did not start (the other side is gone, exit 3); correct what it does',
    ),
    ('input()', ':f', 'cannot be run: EOFError: EOF when reading a line (line 1)'),
    ('from . import helper', ':f', 'cannot be run: ImportError: attempted relative import'),
    ('x = "\0"', ':f', 'cannot be run: SyntaxError: source code string cannot contain null bytes'),
    ('f = [1]', ':f', "has no function 'f'; it has: none"),
    ('x = 1', '', 'write FILE.py:FUNCTION'),
    (None, ':f', 'there is no file'),
  ],
)
def test_a_file_that_cannot_be_used_is_refused_before_the_run(tmp_path, content, name, message):
  path = tmp_path / 'bad.py'
  if content is not None:
    path.write_text(content)
  with pytest.raises(UserError) as caught:
    weighted.open_grader('', {f'{path}{name}': 1.0}, SPEC)
  assert message in str(caught.value)


def test_scores_of_any_size_are_rewards():
  score_BA = np.array([[0.2, 0.9], [0.5, -1.0]], np.float32)
  verdict_BA = np.full((2, 2), int(Verdict.WRONG), np.int8)
  weight_A, bonus_A = np.array([0.5, 1.0], np.float32), np.array([0.0, 10.0], np.float32)
  reward_BA = rewards.attempt_rewards(verdict_BA, weight_A, bonus_A, score_BA)
  # eq. 1 by hand: 0.5 r1; r2 + 10 (r2 - r1)
  np.testing.assert_allclose(reward_BA, [[0.1, 0.9 + 7.0], [0.25, -1.0 - 15.0]], rtol=1e-6)


TASK = """
import score_jax

def problems(split, seed):
  first = 0 if split == 'train' else 100
  row = dict(length={length})
  return [
    score_jax.Problem(f'{{split}}/{{i}}', f'reach {{i + 1}} with 1 2 3', {{}}, row=row) for i in range(first, first + 8)
  ]

def length(response, row):
  return len(response) / row['length']

def even(completions, prompts, **kwargs):
  assert all(isinstance(prompt, str) and 'with 1 2 3' in prompt for prompt in prompts)
  return [float(len(text) % 2) for text in completions]
"""


def own_config(path, hf_folder, **changes):
  fields = {
    'model.path': str(hf_folder),
    'task.name': f'{path}:problems',
    'task.rewards': {f'{path}:length': 1.0, f'{path}:even': 0.5},
    'task.correct_at': 0.4,
    'grading.workers': 1,
    'eval.problems': 0,
    'batch.problems': 8,
  }
  return tiny.config_dict(**fields | changes)


def test_a_run_learns_from_a_task_and_rewards_of_the_users(tmp_path, hf_folder):
  path = tmp_path / 'mine.py'
  path.write_text(TASK.format(length=8))
  run = score_jax.train(own_config(path, hf_folder), workdir=tmp_path / 'run')
  records = metrics.read(run.path / 'metrics.jsonl')
  assert len(records) == 4
  kept = list(report_rows.read(run.path / 'rows/train.jsonl'))
  for record in records:
    means = record['rewards']
    assert set(means) == {'mine.py:length', 'mine.py:even'} and len(means['mine.py:even']) == 2
    assert 0 <= record['outside'] <= 1
  for row in kept:
    for attempt in row.attempts:
      score = len(attempt.text) / 8 + 0.5 * (len(attempt.text) % 2)
      assert attempt.score == pytest.approx(score)
      assert (attempt.verdict == Verdict.CORRECT) == (score >= 0.4)
  # Stage I rewards attempt 2 with its score: the mean of all rows is that of the two functions.
  first = records[0]
  assert first['reward'][1] == pytest.approx(
    first['rewards']['mine.py:length'][1] + 0.5 * first['rewards']['mine.py:even'][1]
  )
  path.write_text(TASK.format(length=9))
  with pytest.raises(ConfigError, match='belongs to another run'):
    score_jax.train(own_config(path, hf_folder), workdir=tmp_path / 'run')


@pytest.mark.parametrize(
  'body, error, message',
  [
    ('return [1]', DataError, r"problems\('train', 0\)\[0\] is 1, not a score_jax.Problem"),
    ('return 1 / 0', DataError, 'raised ZeroDivisionError: division by zero'),
    ('raise SystemExit', DataError, r"problems\('train', 0\) raised SystemExit"),
    ("return [score_jax.Problem('a', ' ', {})]", DataError, "has id 'a' and question ' '; both must be texts"),
    ("return [score_jax.Problem('a', 'b\\ud83d', {})]", DataError, r"half a surrogate pair, .*: 'b.ud83d'"),
    ("return [score_jax.Problem('a', 'b', {1: {2}})]", DataError, 'not plain data'),
  ],
)
def test_a_task_that_returns_rubbish_is_refused(tmp_path, hf_folder, body, error, message):
  path = tmp_path / 'bad.py'
  path.write_text(f'import score_jax\ndef problems(split, seed):\n  {body}\ndef length(response, row): return 1\n')
  config = own_config(path, hf_folder, **{'task.rewards': {f'{path}:length': 1.0}})
  with pytest.raises(error, match=message):
    score_jax.train(config, workdir=tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


def test_rewards_must_suit_the_task(tmp_path, hf_folder):
  with pytest.raises(ConfigError, match="names 'math'; this task is graded by 'countdown'"):
    score_jax.train(tiny.config_dict(**{'model.path': str(hf_folder), 'task.reward': 'math'}), workdir=tmp_path / 'run')
  with pytest.raises(ConfigError, match='are both set'):
    tiny.run_config(**{'task.reward': 'math', 'task.rewards': {'text': 1.0}})
  with pytest.raises(ConfigError, match='a number for each name'):
    tiny.run_config(**{'task.rewards': {'text': 'much'}})


def test_rows_keep_scores_and_old_rows_have_none():
  attempt = report_rows.Attempt('a', 'a', Verdict.WRONG, report_rows.Stop(1), 1, 0.0, score=0.5)
  row = report_rows.Row('i', 'q', {}, (attempt,), math.nan, 'sampled', 0)
  again = report_rows.from_json(json.loads(json.dumps(row.to_json())))
  assert again.attempts == row.attempts
  old = row.to_json()
  del old['attempts'][0]['score']
  assert math.isnan(report_rows.from_json(old).attempts[0].score)
  assert Graded(Verdict.CORRECT).reward == 1 and Graded(Verdict.TIMEOUT).reward == 0
