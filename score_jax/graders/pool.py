"""Grading in processes of their own: bounded, replaced when they die, and never waited for without end.

A verdict must not depend on how busy the machine is. So a worker counts its own CPU time, and what a worker's death
means is read from how it died: by its own limit (the answer's fault: TIMEOUT) or otherwise (the host's: one more try
in a fresh process, then ERROR).
"""

import atexit
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
import contextlib
import dataclasses
import json
import os
import pathlib
import queue
import signal
import subprocess
import sys
from typing import Protocol

from absl import logging

from score_jax.core_types import Graded
from score_jax.core_types import Verdict
from score_jax.errors import ConfigError
from score_jax.errors import UserError
from score_jax.graders import messages
from score_jax.graders import registry
from score_jax.graders.registry import GradingSpec

_PACKAGE = pathlib.Path(__file__).parent.parent.parent
_MOST_WORKERS = 64
_START_SECONDS = 120.0  # to import the verifier on a busy machine
_PATIENCE_SECONDS = 120.0  # beyond the limits of an answer: a worker that is silent for longer is stuck

Item = tuple[dict, str]  # reference, an attempt's text


class Grader(Protocol):
  """What grades a batch."""

  about: str  # what a run says of it as it starts; '' if nothing

  def grade(self, items: Sequence[Item]) -> list[Graded]:
    """A verdict for each item, in their order."""

  def close(self) -> None:
    """Ends its processes."""


def open_grader(verifier: str, spec: GradingSpec) -> Grader:
  """The grader of a verifier: in this process where it is bounded by its input's length, else a pool.

  Raises:
    ConfigError: there is no such verifier.
    UserError: this machine can not run it safely.
  """
  if verifier not in registry.VERIFIERS:
    raise ConfigError(f'verifier {verifier!r} is unknown; use one of {", ".join(registry.VERIFIERS)}')
  chosen = registry.VERIFIERS[verifier]
  return Pool(verifier, spec) if chosen.apart else InProcess(chosen.open(spec).grade)


@dataclasses.dataclass(frozen=True)
class InProcess:
  """A verifier that needs no bounds."""

  one: registry.Grade
  about: str = ''

  def grade(self, items: Sequence[Item]) -> list[Graded]:
    """A verdict for each item, in their order."""
    return [self.one(reference, text) for reference, text in items]

  def close(self) -> None:
    """Nothing to end."""


class Pool:
  """A fixed number of workers, each with one answer at a time."""

  def __init__(self, verifier: str, spec: GradingSpec):
    """Starts the workers, the first of which says whether the verifier can be run here.

    Raises:
      UserError: it can not.
    """
    count = min(spec.workers or os.cpu_count() or 1, _MOST_WORKERS)
    self._free: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
    self._workers = []
    atexit.register(self.close)
    try:
      for number in range(count):
        self._workers.append(_Worker(verifier, spec))
        if number == 0:
          self._workers[0].wait()
      for worker in self._workers:
        worker.wait()
        self._free.put(worker)
    except BaseException:
      self.close()
      raise
    self._threads = ThreadPoolExecutor(count, thread_name_prefix='grader')

  def grade(self, items: Sequence[Item]) -> list[Graded]:
    """A verdict for each item, in their order."""
    return list(self._threads.map(self._one, items))

  def close(self) -> None:
    """Ends the workers; may be called again."""
    atexit.unregister(self.close)
    for worker in self._workers:
      worker.kill()

  @property
  def about(self) -> str:
    """What the verifier says of this machine."""
    return self._workers[0].about

  @property
  def pids(self) -> list[int]:
    """Of the workers."""
    return [worker.pid for worker in self._workers]

  def _one(self, item: Item) -> Graded:
    worker = self._free.get()
    try:
      return worker.grade(*item)
    finally:
      self._free.put(worker)


def command(verifier: str, spec: GradingSpec) -> list[str]:
  """That starts a worker."""
  return [sys.executable, '-m', 'score_jax.graders.worker', verifier, json.dumps(dataclasses.asdict(spec))]


def _user_error(said: dict) -> UserError:
  """The error of a worker that is the input's or the machine's fault."""
  error = UserError(said['error'])
  error.exit_code = said['exit_code']
  return error


class _Died(Exception):
  """A worker ended in the middle of an answer, failed at it, or was silent for too long."""

  def __init__(self, why: str, own_limit: bool = False):
    super().__init__(why)
    self.own_limit = own_limit


class _Worker:
  """One process and its pipes."""

  def __init__(self, verifier: str, spec: GradingSpec):
    self._command = command(verifier, spec)
    # A program may be run for its limit for each of many tests; the patience is of the whole.
    self._patience = _PATIENCE_SECONDS + 10 * spec.cpu_seconds
    self._start()

  @property
  def pid(self) -> int:
    """Of the process."""
    return self._process.pid

  def wait(self) -> None:
    """Until the process can grade.

    Raises:
      UserError: it says that it can not.
      RuntimeError: it died, or is not ready in time.
    """
    if self._ready:
      return
    try:
      said = messages.receive_json(self._process.stdout.fileno(), _START_SECONDS)
    except (messages.Closed, messages.Late) as error:
      self.kill()
      raise RuntimeError(f'a grader process did not start ({error!r}, exit {self._process.returncode})') from error
    if 'error' in said:
      self.kill()
      raise _user_error(said)
    self._ready, self.about = True, said['about']

  def grade(self, reference: dict, text: str) -> Graded:
    """A verdict; ERROR if this host failed twice."""
    for retry in (True, False):
      try:
        return self._ask(reference, text)
      except _Died as death:
        self._restart()
        if death.own_limit:
          return Graded(Verdict.TIMEOUT)
        logging.warning('a grader process %s; %s', death, 'trying again' if retry else 'verdict: error')
        why = str(death)
    return Graded(Verdict.ERROR, f'the grader {why}, twice')

  def kill(self) -> None:
    """Ends the process, whatever it is doing."""
    with contextlib.suppress(ProcessLookupError):
      self._process.kill()
    self._process.wait()
    self._process.stdin.close()
    self._process.stdout.close()

  def _start(self) -> None:
    # Nothing of this process's environment goes there: tokens, proxies, settings of libraries.
    clean = dict(PYTHONPATH=os.fspath(_PACKAGE), PYTHONHASHSEED='0', PATH=os.defpath, LANG='C.UTF-8')
    # Standard error is the run's until the worker can grade, so that a broken installation is seen.
    # A group of its own: a signal to the run's group (Ctrl-C) must not end graders before the run has saved.
    self._process = subprocess.Popen(
      self._command,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      env=clean,
      cwd='/',
      bufsize=0,
      start_new_session=True,
    )
    self._ready, self.about = False, ''

  def _restart(self) -> None:
    self.kill()
    self._start()

  def _ask(self, reference: dict, text: str) -> Graded:
    try:
      self.wait()
      messages.send_json(self._process.stdin.fileno(), dict(reference=reference, text=text))
      said = messages.receive_json(self._process.stdout.fileno(), self._patience)
    except messages.Late as error:
      raise _Died(f'was silent for {self._patience:.0f} s') from error
    except messages.Closed as error:
      ended = self._process.wait()
      raise _Died(f'died (exit {ended})', own_limit=ended == -signal.SIGXCPU) from error
    except RuntimeError as error:
      raise _Died(str(error)) from error
    if 'error' in said:
      raise _user_error(said)
    if 'raised' in said:
      raise _Died(f'raised {said["raised"]}')
    if said['last']:
      self._restart()
    return Graded(Verdict(said['verdict']), said['answer'], said['seconds'])
