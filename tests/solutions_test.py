"""Published solutions: a run tries the tests of programs by them before it begins."""

import contextlib
import json

import pytest
import tiny

from score_jax import tasks
from score_jax.core_types import Graded, Verdict
from score_jax.errors import ConfigError, DataError
from score_jax.parallel import hosts
from score_jax.training import grading
from score_jax.training import run as runs

GOOD = dict(question='Write f.', tests=['assert f(1) == 1'], code='def f(x):\n  return x')
BAD = dict(GOOD, question='Write g.', tests=['import numpy\nassert g(1) == 1'], code='def g(x):\n  return x')
REWARD = 'def short(response, row):\n  return 1 / len(response)\n'


def config(tmp_path, train, heldout, **changes):
  """A run on one row, with another held out."""
  data = {}
  for split, row in dict(train=train, heldout=heldout).items():
    path = tmp_path / f'{split}.jsonl'
    path.write_text(json.dumps(row) + '\n')
    data[split] = (str(path),)
  fields = {
    'task.name': 'jsonl',
    'task.data': data,
    'eval.problems': 0,
    'task.jsonl.answer': 'tests',
    'task.jsonl.verifier': 'code',
    'task.jsonl.solution': 'code',
    'grading.workers': 1,
  }
  return tiny.run_config(**fields | changes)


def checked(run_config):
  """Returns the grader's description, once the solutions have passed."""
  task = tasks.open_task(run_config.task)
  with contextlib.closing(grading.open_grader(run_config, task)) as grader:
    grading.check_solutions(run_config, task.verifier, task.listed, grader)
    return grader.description


def test_tests_that_no_program_passes_refuse_a_run_before_anything_is_written(tmp_path):
  refused = config(tmp_path, GOOD, BAD)
  message = r'1 of 2 published solutions do not pass .*: wrong, .*raise config\.task\.unreadable_golds = 0\.1'
  with pytest.raises(DataError, match=message):
    runs.open_run(refused, str(tmp_path / 'run'))
  assert not (tmp_path / 'run').exists()


def test_a_few_are_told(tmp_path, caplog):
  assert 'programs are run behind' in checked(config(tmp_path, GOOD, BAD, **{'task.unreadable_golds': 0.5}))
  assert '1 of 2 published solutions do not pass their own tests here' in caplog.text


def test_the_verifier_among_rewards_is_tried_and_reward_functions_are_not(tmp_path):
  (tmp_path / 'mine.py').write_text(REWARD)
  own = f'{tmp_path}/mine.py:short'
  with pytest.raises(DataError, match='1 of 2 published solutions'):
    checked(config(tmp_path, GOOD, BAD, **{'task.rewards': str({'code': 1.0, own: 0.1})}))
  checked(config(tmp_path, GOOD, BAD, **{'task.reward': own, 'task.jsonl.solution': ''}))


def test_one_host_of_several_tries_them(tmp_path, monkeypatch):
  class Counting:
    graded = 0

    def grade(self, items):
      self.graded += len(items)
      return [Graded(Verdict.CORRECT)] * len(items)

  run_config, grader = config(tmp_path, GOOD, BAD), Counting()
  task = tasks.open_task(run_config.task)
  for main, graded in ((False, 0), (True, 2)):
    monkeypatch.setattr(hosts, 'is_main', lambda main=main: main)
    grading.check_solutions(run_config, task.verifier, task.listed, grader)
    assert grader.graded == graded


def test_a_column_of_solutions_is_one_of_programs(tmp_path):
  with pytest.raises(DataError, match="row 1: column 'code' is missing"):
    checked(config(tmp_path, GOOD, dict(question='Write h.', tests=['assert h()'])))
  with pytest.raises(ConfigError, match="config.task.jsonl.solution = 'code' names programs, which verifier"):
    checked(config(tmp_path, GOOD, BAD, **{'task.jsonl.verifier': 'math'}))
