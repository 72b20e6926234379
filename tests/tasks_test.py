"""Tasks from files: what becomes a problem, what is held out, and what bad data is told."""

import dataclasses
import gzip
import json
import os
from types import SimpleNamespace

import pytest

from score_jax import tasks
from score_jax.errors import ConfigError, DataError, UserError
from score_jax.tasks import data_files, math, prompts
from score_jax.tasks.jsonl import JsonlSpec
from score_jax.tasks.mbpp import MbppSpec
from score_jax.tasks.problems import DataSpec, text_hash

JSONL = JsonlSpec('question', 'answer', '', (), 'math', 0.5)
# Two problems of MATH500, as published.
MATH500 = (
  'What is the smallest positive perfect cube that can be written as the sum of three consecutive integers?',
  'Define\n\\[p = \\sum_{k = 1}^\\infty \\frac{1}{k^2} \\quad \\text{and} \\quad q = \\sum_{k = 1}^\\infty '
  '\\frac{1}{k^3}.\\]Find a way to write\n\\[\\sum_{j = 1}^\\infty \\sum_{k = 1}^\\infty \\frac{1}{(j + k)^3}\\]in '
  'terms of $p$ and $q.$',
)


def write(path, rows):
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return str(path)


def spec(name, train=(), heldout=(), **changes):
  fields = dict(
    reward_weights={}, unreadable_golds=0.1, evaluate='', prompt='', mbpp=MbppSpec(('train',), 3, 0), jsonl=JSONL
  )
  return SimpleNamespace(name=name, data=DataSpec(tuple(train), tuple(heldout)), **fields | changes)


def gsm8k_rows(count, offset=0):
  return [dict(question=f'{i} and {i}?', answer=f'<<{i}+{i}>>\n#### {2 * i}') for i in range(offset, offset + count)]


def mbpp_row(number, **changes):
  row = dict(text=f'Task {number}.', code=f'def f{number}():\r\n  pass', task_id=number, test_setup_code='')
  return row | dict(test_list=[f'assert f{number}() == {number}']) | changes


def test_gsm8k_shows_the_question_under_the_papers_prompt_and_keeps_the_gold_from_it(tmp_path):
  train, test = write(tmp_path / 'a.jsonl', gsm8k_rows(5)), write(tmp_path / 'b.jsonl', gsm8k_rows(3, 5))
  task = tasks.open_task(spec('gsm8k', [train], [test]))
  problem = task.problem(0, 'heldout', 1)
  assert problem.question == prompts.MATH_FIRST + '\n\nProblem: 6 and 6?'
  assert problem.reference == dict(answer='12', question='6 and 6?') and '12' not in problem.question
  assert (task.train.size, task.heldout.size, task.verifier) == (5, 3, 'math')


def test_training_goes_through_every_problem_before_any_comes_again(tmp_path):
  task = tasks.open_task(
    spec('gsm8k', [write(tmp_path / 'a.jsonl', gsm8k_rows(7))], [write(tmp_path / 'b.jsonl', gsm8k_rows(1, 9))])
  )
  for seed in (0, 1):
    rounds = [[task.problem(seed, 'train', 7 * r + i).id for i in range(7)] for r in (0, 1, -1)]
    assert all(len(set(ids)) == 7 for ids in rounds)
    assert rounds[0] != rounds[1] and rounds[0] != rounds[2]
  assert [task.problem(0, 'train', i).id for i in range(7)] != [task.problem(1, 'train', i).id for i in range(7)]
  assert task.problem(0, 'heldout', 0) == task.problem(5, 'heldout', 0)


def test_a_heldout_problem_is_never_trained_on_even_if_a_file_has_it(tmp_path):
  train = write(tmp_path / 'a.jsonl', gsm8k_rows(4) + [dict(question='9  and\n9?', answer='#### 18')])
  task = tasks.open_task(spec('gsm8k', [train], [write(tmp_path / 'b.jsonl', gsm8k_rows(1, 9))]))
  assert task.train.size == 4
  assert all('9' not in task.problem(0, 'train', i).question for i in range(40))


