"""What to do with checkpoints that are not whole: nothing is used, nothing of value is deleted, everything is said."""

import os
import sys

from etils import epath

from score_jax.errors import DataError
from score_jax.storage import manifests


def absolute(folder: os.PathLike | str) -> epath.Path:
  """A local path made absolute; an address stays as it is."""
  text = os.fspath(folder)
  return epath.Path(text if '://' in text else os.path.abspath(text))


def steps(root: epath.Path) -> list[int]:
  """Steps that Orbax has committed, by what lies on the disk; a manifest is another question."""
  if not root.exists():
    return []
  return sorted(int(path.name) for path in root.iterdir() if path.name.isdigit() and path.is_dir())


def put_aside_damage(root: epath.Path, damaged: epath.Path) -> None:
  """Leaves the newest whole step as the newest: what is newer is moved away, or deleted if it was never whole.

  Raises:
    DataError: there are steps, and none is whole. Nothing has been changed.
  """
  bad: dict[int, str] = {}
  for step in reversed(steps(root)):
    if not (problem := manifests.problem(root / str(step))):
      break
    bad[step] = problem
  else:
    # A run that was killed in its first save begins again; anything else is a loss that somebody must look at.
    if len(bad) > 1 or any(manifests.has(root / str(step)) for step in bad):
      raise DataError(
        f'no checkpoint in {root} is whole: {"; ".join(f"step {step}: {why}" for step, why in bad.items())}. Restore '
        f'one from a copy, or move {root} and metrics.jsonl away to begin again'
      )
  for step, problem in bad.items():
    print(f'warning: checkpoint of step {step} is not whole: {problem}', file=sys.stderr, flush=True)
    if manifests.has(root / str(step)):
      _move(root / str(step), damaged / str(step))
    else:
      (root / str(step)).rmtree()
  if bad:
    before = max(steps(root), default=0)
    print(f'warning: going on from step {before} instead of {max(bad)}', file=sys.stderr, flush=True)


def _move(source: epath.Path, target: epath.Path) -> None:
  target.parent.mkdir(parents=True, exist_ok=True)
  if target.exists():
    target.rmtree()
  source.rename(target)
  print(f'warning: it was moved to {target}; delete it when you have looked', file=sys.stderr, flush=True)


def remove_leftovers(root: epath.Path, step: int) -> None:
  """What a failed save left behind, so that it takes no room and is never taken for a checkpoint."""
  for path in root.iterdir():
    partial = path.name.startswith(f'{step}.') and 'tmp' in path.name
    unsealed = path.name == str(step) and not manifests.has(path)
    if partial or unsealed:
      path.rmtree()
