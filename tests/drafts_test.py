"""Guesses of the next tokens, on rows made by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import drafting
from score_jax.models import attention
from score_jax.sampling import drafts
from score_jax.sampling import spec as specs
from score_jax.sampling.spec import RolloutSpec


def guess(ids, count=3, start=0):
  row = np.full(12, 99, np.int32)
  row[start : start + len(ids)] = ids
  newest = np.array([start + len(ids) - 1], np.int32)
  tokens, likely = drafts.continued(jnp.asarray(row[None]), np.array([start], np.int32), newest, count)
  return tokens[0].tolist(), likely[0].tolist()


@pytest.mark.parametrize(
  ('ids', 'expected'),
  [
    ([5, 6, 7, 8, 9, 5, 6], [7, 8, 9]),
    ([4, 1, 7, 3, 1, 8, 3, 1], [8, 3, 1]),  # of equal places the latest
    ([2, 3, 1, 7, 4, 1, 8, 3, 1], [7, 4, 1]),  # more tokens agree before 7
    ([5, 6, 6], [6, 6, 6]),  # what followed, again and again
    ([1, 2, 3, 1, 2], [3, 1, 2]),
    ([1, 2, 1], [2, 1, 2]),
  ],
)
def test_it_continues_as_where_most_of_the_last_tokens_stand(ids, expected):
  assert guess(ids)[0] == expected
  assert guess(ids, start=3)[0] == expected


def test_what_lies_outside_of_the_row_is_not_looked_up():
  tokens = jnp.array([[5, 7, 5, 6, 5, 8, 8]], jnp.int32)
  assert drafts.continued(tokens, jnp.array([2]), jnp.array([4]), 2)[0].tolist() == [[6, 5]]
  nowhere = drafts.continued(tokens, jnp.array([3]), jnp.array([4]), 2)[1]
  np.testing.assert_array_equal(nowhere, 0)


def test_a_row_continues_as_its_neighbours_do():
  tokens = np.full((4, 8), 9, np.int32)
  tokens[0, 1:4] = 1, 2, 3  # 2, 3 stand in two others
  tokens[1, :7] = 4, 2, 3, 5, 6, 7, 8
  tokens[2, :4] = 2, 3, 6, 3
  tokens[3, 2:4] = 3, 8
  start, newest = np.array([1, 0, 0, 2]), np.array([3, 5, 3, 3])
  guess, likely = drafts.in_neighbours(jnp.asarray(tokens), start, newest, 4)
  assert guess[0, :3].tolist() == [5, 6, 7]  # the later of two equal places; 8 comes after row 1's newest
  np.testing.assert_allclose(likely[0], [0.28, 0.28 * 0.44, 0.28 * 0.44**2, 0], rtol=1e-6)
  np.testing.assert_array_equal(likely[1], 0)  # 7 is new
  assert guess[2, 0] == 8  # 3 stands last in row 3, whose slot is the latest but for row 2's newest
  np.testing.assert_allclose(likely[3], 0)  # 8 stands in row 1 after its newest
  both, _ = drafts.continued(jnp.asarray(tokens), start, newest, 4)
  assert both[0, 0] == 5 and both[2, 0] == 6  # the row itself is likelier: 0.25 for 0.2


def test_a_neighbours_guess_is_that_of_a_search_over_all_slots(monkeypatch):
  """Rows fill no whole number of neighbourhoods."""
  monkeypatch.setattr(drafts, 'NEIGHBOURS', 3)
  rng = np.random.default_rng(0)
  B, L, count, longest = 7, 20, 2, len(drafts._LIKELY_THERE) - 1
  tokens = rng.integers(0, 3, (B, L)).astype(np.int32)
  start, newest = rng.integers(0, 4, B), rng.integers(4, L, B)
  guess, likely = drafts.in_neighbours(jnp.asarray(tokens), start, newest, count)
  for row in range(B):
    near = range(row // 3 * 3, min(row // 3 * 3 + 3, B))
    best = (0, 0, 0)
    for other in near:
      for slot in range(start[other], newest[other]):
        agreed = 0
        while (
          agreed < longest
          and min(slot - start[other], newest[row] - start[row]) >= agreed
          and tokens[other, slot - agreed] == tokens[row, newest[row] - agreed]
        ):
          agreed += 1
        best = max(best, (agreed, slot, other))
    agreed, slot, other = best
    for number in range(count):
      known = agreed > 0 and slot + 1 + number <= newest[other]
      first, further = drafts._LIKELY_THERE[agreed]
      np.testing.assert_allclose(likely[row, number], known * first * further**number, rtol=1e-6)
      assert not known or guess[row, number] == tokens[other, slot + 1 + number]


def test_more_agreement_is_likelier_and_further_tokens_are_less_likely():
  firsts = [guess([*range(20, 20 + n), 50, 60, *range(20, 20 + n)], count=1)[1][0] for n in range(1, 6)]
  assert firsts == sorted(firsts)
  assert len(set(firsts)) == 5
  likely = guess([5, 6, 7, 8, 9, 5, 6])[1]
  assert likely == sorted(likely, reverse=True)
  np.testing.assert_allclose(likely, [0.5, 0.35, 0.245], rtol=1e-6)


def test_the_surest_guesses_of_all_rows_are_computed_after_each_rows_first_token():
  worth = jnp.array([[0.9, 0.8, 0.1], [0.5, 0.2, 0.1], [2.0, 1.5, 1.3], [0.4, 0.0, 0.0]])
  going = jnp.array([True, True, False, True])  # a row that is done leaves its share to the others
  assert drafts.surest(worth, going, 6).tolist() == [0, 4, 12, 1, 2, 5]
  assert drafts.surest(worth, going, 3).tolist() == [0, 4, 12]
  assert drafts.surest(worth, ~going, 4).tolist() == [8, 9, 10, 11]
  numbers = attention.numbers(drafts.surest(worth, going, 6), 4, 4).tolist()
  assert numbers == [[0, 3, 4, -1], [1, 5, -1, -1], [-1] * 4, [2, -1, -1, -1]]


def test_a_step_computes_a_token_a_row_and_guesses_in_the_mean():
  spec = RolloutSpec(budgets=(4,), separators=(), end_of_turn=1, stops=(1,), pad=0, drafts=0.5, longest_draft=3)
  assert (spec.guesses, spec.step_tokens(8), spec.step_tokens(3)) == (3, 12, 5)
  none = RolloutSpec(budgets=(4,), separators=(), end_of_turn=1, stops=(1,), pad=0, longest_draft=3)
  assert (none.guesses, none.step_tokens(8)) == (0, 8)


def test_replayed_steps_are_those_counted_by_hand(monkeypatch):
  # Given: 7 8 9; attempt 1: 5 7 8 9 4; given: 3; attempt 2: 5 7 8 2.
  ids = [7, 8, 9, 5, 7, 8, 9, 4, 3, 5, 7, 8, 2]
  attempts = [0] * 3 + [1] * 5 + [0] + [2] * 4
  # A bar after each step, a star after what it guessed right: 5 | 7 | 8* 9* 4 | 3* 5 | 7* 8* 2.
  assert drafting.tokens_per_step([(ids, attempts)], 2) == [round(5 / 3, 2), 2.0]
  assert drafting.tokens_per_step([(ids, attempts)] * 2, 0) == [1.0, 1.0]
  assert drafting.steps_of_all([(ids, attempts)], 2, 2.0, in_order=True) == {3: 4}
  short = [7, 8, 9, 5, 6], [0, 0, 0, 1, 1]
  monkeypatch.setattr(specs, '_FEWEST', 1)  # one slot is enough for one row
  assert drafting.steps_of_all([(ids, attempts), short], 2, 0.0, in_order=False) == {2: 1, 1: 8}


def test_rows_in_earlier_attempts_come_before_surer_ones():
  likely, given = jnp.array([[0.9, 0.5], [0.3, 0.1], [0.1, 0.1]]), jnp.array([[False] * 2] * 2 + [[True] * 2])
  surest = drafts.worth(likely, given, jnp.zeros(3, jnp.int32))
  np.testing.assert_allclose(surest, [[0.9, 0.5], [0.3, 0.1], [2, 1.5]])
  in_order = drafts.worth(likely, given, jnp.array([1, 0, 2]))
  np.testing.assert_allclose(in_order, [[0.09, 0.05], [0.3, 0.1], [2, 1.5]], rtol=1e-6)
