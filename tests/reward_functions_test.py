"""Reward functions of the user's own: every form, weights, and whatever goes wrong in them."""

import dataclasses
import json
import math

import numpy as np
import pytest
import tiny

import score_jax
from score_jax.algorithm import rewards
from score_jax.core_types import Graded, Verdict
from score_jax.errors import ConfigError, DataError, UserError
from score_jax.graders import weighted
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
    ('nan', Verdict.ERROR, 'my_rewards.py:nan returned nan, not a finite number, twice'),
    ('text', Verdict.ERROR, "my_rewards.py:text returned 'good', not a finite number"),
    ('none_of_one', Verdict.ERROR, 'my_rewards.py:none_of_one returned [1, 2], not a list of one score'),
    ('waits', Verdict.ERROR, 'TimeoutError: no answer within config.grading.wall_seconds = 0.5'),
    ('leaks', Verdict.ERROR, 'my_rewards.py:leaks needs more than config.grading.memory_mb'),
    ('leaves', Verdict.ERROR, 'the grader died (exit 3), twice'),
    ('loops', Verdict.TIMEOUT, ''),
  ],
)
def test_what_goes_wrong_is_a_verdict_and_a_line(file, function, verdict, told):
  spec = dataclasses.replace(SPEC, wall_seconds=0.5) if function == 'waits' else SPEC
  one, other = graded(file, function, 'yes', 'no', spec=spec)
  assert one.verdict == other.verdict == verdict
  assert told in one.answer
  assert one.reward == 0


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
    ("return [score_jax.Problem('a', ' ', {})]", DataError, "has id 'a' and question ' '; both must be texts"),
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
