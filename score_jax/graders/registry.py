# SPDX-License-Identifier: Apache-2.0
"""The graders by name, and the settings of a run's grading."""

from collections.abc import Callable
import dataclasses
import importlib
from importlib import metadata
import os

from score_jax.core_types import Graded
from score_jax.errors import ConfigError
from score_jax.graders import user_file

Grade = Callable[[dict, str], Graded]  # (reference, an attempt's text) -> verdict


@dataclasses.dataclass(frozen=True)
class GradingSpec:
  """What grading may use; configs/common.py has the fields."""

  workers: int
  cpu_seconds: float
  memory_mb: int
  unsafe_code: bool
  wall_seconds: float = 60.0
  environment: tuple[str, ...] = ()  # names of variables that workers see

  def check(self) -> None:
    """Raises ValueError."""
    if self.workers < 0:
      raise ValueError(f'workers = {self.workers} must be 0 (one for each core) or more')
    if not 0 < self.cpu_seconds <= 600:
      raise ValueError(f'cpu_seconds = {self.cpu_seconds} must lie in 0..600')
    if not 0 < self.wall_seconds <= 3600:
      raise ValueError(f'wall_seconds = {self.wall_seconds} must lie in 0..3600')
    if unset := [name for name in self.environment if name not in os.environ]:
      raise ValueError(f'environment = {self.environment}: {unset[0]} is not set; set it, or leave it out')
    if not 64 <= self.memory_mb <= 2**20:
      raise ValueError(f'memory_mb = {self.memory_mb} must lie in 64..{2**20}')


DEFAULT = GradingSpec(workers=0, cpu_seconds=5.0, memory_mb=512, unsafe_code=False)


@dataclasses.dataclass(frozen=True)
class LoadedGrader:
  """A grader that is ready."""

  grade: Grade
  description: str = ''  # what a run prints about it at its start


@dataclasses.dataclass(frozen=True)
class GraderEntry:
  """How a grader is loaded, and whether it takes separate processes to bound it."""

  load: Callable[[GradingSpec], LoadedGrader]  # raises UserError where it is not safe
  out_of_process: bool
  votes: bool = True  # whether a majority of answers means something
  references: str = ''  # the grader for whose references it is; '': itself


def _function(module: str) -> Callable[[GradingSpec], LoadedGrader]:
  return lambda spec: LoadedGrader(importlib.import_module(f'score_jax.graders.{module}').grade)


def _math_verify(spec: GradingSpec) -> LoadedGrader:
  try:
    from score_jax.graders import math_verify
  except ImportError as error:
    remedy = "pip install 'score_jax[math-verify]', or use grader 'math'"
    raise ConfigError(f"grader 'math_verify' needs the package math-verify ({error}): {remedy}") from error
  return LoadedGrader(math_verify.grade, f'answers are compared by math-verify {metadata.version("math-verify")}')


def _code(spec: GradingSpec) -> LoadedGrader:
  from score_jax.graders import code

  seconds = spec.cpu_seconds
  limits = code.Limits(seconds=seconds, wall_seconds=max(60.0, 10 * seconds), memory_mb=spec.memory_mb)
  grader = code.CodeGrader(limits, unsafe=spec.unsafe_code)
  return LoadedGrader(grader.grade, f'programs are run behind: {grader.layers}')


GRADERS: dict[str, GraderEntry] = {
  'text': GraderEntry(_function('text'), out_of_process=False),
  'countdown': GraderEntry(_function('countdown'), out_of_process=False),  # numbers in at most 4,096 characters
  'math': GraderEntry(_function('math'), out_of_process=True),
  'math_verify': GraderEntry(_math_verify, out_of_process=True, references='math'),
  'code': GraderEntry(_code, out_of_process=True, votes=False),
}


def entry(name: str, content: bytes | None = None) -> GraderEntry:
  """Returns a grader of the table, or of a reward function 'FILE.py:FUNCTION'; ConfigError if there is none.

  `content` is what the file held when the run began.
  """
  if user_file.is_user_function(name):
    source = user_file.find(name, 'reward', content)
    return GraderEntry(lambda spec: _reward_function(source, spec), out_of_process=True, votes=False)
  if name not in GRADERS:
    raise ConfigError(f'grader {name!r} is unknown; use one of {", ".join(GRADERS)}, or FILE.py:FUNCTION')
  return GRADERS[name]


def references_of(name: str) -> str:
  """Returns the grader for whose references a grader of the table is."""
  return entry(name).references or name


def _reward_function(source: user_file.UserFunction, spec: GradingSpec) -> LoadedGrader:
  from score_jax.graders import reward_function

  return LoadedGrader(reward_function.load(source, spec.wall_seconds))
