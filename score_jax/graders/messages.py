"""Messages between a run and its grader processes: JSON behind its length, over pipes."""

import json
import os
import select
import struct
import time
from typing import Any

_HEAD = struct.Struct('<I')


class Closed(Exception):
  """The other side is gone."""


class Late(Exception):
  """No answer came within the time given."""


def send(fd: int, message: Any) -> None:
  """Writes one message.

  Raises:
    Closed: nobody reads.
  """
  body = json.dumps(message).encode()  # ASCII: lone surrogates of a model's text are escaped
  data = memoryview(_HEAD.pack(len(body)) + body)
  try:
    while data:
      data = data[os.write(fd, data) :]
  except BrokenPipeError as error:
    raise Closed from error


def receive(fd: int, seconds: float | None = None) -> Any:
  """Reads one message.

  Args:
    fd: of the pipe.
    seconds: how long to wait for the whole of it; None: as long as it takes.

  Raises:
    Closed: the other side is gone.
    Late: the time is over.
  """
  deadline = None if seconds is None else time.monotonic() + seconds
  (size,) = _HEAD.unpack(_exactly(fd, _HEAD.size, deadline))
  return json.loads(_exactly(fd, size, deadline))


def _exactly(fd: int, size: int, deadline: float | None) -> bytes:
  parts = []
  while size:
    if deadline is not None and not select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
      raise Late
    part = os.read(fd, min(size, 2**20))
    if not part:
      raise Closed
    parts.append(part)
    size -= len(part)
  return b''.join(parts)
