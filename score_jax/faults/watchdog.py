# SPDX-License-Identifier: Apache-2.0
"""A run that hangs is ended, so that it can be started again.

The main thread says what it does (`phase`). A second process, this file run by its path, knows each deadline. When one
is over, a signal that needs no interpreter yields all threads' stacks, for WORKDIR/stuck-*.txt, and a thread ends the
run with exit code 75. Where the interpreter's lock stops that too, the second process kills.
"""

from collections.abc import Iterator
import contextlib
import dataclasses
import faulthandler
import json
import os
import pathlib
import select
import signal
import subprocess
import sys
import threading
import time

_CODE = 75
_BETWEEN = 'what lies between phases'  # so that nothing is unwatched
_MARGIN = 5.0  # seconds in which the run's own thread can end it


@dataclasses.dataclass(frozen=True)
class Patience:
  """How long a phase may take, in seconds."""

  first: float  # the first time, when programs are compiled
  floor: float  # later, at least
  factor: float  # later, times the slowest so far

  def of(self, slowest: float | None) -> float:
    """Returns the patience with a phase by its slowest; None: it has not ended yet."""
    return max(self.floor, self.first if slowest is None else self.factor * slowest)


class _Watchdog:
  """The run's side of the second process."""

  def __init__(self, folder: str, patience: Patience):
    self._patience, self._slowest, self.phases = patience, {}, [_BETWEEN]
    lines, self._to_watcher = os.pipe()
    stacks, self._stacks = os.pipe()  # written by faulthandler's own C code
    self._asked, end = os.pipe()
    arguments = map(str, (os.getpid(), os.path.abspath(folder), stacks, end))
    self._watcher = subprocess.Popen(
      [sys.executable, '-I', '-S', __file__, *arguments],
      stdin=lines,
      stdout=subprocess.DEVNULL,
      pass_fds=(stacks, end),
      env={},
      cwd='/',
      start_new_session=True,
    )
    for file in (lines, stacks, end):
      os.close(file)
    for file in (self._to_watcher, self._stacks):
      os.set_blocking(file, False)
    faulthandler.register(signal.SIGUSR1, file=self._stacks, all_threads=True)
    self._thread = threading.Thread(target=_end_if_asked, args=(self._asked,), name='watchdog', daemon=True)
    self._thread.start()
    self.begin()

  def begin(self) -> None:
    """Begins the newest phase or its next part, with a deadline."""
    name, self._begun = self.phases[-1], time.monotonic()
    deadline = self._begun + self._patience.of(self._slowest.get(name))
    line = json.dumps(dict(name=name, begun=self._begun, deadline=deadline))
    with contextlib.suppress(OSError):  # it is gone, or its pipe is full
      os.write(self._to_watcher, f'{line}\n'.encode())

  def learn(self) -> None:
    """Remembers how long the newest phase took."""
    name, took = self.phases[-1], time.monotonic() - self._begun
    self._slowest[name] = max(took, self._slowest.get(name, 0.0))

  def close(self) -> None:
    os.close(self._to_watcher)
    self._watcher.wait()
    self._thread.join()
    faulthandler.unregister(signal.SIGUSR1)
    os.close(self._stacks)
    os.close(self._asked)


def _end_if_asked(asked: int) -> None:
  if os.read(asked, 1):
    os._exit(_CODE)


_current: _Watchdog | None = None


@contextlib.contextmanager
def watching(folder: str | os.PathLike, patience: Patience) -> Iterator[None]:
  """Gives phases deadlines inside, unless the factor is 0; `folder` gets the stacks."""
  global _current
  if not patience.factor:
    yield
    return
  _current = _Watchdog(os.fspath(folder), patience)
  try:
    yield
  finally:
    _current.close()
    _current = None


@contextlib.contextmanager
def phase(name: str) -> Iterator[None]:
  """Surrounds a kind of work of the main thread; an outer phase's clock then begins anew."""
  watchdog = _current
  if watchdog is None:
    yield
    return
  if watchdog.phases == [_BETWEEN]:
    watchdog.learn()
  watchdog.phases.append(name)
  watchdog.begin()
  try:
    yield
    watchdog.learn()
  finally:
    watchdog.phases.pop()
    watchdog.begin()


def beat() -> None:
  """Begins the next part of a long phase, which has its own deadline."""
  if _current is not None:
    _current.learn()
    _current.begin()


class Clock:
  """Seconds by phase of a step, each watched."""

  def __init__(self):
    self.seconds: dict[str, float] = {}

  @contextlib.contextmanager
  def __call__(self, name: str) -> Iterator[None]:
    begun = time.perf_counter()
    with phase(name):
      yield
    self.seconds[name] = round(time.perf_counter() - begun, 4)


def _watch(pid: int, folder: str, stacks: int, end: int) -> None:
  """Reads what the run does, a JSON object a line, and ends it when it is late."""
  phase, looked, rest = dict(name='', begun=0.0, deadline=float('inf')), time.monotonic(), b''
  while True:
    if _is_readable(0, 1.0):
      if not (received := os.read(0, 65536)):
        return
      *whole, rest = (rest + received).split(b'\n')
      phase = json.loads(whole[-1]) if whole else phase
    now = time.monotonic()
    if _is_suspended(pid) or now - looked > 2 * _MARGIN:  # by a person (Ctrl-Z), or this process was
      phase['deadline'] += now - looked
    looked = now
    if now > phase['deadline']:
      os.kill(pid, signal.SIGUSR1)
      time.sleep(1)
      stuck = f'stuck in {phase["name"]} for {now - phase["begun"]:.1f} s'
      _write(f'stuck-%Y%m%d-%H%M%S-{pid}.txt', folder, stuck, stacks)
      os.write(end, b'x')
      while (left := now + _MARGIN - time.monotonic()) > 0 and _is_readable(0, left) and os.read(0, 65536):
        pass
      with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
      return


def _is_readable(file: int, seconds: float) -> bool:
  return bool(select.select([file], [], [], seconds)[0])


def _is_suspended(pid: int) -> bool:
  with contextlib.suppress(OSError, IndexError):
    return pathlib.Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] == 'T'
  return False


def _write(name: str, folder: str, head: str, stacks: int) -> None:
  """Writes a message and the stacks to standard error and the folder."""
  remedy = 'run the same command again (config.faults.stuck_* say how long a phase may take)'
  text = f'{head}; ended, {remedy}\n\n'
  if _is_readable(stacks, 0):
    text += os.read(stacks, 65536).decode(errors='replace')
  print(f'\n{text}', end='', file=sys.stderr, flush=True)
  if os.path.isdir(folder):
    pathlib.Path(folder, time.strftime(name)).write_text(text)


if __name__ == '__main__':
  _watch(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
