"""Countdown: the verifier, the problems, and the conversations that the bundled base learns from."""

import collections
import dataclasses
import itertools
import math
import random

import numpy as np
import pytest
import tiny

from experiments.countdown_base import mixture as countdown_base
from experiments.countdown_base.mixture import Mixture
from score_jax.core_types import Verdict
from score_jax.errors import DataError
from score_jax.graders.countdown import grade
from score_jax.graders.countdown import result_of
from score_jax.tasks import countdown
from score_jax.tasks import turn_boundary
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
MIXTURE = Mixture(first_wrong=0.4, first_forced=0.5, look_back=0.3, wander=0.2)
CONVERSATIONS = 3000

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


# The base's conversations.


@pytest.fixture(scope='module')
def tokenizer():
  return countdown_base.build_tokenizer(SPEC, tiny.INSTRUCTION)


def supervised_rows(tokenizer, seed):
  return countdown_base.supervised_rows(SPEC, MIXTURE, tokenizer.get_vocab(), (tiny.INSTRUCTION,), 2, 40, seed)


@pytest.fixture
def supervised(tokenizer, monkeypatch):
  """tokens, weights, and the conversations that they were made from."""
  made, conversation = [], countdown_base.conversation

  def recorded(*args):
    made.append(conversation(*args))
    return made[-1]

  monkeypatch.setattr(countdown_base, 'conversation', recorded)
  tokens, weights = supervised_rows(tokenizer, '0')
  return tokens, weights, made


def conversations(mixture, seed=0):
  rng = random.Random(seed)
  return [countdown_base.conversation(SPEC, mixture, rng) for _ in range(CONVERSATIONS)]


def test_supervised_ids_are_the_tokenizers_own_of_the_rendered_conversation(tokenizer, supervised):
  tokens, _, made = supervised
  assert len(tokens) == len(made) == 40
  for row, (question, first, [second], _) in zip(tokens, made, strict=True):
    messages = [
      dict(role='user', content=question),
      dict(role='assistant', content=first),
      dict(role='user', content=tiny.INSTRUCTION),
      dict(role='assistant', content=second),
    ]
    text = turn_boundary.render(tokenizer, messages, False, tiny.DATE)
    expected = tokenizer(text, add_special_tokens=False)['input_ids']
    assert tokenizer.unk_token_id not in expected
    assert row.tolist() == expected + [tokenizer.pad_token_id] * (len(row) - len(expected))


def test_loss_is_on_solutions_and_second_attempts_with_their_end_of_turn(tokenizer, supervised):
  tokens, weights, made = supervised
  assert weights.dtype == bool
  assert {solved for *_, solved in made} == {True, False}
  for row, weight, (_, first, [second], solved) in zip(tokens, weights, made, strict=True):
    ended = [text + countdown_base.END for text in ([first] if solved else []) + [second]]
    expected = [i for text in ended for i in tokenizer(text, add_special_tokens=False)['input_ids']]
    assert row[weight].tolist() == expected
    # Two runs at most: an answer is weighted whole.
    assert np.count_nonzero(np.diff(np.flatnonzero(weight)) > 1) == len(ended) - 1


def test_supervised_rows_are_a_function_of_the_seed(tokenizer, supervised):
  again, other = supervised_rows(tokenizer, '0'), supervised_rows(tokenizer, '1')
  np.testing.assert_array_equal(again[0], supervised[0])
  np.testing.assert_array_equal(again[1], supervised[1])
  assert not np.array_equal(other[0][:, :12], again[0][:, :12])


def parsed(question):
  """What a question of SPEC asks, as the verifier knows it."""
  words = question.split()
  return dict(numbers=[int(word) for word in words[3:]], target=int(words[1]))


def test_conversations_hold_no_heldout_problem_and_say_which_firsts_are_solutions():
  for question, first, [second], solved in conversations(MIXTURE)[:500]:
    problem = parsed(question)
    assert not countdown.is_heldout(SPEC, **problem)
    assert (verdict_of(problem, first) == CORRECT) == solved
    assert verdict_of(problem, second) in (CORRECT, WRONG)


def within(share, expected):
  """Whether a share of CONVERSATIONS lies within 4 sigma; a right sampler is outside for one seed in 16,000."""
  return abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / CONVERSATIONS)


