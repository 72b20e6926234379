"""Checkpoints of a run: Orbax writes them, this module decides which count, which are kept and which is the best.

A checkpoint is the whole state plus `Progress`. `last` is the newest; `best` is a pointer inside it, so that both
change in one commit, and a run that is killed and repeated takes the same decisions again. It counts once its manifest
is written (`integrity.py`), and is compared with it before it is used.
"""

import collections
from concurrent import futures
from concurrent.futures import Future
from concurrent.futures import ThreadPoolExecutor
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

from score_jax.config import RunConfig
from score_jax.errors import DataError
from score_jax.errors import HostError
from score_jax.errors import TakenOverError
from score_jax.errors import TryAgainError
from score_jax.errors import UserError
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

  One process writes them (`stores.py`). A save that fails is said, is not counted, and is undone in what comes after.

  Of several hosts all call the same, in the same order. Host 0 looks at manifests and writes them; a save counts when
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
      store: that they are in.
      keep: newest steps that are kept, beside what they point to.
      read_only: nothing is changed.
      max_failed: saves in a row that may fail.
      files: the run's other files, which go with the steps.

    Raises:
      DataError: there are checkpoints, and none of them is whole.
    """
    self._store, self._keep, self._files = store, keep, files
    # Several processes end with the first: what Orbax's barriers remember of it cannot be undone on all of them.
    self._max_failed = max_failed if hosts.count() == 1 else 1
    self._needed: collections.deque[set[int]] = collections.deque(maxlen=2)  # steps that the newest two point to
    self._whole: set[int] = set()  # compared with their manifests since the last save
    self._kept: set[int] = set()  # could not be deleted, which has been said
    self._parts: Any = None  # of the run's files, for the save under way
    self._lock = threading.RLock()  # the main thread, or the one that saves after a signal
    self._sealer = ThreadPoolExecutor(1, thread_name_prefix='checkpoint')
    self._saving: Future[None] | None = None
    self._closed = False
    self._progress: Progress | None = None  # of the save under way
    self._before: Progress | None = None  # of the last save that succeeded
    self._failed: list[tuple[int, str]] = []  # saves in a row
    self._orbax = _open_orbax()
    listed = hosts.from_main('the checkpoints', lambda: self._listed(read_only))
    self._steps = {step: store.root / path for step, path in listed}  # that count
    if listed and not read_only:
      self._whole.add(listed[-1][0])

  def __enter__(self) -> 'Checkpoints':
    return self

  def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
    if error is None or hosts.count() == 1:
      self.close()
    elif isinstance(error, UserError) and not isinstance(error, HostError) and self._saving:
      # Where all end alike the save comes to its end as well; if they do not, it has no end to wait for.
      futures.wait([self._saving], _LAST_WAIT)

  def _listed(self, read_only: bool) -> list[tuple[int, str]]:
    """Steps and their folders below the root, oldest first."""
    self._store.check()
    steps = integrity.sealed_steps(self._store) if read_only else integrity.put_aside_damage(self._store)
    return [(step, str(path.relative_to(self._store.root))) for step, path in steps.items()]

  @property
  def root(self) -> epath.Path:
    """The run folder or address."""
    return self._store.root

  def steps(self) -> list[int]:
    """Steps that have a manifest."""
    return sorted(self._steps)

  def last_step(self) -> int | None:
    """The newest whole checkpoint; damaged ones above it are said."""
    self.wait()
    step = hosts.from_main('the last checkpoint', self._last_whole)
    if step is not None:
      self._whole.add(step)
    return step

  def _last_whole(self) -> int | None:
    for step in reversed(self.steps()):
      if step in self._whole or not (problem := integrity.problem(self._store, self.path(step))):
        return step
      logging.warning('checkpoint of step %d is not whole and is left out: %s', step, problem)
    return None

  def path(self, step: int) -> epath.Path:
    """The folder of a step."""
    return self._steps.get(step, self._store.checkpoints / str(step))

  def digest(self, step: int) -> str:
    """What identifies a step: the sha256 of its manifest."""
    return integrity.digest(self._store, self.path(step))

  def settled(self, progress: Progress) -> Progress:
    """Waits for the save under way; if it failed, `progress` no longer calls its step the best.

    Raises:
      TryAgainError: as many saves in a row have failed as may.
    """
    with self._lock:
      self.wait()
      if len(self._failed) >= self._max_failed:
        raise self._giving_up()
      return self._without_lost_best(progress)

  def _without_lost_best(self, progress: Progress) -> Progress:
    return progress.without_lost([step for step, _ in self._failed], self._before)

  def save(self, state: TrainState, progress: Progress, protected: tuple[int, ...]) -> None:
    """Saves in the background; drops what the checkpoints before this one made needless. `settled` tells the end.

    Args:
      state: after `progress.step` steps.
      progress: that belongs to it.
      protected: steps that a run which goes on from this one needs, beside its best.

    Raises:
      TryAgainError: it could not begin, and there are several hosts.
    """
    with self._lock:
      self.wait()
      progress = self._progress = self._without_lost_best(progress)
      folder = self._store.checkpoints / str(progress.step)
      args = ocp.args.Composite(
        params=ocp.args.StandardSave(state.params),
        rest=ocp.args.StandardSave(state.replace(params=None)),
        progress=ocp.args.JsonSave(dataclasses.asdict(progress)),
      )
      try:
        self._make_ready(progress.step)
        self._orbax.save(folder, args=args)
      except (HostError, TakenOverError):
        raise
      except Exception as error:  # whatever it is, the step is not saved and the run goes on
        self._note_failure(error)
        if hosts.count() > 1:  # or the others would wait within the save
          raise self._giving_up() from error
        return
      self._saving = self._sealer.submit(self._seal, folder)
      self._needed.append({progress.step, progress.best_step, *protected})

  def save_now(self, state: TrainState, progress: Progress, protected: tuple[int, ...]) -> None:
    """Saves, and waits until it is done: for what the run cannot go on without. A step that is saved stays as it is.

    Raises:
      TryAgainError: as many tries in a row have failed as may.
    """
    with self._lock:
      self.wait()
      wait = _FIRST_WAIT
      while progress.step not in self._steps:
        if len(self._failed) >= self._max_failed:
          raise self._giving_up()
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
      error = self._outcome()
      self._saving = None
      self._whole.clear()
      if isinstance(error, TakenOverError):
        raise error
      if error:
        self._needed.pop()
        self._note_failure(error)
      else:
        self._before, self._failed = self._progress, []
        self._steps[self._progress.step] = self._store.checkpoints / str(self._progress.step)

  def _outcome(self) -> Exception | None:
    """Of the save under way, once it has ended on all hosts: what went wrong on this one, else on another."""
    error = None
    try:
      self._saving.result()
    except Exception as failure:
      error = failure
    reasons = hosts.gather(f'the checkpoint of step {self._progress.step}', str(error) if error else '')
    others = (OSError(f'host {i}: {reason}') for i, reason in enumerate(reasons) if reason)
    return error or next(others, None)

  def _note_failure(self, error: Exception) -> None:
    """Undoes what is left of the save, and begins with another checkpointer, which remembers nothing of it."""
    step, reason = self._progress.step, _one_line(error)
    self._failed.append((step, reason))
    print(f'\nwarning: checkpoint of step {step} was not saved: {reason}', file=sys.stderr, flush=True)
    if hosts.count() > 1:
      return
    for _ in range(2):  # the first ends at the error that is known, the second waits for Orbax's threads
      with contextlib.suppress(Exception):
        self._orbax.close()
    with contextlib.suppress(OSError):
      integrity.clear(self._store)
    self._orbax = _open_orbax()

  def _giving_up(self) -> TryAgainError:
    kept = self._before.step if self._before else 0
    last = f'the last checkpoint is that of step {kept}' if kept else 'there is no checkpoint yet'
    return TryAgainError(
      f'{len(self._failed)} saves in a row failed (config.faults.max_failed_saves); {last} in {self._store.root}. '
      f'{self._failed[-1][1]}. Make room or repair the disk, then run the same command again'
    )

  def _make_ready(self, step: int | None = None) -> None:
    """On host 0, readies what is outside of the step to be saved; then drops what is not needed any more.

    Raises:
      OSError: on all hosts, where the disk of host 0 does not take it.
      TakenOverError: another process writes there now.
    """
    doomed = self._needless()

    def ready() -> dict[str, Any]:
      try:
        self._store.check()
        if step is not None:
          integrity.clear(self._store)
          self._parts = self._files.publish(step) if self._files else None
      except OSError as error:
        return dict(problem=str(error))
      return dict(problem='', dropped=[old for old in doomed if self._is_dropped(old)])

    done = hosts.from_main('what comes before a checkpoint', ready)
    if done['problem']:
      raise OSError(done['problem'])
    for old in done['dropped']:
      del self._steps[old]

  def _is_dropped(self, old: int) -> bool:
    """Deletes a step. What cannot be deleted stays, and is tried again at the next save."""
    try:
      integrity.remove(self._store, self.path(old))
    except OSError as error:
      if old not in self._kept:
        self._kept.add(old)
        text = f'checkpoint of step {old}, which is not needed, stays: {_one_line(error)}'
        print(f'\nwarning: {text}', file=sys.stderr, flush=True)
      return False
    return True

  def _needless(self) -> list[int]:
    """All but the newest and what the newest two committed checkpoints need.

    One save late on purpose: until a new best is committed, the checkpoint before it still points to the old best. And
    should the newest be damaged, the one before it is whole with its best.
    """
    if len(self._needed) < 2:
      return []
    return [step for step in self.steps()[: -self._keep] if not any(step in needed for needed in self._needed)]

  def resume(self, abstract: TrainState, forget_best: bool = False) -> tuple[TrainState, Progress] | None:
    """Goes back to the newest whole step: the run's files then agree with it. None: there is none.

    Args:
      abstract: shapes, dtypes and shardings of the state.
      forget_best: whether a best step that is lost is no error.

    Raises:
      DataError: the step that is the best so far is lost, unless it may be forgotten.
    """
    step = self.last_step()
    if step is None:
      self._return_files_to(0)
      return None
    progress = self.progress(step)
    if progress.best_step and forget_best:
      progress = progress.without_best()
    elif progress.best_step:
      try:
        self.check(progress.best_step)
      except DataError as error:
        raise DataError(
          f'the best policy so far is lost: {error}. Restore that folder from a copy; or give '
          '--config.faults.forget_best=True once, and the best is chosen among the steps to come'
        ) from error
    hosts.agree('the last checkpoint', dict(step=step, manifest=self.digest(step)))
    self._before = progress
    self._return_files_to(step)
    return self.state(step, abstract), progress

  def _return_files_to(self, step: int) -> None:
    if self._files and hosts.is_main():
      self._files.return_to(step, integrity.parts(self._store, self.path(step)) if step else {})

  def progress(self, step: int) -> Progress:
    """The Progress saved with a step."""
    return Progress.from_json(dict(self._restored(step, progress=ocp.args.JsonRestore())['progress']))

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

  def check(self, step: int) -> None:
    """Compares a step with its manifest.

    Raises:
      DataError: it is not there, or not whole; the message names the file and the steps that are whole.
    """
    self.wait()
    if step in self._whole:
      return
    if problem := hosts.from_main(f'whether the checkpoint of step {step} is whole', lambda: self._problem(step)):
      raise DataError(f'checkpoint of step {step} cannot be used: {problem}')
    self._whole.add(step)

  def _problem(self, step: int) -> str:
    there = step in self._steps
    problem = integrity.problem(self._store, self.path(step)) if there else f'{self.path(step)} is not there'
    if not problem:
      return ''
    whole = [other for other in self.steps() if other != step and not integrity.problem(self._store, self.path(other))]
    return f'{problem}; whole are: {", ".join(map(str, whole)) or "none"}'

  def _restored(self, step: int, **items: Any) -> Any:
    self.check(step)
    path = self.path(step)
    try:
      with self._store.errors():
        return self._orbax.restore(path, args=ocp.args.Composite(**items))
    except (ValueError, KeyError, FileNotFoundError) as error:
      reason = str(error).strip().split('\n')[0]
      if isinstance(error, FileNotFoundError) or 'incomplete checkpoint' in reason:
        raise TryAgainError(f'{path} was whole, and is not there now: {reason}; run the same command again') from error
      raise DataError(f'checkpoint of step {step} cannot be restored: {reason}') from error

  def close(self) -> None:
    """Waits for the save under way. May be called again."""
    if self._closed:
      return
    self._closed = True
    self.wait()
    with contextlib.suppress(OSError, TakenOverError):  # what is not needed any more stays, then
      self._make_ready()
    self._sealer.shutdown()
    self._orbax.close()


def _open_orbax() -> ocp.AsyncCheckpointer:
  return ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())


def _one_line(error: Exception) -> str:
  """An error in at most 400 characters; of a long chain of errors, the last says why."""
  reason = secrets.redacted(' '.join(str(error).split()))
  return reason if len(reason) <= 400 else f'{reason[:150]} ... {reason[-200:]}'


def abstract_like(tree: Any) -> Any:
  """Shapes, dtypes and shardings of a tree of arrays."""
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)
