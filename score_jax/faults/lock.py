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

from score_jax.errors import ConfigError

NAME = '.lock'
_BEAT = 5.0  # seconds between changes of the text
_PATIENCE = 3 * _BEAT + 1
_LENGTH = 512  # bytes of the file, always: a new text is laid over the old one, so that no reader finds half of it
_NO_FLOCK = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)

_held: dict[pathlib.Path, '_Lock'] = {}


def take(folder: pathlib.Path) -> None:
  """Takes the folder until this process ends. A folder that this process has already is its own.

  Raises:
    ConfigError: another process is at work in it.
  """
  path = folder.resolve() / NAME
  if path not in _held:
    _held[path] = _Lock(path)


def release(folder: pathlib.Path) -> None:
  """Gives it back before that."""
  if (lock := _held.pop(folder.resolve() / NAME, None)) is not None:
    lock.release()


class _Lock:
  """A lock that is held."""

  def __init__(self, path: pathlib.Path):
    self._path, self._beats = path, 0
    self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    flock = True
    try:
      fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      raise self._refusal() from error
    except OSError as error:
      if error.errno not in _NO_FLOCK:
        raise
      flock = False
    if self._is_anothers(flock):
      raise self._refusal()
    self._ended = threading.Event()
    os.ftruncate(self._file, 0)  # whatever wrote it, it may have been longer
    self._write()
    self._thread = threading.Thread(target=self._beat, name='lock', daemon=True)
    self._thread.start()

  def release(self) -> None:
    self._ended.set()
    self._thread.join()  # the number of a closed file may soon be another's
    with contextlib.suppress(OSError):
      os.ftruncate(self._file, 0)
    os.close(self._file)

  def _beat(self) -> None:
    while not self._ended.wait(_BEAT):
      with contextlib.suppress(OSError):
        self._write()

  def _write(self) -> None:
    self._beats += 1
    text = json.dumps(dict(ourselves(), beat=self._beats)).ljust(_LENGTH - 1) + '\n'
    os.pwrite(self._file, text.encode(), 0)

  def _text(self) -> str:
    with contextlib.suppress(OSError):
      return self._path.read_text()
    return ''

  def _holder(self) -> dict:
    try:
      found = json.loads(self._text())
    except ValueError:
      return {}
    return found if isinstance(found, dict) else {}

  def _is_anothers(self, flock: bool) -> bool:
    """Whether a living process that flock does not show holds the folder."""
    holder, ours = self._holder(), ourselves()
    if not holder:
      return False
    if holder.get('host') == ours['host']:
      same_boot = holder.get('boot') == ours['boot']
      return not flock and same_boot and holder.get('pid') != ours['pid'] and is_alive(holder.get('pid'))
    before, until = self._text(), time.monotonic() + _PATIENCE
    while time.monotonic() < until:
      time.sleep(0.2)
      if self._text() != before:
        return True
    return False

  def _refusal(self) -> ConfigError:
    holder = self._holder()
    os.close(self._file)
    return ConfigError(
      f'run folder {self._path.parent} is in use by process {holder.get("pid", "?")} on {holder.get("host", "?")}; '
      'wait for it, end it, or choose another --workdir'
    )


def is_alive(pid: object) -> bool:
  """Whether there is a process of this number on this machine."""
  try:
    os.kill(int(pid), 0)
  except (TypeError, ValueError, ProcessLookupError):
    return False
  except PermissionError:
    return True
  return True


def ourselves() -> dict:
  """What tells this process from others, on all machines."""
  boot = ''
  with contextlib.suppress(OSError):
    boot = pathlib.Path('/proc/sys/kernel/random/boot_id').read_text().strip()
  return dict(host=socket.gethostname(), boot=boot, pid=os.getpid())
