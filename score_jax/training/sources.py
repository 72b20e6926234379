"""Checkpoints of other runs: which one is meant, and that it stays the one that a run began from."""

import contextlib
import dataclasses
from typing import Any

from score_jax.errors import ConfigError
from score_jax.errors import DataError
from score_jax.parallel import hosts
from score_jax.storage import manifests
from score_jax.storage import repairs
from score_jax.storage import run_folder
from score_jax.storage.checkpoints import Checkpoints
from score_jax.storage.places import Place
from score_jax.storage.run_folder import RunFolder


@dataclasses.dataclass(frozen=True)
class Source:
  """A checkpoint of another run that this one began from."""

  step: int
  sha256: str  # of its manifest, and so of its bytes


def taken(init_from: str, folder: RunFolder) -> Source:
  """The step of `init_from` that a run begins from: the one it began from, even if that run has a new best since."""
  if known := hosts.from_main('what the run began from', lambda: _known(init_from, folder)):
    return Source(known['step'], known['sha256'])
  with open_checkpoints(RunFolder(init_from)) as checkpoints:
    step = chosen_step(checkpoints, RunFolder(init_from), 'best')
    checkpoints.check(step)
    source = Source(step, manifests.digest(checkpoints.path(step)))
  hosts.agree('config.init_from', dataclasses.asdict(source))
  return source


def _known(init_from: str, folder: RunFolder) -> dict[str, Any] | None:
  """What a run under way noted of its source."""
  found = folder.read_config()['identity'].get('init_from') if folder.has_begun() else None
  return found if isinstance(found, dict) and found.get('path') == init_from else None


def check(source: Source, init_from: str) -> None:
  """Whether that checkpoint is still there.

  Raises:
    DataError: it is not, or another one is in its place.
  """
  with open_checkpoints(RunFolder(init_from)) as checkpoints:
    checkpoints.check(source.step)
    if manifests.digest(checkpoints.path(source.step)) != source.sha256:
      raise DataError(
        f'config.init_from = {init_from!r}: its checkpoint of step {source.step} is not the one that this run began '
        'from; restore that folder from a copy, or begin a new --workdir'
      )


def open_checkpoints(folder: RunFolder) -> contextlib.closing[Checkpoints]:
  """A run's checkpoints, to read, wherever it keeps them."""
  root = folder.checkpoints
  if folder.config.exists() and (elsewhere := run_folder.saved_at(folder.read_config()['config'])):
    place = Place(elsewhere)
    place.probe()
    root = place.checkpoints
  if not repairs.steps(repairs.absolute(root)):
    raise ConfigError(f'{folder.path} has no checkpoints; it is not a run folder, or the run has saved none yet')
  return contextlib.closing(Checkpoints(root, read_only=True))


def chosen_step(checkpoints: Checkpoints, folder: RunFolder, step: str) -> int:
  """What 'best', 'last' or a number mean there."""
  if step.isdigit():
    return int(step)
  if step not in ('best', 'last'):
    raise ConfigError(f"step {step!r} must be 'best', 'last' or a number")
  last = checkpoints.last_step()
  if last is None:
    raise ConfigError(f'{folder.path} has no whole checkpoint yet')
  return (checkpoints.progress(last).best_step or last) if step == 'best' else last