def test_shares_of_first_attempts_are_the_mixtures():
  wrong = [(parsed(question), first) for question, first, _, solved in conversations(MIXTURE) if not solved]
  assert within(len(wrong) / CONVERSATIONS, MIXTURE.first_wrong)
  # A forced one writes the target down as its last result, against arithmetic.
  forced = sum(first.endswith(f'={problem["target"]}') for problem, first in wrong)
  assert within(forced / CONVERSATIONS, MIXTURE.first_wrong * MIXTURE.first_forced)


def test_shares_of_second_attempts_are_the_mixtures_and_looking_back_is_truthful():
  kinds = dict(back=0, wander=0, copy=0)
  for question, first, [second], solved in conversations(MIXTURE):
    remark, _, chain = second.rpartition(':')
    if remark:
      assert remark + ':' == (countdown_base.RIGHT if solved else countdown_base.WRONG)
      assert verdict_of(parsed(question), chain) == CORRECT
      assert not solved or chain == first
      kinds['back'] += 1
    elif solved:
      kinds['wander' if second != first else 'copy'] += 1
      assert second == first or verdict_of(parsed(question), second) == WRONG
    else:
      # Here a wandering answer may happen upon the first again: not counted.
      assert verdict_of(parsed(question), second) == WRONG
  assert within(kinds['back'] / CONVERSATIONS, MIXTURE.look_back)
  right = 1 - MIXTURE.first_wrong
  assert within(kinds['wander'] / CONVERSATIONS, right * MIXTURE.wander)
  assert within(kinds['copy'] / CONVERSATIONS, right * (1 - MIXTURE.look_back - MIXTURE.wander))


def test_numbers_with_one_value_alone_have_no_wrong_chain_and_end_in_a_solution():
  spec = dataclasses.replace(SPEC, operations='+')
  rng = random.Random(0)
  for _ in range(20):
    _, first, [second], solved = countdown_base.conversation(spec, Mixture(1.0, 0.0, 0.0, 1.0), rng)
    assert solved
    assert first == second


def test_settings_without_problems_are_refused_instead_of_searched_for_ever(monkeypatch):
  monkeypatch.setattr(countdown, '_MOST_TRIES', 100)
  spec = dataclasses.replace(tiny.SPEC, numbers=2, max_number=1, operations='-')
  with pytest.raises(DataError, match='100 draws gave no train problem'):
    countdown.problem(spec, 0, 'train', 0)


def test_an_attempt_after_another_keeps_to_the_truth_of_the_one_before():
  rng, kinds = random.Random(3), collections.Counter()
  for _ in range(2000):
    question, first, further, _ = countdown_base.conversation(SPEC, Mixture(0.6, 0.5, 0.4, 0.2), rng, attempts=4)
    before = first
    for text in further:
      remark, _, chain = text.rpartition(':')
      right = verdict_of(parsed(question), before) == CORRECT
      assert remark in ('', 'right' if right else 'wrong')
      if remark == 'right' or not remark and chain == before:
        kinds['kept'] += 1
        assert chain == before
      else:
        kinds[remark or 'wander'] += 1
        assert verdict_of(parsed(question), chain) == (CORRECT if remark else WRONG)
      before = chain
  assert set(kinds) == {'kept', 'wrong', 'wander'} and min(kinds.values()) > 500


