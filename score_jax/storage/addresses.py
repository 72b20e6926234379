"""Object storage as a place for files: what epath and Orbax leave to the caller where a path is a gs:// address.

A store has no folders, no rename and no fsync: an object is there, whole, once its upload has succeeded, and seen by
all from then on. Orbax writes arrays through TensorStore and everything else through epath, which is gcsfs.
"""

from collections.abc import Iterator
import contextlib
import functools
import importlib
import logging
import os
import re
from typing import Any

from etils import epath
from etils.epath import backend

from score_jax.errors import ConfigError
from score_jax.errors import StoreError
from score_jax.errors import StoreRefusalError
from score_jax.errors import UserError

SCHEME = 'gs://'
_BLOCK = 1 << 24  # bytes of a request
_PROBE_SECONDS = 30.0
_CLIENTS = ('gcsfs', 'aiohttp', 'requests', 'google', 'fsspec', 'urllib3', 'asyncio')
_REFUSALS = re.compile(
  r'forbidden|permission_?denied|unauthenticated|anonymous caller|invalid credentials|does not have storage\.|'
  r'bucket does not exist|default credentials|project was not passed|reauthenticat',
  re.IGNORECASE,
)
# TensorStore says what went wrong as a ValueError with one of these words in front.
_STATUS = re.compile(
  r'\b(UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|PERMISSION_DENIED|UNAUTHENTICATED|RESOURCE_EXHAUSTED)\b'
)


def is_address(path: os.PathLike | str) -> bool:
  """Whether a path is an address of a store; else it is on a file system."""
  return '://' in os.fspath(path)


@functools.cache
def filesystem() -> Any:
  """The one client through which epath, and so Orbax, sees a store.

  Raises:
    ConfigError: its packages are not installed.
  """
  # One way in, the one that is tested: not through TensorFlow where that happens to be installed, and without gcsfs'
  # handling of other kinds of buckets, which asks another service about each before anything else.
  os.environ.setdefault('EPATH_USE_TF', 'false')
  os.environ.setdefault('GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT', 'false')
  for name in ('gcsfs', 'google.cloud.storage'):  # Orbax imports the second
    try:
      importlib.import_module(name)
    except ImportError as error:
      raise ConfigError(
        f'config.checkpoint.path is an address, for which the package {name} is missing ({error}); install the extra '
        "`gcs`: pip install -e '.[gcs]'"
      ) from error
  logging.getLogger('gcsfs').setLevel(logging.CRITICAL)  # it prints the traceback of what it also raises
  client = backend.fsspec_backend.fs(SCHEME)
  client.dircache.use_listings_cache = False  # TensorStore and other hosts write past it
  return client


def prepare(path: os.PathLike | str) -> None:
  """Makes ready what a path needs, before epath or Orbax sees it; nothing where it is local."""
  if is_address(path):
    filesystem()


def probe(path: os.PathLike | str) -> None:
  """Whether the bucket of an address is there and lets this process in, by what Orbax asks of it too.

  Raises:
    StoreRefusalError, StoreError: it does not; or nobody answers.
  """
  prepare(path)
  with errors(path):
    storage = importlib.import_module('google.cloud.storage')
    retry = importlib.import_module('google.cloud.storage.retry').DEFAULT_RETRY.with_timeout(_PROBE_SECONDS)
    storage.Client().get_bucket(bucket_of(path), retry=retry)


def bucket_of(path: os.PathLike | str) -> str:
  """'gs://BUCKET/a/b' -> 'BUCKET'."""
  return os.fspath(path).removeprefix(SCHEME).partition('/')[0]


@contextlib.contextmanager
def errors(path: os.PathLike | str) -> Iterator[None]:
  """Makes one line of whatever a store's clients raise; nothing where the path is local.

  That an object is not there stays a FileNotFoundError, and errors of other kinds stay what they are.

  Raises:
    StoreRefusalError: no permission, no credentials, no such bucket.
    StoreError: anything else, which may pass.
  """
  try:
    yield
  except (UserError, FileNotFoundError):
    raise
  except Exception as error:
    if not is_address(path) or not _is_of_a_store(error):
      raise
    reason = ' '.join(str(error).split())[:400] or type(error).__name__
    if _is_refusal(error):
      raise StoreRefusalError(
        f'{path} can not be used: {reason}. Its bucket must exist, and the account of this machine needs the roles '
        'storage.objectUser and storage.legacyBucketReader on it (docs/pods.md)'
      ) from error
    raise StoreError(f'{path} can not be reached: {reason}; run the same command again') from error


def _is_of_a_store(error: Exception) -> bool:
  ours = type(error).__module__.partition('.')[0] in _CLIENTS
  return ours or isinstance(error, OSError) or bool(_STATUS.search(str(error)))


def _is_refusal(error: Exception) -> bool:
  unknown = type(error).__module__ == 'google.auth.exceptions' and type(error).__name__ != 'TransportError'
  credentials = unknown and not getattr(error, 'retryable', False)
  return credentials or getattr(error, 'code', None) in (401, 403, 404) or bool(_REFUSALS.search(str(error)))


def sizes(folder: epath.Path) -> dict[str, int]:
  """Bytes of every object below an address, by its path inside; one request for a thousand of them."""
  prefix = os.fspath(folder).removeprefix(SCHEME).rstrip('/') + '/'
  with errors(folder):
    found = filesystem().find(os.fspath(folder), detail=True)
  # Consoles and mounts leave empty objects whose names end in a slash.
  return {
    name.removeprefix(prefix): about['size']
    for name, about in found.items()
    if name.startswith(prefix) and not name.endswith('/') and about['type'] == 'file'
  }


def folders(folder: epath.Path) -> list[str]:
  """Names of what lies directly below an address and has something in it; [] if nothing does.

  One list that raises when it fails: asked whether each is a folder, gcsfs says no where a request had no answer, and a
  step would not be there.
  """
  own = os.fspath(folder).removeprefix(SCHEME).rstrip('/')
  with errors(folder):
    try:
      found = filesystem().ls(os.fspath(folder), detail=True)
    except FileNotFoundError:
      return []
  paths = (about['name'].rstrip('/') for about in found if about['type'] == 'directory')
  return [path.rpartition('/')[2] for path in paths if path != own]


def blocks(path: epath.Path, size: int) -> Iterator[bytes]:
  """The bytes of an object, as they come."""
  with errors(path):
    for begin in range(0, size, _BLOCK):
      yield filesystem().cat_file(os.fspath(path), start=begin, end=min(begin + _BLOCK, size))


def copy(source: epath.Path, target: epath.Path) -> None:
  """Copies every object below an address, within the store."""
  with errors(source):
    for name in sizes(source):
      filesystem().cp_file(os.fspath(source / name), os.fspath(target / name))


def upload(source: os.PathLike, target: epath.Path) -> None:
  """Copies a local file to an address, or to another place on a file system."""
  if is_address(target):
    with errors(target):
      filesystem().put_file(os.fspath(source), os.fspath(target))
  else:
    target.parent.mkdir(parents=True, exist_ok=True)
    epath.Path(source).copy(target, overwrite=True)
