# SPDX-License-Identifier: Apache-2.0
"""What memory the devices here have for a run. A CPU's is the host's, less what is in use now."""

from collections.abc import Iterable, Iterator
import math
import os
import pathlib
from typing import Any

from score_jax.parallel import hosts

_ROOT = pathlib.Path('/')
# Of a control group: its limit, what it uses, and the part of its memory.stat that can be dropped (kernel.org,
# admin-guide/cgroup-v2 and cgroup-v1/memory).
_GROUP_FILES = (
  ('memory.max', 'memory.current', 'inactive_file'),
  ('memory.limit_in_bytes', 'memory.usage_in_bytes', 'total_inactive_file'),
)


def of_device(device: Any) -> float:
  """Returns the bytes that programs may use of a device here, by all processes; inf where it does not tell."""
  if device.platform == 'cpu':
    return float(available())
  return float((device.memory_stats() or {}).get('bytes_limit', math.inf))


def least(devices: Iterable[Any]) -> float:
  """Returns what `of_device` tells of the smallest of them, on any host: all hosts get the same."""
  return hosts.combined('the memory of its devices', min(map(of_device, devices)), min)


def available(root: pathlib.Path = _ROOT) -> int:
  """Returns the bytes of host memory that this process can still take: the machine's, and its control groups'."""
  return max(0, min([_free(root), *_left_of_groups(root)]))


def _free(root: pathlib.Path) -> int:
  try:
    lines = (root / 'proc/meminfo').read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith('MemAvailable:'))
  except (OSError, StopIteration):  # no Linux: all that there is
    return os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')


def _left_of_groups(root: pathlib.Path) -> Iterator[int]:
  """What is left of each limit over this process, of version 2 and 1; a container may show its own group at the top."""
  try:
    lines = (root / 'proc/self/cgroup').read_text().splitlines()
  except OSError:
    return
  for _, controllers, path in (line.split(':', 2) for line in lines):
    if controllers in ('', 'memory'):
      top = root / 'sys/fs/cgroup' / controllers
      group = top / path.lstrip('/')
      for folder in (group, *group.parents):
        if folder.is_relative_to(top):
          yield from _left(folder)


def _left(folder: pathlib.Path) -> Iterator[int]:
  for limit, used, droppable in _GROUP_FILES:
    try:
      most = (folder / limit).read_text().strip()
      if most == 'max':
        continue
      stat = dict(line.split() for line in (folder / 'memory.stat').read_text().splitlines())
      yield int(most) - int((folder / used).read_text()) + int(stat.get(droppable, 0))
    except (OSError, ValueError):  # not of this version
      continue
