"""Checks before a run begins: enough problems, the same settings on all hosts, a run folder that is theirs."""

import pathlib
import platform
from typing import Any

import jax
import numpy as np
import optax

from score_jax import config as configs
from score_jax import files
from score_jax.config import RunConfig
from score_jax.errors import ConfigError
from score_jax.models import lora as loras
from score_jax.parallel import hosts
from score_jax.storage.run_folder import RunFolder
from score_jax.tasks import Task
from score_jax.tasks import heldout_problems

_PACKAGE = pathlib.Path(__file__).parent.parent


def check_task(config: RunConfig, task: Task) -> None:
  """Checks that there are problems to train on, and as many to evaluate on as the configuration wants."""
  if task.train.size == 0:
    raise ConfigError(
      f'config.task.data.train = {config.task.data.train}: task {config.task.name!r} has no training problems; name '
      'files, folders or tfds:NAME/SPLIT of them (humaneval has none: it is for config.task.evaluate)'
    )
  heldout_problems(task, config.eval.problems, config.eval.seed)


def check_hosts(config: RunConfig, task: Task) -> None:
  """Refuses hosts that would not run the same thing; what lies in different places on them is known by hashes."""
  if hosts.count() == 1:
    return
  settings = configs.as_dict(config)
  for section, name in (('model', 'path'), ('task', 'data')):
    settings[section].pop(name)
  for name in ('compile_cache', 'grading'):
    settings.pop(name)
  hosts.agree(
    'what it runs',
    dict(
      config=settings,
      grading=configs.identity(config)['grading'],
      data=dict(train=task.train.fingerprint, heldout=task.heldout.fingerprint),
      code=files.hash_files(_PACKAGE, ('.py',), deep=True),
      versions=dict(
        python=platform.python_version(), jax=jax.__version__, numpy=np.__version__, optax=optax.__version__
      ),
    ),
  )


def claim(folder: RunFolder, config: RunConfig, identity: dict[str, Any]) -> None:
  """Takes the folder for this run on host 0; the others join it there."""
  start = hosts.from_main('the run folder', lambda: folder.claim(configs.as_dict(config), identity))
  if not hosts.is_main():
    folder.store.join(start)


def check_init_from(config: RunConfig, folder: RunFolder, base: str) -> None:
  """Checks that a run trains the same weights as the one that it starts from; adapters, on the same base."""

  def check() -> None:
    if folder.has_begun():  # it has what it took from there
      return
    written = RunFolder(config.init_from).read_config()
    theirs, ours = loras.Lora(**written['config']['lora']), config.lora
    if (theirs.rank or ours.rank) and written['identity'].get('model', {}).get('weights') != base:
      raise ConfigError(
        f'config.init_from = {config.init_from!r} was trained on another base than config.model.path = '
        f'{config.model.path!r}; adapters fit the base that they were trained on'
      )
    if theirs != ours and (theirs.rank or ours.rank):
      raise ConfigError(
        f'config.init_from = {config.init_from!r} was trained with config.lora = {theirs}, this run has {ours}; use '
        'the same, or export that run and name the folder as config.model.path'
      )

  hosts.from_main('config.init_from', check)
