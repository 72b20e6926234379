# SPDX-License-Identifier: Apache-2.0
"""Seconds that hosts take to hash a model's files together: processes of this machine, each on a core of its own."""

import functools
import json
import os
import pathlib
import socket
import subprocess
import sys
import time
from typing import Any

from benchmarks.setting import Setting
from score_jax.errors import ConfigError
from score_jax.parallel import hosts
from score_jax.storage import hashes

FIELDS = ('folder', 'hosts')
_SUFFIX = '.safetensors'


def measure(setting: Setting) -> dict[str, Any]:
  """Returns seconds, and the bytes that each host hashed, by hosts; the files have been read once before.

  Raises:
    ConfigError: --folder holds no weights, or there are fewer cores than hosts.
  """
  folder, cores = pathlib.Path(setting.folder), sorted(os.sched_getaffinity(0))
  if not setting.folder or not any(path.suffix == _SUFFIX for path in folder.iterdir()):
    raise ConfigError(f'--folder={setting.folder} must be a folder of .safetensors')
  if max(setting.hosts) > len(cores):
    raise ConfigError(f'--hosts={max(setting.hosts)}: there are {len(cores)} cores; each host takes one')
  hashes.of_model(folder, (_SUFFIX,))
  return dict(by_hosts={str(count): _of(folder, cores[:count]) for count in setting.hosts})


def _of(folder: pathlib.Path, cores: list[int]) -> dict[str, Any]:
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    port = probe.getsockname()[1]
  commands = [
    [sys.executable, '-m', 'benchmarks.hashing', f'local:127.0.0.1:{port},{len(cores)},{i}', str(core), str(folder)]
    for i, core in enumerate(cores)
  ]
  start = functools.partial(subprocess.Popen, stdout=subprocess.PIPE, text=True)
  processes = [start(command, env={**os.environ, 'JAX_PLATFORMS': 'cpu'}) for command in commands]
  printed = [json.loads(process.communicate()[0]) for process in processes]
  return dict(seconds=max(one['seconds'] for one in printed), megabytes=[one['megabytes'] for one in printed])


def _as_host(choice: str, core: str, folder: str) -> None:
  """Prints seconds and megabytes of one host, from when all are there."""
  os.sched_setaffinity(0, {int(core)})
  hosts.start(choice, init_seconds=60, heartbeat_seconds=60, barrier_seconds=600)
  read, sha256s = [], hashes.sha256s

  def counting(folder: pathlib.Path, names: list[str]) -> dict[str, str]:
    read.extend((folder / name).stat().st_size for name in names)
    return sha256s(folder, names)

  hashes.sha256s = counting
  hosts.barrier('the start')
  begun = time.monotonic()
  hashes.of_model(pathlib.Path(folder), (_SUFFIX,))
  print(json.dumps(dict(seconds=round(time.monotonic() - begun, 3), megabytes=round(sum(read) / 1e6, 1))), flush=True)


if __name__ == '__main__':
  _as_host(*sys.argv[1:])
