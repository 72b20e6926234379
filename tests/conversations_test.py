"""Rows of conversations: every figure of the ledger counted again from the file alone, and what a file may hold."""

import gzip
import json
import math
import types

import jax
import numpy as np
import pytest
import tiny

from score_jax.core_types import Graded, Problem, Stop, Verdict
from score_jax.errors import DataError
from score_jax.reporting import metrics, rows
from score_jax.reporting.ledger import account
from score_jax.reporting.rows import Attempt, Row
from score_jax.states import Rollout
from score_jax.storage.run_folder import RunFolder
from score_jax.training import grading
from score_jax.training.methods import score

HOSTILE = '</script><img src=x onerror=alert(1)>\x1b]0;owned\x07\u202eevil\u2028\ud800\x00'


def made(problems=60, samples=1, attempts=2, seed=0):
  """Conversations of a made-up model whose answers are few, so that some repeat."""
  rng = np.random.default_rng(seed)
  result = []
  for p in range(problems):
    tags = dict(level=str(1 + p % 3), subject='ab'[p % 2]) if p % 7 else {}
    for sample in range(samples):
      texts = [' '.join(rng.choice(['so', 'then', '4', '5'], rng.integers(0, 9))) for _ in range(attempts)]
      parts = tuple(
        Attempt(
          text=text,
          answer=text[-1:] + ' ' * int(rng.integers(0, 2)),
          verdict=Verdict(int(rng.choice(5, p=[0.3, 0.5, 0.1, 0.05, 0.05]))),
          stop=Stop(int(rng.integers(1, 4))),
          tokens=int(rng.integers(1, 9)),
          logp=-1.5,
        )
        for text in texts
      )
      ratio = rows.edit_ratio(texts[0], texts[-1])
      result.append(Row(f'p{p}', 'What?', tags, parts, ratio, 'sampled', sample))
  return result


def recounted(lines):
  """The account of JSON rows, by plain loops that share nothing with the ledger."""

  def share(test, among=lambda r: True):
    chosen = [r for r in kept if among(r)]
    return sum(bool(test(r)) for r in chosen) / len(chosen) if chosen else None

  def right(row, i):
    return row['attempts'][i]['verdict'] == 'correct'

  def distance(a, b):
    table = {(-1, -1): 0} | {(i, -1): i + 1 for i in range(len(a))} | {(-1, j): j + 1 for j in range(len(b))}
    for i, x in enumerate(a):
      for j, y in enumerate(b):
        table[i, j] = min(table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + (x != y))
    return table[len(a) - 1, len(b) - 1]

  def ratio(row):
    a, b = row['attempts'][0]['text'], row['attempts'][-1]['text']
    return distance(a, b) / (len(a) + len(b)) if a + b else 0.0

  def changed(row):
    return row['attempts'][0]['answer'].split() != row['attempts'][-1]['answer'].split()

  kept = [r for r in lines if all(a['verdict'] != 'error' for a in r['attempts'])]
  A = len(lines[0]['attempts'])
  result = {f'acc_t{i + 1}': share(lambda r, i=i: right(r, i)) for i in range(A)}
  return result | dict(
    n=len(kept),
    errors=len(lines) - len(kept),
    delta=result[f'acc_t{A}'] - result['acc_t1'],
    i_to_c=share(lambda r: not right(r, 0) and right(r, -1)),
    c_to_i=share(lambda r: right(r, 0) and not right(r, -1)),
    c_to_c=share(lambda r: right(r, 0) and right(r, -1)),
    i_to_i=share(lambda r: not right(r, 0) and not right(r, -1)),
    i_to_i_same=share(lambda r: not right(r, 0) and not right(r, -1) and not changed(r)),
    i_to_i_other=share(lambda r: not right(r, 0) and not right(r, -1) and changed(r)),
    fix_rate=share(lambda r: right(r, -1), lambda r: not right(r, 0)),
    break_rate=share(lambda r: not right(r, -1), lambda r: right(r, 0)),
    answer_changed=share(changed),
    text_changed=share(lambda r: r['attempts'][0]['text'] != r['attempts'][-1]['text']),
    edit_ratio=math.fsum(ratio(r) for r in kept) / len(kept),
  )