def test_math_holds_out_math500_by_its_list_whichever_file_it_stands_in(tmp_path):
  def row(text, answer):
    return dict(problem=text, solution=f'So \\boxed{{{answer}}}.', level='Level 3', type='Algebra')

  rows = [row(MATH500[0], 27), row('Another?', '\\frac{1}{2}'), row(MATH500[1].replace('\n', ' '), 'p - q')]
  source = write(tmp_path / 'math.jsonl', rows)
  task = tasks.open_task(spec('math', [source]))
  assert len(math.heldout_hashes()) == 500
  assert (task.train.size, task.heldout.size) == (1, 2)
  assert task.problem(0, 'train', 3).reference == dict(answer='\\frac{1}{2}', question='Another?')
  assert [task.problem(0, 'heldout', i).reference['answer'] for i in range(2)] == ['27', 'p - q']
  assert task.problem(0, 'heldout', 0).tags == dict(level='3', subject='Algebra')
  # MATH500 as it is on the hub has the answer, and numbers for levels.
  hub = write(tmp_path / 'm5.jsonl', [dict(problem=MATH500[0], answer='27', level=2, subject='Algebra')])
  task = tasks.open_task(spec('math', [source], [hub]))
  assert task.problem(0, 'heldout', 0).reference == dict(answer='27', question=MATH500[0])
  assert task.problem(0, 'heldout', 0).tags == dict(level='2', subject='Algebra')


def test_mbpp_shows_three_solved_problems_and_trains_on_the_published_split(tmp_path):
  numbers = [*range(1, 12), 510, 511, 600, 601, 974]
  source = write(tmp_path / 'mbpp.jsonl', [mbpp_row(n) for n in numbers])
  task = tasks.open_task(spec('mbpp', [source]))
  assert {task.problem(0, 'train', i).id for i in range(2)} == {'mbpp/601', 'mbpp/974'}
  assert [task.problem(0, 'heldout', i).id for i in range(2)] == ['mbpp/11', 'mbpp/510']
  asked = task.problem(0, 'heldout', 0).question
  shown = ''.join(
    f'You are an expert Python programmer, and here is your task: Task {n}. Your code should pass these tests:\n\n'
    f'assert f{n}() == {n}\n[BEGIN]\ndef f{n}():\n  pass\n[DONE]\n\n'
    for n in (2, 3, 4)
  )
  assert asked.startswith(shown) and asked.endswith(
    'Task 11. Your code should pass these tests:\n\nassert f11() == 11\n[BEGIN]\n'
  )
  more = tasks.open_task(spec('mbpp', [source], mbpp=MbppSpec(('train', 'validation', 'test'), 3, 0)))
  assert (more.train.size, more.heldout.size) == (6, 0)


def test_mbpp_may_show_no_solved_problems_and_one_test_of_three(tmp_path, caplog):
  def row(number, text, *tests):
    return mbpp_row(number, text=text, test_list=[f'assert f() == {n}' for n in tests])

  rows = [row(11, 'Held.', 1, 2), row(12, 'Held.', 1, 3), row(601, 'Held.', 1, 4), row(602, 'New.', 5, 6, 7)]
  source = write(tmp_path / 'mbpp.jsonl', rows)
  asked = dict(prompt='{question} Passing {tests}', mbpp=MbppSpec(('train',), 0, 1))
  task = tasks.open_task(spec('mbpp', [source], **asked))
  assert [(p.id, p.question) for p in task.listed] == [
    ('mbpp/602', 'New. Passing assert f() == 5'),
    ('mbpp/11', 'Held. Passing assert f() == 1'),
  ]
  assert task.problem(0, 'train', 0).reference['tests'] == [f'assert f() == {n}' for n in (5, 6, 7)], 'all grade'
  assert caplog.text.count('1 problems of MBPP ask what others ask') == 2
  with pytest.raises(ValueError, match='examples = 4 must be 0 to 3'):
    MbppSpec(('train',), 4, 0).check()
  with pytest.raises(ValueError, match='tests = -1 must be 0, for all'):
    MbppSpec(('train',), 0, -1).check()


