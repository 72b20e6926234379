# SPDX-License-Identifier: Apache-2.0
"""Calls of Linux that the standard library does not have."""

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
  """Calls prctl(2). Raises OSError."""
  check(_libc.prctl(option, ctypes.c_ulong(value), pointer, ctypes.c_ulong(0), ctypes.c_ulong(0)))


def syscall(number: int, *arguments: object) -> int:
  """Calls syscall(2). Raises OSError."""
  return check(_libc.syscall(ctypes.c_long(number), *arguments))


def drop_capabilities() -> None:
  """Gives up every capability of this process (capset(2), version 3 of its header)."""
  header = (ctypes.c_uint32 * 2)(0x20080522, 0)
  check(_libc.capset(header, (ctypes.c_uint32 * 6)()))


def check(result: int) -> int:
  """Returns the result, or raises the OSError that -1 stands for."""
  if result == -1:
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number))
  return result
