"""Where hosts meet before JAX connects them: every mistake of the launch is one clear error, on every host.

JAX's own start ends a process with a stack trace when a host is missing, is there twice or was told of another number
of hosts, and a host that comes twice ends a run that is under way. So hosts first meet on the coordinator's port, in
plain sockets, and go on only when all of them are there.
"""

import contextlib
import json
import socket
import time
from typing import Any

from score_jax.errors import ConfigError
from score_jax.errors import HostError

_MAGIC = 'score_jax 1'
_LONGEST = 4096  # bytes of a message
_PATIENCE = 5.0  # seconds that one connection may keep the others waiting


def meet(host: str, port: int, count: int, index: int, seconds: float) -> None:
  """Returns when all hosts are there.

  Args:
    host: name or address of host 0.
    port: there; a free one, that no earlier attempt has used.
    count: hosts in all.
    index: of this one.
    seconds: to wait for the others.

  Raises:
    HostError: the port is taken, or somebody did not come.
    ConfigError: hosts were told of different counts, or two have the same index.
  """
  deadline = time.monotonic() + seconds
  if index == 0:
    _receive(port, count, deadline)
  else:
    _call(host, port, count, index, deadline)


def _receive(port: int, count: int, deadline: float) -> None:
  """Host 0: waits for the others, then tells all of them to go on, or what is wrong."""
  try:
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    listener = socket.create_server(('', port), family=family, backlog=1024, dualstack_ipv6=dual)
  except OSError as error:
    raise HostError(
      f'--distributed: port {port} of host 0 cannot be taken ({error.strerror}); start all again with a free port'
    ) from error
  with contextlib.ExitStack() as open_, listener:
    arrived: dict[int, socket.socket] = {}
    try:
      while len(arrived) < count - 1:
        listener.settimeout(max(0.01, deadline - time.monotonic()))
        connection = open_.enter_context(listener.accept()[0])
        _admit(connection, count, arrived)
    except TimeoutError:
      missing = ', '.join(str(i) for i in range(1, count) if i not in arrived)
      error = HostError(
        f'--distributed: of {count} hosts these did not come in time (config.hosts.init_seconds): {missing}; '
        'start all hosts again'
      )
      _tell(arrived, error)
      raise error from None
    except ConfigError as error:
      _tell(arrived, error)
      raise
    _tell(arrived, None)
    for connection in arrived.values():  # the callers hang up first: the port is then free for JAX at once
      with contextlib.suppress(OSError):
        connection.recv(1)


def _admit(connection: socket.socket, count: int, arrived: dict[int, socket.socket]) -> None:
  """Adds a caller to those that arrived; one that is no host of a run is left aside."""
  said = _read(connection, time.monotonic() + _PATIENCE)
  if said is None or said.get('magic') != _MAGIC:
    return
  index, error = said.get('index'), None
  if said.get('count') != count:
    error = ConfigError(
      f'--distributed: host {index} was told of {said.get("count")} hosts, host 0 of {count}; give all of them the same'
    )
  elif not isinstance(index, int) or not 0 < index < count or index in arrived:
    error = ConfigError(f'--distributed: index {index} of {count} hosts was given to two of them')
  if error:
    _tell({0: connection}, error)
    raise error
  arrived[index] = connection


def _tell(arrived: dict[int, socket.socket], error: Exception | None) -> None:
  message = dict(magic=_MAGIC, error=str(error) if error else '', is_config=isinstance(error, ConfigError))
  for connection in arrived.values():
    with contextlib.suppress(OSError):
      connection.sendall(json.dumps(message).encode() + b'\n')


def _call(host: str, port: int, count: int, index: int, deadline: float) -> None:
  """The others: call host 0 until it is there, then wait for its word."""
  while True:
    try:
      connection = socket.create_connection((host, port), timeout=max(0.01, deadline - time.monotonic()))
      break
    except OSError as error:
      if time.monotonic() >= deadline:
        raise HostError(
          f'--distributed: host 0 was not at {host}:{port} in time (config.hosts.init_seconds; {error}); '
          'start all hosts again'
        ) from error
      time.sleep(0.1)
  with connection:
    with contextlib.suppress(OSError):
      connection.sendall(json.dumps(dict(magic=_MAGIC, index=index, count=count)).encode() + b'\n')
    answer = _read(connection, deadline + _PATIENCE)
  if answer is None or answer.get('magic') != _MAGIC:
    raise HostError(
      f'--distributed: {host}:{port} does not answer as a host 0 that waits: the run there has begun without this '
      'host, host 0 has ended, or another program has the port; start all hosts again with a free port'
    )
  if answer['error']:
    raise (ConfigError if answer['is_config'] else HostError)(answer['error'])


def _read(connection: socket.socket, deadline: float) -> dict[str, Any] | None:
  """One message, or None if there comes none, or something else."""
  text = b''
  try:
    while not text.endswith(b'\n') and len(text) < _LONGEST:
      connection.settimeout(max(0.01, deadline - time.monotonic()))
      more = connection.recv(_LONGEST)
      if not more:
        return None
      text += more
    said = json.loads(text)
  except (OSError, ValueError):
    return None
  return said if isinstance(said, dict) else None