def test_mbpp_is_evaluated_on_humaneval(tmp_path):
  train = write(tmp_path / 'mbpp.jsonl', [mbpp_row(n) for n in (2, 3, 4, 700)])
  packed = tmp_path / 'HumanEval.jsonl.gz'
  row = dict(
    task_id='HumanEval/0', prompt='def f():\n  """One."""\n', entry_point='f', test='def check(c):\n  assert c() == 1'
  )
  packed.write_bytes(gzip.compress(json.dumps(row | dict(canonical_solution='  return 1')).encode()))
  task = tasks.open_task(spec('mbpp', [train], [str(packed)], evaluate='humaneval'))
  assert (task.train.size, task.heldout.size, task.verifier) == (1, 1, 'code')
  problem = task.problem(0, 'heldout', 0)
  assert problem.reference == {k: row[k] for k in ('prompt', 'entry_point', 'test')}
  assert 'def f():\n  """One."""\n```' in problem.question and 'return 1' not in problem.question
  mixed = spec('gsm8k', [write(tmp_path / 'g.jsonl', gsm8k_rows(2))], [str(packed)], evaluate='humaneval')
  with pytest.raises(ConfigError, match='a run has one'):
    tasks.open_task(mixed)


def test_a_file_of_ones_own(tmp_path):
  rows = [dict(q=f'Braces {{x}} {i}?', a=i, key=f'k{i}', kind='easy') for i in range(200)]
  own = JsonlSpec('q', 'a', 'key', ('kind',), 'text', 0.25)
  task = tasks.open_task(spec('jsonl', [write(tmp_path / 'own.jsonl', rows)], jsonl=own, prompt='Q: {question} A {y}:'))
  assert task.verifier == 'text'
  assert task.train.size + task.heldout.size == 200 and 25 < task.heldout.size < 75
  problem = task.problem(0, 'heldout', 0)
  number = problem.id.removeprefix('k')
  assert problem.question == f'Q: Braces {{x}} {number}? A {{y}}:'
  assert problem.reference == dict(answer=number) and problem.tags == dict(kind='easy')
  trained = {task.problem(0, 'train', i).id for i in range(task.train.size)}
  assert trained.isdisjoint(task.problem(0, 'heldout', i).id for i in range(task.heldout.size))
  # A second file of held-out rows: then nothing of the first is held out.
  other = write(tmp_path / 'held.jsonl', [dict(q='New?', a='yes', key='n', kind='hard')])
  task = tasks.open_task(spec('jsonl', [str(tmp_path / 'own.jsonl')], [other], jsonl=own))
  assert (task.train.size, task.heldout.size) == (200, 1)


def test_the_fingerprint_is_of_what_is_trained_on(tmp_path):
  rows = gsm8k_rows(3)
  held = write(tmp_path / 'h.jsonl', gsm8k_rows(1, 7))

  def fingerprint(name, rows, held=held):
    return tasks.open_task(spec('gsm8k', [write(tmp_path / name, rows)], [held])).train.fingerprint

  first = fingerprint('a.jsonl', rows)
  assert fingerprint('b.jsonl', rows) == first
  assert fingerprint('a.jsonl', rows, write(tmp_path / 'h2.jsonl', gsm8k_rows(2, 8))) == first
  assert fingerprint('c.jsonl', [*rows[:2], rows[2] | dict(answer='#### 5')]) != first
  assert fingerprint('d.jsonl', rows[::-1]) != first


def test_long_prompts_can_be_left_out_of_training_alone(tmp_path):
  task = tasks.open_task(
    spec(
      'gsm8k',
      [write(tmp_path / 'a.jsonl', gsm8k_rows(20))],
      [write(tmp_path / 'b.jsonl', gsm8k_rows(1, 90))],
      prompt='{question}',
    )
  )
  short = tasks.without_long(task, lambda problem: len(problem.question), len('9 and 9?'))
  assert (short.train.size, short.heldout.size) == (10, 1)
  with pytest.raises(DataError, match='prompt_tokens'):
    tasks.without_long(task, lambda problem: 100, 99)


