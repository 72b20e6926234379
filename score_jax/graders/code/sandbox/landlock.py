# SPDX-License-Identifier: Apache-2.0
"""Landlock (linux/landlock.h): the file system, TCP, abstract Unix sockets and signals, all denied.

The domain has no rules: nothing is allowed. The system call filter refuses the same calls earlier; either of them alone
keeps a program from files.
"""

import ctypes

from score_jax.graders.code.sandbox import kernel

_CREATE = 444  # the same numbers on every machine
_RESTRICT = 446
_VERSION = 1
# Rights by the ABI that brought them: the first 13, then REFER, TRUNCATE, IOCTL_DEV; TCP; scopes.
_FILES = {1: (1 << 13) - 1, 2: 1 << 13, 3: 1 << 14, 5: 1 << 15}
_NETWORK = {4: 0b11}
_SCOPES = {6: 0b11}


class _Ruleset(ctypes.Structure):
  """struct landlock_ruleset_attr, which grows with the ABI."""

  _fields_ = [('files', ctypes.c_uint64), ('network', ctypes.c_uint64), ('scopes', ctypes.c_uint64)]


def version() -> int:
  """Returns the kernel's Landlock ABI; 0 where there is none."""
  if not kernel.LINUX:
    return 0
  try:
    return kernel.syscall(_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION))
  except OSError:
    return 0


def create(abi: int) -> int:
  """Returns the descriptor of a ruleset that allows nothing that `abi` knows."""
  columns = [sum(bits for since, bits in rights.items() if since <= abi) for rights in (_FILES, _NETWORK, _SCOPES)]
  size = 8 if abi < 4 else 16 if abi < 6 else 24
  return kernel.syscall(_CREATE, ctypes.byref(_Ruleset(*columns)), ctypes.c_size_t(size), ctypes.c_uint32(0))


def restrict(ruleset: int) -> None:
  """Binds this process for good; PR_SET_NO_NEW_PRIVS must hold. Raises OSError."""
  kernel.syscall(_RESTRICT, ctypes.c_int(ruleset), ctypes.c_uint32(0))
