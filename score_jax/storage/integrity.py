# SPDX-License-Identifier: Apache-2.0
"""Whether a checkpoint is, byte for byte, the one that was written; and what becomes of others.

Orbax restores flipped bits without a word, and does not fsync its last rename. So a step counts only with a manifest,
written once all is durable: sha256 and size of each file, and the parts of the run's files that go with it. Its first
line is the sha256 of its second, which is JSON. Nothing of a damaged step is used or deleted.
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import hashlib
import json
import sys
from typing import Any

from etils import epath

from score_jax import errors
from score_jax.parallel import hosts
from score_jax.storage import hashes
from score_jax.storage.stores import FolderStore, Parts

NAME = 'manifest.json'
_ORBAX_PARTIAL = 'orbax-checkpoint-tmp'
Hasher = Callable[[FolderStore, epath.Path, Mapping[str, int]], dict[str, str]]  # of files by name, with their bytes


def by_itself(store: FolderStore, folder: epath.Path, sizes: Mapping[str, int]) -> dict[str, str]:
  """Hashes files below a folder on this host."""
  return hashes.sha256s(folder, sizes, store.errors)


def by_all(hand_out: hosts.HandOut) -> Hasher:
  """Returns a hasher for host 0, which deals files out; what another host cannot read it reads itself."""

  def hashed(store: FolderStore, folder: epath.Path, sizes: Mapping[str, int]) -> dict[str, str]:
    below = '' if folder == store.root else str(folder.relative_to(store.root))
    shares = hashes.dealt(sizes, hosts.count())
    known: dict[str, str] = {}
    for answer in hand_out([[below, names] for names in shares]):
      known |= answer
    return known | by_itself(store, folder, {name: size for name, size in sizes.items() if name not in known})

  return hashed


def share(store: FolderStore, asked: tuple[str, list[str]]) -> dict[str, str]:
  """Makes a host's share of that, but for what it cannot read."""

  @contextlib.contextmanager
  def attempt() -> Iterator[None]:
    with contextlib.suppress(OSError), store.errors():
      yield

  below, names = asked
  return hashes.sha256s(store.root / below if below else store.root, names, attempt)


def seal(store: FolderStore, folder: epath.Path, parts: Parts | None = None, hasher: Hasher = by_itself) -> None:
  """Makes a step durable and writes its manifest, with the `parts` of `store.publish`.

  Raises OSError if the disk or the store fails, and TakenOverError.
  """
  store.make_durable(folder)
  sizes = _sizes(store, folder)
  sha256s = hasher(store, folder, sizes)
  content = dict(files={name: dict(size=sizes[name], sha256=sha256s[name]) for name in sizes})
  if parts:
    content['parts'] = parts
  store.check()
  store.write(folder / NAME, _sealed(json.dumps(content, sort_keys=True).encode()))


def digest(store: FolderStore, folder: epath.Path) -> str:
  return hashlib.sha256(store.read(folder / NAME)).hexdigest()


def parts(store: FolderStore, folder: epath.Path) -> Parts:
  """Returns the parts of the run's files that go with a step; {} in a folder."""
  return (_manifest(store, folder) or {}).get('parts', {})


def problem(store: FolderStore, folder: epath.Path, hasher: Hasher = by_itself) -> str:
  """Names what is wrong with a step, or ''.

  Raises:
    StoreError, StoreRefusalError: which say nothing about the step.
  """
  try:
    return _problem(store, folder, hasher)
  except (errors.StoreError, errors.StoreRefusalError):
    raise
  except OSError as error:
    return f'{error.filename or folder} cannot be read: {error.strerror or error}'