def test_heldout_problems_are_as_many_as_asked_for_or_all(tmp_path):
  task = tasks.open_task(
    spec('gsm8k', [write(tmp_path / 'a.jsonl', gsm8k_rows(2))], [write(tmp_path / 'b.jsonl', gsm8k_rows(3, 5))])
  )
  assert [len(tasks.heldout_problems(task, n, 0)) for n in (1, 3, 0)] == [1, 3, 3]
  with pytest.raises(ConfigError, match=r'config.eval.problems = 4, but there are 3'):
    tasks.heldout_problems(task, 4, 0)
  none = dataclasses.replace(task, heldout=dataclasses.replace(task.heldout, problems=()))
  for count in (0, 4):
    with pytest.raises(ConfigError, match=r'config.task.data.heldout = \(\) .* or raise .*heldout_fraction'):
      tasks.heldout_problems(none, count, 0)


def test_parquet_folders_and_words_in_paths(tmp_path):
  import pyarrow
  from pyarrow import parquet

  rows = gsm8k_rows(4)
  for name, part in (('main/train-00000-of-00001.parquet', rows[:3]), ('main/test-00000-of-00001.parquet', rows[3:])):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(part), tmp_path / name)
  assert [row.fields for row in data_files.read(f'{tmp_path}:train')] == rows[:3]
  assert [row.fields for row in data_files.read(f'{tmp_path}:test')] == rows[3:]
  assert len(data_files.read(str(tmp_path))) == 4
  with pytest.raises(DataError, match="word 'dev'"):
    data_files.read(f'{tmp_path}:dev')
  (tmp_path / 'bad.parquet').write_bytes(b'PAR1 not at all')
  with pytest.raises(DataError, match='not a Parquet file'):
    data_files.read(str(tmp_path / 'bad.parquet'))


def test_a_prepared_tfds_data_set_is_read_without_tensorflow(tmp_path, monkeypatch):
  import tensorflow_datasets as tfds

  class Gsm8k(tfds.core.GeneratorBasedBuilder):
    """The fields of the data set of this name in the catalogue."""

    VERSION = tfds.core.Version('1.0.0')

    def _info(self):
      text = tfds.features.Text()
      return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(dict(question=text, answer=text)))

    def _split_generators(self, dl_manager):
      return dict(train=self._generate_examples(gsm8k_rows(3)), test=self._generate_examples(gsm8k_rows(2, 5)))

    def _generate_examples(self, rows):
      yield from enumerate(rows)

  Gsm8k(data_dir=tmp_path, file_format='array_record').download_and_prepare()
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  task = tasks.open_task(spec('gsm8k', ['tfds:gsm8k/train'], ['tfds:gsm8k/test']))
  assert (task.train.size, task.heldout.size) == (3, 2)
  assert task.problem(0, 'heldout', 0).reference['answer'] in ('10', '12')
  for bad, message in (('tfds:gsm8k', 'tfds:NAME/SPLIT'), ('tfds:gsm8k/dev', 'could not open it')):
    with pytest.raises(DataError, match=message):
      data_files.read(bad)


GOOD = json.dumps(dict(question='q', answer='#### 1'))


@pytest.mark.parametrize(
  'content, message',
  [
    (b'', 'there are no rows'),
    (b'\n \n', 'there are no rows'),
    (GOOD.encode() + b'\n{"question": "x"}\n', r"row 2: column 'answer' is missing; there are: 'question'"),
    (GOOD.encode() + b'\n{"question": "x", "answer": "no gold"}\n', r"row 2: column 'answer' has no gold behind ####"),
    (GOOD.encode() + b'\n{"question": "x", "answer": "#### "}\n', 'row 2'),
    (GOOD.encode() + b'\n{"question": "", "answer": "#### 1"}\n', r"row 2: column 'question' holds ''"),
    (GOOD.encode() + b'\n{"question": null, "answer": "#### 1"}\n', r"row 2: column 'question' holds None"),
    (GOOD.encode() + b'\nnot json\n', 'row 2: not JSON'),
    (GOOD.encode() + b'\n[1, 2]\n', 'row 2: .* is not an object'),
    (GOOD.encode() + b'\n' + b'[' * 100_000 + b'\n', 'row 2: not JSON'),
    (GOOD.encode() + b'\n' + '{"question": "é"}'.encode('latin-1'), 'row 2: not UTF-8 at byte'),
    (GOOD.encode('utf-16'), 'row 1: not UTF-8'),
  ],
)
def test_bad_files_are_told_with_their_row(tmp_path, content, message):
  (tmp_path / 'bad.jsonl').write_bytes(content)
  with pytest.raises(DataError, match=message) as caught:
    tasks.open_task(spec('gsm8k', [str(tmp_path / 'bad.jsonl')], [str(tmp_path / 'bad.jsonl')]))
  assert 'bad.jsonl' in str(caught.value) and '\n' not in str(caught.value)


