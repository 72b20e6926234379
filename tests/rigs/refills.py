"""Decode slots of tensor-parallel groups, and when they are refilled: `python tests/rigs/refills.py` prints a table.

Time is counted in decode steps; answers are log-normal, two a conversation.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Schedule:
  """Groups with rows of their own."""

  groups: int = 16
  slots: int = 16
  rows: int = 128  # of a group
  refill: int = 1  # rows that a prefill takes
  prefill: float = 1.5  # decode steps that it takes
  mean: float = 300.0  # tokens of an answer
  longest: int = 1024

  def lengths(self, seed: int) -> np.ndarray:
    """Returns decode steps [groups, rows]."""
    answers = np.random.default_rng(seed).lognormal(np.log(self.mean) - 0.32, 0.8, (self.groups, self.rows, 2))
    return np.clip(answers, 1, self.longest).astype(int).sum(axis=-1)


def together(lengths_GN: np.ndarray, schedule: Schedule, share: float) -> tuple[float, float]:
  """Returns the time until the last group ends, and rows prefilled for each that had to be.

  All groups prefill at a time: where `share` of those whose rows wait have room, or (0) where any has.
  """
  groups, N = lengths_GN.shape
  left_GB, waiting_G = lengths_GN[:, : schedule.slots].copy(), np.full(groups, schedule.slots)
  time, prefills = 0.0, 0
  while True:
    done_GB = left_GB <= 0
    wanted_G = np.minimum(schedule.refill, N - waiting_G)
    waits_G = wanted_G > 0
    room_G = waits_G & (done_GB.sum(axis=1) >= wanted_G)
    if waits_G.any() and room_G.any() and room_G.sum() >= share * waits_G.sum():
      for group in range(groups):
        slots = np.flatnonzero(done_GB[group])[: wanted_G[group]]
        first = waiting_G[group]
        left_GB[group, slots] = lengths_GN[group, first : first + len(slots)]
        waiting_G[group] += len(slots)
      time, prefills = time + schedule.prefill, prefills + 1
    elif not waits_G.any() and done_GB.all():
      return time, prefills * schedule.refill / (N - schedule.slots)
    else:
      left_GB, time = left_GB - 1, time + 1


def apart(lengths_GN: np.ndarray, schedule: Schedule) -> tuple[float, float]:
  """Returns the same of groups that go their own way."""
  each = [together(lengths_N[None], schedule, 0.0) for lengths_N in lengths_GN]
  return max(time for time, _ in each), float(np.mean([share for _, share in each]))


def main() -> None:
  for schedule in (Schedule(), Schedule(slots=64, rows=512, refill=4, prefill=3.0), Schedule(slots=8, rows=64)):
    print(schedule)
    for name, share in dict(any=0.0, quarter=0.25, half=0.5, all=1.0).items():
      runs = [together(schedule.lengths(seed), schedule, share) for seed in range(2)]
      print(f'  {name:8}', *np.round(np.mean(runs, axis=0), 2))
    print('  apart   ', *np.round(np.mean([apart(schedule.lengths(seed), schedule) for seed in range(2)], axis=0), 2))


if __name__ == '__main__':
  main()
