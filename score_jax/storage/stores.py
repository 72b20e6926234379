# SPDX-License-Identifier: Apache-2.0
"""Where the files of a run are: a folder, or an address of an object store.

A folder has one owner, by its lock, and steps in `checkpoints/`.

An object store has no rename, fsync or appending: an object is there, whole, once uploaded. Each process writes to
`starts/N-HOST-PROCESS/`, N one above the highest, and stops when it sees a higher one. Files grow in a scratch folder;
each checkpoint publishes what they gained, in `starts/N/parts/NAME/STEP`.
"""

import atexit
from collections.abc import Iterator
import contextlib
import functools
import hashlib
import importlib
import json
import logging
import os
import pathlib
import re
import shutil
import tempfile
import time
from typing import Any
import uuid

from etils import epath
from etils.epath import backend

from score_jax import errors, files
from score_jax.faults import lock

SCHEME = 'gs://'
_LATEST = 30.0  # seconds until a host sees what another has written
Part = tuple[str, int, str]  # path below the root, bytes, sha256
Parts = dict[str, list[Part]]  # by file of the run
# The clients take * ? [ and ] for patterns.
_ADDRESS = re.compile(r'gs://[\w.-]+(/[\w.=+@,-]+)+/?', re.ASCII)
_OTHERS = ('hf', 'profile', lock.NAME)  # are not published with checkpoints
_PASSING = re.compile(r'wandb/(.*/)?(tmp|logs)/|wandb/[^/]*\.log')  # nor what W&B writes for itself, and deletes
_CLIENTS = ('gcsfs', 'aiohttp', 'requests', 'google', 'fsspec', 'urllib3', 'asyncio')
_REFUSALS = re.compile(
  r'forbidden|permission_?denied|unauthenticated|anonymous caller|invalid credentials|does not have storage\.|'
  r'bucket does not exist|default credentials|project was not passed|reauthenticat',
  re.IGNORECASE,
)
# A ValueError of TensorStore begins with one of these.
_STATUS = re.compile(
  r'\b(UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|PERMISSION_DENIED|UNAUTHENTICATED|RESOURCE_EXHAUSTED)\b'
)


def store_of(path: os.PathLike | str) -> 'FolderStore':
  """Returns the store of a --workdir; ConfigError for another kind of address."""
  text = files.expanded(os.fspath(path))
  if not re.match(r'\w[\w+.-]+:/', text):  # pathlib leaves one / of two
    return FolderStore(text)
  if not _ADDRESS.fullmatch(text):
    raise errors.ConfigError(
      f'--workdir={text}: an address must be gs://BUCKET/NAME of letters, digits and . _ = + @ , - ; Orbax cannot '
      'commit to other stores, e.g. s3://'
    )
  return ObjectStore(text)


class FolderStore:
  """A run folder on a file system.

  Attributes:
    root: the folder.
    local: where files grow; here the same.
    checkpoints: where this process saves steps.
  """

  def __init__(self, path: str):
    self.root = epath.Path(os.path.abspath(path))
    self.local = pathlib.Path(path)
    self.checkpoints = self.root / 'checkpoints'

  def probe(self) -> None:
    """Checks early that this process may write there."""

  def take(self) -> str:
    """Makes this process the only writer, or raises ConfigError. Returns what `join` is given."""
    try:
      self.local.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:
      raise errors.ConfigError(f'--workdir={self.local}: no folder can be made there; name another') from error
    lock.take(self.local)
    return json.dumps(lock.ourselves())

  def join(self, start: str) -> None:
    """Joins the host that called `take`; ConfigError if its folder is another."""
    holder, until = json.loads(start).items(), time.monotonic() + _LATEST
    while not holder <= lock.read(self.local).items():
      if time.monotonic() > until:
        raise errors.ConfigError(f'--workdir={self.local} is another folder on host 0; name one that all hosts see')
      time.sleep(1)

  def check(self) -> None:
    """Raises TakenOverError if a later start has the run."""

  def roots(self) -> list[epath.Path]:
    """Returns folders of steps, those of later starts last."""
    return [self.checkpoints]

  def names(self, folder: epath.Path) -> list[str]:
    """Returns the names directly in a folder; [] if there is none."""
    return [path.name for path in folder.iterdir()] if folder.exists() else []

  def sizes(self, folder: epath.Path) -> dict[str, int]:
    """Returns the bytes of every file below a folder, by path."""
    paths = (path for path in sorted(pathlib.Path(folder).rglob('*')) if not path.is_dir())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths}

  def make_durable(self, folder: epath.Path) -> None:
    """Makes a folder survive a power failure; OSError if the disk fails."""
    for path in (*pathlib.Path(folder).rglob('*'), folder, folder.parent):
      files.fsync(path)

  def read(self, path: epath.Path) -> bytes:
    with self.errors():
      return path.read_bytes()

  def write(self, path: epath.Path, content: bytes) -> None:
    """Writes a small file whole or not at all."""
    files.write_bytes(pathlib.Path(path), content)

  def delete(self, path: epath.Path) -> None:
    """Deletes a file, if it is there."""
    with contextlib.suppress(FileNotFoundError), self.errors():
      path.unlink()

  def put_aside(self, folder: epath.Path) -> str:
    """Moves a damaged step out of the way, and says where it is."""
    target = pathlib.Path(self.root / 'damaged' / folder.name)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    folder.rename(target)
    return f'it was moved to {target}; delete it when you have looked'

  def remove(self, folder: epath.Path) -> None:
    """Deletes a folder, if it is there."""
    with contextlib.suppress(FileNotFoundError), self.errors():
      folder.rmtree()

  def errors(self) -> contextlib.AbstractContextManager:
    """Turns what a store's clients raise into a StoreError or StoreRefusalError."""
    return contextlib.nullcontext()

  def publish(self, step: int) -> Parts:
    """Copies what the run's files have gained; returns the parts they now consist of."""
    return {}

  def restore(self, parts: Parts) -> None:
    """Writes the run's files as `publish` found them."""

  def copy_results(self) -> None:
    """Copies all that a run has made to the root, at its end."""

  def fetch_results(self) -> None:
    """Copies it back to `local`, but for the model."""