def test_a_byte_order_mark_and_blank_lines_are_no_rows(tmp_path):
  (tmp_path / 'a.jsonl').write_bytes(b'\xef\xbb\xbf' + GOOD.encode() + b'\r\n\r\n' + GOOD.encode())
  assert [row.where.rpartition(', ')[-1] for row in data_files.read(str(tmp_path / 'a.jsonl'))] == ['row 1', 'row 3']


def test_data_out_of_reach_is_named(tmp_path):
  (tmp_path / 'empty').mkdir()
  (tmp_path / 'a.csv').write_text('question,answer\n')
  (tmp_path / 'cut.jsonl.gz').write_bytes(gzip.compress(GOOD.encode() * 100)[:-20])
  (tmp_path / 'plain.jsonl.gz').write_text(GOOD)
  for source, message in (
    (tmp_path / 'missing.jsonl', 'no such file or folder'),
    (tmp_path / 'empty', 'holds no .jsonl'),
    (tmp_path / 'a.csv', 'the ending must be one of'),
    (tmp_path / 'cut.jsonl.gz', 'cut.jsonl.gz'),
    (tmp_path / 'plain.jsonl.gz', 'plain.jsonl.gz'),
  ):
    with pytest.raises(DataError, match=message):
      data_files.read(str(source))
  if os.getuid():
    (tmp_path / 'closed.jsonl').write_text(GOOD)
    (tmp_path / 'closed.jsonl').chmod(0)
    with pytest.raises(DataError, match='Permission denied'):
      data_files.read(str(tmp_path / 'closed.jsonl'))


@pytest.mark.parametrize(
  'bad, message',
  [
    (dict(name='gsm9k'), 'config.task.name = .gsm9k. is unknown; use one of countdown'),
    (dict(name='gsm8k', evaluate='x'), 'config.task.evaluate = .x. is unknown'),
    (dict(name='math'), 'none of the problems of MATH500'),
    (dict(name='mbpp', mbpp=MbppSpec(('validation',), 3, 0)), 'config.task.mbpp.splits'),
  ],
)
def test_bad_settings_are_named(tmp_path, bad, message):
  rows = [mbpp_row(n) | dict(problem=f'{n}?', solution='\\boxed{1}') for n in (2, 3, 4, 700)]
  if bad['name'].startswith('gsm'):
    rows = gsm8k_rows(2)
  fields = dict(bad)
  with pytest.raises(UserError, match=message):
    tasks.open_task(spec(fields.pop('name'), [write(tmp_path / 'a.jsonl', rows)], **fields))


def test_mbpp_without_its_shown_problems_or_tests_is_refused(tmp_path):
  with pytest.raises(DataError, match='task 3 of MBPP is missing'):
    tasks.open_task(spec('mbpp', [write(tmp_path / 'a.jsonl', [mbpp_row(n) for n in (2, 4, 700)])]))
  rows = [mbpp_row(n) for n in (2, 3, 4)] + [mbpp_row(700, test_list=[])]
  with pytest.raises(DataError, match="row 4: column 'test_list' is empty"):
    tasks.open_task(spec('mbpp', [write(tmp_path / 'b.jsonl', rows)]))


def test_the_list_of_math500_is_of_texts_with_white_space_collapsed():
  assert all(text_hash(text) in math.heldout_hashes() for text in MATH500)
  assert text_hash(MATH500[0] + '\n') == text_hash(MATH500[0]) != text_hash(MATH500[0] + '.')


