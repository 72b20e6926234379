# SPDX-License-Identifier: Apache-2.0
"""SIGTERM and Ctrl-C: the process ends with exit code 75, and a run saves what is done first.

Python runs a signal's handler between two bytecodes of the main thread, which are minutes apart while XLA compiles. So
a thread, woken by the signal itself, ends the process after the grace period.
"""

from collections.abc import Callable, Iterator
import contextlib
import os
import signal
import socket
import sys
import threading
import time
import types

_CODE = 75
_SIGNALS = (signal.SIGTERM, signal.SIGINT)

# The first signal that came; seconds of grace, where no run has set its own; a file descriptor.
_state = types.SimpleNamespace(signal=None, deferred=False, grace=25.0, last_resort=None, wakeups=None)


def install() -> None:
  """Takes SIGTERM and SIGINT, in the main thread, before anything slow is imported."""
  if _state.wakeups is not None:
    return
  ours, pythons = socket.socketpair()
  pythons.setblocking(False)
  _state.wakeups = pythons.detach()  # stays open as long as the process
  signal.set_wakeup_fd(_state.wakeups, warn_on_full_buffer=False)
  threading.Thread(target=_count_down, args=(ours,), name='signals', daemon=True).start()
  for number in _SIGNALS:
    signal.signal(number, _handle)


def requested() -> bool:
  """Tells whether a signal asked this process to end."""
  return _state.signal is not None


def request() -> None:
  """Acts as if a signal had come: for a notice from another host."""
  _state.signal = signal.SIGTERM


def name() -> str:
  """Returns the name of the signal that came."""
  return signal.Signals(_state.signal).name if _state.signal else 'no signal'


def over() -> None:
  """Ignores signals once the work is done: Python, as it ends, gives them back their default."""
  for number in _SIGNALS:
    signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def deferred(grace: float, last_resort: Callable[[], None]) -> Iterator[None]:
  """Lets a signal inside only set `requested`; whoever reads that saves and leaves.

  Without `install`, as when Python calls `train`, signals are taken in the main thread and inside only; nothing ends
  the process, and a second Ctrl-C interrupts as usual. After `grace` seconds a thread calls `last_resort`, which may
  save, and ends the process.
  """
  borrowed = _state.wakeups is None and threading.current_thread() is threading.main_thread()
  before = {number: signal.signal(number, _handle) for number in _SIGNALS} if borrowed else {}
  _state.deferred, _state.grace, _state.last_resort = True, grace, last_resort
  try:
    yield
  finally:
    _state.deferred, _state.last_resort = False, None
    for number, handler in before.items():
      signal.signal(number, handler or signal.SIG_DFL)
      _state.signal = None


def _handle(number: int, frame: object) -> None:
  if _state.signal is not None:
    if number == signal.SIGINT and _state.wakeups is None:
      signal.default_int_handler(number, frame)
    if number == signal.SIGINT:
      _end('stopped at once; run the same command again to go on from the last checkpoint')
    return
  _state.signal = number
  if _state.deferred:
    within = '' if _state.wakeups is None else f' (at most {_state.grace:.0f} s)'
    _print(f'{name()}: stopping after this step{within}')
    return
  _print(f'stopped by {name()}; run the same command again')
  raise SystemExit(_CODE)  # no Exception: nothing that is being imported or loaded may catch it


def _count_down(wakeups: socket.socket) -> None:
  """Ends the process when it outlasts the first signal and the grace period."""
  while not set(wakeups.recv(64)) & set(_SIGNALS):
    pass
  time.sleep(_state.grace)
  if (save := _state.last_resort) is not None:
    # This may hang as well, with a file system.
    saving = threading.Thread(target=save, name='last resort', daemon=True)
    saving.start()
    saving.join(_state.grace)
  _end(f'the work under way outlasted {_state.grace:.0f} s; stopped, run the same command again')


def _end(text: str) -> None:
  _print(text)
  os._exit(_CODE)


def _print(text: str) -> None:
  with contextlib.suppress(OSError):  # not print: the handler may have interrupted one
    os.write(sys.__stderr__.fileno(), f'\n{text}\n'.encode())
