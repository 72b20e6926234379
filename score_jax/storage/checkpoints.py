# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of a run: Orbax writes them; this module decides which count, which are kept and which is the best.

A checkpoint is the whole state plus `Progress`. `best` is a pointer inside the newest, so that both change in one
commit, and a run that is killed and repeated decides the same again. A checkpoint counts once its manifest is written
(`integrity.py`), and is compared with it before it is used.
"""

import collections
from concurrent import futures
import contextlib
import dataclasses
import sys
import threading
import time
from typing import Any

from absl import logging
from etils import epath
import jax
import orbax.checkpoint as ocp

from score_jax import errors
from score_jax.config import RunConfig
from score_jax.faults import secrets
from score_jax.parallel import hosts
from score_jax.states import TrainState
from score_jax.storage import integrity
from score_jax.storage.progress import Progress
from score_jax.storage.run_folder import RunFolder
from score_jax.storage.stores import FolderStore

_LAST_WAIT = 60.0  # seconds that a save under way may take where several hosts end with an error
_FIRST_WAIT = 1.0  # seconds before a save that must succeed is tried again; doubled each time


def open_checkpoints(config: RunConfig, folder: RunFolder) -> 'Checkpoints':
  """Opens the checkpoints of a run, to go on from and to save to."""
  return Checkpoints(folder.store, keep=config.checkpoint.keep, max_failed=config.faults.max_failed_saves, files=folder)


class Checkpoints:
  """Per step the items `params`, `rest` (of the state) and `progress`, and the manifest with which it counts.

  One process writes them (`stores.py`). A save that fails is told, does not count, and is undone in what follows. Of
  several hosts all call the same, in the same order; host 0 looks at manifests and writes them, and a save counts when
  it succeeded on every host.
  """

  def __init__(
    self,
    store: FolderStore,
    keep: int = 1,
    read_only: bool = False,
    max_failed: int = 1,
    files: RunFolder | None = None,
  ):
    """Opens the steps of a store; a writer first puts aside what is newer than the newest whole step.

    Args:
      keep: newest steps that stay, beside what they point to.
      max_failed: saves in a row that may fail.
      files: of the run, which go with the steps.

    Raises:
      DataError: there are checkpoints, and none of them is whole.
    """
    self._store, self._keep, self._files = store, keep, files
    self.root = store.root  # the run folder or address
    # Several processes end with the first: what Orbax's barriers remember of it cannot be undone on all of them.
    self._max_failed = max_failed if hosts.count() == 1 else 1
    self._needed: Any = collections.deque(maxlen=2)  # sets of steps that the newest two point to
    self._whole: set[int] = set()  # compared with their manifests since the last save
    self._kept: set[int] = set()  # could not be deleted, which has been told
    self._parts: Any = None  # of the run's files, for the save under way
    self._lock = threading.RLock()  # the main thread, or the one that saves after a signal
    self._sealer = futures.ThreadPoolExecutor(1, thread_name_prefix='checkpoint')
    self._saving: futures.Future[None] | None = None
    self._closed = False
    self._progress: Progress | None = None  # of the save under way
    self._before: Progress | None = None  # of the last save that succeeded
    self._failed: list[tuple[int, str]] = []  # saves in a row
    self._orbax = _open_orbax()

    def listed() -> list[tuple[int, str]]:
      store.check()
      steps = integrity.sealed_steps(store) if read_only else integrity.put_aside_damage(store)
      return [(step, str(path.relative_to(store.root))) for step, path in steps.items()]

    paths = hosts.from_main('the checkpoints', listed)
    self._steps = {step: store.root / path for step, path in paths}  # that count, oldest first
    if paths and not read_only:
      self._whole.add(paths[-1][0])

  def __enter__(self) -> 'Checkpoints':
    return self

  def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
    if error is None or hosts.count() == 1:
      self.close()
    elif isinstance(error, errors.UserError) and not isinstance(error, errors.HostError) and self._saving:
      # Where all end alike the save comes to its end as well; if they do not, it has no end to wait for.
      futures.wait([self._saving], _LAST_WAIT)

  def steps(self) -> list[int]:
    """Returns the steps that have a manifest."""
    return sorted(self._steps)

  def last_step(self) -> int | None:
    """Returns the newest whole checkpoint; damaged ones above it are told."""
    self.wait()
    step = hosts.from_main('the last checkpoint', self._last_whole)
    if step is not None:
      self._whole.add(step)
    return step

  def _last_whole(self) -> int | None:
    for step in reversed(self.steps()):
      if step in self._whole or not (problem := self._problem(step)):
        return step
      logging.warning('checkpoint of step %d is not whole and is left out: %s', step, problem)
    return None

  def _path(self, step: int) -> epath.Path:
    return self._steps.get(step, self._store.checkpoints / str(step))

  def _problem(self, step: int) -> str:
    """Says what is wrong with a step; '' if nothing is."""
    path = self._path(step)
    return integrity.problem(self._store, path) if step in self._steps else f'{path} is not there'

  def digest(self, step: int) -> str:
    """Returns the sha256 of a step's manifest, which identifies the step."""
    return integrity.digest(self._store, self._path(step))

  def settled(self, progress: Progress) -> Progress:
    """Waits for the save under way; if it failed, `progress` no longer calls its step the best.

    Raises:
      TryAgainError: as many saves in a row have failed as may.
    """
    with self._lock:
      self.wait()
      if len(self._failed) >= self._max_failed:
        raise self._giving_up()
      return progress.without_lost([step for step, _ in self._failed], self._before)

  def save(self, state: TrainState, progress: Progress, protected: tuple[int, ...]) -> None:
    """Saves in the background, and drops steps that are needless now; `protected` and the best never are.

    Raises:
      TryAgainError: as `settled`, which tells how it ends; or it could not begin, and there are several hosts.
    """
    with self._lock:
      progress = self._progress = self.settled(progress)
      folder = self._store.checkpoints / str(progress.step)
      args = ocp.args.Composite(
        params=ocp.args.StandardSave(state.params),
        rest=ocp.args.StandardSave(state.replace(params=None)),
        progress=ocp.args.JsonSave(dataclasses.asdict(progress)),
      )
      try:
        self._make_ready(progress.step)
        self._orbax.save(folder, args=args)
      except (errors.HostError, errors.TakenOverError):
        raise
      except Exception as error:  # whatever it is, the step is not saved and the run goes on
        self._note_failure(error)
        if hosts.count() > 1:  # or the others would wait within the save
          raise self._giving_up() from error
        return
      self._saving = self._sealer.submit(self._seal, folder)
      self._needed.append({progress.step, progress.best_step, *protected})

  def save_now(self, state: TrainState, progress: Progress, protected: tuple[int, ...]) -> None:
    """Saves what the run cannot go on without, if it is not saved yet, and waits for it.

    Raises:
      TryAgainError: as many tries in a row have failed as may.
    """
    with self._lock:
      self.wait()
      wait = _FIRST_WAIT
      while progress.step not in self._steps:
        self.settled(progress)
        if self._failed:
          time.sleep(wait)
          wait *= 2
        self.save(state, progress, protected)
        self.wait()

  def _seal(self, folder: epath.Path) -> None:
    """In the background: waits for Orbax, then writes the manifest, with which the step counts."""
    self._orbax.wait_until_finished()
    if hosts.is_main():
      integrity.seal(self._store, folder, self._parts)

  def wait(self) -> None:
    """Waits for the save under way and notes how it ended; `settled` tells.

    Raises:
      TakenOverError: another start goes on with the run.
    """
    with self._lock:
      if self._saving is None:
        return
      step, error = self._progress.step, self._saving.exception()
      reasons = hosts.gather(f'the checkpoint of step {step}', str(error) if error else '')
      others = (OSError(f'host {i}: {reason}') for i, reason in enumerate(reasons) if reason)
      error = error or next(others, None)
      self._saving = None
      self._whole.clear()
      if isinstance(error, errors.TakenOverError):
        raise error
      if error:
        self._needed.pop()
        self._note_failure(error)
      else:
        self._before, self._failed = self._progress, []
        self._steps[step] = self._store.checkpoints / str(step)

  def _note_failure(self, error: BaseException) -> None:
    """Undoes what is left of the save, and begins with another checkpointer, which remembers nothing of it."""
    step, reason = self._progress.step, _one_line(error)
    self._failed.append((step, reason))
    _warn(f'checkpoint of step {step} was not saved: {reason}')
    if hosts.count() > 1:
      return
    for _ in range(2):  # the first ends at the error that is known, the second waits for Orbax's threads
      with contextlib.suppress(Exception):
        self._orbax.close()
    with contextlib.suppress(OSError):
      integrity.clear(self._store)
    self._orbax = _open_orbax()

  def _giving_up(self) -> errors.TryAgainError:
    return errors.TryAgainError(
      f'{len(self._failed)} saves in a row failed (config.faults.max_failed_saves); {self.last_saved()} in '
      f'{self.root}. {self._failed[-1][1]}. Make room or repair the disk, then run the same command again'
    )

  def last_saved(self) -> str:
    """Says which checkpoint is the last that was saved, or gone on from."""
    step = self._before.step if self._before else 0
    return f'the last checkpoint is that of step {step}' if step else 'there is no checkpoint yet'

  def _make_ready(self, step: int | None = None) -> None:
    """On host 0, readies what is outside of the step to be saved; then drops what is not needed any more.

    Raises OSError on all hosts where the disk of host 0 does not take it, and TakenOverError.
    """

    def ready() -> dict[str, Any]:
      try:
        self._store.check()
        if step is not None:
          integrity.clear(self._store)
          self._parts = self._files.publish(step) if self._files else None
      except OSError as error:
        return dict(problem=str(error), dropped=[])
      return dict(problem='', dropped=self._drop_needless())

    done = hosts.from_main('what comes before a checkpoint', ready)
    if done['problem']:
      raise OSError(done['problem'])
    for old in done['dropped']:
      del self._steps[old]

  def _drop_needless(self) -> list[int]:
    """Deletes all steps but the newest and what the newest two committed ones need; returns those that are gone.

    Two, because until a new best is committed, the checkpoint before it points to the old best; and should the newest
    be damaged, the one before it is whole with its best. A step that cannot be deleted is tried again at the next save.
    """
    if len(self._needed) < 2:
      return []
    dropped, needed = [], set().union(*self._needed)
    for step in self.steps()[: -self._keep]:
      if step in needed:
        continue
      try:
        integrity.remove(self._store, self._path(step))
        dropped.append(step)
      except OSError as error:
        if step not in self._kept:
          self._kept.add(step)
          _warn(f'checkpoint of step {step}, which is not needed, stays: {_one_line(error)}')
    return dropped

  def resume(self, abstract: TrainState, forget_best: bool = False) -> tuple[TrainState, Progress] | None:
    """Goes back to the newest whole step, if there is one: the run's files then agree with it.

    `abstract` has the shapes, dtypes and shardings of the state.

    Raises:
      DataError: the step that is the best so far is lost, and `forget_best` is not set.
    """
    step = self.last_step()
    if step is None:
      self._return_files_to(0)
      return None
    progress = self.progress(step)
    if forget_best:
      progress = progress.without_best()
    elif progress.best_step:
      try:
        self.check(progress.best_step)
      except errors.DataError as error:
        raise errors.DataError(
          f'the best policy so far is lost: {error}. Restore that folder from a copy; or give '
          '--config.faults.forget_best=True once, and the best is chosen among the steps to come'
        ) from error
    hosts.agree('the last checkpoint', dict(step=step, manifest=self.digest(step)))
    self._before = progress
    self._return_files_to(step)
    return self._state(step, abstract), progress

  def _return_files_to(self, step: int) -> None:
    if self._files and hosts.is_main():
      self._files.return_to(step, integrity.parts(self._store, self._path(step)) if step else {})

  def progress(self, step: int) -> Progress:
    """Returns the Progress saved with a step."""
    return Progress.from_json(dict(self._restored(step, progress=ocp.args.JsonRestore())['progress']))

  def params(self, step: int, abstract: Any) -> Any:
    """Returns the parameters saved at a step, in the shapes, dtypes and shardings of `abstract`."""
    return self._restored(step, params=ocp.args.StandardRestore(abstract))['params']

  def _state(self, step: int, abstract: TrainState) -> TrainState:
    items = dict(params=abstract.params, rest=abstract.replace(params=None))
    restored = self._restored(step, **{name: ocp.args.StandardRestore(item) for name, item in items.items()})
    return restored['rest'].replace(params=restored['params'])

  def check(self, step: int) -> None:
    """Compares a step with its manifest.

    Raises:
      DataError: it is not there, or not whole; the message names the file and the steps that are whole.
    """
    self.wait()
    if step in self._whole:
      return

    def problem() -> str:
      if not (text := self._problem(step)):
        return ''
      whole = [str(other) for other in self.steps() if other != step and not self._problem(other)]
      return f'{text}; whole are: {", ".join(whole) or "none"}'

    if told := hosts.from_main(f'whether the checkpoint of step {step} is whole', problem):
      raise errors.DataError(f'checkpoint of step {step} cannot be used: {told}')
    self._whole.add(step)

  def _restored(self, step: int, **items: Any) -> Any:
    self.check(step)
    path = self._path(step)
    try:
      with self._store.errors():
        return self._orbax.restore(path, args=ocp.args.Composite(**items))
    except (ValueError, KeyError, FileNotFoundError) as error:
      reason = str(error).strip().split('\n')[0]
      if isinstance(error, FileNotFoundError) or 'incomplete checkpoint' in reason:
        raise errors.TryAgainError(
          f'{path} was whole, and is not there now: {reason}; run the same command again'
        ) from error
      raise errors.DataError(f'checkpoint of step {step} cannot be restored: {reason}') from error

  def close(self) -> None:
    """Waits for the save under way. May be called again."""
    if self._closed:
      return
    self._closed = True
    self.wait()
    with contextlib.suppress(OSError, errors.TakenOverError):  # what is not needed any more stays, then
      self._make_ready()
    self._sealer.shutdown()
    self._orbax.close()


def _open_orbax() -> ocp.AsyncCheckpointer:
  return ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())


def _warn(text: str) -> None:
  print(f'\nwarning: {text}', file=sys.stderr, flush=True)


def _one_line(error: BaseException) -> str:
  """Shows an error in at most 400 characters; of a long chain of errors, the last says why."""
  reason = secrets.redacted(' '.join(str(error).split()))
  return reason if len(reason) <= 400 else f'{reason[:150]} ... {reason[-200:]}'


def abstract_like(tree: Any) -> Any:
  """Returns shapes, dtypes and shardings of a tree of arrays."""
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)
