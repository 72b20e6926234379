"""From a rollout to the rows of an update."""

import numpy as np
import pytest

from score_jax.states import Rollout
from score_jax.training import batches


def test_rows_are_left_aligned_and_nothing_else_is_kept():
  rollout = Rollout(
    tokens=np.array([[9, 9, 5, 6, 7, 9], [1, 2, 3, 4, 9, 9]], np.int32),
    attempt=np.array([[0, 0, 0, 1, 2, 0], [0, 1, 1, 2, 0, 0]], np.int8),
    logp=np.array([[0, 0, 0, -1, -2, 0], [0, -3, -4, -5, 0, 0]], np.float32),
    start=np.array([2, 0], np.int32),
    end=np.array([5, 4], np.int32),
    stop=None,
    steps=None,
  )
  batch = batches.of_rollout(rollout, np.ones((2, 2), bool))
  np.testing.assert_array_equal(batch.tokens, [[5, 6, 7, 0, 0, 0], [1, 2, 3, 4, 0, 0]])
  np.testing.assert_array_equal(batch.attempt, [[0, 1, 2, 0, 0, 0], [0, 1, 1, 2, 0, 0]])
  np.testing.assert_array_equal(batch.sampler_logp, [[0, -1, -2, 0, 0, 0], [0, -3, -4, -5, 0, 0]])
  np.testing.assert_array_equal(batch.length, [3, 4])
  assert (batch.tokens.dtype, batch.attempt.dtype, batch.sampler_logp.dtype) == (np.int32, np.int8, np.float32)


def parts_of(length_B, group, shards, parts):
  """[shards][parts]: tokens of each device's part, as `update.micro_batched` cuts them."""
  problems = length_B.reshape(shards, -1, group).sum(-1)
  return np.stack([problems[:, part::parts].sum(1) for part in range(parts)], axis=1)


def test_an_order_moves_whole_problems_on_their_own_device_and_evens_out_the_parts():
  group, shards, parts = 4, 2, 3
  length = np.random.default_rng(0).geometric(0.01, 2 * 12 * group).astype(np.int32)
  order = batches.balanced_order(length, group, shards, parts)
  problems = order.reshape(-1, group)
  np.testing.assert_array_equal(problems % group, np.tile(np.arange(group), (len(problems), 1)))
  np.testing.assert_array_equal(np.sort(problems[:, 0]), np.arange(0, len(length), group))
  half = len(length) // 2
  assert np.all(order[:half] < half) and np.all(order[half:] >= half)
  before, after = (parts_of(rows, group, shards, parts) for rows in (length, length[order]))
  assert np.ptp(after, axis=1).max() < np.ptp(before, axis=1).max() / 3


@pytest.mark.parametrize(
  ('lengths', 'expected'), [((100, 100, 100, 100), 512), ((1024, 1024, 1, 1), 2304), ((1, 1, 1, 1), 256)]
)
def test_a_stream_holds_the_fullest_part_in_few_different_lengths(lengths, expected):
  """Four rows of up to 1,024 tokens: 4,096 slots, in steps of a sixteenth."""
  assert batches.packed_length(np.array(lengths, np.int32), 1024, 4, 1, 1) == expected


def test_streams_hold_every_devices_part():
  length = np.array([700, 100, 100, 100, 100, 100, 100, 900], np.int32)
  # Two devices, two parts, one row a problem: the parts are {700, 100}, {100, 100} and {100, 100}, {100, 900}.
  assert batches.packed_length(length, 1024, 1, 2, 2) == 1024
