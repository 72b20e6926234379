"""Pairs for supervision, by hand; which pairs a step takes; how a pair lies in a row."""

import collections
import dataclasses
import types

import numpy as np
import pytest
import tiny

from score_jax.parallel import mesh as meshes
from score_jax.sampling.sampler import Stream, stream_key
from score_jax.tasks import open_task
from score_jax.training import batches
from score_jax.training import run as runs
from score_jax.training.methods import pairs, supervised

# Three problems of three conversations: (first right, second right).
RIGHT = np.array([[0, 1], [1, 1], [0, 0], [0, 0], [1, 0], [0, 0], [0, 0], [0, 0], [0, 0]], bool)
PROBLEM = np.repeat([0, 1, 2], 3)


def rng():
  return np.random.default_rng(0)


def test_star_takes_conversations_whose_second_attempt_is_right():
  assert pairs.star(RIGHT, PROBLEM, False, rng()).tolist() == [[0, 0, 1]]
  assert pairs.star(RIGHT, PROBLEM, True, rng()).tolist() == [[0, 0, 1], [1, 1, 1]]


def test_sft_pairs_wrong_first_attempts_with_any_right_answer_to_their_problem():
  # Right answers: of problem 0 the second of 0 and both of 1; of problem 1 the first of 4; of problem 2 none.
  answers = {0: {(0, 1), (1, 0), (1, 1)}, 1: {(4, 0)}}
  for plus, first in ((False, [0, 2, 3, 5]), (True, [0, 1, 2, 3, 4, 5])):
    drawn = collections.defaultdict(set)
    for seed in range(60):
      drawn_pairs = pairs.sft(RIGHT, PROBLEM, plus, np.random.default_rng(seed))
      assert drawn_pairs[:, 0].tolist() == first
      for row, *answer in drawn_pairs.tolist():
        drawn[row].add(tuple(answer))
    assert drawn == {row: answers[PROBLEM[row]] for row in first}, 'each answer is drawn at times, no other ever'


def test_right_answers_are_drawn_evenly():
  drawn_pairs = [pairs.sft(RIGHT[:3], PROBLEM[:3], False, np.random.default_rng(seed))[0, 1:] for seed in range(900)]
  counts = collections.Counter(map(tuple, np.array(drawn_pairs).tolist()))
  assert all(abs(count - 300) < 60 for count in counts.values()) and len(counts) == 3


def test_without_a_right_answer_there_are_no_pairs():
  nothing = np.zeros((4, 2), bool)
  for dataset in pairs.DATASETS.values():
    assert dataset(nothing, np.arange(4), True, rng()).shape == (0, 3)


def test_a_step_takes_all_pairs_once_before_any_twice():
  taken, epochs = zip(*(supervised.drawn(5, 4, step, (7, 0)) for step in range(5)), strict=True)
  assert epochs == (0.0, 0.8, 1.6, 2.4, 3.2)
  flat = np.concatenate(taken)
  assert [sorted(flat[i : i + 5]) for i in range(0, 20, 5)] == [[0, 1, 2, 3, 4]] * 4
  assert flat[:5].tolist() != flat[5:10].tolist()
  other, _ = supervised.drawn(5, 5, 0, (7, 1))
  assert other.tolist() != flat[:5].tolist()


def test_ids_are_the_chosen_tokens_from_the_left():
  tokens = np.array([[5, 6, 7, 8], [1, 2, 3, 4]])
  chosen = np.array([[False, True, True, False], [True, False, True, True]])
  assert batches.chosen_ids(tokens, chosen, 3).tolist() == [[6, 7, -1], [1, 3, 4]]


@pytest.fixture(scope='module')
def run(hf_folder):
  """As much of a run as rows need."""
  config = tiny.run_config(
    **{'model.path': str(hf_folder), 'mode': 'supervised', 'selection.problems': 8, 'supervised.problems': 4,
       'supervised.samples': 2, 'supervised.steps': 2, 'sampling.attempt_tokens': (6, 5)}
  )  # fmt: skip
  sampler = runs.open_sampler(config, hf_folder, tiny.one_device_mesh())
  return types.SimpleNamespace(config=config, sampler=sampler, task=open_task(config.task))


def test_a_pair_of_one_conversation_is_its_rollout_token_for_token(run, hf_folder):
  """Of a random model, whose attempts are cut by their budgets as well as ended by themselves."""
  sampler = run.sampler
  params = sampler.layout(tiny.random_params(sampler.config, seed=5))
  problems = [supervised.problem_of(run, 1, i // 2) for i in range(64)]
  key = stream_key(0, Stream.COLLECT, 1)
  rollout = meshes.fetch_rows(sampler.sample(params, sampler.encoded(problems), key, sampler.spec()))
  ids = [batches.chosen_ids(rollout.tokens, rollout.attempt == a + 1, b) for a, b in enumerate(sampler.budgets)]
  collected = supervised.Collected(*ids, verdict=np.zeros((64, 2), np.int8))
  data = supervised.StageContext(types.SimpleNamespace(index=1), collected, np.array([[i, i, 1] for i in range(64)]))
  batch = supervised.rows_of(run, data, np.arange(64))
  expected = batches.of_rollout(rollout, None)
  np.testing.assert_array_equal(batch.length, expected.length)
  inside = np.arange(batch.tokens.shape[1]) < batch.length[:, None]
  np.testing.assert_array_equal(batch.tokens[inside], expected.tokens[inside])
  np.testing.assert_array_equal(batch.attempt, expected.attempt)
  assert batch.trained.tolist() == [[False, True]] * 64
  assert len(set(rollout.stop.reshape(-1).tolist())) > 1, 'some are cut, some are not'


def test_the_second_half_of_a_pair_may_be_a_first_attempt_of_another_conversation(run):
  end = run.sampler.chat.end_of_turn
  first = np.array([[11, end, -1, -1, -1, -1], [12, 13, 14, end, -1, -1]], np.int32)
  second = np.array([[15, end, -1, -1, -1], [16, end, -1, -1, -1]], np.int32)
  collected = supervised.Collected(first, second, np.zeros((2, 2), np.int8))
  data = supervised.StageContext(types.SimpleNamespace(index=0), collected, np.array([[0, 1, 0]]))
  batch = supervised.rows_of(run, data, np.array([0]))
  assert batch.tokens[batch.attempt == 1].tolist() == [11, end]
  assert batch.tokens[batch.attempt == 2].tolist() == [12, 13, 14, end]
  both = dataclasses.replace(run.config.supervised, loss_on=(True, True))
  whole = types.SimpleNamespace(**vars(run) | dict(config=dataclasses.replace(run.config, supervised=both)))
  assert supervised.rows_of(whole, data, np.array([0])).trained.tolist() == [[True, True]]
