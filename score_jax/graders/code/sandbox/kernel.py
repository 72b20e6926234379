"""The few calls of Linux that Python's standard library does not have, through the C library."""

import ctypes
import os
import sys

PDEATHSIG = 1  # linux/prctl.h
DUMPABLE = 4
SECCOMP = 22
CHILD_SUBREAPER = 36
NO_NEW_PRIVS = 38

LINUX = sys.platform == 'linux'
_libc = ctypes.CDLL(None, use_errno=True)


def prctl(option: int, value: int, pointer: object = 0) -> None:
  """prctl(2); raises OSError."""
  check(_libc.prctl(option, ctypes.c_ulong(value), pointer, ctypes.c_ulong(0), ctypes.c_ulong(0)))


def syscall(number: int, *arguments: object) -> int:
  """syscall(2); raises OSError."""
  return check(_libc.syscall(ctypes.c_long(number), *arguments))


def drop_capabilities() -> None:
  """Gives up every capability of this process (capset(2), version 3 of its header)."""
  header = (ctypes.c_uint32 * 2)(0x20080522, 0)
  check(_libc.capset(header, (ctypes.c_uint32 * 6)()))


def check(result: int) -> int:
  """The result, or the OSError that -1 stands for."""
  if result == -1:
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number))
  return result
