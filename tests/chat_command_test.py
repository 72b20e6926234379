"""`score-jax chat` and the conversation behind it: attempts at questions of one's own, and what they change."""

import io
import pathlib
import subprocess
import sys

import pytest
import tiny

import score_jax
from score_jax import hub
from score_jax.errors import DataError
from score_jax.reporting import dialogue
from score_jax.training import answering

SAME, NEW = 'x = 1\nreturn x', 'x = 2\nreturn x'


def test_greedy_attempts_are_those_of_an_evaluation(hf_folder):
  config = tiny.config_dict(**{'model.path': str(hf_folder), 'eval.problems': 2})
  conversation = score_jax.open_conversation(config)
  assert conversation.instructions == (config.task.instruction,)
  greedy = [row for row in score_jax.evaluate(config).rows if row.decoding == 'greedy']
  assert len(greedy) == 2
  for row in greedy:
    assert conversation.attempts(row.question) == [attempt.text for attempt in row.attempts]
  with pytest.raises(DataError, match=r'problem \(yours\): its prompt has \d+ tokens; raise config.sampling'):
    conversation.attempts('reach 10 with ' + '1 ' * 99)


def test_sampled_attempts_differ_from_call_to_call(hf_folder):
  config = tiny.config_dict(**{'model.path': str(hf_folder)})
  conversation = score_jax.open_conversation(config, temperature=1.0)
  first, second = (conversation.attempts('reach 5 with 1 2') for _ in range(2))
  assert first != second


def test_a_question_needs_no_data_of_the_task(hf_folder, monkeypatch):
  monkeypatch.setattr(hub, 'commit', lambda name: pytest.fail(f'{name} was asked for'))
  data = {'task.name': 'gsm8k', 'task.data.train': ('hf:OWNER/DATA:train',), 'task.data.heldout': ('nowhere.jsonl',)}
  config = tiny.config_dict(**{'model.path': str(hf_folder)} | data)
  assert len(score_jax.open_conversation(config).attempts('reach 5 with 1 2')) == 2


def test_the_instruction_that_a_model_was_trained_with_is_known_beside_it(trained_run, hf_folder):
  assert answering.trained_instruction(f'{trained_run}/hf') == tiny.config_dict().task.instruction
  assert answering.trained_instruction(str(hf_folder)) == ''


def test_lines_that_change_are_marked():
  assert dialogue.changed_lines(SAME, NEW, coloured=False) == ['- x = 1', '+ x = 2', '  return x']
  assert dialogue.changed_lines(SAME, SAME, coloured=True) == ['  x = 1', '  return x']
  assert dialogue.changed_lines('a', '\x1b[31mb', coloured=True) == [
    '\x1b[31m- a\x1b[0m',
    '\x1b[32m+ <U+001B>[31mb\x1b[0m',
  ]


def attempts(question):
  if question == 'too long':
    raise DataError('problem (yours): its prompt has 99 tokens')
  return [SAME, NEW] if question == 'wrong' else [SAME, SAME]


def test_lines_are_questions_and_one_that_is_refused_ends_nothing(capsys):
  dialogue.hold(attempts, ('Try again.',), dialogue.questions(io.StringIO('wrong\n\ntoo long\n kept \n')))
  out, err = capsys.readouterr()
  corrected = 'attempt 1\n  x = 1\n  return x\n\n[Try again.]\n\nattempt 2\n- x = 1\n+ x = 2\n  return x\n'
  kept = 'attempt 1\n  x = 1\n  return x\n\n[Try again.]\n\nattempt 2: the same\n'
  assert out == f'\n{corrected}\n\n{kept}\n'
  assert err == 'error: problem (yours): its prompt has 99 tokens\n'


@pytest.mark.slow
def test_the_command_asks_the_bundled_base():
  command = [sys.executable, '-m', 'score_jax.chat', '--config=quickstart', '--question=reach 10 with 1 2 7 8']
  root = pathlib.Path(__file__).parent.parent
  done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
  assert (done.returncode, done.stderr) == (0, '')
  assert done.stdout.startswith('\nattempt 1\n  ') and '\n[Check and retry.]\n' in done.stdout
