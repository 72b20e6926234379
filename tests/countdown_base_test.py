"""The base's tokenizer and conversations, its settings, and the making of a base, in miniature."""

import collections
import dataclasses
import json
import math
import random

import numpy as np
import pytest
import tiny

from experiments.countdown_base import benchmark, bundled, pretrain
from experiments.countdown_base import mixture as countdown_base
from experiments.countdown_base import settings as settings_lib
from experiments.countdown_base.mixture import Mixture
from experiments.countdown_base.settings import PretrainConfig
from score_jax.core_types import Stop, Verdict
from score_jax.errors import ConfigError
from score_jax.graders.countdown import grade
from score_jax.reporting import rows
from score_jax.tasks import countdown, turn_boundary
from score_jax.tasks.countdown import CountdownSpec
from score_jax.training import run as runs

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
    text = turn_boundary.Template(tokenizer, tokenizer.chat_template, tiny.DATE).render(messages, False)
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
  counts = collections.Counter(
    (solved, second == first, verdict_of(parsed(question), second) == CORRECT)
    for question, first, [second], solved in conversations(mixture)
  )
  assert set(counts) == {(True, True, True), (False, True, False), (False, False, True)}
  assert within(counts[False, False, True] / CONVERSATIONS, 0.5 * 0.3)

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


# Making a base.


@pytest.mark.slow
def test_a_base_is_made_and_sharpened(tmp_path):
  settings = PretrainConfig(
    width=16,
    layers=1,
    heads=2,
    ffn=16,
    conversations=200,
    rows=8,
    steps=200,
    attempts=3,
    rewordings=('Look again.',),
    sharpen_rounds=1,
    sharpen_conversations=40,
    sharpen_rows=16,
    sharpen_steps=3,
  )
  config = tiny.run_config(**{'optim.learning_rate': 1e-2})
  pretrain.pretrain(config, settings, str(tmp_path / 'run'))
  lines = [json.loads(line) for line in (tmp_path / 'run/metrics.jsonl').read_text().splitlines()]
  assert [(line['step'], line.get('phase', '')) for line in lines] == [
    (100, ''), (200, ''), (200, 'supervised'), (203, ''), (203, 'sharpened 1'),
  ]  # fmt: skip
  assert lines[1]['loss'] < 0.8 * lines[0]['loss']
  assert 0 <= lines[-1]['sampled_right'] <= 1
  assert set(lines[-1]['base']) == {'greedy', 'sampled'} and set(lines[-1]['skill']) >= {'says_wrong', 'fixed'}
  evaluated = json.loads((tmp_path / 'run/eval.json').read_text())['base']
  assert round(evaluated['greedy']['acc_t1'], 4) == lines[-1]['base']['greedy']['acc_t1']
  # What it wrote is a base that runs start from.
  run = runs.open_run(tiny.run_config(**{'model.path': str(tmp_path / 'run/hf')}), str(tmp_path / 'next'))
  assert run.decoder.width == 16
  claimed = json.loads((tmp_path / 'run/config.json').read_text())['config']
  assert claimed['mode'] == 'pretrain' and claimed['pretrain']['sharpen_rounds'] == 1


def test_the_skill_of_looking_back_is_counted_from_rows():
  def row(first, second, right, then, decoding='sampled'):
    attempts = tuple(
      rows.Attempt(text, text, Verdict.CORRECT if good else Verdict.WRONG, Stop.END_OF_TURN, 1, 0.0)
      for text, good in ((first, right), (second, then))
    )
    return rows.Row('p', '', {}, attempts, 0.0, decoding, 0)

  counts = pretrain.skill([
    row('1', 'wrong:2', False, True),
    row('1', 'wrong:3', False, False),
    row('1', 'right:1', False, False),
    row('1', '1', False, False),
    row('1', 'wrong:2', True, False),
    row('1', '1', True, True),
    row('1', 'wrong:2', False, True, decoding='greedy'),
  ])  # fmt: skip
  assert counts == dict(says_wrong=0.5, says_right=0.25, missed=0.5, fixed=0.5, copies=round(2 / 6, 4))
  assert pretrain.skill([]) == dict.fromkeys(('says_wrong', 'says_right', 'missed', 'fixed', 'copies'))


def test_settings_are_read_from_flags_and_checked():
  config, settings = settings_lib.from_config_dict(bundled.get_config())
  assert settings == PretrainConfig() and config.optim.schedule == 'cosine'
  changed = benchmark.get_config()
  changed.pretrain.mixture.wander = 0.5
  config, settings = settings_lib.from_config_dict(changed)
  assert settings.rewordings == (benchmark.REVIEW,) and settings.mixture == Mixture(wander=0.5, afresh=0.15)
  assert config.rows == 4096 and config.task.countdown.numbers == 5


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'steps': 0}, r'config.pretrain.steps = 0 must be 1 or more'),
    ({'sharpen_attempts': 1}, r'config.pretrain.sharpen_attempts = 1 must be 2 or more'),
    ({'steps': 200}, r'steps = 200 must be above config.optim.warmup_steps'),
    ({'heads': 5}, r'heads = 5 must divide config.pretrain.width = 64'),
    ({'mixture': {'look_back': 0.95}}, r'mixture.look_back = 0.95.*1 at most together'),
    ({'sharpen_wander': -0.1}, r'sharpen_wander = -0.1.*0 or more'),
  ],
)
def test_a_setting_out_of_bounds_is_one_line(changes, message):
  config = bundled.get_config()
  config.pretrain.update(changes)
  with pytest.raises(ConfigError, match=message) as error:
    settings_lib.from_config_dict(config)
  assert '\n' not in str(error.value)
