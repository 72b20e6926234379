"""A run that hangs is ended, so that it can be started again.

The main thread says what it is doing (`phase`); a phase may take a number of times its slowest so far. A second, tiny
process (`watcher.py`) knows the deadline. When that is over, it asks for the stacks of all threads by a signal that
needs no interpreter, writes them to WORKDIR/stuck-*.txt, and tells a thread of this process to end it with exit code
75. Code that holds the interpreter's lock stops that thread too; then the watcher kills.
"""

from collections.abc import Iterator
import contextlib
import dataclasses
import faulthandler
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

_CODE = 75
_BETWEEN = 'what lies between phases'  # a phase like any other, so that nothing is unwatched


@dataclasses.dataclass(frozen=True)
class Patience:
  """How long a phase may take, in seconds."""

  first: float  # the first time, when programs are compiled
  floor: float  # later, at least
  factor: float  # later, times the slowest so far

  def of(self, slowest: float | None) -> float:
    """Returns the patience with a phase whose slowest took `slowest`; None: it has not ended yet."""
    return max(self.first, self.floor) if slowest is None else max(self.floor, self.factor * slowest)


class Watchdog:
  """Watches the phases of this process until it is closed."""

  def __init__(self, folder: pathlib.Path, patience: Patience):
    self._patience, self._slowest, self._phases = patience, {}, [_BETWEEN]
    lines, self._to_watcher = os.pipe()
    stacks, self._stacks = os.pipe()  # written by faulthandler's own C code
    self._asked, end = os.pipe()
    script = str(pathlib.Path(__file__).with_name('watcher.py'))
    self._watcher = subprocess.Popen(
      [sys.executable, '-I', '-S', script, str(os.getpid()), folder, str(stacks), str(end)],
      stdin=lines,
      stdout=subprocess.DEVNULL,
      pass_fds=(stacks, end),
      env={},
      cwd='/' if folder.is_absolute() else None,
      start_new_session=True,
    )
    for file in (lines, stacks, end):
      os.close(file)
    for file in (self._to_watcher, self._stacks):
      os.set_blocking(file, False)
    faulthandler.register(signal.SIGUSR1, file=self._stacks, all_threads=True)
    self._thread = threading.Thread(target=self._end_if_asked, name='watchdog', daemon=True)
    self._thread.start()
    self.beat(learn=False)

  @contextlib.contextmanager
  def phase(self, name: str) -> Iterator[None]:
    """Surrounds a piece of work of a kind; within another one, that one's clock begins anew afterwards."""
    if self._phases == [_BETWEEN]:
      self._learn()
    self._phases.append(name)
    self.beat(learn=False)
    try:
      yield
      self._learn()
    finally:
      self._phases.pop()
      self.beat(learn=False)

  def beat(self, learn: bool = True) -> None:
    """Begins the next part of a phase, which has its own deadline."""
    if learn:
      self._learn()
    name, self._begun = self._phases[-1], time.monotonic()
    deadline = self._begun + self._patience.of(self._slowest.get(name))
    with contextlib.suppress(OSError):  # it is gone, or its pipe is full
      os.write(self._to_watcher, json.dumps(dict(name=name, begun=self._begun, deadline=deadline)).encode() + b'\n')

  def close(self) -> None:
    """Stops watching."""
    os.close(self._to_watcher)
    self._watcher.wait()
    self._thread.join()
    faulthandler.unregister(signal.SIGUSR1)
    os.close(self._stacks)
    os.close(self._asked)

  def _learn(self) -> None:
    name, took = self._phases[-1], time.monotonic() - self._begun
    self._slowest[name] = max(took, self._slowest.get(name, 0.0))

  def _end_if_asked(self) -> None:
    if os.read(self._asked, 1):
      os._exit(_CODE)


_current: Watchdog | None = None


@contextlib.contextmanager
def watching(folder: str | os.PathLike, patience: Patience) -> Iterator[None]:
  """Gives phases deadlines inside, unless the factor of `patience` is 0; stacks go to `folder`, the run's."""
  global _current
  if not patience.factor:
    yield
    return
  _current = Watchdog(pathlib.Path(folder), patience)
  try:
    yield
  finally:
    _current.close()
    _current = None


@contextlib.contextmanager
def phase(name: str) -> Iterator[None]:
  """Surrounds a piece of the main thread's work; does nothing where nobody watches."""
  if _current is None:
    yield
    return
  with _current.phase(name):
    yield


def beat() -> None:
  """Begins the next part of a long phase."""
  if _current is not None:
    _current.beat()


class Clock:
  """Seconds by phase of a step, each watched."""

  def __init__(self):
    self.seconds: dict[str, float] = {}

  @contextlib.contextmanager
  def __call__(self, name: str) -> Iterator[None]:
    """Times a phase."""
    begun = time.perf_counter()
    with phase(name):
      yield
    self.seconds[name] = round(time.perf_counter() - begun, 4)
