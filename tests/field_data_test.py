"""Data as it comes: each row and folder here is read right, or refused in a line that names file, row and value."""

import dataclasses
import datetime
import decimal
import gzip
import json
import os
import pathlib

import pyarrow as pa
from pyarrow import parquet
import pytest
from tasks_test import JSONL, mbpp_row, spec

from score_jax import tasks
from score_jax.errors import DataError
from score_jax.tasks import data_files, math

ONE = dataclasses.replace(JSONL, heldout_fraction=1e-9)
IDS, TAGS = dataclasses.replace(ONE, id='id'), dataclasses.replace(ONE, tags=('k',))
TEXT = dataclasses.replace(ONE, verifier='text')
GOOD = b'{"id": 1, "k": 1, "question": "1?", "answer": "1"}\n'


def opened(path, content, jsonl=ONE):
  path.write_bytes(content)
  return tasks.open_task(spec('jsonl', [str(path)], jsonl=jsonl)).train.problems


@pytest.mark.parametrize(
  ('row', 'jsonl', 'message'),
  [
    ('"answer": "1", "answer": "2"', ONE, "key 'answer' is there twice"),
    ('"answer": Infinity', ONE, "column 'answer' is no gold answer: it holds inf"),
    ('"answer": 1e999', ONE, 'it holds inf'),
    ('"answer": NaN', TEXT, 'it holds nan'),
    ('"answer": true', ONE, 'it holds True'),
    ('"answer": ["3"]', ONE, r"it holds \['3'\]"),
    ('"answer": {"answer": null}', ONE, 'it holds None'),
    ('"answer": {"value": "3"}', ONE, 'has no answer'),
    (r'"answer": "x\ud83d"', TEXT, 'half a surrogate pair'),
    (r'"answer": "\u200b"', TEXT, 'not a text'),
    ('"answer": "1", "id": null', IDS, "column 'id' holds None"),
    ('"answer": "1", "id": NaN', IDS, "column 'id' holds nan"),
    ('"answer": "1", "id": ""', IDS, "column 'id' holds ''"),
    ('"answer": "1", "id": [1]', IDS, r"column 'id' holds \[1\]"),
    (r'"answer": "1", "id": "a\udc00"', IDS, "column 'id' holds half a surrogate pair"),
    (r'"answer": "1", "k": "a\udc00"', TAGS, "column 'k' holds half a surrogate pair"),
    ('"answer": "1"', IDS, "column 'id' is missing"),
    ('"answer": "1"}{"question": "2?"', ONE, 'not JSON .*write an object on each line'),
    ('"answer": 1' + '0' * 5000, ONE, 'not JSON .*5001 digits'),
    ('"answer ": "1"', ONE, "column 'answer' is missing; there are: 'question', 'answer '"),
  ],
)
def test_a_row_is_refused(tmp_path, row, jsonl, message):
  with pytest.raises(DataError, match=f'x.jsonl, row 2.*{message}') as caught:
    opened(tmp_path / 'x.jsonl', GOOD + b'{"question": "b?", ' + row.encode() + b'}\n', jsonl)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (b'\xff\xfe\x00\x00' + GOOD, 'row 1: not UTF-8 at byte 0; convert the file'),
    (gzip.compress(GOOD, mtime=0), 'not UTF-8 .*or give it the ending of what it is'),
    ('{"question": "café?"}'.encode('cp1252'), 'not UTF-8 at byte 17'),
    (b'{"question": "a\xed\xa0\xbd?"}', 'not UTF-8'),
    (json.dumps(dict(question='1?')).encode('utf-16-le'), 'row 1: not JSON'),
    (b'[' + GOOD.strip() + b',\n', 'row 1: not JSON .*write an object on each line'),
    (b'{\n"question": "1?"\n}', 'row 1: not JSON'),
    (GOOD.strip() + b'\r' + GOOD, 'row 1: not JSON .*Extra data'),
    (b'\x00' * 50, 'row 1: not JSON'),
    (b'version https://git-lfs.github.com/spec/v1\n', 'row 1: not JSON'),
  ],
)
def test_a_file_is_refused(tmp_path, content, message):
  with pytest.raises(DataError, match=message):
    opened(tmp_path / 'x.jsonl', content)