class ObjectStore(FolderStore):
  """A run at an address of Google's object storage, through gcsfs and TensorStore."""

  def __init__(self, address: str):
    client()
    self.root = epath.Path(address.rstrip('/'))
    self.local = scratch_folder(os.fspath(self.root))
    self.checkpoints = self._starts = self.root / 'starts'
    self._start, self._parts = '', {}

  def probe(self) -> None:
    # Also whether it may delete, as it will old steps.
    tried = self.root / f'{uuid.uuid4().hex}.tried'
    try:
      with self.errors():
        tried.write_bytes(b'')
    except FileNotFoundError as error:
      raise errors.StoreRefusalError(f'{self.root} cannot be used: its bucket does not exist') from error
    self.delete(tried)

  def take(self) -> str:
    highest = max(self.names(self._starts), default='000000')
    # Two at the same moment get one number; one name is higher.
    process = re.sub(r'[^\w.-]', '_', '{host}-{pid}'.format(**lock.ourselves()), flags=re.ASCII)
    self.join(f'{int(highest[:6]) + 1:06d}-{process}')
    self.write(self._starts / self._start / 'begun', time.strftime('%Y-%m-%dT%H:%M:%S%z').encode())
    return self._start

  def join(self, start: str) -> None:
    self._start, self.checkpoints = start, self._starts / start / 'checkpoints'

  def check(self) -> None:
    highest = max(self.names(self._starts), default='') if self._start else ''
    if highest > self._start:
      raise errors.TakenOverError(
        f'--workdir={self.root} was taken over by start {highest} (number-host-process), which goes on; '
        'this one stops. Nothing saved is lost'
      )

  def roots(self) -> list[epath.Path]:
    return [self._starts / start / 'checkpoints' for start in sorted(self.names(self._starts))]

  def names(self, folder: epath.Path) -> list[str]:
    # `ls` raises when it fails; `exists` says no without an answer.
    with self.errors():
      try:
        listed = client().ls(os.fspath(folder), detail=True)
      except FileNotFoundError:
        return []
    keys = (entry['name'].rstrip('/') for entry in listed)
    return [key.rpartition('/')[2] for key in keys if key != _key(folder)]

  def sizes(self, folder: epath.Path) -> dict[str, int]:
    prefix = _key(folder) + '/'
    with self.errors():
      listed = client().find(os.fspath(folder), detail=True)
    # Consoles and mounts leave empty objects whose names end in a slash.
    return {
      name.removeprefix(prefix): entry['size']
      for name, entry in listed.items()
      if name.startswith(prefix) and not name.endswith('/') and entry['type'] == 'file'
    }

  def make_durable(self, folder: epath.Path) -> None:
    pass  # an upload that has succeeded is durable

  def write(self, path: epath.Path, content: bytes) -> None:
    with self.errors():
      path.write_bytes(content)

  def put_aside(self, folder: epath.Path) -> str:
    return f'it stays in {folder}, which no later start writes to'

  @contextlib.contextmanager
  def errors(self) -> Iterator[None]:
    try:
      yield
    except (errors.UserError, FileNotFoundError):
      raise
    except Exception as error:
      kind = type(error).__module__.partition('.')[0]
      if kind not in _CLIENTS and not isinstance(error, OSError) and not _STATUS.search(str(error)):
        raise
      reason = ' '.join(str(error).split())[:400] or type(error).__name__
      if _is_refusal(error):
        raise errors.StoreRefusalError(
          f"{self.root} cannot be used: {reason}. Its bucket must exist, and give this machine's account the role "
          'storage.objectUser (docs/pods.md)'
        ) from error
      raise errors.StoreError(f'{self.root} cannot be reached: {reason}; run the same command again') from error

  def _local_files(self) -> list[str]:
    paths = (path for path in sorted(self.local.rglob('*')) if path.is_file() and path.suffix != '.partial')
    return [path.relative_to(self.local).as_posix() for path in paths]

  def publish(self, step: int) -> Parts:
    kept = [name for name in self._local_files() if not _PASSING.match(name)]
    published = [name for name in kept if name.split('/')[0] not in _OTHERS]
    self._parts = {name: self._published(name, self._parts.get(name, []), step) for name in published}
    return self._parts

  def _published(self, name: str, before: list[Part], step: int) -> list[Part]:
    """Returns the old parts that still begin the file, and a new one of the rest."""
    parts, rest = [], (self.local / name).read_bytes()
    for path, size, digest in before:
      if hashlib.sha256(rest[:size]).hexdigest() != digest:
        break
      parts.append((path, size, digest))
      rest = rest[size:]
    if rest or not parts:
      path = f'starts/{self._start}/parts/{name}/{step:06d}'
      self.write(self.root / path, rest)
      parts.append((path, len(rest), hashlib.sha256(rest).hexdigest()))
    return parts

  def restore(self, parts: Parts) -> None:
    self._parts = parts
    for name, pieces in parts.items():
      path = self.local / name
      if not path.resolve().is_relative_to(self.local.resolve()):
        raise errors.DataError(f'{self.root}: a manifest names {name!r}, which is no file of a run; restore a copy')
      content = b''.join(self.read(self.root / piece[0]) for piece in pieces)
      path.parent.mkdir(parents=True, exist_ok=True)
      files.write_bytes(path, content)

  def copy_results(self) -> None:
    self.check()
    self.delete(self.root / 'hf/config.json')  # hf/ is no model while it mixes two policies
    for name in sorted(self._local_files(), key=lambda name: name == 'hf/config.json'):
      with self.errors():
        client().put_file(os.fspath(self.local / name), os.fspath(self.root / name))

  def fetch_results(self) -> None:
    for name in self.sizes(self.root):
      if name.split('/')[0] not in ('starts', *_OTHERS):
        (self.local / name).parent.mkdir(parents=True, exist_ok=True)
        with self.errors():
          client().get_file(os.fspath(self.root / name), os.fspath(self.local / name))


