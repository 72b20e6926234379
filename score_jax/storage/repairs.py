"""What to do with checkpoints that are not whole: nothing is used, nothing of value is deleted, everything is said."""

import contextlib
import os
import sys

from etils import epath

from score_jax.errors import DataError
from score_jax.storage import addresses
from score_jax.storage import manifests


def absolute(folder: os.PathLike | str) -> epath.Path:
  """A local path made absolute; an address stays as it is."""
  return epath.Path(folder if addresses.is_address(folder) else os.path.abspath(folder))


def steps(root: epath.Path) -> list[int]:
  """Steps that Orbax has committed, by what lies on the disk; a manifest is another question.

  At an address Orbax writes in the place itself, so a step there may also be one whose save was cut off.
  """
  if addresses.is_address(root):
    names = addresses.folders(root)
  else:
    names = [path.name for path in root.iterdir() if path.is_dir()] if root.exists() else []
  return sorted(int(name) for name in names if name.isdigit())


def put_aside_damage(root: epath.Path, damaged: epath.Path) -> int | None:
  """Leaves the newest whole step as the newest: what is newer is moved away, or deleted if it was never whole.

  Returns:
    The newest whole step; None: there is none, and nothing is lost.

  Raises:
    DataError: there are steps, and none is whole. Nothing has been changed.
  """
  bad: dict[int, str] = {}
  found = steps(root)
  for step in reversed(found):
    if not (problem := manifests.problem(root / str(step))):
      break
    bad[step] = problem
  else:
    step = None
    # A run that was killed in its first save begins again; anything else is a loss that somebody must look at.
    if len(bad) > 1 or any(manifests.has(root / str(step)) for step in bad):
      raise DataError(
        f'no checkpoint in {root} is whole: {"; ".join(f"step {step}: {why}" for step, why in bad.items())}. Restore '
        f'one from a copy, or move {root} and metrics.jsonl away to begin again'
      )
  for number, problem in bad.items():
    print(f'warning: checkpoint of step {number} is not whole: {problem}', file=sys.stderr, flush=True)
    if manifests.has(root / str(number)):
      _move(root / str(number), damaged / str(number))
    else:
      _remove(root / str(number))
  if bad:
    print(f'warning: going on from step {step or 0} instead of {max(bad)}', file=sys.stderr, flush=True)
  if addresses.is_address(root):  # on a file system Orbax itself clears away what it has not committed
    for number in found:
      if number not in bad and not manifests.has(root / str(number)):
        _remove(root / str(number))
  return step


def _move(source: epath.Path, target: epath.Path) -> None:
  if addresses.is_address(source):
    # First the copy, then the manifest, then the rest: cut off anywhere, one of the two is complete.
    if addresses.sizes(target):
      _remove(target)
    addresses.copy(source, target)
    manifests.revoke(source)
    _remove(source)
  else:
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
      target.rmtree()
    source.rename(target)
  print(f'warning: it was moved to {target}; delete it when you have looked', file=sys.stderr, flush=True)


def remove_leftovers(root: epath.Path, step: int) -> None:
  """What a failed save left behind, so that it takes no room and is never taken for a checkpoint."""
  if addresses.is_address(root):
    names = addresses.folders(root)
  else:
    names = [path.name for path in root.iterdir()] if root.exists() else []
  for name in names:
    partial = name.startswith(f'{step}.') and 'tmp' in name
    unsealed = name == str(step) and not manifests.has(root / name)
    if partial or unsealed:
      _remove(root / name)


def _remove(folder: epath.Path) -> None:
  # Not there: another start has cleared it away, or the store did as it was asked and its answer was lost.
  with contextlib.suppress(FileNotFoundError), addresses.errors(folder):
    folder.rmtree()