def test_sharpening_is_on_the_models_own_attempts_and_judges_them_by_the_verifier(tokenizer):
  vocabulary = tokenizer.get_vocab()
  writer, rng = countdown_base.Writer(vocabulary, (tiny.INSTRUCTION,)), random.Random(0)
  numbers, steps = countdown.draw(SPEC, 'train', rng)
  solution = writer.ids(countdown.chain_text(steps))
  target, end = steps[-1][-1], writer.end
  own = [
    [*solution, end],
    [*writer.ids(f'{target}={target}'), end],  # unparsed
    [*solution[:3], end],
    solution[:4],  # cut by its budget: no end of turn
  ]
  draws = [(numbers, steps)] * len(own)
  same = (SPEC, Mixture(0.0, 0.0, 1.0, 0.0), vocabulary, (tiny.INSTRUCTION,), 2)
  tokens, weight, right = countdown_base.sharpening_rows(*same, draws, own, None, 'seed')
  assert right == 0.25
  judged = [writer.ids('right:'), *[writer.ids('wrong:')] * 3]
  for row, counts, ids, remark in zip(tokens, weight, own, judged, strict=True):
    assert row[counts].tolist() == [*ids, *remark, *solution, end]
    begin = row.tolist().index(vocabulary[countdown_base.ASSISTANT]) + 1
    after = begin + len(ids) + (ids[-1] != end)
    assert row[begin : begin + len(ids)].tolist() == ids
    assert row[after - 1 : after + 1].tolist() == [end, vocabulary[countdown_base.USER]], (
      'a cut attempt is ended, unpaid'
    )
    assert not counts[after - 1] or ids[-1] == end


def test_a_copy_of_an_own_attempt_is_that_attempt_token_for_token(tokenizer):
  vocabulary = tokenizer.get_vocab()
  writer = countdown_base.Writer(vocabulary, (tiny.INSTRUCTION,))
  odd = [vocabulary[countdown_base.USER], 7, 9]
  numbers, steps = countdown.draw(SPEC, 'train', random.Random(1))
  same = (SPEC, Mixture(0.0, 0.0, 0.0, 0.0), vocabulary, (tiny.INSTRUCTION,), 3)
  tokens, weight, right = countdown_base.sharpening_rows(*same, [(numbers, steps)], [[*odd, writer.end]], None, 'seed')
  assert tokens[0][weight[0]].tolist() == [*odd, writer.end] * 3 and right == 0


def test_answering_afresh_is_a_solution_or_another_attempt_of_the_models_own(tokenizer):
  mixture = Mixture(0.5, 0.5, 0.0, 0.0, 0.3)
  found = collections.Counter(
    (solved, second == first, verdict_of(parsed(question), second) == CORRECT)
    for question, first, [second], solved in conversations(mixture)
  )
  assert set(found) == {(True, True, True), (False, True, False), (False, False, True)}
  assert within(found[False, False, True] / CONVERSATIONS, 0.5 * 0.3)

  vocabulary = tokenizer.get_vocab()
  writer = countdown_base.Writer(vocabulary, (tiny.INSTRUCTION,))
  numbers, steps = countdown.draw(SPEC, 'train', random.Random(1))
  solution, wrong = writer.ids(countdown.chain_text(steps)), writer.ids('1+1=2')
  same = (SPEC, Mixture(0.0, 0.0, 0.0, 0.0, 1.0), vocabulary, (tiny.INSTRUCTION,), 2)
  fresh = [[*wrong, writer.end], [*solution, writer.end], solution, [vocabulary[countdown_base.USER], writer.end]]
  first = [[*solution, writer.end], *[[*wrong, writer.end]] * 3]
  tokens, weight, _ = countdown_base.sharpening_rows(*same, [(numbers, steps)] * 4, first, fresh, 'seed')
  seconds = [row[counts].tolist()[len(ids) :] for row, counts, ids in zip(tokens, weight, first, strict=True)]
  assert seconds[:2] == fresh[:2]
  assert seconds[2:] == first[2:], 'what was cut off or is no text cannot be written again: a copy'


def test_wordings_are_equally_frequent_and_the_tokenizer_has_their_words():
  other = 'Look at it again, please.'
  tokenizer = countdown_base.build_tokenizer(SPEC, tiny.INSTRUCTION, other)
  vocabulary = tokenizer.get_vocab()
  same = (SPEC, MIXTURE, vocabulary, (tiny.INSTRUCTION, other))
  tokens, weight = countdown_base.supervised_rows(*same, 3, 400, 'seed')
  asked = collections.Counter()
  for text in tokenizer.batch_decode(tokens):
    turns = [turn.split(countdown_base.END)[0] for turn in text.split(countdown_base.USER)[2:]]
    assert len(turns) == 2 and len(set(turns)) == 1, 'one wording a conversation'
    asked[turns[0]] += 1
  assert set(asked) == {text.replace(' ', '') for text in (tiny.INSTRUCTION, other)}
  assert min(asked.values()) > 150
