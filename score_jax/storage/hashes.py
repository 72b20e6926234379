# SPDX-License-Identifier: Apache-2.0
"""Hashes of files, of which each host of a run makes a share.

A store gives as much as all hosts can read; one host alone would read 847 GB of a 70B state for a quarter of an hour.
"""

import collections
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
import contextlib
import hashlib
import json
import pathlib
import re
from typing import Any

from score_jax import files
from score_jax.errors import DataError
from score_jax.parallel import hosts

_THREADS = 4  # hashing leaves Python's lock
_WRITER = re.compile(r'ocdbt\.process_(\d+)/')  # Orbax's folder of what a process wrote


def sha256s(folder: Any, names: Iterable[str], attempt: Callable = contextlib.nullcontext) -> dict[str, str]:
  """Returns the sha256 of files below a folder (a `pathlib.Path`, or etils' for a store), by name.

  Each is read within `attempt()`; where that suppresses an error, the file is left out.
  """

  def sha256(name: str) -> str | None:
    with attempt(), (folder / name).open('rb') as file:
      return hashlib.file_digest(file, 'sha256').hexdigest()
    return None

  names = list(names)
  with ThreadPoolExecutor(_THREADS) as threads:
    known = zip(names, threads.map(sha256, names), strict=True)
    return {name: hashed for name, hashed in known if hashed is not None}


def dealt(sizes: Mapping[str, int], count: int) -> list[list[str]]:
  """Deals files out to hosts: no host has more than the mean and a file.

  Large ones come first, each to the host that wrote it if that keeps it below the mean, else to the one with least.

  Args:
    sizes: bytes by name.
    count: of hosts.
  """
  shares: list[list[str]] = [[] for _ in range(count)]
  load, mean = [0] * count, sum(sizes.values()) / count
  for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
    written = _WRITER.search(name)
    host = int(written[1]) if written else count
    if host >= count or load[host] + sizes[name] > mean:
      host = load.index(min(load))
    shares[host].append(name)
    load[host] += sizes[name]
  return shares


def of_model(folder: pathlib.Path, suffixes: tuple[str, ...]) -> str:
  """Returns `files.hash_files` of a folder of this host. Hosts that see one and the same folder share the reading.

  They do where names, bytes, inodes and times of change agree; a host with a copy of its own reads it whole.

  Raises:
    DataError: a host cannot read a file.
  """
  paths = {path.name: path for path in files.with_suffixes(folder, suffixes)}

  def part(names: list[str] | None) -> Any:
    try:
      return _seen(paths) if names is None else sha256s(folder, names)
    except OSError as error:
      return f'host {hosts.index()} cannot read {error.filename}: {error.strerror}'

  def lead(hand_out: hosts.HandOut) -> tuple[str, list[str]]:
    seen = hand_out([None] * hosts.count())
    if failed := [text for text in seen if isinstance(text, str)]:
      return failed[0], []
    groups = _alike(seen)
    shares: list[list[str]] = [[] for _ in seen]
    for members in groups:
      sizes = {name: size for name, (size, *_) in seen[members[0]].items()}
      for host, names in zip(members, dealt(sizes, len(members)), strict=True):
        shares[host] = names
    answers = hand_out(shares)
    if failed := [text for text in answers if isinstance(text, str)]:
      return failed[0], []
    joint = {host: collections.ChainMap(*(answers[i] for i in members)) for members in groups for host in members}
    return '', [files.joint_hash(joint[host]) for host in range(len(seen))]

  problem, hashes = hosts.led(f'the {", ".join(suffixes)} of the model', lead, part)
  if problem:
    raise DataError(f'model folder {folder}: {problem}')
  return hashes[hosts.index()]


def _seen(paths: Mapping[str, pathlib.Path]) -> dict[str, tuple[int, int, int]]:
  """Returns what tells one file from another without reading it; its bytes come first."""
  status = {name: path.stat() for name, path in paths.items()}
  return {name: (s.st_size, s.st_ino, s.st_mtime_ns) for name, s in status.items()}


def _alike(values: list[Any]) -> list[list[int]]:
  """Returns the numbers of equal values."""
  groups: dict[str, list[int]] = {}
  for number, value in enumerate(values):
    groups.setdefault(json.dumps(value, sort_keys=True), []).append(number)
  return list(groups.values())
