# SPDX-License-Identifier: Apache-2.0
"""Whether a checkpoint is, byte for byte, the one that was written; and what happens to one that is not.

Orbax restores data with flipped bits without a word, and does not fsync its last rename. So a step counts only with a
manifest: sha256 and size of each of its files, written after all of them have reached the disk or the store. At an
address it also lists the parts of the run's files that belong to the step. Its first line is the sha256 of its second,
which is JSON; any other byte in it is damage. Of steps that are not whole nothing is used, nothing that was whole once
is deleted, and everything is told.
"""

from concurrent.futures import ThreadPoolExecutor
import hashlib
import json
import sys
from typing import Any

from etils import epath

from score_jax import errors
from score_jax.storage.stores import FolderStore, Parts

NAME = 'manifest.json'
_THREADS = 4  # that read files; hashing leaves Python's lock
_ORBAX_PARTIAL = 'orbax-checkpoint-tmp'


def seal(store: FolderStore, folder: epath.Path, parts: Parts | None = None) -> None:
  """Makes a step durable and writes its manifest, with which it counts. `parts` are those of `store.publish`.

  Raises:
    OSError: the disk is full, gone or read-only; the store cannot be reached.
    TakenOverError: another process goes on with the run.
  """
  store.make_durable(folder)
  content = dict(files=_described(store, folder, _sizes(store, folder))) | (dict(parts=parts) if parts else {})
  store.check()
  store.write(folder / NAME, _sealed(json.dumps(content, sort_keys=True).encode()))


def _is_sealed(store: FolderStore, folder: epath.Path) -> bool:
  return NAME in store.names(folder)


def digest(store: FolderStore, folder: epath.Path) -> str:
  """Returns the sha256 of a step's manifest, which identifies the step."""
  return hashlib.sha256(store.read(folder / NAME)).hexdigest()


def parts(store: FolderStore, folder: epath.Path) -> Parts:
  """Returns the parts of the run's files that belong to a step; {} where the files are in the run's folder."""
  return (_manifest(store, folder) or {}).get('parts', {})


def problem(store: FolderStore, folder: epath.Path) -> str:
  """Says what is wrong with a step, naming the file; '' if nothing is.

  Raises:
    StoreError, StoreRefusalError: it could not be read, which says nothing about the step.
  """
  try:
    return _problem(store, folder)
  except (errors.StoreError, errors.StoreRefusalError):
    raise
  except OSError as error:
    return f'{error.filename or folder} cannot be read: {error.strerror or error}'


def _problem(store: FolderStore, folder: epath.Path) -> str:
  if not _is_sealed(store, folder):
    return _cut_off(folder)
  if (manifest := _manifest(store, folder)) is None:
    return f'{folder / NAME} is damaged'
  wanted, sizes = manifest['files'], _sizes(store, folder)
  for name in sorted(wanted | sizes):
    if name not in sizes:
      return f'{folder / name} is missing'
    if name not in wanted:
      return f'{folder / name} was added'
    if sizes[name] != wanted[name]['size']:
      return f'{folder / name} has {sizes[name]} bytes instead of {wanted[name]["size"]}'
  pieces = [piece for pieces in manifest.get('parts', {}).values() for piece in pieces]
  published = {path: dict(size=size, sha256=sha256) for path, size, sha256 in pieces}
  for above, entries in ((folder, wanted), (store.root, published)):
    now = _described(store, above, {name: entry['size'] for name, entry in entries.items()})
    for name in entries:
      if now[name] != entries[name]:
        return f'{above / name} has other bytes than were written'
  return ''


def _cut_off(folder: epath.Path) -> str:
  return f'{folder / NAME} is missing: the save was cut off'


def _manifest(store: FolderStore, folder: epath.Path) -> dict[str, Any] | None:
  """Returns what a manifest says; None: it is damaged."""
  raw = store.read(folder / NAME)
  _, _, text = raw.partition(b'\n')
  return json.loads(text) if raw == _sealed(text.removesuffix(b'\n')) else None


