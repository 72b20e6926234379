"""`python -m score_jax.grade` as its users see it."""

import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent


def grade(tmp_path, task, rows, *flags, name='out.jsonl'):
  """Exit code, what was printed, and the rows written."""
  source, target = tmp_path / 'in.jsonl', tmp_path / name
  content = rows if isinstance(rows, bytes) else ''.join(json.dumps(row) + '\n' for row in rows).encode()
  source.write_bytes(content)
  ran = subprocess.run(
    [sys.executable, '-m', 'score_jax.grade', f'--task={task}', f'--input={source}', f'--output={target}', *flags],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )  # fmt: skip
  written = target.read_text() if target.is_file() else ''
  return ran.returncode, ran.stdout + ran.stderr, [json.loads(line) for line in written.splitlines()]


def test_math_rows_of_every_kind(tmp_path):
  rows = [
    dict(id='a', reference='\\frac{1}{2}', response='so it is \\boxed{0.5}.'),
    dict(id=2, solution='Thus \\boxed{7}.', response='Final Answer: The final answer is $7$. I hope it is correct.'),
    dict(id='c', answer='7', response='\\boxed{8}'),
    dict(id='d', reference=dict(answer='7'), response=''),
  ]
  code, output, written = grade(tmp_path, 'math', rows)
  assert code == 0 and '4 graded: 2 correct, 1 unparsed, 1 wrong' in output
  assert [row['id'] for row in written] == ['a', 2, 'c', 'd']
  assert [row['verdict'] for row in written] == ['correct', 'correct', 'wrong', 'unparsed']
  assert written[2]['answer'] == '8' and all(set(row) == {'id', 'verdict', 'answer', 'seconds'} for row in written)
  assert all(0 <= row['seconds'] < 5 for row in written)


def test_golds_that_are_not_read_are_told_or_refused(tmp_path):
  rows = [dict(id=i, reference=r'\heartsuit' if i else '7', response='\\boxed{7}') for i in range(2)]
  code, output, written = grade(tmp_path, 'math', rows)
  assert code == 65 and '1 of 2 golds' in output and 'raise --unreadable_golds = 0.1' in output and not written
  code, output, written = grade(tmp_path, 'math', rows, '--unreadable_golds=0.5')
  assert code == 0 and '1 of 2 golds are not read as mathematics' in output and 'row 2' in output
  assert [row['verdict'] for row in written] == ['correct', 'wrong']


def test_tests_that_no_program_passes_are_told_or_refused(tmp_path):
  good = dict(test_list=['assert f(1) == 1'], code='def f(x):\n  return x', response='def f(x):\n  return 1')
  bad = dict(good, test_list=['import numpy\nassert f(1) == numpy.int64(1)'])
  rows = [dict(row, id=i) for i, row in enumerate((good, good, bad))]
  code, output, written = grade(tmp_path, 'mbpp', rows)
  assert code == 65 and '1 of 2 published solutions do not pass' in output and 'row 3: wrong' in output and not written
  assert 'raise --unreadable_golds = 0.1' in output
  code, output, written = grade(tmp_path, 'mbpp', rows, '--unreadable_golds=0.5')
  assert code == 0 and '1 of 2 published solutions do not pass' in output
  assert [row['verdict'] for row in written] == ['correct', 'correct', 'wrong']


def test_gsm8k_and_countdown_rows(tmp_path):
  rows = [
    dict(id=1, answer='Adds up.\n#### 1,200', response='\\boxed{1200}'),
    dict(id=2, reference='3 + 4 #### 7', response='#### 7'),
  ]
  assert [row['verdict'] for row in grade(tmp_path, 'gsm8k', rows)[2]] == ['correct', 'correct']
  (tmp_path / 'out.jsonl').unlink()
  rows = [dict(id=1, numbers=[7, 12, 3], target=81, response='7*12=84;84-3=81')]
  assert [row['verdict'] for row in grade(tmp_path, 'countdown', rows)[2]] == ['correct']