@pytest.mark.parametrize(('samples', 'attempts'), [(1, 2), (1, 3), (4, 2)])
def test_every_figure_is_recounted_from_the_file(tmp_path, samples, attempts):
  path = tmp_path / 'rows' / 'final.jsonl.gz'
  rows.write(path, made(samples=samples, attempts=attempts))
  read = list(rows.read(path))
  result = account(read)
  lines = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
  expected = recounted(lines)
  assert set(expected) | {'mcnemar_p', 'between', 'intervals', 'verdicts', 'stops', 'by'} == set(result)
  for name, value in expected.items():
    assert result[name] == pytest.approx(value, abs=1e-12), name
  assert result['delta'] == pytest.approx(result['i_to_c'] - result['c_to_i'], abs=1e-12)
  for kind in ('wrong', 'correct', 'unparsed', 'timeout', 'error'):
    counts = [sum(line['attempts'][i]['verdict'] == kind for line in lines) for i in range(attempts)]
    assert result['verdicts'][kind] == counts
  assert result['stops']['budget'] == [
    sum(line['attempts'][i]['stop'] == 'budget' for line in lines) for i in range(attempts)
  ]
  for tag, values in dict(level='123', subject='ab').items():
    assert list(result['by'][tag]) == list(values)
    for value, part in result['by'][tag].items():
      expected = recounted([line for line in lines if line['tags'].get(tag) == value])
      for name in set(part) - {'intervals', 'between', 'mcnemar_p'}:
        assert part[name] == pytest.approx(expected[name], abs=1e-12), (tag, value, name)
  for name, (low, high) in result['intervals'].items():
    assert low <= high and (low < high or samples > 1), name


def test_rows_survive_the_file_whatever_they_hold_and_the_file_is_ascii(tmp_path):
  attempt = Attempt(HOSTILE, HOSTILE, Verdict.WRONG, Stop.BUDGET, 3, -2.5)
  row = Row('a\x1b', HOSTILE, {'level\n': HOSTILE}, (attempt, attempt), float('nan'), 'greedy', 0, 7, 'stage1')
  path = tmp_path / 'r.jsonl.gz'
  rows.write(path, [row])
  content = gzip.decompress(path.read_bytes())
  assert content.isascii() and content.count(b'\n') == 1 and b'\x1b' not in content
  [back] = rows.read(path)
  assert back.attempts == row.attempts and (back.id, back.question, back.tags) == (row.id, row.question, row.tags)
  assert math.isnan(back.edit_ratio) and (back.step, back.stage) == (7, 'stage1')
  before = path.read_bytes()
  rows.write(path, [row])
  assert path.read_bytes() == before


@pytest.mark.parametrize(
  'content',
  ['[]\n', '{"id": 3}\n', 'no\n', '{"id": "a", "attempts": []}\n', '{"id": "a", "attempts": [{"text": 1}]}\n'],
)
def test_what_is_no_row_is_refused_by_its_line(tmp_path, content):
  path = tmp_path / 'r.jsonl'
  path.write_text(rows.lines(made(2)) + content)
  with pytest.raises(DataError, match='line 3'):
    list(rows.read(path))
  (tmp_path / 'r.jsonl.gz').write_bytes(b'not gzip')
  with pytest.raises(DataError):
    list(rows.read(tmp_path / 'r.jsonl.gz'))


# Conversations of training.


def step(number, problems=3, samples=2):
  """A step's data: its line, its problems in groups, a rollout, texts and grades."""
  rng = np.random.default_rng(number)
  B = problems * samples
  chosen = [problem for p in range(problems) for problem in [Problem(f'{number}/{p}', '?', {})] * samples]
  labels = np.tile(np.array([[0, 1, 1, 0, 2, 2, 2]], np.int8), (B, 1))
  zeros = np.zeros(B, np.int32)
  rollout = Rollout(
    tokens=labels,
    attempt=labels,
    logp=-labels.astype(np.float32),
    start=zeros,
    end=zeros,
    stop=np.ones((B, 2), np.int8),
    steps=np.ones((B, 2), np.int32),
  )
  texts = [[f'{number} {b} {i}' for i in range(2)] for b in range(B)]
  graded = [[Graded(Verdict(int(rng.integers(0, 3))), 'x') for _ in range(2)] for _ in range(B)]
  return dict(step=number, stage='stage1'), chosen, jax.device_get(rollout), texts, graded


