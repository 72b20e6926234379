"""Grades a program by the tests of its problem, in a sandbox. docs/sandbox.md says what that means."""

import time

from score_jax.core_types import Graded
from score_jax.core_types import Verdict
from score_jax.errors import SandboxError
from score_jax.graders.code import extract
from score_jax.graders.code import unit_tests
from score_jax.graders.code.sandbox import client
from score_jax.graders.code.sandbox import judge
from score_jax.graders.code.sandbox.client import Outcome
from score_jax.graders.code.sandbox.client import Sandbox
from score_jax.graders.code.sandbox.layers import CHOICES
from score_jax.graders.code.sandbox.layers import Layers
from score_jax.graders.code.sandbox.limits import Limits
from score_jax.graders.code.unit_tests import UnitTests

_SHOWN = 200
_LONGEST = 1_000_000  # characters of a text that is searched for a program
_VERDICTS = {
  judge.CORRECT: Verdict.CORRECT,
  judge.WRONG: Verdict.WRONG,
  judge.UNFIT: Verdict.ERROR,
  client.TIMEOUT: Verdict.TIMEOUT,
  client.HOST: Verdict.ERROR,
}


class CodeGrader:
  """Grades one program at a time; lives in a process of the grader's, never in the trainer's.

  The sandbox ends with the thread that started it; a grader that is used from another thread starts it anew.
  """

  def __init__(self, limits: Limits, unsafe: bool = False, use: tuple[str, ...] = CHOICES):
    """Starts the sandbox.

    Args:
      limits: of each program.
      unsafe: run programs even where the layers that hold them are missing.
      use: the layers to try; fewer for tests alone.

    Raises:
      SandboxError: too few layers hold on this host, or the sandbox does not start.
    """
    self._limits = limits
    self._unsafe = unsafe
    self._use = use
    self._sandbox = self._start()

  def _start(self) -> Sandbox:
    sandbox = Sandbox(self._limits, self._use)
    if sandbox.layers.enough or self._unsafe:
      return sandbox
    sandbox.close()
    raise SandboxError(
      f'programs of a model can not be run here: {sandbox.layers}. A system call filter (seccomp) is needed: run on '
      'Linux x86-64 or aarch64, in a container with its default seccomp profile or none; or, where nothing on this '
      'machine is worth protecting, run programs unprotected with the flag `unsafe`'
    )

  @property
  def layers(self) -> Layers:
    """What was seen to hold when the sandbox started."""
    return self._sandbox.layers

  def grade(self, reference: dict, text: str) -> Graded:
    """CORRECT if the program in `text` passes all tests of `reference`.

    Otherwise WRONG, UNPARSED without a program in the text, TIMEOUT when the program used up its own time, or ERROR
    when the host failed twice; `answer` is then the reason, up to 200 characters. The same program has the same verdict
    every time, unless it looks at a clock. Raises DataError if the reference is not one (see unit_tests.py).
    """
    start = time.monotonic()
    work = unit_tests.read(reference)
    readings = extract.extract(text[:_LONGEST], work.names, work.prompt)
    if not readings:
      return Graded(Verdict.UNPARSED, 'no program in the text', time.monotonic() - start)
    if len(readings[0].encode('utf-8', 'surrogatepass')) > self._limits.source_bytes:
      return Graded(Verdict.WRONG, f'longer than {self._limits.source_bytes} bytes', time.monotonic() - start)
    outcome = self._run(work, readings)
    if outcome.word == client.HOST:
      self._sandbox.close()
      try:
        self._sandbox = self._start()
        outcome = self._run(work, readings)
      except SandboxError as error:
        outcome = Outcome(client.HOST, str(error), 0.0)
    return Graded(_VERDICTS[outcome.word], _shown(outcome.reason), time.monotonic() - start)

  def _run(self, work: UnitTests, readings: list[str]) -> Outcome:
    program = {'programs': readings, 'before': list(work.before), 'after': list(work.after), 'seed': work.seed}
    return self._sandbox.run(program, work.tests)

  def close(self) -> None:
    """Ends every process of the sandbox."""
    self._sandbox.close()

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()


def _shown(reason: str) -> str:
  """The reason for a log: the program wrote some of it, so nothing that moves a cursor or can't be encoded."""
  return ''.join(character if character.isprintable() else ' ' for character in reason[:_SHOWN])


def layers() -> Layers:
  """Which layers hold on this host, by trying them; print it where programs are graded."""
  sandbox = Sandbox(Limits(), CHOICES)
  sandbox.close()
  return sandbox.layers
