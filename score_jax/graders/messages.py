# SPDX-License-Identifier: Apache-2.0
"""Messages that processes of graders exchange: a length in four bytes, then the bytes."""

import json
import os
import select
import struct
import time
from typing import Any

NO_LIMIT = (1 << 32) - 1  # bytes: from a process that is trusted
_LENGTH = struct.Struct('!I')


class MessageError(Exception):
  """A message did not arrive."""


class Closed(MessageError):
  """The other side is gone."""


class Late(MessageError):
  """No message came within the time given."""


class TooLong(MessageError):
  """The message is longer than the limit; none of it was read."""


def send(fd: int, payload: bytes) -> None:
  """Writes one message.

  Raises:
    Closed: nobody reads.
  """
  left = memoryview(_LENGTH.pack(len(payload)) + payload)
  try:
    while left:
      left = left[os.write(fd, left) :]
  except ConnectionError as error:
    raise Closed('the other side is gone') from error


def receive(fd: int, limit: int = NO_LIMIT, seconds: float | None = None) -> bytes:
  """Reads one message, and nothing behind it.

  Args:
    fd: of the pipe or socket.
    limit: most bytes.
    seconds: to wait for all of it; None: as long as it takes.

  Raises:
    Closed, Late, TooLong: there is no such message.
  """
  deadline = None if seconds is None else time.monotonic() + seconds
  (size,) = _LENGTH.unpack(_exactly(fd, _LENGTH.size, deadline))
  if size > limit:
    raise TooLong(f'more than {limit} bytes')
  return _exactly(fd, size, deadline)


def send_json(fd: int, message: Any) -> None:
  """Writes one message as ASCII JSON, which escapes lone surrogates. Raises Closed."""
  send(fd, json.dumps(message).encode())


def receive_json(fd: int, seconds: float | None = None) -> Any:
  """Reads one message that is JSON. Raises Closed or Late."""
  return json.loads(receive(fd, seconds=seconds))


def _exactly(fd: int, size: int, deadline: float | None) -> bytes:
  parts = []
  while size:
    if deadline is not None and not select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
      raise Late('no message came in time')
    try:
      part = os.read(fd, min(size, 1 << 20))
    except ConnectionError as error:
      raise Closed('the other side is gone') from error
    if not part:
      raise Closed('the other side is gone')
    parts.append(part)
    size -= len(part)
  return b''.join(parts)
