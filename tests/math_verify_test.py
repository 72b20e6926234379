"""The optional grader math_verify: what it says, what bounds it, and what is told without the package."""

import contextlib
import importlib.util
import json

import pytest

from benchmarks import verifying
from score_jax.core_types import Verdict
from score_jax.errors import ConfigError, UserError
from score_jax.graders import pool, registry, weighted
from score_jax.graders.registry import GradingSpec

SPEC = GradingSpec(1, 2.0, 512, False)
THERE = importlib.util.find_spec('math_verify') is not None
needs_package = pytest.mark.skipif(not THERE, reason='the package math-verify is not there')


@pytest.mark.skipif(THERE, reason='the package math-verify is there')
def test_without_the_package_there_is_one_error_with_the_remedy():
  with pytest.raises(
    UserError, match=r"needs the package math-verify .*: pip install 'score_jax\[math-verify\]'"
  ) as told:
    pool.open_grader('math_verify', SPEC)
  assert told.value.exit_code == 78


@pytest.mark.parametrize('verifier', ['', 'code', 'text'])
def test_a_task_of_other_references_is_refused(verifier):
  with pytest.raises(ConfigError, match="config.task.rewards names 'math_verify'"):
    weighted.open_grader(verifier, {'math_verify': 1.0}, SPEC)


def test_it_takes_the_references_of_mathematics():
  assert [name for name in registry.GRADERS if registry.references_of(name) == 'math'] == ['math', 'math_verify']


@needs_package
def test_verdicts_are_those_of_trl():
  cases = [
    ('1/2', r'so $\boxed{0.5}$', Verdict.CORRECT),
    (r'\frac12', r'the answer is $\frac{1}{2}$.', Verdict.CORRECT),
    ('Thus \\boxed{3}.', r'\boxed{4}', Verdict.WRONG),
    ('18', '#### 18', Verdict.UNPARSED),  # TRL takes LaTeX alone
    ('3', r'$\boxed{(10^{10^{10}})!}$', Verdict.TIMEOUT),
    ('7', r'\boxed{' * 3000, Verdict.UNPARSED),
    ('7', '\ud800', Verdict.UNPARSED),
    (' ', r'\boxed{4}', Verdict.ERROR),  # TRL: None
  ]
  with contextlib.closing(pool.open_grader('math_verify', SPEC)) as grader:
    assert 'math-verify' in grader.description
    graded = grader.grade([(dict(answer=gold), text) for gold, text, _ in cases])
  assert [one.verdict for one in graded] == [verdict for *_, verdict in cases]
  assert graded[0].answer == '0.5'


@needs_package
def test_both_graders_of_mathematics_may_be_rewards():
  item = dict(reference=dict(answer='1/2', question='Half of 1?')), r'\boxed{0.5}'
  with contextlib.closing(weighted.open_grader('math', {'math_verify': 1.0, 'math': 0.5}, SPEC)) as grader:
    (one,) = grader.grade([item])
  assert (one.verdict, one.score, one.parts) == (Verdict.CORRECT, 1.5, {'math_verify': 1.0, 'math': 1.0})


@needs_package
def test_agreement_on_a_file(tmp_path):
  path = tmp_path / 'answers.jsonl'
  answers = [('18', '#### 18'), ('1', r'\boxed{1}'), ('1', r'\boxed{2}')]
  path.write_text(''.join(json.dumps(dict(reference=gold, response=text)) + '\n' for gold, text in answers))
  told = verifying.agreement(str(path), SPEC)
  assert [told[name] for name in ('both', 'math_alone', 'math_verify_alone', 'neither')] == [1, 1, 0, 1]
  assert told['agreed'] == 0.6667 and told['apart'] == [[f'{path}, row 1', 'correct', 'unparsed']]
