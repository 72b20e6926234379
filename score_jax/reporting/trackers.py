"""Scalars of a run for experiment trackers: TensorBoard and Weights & Biases."""

import atexit
from collections.abc import Callable
from collections.abc import Iterator
import importlib
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
    ConfigError: the package of a tracker is not installed.
  """
  trackers = []
  if tensorboard:
    writers = _package('tensorboardX', 'tensorboard', tensorboard)
    # Another thread writes; the writer's flush() does not wait for what is queued for it.
    writer = writers.SummaryWriter(str(folder / 'tensorboard'), flush_secs=1)
    atexit.register(writer.close)

    def send(step: int, values: dict[str, float]) -> None:
      for name, value in values.items():
        writer.add_scalar(name, value, step)

    trackers.append(send)
  if wandb:
    project = dict(project=wandb, name=folder.name, dir=str(folder))
    run = _package('wandb', 'wandb', wandb).init(**project, config=config, resume='allow')
    trackers.append(lambda step, values: run.log(values, step=step))
  return trackers


def scalars(record: dict[str, Any]) -> dict[str, float]:
  """Returns the numbers of a metrics record by name, as 'accuracy/1' or 'eval/greedy/delta'."""
  shown = ((name, value) for name, value in record.items() if name not in ('step', 'reference'))
  result = {name: number for field in shown for name, number in _numbers(*field)}
  accuracy = record['accuracy']
  if accuracy[0] is not None:  # a supervised step samples nothing
    result['delta'] = accuracy[-1] - accuracy[0]
  return result


def _numbers(name: str, value: Any) -> Iterator[tuple[str, float]]:
  """Yields the numbers of JSON data by the names of their places."""
  if isinstance(value, int | float) and not isinstance(value, bool):
    yield name, float(value)
  parts = enumerate(value, 1) if isinstance(value, list) else ()
  for key, inner in value.items() if isinstance(value, dict) else parts:
    if key not in ('intervals', 'by', 'between'):
      yield from _numbers(f'{name}/{key}', inner)


def _package(package: str, field: str, value: bool | str) -> Any:
  """Returns the package that config.report.`field` needs, which the extra of that name has."""
  try:
    return importlib.import_module(package)
  except ImportError as error:
    raise ConfigError(
      f'config.report.{field} = {value!r} needs {package}: '
      f"pip install 'score_jax[{field}]', or set it to {type(value)()!r}"
    ) from error