def _problem(store: FolderStore, folder: epath.Path, hasher: Hasher) -> str:
  if NAME not in store.names(folder):
    return f'{folder / NAME} is missing: the save was cut off'
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
  saved = {name: (entry['size'], entry['sha256']) for name, entry in wanted.items()}
  pieces = [piece for pieces in manifest.get('parts', {}).values() for piece in pieces]
  published = {path: (size, sha256) for path, size, sha256 in pieces}
  for above, written in ((folder, saved), (store.root, published)):
    actual = hasher(store, above, {name: size for name, (size, _) in written.items()}) if written else {}
    for name, (_, sha256) in written.items():
      if sha256 != actual[name]:
        return f'{above / name} has other bytes than were written'
  return ''


def _manifest(store: FolderStore, folder: epath.Path) -> dict[str, Any] | None:
  """Returns None for a damaged manifest."""
  raw = store.read(folder / NAME)
  _, _, text = raw.partition(b'\n')
  return json.loads(text) if raw == _sealed(text.removesuffix(b'\n')) else None


def _sealed(text: bytes) -> bytes:
  return b'%s\n%s\n' % (hashlib.sha256(text).hexdigest().encode(), text)


def _sizes(store: FolderStore, folder: epath.Path) -> dict[str, int]:
  return {name: size for name, size in store.sizes(folder).items() if name not in (NAME, f'{NAME}.partial')}


def sealed_steps(store: FolderStore) -> dict[int, epath.Path]:
  """Returns the folders of steps with a manifest, oldest first; of several starts, the last's."""
  return _listed(store)[0]


def _listed(store: FolderStore) -> tuple[dict[int, epath.Path], list[epath.Path]]:
  """Returns `sealed_steps`, and folders of saves that were cut off."""
  sealed, cut_off = {}, []
  for root in store.roots():
    for name in store.names(root):
      if name.isdigit() and NAME in store.names(root / name):
        sealed[int(name)] = root / name
      elif name.isdigit() or _ORBAX_PARTIAL in name:
        cut_off.append(root / name)
  return dict(sorted(sealed.items())), cut_off


def put_aside_damage(store: FolderStore, hasher: Hasher = by_itself) -> dict[int, epath.Path]:
  """Puts aside what is newer than the newest whole step, or deletes it if it was never whole.

  Returns the steps that are left, as `sealed_steps`.

  Raises:
    DataError: there are steps, and none is whole. Nothing is changed.
  """
  sealed, cut_off = _listed(store)
  bad: dict[int, str] = {}
  for step in reversed(sealed):
    if not (reason := problem(store, sealed[step], hasher)):
      break
    bad[step] = reason
  newest = max(set(sealed) - set(bad), default=0)
  begun = {int(folder.name): problem(store, folder, hasher) for folder in cut_off if folder.name.isdigit()}
  begun = {step: reason for step, reason in begun.items() if step > newest}
  reasons = dict(sorted((begun | bad).items(), reverse=True))
  # A run killed in its first save begins again; anything else is a loss.
  if not newest and (bad or len(begun) > 1):
    listed = '; '.join(f'step {step}: {reason}' for step, reason in reasons.items())
    raise errors.DataError(
      f'no checkpoint in {store.root} is whole: {listed}. Restore one from a copy, or move checkpoints and '
      'metrics.jsonl away to begin again'
    )
  for step, reason in reasons.items():
    warn(f'checkpoint of step {step} is not whole: {reason}')
    if step in bad:
      warn(store.put_aside(sealed.pop(step)))
  for folder in cut_off:
    store.remove(folder)
  if reasons:
    warn(f'going on from step {newest} instead of {max(reasons)}')
  return sealed


def warn(text: str) -> None:
  """Prints a line, below any progress bar."""
  print(f'\nwarning: {text}', file=sys.stderr, flush=True)


def clear(store: FolderStore) -> None:
  """Deletes what failed saves of this process have left."""
  for name in store.names(store.checkpoints):
    folder = store.checkpoints / name
    if _ORBAX_PARTIAL in name or name.isdigit() and NAME not in store.names(folder):
      store.remove(folder)


def remove(store: FolderStore, folder: epath.Path) -> None:
  """Deletes a step, its manifest first: cut off anywhere, it no longer counts."""
  store.delete(folder / NAME)
  store.remove(folder)
