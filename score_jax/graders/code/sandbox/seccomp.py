# SPDX-License-Identifier: Apache-2.0
"""The system calls that a judge and a program may make; every other one fails with EPERM.

A process forked from an interpreter with its modules loaded needs memory, clocks, locks and two open descriptors. It
needs no files: even asking whether a path exists is refused. So are new processes, threads, descriptors and executable
memory. The filter is classic BPF (linux/seccomp.h, linux/filter.h), written out: libseccomp is not on every host.
"""

import ctypes
import errno
import platform
import struct

from score_jax.graders.code.sandbox import kernel

# Numbers from asm/unistd_64.h and asm-generic/unistd.h, the most frequent first: the filter is read in order.
_X86_64 = {
  'read': 0, 'write': 1, 'munmap': 11, 'brk': 12, 'madvise': 28, 'mremap': 25, 'rt_sigaction': 13, 'rt_sigprocmask': 14,
  'rt_sigreturn': 15, 'sigaltstack': 131, 'clock_gettime': 228, 'clock_getres': 229, 'clock_nanosleep': 230,
  'nanosleep': 35, 'gettimeofday': 96, 'time': 201, 'times': 100, 'getrusage': 98, 'getrandom': 318, 'getpid': 39,
  'gettid': 186, 'sched_yield': 24, 'restart_syscall': 219, 'exit': 60, 'exit_group': 231,
}  # fmt: skip
_AARCH64 = {
  'read': 63, 'write': 64, 'munmap': 215, 'brk': 214, 'madvise': 233, 'mremap': 216, 'rt_sigaction': 134,
  'rt_sigprocmask': 135, 'rt_sigreturn': 139, 'sigaltstack': 132, 'clock_gettime': 113, 'clock_getres': 114,
  'clock_nanosleep': 115, 'nanosleep': 101, 'gettimeofday': 169, 'times': 153, 'getrusage': 165, 'getrandom': 278,
  'getpid': 172, 'gettid': 178, 'sched_yield': 124, 'restart_syscall': 128, 'exit': 93, 'exit_group': 94,
}  # fmt: skip
# machine: (AUDIT_ARCH of linux/audit.h, allowed, mmap, mprotect, futex)
_MACHINES = {
  'x86_64': (0xC000003E, _X86_64, 9, 10, 202),
  'aarch64': (0xC00000B7, _AARCH64, 222, 226, 98),
}
_CLONE3 = 435  # on every machine
_X32 = 0x40000000  # from here on numbers are x32's, of the same AUDIT_ARCH
_PROT_EXEC = 4
_FUTEX_OPERATIONS = (0, 1, 9, 10)  # wait, wake, and both with a bit set; no priority inheritance

_KILL_PROCESS = 0x80000000
_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_AT_LEAST = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_ANY_BIT = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_AND = 0x54  # BPF_ALU | BPF_AND | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K
_FILTER_MODE = 2
_NUMBER_AT = 0  # offsets in struct seccomp_data; both machines are little-endian
_ARCH_AT = 4
_ARGUMENTS_AT = 16


class _Program(ctypes.Structure):
  """struct sock_fprog."""

  _fields_ = [('length', ctypes.c_ushort), ('filter', ctypes.c_char_p)]


def assemble(machine: str) -> list[tuple[int, int, int, int]]:
  """Returns rows of (code, jump if true, jump if false, k). Raises KeyError for an unknown machine."""
  arch, allowed, mmap, mprotect, futex = _MACHINES[machine]
  permit, refuse = (_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _ERRNO | errno.EPERM)
  lines = [(_LOAD, 0, 0, _ARCH_AT), (_EQUAL, 1, 0, arch), (_RETURN, 0, 0, _KILL_PROCESS), (_LOAD, 0, 0, _NUMBER_AT)]
  if machine == 'x86_64':
    lines += [(_AT_LEAST, 0, 1, _X32), refuse]
  for number in allowed.values():
    lines += [(_EQUAL, 0, 1, number), permit]
  for number in (mmap, mprotect):
    lines += [(_EQUAL, 0, 4, number), _load_argument(2), (_ANY_BIT, 0, 1, _PROT_EXEC), refuse, permit]
  lines += [(_EQUAL, 0, 3 + 2 * len(_FUTEX_OPERATIONS), futex), _load_argument(1), (_AND, 0, 0, 0x7F)]
  for operation in _FUTEX_OPERATIONS:
    lines += [(_EQUAL, 0, 1, operation), permit]
  lines.append(refuse)
  # glibc falls back from clone3 to clone, which is refused, only at ENOSYS.
  return [*lines, (_EQUAL, 0, 1, _CLONE3), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS), refuse]


def _load_argument(index: int) -> tuple[int, int, int, int]:
  return (_LOAD, 0, 0, _ARGUMENTS_AT + 8 * index)


def build() -> _Program | None:
  """Returns the filter of this machine; None where there is no table for it."""
  machine = platform.machine()
  if not kernel.LINUX or machine not in _MACHINES:
    return None
  lines = assemble(machine)
  return _Program(len(lines), b''.join(struct.pack('=HBBI', *line) for line in lines))


def install(program: _Program) -> None:
  """Binds this process for good; PR_SET_NO_NEW_PRIVS must hold. Raises OSError."""
  kernel.prctl(kernel.SECCOMP, _FILTER_MODE, ctypes.byref(program))
