"""Several samples a problem: against plain enumeration, and by hand."""

import itertools
import json
import pathlib
import re

import numpy as np
import pytest
import tiny

from score_jax.core_types import Stop, Verdict
from score_jax.errors import ConfigError
from score_jax.graders.registry import GRADERS
from score_jax.reporting import plain_text, report_data, rows, test_time
from score_jax.reporting.ledger import account
from score_jax.reporting.rows import Attempt, Row
from score_jax.training import evaluation


def attempt(answer, right, tokens=1):
  verdict = Verdict.CORRECT if right else Verdict.WRONG
  return Attempt(f'text {answer}', answer, verdict, Stop.END_OF_TURN, tokens, -1.0)


def row(id_, sample, *attempts):
  return Row(id_, '?', {}, attempts, 0.0, 'sampled', sample)


@pytest.mark.parametrize('n', [1, 4, 7])
def test_pass_at_k_is_the_share_of_subsets_with_a_correct_one(n):
  for correct, k in itertools.product(range(n + 1), range(1, n + 1)):
    subsets = list(itertools.combinations([True] * correct + [False] * (n - correct), k))
    assert test_time.pass_at(n, correct, k) == pytest.approx(np.mean([any(s) for s in subsets]), abs=1e-12)


@pytest.mark.parametrize(
  ('answers', 'correct', 'expected'),
  [
    (['a', 'a', 'b'], [1, 1, 0], 1.0),
    (['b', 'b', 'a'], [0, 0, 1], 0.0),
    (['a', 'b'], [1, 0], 0.5),  # a tie is worth its share
    (['a', 'b', 'c'], [0, 0, 1], 1 / 3),
    (['a', 'b', 'c', 'd'], [1, 0, 0, 1], 0.5),  # two spellings of the truth vote apart
    (['', '', 'a'], [0, 0, 1], 1.0),  # what could not be read does not vote
    (['', ''], [0, 0], 0.0),
    (['a', 'a', 'b', 'b'], [1, 0, 0, 0], 0.25),  # the same text, graded in two ways, within a tie
  ],
)
def test_majority_by_hand(answers, correct, expected):
  assert test_time.majority(answers, correct) == pytest.approx(expected)


def tiny_table():
  """Two problems, four samples; the first attempts of p vote 2:2, its corrections 3:1; q is right once at first."""
  p = [('x', 0, 'r', 1), ('r', 1, 'r', 1), ('r', 1, 'r', 1), ('x', 0, 'x', 0)]
  q = [('r', 1, 'r', 1), ('y', 0, 'y', 0), ('y', 0, 'r', 1), ('z', 0, 'y', 0)]
  rows = []
  for id_, four in (('p', p), ('q', q)):
    for i, (first, first_right, last, last_right) in enumerate(four):
      rows.append(row(id_, i, attempt(first, first_right, 2), attempt(last, last_right, 3)))
  return test_time.samples(rows[::-1])  # whatever their order in the file


def test_at_k_of_two_problems_by_hand():
  result = test_time.at_k(tiny_table())
  values = {name: {key: f['value'] for key, f in result[name].items()} for name in ('t1', 't2')}
  assert values['t1'] == pytest.approx(
    {'avg': 3 / 8, 'maj': (0.5 + 0) / 2, 'pass@1': 3 / 8, 'pass@2': (5 / 6 + 1 / 2) / 2, 'pass@4': 1.0}
  )
  # q's corrections vote 2:2.
  assert values['t2'] == pytest.approx(
    {'avg': 5 / 8, 'maj': (1 + 0.5) / 2, 'pass@1': 5 / 8, 'pass@2': (1 + 5 / 6) / 2, 'pass@4': 1.0}
  )
  assert (result['k'], result['problems']) == (4, 2)


