# SPDX-License-Identifier: Apache-2.0
"""Runs graders in separate processes, which are bounded, and replaced when they die or stick.

A verdict must not depend on how busy the machine is. So a worker counts its own CPU time. If it dies by that limit, the
answer is at fault (TIMEOUT); otherwise the host is, which gets one more try in a fresh process (then ERROR).
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

from score_jax.core_types import Graded, Verdict
from score_jax.errors import ConfigError, UserError
from score_jax.graders import messages, registry, user_file
from score_jax.graders.registry import GradingSpec

_PACKAGE = pathlib.Path(__file__).parent.parent.parent
_MOST_WORKERS = 64
_START_SECONDS = 120.0  # to import the grader on a busy machine
_PATIENCE_SECONDS = 120.0  # beyond an answer's limits; then a worker is stuck

Item = tuple[dict, str]  # reference, an attempt's text


class Grader(Protocol):
  """Grades batches of attempts."""

  description: str  # what a run prints about it at its start; '' if nothing

  def grade(self, items: Sequence[Item]) -> list[Graded]:
    """Returns a verdict for each item, in their order."""

  def close(self) -> None:
    """Ends its processes."""


def open_grader(name: str, spec: GradingSpec = registry.DEFAULT) -> Grader:
  """Opens a grader: in this process where its input bounds it, else as a pool.

  Raises:
    ConfigError: there is no grader of this name.
    UserError: this machine cannot run it safely.
  """
  entry = registry.entry(name)
  return Pool(name, spec) if entry.out_of_process else InProcess(entry.load(spec).grade)


@dataclasses.dataclass(frozen=True)
class InProcess:
  """A grader that needs no bounds."""

  grade_one: registry.Grade
  description: str = ''

  def grade(self, items: Sequence[Item]) -> list[Graded]:
    """Returns a verdict for each item, in their order."""
    return [self.grade_one(reference, text) for reference, text in items]

  def close(self) -> None:
    """Does nothing: there is no process to end."""


class Pool:
  """Hands answers to a fixed number of workers, one at a time to each."""

  def __init__(self, name: str, spec: GradingSpec):
    """Starts the workers. Raises UserError if the grader cannot run on this machine."""
    count = min(spec.workers or os.cpu_count() or 1, _MOST_WORKERS)
    self._free: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
    self._workers = []
    atexit.register(self.close)
    try:
      for number in range(count):
        self._workers.append(_Worker(name, spec))
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
    """Returns a verdict for each item, in their order."""
    return list(self._threads.map(self._one, items))

  def close(self) -> None:
    """Ends the workers; may be called again."""
    atexit.unregister(self.close)
    for worker in self._workers:
      worker.kill()

  @property
  def description(self) -> str:
    """What the grader reports about this machine."""
    return self._workers[0].description

  @property
  def pids(self) -> list[int]:
    """The process ids of the workers."""
    return [worker.pid for worker in self._workers]

  def _one(self, item: Item) -> Graded:
    worker = self._free.get()
    try:
      return worker.grade(*item)
    finally:
      self._free.put(worker)


def command(name: str, spec: GradingSpec) -> list[str]:
  """Returns the command line that starts a worker."""
  return [sys.executable, '-m', 'score_jax.graders.worker', name, json.dumps(dataclasses.asdict(spec))]


def _python_path() -> str:
  """Returns where workers find packages: where this process does, though their working directory is another."""
  own = filter(None, os.environ.get('PYTHONPATH', '').split(os.pathsep))
  return os.pathsep.join([os.fspath(_PACKAGE), *map(os.path.abspath, own)])


def _user_error(message: dict) -> UserError:
  error = UserError(message['error'])
  error.exit_code = message['exit_code']
  return error


class _Died(Exception):
  """A worker ended or failed at an answer, or was silent for too long."""

  def __init__(self, reason: str, own_limit: bool = False, sound: bool = False):
    super().__init__(reason)
    self.own_limit = own_limit  # of the answer
    self.sound = sound  # the process can go on


class _Worker:
  """One process and its pipes."""

  def __init__(self, name: str, spec: GradingSpec):
    self._command = command(name, spec)
    self._own = user_file.find(name, 'reward') if user_file.is_user_function(name) else None
    self._label = f'the grader {self._own.label}' if self._own else 'the grader'
    self._memory_mb = spec.memory_mb
    # Each of many tests may run a program up to its limit; the patience covers them together.
    self._patience = _PATIENCE_SECONDS + 10 * spec.cpu_seconds + spec.wall_seconds
    self._environment = spec.environment
    self._start()

  @property
  def pid(self) -> int:
    """The process id."""
    return self._process.pid

  def wait(self) -> None:
    """Waits until the process can grade.

    Raises:
      UserError: it reports that it cannot.
      ConfigError: it died, or is not ready in time.
    """
    if self._ready:
      return
    try:
      message = messages.receive_json(self._process.stdout.fileno(), _START_SECONDS)
    except (messages.Closed, messages.Late) as error:
      self.kill()
      process, remedy = 'a grader process', 'see its message above'
      if self._own:
        process, remedy = f'{self._own.path}: its process', 'correct what it does when imported'
      reason = f'did not start ({error}, exit {self._process.returncode})'
      raise ConfigError(
        f'{process} {reason}; {remedy}, or raise config.grading.memory_mb = {self._memory_mb}'
      ) from error
    if 'error' in message:
      self.kill()
      raise _user_error(message)
    self._ready, self.description = True, message['description']

  def grade(self, reference: dict, text: str) -> Graded:
    """Returns a verdict; ERROR if this host failed twice."""
    for retry in (True, False):
      try:
        return self._grade_once(reference, text)
      except _Died as death:
        reason = f'{death}, twice'
        if death.sound:  # a function of the user's, which the run reports
          continue
        self._restart()
        if death.own_limit:
          return Graded(Verdict.TIMEOUT)
        logging.warning('%s %s; %s', self._label, death, 'trying again' if retry else 'verdict: error')
        reason = f'{self._label} {reason}'
    return Graded(Verdict.ERROR, reason[:500])

  def kill(self) -> None:
    """Ends the process, whatever it is doing."""
    if self._process.returncode is None:  # else its number may be another's by now
      with contextlib.suppress(ProcessLookupError):
        os.killpg(self._process.pid, signal.SIGKILL)  # and what it has started
    self._process.wait()
    self._process.stdin.close()
    self._process.stdout.close()

  def _start(self) -> None:
    # The worker inherits nothing of this process's environment but what config.grading names, and where packages lie:
    # no tokens, proxies or settings of libraries. One thread each: there is a worker for every core.
    clean = dict(PYTHONPATH=_python_path(), PYTHONHASHSEED='0', PATH=os.defpath, LANG='C.UTF-8')
    clean |= dict.fromkeys(('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS'), '1')
    clean |= {name: os.environ[name] for name in self._environment}
    # Standard error is the run's until the worker can grade, so that a broken installation is seen.
    # A new session: a signal to the run's group (Ctrl-C) must not end graders before the run has saved.
    self._process = subprocess.Popen(
      self._command,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      env=clean,
      cwd='/',
      bufsize=0,
      start_new_session=True,
    )
    self._ready, self.description = False, ''
    if self._own:  # as it was when the run began, which processes of a later start load too
      with contextlib.suppress(messages.Closed):  # `wait` tells
        messages.send_json(self._process.stdin.fileno(), dict(file=self._own.content.decode('latin-1')))

  def _restart(self) -> None:
    self.kill()
    self._start()

  def _ended(self) -> int:
    """Waits for the process's end and returns its exit code; `kill` then ends what it has started."""
    ended = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
    return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status

  def _grade_once(self, reference: dict, text: str) -> Graded:
    try:
      self.wait()
      messages.send_json(self._process.stdin.fileno(), dict(reference=reference, text=text))
      message = messages.receive_json(self._process.stdout.fileno(), self._patience)
    except messages.Late as error:
      raise _Died(f'was silent for {self._patience:.0f} s') from error
    except messages.Closed as error:
      ended = self._ended()
      raise _Died(f'died (exit {ended})', own_limit=ended == -signal.SIGXCPU) from error
    except ConfigError as error:
      if self._own:
        raise
      raise _Died(str(error)) from error
    if 'error' in message:
      raise _user_error(message)
    if 'raised' in message:
      raise _Died(message['raised'], sound=message['sound'])
    if message.pop('last'):
      self._restart()
    return Graded(Verdict(message.pop('verdict')), **message)