@pytest.mark.parametrize(
  ('question', 'answer', 'gold'),
  [
    ('caf\u00e9', 2, '2'),
    ('cafe\u0301', 2.5, '2.5'),
    ('1\u200b?', '1,234', '1,234'),
    ('b\x00?', 10**400, f'{10**400}'),
  ],
)
def test_a_row_is_read_as_it_is(tmp_path, question, answer, gold):
  row = json.dumps(dict(question=question, answer=answer)).encode()
  (problem,) = opened(tmp_path / 'x.jsonl', b'\xef\xbb\xbf' + row)
  assert (problem.question, problem.reference['answer']) == (question, gold)


@pytest.mark.parametrize(
  ('column', 'golds'),
  [
    ([decimal.Decimal('20'), decimal.Decimal('2.50')], ['20.00', '2.50']),
    ([b'20', b'21'], ['20', '21']),
    (pa.array([2**64 - 1, 1], pa.uint64()), ['18446744073709551615', '1']),
    (pa.array(['1', '2']).dictionary_encode(), ['1', '2']),
    ([dict(answer=decimal.Decimal('1')), dict(answer=decimal.Decimal('2'))], ['1', '2']),
    ([b'20', b'\xff'], r"row 2: column 'answer' is no gold answer: it holds b'\\xff'"),
    ([1.0, None], "row 2: column 'answer' is no gold answer: it holds None"),
    ([1.0, float('inf')], "row 2: column 'answer' is no gold answer: it holds inf"),
    ([datetime.date(2020, 1, 1)] * 2, 'row 1: .*datetime.date'),
    (pa.array([1, 2], pa.duration('ns')), "column 'answer' cannot be read"),
    (pa.array([1, 2], pa.timestamp('ns')), "column 'answer' cannot be read"),
    (
      pa.StringArray.from_buffers(2, pa.py_buffer(bytes([0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0])), pa.py_buffer(b'1\xff')),
      "column 'answer' cannot be read .'utf-8'",
    ),
  ],
)
def test_a_column_of_parquet(tmp_path, column, golds):
  path = tmp_path / 'x.parquet'
  parquet.write_table(pa.table(dict(question=[b'a?', b'b?'], answer=column)), path)
  source = spec('jsonl', [str(path)], jsonl=ONE)
  if isinstance(golds, list):
    assert [problem.reference['answer'] for problem in tasks.open_task(source).train.problems] == golds
  else:
    with pytest.raises(DataError, match=f'x.parquet.*{golds}'):
      tasks.open_task(source)


def test_a_column_that_is_there_twice(tmp_path):
  columns = [pa.array(['a?']), pa.array(['1']), pa.array(['2'])]
  parquet.write_table(pa.Table.from_arrays(columns, ['question', 'answer', 'answer']), tmp_path / 'x.parquet')
  with pytest.raises(DataError, match="column 'answer' is there twice; drop one"):
    data_files.read(str(tmp_path / 'x.parquet'))


@pytest.mark.parametrize(
  ('row', 'message'),
  [
    (mbpp_row(601, text='Other.'), "row 5: column 'task_id' holds 601, as .*row 4 does"),
    (mbpp_row(975), 'task_id. holds 975, not a number of 1 to 974'),
    (mbpp_row(True), 'task_id. holds True'),
    (mbpp_row(602, test_setup_code=['import os']), r"test_setup_code' holds \['import os'\], not a text"),
    (mbpp_row(602, test_list="['assert f()']"), 'not a list of texts'),
  ],
)
def test_a_row_of_mbpp_is_refused(tmp_path, row, message):
  rows = [*map(mbpp_row, (2, 3, 4, 601)), row]
  (tmp_path / 'm.jsonl').write_text('\n'.join(map(json.dumps, rows)))
  with pytest.raises(DataError, match=message):
    tasks.open_task(spec('mbpp', [str(tmp_path / 'm.jsonl')]))


