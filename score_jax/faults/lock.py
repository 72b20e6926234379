# SPDX-License-Identifier: Apache-2.0
"""One process in a run folder at a time.

`flock` decides on one machine. Others may not see it, so the file also names its holder and changes every few seconds;
one that stands still for `_PATIENCE` seconds is a dead one's.
"""

import contextlib
import errno
import fcntl
import itertools
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
_LENGTH = 512  # bytes of the file, always: a new text is laid over the old
_NO_FLOCK = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)

_held: set[pathlib.Path] = set()


def take(folder: pathlib.Path) -> None:
  """Takes the folder until this process ends; ConfigError: another process is at work in it."""
  path = folder.resolve() / NAME
  if path in _held:
    return
  file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
  if _is_anothers(file, folder):
    os.close(file)
    holder = dict(pid='?', host='?') | read(folder)
    user = f'process {holder["pid"]} on {holder["host"]}'
    raise ConfigError(f'run folder {folder} is in use by {user}; wait for it, end it, or choose another --workdir')
  os.ftruncate(file, 0)  # it may have been longer
  _write(file, 0)
  threading.Thread(target=_beat, args=(file,), name='lock', daemon=True).start()
  _held.add(path)


def read(folder: pathlib.Path) -> dict[str, Any]:
  """Returns the holder's host, pid and number of `beat`; {} if nobody has it."""
  try:
    holder = json.loads((folder / NAME).read_text())
  except (OSError, ValueError):
    return {}
  return holder if isinstance(holder, dict) else {}


def ourselves() -> dict[str, Any]:
  """Returns what tells this process from all others."""
  return dict(host=socket.gethostname(), pid=os.getpid())


def _is_anothers(file: int, folder: pathlib.Path) -> bool:
  """Tells whether a living process holds the folder; else this one has its machine's lock now."""
  has_flock = True
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    return True
  except OSError as error:
    if error.errno not in _NO_FLOCK:
      raise
    has_flock = False
  holder, until = read(folder), time.monotonic() + _PATIENCE
  if not holder or has_flock and holder.get('host') == ourselves()['host']:
    return False
  while time.monotonic() < until:
    time.sleep(0.2)
    if read(folder) != holder:
      return True
  return False


def _beat(file: int) -> None:
  for beat in itertools.count(1):
    time.sleep(_BEAT)
    with contextlib.suppress(OSError):
      _write(file, beat)


def _write(file: int, beat: int) -> None:
  text = json.dumps(dict(ourselves(), beat=beat)).ljust(_LENGTH - 1) + '\n'
  os.pwrite(file, text.encode(), 0)
