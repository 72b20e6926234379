"""Countdown: the grader, and the problems."""

import dataclasses
import itertools
import math
import random

import numpy as np
import pytest
import tiny

from score_jax.core_types import Verdict
from score_jax.errors import DataError
from score_jax.graders.countdown import grade, result_of
from score_jax.tasks import countdown
from score_jax.tasks.countdown import CountdownSpec

# With + and * among the operations, any three of these numbers have chains to more than one value.
SPEC = CountdownSpec(
  numbers=3,
  max_number=9,
  max_value=99,
  operations='+-*',
  any_order=False,
  heldout_fraction=0.2,
  prompt='reach {target} with {numbers}',
)

CORRECT, WRONG, UNPARSED = Verdict.CORRECT, Verdict.WRONG, Verdict.UNPARSED


def verdict_of(reference, text):
  return grade(reference, text).verdict


@pytest.mark.parametrize(
  'text, verdict',
  [
    ('7*12=84;84-3=81', CORRECT),
    ('12*7=84;84-3=81', CORRECT),
    ('7*12=84\n84-3=81', CORRECT),
    ('  7 * 12 = 84 ;\r\n\n 84 - 3\t=81 ;\n', CORRECT),
    ('07*012=84;84-3=81', CORRECT),
    ('12+3=15;7*12=84;84-3=81\nAnswer: 7*12=84;84-3=81', CORRECT),
    ('Answer: 7*12=84;84-3=81\nAnswer: 7+12=19;19+3=22', WRONG),
    ('wrong:7*12=84;84-3=81', CORRECT),
    ('right: 7+12=19;19+3=22', WRONG),
    ('7*12=85;85-3=81', WRONG),  # arithmetic
    ('7*12=84;84-3=82', WRONG),  # arithmetic of the last step
    ('7*12=81;81-3=81', WRONG),
    ('7*12=84;84-3=81;7+3=10', WRONG),  # numbers used twice
    ('7*7=49;49+12=61', WRONG),
    ('12-3=9;9*9=81', WRONG),  # a result used twice
    ('7*12=84', WRONG),  # a number left over
    ('7+12=19;19+3=22', WRONG),  # target missed
    ('80+1=81', WRONG),  # numbers that are not there
    ('7-12=0;0+3=3', WRONG),
    ('3-7=-4;12--4=16', UNPARSED),  # no negative numbers in the language
    ('-7*12=-84', UNPARSED),
    ('7*12=84;84-3=81;done', UNPARSED),
    ('7*12=84;;84-3=81', CORRECT),
    ('7*12=84 84-3=81', UNPARSED),
    ('7*12-3=81', UNPARSED),
    ('(7*12)-3=81', UNPARSED),
    ('7*12=84.0;84-3=81', UNPARSED),
    ('7**12=84', UNPARSED),
    ('7*12==84', UNPARSED),
    ('1 2*7=84;84-3=81', UNPARSED),
    ('81', UNPARSED),
    ('the answer is 81', UNPARSED),
    ('7*12=84;84-3=81\nAnswer:', UNPARSED),
    ('Answer: none', UNPARSED),
    ('wrong:', UNPARSED),
    ('__import__("os")', UNPARSED),
    ('', UNPARSED),
    (' \n;\n ', UNPARSED),
    ('7*12=84;84-3=81' + ' ' * 5000, UNPARSED),  # too long
    ('7*12=84;84-3=81;' * 400, UNPARSED),
    ('9' * 4000 + '*7=84', UNPARSED),  # huge numbers
    ('7*1234567890=1', UNPARSED),
    ('٧*١٢=٨٤;٨٤-٣=٨١', UNPARSED),  # digits of other scripts
    ('７*１２=８４;８４-３=８１', UNPARSED),
    ('7²*12=84', UNPARSED),
    ('7×12=84;84−3=81', UNPARSED),
  ],
)
def test_verdicts_of_answers_to_81_from_7_12_3(text, verdict):
  assert verdict_of(dict(numbers=[7, 12, 3], target=81), text) == verdict


@pytest.mark.parametrize(
  'numbers, target, text, verdict',
  [
    ([12, 4, 2], 6, '12/4=3;3*2=6', CORRECT),
    ([12, 5, 2], 4, '12/5=2;2*2=4', WRONG),  # a rest
    ([5, 0, 2], 2, '5/0=0;0+2=2', WRONG),
    ([0, 5], 0, '0/5=0', CORRECT),
    ([5, 5], 10, '5+5=10', CORRECT),  # the same number, there twice
    ([5, 3], 10, '5+5=10', WRONG),
    ([5, 5, 5], 10, '5+5=10', WRONG),
    ([4, 4, 3], 3, '4-4=0;0+3=3', CORRECT),
    ([1, 2, 3, 4], 21, '1+2=3;3+4=7;3*7=21', CORRECT),  # two results meet
    ([2, 3], 5, '2+3=5;5+0=5', WRONG),
  ],
)
def test_verdicts_of_answers_to_other_problems(numbers, target, text, verdict):
  assert verdict_of(dict(numbers=numbers, target=target), text) == verdict


