# SPDX-License-Identifier: Apache-2.0
"""From a text to a verdict: its program is run on tests, in a sandbox. See docs/sandbox.md."""

import time

from score_jax.core_types import Graded, Verdict
from score_jax.errors import SandboxError
from score_jax.graders.code import extract, unit_tests
from score_jax.graders.code.sandbox import client, judge
from score_jax.graders.code.sandbox import layers as sandbox_layers
from score_jax.graders.code.sandbox.limits import Limits

_LIMITS = Limits()
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
  """Grades one program at a time, in a grader process, never in the trainer's.

  The sandbox ends with the thread that started it; use from another thread starts it anew.
  """

  def __init__(self, limits: Limits = _LIMITS, unsafe: bool = False, use: tuple[str, ...] = sandbox_layers.CHOICES):
    """Starts the sandbox.

    Args:
      limits: of each program.
      unsafe: run programs even where layers are missing.
      use: the layers to try; only tests pass fewer.

    Raises:
      SandboxError: too few layers hold, or the sandbox does not start.
    """
    self._limits = limits
    self._unsafe = unsafe
    self._use = use
    self._sandbox = self._start()

  def _start(self) -> client.Sandbox:
    sandbox = client.Sandbox(self._limits, self._use)
    if sandbox.layers.enough or self._unsafe:
      return sandbox
    sandbox.close()
    raise SandboxError(
      f'programs of a model cannot be run here: {sandbox.layers}. A system call filter (seccomp) is needed: run on '
      'Linux x86-64 or aarch64, in a container with its default seccomp profile or none; or, where nothing on this '
      'machine is worth protecting, run programs unprotected with the flag `unsafe`'
    )

  @property
  def layers(self) -> sandbox_layers.Layers:
    """The layers that held when the sandbox started."""
    return self._sandbox.layers

  def grade(self, reference: dict, text: str) -> Graded:
    """Returns CORRECT if the program in `text` passes all tests of `reference`.

    Otherwise WRONG, UNPARSED (no program), TIMEOUT, or ERROR (the host failed twice); `answer` is then the reason, up
    to 200 characters. A program has the same verdict every time, unless it reads a clock.

    Raises:
      DataError: the reference is not one (see unit_tests.py).
    """
    start = time.monotonic()
    problem = unit_tests.read(reference)
    extracted = extract.extract(text[:_LONGEST], problem.names, problem.prompt)
    if not extracted.programs:
      return Graded(Verdict.UNPARSED, 'no program in the text', time.monotonic() - start)
    if extracted.size > self._limits.source_bytes:
      return Graded(Verdict.WRONG, f'longer than {self._limits.source_bytes} bytes', time.monotonic() - start)
    outcome = self._run(problem, extracted)
    if outcome.word == client.HOST:
      self._sandbox.close()
      try:
        self._sandbox = self._start()
        outcome = self._run(problem, extracted)
      except SandboxError as error:
        outcome = client.Outcome(client.HOST, str(error), 0.0)
    return Graded(_VERDICTS[outcome.word], _shown(outcome.reason), time.monotonic() - start)

  def _run(self, problem: unit_tests.UnitTests, extracted: extract.Extracted) -> client.Outcome:
    job = dict(
      programs=list(extracted.programs),
      others=list(extracted.others),
      names=list(problem.names),
      before=list(problem.before),
      after=list(problem.after),
      seed=problem.seed,
    )
    return self._sandbox.run(job, problem.tests)

  def close(self) -> None:
    """Ends every process of the sandbox."""
    self._sandbox.close()

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()


def _shown(reason: str) -> str:
  """Returns the reason, of which the program wrote some, as a log may show it."""
  return ''.join(character if character.isprintable() else ' ' for character in reason[:_SHOWN])


def layers() -> sandbox_layers.Layers:
  """Tries which layers hold on this host."""
  sandbox = client.Sandbox(Limits(), sandbox_layers.CHOICES)
  sandbox.close()
  return sandbox.layers
