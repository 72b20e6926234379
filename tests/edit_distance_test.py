"""The edit ratio against the table that defines the distance."""

import math
import random

import pytest

from score_jax.reporting import rows


def by_table(a, b):
  before = list(range(len(b) + 1))
  for i, x in enumerate(a, 1):
    now = [i]
    for j, y in enumerate(b, 1):
      now.append(min(before[j] + 1, now[-1] + 1, before[j - 1] + (x != y)))
    before = now
  return before[-1]


def test_distance_is_that_of_the_table():
  rng = random.Random(0)
  for _ in range(4000):
    a, b = (''.join(rng.choice('ab\U0001f600\ud800') for _ in range(rng.randrange(10))) for _ in range(2))
    if rng.random() < 0.5:  # texts that share an end and a beginning
      b = a[: rng.randrange(len(a) + 1)] + b + a[rng.randrange(len(a) + 1) :]
    assert rows.edit_ratio(a, b) == by_table(a, b) / max(1, len(a) + len(b)), (a, b)


def test_distance_beyond_a_machine_word():
  rng = random.Random(1)
  for _ in range(5):
    a, b = (''.join(rng.choice('abcde') for _ in range(rng.randrange(150, 250))) for _ in range(2))
    assert rows.edit_ratio(a, b) == by_table(a, b) / (len(a) + len(b))


@pytest.mark.parametrize(
  ('a', 'b', 'expected'),
  [('', '', 0.0), ('abc', 'abc', 0.0), ('', 'abc', 1.0), ('kitten', 'sitting', 3 / 13), ('ab', 'cd', 0.5)],
)
def test_ratio_is_of_the_length_of_both(a, b, expected):
  assert rows.edit_ratio(a, b) == rows.edit_ratio(b, a) == expected


def test_texts_too_long_to_compare_have_no_ratio_unless_they_are_equal():
  long = 'a' * 60_000
  assert rows.edit_ratio(long, long) == 0
  assert math.isnan(rows.edit_ratio(long, 'b'))
