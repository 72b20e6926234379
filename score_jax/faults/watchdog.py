"""A run that hangs is ended, so that it can be started again.

The main thread says what it is doing (`phase`); a phase may take a number of times its slowest so far. When that is
over, a thread writes all Python stacks to WORKDIR/stuck-*.txt and ends the process with exit code 75. A main thread
that is stuck in C code and holds the interpreter's lock stops that thread too, so a second, tiny process (`watcher.py`)
knows the deadline as well, asks for the stacks by a signal that needs no interpreter, and kills.
"""

from collections.abc import Iterator
import contextlib
import dataclasses
import faulthandler
import os
import pathlib
import signal
import struct
import subprocess
import sys
import threading
import time

_CODE = 75
_TICK = 0.5  # seconds between looks at the clock
_ASLEEP = 10.0  # a gap between looks that means that all of this process was suspended
_BETWEEN = 'what lies between phases'  # a phase like any other, so that nothing is unwatched


@dataclasses.dataclass(frozen=True)
class Patience:
  """How long a phase may take, in seconds."""

  first: float  # the first time, when programs are compiled
  floor: float  # later, at least
  factor: float  # later, times the slowest so far

  def of(self, slowest: float | None) -> float:
    """Of a phase whose slowest was that; None: it has not ended yet."""
    return max(self.first, self.floor) if slowest is None else max(self.floor, self.factor * slowest)


class Watchdog:
  """Watches the phases of this process until it is closed."""

  def __init__(self, folder: pathlib.Path, patience: Patience):
    self._folder, self._patience = folder, patience
    self._slowest: dict[str, float] = {}
    self._phases = [_BETWEEN]
    self._closed = threading.Event()
    self._start_watcher()
    self.beat(learn=False)
    threading.Thread(target=self._watch, name='watchdog', daemon=True).start()

  @contextlib.contextmanager
  def phase(self, name: str) -> Iterator[None]:
    """Around a piece of work of a kind; within another one, that one's clock begins anew afterwards."""
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
    """The phase goes on to its next part, which has its own deadline."""
    if learn:
      self._learn()
    self._begun = time.monotonic()
    self._set_deadline(self._begun + self._patience.of(self._slowest.get(self._phases[-1])))

  def close(self) -> None:
    """Watches no longer."""
    self._closed.set()
    faulthandler.unregister(signal.SIGUSR1)
    os.close(self._stacks)
    os.close(self._to_watcher)
    self._watcher.wait()

  def _learn(self) -> None:
    name, took = self._phases[-1], time.monotonic() - self._begun
    self._slowest[name] = max(took, self._slowest.get(name, 0.0))

  def _start_watcher(self) -> None:
    """Two pipes: deadlines go there; stacks are written into the other by faulthandler's own C code."""
    deadlines, self._to_watcher = os.pipe()
    stacks, into = os.pipe()
    os.set_blocking(self._to_watcher, False)
    self._watcher = subprocess.Popen(
      [sys.executable, '-I', '-S', str(pathlib.Path(__file__).with_name('watcher.py')), str(os.getpid()), self._folder],
      stdin=deadlines,
      stdout=subprocess.DEVNULL,
      pass_fds=(stacks,),
      env=dict(STACKS=str(stacks)),
      cwd='/' if self._folder.is_absolute() else None,
      start_new_session=True,
    )
    os.close(deadlines)
    os.close(stacks)
    os.set_blocking(into, False)
    self._stacks = into  # kept open
    faulthandler.register(signal.SIGUSR1, file=into, all_threads=True)

  def _set_deadline(self, deadline: float) -> None:
    self._deadline = deadline
    with contextlib.suppress(OSError):  # it is gone, or its pipe is full: the thread still watches
      os.write(self._to_watcher, struct.pack('d', deadline))

  def _watch(self) -> None:
    before = time.monotonic()
    while not self._closed.wait(_TICK):
      now = time.monotonic()
      if now - before > _ASLEEP:  # suspended with the main thread, by a person
        self._set_deadline(self._deadline + now - before)
      before = now
      if now > self._deadline:
        self._end(now)

  def _end(self, now: float) -> None:
    say = (
      f'stuck in {self._phases[-1]} for {now - self._begun:.1f} s; ended, run the same command again '
      '(config.faults.stuck_* say how long a phase may take)'
    )
    with contextlib.suppress(Exception):
      print(f'\n{say}', file=sys.stderr, flush=True)
      faulthandler.dump_traceback(all_threads=True)
      if self._folder.is_dir():
        with (self._folder / f'stuck-{time.strftime("%Y%m%d-%H%M%S")}-{os.getpid()}.txt').open('w') as file:
          file.write(f'{say}\n\n')
          file.flush()
          faulthandler.dump_traceback(file, all_threads=True)
    os._exit(_CODE)


_current: Watchdog | None = None


@contextlib.contextmanager
def watching(folder: str | os.PathLike, patience: Patience) -> Iterator[None]:
  """Inside, phases have deadlines; with a factor of 0, none.

  Args:
    folder: of the run, for the stacks.
    patience: how long a phase may take.
  """
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
  """Around a piece of the main thread's work; nothing where nobody watches."""
  if _current is None:
    yield
    return
  with _current.phase(name):
    yield


def beat() -> None:
  """Between the parts of a long phase."""
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
