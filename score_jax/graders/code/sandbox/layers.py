# SPDX-License-Identifier: Apache-2.0
"""The layers around a program: which hold on this kernel, and how a process puts them on."""

from collections.abc import Callable
import dataclasses
import errno
import fcntl
import os
import resource
import signal
import socket

from score_jax.graders.code.sandbox import kernel, landlock, seccomp
from score_jax.graders.code.sandbox.limits import Limits

CHOICES = ('landlock', 'seccomp')
_OWN_UIDS = 1 << 30  # the first uid of no one; a user namespace may not map it
_NOBODY = 65534
_ABOVE = 64  # descriptors are moved here before they are moved into place


@dataclasses.dataclass(frozen=True)
class Layers:
  """The layers that hold on this host; a separate process has tried each of them."""

  seccomp: bool = False
  landlock: int = 0  # the ABI; 0 where it does not hold
  other_user: bool = False  # programs run as a user without files or processes
  queue_time: bool = False  # the kernel tells how long a process waited for a processor

  @property
  def enough(self) -> bool:
    """Whether programs may run: whether the system call filter holds.

    Landlock alone leaves UDP and netlink sockets, io_uring, processes and most of the kernel within reach.
    """
    return self.seccomp

  def __str__(self) -> str:
    return ', '.join(
      (
        'system call filter: ' + ('holds' if self.seccomp else 'MISSING'),
        'Landlock: ' + (f'holds (ABI {self.landlock})' if self.landlock else 'missing'),
        'own user: ' + ('yes' if self.other_user else 'no, programs run as the user of the grader'),
        'time without waiting: ' + ('yes' if self.queue_time else 'no, /proc/PID/schedstat has nothing'),
      )
    )


class Armour:
  """The layers, which the zygote prepares and every process that it forks puts on."""

  def __init__(self, limits: Limits, use: tuple[str, ...]):
    self.limits = limits
    self.filter = seccomp.build() if 'seccomp' in use else None
    self.abi = landlock.version() if 'landlock' in use else 0
    self.ruleset = (landlock.create(self.abi),) if self.abi else ()
    self.parent = os.getpid()

  def wear(self) -> None:
    """Puts on what the zygote itself can bear: another user, no privileges, most limits."""
    user = spare_user()
    limits = self.limits
    for kind in (resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):
      resource.setrlimit(kind, (0, 0))
    _lower(resource.RLIMIT_STACK, limits.stack_mb << 20)
    if kernel.LINUX:
      resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))
      resource.setrlimit(resource.RLIMIT_MSGQUEUE, (0, 0))
      _lower(resource.RLIMIT_AS, _address_space() + (limits.memory_mb << 20))
    if user is not None:
      become(user)
    if kernel.LINUX:
      kernel.prctl(kernel.PDEATHSIG, signal.SIGKILL)  # again: a change of user clears it
      kernel.prctl(kernel.DUMPABLE, 0)
      kernel.prctl(kernel.NO_NEW_PRIVS, 1)
      if os.getuid() == 0:
        kernel.drop_capabilities()

  def put_on(self, keep: tuple[int, ...]) -> None:
    """Sandboxes this process: descriptors 3, 4, ... are `keep`, and no others are open."""
    seconds = self.limits.cpu_seconds
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))  # SIGXCPU can be ignored, the next not
    self.enclose(keep)

  def enclose(self, keep: tuple[int, ...], limited: bool = True) -> None:
    """Shuts the process in. `limited`: with limits on descriptors and processes."""
    os.setsid()
    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD, _ABOVE) for fd in (*keep, *self.ruleset)]
    for number, fd in enumerate(moved, start=3):
      os.dup2(fd, number)
    os.closerange(3 + len(moved), 1 << 16)
    if limited:
      resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
      resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
    if not kernel.LINUX:
      return
    kernel.prctl(kernel.PDEATHSIG, signal.SIGKILL)
    kernel.prctl(kernel.NO_NEW_PRIVS, 1)
    if os.getppid() != self.parent:
      os._exit(1)
    if self.ruleset:
      landlock.restrict(3 + len(keep))
      os.close(3 + len(keep))
    if self.filter is not None:
      seccomp.install(self.filter)


def _lower(kind: int, wanted: int) -> None:
  hard = resource.getrlimit(kind)[1]
  wanted = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
  resource.setrlimit(kind, (wanted, wanted))


def _address_space() -> int:
  """Returns the bytes that the interpreter itself has mapped."""
  try:
    with open('/proc/self/statm') as file:
      return int(file.read().split()[0]) * resource.getpagesize()
  except OSError:
    return 256 << 20


def spare_user() -> int | None:
  """Returns an unused uid to drop to, or else nobody's; None for an ordinary user."""
  if os.getuid() != 0:
    return None
  for uid in (_OWN_UIDS + os.getpid(), _NOBODY):
    if _tried(lambda uid=uid: become(uid)):
      return uid
  return None


def become(uid: int) -> None:
  """Drops root for good. Raises OSError."""
  os.setgroups([])
  os.setresgid(uid, uid, uid)
  os.setresuid(uid, uid, uid)


def probe(limits: Limits, use: tuple[str, ...]) -> Layers:
  """Tries each layer alone in a separate process: the kernel's word is not trusted."""
  alone = {name: Armour(limits, (name,) if name in use else ()) for name in CHOICES}
  layers = Layers(
    seccomp=alone['seccomp'].filter is not None and _tried(lambda: _filter_holds(alone['seccomp'])),
    landlock=alone['landlock'].abi if _tried(lambda: _files_hold(alone['landlock'])) else 0,
    other_user=spare_user() is not None,
    queue_time=waited(os.getpid()) is not None,
  )
  for fd in alone['landlock'].ruleset:
    os.close(fd)
  return layers


def _filter_holds(armour: Armour) -> bool:
  calls = (os.fork, socket.socket, lambda: os.stat('/'), lambda: os.kill(os.getpid(), 0))
  return _files_hold(armour) and all(map(_denied, calls))


def _files_hold(armour: Armour) -> bool:
  armour.enclose((), limited=False)
  return _denied(lambda: os.open('/', os.O_RDONLY)) and _denied(lambda: os.open('/dev/null', os.O_WRONLY))


def _denied(call: Callable[[], object]) -> bool:
  try:
    call()
  except OSError as error:
    return error.errno in (errno.EPERM, errno.EACCES)
  return False


def _tried(attempt: Callable[[], object]) -> bool:
  """Runs `attempt` in a separate process; returns whether it is not False."""
  child = os.fork()
  if not child:
    code = 1
    try:
      code = int(attempt() is False)
    finally:
      os._exit(code)
  return os.waitpid(child, 0)[1] == 0


def waited(pid: int) -> float | None:
  """Returns the seconds in which a process was ready and did not run; None if unknown."""
  try:
    with open(f'/proc/{pid}/schedstat') as file:
      ran, queued, _ = file.read().split()
  except (OSError, ValueError):
    return None
  return int(queued) / 1e9 if int(ran) else None
