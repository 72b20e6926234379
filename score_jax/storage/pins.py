# SPDX-License-Identifier: Apache-2.0
"""What a run names, pinned to what it means as it begins."""

import dataclasses
import os
import pathlib

from score_jax import hub
from score_jax.config import RunConfig
from score_jax.errors import DataError
from score_jax.parallel import hosts
from score_jax.storage import hf
from score_jax.storage.run_folder import RunFolder


def pinned(config: RunConfig, workdir: str = '') -> RunConfig:
  """Returns the configuration with ids as ID@COMMIT, and the model's folder absolute.

  A run that has begun in `workdir` keeps the commits of ids without a revision.
  """
  path, data = config.model.path, config.task.data
  ids = [name for name in (*data.train, *data.heldout) if name.startswith(hub.DATA)]
  ids += [path] if hub.model(path) else []

  def pins() -> dict[str, str]:
    begun = _begun(workdir) if workdir and ids else []
    known = {name.rpartition('@')[0]: name for name in begun}
    return {i: known.get(i) or f'{i.partition("@")[0]}@{hub.commit(i)}' for i in ids}

  pin = hosts.from_main('the hub', pins)
  path = os.path.abspath(path) if os.path.exists(path) else pin.get(path, path)
  train, heldout = (tuple(pin.get(name, name) for name in names) for names in (data.train, data.heldout))
  task = dataclasses.replace(config.task, data=dataclasses.replace(data, train=train, heldout=heldout))
  return dataclasses.replace(config, task=task, model=dataclasses.replace(config.model, path=path))


def _begun(workdir: str) -> list[str]:
  """Returns the names in the configuration of a run that has begun."""
  run = RunFolder(workdir)
  if 'config.json' not in run.store.names(run.store.root) or not run.has_begun():
    return []
  config = run.read_config()['config']
  return [config['model']['path'], *sum(config['task']['data'].values(), [])]


def model_folder(run: RunFolder) -> pathlib.Path:
  """Returns the folder of the model that a run trained."""
  path = run.read_config()['config']['model']['path']
  if not path.startswith(hf.BUNDLED) and '@' not in path and not os.path.exists(path):
    raise DataError(
      f'{run.path} was trained from {path!r}, which is not there, seen from {os.getcwd()}; '
      'restore it, or run this in the folder where the run began'
    )
  return hf.folder_of(path)