@functools.cache
def client() -> Any:
  """Returns the client through which epath and Orbax see a store; ConfigError if it is missing."""
  # Only what is tested: not TensorFlow's client, nor other buckets.
  os.environ.setdefault('EPATH_USE_TF', 'false')
  os.environ.setdefault('GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT', 'false')
  try:
    importlib.import_module('gcsfs')
  except ImportError as error:
    raise errors.ConfigError(
      f"--workdir is an address, for which the package gcsfs is missing ({error}); pip install -e '.[gcs]'"
    ) from error
  logging.getLogger('gcsfs').setLevel(logging.CRITICAL)  # it prints what it also raises
  filesystem = backend.fsspec_backend.fs(SCHEME)
  filesystem.dircache.use_listings_cache = False  # TensorStore and other hosts write past it
  return filesystem


@functools.cache
def scratch_folder(address: str) -> pathlib.Path:
  """Returns a folder in $TMPDIR for files that grow; it goes when the process ends."""
  folder = tempfile.mkdtemp(prefix='score_jax-')
  atexit.register(shutil.rmtree, folder, ignore_errors=True)
  return pathlib.Path(folder)


def _key(path: epath.Path) -> str:
  return os.fspath(path).removeprefix(SCHEME).rstrip('/')


def _is_refusal(error: Exception) -> bool:
  kind = type(error)
  credentials = kind.__module__ == 'google.auth.exceptions' and kind.__name__ != 'TransportError'
  if credentials and not getattr(error, 'retryable', False):
    return True
  return getattr(error, 'code', None) in (401, 403, 404) or bool(_REFUSALS.search(str(error)))
