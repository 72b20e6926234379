"""Streams of conversations: where rows lie, and how they become left-aligned rows and streams again."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax.models import packing

# Two streams of 12 tokens, three conversations each, one of them empty.
LENGTH = np.array([[3, 0, 5], [4, 4, 1]], np.int32)
PACKED = packing.end_to_end(LENGTH, longest=6)
T, L = 12, 6
ROW = [[0, 0, 0, 2, 2, 2, 2, 2, -1, -1, -1, -1], [0, 0, 0, 0, 1, 1, 1, 1, 2, -1, -1, -1]]
POSITION = [[0, 1, 2, 0, 1, 2, 3, 4, 0, 0, 0, 0], [0, 1, 2, 3, 0, 1, 2, 3, 0, 0, 0, 0]]


def test_positions_of_packed_rows_by_hand():
  row, position = packing.row_and_position(PACKED, T)
  np.testing.assert_array_equal(row, ROW)
  np.testing.assert_array_equal(position, POSITION)


def test_positions_of_single_rows_by_hand():
  row, position = packing.row_and_position(packing.left_padded(np.array([2, 0], np.int32), 4), 4)
  np.testing.assert_array_equal(row, [[-1, -1, 0, 0], [0, 0, 0, 0]])
  np.testing.assert_array_equal(position, [[0, 0, 0, 1], [0, 1, 2, 3]])
  row, position = packing.row_and_position(packing.left_aligned(np.array([3, 1], np.int32), 4), 4)
  np.testing.assert_array_equal(row, [[0, 0, 0, -1], [0, -1, -1, -1]])
  np.testing.assert_array_equal(position, [[0, 1, 2, 0], [0, 0, 0, 0]])


def test_rows_are_cut_out_and_laid_back():
  table = packing.alignment(PACKED, T, L)
  stream = np.arange(1, 1 + 2 * T * 5).reshape(2, T, 5).astype(np.float32)
  rows = np.zeros((2, 3, L, 5), np.float32)
  for x in range(2):
    begin = 0
    for r, length in enumerate(LENGTH[x]):
      rows[x, r, :length] = stream[x, begin : begin + length]
      begin += length
  np.testing.assert_array_equal(table.to_rows(stream), rows.reshape(6, L, 5))
  padding = np.array(ROW) < 0
  np.testing.assert_array_equal(table.to_streams(rows.reshape(6, L, 5)), np.where(padding[..., None], 0, stream))


@pytest.mark.parametrize('rows', [PACKED, packing.left_padded(np.array([2, 5], np.int32), T)], ids=['packed', 'padded'])
def test_each_direction_is_the_gradient_of_the_other(rows):
  """Both ways are 0-1 matrices; each one's gradient must be the product with its transpose."""
  table = packing.alignment(rows, T, T)
  stream = np.random.default_rng(0).normal(size=(2, T, 3)).astype(np.float32)
  aligned, pull = jax.vjp(table.to_rows, stream)
  weight = np.random.default_rng(1).normal(size=aligned.shape).astype(np.float32)
  (gradient,) = pull(jnp.asarray(weight))
  numeric = np.zeros_like(stream)
  for index in np.ndindex(stream.shape):
    one = np.zeros_like(stream)
    one[index] = 1
    numeric[index] = np.sum(np.asarray(table.to_rows(one)) * weight)
  np.testing.assert_allclose(gradient, numeric, atol=1e-6)
  _, pull = jax.vjp(table.to_streams, aligned)
  np.testing.assert_array_equal(pull(jnp.asarray(stream))[0], table.to_rows(stream))


def test_rows_aligned_already_are_only_padded_and_cut():
  table = packing.alignment(packing.left_aligned(np.array([3, 1], np.int32), 4), 4, 8)
  x = np.arange(8, dtype=np.float32).reshape(2, 4)
  np.testing.assert_array_equal(table.to_rows(x), np.pad(x, ((0, 0), (0, 4))))
  np.testing.assert_array_equal(table.to_streams(table.to_rows(x)), x)
