# SPDX-License-Identifier: Apache-2.0
"""Checks before a run begins."""

import contextlib
import pathlib
import platform
from typing import Any

import jax
import numpy as np
import optax

from score_jax import config as configs
from score_jax import files
from score_jax.config import RunConfig
from score_jax.errors import ConfigError, DataError
from score_jax.models.lora import Lora
from score_jax.parallel import hosts
from score_jax.storage.checkpoints import Checkpoints
from score_jax.storage.run_folder import RunFolder
from score_jax.tasks import Task, heldout_problems

_PACKAGE = pathlib.Path(__file__).parent.parent


def check_task(config: RunConfig, task: Task) -> None:
  """Raises ConfigError unless there are problems to train and evaluate on."""
  if task.train.size == 0:
    raise ConfigError(
      f'config.task.data.train = {config.task.data.train}: task {config.task.name!r} has no training problems; name '
      'files, folders or tfds:NAME/SPLIT of them (humaneval is for config.task.evaluate alone)'
    )
  heldout_problems(task, config.eval.problems, config.eval.seed)


def check_hosts(config: RunConfig, task: Task) -> None:
  """Refuses hosts that would not run the same."""
  if hosts.count() == 1:
    return
  settings = configs.as_dict(config)
  for section, name in (('model', 'path'), ('task', 'data')):
    settings[section].pop(name)
  for name in ('compile_cache', 'grading'):
    settings.pop(name)
  versions = {module.__name__: module.__version__ for module in (jax, np, optax)}
  parts = dict(
    config=settings,
    grading=configs.identity(config)['grading'],
    data=dict(train=task.train.fingerprint, heldout=task.heldout.fingerprint),
    code=files.hash_files(_PACKAGE, ('.py',), deep=True),
    versions=dict(python=platform.python_version(), **versions),
  )
  hosts.agree('what it runs', parts)


def choose_parent(config: RunConfig, folder: RunFolder, base: str) -> dict[str, Any] | None:
  """Returns path, step and sha256 of the best checkpoint of config.init_from, if that is set.

  A run in `folder` that has begun keeps its own. Else both must train the same weights, adapters on one `base`.
  """
  path = config.init_from
  if not path:
    return None
  if known := hosts.from_main('config.init_from', lambda: _noted(config, folder, base)):
    return known
  with open_to_read(RunFolder(path)) as checkpoints:
    step = chosen_step(checkpoints, 'best')
    checkpoints.check(step)
    parent = dict(path=path, step=step, sha256=checkpoints.digest(step))
  hosts.agree('config.init_from', parent)
  return parent


def _noted(config: RunConfig, folder: RunFolder, base: str) -> dict[str, Any] | None:
  """What a begun run has noted; checks a run that has not begun."""
  path, ours = config.init_from, config.lora
  if folder.has_begun():
    noted = folder.read_config()['identity'].get('init_from')
    return noted if isinstance(noted, dict) and noted.get('path') == path else None
  written = RunFolder(path).read_config()
  theirs = Lora(**written['config']['lora'])
  if not theirs.rank and not ours.rank:
    return None
  if written['identity'].get('model', {}).get('weights') != base:
    raise ConfigError(
      f'config.init_from = {path!r} was trained on another base than config.model.path = {config.model.path!r}; '
      'use the base of its adapters'
    )
  if theirs != ours:
    raise ConfigError(
      f'config.init_from = {path!r} was trained with config.lora = {theirs}, this run has {ours}; use the same, or '
      'export that run as config.model.path'
    )
  return None


def check_parent(parent: dict[str, Any]) -> None:
  """Raises DataError if the checkpoint is gone or replaced."""
  path, step = parent['path'], parent['step']
  with open_to_read(RunFolder(path)) as checkpoints:
    checkpoints.check(step)
    if checkpoints.digest(step) != parent['sha256']:
      raise DataError(
        f'config.init_from = {path!r}: its checkpoint of step {step} is not the one that this run began from; '
        'restore the folder from a copy, or begin a new --workdir'
      )


def open_to_read(folder: RunFolder) -> contextlib.closing[Checkpoints]:
  """Opens a run's checkpoints to read them; ConfigError if it has none."""
  checkpoints = Checkpoints(folder.store, read_only=True)
  if not checkpoints.steps():
    raise ConfigError(f'{folder.store.root} has no checkpoints; it is not a run folder, or has saved none yet')
  return contextlib.closing(checkpoints)


def chosen_step(checkpoints: Checkpoints, step: str) -> int:
  """The step that 'best', 'last' or a number means."""
  if step.isdigit():
    return int(step)
  if step not in ('best', 'last'):
    raise ConfigError(f"step {step!r} must be 'best', 'last' or a number")
  last = checkpoints.last_step()
  if last is None:
    raise ConfigError(f'{checkpoints.root} has no whole checkpoint')
  return checkpoints.progress(last).final_step if step == 'best' else last
