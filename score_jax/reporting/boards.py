"""Scalars of a run for boards that people keep open: TensorBoard and Weights & Biases, where they are installed."""

import atexit
from collections.abc import Callable
import pathlib
from typing import Any

from score_jax.errors import ConfigError

Send = Callable[[int, dict[str, float]], None]  # (step, scalars)


def open_boards(tensorboard: bool, wandb: str, folder: pathlib.Path, config: dict[str, Any]) -> list[Send]:
  """What takes a step's scalars.

  Args:
    tensorboard: whether to write for TensorBoard.
    wandb: a project, or ''.
    folder: of the run.
    config: of the run, for the board to show.

  Raises:
    ConfigError: a board is asked for whose package is not installed; the message names the extra.
  """
  boards = []
  if tensorboard:
    boards.append(_tensorboard(folder / 'tensorboard'))
  if wandb:
    boards.append(_wandb(wandb, folder, config))
  return boards


def scalars(line: dict[str, Any]) -> dict[str, float]:
  """The numbers of a line of metrics by name: 'accuracy/1', 'seconds/sample', 'delta'; evaluations by their way."""
  found: dict[str, float] = {}

  def add(name: str, value: Any) -> None:
    if isinstance(value, bool) or value is None:
      return
    if isinstance(value, int | float):
      found[name] = float(value)
    elif isinstance(value, dict):
      for key, inner in value.items():
        if key not in ('intervals', 'by', 'between'):
          add(f'{name}/{key}', inner)
    elif isinstance(value, list):
      for i, inner in enumerate(value, 1):
        add(f'{name}/{i}', inner)

  for name, value in line.items():
    if name not in ('step', 'stage', 'reference'):
      add(name, value)
  if line['accuracy'][0] is not None:  # a supervised step samples nothing
    found['delta'] = line['accuracy'][-1] - line['accuracy'][0]
  return found


def _tensorboard(folder: pathlib.Path) -> Send:
  try:
    from tensorboardX import SummaryWriter
  except ImportError as error:
    raise ConfigError(
      "config.report.tensorboard = True needs tensorboardX: pip install 'score_jax[tensorboard]', or set it to False"
    ) from error
  # A thread of its own writes; its flush() does not wait for what is on the way to it.
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

  def send(step: int, values: dict[str, float]) -> None:
    run.log(values, step=step)

  return send