def test_grading_leaves_the_problem_as_it_was():
  reference = dict(numbers=[2, 3], target=5)
  assert [verdict_of(reference, '2+3=5') for _ in range(2)] == [CORRECT] * 2
  assert reference == dict(numbers=[2, 3], target=5)


def test_a_problem_is_a_function_of_seed_split_and_index_alone():
  random.seed(0)
  first = [countdown.problem(SPEC, 0, 'train', i) for i in range(20)]
  random.seed(1)
  assert [countdown.problem(SPEC, 0, 'train', i) for i in reversed(range(20))] == first[::-1]
  others = [countdown.problem(SPEC, 1, 'train', i) for i in range(20)]
  heldout = [countdown.problem(SPEC, 0, 'heldout', i) for i in range(20)]
  below_zero = [countdown.problem(SPEC, 0, 'train', -1 - i) for i in range(20)]
  every = first + others + heldout + below_zero
  assert len({problem.id for problem in every}) == 80
  assert len({problem.question for problem in every}) > 70


def test_a_problems_question_shows_its_numbers_and_target_only():
  problem = countdown.problem(SPEC, 0, 'train', 3)
  numbers, target = problem.reference['numbers'], problem.reference['target']
  assert problem.question == f'reach {target} with {" ".join(map(str, numbers))}'


@pytest.mark.parametrize('operations, any_order', [('+-*', False), ('+-*/', True), ('+', False)])
@pytest.mark.parametrize('split', countdown.SPLITS)
def test_generating_solutions_are_correct_and_values_within_limits(split, operations, any_order):
  spec = dataclasses.replace(SPEC, numbers=4, max_number=12, max_value=60, operations=operations, any_order=any_order)
  rng = random.Random(0)
  for _ in range(300):
    numbers, steps = countdown.draw(spec, split, rng)
    target = steps[-1][-1]
    assert len(numbers) == 4
    assert all(1 <= number <= 12 for number in numbers)
    assert 0 < target <= 60
    for left, operation, right, result in steps:
      assert operation in operations
      assert 0 <= result <= 60
      assert result == result_of(left, operation, right)
    reference = dict(numbers=numbers, target=target)
    assert verdict_of(reference, countdown.chain_text(steps)) == CORRECT


def same_problem(problem):
  """What makes two problems one: the numbers in any order, and the target."""
  return tuple(sorted(problem.reference['numbers'])), problem.reference['target']


def test_train_and_heldout_share_no_problem_whatever_their_seeds():
  train = {same_problem(countdown.problem(SPEC, seed, 'train', i)) for seed in (0, 1) for i in range(1500)}
  heldout = {same_problem(countdown.problem(SPEC, seed, 'heldout', i)) for seed in (0, 2) for i in range(1500)}
  assert len(train) > 1000
  assert len(heldout) > 300
  assert not train & heldout


def test_being_held_out_is_a_hash_of_numbers_in_any_order_and_target():
  numbers = [2, 7, 7, 9]
  for target in range(1, 40):
    assert len({countdown.is_heldout(SPEC, list(order), target) for order in itertools.permutations(numbers)}) == 1
  assert len({countdown.is_heldout(SPEC, numbers, target) for target in range(1, 40)}) == 2


@pytest.mark.parametrize('fraction', [0.05, 0.2, 0.7])
def test_the_share_held_out_is_near_its_fraction(fraction):
  spec = dataclasses.replace(SPEC, heldout_fraction=fraction)
  keys = [(list(n), t) for n in itertools.combinations_with_replacement(range(1, 10), 3) for t in range(1, 31)]
  share = np.mean([countdown.is_heldout(spec, numbers, target) for numbers, target in keys])
  assert abs(share - fraction) < 4 * math.sqrt(fraction * (1 - fraction) / len(keys))


@pytest.mark.parametrize(
  'changes, message',
  [
    (dict(numbers=1), 'numbers = 1'),
    (dict(operations=''), "operations = ''"),
    (dict(operations='+^'), r"operations = '\+\^'"),
    (dict(max_number=0), 'max_number = 0'),
    (dict(max_number=100), r'max_number = 100.*\(99\)'),
    (dict(heldout_fraction=0.0), 'heldout_fraction = 0.0'),
    (dict(heldout_fraction=1.0), 'heldout_fraction = 1.0'),
    (dict(prompt='reach {target}'), r'\{numbers\}'),
    (dict(prompt='use {numbers}'), r'\{target\}'),
  ],
)
def test_check_names_the_field_at_fault(changes, message):
  SPEC.check()
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(SPEC, **changes).check()


def test_settings_without_problems_are_refused_instead_of_searched_for_ever(monkeypatch):
  monkeypatch.setattr(countdown, '_MOST_TRIES', 100)
  spec = dataclasses.replace(tiny.SPEC, numbers=2, max_number=1, operations='-')
  with pytest.raises(DataError, match='100 draws gave no train problem'):
    countdown.problem(spec, 0, 'train', 0)
