"""Whether a checkpoint is, byte for byte, the one that was written.

Orbax restores data with flipped bits without a word, and does not fsync its last rename. So a step counts as saved only
with a manifest: sha256 and size of each of its files, written after everything else has reached the disk.

The file's first line is the sha256 of its second, which is JSON; any other byte in it is damage.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
import contextlib
import errno
import hashlib
import json
import os

from etils import epath

NAME = 'manifest.json'
_AT_ONCE = 4  # files that are read at a time; hashing leaves Python's lock
_BLOCK = 1 << 22


def write(folder: epath.Path) -> None:
  """Makes the folder's files durable, then writes what they are, then makes that durable.

  Raises:
    OSError: the disk is full, gone or read-only.
  """
  files = _files(folder)
  # On object stores a write is durable when it has succeeded, and there is nothing to call.
  if is_local(folder):
    for path in (*files.values(), *_folders(folder), folder.parent):
      fsync(path)
  text = json.dumps(dict(files=_described(files)), sort_keys=True)
  partial = folder / (NAME + '.partial')
  partial.write_text(f'{hashlib.sha256(text.encode()).hexdigest()}\n{text}\n')
  if is_local(folder):
    fsync(partial)
  partial.rename(folder / NAME)
  if is_local(folder):
    fsync(folder)


def revoke(folder: epath.Path) -> None:
  """The step no longer counts: the first thing of it that is deleted."""
  with contextlib.suppress(FileNotFoundError):
    (folder / NAME).unlink()
  if is_local(folder) and folder.exists():
    fsync(folder)


def has(folder: epath.Path) -> bool:
  """Whether there is a manifest, true or not."""
  return (folder / NAME).exists()


def digest(folder: epath.Path) -> str:
  """What identifies this checkpoint: the sha256 of its manifest."""
  return hashlib.sha256((folder / NAME).read_bytes()).hexdigest()


def problem(folder: epath.Path) -> str:
  """What is wrong with a step, naming the file; '' if nothing is."""
  try:
    return _problem(folder)
  except OSError as error:
    return f'{error.filename or folder} can not be read: {error.strerror}'


def _problem(folder: epath.Path) -> str:
  if not has(folder):
    return f'{folder / NAME} is missing: the save was cut off'
  raw = (folder / NAME).read_bytes()
  head, _, text = raw.decode('ascii', 'replace').partition('\n')
  if raw != f'{hashlib.sha256(text.removesuffix(chr(10)).encode()).hexdigest()}\n{text}'.encode() or text[-1:] != '\n':
    return f'{folder / NAME} is damaged'
  wanted, found = json.loads(text)['files'], _files(folder)
  for name in sorted(set(wanted) | set(found)):
    if name not in found:
      return f'{folder / name} is missing'
    if name not in wanted:
      return f'{folder / name} was added'
    if found[name].stat().length != wanted[name]['size']:
      return f'{folder / name} has {found[name].stat().length} bytes instead of {wanted[name]["size"]}'
  for name, now in _described(found).items():
    if now != wanted[name]:
      return f'{folder / name} has other bytes than were written'
  return ''


def is_local(folder: epath.Path) -> bool:
  """Whether it is on a file system, where fsync means something."""
  return '://' not in os.fspath(folder)


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


def _files(folder: epath.Path) -> dict[str, epath.Path]:
  """Every file but the manifest, by its path inside the folder."""
  own = (folder / NAME, folder / (NAME + '.partial'))
  paths = sorted(path for path in _under(folder) if path not in own and not path.is_dir())
  return {path.relative_to(folder).as_posix(): path for path in paths}


def _folders(folder: epath.Path) -> list[epath.Path]:
  """Those in it and itself, the innermost first."""
  return sorted((path for path in _under(folder) if path.is_dir()), reverse=True) + [folder]


def _under(folder: epath.Path) -> Iterator[epath.Path]:
  """Everything in a folder; epath has no rglob for object stores."""
  for path in folder.iterdir():
    yield path
    if path.is_dir():
      yield from _under(path)


def _described(files: dict[str, epath.Path]) -> dict[str, dict]:
  """Size and sha256 of each."""
  with ThreadPoolExecutor(_AT_ONCE) as threads:
    return dict(zip(files, threads.map(_description, files.values()), strict=True))


def _description(path: epath.Path) -> dict:
  total, size = hashlib.sha256(), 0
  with path.open('rb') as file:
    while block := file.read(_BLOCK):
      total.update(block)
      size += len(block)
  return dict(size=size, sha256=total.hexdigest())
