# SPDX-License-Identifier: Apache-2.0
"""Several processes as one run: how they start, agree, wait for each other, and end.

Host 0, `main`, alone has the run folder and the terminal. Values go through JAX's coordination service, with a
deadline; with one host, every function is a plain call.
"""

import collections
from collections.abc import Callable, Iterator
import contextlib
import contextvars
import dataclasses
import hashlib
import itertools
import json
import os
import re
import socket
import sys
import threading
import time
import traceback
from typing import Any

import jax
from jax._src import distributed  # the coordination service's client has no public name

from score_jax.errors import ConfigError, HostError, UserError
from score_jax.faults import secrets, signals

AUTO, OFF, TPU, SLURM, LOCAL = 'auto', 'off', 'tpu', 'slurm', 'local:'
_SLICE_MS = 1000  # after which a wait looks whether a host has failed
_LONGEST = 1 << 20  # bytes of a message; longer values go in parts
_FAREWELL = 5.0  # seconds in which others can read why this host ends
_GRACE = 60  # seconds by which JAX's own timeout, which aborts, is later than ours
_LOST = re.compile(
  r'gloo|nccl|connection (closed|reset|refused)|socket closed|broken pipe|heartbeat|coordination service|'
  r'UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED',
  re.IGNORECASE,
)


@dataclasses.dataclass
class Group:
  """A host among those of its run."""

  index: int
  count: int
  patience: float = 0.0  # seconds to wait for another host
  client: Any = None  # of the coordination service
  numbers: Any = dataclasses.field(default_factory=itertools.count)  # of exchanges, alike on all hosts
  done: Any = dataclasses.field(default_factory=lambda: collections.defaultdict(list))  # keys of tasks, by name


_group = Group(0, 1)
_simulated: contextvars.ContextVar[Group | None] = contextvars.ContextVar('the host that a thread stands for')
HandOut = Callable[[list[Any]], list[Any]]  # gives each host its share, returns their answers


def _here() -> Group:
  return _simulated.get(None) or _group


def stand_for(group: Group) -> None:
  """Makes the calling thread, and copies of its context, a host of a simulated run (`benchmarks/hosts.py`)."""
  _simulated.set(group)


def index() -> int:
  return _here().index


def count() -> int:
  return _here().count


def is_main() -> bool:
  return index() == 0


def start(choice: str, *, init_seconds: int, heartbeat_seconds: int, barrier_seconds: int) -> None:
  """Connects this process with the others of its run, before any device is used.

  If hosts do not come in time, the process ends with one line and exit code 75.

  Args:
    choice: the value of --distributed (`cli.define_distributed`).
    init_seconds: to wait for all to be there.
    heartbeat_seconds: without a sign of life after which a host is lost.
    barrier_seconds: to wait for another host at an exchange.

  Raises:
    ConfigError: `choice` is malformed, or numbers of hosts differ.
    HostError: JAX cannot connect, or the port is taken.
  """
  global _group
  choice = detected(os.environ) if choice == AUTO else choice
  if choice == OFF:
    return
  settings: dict[str, Any] = {}
  if choice.startswith(LOCAL):
    host, port, hosts, number = parsed(choice)
    if hosts == 1:
      return
    if number == 0:
      _check_port(port)
    settings = dict(coordinator_address=f'{host}:{port}', num_processes=hosts, process_id=number)
    settings['cluster_detection_method'] = 'deactivate'
  elif choice == SLURM:
    settings = dict(cluster_detection_method='slurm')
  elif choice != TPU:
    raise ConfigError(f'--distributed={choice} is unknown; use auto, off, tpu, slurm or local:HOST:PORT,N,I')
  # JAX's preemption service would swallow SIGTERM; `training/hooks.py` agrees on a stop.
  jax.config.update('jax_enable_preemption_service', False)
  try:
    with _within(init_seconds, choice):
      jax.distributed.initialize(
        **settings, initialization_timeout=init_seconds + _GRACE, heartbeat_timeout_seconds=heartbeat_seconds
      )
  except (RuntimeError, ValueError) as error:
    raise HostError(f'--distributed={choice}: {_first_line(error)}; start all hosts again') from error
  state = distributed.global_state
  _group = Group(state.process_id, state.num_processes, float(barrier_seconds), state.client)
  agree('--distributed', dict(hosts=_group.count))


@contextlib.contextmanager
def _within(seconds: float, choice: str) -> Iterator[None]:
  """Ends the process with one line where JAX would abort it with a stack trace."""

  def give_up() -> None:
    late = f'not all hosts came within config.hosts.init_seconds = {seconds:g}; start all hosts again'
    print(f'error: --distributed={choice}: {late}', file=sys.stderr, flush=True)
    os._exit(HostError.exit_code)

  timer = threading.Timer(seconds, give_up)
  timer.daemon = True
  timer.start()
  try:
    yield
  finally:
    timer.cancel()