def record(folder, count, number):
  config = tiny.run_config(**{'report.rows': count, 'seed': 5, 'batch.problems': 3, 'batch.samples': 2})
  run = types.SimpleNamespace(config=config, mesh=tiny.one_device_mesh(), folder=RunFolder(folder))
  line, problems, rollout, texts, graded = step(number)
  trained = np.ones((6, 2), bool)
  trained[:2, 0] = False  # the first problem's first attempts are offline
  inputs = score.StepInputs(problems, (), np.zeros((6, 0), np.int32), trained)
  score.keep_conversations(run, line, inputs, rollout, grading.Grades(texts, graded))


def test_training_keeps_the_same_conversations_when_it_is_resumed(tmp_path):
  whole, resumed = (tmp_path / name / 'rows/train.jsonl' for name in ('whole', 'resumed'))
  for number in range(1, 7):
    record(tmp_path / 'whole', 2, number)
  for number in range(1, 5):
    record(tmp_path / 'resumed', 2, number)
  with resumed.open('a') as file:
    file.write('{"id": "half')
  RunFolder(tmp_path / 'resumed').return_to(3, {})
  assert [row.step for row in rows.read(resumed)] == [1, 1, 2, 2, 3, 3]
  for number in range(4, 7):
    record(tmp_path / 'resumed', 2, number)
  assert resumed.read_bytes() == whole.read_bytes()
  kept = list(rows.read(whole))
  assert all(row.decoding == 'training' and row.stage == 'stage1' for row in kept)
  for row in kept:
    number, b, _ = row.attempts[0].text.split()
    assert (row.id, row.sample) == (f'{number}/{int(b) // 2}', int(b) % 2)
    assert row.tags == ({} if int(b) >= 2 else {'first attempt': 'offline'})
    assert [(a.tokens, a.logp) for a in row.attempts] == [(2, -2.0), (3, -6.0)]
  assert len({row.attempts[0].text.split()[1] for row in kept}) > 2, 'not the same places in every step'


def test_no_conversations_are_kept_where_none_are_wanted(tmp_path):
  record(tmp_path, 0, 1)
  assert list(tmp_path.iterdir()) == []


def test_changes_of_a_step_counted_by_hand():
  W, C, E = Verdict.WRONG, Verdict.CORRECT, Verdict.ERROR
  # Two problems of three conversations: (text, text, answer, answer, verdict, verdict).
  table = [
    ('a', 'a', '1', '1', W, W),
    ('a', 'b', '1', ' 1', W, W),
    ('a', 'b', '1', '2', W, C),
    ('a', 'b', '2', '2', C, C),
    ('a', 'b', '2', '1', C, C),
    ('a', 'b', '2', '1', C, E),
  ]
  texts = [[a, b] for a, b, *_ in table]
  graded = [[Graded(v, p), Graded(w, q)] for _, _, p, q, v, w in table]
  verdicts = np.array([[W, W], [W, W], [W, C], [C, C], [C, C], [C, E]], np.int8)
  result = metrics.changes(verdicts, rows.changed(texts, graded), samples=3)
  assert (result['text_changed'], result['answer_changed']) == (4 / 5, 2 / 5)
  assert (result['i_to_i_same'], result['c_to_c']) == (2 / 5, 2 / 5)
  assert result['flat'] == [1.0, 0.0]
  # First attempts: 0 of 3 and 3 of 3; second ones 1 of 3 and 2 of 3; gains 1/3 and -1/3.
  np.testing.assert_allclose(result['accuracy_se'], [np.std([0, 1], ddof=1) / 2**0.5, 1 / 6])
  np.testing.assert_allclose(result['delta_se'], 1 / 3)
