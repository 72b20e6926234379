"""One process in a run folder at a time.

`flock` decides on one machine, and dies with its process. Other machines that share the folder may not see it, so the
lock file also says who holds it and changes every few seconds. A lock of another machine whose text stands still is a
dead one's; finding that out takes `_PATIENCE` seconds, once, after a machine vanished.
"""

import contextlib
import errno
import fcntl
import json
import os
import pathlib
import socket
import threading
import time
from typing import Any

from score_jax.errors import ConfigError

NAME = '.lock'
_BEAT = 5.0  # seconds between changes of the text
_PATIENCE = 3 * _BEAT + 1
_LENGTH = 512  # bytes of the file, always: a new text is laid over the old one, so that no reader finds half of it
_NO_FLOCK = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)

_held: dict[pathlib.Path, tuple[int, threading.Event, threading.Thread]] = {}  # file, what ends its thread, that thread


def take(folder: pathlib.Path) -> None:
  """Takes the folder until this process ends. A folder that this process has already is taken.

  Raises:
    ConfigError: another process is at work in it.
  """
  path = folder.resolve() / NAME
  if path in _held:
    return
  file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
  try:
    if _is_anothers(path, _flock(file)):
      raise BlockingIOError
  except BlockingIOError as error:
    os.close(file)
    holder = read(folder)
    raise ConfigError(
      f'run folder {folder} is in use by process {holder.get("pid", "?")} on {holder.get("host", "?")}; '
      'wait for it, end it, or choose another --workdir'
    ) from error
  os.ftruncate(file, 0)  # whatever wrote it, it may have been longer
  _write(file, 0)
  ended = threading.Event()
  thread = threading.Thread(target=_beat, args=(file, ended), name='lock', daemon=True)
  thread.start()
  _held[path] = file, ended, thread


def release(folder: pathlib.Path) -> None:
  """Gives the folder back before that."""
  if (held := _held.pop(folder.resolve() / NAME, None)) is not None:
    file, ended, thread = held
    ended.set()
    thread.join()  # the number of a closed file may soon be another's
    with contextlib.suppress(OSError):
      os.ftruncate(file, 0)
    os.close(file)


def read(folder: pathlib.Path) -> dict[str, Any]:
  """What the lock file says of who holds it, with the number of its `beat`; {} if nobody does."""
  try:
    text = json.loads((folder / NAME).read_text())
  except (OSError, ValueError):
    return {}
  return text if isinstance(text, dict) else {}


def _flock(file: int) -> bool:
  """Whether the file system has locks, and this process now has this one. Raises BlockingIOError if another has it."""
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    raise
  except OSError as error:
    if error.errno not in _NO_FLOCK:
      raise
    return False
  return True


def _beat(file: int, ended: threading.Event) -> None:
  beats = 0
  while not ended.wait(_BEAT):
    beats += 1
    with contextlib.suppress(OSError):
      _write(file, beats)


def _write(file: int, beat: int) -> None:
  text = json.dumps(dict(ourselves(), beat=beat)).ljust(_LENGTH - 1) + '\n'
  os.pwrite(file, text.encode(), 0)


def _is_anothers(path: pathlib.Path, flock: bool) -> bool:
  """Whether a living process that flock does not show holds the folder."""
  holder, ours = read(path.parent), ourselves()
  if not holder:
    return False
  if holder.get('host') == ours['host']:
    same_boot = holder.get('boot') == ours['boot']
    return not flock and same_boot and holder.get('pid') != ours['pid'] and _is_alive(holder.get('pid'))
  until = time.monotonic() + _PATIENCE
  while time.monotonic() < until:
    time.sleep(0.2)
    if read(path.parent) != holder:
      return True
  return False


def _is_alive(pid: object) -> bool:
  """Whether there is a process of this number on this machine."""
  try:
    os.kill(int(pid), 0)
  except (TypeError, ValueError, ProcessLookupError):
    return False
  except PermissionError:
    return True
  return True


def ourselves() -> dict[str, Any]:
  """What tells this process from others, on all machines."""
  boot = ''
  with contextlib.suppress(OSError):
    boot = pathlib.Path('/proc/sys/kernel/random/boot_id').read_text().strip()
  return dict(host=socket.gethostname(), boot=boot, pid=os.getpid())