def test_a_question_with_two_golds_and_an_id_with_two_questions_are_refused(tmp_path):
  rows = [dict(question='What is 3 * 2?', answer='6'), dict(question='What is  3 * 2?', answer='7')]
  for split in ('train', 'heldout'):
    files = dict(train=[write(tmp_path / 'a.jsonl', [dict(question='1?', answer='1')])], heldout=())
    files |= {split: [write(tmp_path / 'two.jsonl', rows)]}
    with pytest.raises(
      DataError, match=rf"data.{split}: 'What is 3 \* 2\?' has two golds, .*'6'.* and .*'7'.*remove one"
    ):
      tasks.open_task(spec('jsonl', **files, jsonl=dataclasses.replace(JSONL, heldout_fraction=1e-9)))
  named = dataclasses.replace(JSONL, id='id')
  source = write(tmp_path / 'ids.jsonl', [dict(id=1, question='1?', answer='1'), dict(id=1, question='2?', answer='2')])
  with pytest.raises(DataError, match="id '1' has two questions"):
    tasks.open_task(spec('jsonl', heldout=[source], jsonl=named))


def test_golds_of_one_value_do_not_contradict_each_other(tmp_path):
  rows = [dict(question='Half of 1?', answer=gold) for gold in ('0.5', r'\frac12', '1/2')]
  files = [write(tmp_path / 'a.jsonl', rows)]
  task = tasks.open_task(spec('jsonl', files, jsonl=dataclasses.replace(JSONL, heldout_fraction=1e-9)))
  assert task.train.size == 3


def test_other_tests_of_a_program_do_not_contradict_the_first(tmp_path):
  rows = [dict(question='Write f.', answer=[f'assert f({i}) == {i}']) for i in range(2)]
  verified = dataclasses.replace(JSONL, verifier='code', heldout_fraction=1e-9)
  assert tasks.open_task(spec('jsonl', [write(tmp_path / 'a.jsonl', rows)], jsonl=verified)).train.size == 2


def test_golds_without_a_value_are_told_and_refused_above_a_share(tmp_path, caplog):
  rows = [dict(question=f'{i}?', answer=str(i)) for i in range(4)] + [dict(id=1, question='Who?', answer=r'\heartsuit')]
  source = write(tmp_path / 'a.jsonl', rows)
  tasks.open_task(spec('jsonl', [source], unreadable_golds=0.2))
  assert r'1 of 5 golds are not read as mathematics (jsonl/' in caplog.text and r"'\\heartsuit'" in caplog.text
  with pytest.raises(DataError, match='1 of 5 golds .*raise config.task.unreadable_golds = 0.1'):
    tasks.open_task(spec('jsonl', [source]))
  tasks.open_task(spec('jsonl', [source], jsonl=dataclasses.replace(JSONL, verifier='text')))


def test_repeated_problems_are_told_and_held_out_ones_count_once(tmp_path, caplog):
  rows = [dict(question=f'{i}?', answer=str(i)) for i in (1, 2, 1)]
  train = write(tmp_path / 'train.jsonl', [dict(question=f'{i}?', answer=str(i)) for i in (7, 7, 8)])
  task = tasks.open_task(spec('jsonl', train=[train], heldout=[write(tmp_path / 'held.jsonl', rows)]))
  assert task.heldout.size == 2 and task.train.size == 3
  assert '1 held-out problems are repeated and count once' in caplog.text
  assert '1 training problems ask what an earlier one asks' in caplog.text


@pytest.mark.parametrize(
  ('row', 'message'),
  [
    ('{"question": "q", "answer": NaN}', 'is no gold answer: it holds nan, not a text'),
    ('{"question": NaN, "answer": "1"}', "column 'question' holds nan, not a text"),
    ('{"question": "3 + 4 \\ud83d?", "answer": "7"}', "column 'question' holds half a surrogate pair"),
  ],
)
def test_what_is_no_text_is_told_with_its_row(tmp_path, row, message):
  path = tmp_path / 'bad.jsonl'
  path.write_text('{"question": "1?", "answer": "1"}\n' + row + '\n')
  with pytest.raises(DataError, match='row 2') as caught:
    tasks.open_task(spec('jsonl', train=[str(path)], jsonl=JSONL))
  assert message in str(caught.value)
