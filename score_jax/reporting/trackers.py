"""Scalars of a run for experiment trackers, TensorBoard and Weights & Biases, where they are installed."""

import atexit
from collections.abc import Callable
import pathlib
from typing import Any

from score_jax.errors import ConfigError

Send = Callable[[int, dict[str, float]], None]  # (step, scalars)


def open_trackers(tensorboard: bool, wandb: str, folder: pathlib.Path, config: dict[str, Any]) -> list[Send]:
  """Returns functions that take a step's scalars.

  Args:
    tensorboard: whether to write for TensorBoard.
    wandb: a project, or ''.
    folder: the run's.
    config: the run's, for the tracker to show.

  Raises:
    ConfigError: the package of a tracker is not installed; the message names the extra.
  """
  trackers = [_tensorboard(folder / 'tensorboard')] if tensorboard else []
  return [*trackers, _wandb(wandb, folder, config)] if wandb else trackers


def scalars(record: dict[str, Any]) -> dict[str, float]:
  """Returns the numbers of a metrics record by name: 'accuracy/1', 'seconds/sample', 'eval/greedy/delta', 'delta'."""
  result: dict[str, float] = {}

  def add(name: str, value: Any) -> None:
    if isinstance(value, dict):
      for key, inner in value.items():
        if key not in ('intervals', 'by', 'between'):
          add(f'{name}/{key}', inner)
    elif isinstance(value, list):
      for i, inner in enumerate(value, 1):
        add(f'{name}/{i}', inner)
    elif isinstance(value, int | float) and not isinstance(value, bool):
      result[name] = float(value)

  for name, value in record.items():
    if name not in ('step', 'stage', 'reference'):
      add(name, value)
  if record['accuracy'][0] is not None:  # a supervised step samples nothing
    result['delta'] = record['accuracy'][-1] - record['accuracy'][0]
  return result


def _tensorboard(folder: pathlib.Path) -> Send:
  try:
    from tensorboardX import SummaryWriter
  except ImportError as error:
    raise ConfigError(
      "config.report.tensorboard = True needs tensorboardX: pip install 'score_jax[tensorboard]', or set it to False"
    ) from error
  # Another thread writes; the writer's flush() does not wait for what is queued for it.
  writer = SummaryWriter(str(folder), flush_secs=1)
  atexit.register(writer.close)

  def send(step: int, values: dict[str, float]) -> None:
    for name, value in values.items():
      writer.add_scalar(name, value, step)

  return send


def _wandb(project: str, folder: pathlib.Path, config: dict[str, Any]) -> Send:
  try:
    import wandb
  except ImportError as error:
    raise ConfigError(
      f"config.report.wandb = {project!r} needs wandb: pip install 'score_jax[wandb]', or set it to ''"
    ) from error
  run = wandb.init(project=project, name=folder.name, dir=str(folder), config=config, resume='allow')
  return lambda step, values: run.log(values, step=step)