def test_programs(tmp_path):
  tests = ['assert add(1, 2) == 3', 'assert add(0, 0) == 0']
  program = 'Here:\n```python\ndef add(a, b):\n  return a {} b\n```'
  rows = [dict(id=op, test_list=tests, response=program.replace('{}', op)) for op in '+-']
  code, output, written = grade(tmp_path, 'mbpp', rows)
  assert code == 0, output
  assert [row['verdict'] for row in written] == ['correct', 'wrong']
  (tmp_path / 'out.jsonl').unlink()
  whole = dict(
    prompt='def one():\n  """One."""\n', entry_point='one', test='def check(candidate):\n  assert candidate() == 1\n'
  )
  rows = [whole | dict(id=text, response=text) for text in ('  return 1', '  return 2')]
  assert [row['verdict'] for row in grade(tmp_path, 'humaneval', rows)[2]] == ['correct', 'wrong']


@pytest.mark.parametrize(
  'task, rows, message',
  [
    ('math', [dict(id=1, reference='1')], "row 1: column 'response' is missing"),
    ('math', [dict(id=1, reference='1', response=None)], "row 1: column 'response' holds None, not a text"),
    ('math', [dict(reference='1', response='1')], "row 1: column 'id' is missing"),
    (
      'math',
      [dict(id=1, reference='1', response='1'), dict(id=2, response='1')],
      "row 2: column 'solution' is missing",
    ),
    ('math', [dict(id=1, reference='', response='1')], "row 1: column 'reference' is no gold answer: it holds ''"),
    ('gsm8k', [dict(id=1, answer='no mark', response='1')], "row 1: column 'answer' has no gold behind ####"),
    ('mbpp', [dict(id=1, response='x')], "row 1: column 'test_list' is missing"),
    ('humaneval', [dict(id=1, prompt='x', test='y', response='x')], "row 1: column 'entry_point' is missing"),
    ('countdown', [dict(id=1, numbers=['7'], target=7, response='x')], 'row 1: numbers'),
    ('maths', [dict(id=1, reference='1', response='1')], 'task'),
    ('math', b'', 'there are no rows'),
    ('math', b'{"id": 1, "response": "\xe9"}', 'row 1: not UTF-8'),
  ],
)
def test_bad_rows_are_one_line_with_their_number_and_nothing_is_written(tmp_path, task, rows, message):
  code, output, written = grade(tmp_path, task, rows)
  assert code in (65, 78) and message in output and 'Traceback' not in output
  assert written == [] and not (tmp_path / 'out.jsonl').exists()


def test_outputs_are_not_overwritten_unless_asked(tmp_path):
  rows = [dict(id=1, reference='1', response='1')]
  (tmp_path / 'out.jsonl').write_text('{"id": "kept"}\n')
  code, output, written = grade(tmp_path, 'text', rows)
  assert code == 78 and 'exists already' in output and written == [dict(id='kept')]
  code, output, written = grade(tmp_path, 'text', rows, '--overwrite')
  assert code == 0 and written[0]['verdict'] == 'correct'
  for flag, message in (('--input=/nowhere/a.jsonl', 'no such file'), ('--output=/nowhere/b.jsonl', 'no such folder')):
    code, output, _ = grade(tmp_path, 'text', rows, '--overwrite', flag)
    assert code in (65, 78) and message in output
  assert 'cpu_seconds = -1.0' in grade(tmp_path, 'text', rows, '--overwrite', '--cpu_seconds=-1')[1]


def test_a_reward_function_is_tried_alone(tmp_path):
  path = tmp_path / 'mine.py'
  path.write_text("def grade(response, row):\n  print('noise')\n  return len(response) / row['most']\n")
  rows = [dict(id=1, response='abcd', most=4), dict(id=2, response='a', most=2), dict(id=3, response='a', most=0)]
  code, output, written = grade(tmp_path, f'{path}:grade', rows)
  assert code == 0 and '3 graded: 1 correct, 1 error, 1 wrong' in output and 'noise' not in output
  assert 'scores: mean 0.75, from 0.5 to 1, 0 outside 0..1' in output and 'seconds a row: median' in output
  assert [row['score'] for row in written] == [1.0, 0.5, None]
  assert written[2]['answer'] == 'mine.py:grade raised ZeroDivisionError: division by zero (line 3), twice'