def test_programs_have_no_majority(tmp_path):
  assert [name for name, grader in GRADERS.items() if not grader.votes] == ['code']
  whole, without = test_time.at_k(tiny_table()), test_time.at_k(tiny_table(), votes=False)
  assert list(without['t1']) == ['avg', 'pass@1', 'pass@2', 'pass@4']
  assert without == whole | {name: {k: v for k, v in whole[name].items() if k != 'maj'} for name in ('t1', 't2')}
  assert all('maj' not in line for line in plain_text.sample_lines(dict(sampled=dict(at_k=without))))
  file = tmp_path / 'programs.jsonl'
  problems = (dict(question=f'f({i})?', answer=['assert f(1) == 1']) for i in range(40))
  file.write_text(''.join(json.dumps(problem) + '\n' for problem in problems))
  changes = {'task.name': 'jsonl', 'task.data.train': (str(file),), 'task.jsonl.verifier': 'code'}
  settings = dict(samples=1, temperature=1.0, scaling=2, first_attempts='')
  with pytest.raises(
    ConfigError, match='scaling = 2 compares majorities, which programs and reward functions lack; use samples'
  ):
    evaluation.evaluate_folder(tiny.run_config(**changes), **settings)


def test_the_docs_tell_what_votes():
  page = (pathlib.Path(__file__).parent.parent / 'docs/report.md').read_text()
  lines = re.findall(r'^\| (`.*`) \| (yes|no) \|', page, re.MULTILINE)
  told = {name: votes == 'yes' for names, votes in lines for name in re.findall('`(.*?)`', names)}
  assert told == {name: grader.votes for name, grader in GRADERS.items()} | {'FILE.py:FUNCTION': False}


@pytest.mark.parametrize('answer', ['', '7'])
def test_reports_leave_out_majorities_of_programs_that_were_counted_before(tmp_path, answer):
  # A right program has no answer beside its text; a wrong one says what failed.
  kept = [row(id_, i, attempt('assert f() == 1', False), attempt(answer, i < 1)) for id_ in 'pq' for i in range(2)]
  rows.write(tmp_path / 'rows/final.jsonl.gz', kept)
  at_k = test_time.at_k(test_time.samples(kept))
  ledger = account(kept) | dict(at_k=at_k, curves=test_time.scaling(test_time.samples(kept), 2))
  (tmp_path / 'eval.json').write_text(json.dumps(dict(final=dict(sampled=ledger))))
  [shown] = report_data.collect([tmp_path])['runs'][0]['evaluations']
  assert ('maj' in shown['ledger']['at_k']['t2'], 'curves' in shown['ledger']) == (bool(answer), bool(answer))
  assert shown['ledger']['at_k']['t2']['avg']['value'] == 0.5 and shown['ledger']['at_k']['k'] == 2


def test_scaling_of_two_problems_by_hand():
  result = test_time.scaling(tiny_table(), 4)
  parallel, sequential = result['parallel'], result['sequential']
  # Two samples: groups (1, 2) and (3, 4). p: ties x:r and r:x; q: a tie r:y, then y:z without a right one.
  # Four: p ties 2:2, q is outvoted by y.
  assert [(p['samples'], p['tokens']) for p in parallel] == [(2, 4.0), (4, 8.0)]
  assert [p['accuracy'] for p in parallel] == pytest.approx([(1 / 2 + 1 / 4) / 2, (1 / 2 + 0) / 2])
  # One corrected sample: 3 of 4 and 2 of 4 right. Two: p wins, then ties; q ties twice.
  assert [(s['samples'], s['tokens']) for s in sequential] == [(2, 5.0), (4, 10.0)]
  assert [s['accuracy'] for s in sequential] == pytest.approx([(3 / 4 + 2 / 4) / 2, (3 / 4 + 1 / 2) / 2])
  # At 5 tokens parallel samples stand a quarter of the way from their first point to their second; 10 are beyond.
  assert len(result['equal_tokens']) == 1
  there = 3 / 8 - (3 / 8 - 1 / 4) / 4
  assert result['equal_tokens'][0] == pytest.approx(dict(tokens=5.0, parallel=there, gain=5 / 8 - there))
  assert all(p['interval'][0] <= p['accuracy'] <= p['interval'][1] for p in parallel + sequential)


def test_problems_with_a_failed_grader_do_not_vote_and_uneven_samples_are_refused():
  good = [row('a', i, attempt('1', True), attempt('1', True)) for i in range(2)]
  failed = Attempt('', '', Verdict.ERROR, Stop.BUDGET, 1, 0.0)
  bad = [row('b', 0, attempt('1', True), failed), row('b', 1, attempt('1', True), attempt('1', True))]
  assert test_time.samples(good + bad).correct.shape == (1, 2, 2)
  with pytest.raises(ValueError, match='differ in how many samples'):
    test_time.samples(good + bad[:1])