def _check_port(port: int) -> None:
  try:
    socket.create_server(('', port)).close()  # JAX crashes on a taken one
  except OSError as error:
    reason = f'cannot be taken ({error.strerror}); start all again with a free port'
    raise HostError(f'--distributed: port {port} of host 0 {reason}') from error


def detected(environment: Any) -> str:
  """Returns what 'auto' means."""
  if ',' in environment.get('TPU_WORKER_HOSTNAMES', ''):
    return TPU
  if int(environment.get('SLURM_STEP_NUM_TASKS') or 1) > 1 and 'SLURM_PROCID' in environment:
    return SLURM
  return OFF


def parsed(choice: str) -> tuple[str, int, int, int]:
  """Returns HOST, PORT, N and I of 'local:HOST:PORT,N,I', or raises a ConfigError."""
  match = re.fullmatch(r'local:(.+):(\d+),(\d+),(\d+)', choice)
  if not match:
    raise ConfigError(f'--distributed={choice} must be local:HOST:PORT,N,I, e.g. local:10.0.0.1:7654,2,0')
  host, port, hosts, number = match[1], *map(int, match.groups()[1:])
  if not 0 < port < 65536 or not 0 <= number < hosts:
    raise ConfigError(f'--distributed={choice}: PORT must be 1..65535, I one of 0..N-1')
  return host, port, hosts, number


def gather(what: str, value: Any) -> list[Any]:
  """Returns all hosts' values (JSON); HostError: one was late, failed or called something else."""
  return combined(what, value, list)


def combined(what: str, value: Any, combine: Callable[[list[Any]], Any]) -> Any:
  """Returns what host 0 makes of all hosts' values (JSON): what each is sent does not grow with hosts."""
  if count() == 1:
    return combine([value])
  key, values = _exchange(what, value)
  if is_main():
    _put(f'{key}/all', json.dumps([what, combine(values)]).encode())
  return _named(what, 'host 0', _get(f'{key}/all', what, 'host 0'))


def to_main(what: str, value: Any) -> list[Any]:
  """Gathers values on host 0; elsewhere returns [] and does not wait."""
  return [value] if count() == 1 else _exchange(what, value)[1]


def _exchange(what: str, value: Any) -> tuple[str, list[Any]]:
  """Publishes a value; returns the key and, on host 0, the values of all."""
  number = next(_here().numbers)
  key = f'score_jax/{number}'
  if not is_main():
    _put(f'{key}/{index()}', json.dumps([what, value]).encode())
    return key, []
  values = [json.loads(json.dumps(value)), *_read(key, what)]
  _here().client.key_value_delete(f'score_jax/{number - 1}/')  # all have read the one before
  return key, values


def _read(key: str, what: str) -> list[Any]:
  """Returns what the other hosts published below a key."""
  return [_named(what, f'host {i}', _get(f'{key}/{i}', what, f'host {i}')) for i in range(1, count())]


def _named(what: str, whom: str, message: bytes) -> Any:
  theirs, value = json.loads(message)
  if theirs != what:
    raise HostError(f'{whom} is at {theirs!r}, host {index()} at {what!r}: they no longer do the same')
  return value


def led(what: str, lead: Callable[[HandOut], Any], part: Callable[[Any], Any]) -> Any:
  """Returns what `lead` returns on host 0 (JSON), on every host; until then all work on what it asks for.

  Not ordered with other exchanges, so a thread may run beside them; `what` belongs to one thread.

  Args:
    what: names the task.
    lead: is called on host 0. `hand_out(shares)` has each host make `part(share)`; it returns their answers (JSON).
    part: does not raise.
  """
  if count() == 1:
    return lead(lambda shares: [part(shares[0])])
  done = _here().done[what]
  key = f'score_jax/{what}/{len(done)}'
  done.append(key)
  if not is_main():
    for number in itertools.count():
      told = json.loads(_get(f'{key}/{number}/for/{index()}', what, 'host 0'))
      if 'value' in told:
        return told['value']
      _put(f'{key}/{number}/{index()}', json.dumps([what, part(told['share'])]).encode())
  rounds = itertools.count()

  def tell(messages: list[dict[str, Any]]) -> str:
    at = f'{key}/{next(rounds)}'
    for host in range(1, count()):
      _put(f'{at}/for/{host}', json.dumps(messages[host]).encode())
    return at

  def hand_out(shares: list[Any]) -> list[Any]:
    at = tell([dict(share=share) for share in shares])
    own = part(shares[0])
    answers = [own, *_read(at, what)]
    for old in done[-2:-1]:  # all have read what came of it
      _here().client.key_value_delete(f'{old}/')
    return answers

  value = lead(hand_out)
  tell([dict(value=value)] * count())
  return value


