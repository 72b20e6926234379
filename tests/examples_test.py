"""Every file of examples/ runs, and is short."""

import json
import pathlib
import runpy
import sys

import pytest

import score_jax
from score_jax.reporting import metrics

EXAMPLES = pathlib.Path(__file__).parent.parent / 'examples'
BASE = EXAMPLES.parent / 'score_jax/assets/countdown_base'


@pytest.mark.parametrize('path', sorted(EXAMPLES.glob('*.py')), ids=lambda path: path.stem)
def test_an_example_is_under_forty_lines(path):
  assert len(path.read_text().splitlines()) < 40


@pytest.mark.slow
def test_from_python_trains_and_shows(tmp_path, capsys):
  runpy.run_path(str(EXAMPLES / 'from_python.py'))['main'](str(tmp_path / 'run'))
  shown = capsys.readouterr().out
  assert 'step 1: fixed' in shown and 'step 2: fixed' in shown and 'final' in shown
  assert (tmp_path / 'run/hf/config.json').is_file()


@pytest.mark.slow
def test_own_reward_trains(tmp_path, capsys):
  runpy.run_path(str(EXAMPLES / 'own_reward.py'))['main'](str(tmp_path / 'run'))
  assert 'final' in capsys.readouterr().out
  record = metrics.read(tmp_path / 'run/metrics.jsonl')[-1]
  assert set(record['rewards']) == {'countdown', 'own_reward.py:brevity'}


@pytest.mark.slow
def test_own_questions_compares_turns(tmp_path, capsys):
  names = runpy.run_path(str(EXAMPLES / 'own_questions.py'))
  questions = [{'question': question, 'answer': answer} for question, answer in names['QUESTIONS'].items()]
  (tmp_path / 'own.jsonl').write_text('\n'.join(map(json.dumps, questions)))
  results = names['main'](str(tmp_path / 'own.jsonl'), str(BASE))
  assert set(results) == set(names['TURNS']) and capsys.readouterr().out.count('greedy') == 2
  for row in results['Check and retry.'].rows:
    answer = names['QUESTIONS'][row.question]
    assert [attempt.score for attempt in row.attempts] == [
      names['reaches'](attempt.text, {'answer': answer}) for attempt in row.attempts
    ]


def test_the_two_turn_client_gives_what_the_rollout_gives(capsys):
  pytest.importorskip('torch')
  main = runpy.run_path(str(EXAMPLES / 'two_turn_client.py'))['main']
  answers = main(str(BASE), 'reach 10 with 1 2 7 8')
  assert answers == score_jax.open_conversation('quickstart').attempts('reach 10 with 1 2 7 8')
  assert capsys.readouterr().out.startswith('attempt 1: ')
  assert 'score_jax' in sys.modules
