"""The verifiers by name, and how a run's grading is set up."""

from collections.abc import Callable
import dataclasses

from score_jax.core_types import Graded

Grade = Callable[[dict, str], Graded]  # (reference, an attempt's text) -> verdict


@dataclasses.dataclass(frozen=True)
class GradingSpec:
  """What grading may take. Its fields are documented in configs/common.py."""

  workers: int
  cpu_seconds: float
  memory_mb: int
  unsafe_code: bool

  def check(self) -> None:
    """Raises ValueError with the field, its value and the remedy."""
    if self.workers < 0:
      raise ValueError(f'workers = {self.workers} must be 0 (one for each core) or more')
    if not 0 < self.cpu_seconds <= 600:
      raise ValueError(f'cpu_seconds = {self.cpu_seconds} must lie in 0..600')
    if not 64 <= self.memory_mb <= 2**20:
      raise ValueError(f'memory_mb = {self.memory_mb} must lie in 64..{2**20}')


DEFAULT = GradingSpec(workers=0, cpu_seconds=5.0, memory_mb=512, unsafe_code=False)


@dataclasses.dataclass(frozen=True)
class Opened:
  """A verifier that is ready."""

  grade: Grade
  about: str = ''  # what a run says of it as it starts


@dataclasses.dataclass(frozen=True)
class Verifier:
  """How one is opened, and whether it needs processes of its own to be bounded."""

  open: Callable[[GradingSpec], Opened]  # raises UserError where this machine cannot do it safely
  apart: bool
  votes: bool = True  # whether answers can be equal, so that a majority of them means something


def _text(spec: GradingSpec) -> Opened:
  from score_jax.graders import text

  return Opened(text.grade)


def _countdown(spec: GradingSpec) -> Opened:
  from score_jax.graders import countdown

  return Opened(countdown.grade)


def _math(spec: GradingSpec) -> Opened:
  from score_jax.graders import math

  return Opened(math.grade)


def _code(spec: GradingSpec) -> Opened:
  from score_jax.graders import code

  seconds = spec.cpu_seconds
  limits = code.Limits(seconds=seconds, wall_seconds=max(60.0, 10 * seconds), memory_mb=spec.memory_mb)
  grader = code.CodeGrader(limits, unsafe=spec.unsafe_code)
  return Opened(grader.grade, f'programs are run behind: {grader.layers}')


VERIFIERS: dict[str, Verifier] = {
  'text': Verifier(_text, apart=False),
  'countdown': Verifier(_countdown, apart=False),  # a line of whole numbers, at most 4,096 characters
  'math': Verifier(_math, apart=True),
  'code': Verifier(_code, apart=True, votes=False),
}
