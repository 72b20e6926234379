"""The checkpoint of another run that a run begins from (config.init_from), and how checkpoints are chosen."""

import contextlib
import dataclasses
from typing import Any

from score_jax.errors import ConfigError
from score_jax.errors import DataError
from score_jax.parallel import hosts
from score_jax.storage.checkpoints import Checkpoints
from score_jax.storage.run_folder import RunFolder


@dataclasses.dataclass(frozen=True)
class ParentCheckpoint:
  """A checkpoint of another run that this one began from."""

  step: int
  sha256: str  # of its manifest, and so of its bytes


def choose_parent(init_from: str, folder: RunFolder) -> ParentCheckpoint:
  """Returns the checkpoint to begin from: the best of `init_from`.

  A run in `folder` that has begun keeps the one that it began from, even if the other run has a new best since.
  """
  if known := hosts.from_main('what the run began from', lambda: _noted(init_from, folder)):
    return ParentCheckpoint(known['step'], known['sha256'])
  with open_to_read(RunFolder(init_from)) as checkpoints:
    step = chosen_step(checkpoints, 'best')
    checkpoints.check(step)
    parent = ParentCheckpoint(step, checkpoints.digest(step))
  hosts.agree('config.init_from', dataclasses.asdict(parent))
  return parent


def _noted(init_from: str, folder: RunFolder) -> dict[str, Any] | None:
  """What a run under way has noted of its parent."""
  noted = folder.read_config()['identity'].get('init_from') if folder.has_begun() else None
  return noted if isinstance(noted, dict) and noted.get('path') == init_from else None


def check_parent(parent: ParentCheckpoint, init_from: str) -> None:
  """Checks that the checkpoint is still there.

  Raises:
    DataError: it is not, or another one is in its place.
  """
  with open_to_read(RunFolder(init_from)) as checkpoints:
    checkpoints.check(parent.step)
    if checkpoints.digest(parent.step) != parent.sha256:
      raise DataError(
        f'config.init_from = {init_from!r}: its checkpoint of step {parent.step} is not the one that this run began '
        'from; restore that folder from a copy, or begin a new --workdir'
      )


def open_to_read(folder: RunFolder) -> contextlib.closing[Checkpoints]:
  """Opens a run's checkpoints without changing anything. Raises ConfigError if it has none."""
  checkpoints = Checkpoints(folder.store, read_only=True)
  if not checkpoints.steps():
    raise ConfigError(f'{folder.store.root} has no checkpoints; it is not a run folder, or the run has saved none yet')
  return contextlib.closing(checkpoints)


def chosen_step(checkpoints: Checkpoints, step: str) -> int:
  """The number that 'best', 'last' or a number means there."""
  if step.isdigit():
    return int(step)
  if step not in ('best', 'last'):
    raise ConfigError(f"step {step!r} must be 'best', 'last' or a number")
  last = checkpoints.last_step()
  if last is None:
    raise ConfigError(f'{checkpoints.root} has no whole checkpoint')
  return checkpoints.progress(last).final_step if step == 'best' else last
