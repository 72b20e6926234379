"""Whether a checkpoint is, byte for byte, the one that was written.

Orbax restores data with flipped bits without a word, and does not fsync its last rename. So a step counts as saved only
with a manifest: sha256 and size of each of its files, written after everything else has reached the disk or the store.

The file's first line is the sha256 of its second, which is JSON; any other byte in it is damage.
"""

from collections.abc import Callable
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
import contextlib
import errno
import hashlib
import json
import os

from etils import epath

from score_jax.errors import StoreError
from score_jax.errors import StoreRefusalError
from score_jax.storage import addresses

NAME = 'manifest.json'
_AT_ONCE = 4  # files that are read at a time; hashing leaves Python's lock
_BLOCK = 1 << 22


def write(folder: epath.Path, before: Callable[[], None] = lambda: None) -> None:
  """Makes the folder's files durable, then writes what they are, then makes that durable.

  Args:
    folder: of a step.
    before: called when all but the manifest is there; the step does not count if it raises.

  Raises:
    OSError: the disk is full, gone or read-only; the store can not be reached.
  """
  files, local = _files(folder), not addresses.is_address(folder)
  # On object stores a write is durable when it has succeeded, and there is nothing to call.
  if local:
    for path in (*(folder / name for name in files), *_folders(folder), folder.parent):
      fsync(path)
  text = json.dumps(dict(files=_described(folder, files)), sort_keys=True)
  before()
  # An object is there as a whole or not at all, and a store can not rename.
  path = folder / (NAME + '.partial' if local else NAME)
  with addresses.errors(folder):
    path.write_text(f'{hashlib.sha256(text.encode()).hexdigest()}\n{text}\n')
  if local:
    fsync(path)
    path.rename(folder / NAME)
    fsync(folder)


def revoke(folder: epath.Path) -> None:
  """The step no longer counts: the first thing of it that is deleted."""
  with contextlib.suppress(FileNotFoundError), addresses.errors(folder):
    (folder / NAME).unlink()
  if not addresses.is_address(folder) and folder.exists():
    fsync(folder)


def has(folder: epath.Path) -> bool:
  """Whether there is a manifest, true or not."""
  with addresses.errors(folder):
    return (folder / NAME).exists()


def digest(folder: epath.Path) -> str:
  """What identifies this checkpoint: the sha256 of its manifest."""
  with addresses.errors(folder):
    return hashlib.sha256((folder / NAME).read_bytes()).hexdigest()


def problem(folder: epath.Path) -> str:
  """What is wrong with a step, naming the file; '' if nothing is.

  Raises:
    StoreError, StoreRefusalError: a store did not let it be read, which says nothing about the step.
  """
  try:
    return _problem(folder)
  except (StoreError, StoreRefusalError):
    raise
  except OSError as error:
    return f'{error.filename or folder} can not be read: {error.strerror}'


def _problem(folder: epath.Path) -> str:
  if not has(folder):
    return f'{folder / NAME} is missing: the save was cut off'
  if (wanted := _wanted(folder)) is None:
    return f'{folder / NAME} is damaged'
  found = _files(folder)
  for name in sorted(set(wanted) | set(found)):
    if name not in found:
      return f'{folder / name} is missing'
    if name not in wanted:
      if addresses.is_address(folder):
        continue  # an upload of a run that lost the place may arrive late; nothing that was written refers to it
      return f'{folder / name} was added'
    if found[name] != wanted[name]['size']:
      return f'{folder / name} has {found[name]} bytes instead of {wanted[name]["size"]}'
  for name, now in _described(folder, {name: found[name] for name in wanted}).items():
    if now != wanted[name]:
      return f'{folder / name} has other bytes than were written'
  return ''


def _wanted(folder: epath.Path) -> dict[str, dict] | None:
  """What the manifest says of each file; None: it is damaged."""
  with addresses.errors(folder):
    raw = (folder / NAME).read_bytes()
  head, _, text = raw.decode('ascii', 'replace').partition('\n')
  if raw != f'{hashlib.sha256(text.removesuffix(chr(10)).encode()).hexdigest()}\n{text}'.encode() or text[-1:] != '\n':
    return None
  return json.loads(text)['files']


def read(folder: epath.Path, name: str) -> bytes | None:
  """The bytes of one small file of a step, if they are those that were written."""
  try:
    described = (_wanted(folder) or {}).get(name)
    with addresses.errors(folder):
      data = (folder / name).read_bytes() if described else b''
  except FileNotFoundError:
    return None
  same = described and dict(size=len(data), sha256=hashlib.sha256(data).hexdigest()) == described
  return data if same else None


def fsync(path: os.PathLike) -> None:
  """Makes a file, or a folder's names, durable."""
  handle = os.open(path, os.O_RDONLY)
  try:
    os.fsync(handle)
  except OSError as error:
    if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that can not do this to a folder
      raise
  finally:
    os.close(handle)


def _files(folder: epath.Path) -> dict[str, int]:
  """Bytes of every file but the manifest, by its path inside the folder."""
  if addresses.is_address(folder):
    found = addresses.sizes(folder)
  else:
    paths = sorted(path for path in _under(folder) if not path.is_dir())
    found = {path.relative_to(folder).as_posix(): path.stat().length for path in paths}
  return {name: size for name, size in found.items() if name not in (NAME, NAME + '.partial')}


def _folders(folder: epath.Path) -> list[epath.Path]:
  """Those in it and itself, the innermost first."""
  return sorted((path for path in _under(folder) if path.is_dir()), reverse=True) + [folder]


def _under(folder: epath.Path) -> Iterator[epath.Path]:
  """Everything in a local folder."""
  for path in folder.iterdir():
    yield path
    if path.is_dir():
      yield from _under(path)


def _described(folder: epath.Path, files: dict[str, int]) -> dict[str, dict]:
  """Size and sha256 of each."""
  paths = (folder / name for name in files)
  with ThreadPoolExecutor(_AT_ONCE) as threads:
    return dict(zip(files, threads.map(_description, paths, files.values()), strict=True))


def _description(path: epath.Path, size: int) -> dict:
  total, read = hashlib.sha256(), 0
  for block in addresses.blocks(path, size) if addresses.is_address(path) else _blocks(path):
    total.update(block)
    read += len(block)
  return dict(size=read, sha256=total.hexdigest())


def _blocks(path: epath.Path) -> Iterator[bytes]:
  with path.open('rb') as file:
    while block := file.read(_BLOCK):
      yield block