def test_equal_rows_of_mbpp_count_once_and_are_told(tmp_path, caplog):
  (tmp_path / 'm.jsonl').write_text('\n'.join(json.dumps(mbpp_row(n)) for n in (2, 3, 4, 601, 601)))
  assert tasks.open_task(spec('mbpp', [str(tmp_path / 'm.jsonl')])).train.size == 1
  assert '1 rows of MBPP are there twice' in caplog.text


def test_golds_that_differ_between_training_and_held_out_rows_or_in_math500(tmp_path, monkeypatch):
  for name, gold in (('a', 6), ('b', 7)):
    (tmp_path / f'{name}.jsonl').write_text(json.dumps(dict(question='1?', problem='1?', answer=str(gold))))
  both = [str(tmp_path / 'a.jsonl'), str(tmp_path / 'b.jsonl')]
  with pytest.raises(DataError, match="train and heldout: '1\\?' has two golds"):
    tasks.open_task(spec('jsonl', both[:1], both[1:]))
  monkeypatch.setattr(math, 'is_heldout', lambda row: True)
  with pytest.raises(DataError, match='data.heldout: .* has two golds'):
    tasks.open_task(spec('math', [], both))


@pytest.mark.parametrize(
  ('problem', 'message'),
  [
    ("'1', 'a?', {}", 'the reference has no answer'),
    ("'1', 'a?', dict(answer=float('nan'))", 'is no gold answer: it holds nan'),
    (r"'1', 'a\ud83d?', dict(answer='1')", 'half a surrogate pair'),
    (r"'\ud83d', 'a?', dict(answer='1')", 'half a surrogate pair'),
  ],
)
def test_a_problem_of_an_own_task_is_refused(tmp_path, problem, message):
  (tmp_path / 't.py').write_text(f'from score_jax import Problem\ndef f(split, seed): return [Problem({problem})]\n')
  with pytest.raises(DataError, match=rf"t.py:f\('train', 0\)\[0\].*{message}"):
    tasks.open_task(spec(f'{tmp_path}/t.py:f', reward_weights=dict(math=1.0)))


# Files and folders.