def _put(key: str, value: bytes) -> None:
  """Sets a key, whose first bytes say how many more there are."""
  client, parts = _here().client, range(0, max(1, len(value)), _LONGEST)
  for i, begin in reversed(list(enumerate(parts))):
    head = b'%8d' % len(parts) if i == 0 else b''
    client.key_value_set_bytes(f'{key}.{i}', head + value[begin : begin + _LONGEST])


def _get(key: str, what: str, whom: str) -> bytes:
  first = _wait(f'{key}.0', what, whom)
  return first[8:] + b''.join(_wait(f'{key}.{i}', what, whom) for i in range(1, int(first[:8])))


def _wait(key: str, what: str, whom: str) -> bytes:
  group = _here()
  client, deadline = group.client, time.monotonic() + group.patience
  while True:
    try:
      return client.blocking_key_value_get_bytes(key, _SLICE_MS)
    except jax.errors.JaxRuntimeError as error:
      if 'DEADLINE_EXCEEDED' not in str(error):
        raise
      if told := _failed():
        raise HostError(f'host {told[0]} ended: {told[2]}') from error
      if time.monotonic() > deadline:
        limit = f'config.hosts.barrier_seconds = {group.patience:g}'
        remedy = 'look at its last messages, and start all hosts again'
        raise HostError(f'{whom} did not come to {what!r} within {limit}; {remedy}') from error


def barrier(what: str) -> None:
  """Waits for all hosts."""
  gather(what, None)


def from_main(what: str, make: Callable[[], Any]) -> Any:
  """Returns what `make` returns on host 0 (JSON), on every host."""
  return combined(what, make() if is_main() else None, lambda values: values[0])


def agree(what: str, value: dict[str, Any]) -> None:
  """Checks that all hosts have the same; the ConfigError names a host and fields."""
  value = _flat(value)
  # As text: two numbers that are not finite agree.
  sha256 = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
  if combined(what, sha256, lambda hashes: len(set(hashes)) == 1):
    return
  ours, *others = gather(what, value)
  for i, theirs in enumerate(others, start=1):
    fields = [(name, ours.get(name), theirs.get(name)) for name in sorted(ours | theirs)]
    if unlike := [field for field in fields if json.dumps(field[1]) != json.dumps(field[2])]:
      differences = '; '.join(f'{name} is {a!r:.80} on host 0, {b!r:.80} on it' for name, a, b in unlike[:5])
      raise ConfigError(f'host {i} differs in {what}: {differences}')


def _flat(value: Any, where: str = '') -> dict[str, Any]:
  if not isinstance(value, dict):
    return {where: value}
  parts = (_flat(part, f'{where}.{name}'.strip('.')) for name, part in value.items())
  return {path: leaf for part in parts for path, leaf in part.items()}


def end(error: BaseException) -> None:
  """Ends this process, if it is one of several, without waiting for the others; tells them why."""
  if count() == 1:
    return
  reason = ''
  if told := _failed():
    host, code, message = told
    reason = f' ends, as host {host} has'
  else:
    code, message = _judged(error)
    message = secrets.redacted(message)
  print(f'error: host {index()}{reason}: {message}', file=sys.stderr, flush=True)
  _publish_end(code, message)
  os._exit(code)


def _judged(error: BaseException) -> tuple[int, str]:
  """Exit code and message; prints the traceback of a bug."""
  if isinstance(error, UserError):
    return error.exit_code, str(error)
  if isinstance(error, SystemExit):
    code = error.code if isinstance(error.code, int) else 1
    return code, f'stopped by {signals.name()}' if signals.requested() else f'left with exit code {code}'
  chain = error
  while chain is not None:
    if _LOST.search(f'{type(chain).__name__} {chain}'):
      return HostError.exit_code, f'lost another host ({_first_line(chain)}); start all hosts again'
    chain = chain.__cause__ or chain.__context__
  traceback.print_exception(error)
  return (130 if isinstance(error, KeyboardInterrupt) else 1), f'{type(error).__name__}: {_first_line(error)}'


def _publish_end(code: int, message: str) -> None:
  """Tells the others; host 0, which keeps the message, waits a moment."""
  client, deadline = _here().client, time.monotonic() + _FAREWELL
  with contextlib.suppress(Exception):
    client.key_value_set_bytes(f'score_jax/ends/{index()}', json.dumps([index(), code, message]).encode())
    while is_main() and time.monotonic() < deadline:
      if len(client.key_value_dir_get_bytes('score_jax/ends/')) == count():
        break
      time.sleep(0.1)


def _failed() -> tuple[int, int, str] | None:
  """Host, exit code and message of the first cause."""
  with contextlib.suppress(Exception):
    words = _here().client.key_value_dir_get_bytes('score_jax/ends/')
    told = sorted((json.loads(word) for _, word in words), key=lambda word: (word[1] == HostError.exit_code, word[0]))
    return tuple(told[0]) if told else None
  return None


def _first_line(error: BaseException) -> str:
  return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
