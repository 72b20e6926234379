"""Checkpoints of a run: Orbax writes them, this module decides which are kept and which is the best.

A checkpoint is the whole state plus `Progress`. `last` is the newest; `best` is a pointer inside it, so that both
change in one commit, and a run that is killed and repeated takes the same decisions again.
"""

import dataclasses
import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp

from score_jax.errors import DataError
from score_jax.states import TrainState


@dataclasses.dataclass(frozen=True)
class Progress:
  """Where a run stands, beside its arrays. Floats survive JSON exactly."""

  step: int  # updates done
  recent_returns: tuple[float, ...]  # training return of the newest steps of the last stage, at most a window
  best_step: int  # checkpoint with the highest mean of them; 0: none yet
  best_return: float  # that mean; 0 while there is none

  @classmethod
  def start(cls) -> 'Progress':
    return cls(step=0, recent_returns=(), best_step=0, best_return=0.0)

  def after_step(self, training_return: float | None, window: int) -> 'Progress':
    """One step further. The return counts only within the last stage: scales differ between stages (None before)."""
    recent = self.recent_returns if training_return is None else (*self.recent_returns, training_return)[-window:]
    return dataclasses.replace(self, step=self.step + 1, recent_returns=recent)

  def at_checkpoint(self) -> 'Progress':
    """With the best updated, if this step's window of returns has the highest mean so far."""
    if not self.recent_returns:
      return self
    mean = sum(self.recent_returns) / len(self.recent_returns)
    if self.best_step and mean <= self.best_return:
      return self
    return dataclasses.replace(self, best_step=self.step, best_return=mean)


class Checkpoints:
  """The `checkpoints/` folder of a run: per step the items `params`, `rest` (of the state) and `progress`."""

  def __init__(self, folder: pathlib.Path, keep: int = 1, read_only: bool = False):
    self._keep = keep
    self._needed: set[int] | None = None  # steps that the newest checkpoint points to; None before the first save
    options = ocp.CheckpointManagerOptions(
      cleanup_tmp_directories=not read_only, read_only=read_only, create=not read_only
    )
    self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

  def last_step(self) -> int | None:
    """The newest whole checkpoint."""
    self._manager.wait_until_finished()
    return self._manager.latest_step()

  def save(self, state: TrainState, progress: Progress, protected: tuple[int, ...]) -> None:
    """Saves in the background; drops what the checkpoint before this one made needless.

    Raises:
      DataError: Orbax did not take the step.
    """
    self._manager.wait_until_finished()
    self._prune()
    args = ocp.args.Composite(
      params=ocp.args.StandardSave(state.params),
      rest=ocp.args.StandardSave(state.replace(params=None)),
      progress=ocp.args.JsonSave(dataclasses.asdict(progress)),
    )
    if not self._manager.save(progress.step, args=args, force=True):
      raise DataError(f'checkpoint of step {progress.step} was not saved')
    self._needed = {progress.step, progress.best_step, *protected}

  def _prune(self) -> None:
    """Drops all but the newest and what the newest committed checkpoint needs.

    One save late on purpose: until a new best is committed, the checkpoint before it still points to the old best.
    """
    if self._needed is None:
      return
    for step in sorted(self._manager.all_steps())[: -self._keep]:
      if step not in self._needed:
        self._manager.delete(step)

  def progress(self, step: int) -> Progress:
    """The Progress saved with a step."""
    fields = dict(self._restored(step, progress=ocp.args.JsonRestore())['progress'])
    return Progress(**fields | dict(recent_returns=tuple(fields['recent_returns'])))

  def params(self, step: int, abstract: Any) -> Any:
    """The parameters saved at a step, in the shapes, dtypes and shardings of `abstract`."""
    return self._restored(step, params=ocp.args.StandardRestore(abstract))['params']

  def state(self, step: int, abstract: TrainState) -> TrainState:
    """The whole state saved at a step, in the shapes, dtypes and shardings of `abstract`."""
    restored = self._restored(
      step,
      params=ocp.args.StandardRestore(abstract.params),
      rest=ocp.args.StandardRestore(abstract.replace(params=None)),
    )
    return restored['rest'].replace(params=restored['params'])

  def _restored(self, step: int, **items: Any) -> Any:
    try:
      return self._manager.restore(step, args=ocp.args.Composite(**items))
    except (ValueError, KeyError, FileNotFoundError) as error:
      known = ', '.join(map(str, sorted(self._manager.all_steps()))) or 'none'
      reason = str(error).strip().split('\n')[0]
      raise DataError(f'checkpoint of step {step} can not be restored (there are: {known}): {reason}') from error

  def close(self) -> None:
    """Waits for the save under way."""
    self._manager.wait_until_finished()
    self._prune()
    self._manager.close()


def abstract_like(tree: Any) -> Any:
  """Shapes, dtypes and shardings of a tree of arrays."""
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)