@pytest.fixture
def made(tmp_path):
  """Returns what makes files of one row each, by path, in tmp_path."""

  def make(*paths, content=GOOD):
    for path in paths:
      (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
      (tmp_path / path).write_bytes(content)
    return tmp_path

  return make


def names(source):
  return [row.where.rpartition(', ')[0].rpartition('/')[2] for row in data_files.read(str(source))]


@pytest.mark.parametrize(
  ('source', 'expected'),
  [
    ('w', ['x.jsonl', 'a.jsonl', 'train.jsonl', 'train_sft.jsonl']),
    ('w:train', ['train.jsonl', 'train_sft.jsonl']),
    ('w:train_sft', ['train_sft.jsonl']),
    ('w:été', ['x.jsonl']),
    ('w/.hidden', ['h.jsonl']),
    ('w/.h.jsonl', ['.h.jsonl']),
    ('w/', ['x.jsonl', 'a.jsonl', 'train.jsonl', 'train_sft.jsonl']),
    ('w/a.jsonl/', ['a.jsonl']),
    ('win:dows', ['a.jsonl']),
    ('win:dows:a', ['a.jsonl']),
    (' b ', [' a.jsonl']),
  ],
)
def test_a_folder_is_read(made, monkeypatch, source, expected):
  monkeypatch.chdir(made('w/train.jsonl', 'w/train_sft.jsonl', 'w/a.jsonl', 'w/.h.jsonl', 'w/.hidden/h.jsonl'))
  made('w/été/x.jsonl', 'win:dows/a.jsonl', ' b / a.jsonl', 'w/part.jsonl.partial', 'w/b.json')
  assert sorted(names(source)) == sorted(expected)


def test_links_are_followed_to_files_and_told_where_they_lead_to_folders(made, caplog):
  folder = made('real/b.jsonl', 'w/a.jsonl')
  os.symlink(folder / 'w', folder / 'w/itself')
  os.symlink(folder / 'real', folder / 'link')
  assert names(folder / 'link') == ['b.jsonl'] and names(folder / 'w') == ['a.jsonl']
  assert 'w/itself is a link to a folder' in caplog.text


@pytest.mark.parametrize(
  ('source', 'message'),
  [
    ('', "config.task.data names ''"),
    (' ', "config.task.data names ' '"),
    (':train', 'there is no such file; write FILE, or FOLDER:WORD'),
    ('w:', 'write FILE, or FOLDER:WORD'),
    ('w/a.jsonl:train', 'write FILE, or FOLDER:WORD'),
    ('w:none', "holds no .* file with the word 'none'"),
    ('w:a:b', 'no such file or folder'),
    ('w/a.jsonl/b', 'no such file or folder'),
    ('https://host/a.jsonl', 'no such file or folder; name one, hf:OWNER/NAME:SPLIT'),
    ('hf://datasets/a/b', 'write hf:OWNER/NAME'),
    ('w/*.jsonl', 'no such file or folder'),
    ('x' * 300, 'File name too long'),
    ('loop.jsonl', 'no such file or folder'),
    ('gone', 'gone/a.jsonl: can.t be read: No such file'),
    ('pipe', 'pipe/p.jsonl: can.t be read: it is not a regular file'),
    ('pipe/p.jsonl', 'it is not a regular file'),
    ('zero.jsonl', 'it is not a regular file'),
    ('/dev/null', 'the ending must be one of'),
    ('up/A.JSONL', 'the ending must be one of'),
    ('up', 'the folder holds no'),
    ('gz/cut.jsonl.gz', 'cut.jsonl.gz: .*; restore the file'),
    ('gz/bad.jsonl.gz', 'bad.jsonl.gz: Error -3 .*; restore the file'),
    ('gz/more.jsonl.gz', 'Not a gzipped file .*; restore the file'),
    ('gz/empty.jsonl.gz', 'there are no rows in it'),
    ('empty.parquet', 'not a Parquet file'),
    ('page.parquet', 'page.parquet: [^\n]*; restore the file$'),
  ],
)
def test_a_source_is_refused(made, monkeypatch, source, message):
  monkeypatch.chdir(made('w/a.jsonl', 'up/A.JSONL'))
  for name, leads in (('loop.jsonl', 'loop.jsonl'), ('zero.jsonl', '/dev/zero'), ('gone/a.jsonl', 'nowhere')):
    os.makedirs(os.path.dirname(name) or '.', exist_ok=True)
    os.symlink(leads, name)
  os.mkdir('pipe')
  os.mkfifo('pipe/p.jsonl')
  packed = gzip.compress(GOOD * 100)
  made('gz/cut.jsonl.gz', content=packed[:-9])
  made('gz/bad.jsonl.gz', content=packed[:10] + b'\xff' * 9)
  made('gz/more.jsonl.gz', content=packed + b'more')
  made('gz/empty.jsonl.gz', 'empty.parquet', content=b'')
  parquet.write_table(pa.table(dict(question=['1?'])), 'page.parquet')
  whole = pathlib.Path('page.parquet').read_bytes()
  made('page.parquet', content=whole[:6] + b'\xff' * 20 + whole[26:])
  with pytest.raises(DataError, match=message) as caught:
    data_files.read(source)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize('main', [b'', b'none', b'../../w', b'\xff\xfe', b'r1'])
def test_one_snapshot_of_a_cache_is_read_or_none(made, main):
  cache = made('c/snapshots/r1/a.jsonl', 'c/snapshots/r2/a.jsonl', 'w/a.jsonl') / 'c'
  made('c/refs/main', content=main)
  for folder in (cache, cache / 'snapshots'):
    if main == b'r1':
      assert names(folder) == ['a.jsonl']
    else:
      with pytest.raises(DataError, match='main is not cached; name one of'):
        data_files.read(str(folder))