def _sealed(text: bytes) -> bytes:
  return b'%s\n%s\n' % (hashlib.sha256(text).hexdigest().encode(), text)


def _sizes(store: FolderStore, folder: epath.Path) -> dict[str, int]:
  sizes = store.sizes(folder)
  return {name: sizes[name] for name in sizes if name not in (NAME, NAME + '.partial')}


def _described(store: FolderStore, folder: epath.Path, sizes: dict[str, int]) -> dict[str, dict]:

  def described(name: str) -> dict:
    with store.errors(), (folder / name).open('rb') as file:
      return dict(size=sizes[name], sha256=hashlib.file_digest(file, 'sha256').hexdigest())

  with ThreadPoolExecutor(_THREADS) as threads:
    return dict(zip(sizes, threads.map(described, sizes), strict=True))


def sealed_steps(store: FolderStore) -> dict[int, epath.Path]:
  """Returns the folders of steps that have a manifest, oldest first; of several starts that saved one, the last's."""
  return _listed(store)[0]


def _listed(store: FolderStore) -> tuple[dict[int, epath.Path], list[epath.Path]]:
  """Returns steps that have a manifest, and folders of saves that were cut off."""
  sealed, cut_off = {}, []
  for root in store.roots():
    for name in store.names(root):
      if name.isdigit() and _is_sealed(store, root / name):
        sealed[int(name)] = root / name
      elif name.isdigit() or _ORBAX_PARTIAL in name:
        cut_off.append(root / name)
  return dict(sorted(sealed.items())), cut_off


def put_aside_damage(store: FolderStore) -> dict[int, epath.Path]:
  """Leaves the newest whole step as the newest: what is newer is put aside, or deleted if it was never whole.

  Returns the steps that are left, as `sealed_steps`; {}: there is none, and nothing is lost.

  Raises:
    DataError: there are steps, and none is whole. Nothing has been changed.
  """
  sealed, cut_off = _listed(store)
  bad: dict[int, str] = {}
  for step in reversed(sealed):
    if not (reason := problem(store, sealed[step])):
      break
    bad[step] = reason
  newest = max(set(sealed) - set(bad), default=0)
  reasons = {
    int(folder.name): _cut_off(folder) for folder in cut_off if folder.name.isdigit() and int(folder.name) > newest
  }
  begun = len(reasons)
  reasons = dict(sorted((reasons | bad).items(), reverse=True))
  # A run that was killed in its first save begins again; anything else is a loss that somebody must look at.
  if not newest and (bad or begun > 1):
    listed = '; '.join(f'step {step}: {reason}' for step, reason in reasons.items())
    raise errors.DataError(
      f'no checkpoint in {store.root} is whole: {listed}. Restore one from a copy, or move the checkpoints and '
      'metrics.jsonl away to begin again'
    )
  for step, reason in reasons.items():
    _warn(f'checkpoint of step {step} is not whole: {reason}')
    if step in bad:
      _warn(store.put_aside(sealed.pop(step)))
  for folder in cut_off:
    store.remove(folder)
  if reasons:
    _warn(f'going on from step {newest} instead of {max(reasons)}')
  return sealed


def _warn(text: str) -> None:
  print(f'warning: {text}', file=sys.stderr, flush=True)


def clear(store: FolderStore) -> None:
  """Deletes what saves of this process that failed have left, so that it takes no room."""
  for name in store.names(store.checkpoints):
    folder = store.checkpoints / name
    if _ORBAX_PARTIAL in name or name.isdigit() and not _is_sealed(store, folder):
      store.remove(folder)


def remove(store: FolderStore, folder: epath.Path) -> None:
  """Deletes a step, its manifest first: cut off anywhere, it does not count any more."""
  store.delete(folder / NAME)
  store.remove(folder)
