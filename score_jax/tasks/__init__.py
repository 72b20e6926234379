"""Tasks: where problems come from, and which verifier grades their answers."""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

from score_jax.tasks import countdown
from score_jax.types import Problem
from score_jax.types import Verdict
from score_jax.verifiers import countdown as countdown_verifier


@dataclasses.dataclass(frozen=True)
class Task:
  """A task as two functions."""

  problem: Callable[[int, str, int], Problem]  # (seed, split, index) -> Problem; pure
  grade: Callable[[Problem, str], Verdict]  # (problem, an attempt's text) -> Verdict


TASKS: dict[str, Callable[[Any], Task]] = {
  # name of config.task.name -> maker from config.task
  'countdown': lambda task: Task(
    problem=functools.partial(countdown.problem, task.countdown), grade=countdown_verifier.grade
  ),
}
