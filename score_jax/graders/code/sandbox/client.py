# SPDX-License-Identifier: Apache-2.0
"""The grader's side of the sandbox: starts the zygote, hands it jobs, holds the clock."""

import dataclasses
import json
import os
import pathlib
import select
import signal
import socket
import subprocess
import sys
import time

from score_jax.errors import SandboxError
from score_jax.graders import messages
from score_jax.graders.code.sandbox import codec, judge, layers
from score_jax.graders.code.sandbox.layers import Layers
from score_jax.graders.code.sandbox.limits import Limits
from score_jax.graders.code.sandbox.zygote import PIDS

TIMEOUT, HOST = 'timeout', 'host'  # verdicts beside those of the judge

_ROOT = pathlib.Path(__file__).resolve().parents[4]
# Hooks that modules run after a fork would cost every process a third of its time. They replace locks, of which a
# single thread holds none, and a seed that is set anyway.
_START = (
  'import os, sys; os.register_at_fork = lambda **_: None; sys.path.append({root!r}); '
  'from score_jax.graders.code.sandbox import zygote; zygote.main()'
)
# The order of sets is the same in every run. -E would ignore this, so the environment holds nothing else.
_ENVIRONMENT = {'PYTHONHASHSEED': '0', 'TZ': 'UTC'}
_FLAGS = ('-P', '-s', '-S', '-B', '-X', 'utf8')
_PATIENCE = 60.0  # seconds for the zygote to say anything
_LONGEST_WORD = 1 << 16  # bytes of a judge's verdict and reason
_UNHEARD = 4  # limits on the clock, where waiting is not told from sleeping


@dataclasses.dataclass(frozen=True)
class Outcome:
  """The result of a job: a word of the judge or this module, and wall time."""

  word: str
  reason: str
  seconds: float


class Sandbox:
  """One zygote and the pair that waits for the next job."""

  def __init__(self, limits: Limits, use: tuple[str, ...]):
    """Starts the zygote. Raises SandboxError if its interpreter does not come up."""
    self.limits = limits
    self._control, theirs = socket.socketpair()
    self._control.settimeout(_PATIENCE)
    settings = json.dumps({'limits': dataclasses.asdict(limits), 'use': use})
    command = [sys.executable, *_FLAGS, '-c', _START.format(root=str(_ROOT))]
    with theirs:
      self._process = subprocess.Popen(
        [*command, str(theirs.fileno()), str(os.getpid()), settings],
        env=_ENVIRONMENT,
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
      )
    self.layers = self._receive_layers()

  def _receive_layers(self) -> Layers:
    try:
      message = messages.receive_json(self._control.fileno(), _PATIENCE)
    except (messages.MessageError, OSError) as error:
      self.close()
      raise SandboxError(f'the sandbox did not start: {sys.executable}: {error}; see its message above') from None
    if 'error' in message:
      self.close()
      raise SandboxError(f'the sandbox did not start: {message["error"]}')
    return Layers(**message)

  def run(self, program: dict, tests: dict) -> Outcome:
    """Runs one job in a fresh pair. After HOST, for the host failed, start another Sandbox.

    Args:
      program: what the program's process receives (program.py): 'programs', 'others', 'names', 'before', 'after',
        'seed'.
      tests: what the judge keeps (judge.py): 'tests', 'trusted', 'modules', 'remote', 'classes', 'check', 'entry',
        'seed'.
    """
    start = time.monotonic()
    try:
      word, reason = self._run({'program': program, 'tests': tests, 'limits': self._for_judge()}, start)
    except (OSError, EOFError, messages.MessageError, codec.CodecError) as error:
      word, reason = HOST, f'the sandbox: {type(error).__name__} {error}'
    return Outcome(word, reason, time.monotonic() - start)

  def _for_judge(self) -> dict:
    return {'calls': self.limits.calls, 'output_bytes': self.limits.output_bytes}

  def _run(self, job: dict, start: float) -> tuple[str, str]:
    pids, fds, _, _ = socket.recv_fds(self._control, PIDS.size, 1)
    if len(pids) != PIDS.size or len(fds) != 1:
      raise EOFError('the zygote is gone')
    with socket.socket(fileno=fds[0]) as channel:
      messages.send(channel.fileno(), codec.dumps(job))
      word, reason = self._await(channel, PIDS.unpack(pids), start)
    self._control.sendall(b'e')
    judged, ran, processor = messages.receive_json(self._control.fileno(), _PATIENCE)
    used_up = processor >= self.limits.cpu_seconds - 0.1
    return _conclude(word, reason, judged, ran, used_up)

  def _await(self, channel: socket.socket, pair: tuple[int, int], start: float) -> tuple[str, str]:
    """Returns the judge's word, or this module's when a limit comes first."""
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    left, on_clock = self.limits.seconds, self.limits.wall_seconds
    while not poll.poll(1000 * max(min(left, on_clock), 0.001)):
      wall = time.monotonic() - start
      left, on_clock = self.limits.seconds - _net_seconds(pair, wall), self.limits.wall_seconds - wall
      if left <= 0:
        return TIMEOUT, f'more than {self.limits.seconds} seconds'
      if on_clock <= 0:
        return HOST, f'{self.limits.wall_seconds} seconds went by, and most of them the processes had to wait'
    try:
      return codec.loads(messages.receive(channel.fileno(), _LONGEST_WORD, _PATIENCE))
    except (messages.MessageError, OSError):
      return HOST, 'the judge ended without a word'

  def close(self) -> None:
    """Ends the zygote, and with it everything that it forked."""
    self._control.close()
    try:
      self._process.wait(timeout=5)
    except subprocess.TimeoutExpired:
      self._process.kill()
      self._process.wait()


def _net_seconds(pair: tuple[int, int], wall: float) -> float:
  """Returns the job's seconds so far, without those in which judge or program waited for a processor.

  They take turns, so their waits add up.
  """
  waits = [layers.waited(pid) for pid in pair]
  if None not in waits:
    return wall - sum(waits)
  # CPUCLOCK_SCHED of a process, include/linux/posix-timers.h
  return max(sum(time.clock_gettime(~pid << 3 | 2) for pid in pair), wall / _UNHEARD)


def _conclude(word: str, reason: str, judged: int, ran: int, used_up: bool) -> tuple[str, str]:
  if word == HOST and os.WIFSIGNALED(judged) and os.WTERMSIG(judged) == signal.SIGXCPU:
    return TIMEOUT, 'the tests used up their processor time on what the program returned'
  if word != judge.GONE:
    return word, reason
  ended_by = os.WTERMSIG(ran) if os.WIFSIGNALED(ran) else 0
  if ended_by == signal.SIGXCPU or used_up:
    return TIMEOUT, f'{reason}; its processor time was used up'
  by_itself = ended_by and ended_by != signal.SIGKILL
  return judge.WRONG, f'{reason} by {signal.Signals(ended_by).name}' if by_itself else reason
