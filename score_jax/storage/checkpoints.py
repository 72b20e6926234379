"""Checkpoints of a run: Orbax writes them, this module decides which count, which are kept and which is the best.

A checkpoint is the whole state plus `Progress`. `last` is the newest; `best` is a pointer inside it, so that both
change in one commit, and a run that is killed and repeated takes the same decisions again. It counts once its manifest
is written (`manifests.py`), and is compared with it before it is used.
"""

import collections
from collections.abc import Callable
from concurrent import futures
from concurrent.futures import Future
from concurrent.futures import ThreadPoolExecutor
import contextlib
import dataclasses
import os
import sys
import threading
import time
from typing import Any

from absl import logging
from etils import epath
import jax
import orbax.checkpoint as ocp

from score_jax.errors import DataError
from score_jax.errors import HostError
from score_jax.errors import StoreError
from score_jax.errors import TakenOverError
from score_jax.errors import TryAgainError
from score_jax.errors import UserError
from score_jax.faults import secrets
from score_jax.parallel import hosts
from score_jax.states import TrainState
from score_jax.storage import addresses
from score_jax.storage import carried
from score_jax.storage import manifests
from score_jax.storage import repairs
from score_jax.storage.progress import Progress

_ORBAX_MARK = 'commit_success.txt'  # what Orbax writes last into a step at an address
_LAST_WAIT = 60.0  # seconds that a save under way may take where several hosts end with an error
_FIRST_WAIT = 1.0  # seconds before a save that must succeed is tried again; doubled each time


class Checkpoints:
  """The `checkpoints/` folder of a run: per step the items `params`, `rest` (of the state) and `progress`.

  One run writes it (`faults.lock`). A save that fails is said, is not counted, and is undone in what comes after.

  Of several hosts all call the same, in the same order. Host 0 looks at manifests and writes them; a save counts when
  it succeeded on every host.
  """

  def __init__(
    self,
    folder: os.PathLike | str,
    keep: int = 1,
    read_only: bool = False,
    max_failed: int = 1,
    damaged: os.PathLike | None = None,
    prepare: Callable[[], None] = lambda: None,
    carry: Callable[[int], dict[str, bytes]] | None = None,
    fence: Callable[[], None] = lambda: None,
  ):
    """Opens the folder; a writer first puts aside what is newer than the newest whole step.

    Args:
      folder: local, or an address of an object store (`addresses.py`).
      keep: newest steps that are kept, beside what they point to.
      read_only: nothing is changed.
      max_failed: saves in a row that may fail.
      damaged: where damaged steps are moved; beside the folder, if it is not said.
      prepare: called before a save: what must be on the disk before it.
      carry: called before a save: the files that go with this step (`carried.py`).
      fence: called before anything is written or deleted; raises if this process may not any more.

    Raises:
      DataError: there are checkpoints, and none of them is whole.
      StoreError: the store does not answer.
    """
    self._root = repairs.absolute(folder)
    addresses.prepare(self._root)
    self._keep, self._read_only = keep, read_only
    self._prepare, self._carry, self._fence = prepare, carry, fence
    self._carried: dict[str, bytes] | None = None  # with the save under way
    # Several processes end with the first: what Orbax remembers of it can not be undone on all of them.
    self._max_failed = max_failed if hosts.count() == 1 else 1
    self._needed: collections.deque[set[int]] = collections.deque(maxlen=2)  # steps that the newest two point to
    self._whole: set[int] = set()  # compared with their manifests since the last save
    self._dropped: set[int] = set()  # gone, though Orbax still lists them
    self._kept: set[int] = set()  # could not be deleted, which has been said
    self._lock = threading.RLock()  # the main thread, or the one that saves after a signal
    self._sealer = ThreadPoolExecutor(1, thread_name_prefix='checkpoint')
    self._saving: Future[None] | None = None
    self._closed = False
    self._progress: Progress | None = None  # of the save under way
    self._before: Progress | None = None  # of the last save that succeeded
    self._failed: list[tuple[int, str]] = []  # saves in a row
    if not read_only:
      aside = epath.Path(damaged or self._root.parent / 'damaged')
      whole = hosts.from_main('the checkpoints', lambda: self._put_aside_damage(aside))
      self._whole |= {whole} - {None}
    self._open()

  def __enter__(self) -> 'Checkpoints':
    return self

  def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
    if error is None or hosts.count() == 1:
      self.close()
    elif isinstance(error, UserError) and not isinstance(error, HostError) and self._saving:
      # Where all end alike the save comes to its end as well; if they do not, it has no end to wait for.
      futures.wait([self._saving], _LAST_WAIT)

  def _put_aside_damage(self, aside: epath.Path) -> int | None:
    self._fence()
    return repairs.put_aside_damage(self._root, aside)

  def _open(self) -> None:
    # At an address Orbax takes what was copied there from a disk for a save that was cut off.
    cleanup = not self._read_only and not addresses.is_address(self._root)
    options = ocp.CheckpointManagerOptions(
      cleanup_tmp_directories=cleanup, read_only=self._read_only, create=not self._read_only
    )
    with addresses.errors(self._root):
      self._manager = ocp.CheckpointManager(self._root, options=options)
    # Orbax would ask JAX's preemption notifier itself, from a thread, for steps gone by: the loop asks, at every step.
    self._manager.reached_preemption = lambda step: False

  def last_step(self) -> int | None:
    """The newest whole checkpoint; damaged ones above it are said."""
    self._settle()
    step = hosts.from_main('the last checkpoint', self._last_whole)
    if step is not None:
      self._whole.add(step)
    return step

  def _last_whole(self) -> int | None:
    for step in reversed(repairs.steps(self._root)):
      if step in self._whole or not (problem := manifests.problem(self.path(step))):
        return step
      logging.warning('checkpoint of step %d is not whole and is left out: %s', step, problem)
    return None

  def path(self, step: int) -> epath.Path:
    """The folder of a step."""
    return self._root / str(step)

  def settled(self, progress: Progress) -> Progress:
    """Waits for the save under way; if it failed, `progress` no longer calls its step the best.

    Raises:
      TryAgainError: as many saves in a row have failed as may.
    """
    with self._lock:
      self._settle()
      if len(self._failed) >= self._max_failed:
        raise self._giving_up()
      return self._without_lost_best(progress)

  def _without_lost_best(self, progress: Progress) -> Progress:
    if progress.best_step not in {step for step, _ in self._failed}:
      return progress
    before = self._before or Progress.start()
    return dataclasses.replace(progress, best_step=before.best_step, best_return=before.best_return)

  def save(self, state: TrainState, progress: Progress, protected: tuple[int, ...]) -> None:
    """Saves in the background; drops what the checkpoints before this one made needless. `settled` tells the end.

    Raises:
      TryAgainError: it could not begin, and there are several hosts.
    """
    with self._lock:
      self._settle()
      progress = self._progress = self._without_lost_best(progress)
      try:
        self._make_ready(progress.step)
        args = ocp.args.Composite(
          params=ocp.args.StandardSave(state.params),
          rest=ocp.args.StandardSave(state.replace(params=None)),
          progress=ocp.args.JsonSave(dataclasses.asdict(progress)),
        )
        if not self._manager.save(progress.step, args=args, force=True):
          raise OSError('Orbax did not take the step')
      except (HostError, TakenOverError):
        raise
      except Exception as error:  # whatever it is, the step is not saved and the run goes on
        self._note_failure(error)
        if hosts.count() > 1:  # or the others would wait within the save
          raise self._giving_up() from error
        return
      self._dropped.discard(progress.step)
      self._saving = self._sealer.submit(self._seal, progress.step)
      self._needed.append({progress.step, progress.best_step, *protected})

  def save_now(self, state: TrainState, progress: Progress, protected: tuple[int, ...]) -> None:
    """Saves, and waits until it is done: for what the run can not go on without. A step that is saved stays as it is.

    Raises:
      TryAgainError: as many tries in a row have failed as may.
    """
    with self._lock:
      self._settle()
      wait, done = _FIRST_WAIT, hosts.from_main('whether the step is saved', lambda: self._has(progress.step))
      while not done and (self._before is None or self._before.step != progress.step):
        if len(self._failed) >= self._max_failed:
          raise self._giving_up()
        if self._failed:
          time.sleep(wait)
          wait *= 2
        self.save(state, progress, protected)
        self._settle()

  def _has(self, step: int) -> bool:
    return step in repairs.steps(self._root) and manifests.has(self.path(step))

  def _seal(self, step: int) -> None:
    """In the background: waits for Orbax, then writes the manifest, with which the step counts."""
    self._manager.wait_until_finished()
    self._manager.check_for_errors()
    if not hosts.is_main():
      return
    if self._carried is not None:
      with addresses.errors(self._root):
        (self.path(step) / carried.NAME).write_bytes(carried.packed(self._carried))
    manifests.write(self.path(step), self._fence)

  def _settle(self) -> None:
    """Waits for the save under way and notes how it ended."""
    with self._lock:
      if self._saving is None:
        return
      error = self._outcome()
      if error:
        self._needed.pop()
        self._note_failure(error)
      else:
        self._before, self._failed = self._progress, []
      self._saving = None
      self._whole.clear()

  def _outcome(self) -> Exception | None:
    """Of the save under way, once it has ended on all hosts: what went wrong on this one, else on another."""
    error = None
    try:
      self._saving.result()
    except Exception as failure:
      error = failure
    said = hosts.gather(f'the checkpoint of step {self._progress.step}', str(error) if error else '')
    others = (OSError(f'host {i}: {reason}') for i, reason in enumerate(said) if reason)
    return error or next(others, None)

  def _note_failure(self, error: Exception) -> None:
    """Undoes what is left of the save, and forgets what Orbax remembers of it.

    Orbax's list of steps holds those that failed: it would call them the newest, and skip others.
    """
    step, reason = self._progress.step, secrets.redacted(' '.join(str(error).split()))
    if len(reason) > 400:  # of a long chain of errors, the last says why
      reason = f'{reason[:150]} ... {reason[-200:]}'
    self._failed.append((step, reason))
    print(f'\nwarning: checkpoint of step {step} was not saved: {reason}', file=sys.stderr, flush=True)
    if hosts.count() > 1:
      return
    for _ in range(2):  # the first ends at the error that is known, the second waits for Orbax's threads
      with contextlib.suppress(Exception):
        self._manager.close()
    with contextlib.suppress(OSError):
      self._fence()  # another process may be at the same step by now
      repairs.remove_leftovers(self._root, step)
    try:
      self._open()
    except OSError as again:  # the disk is gone; the next save tries again
      logging.warning('the checkpoints can not be listed: %s', secrets.redacted(str(again)))

  def _giving_up(self) -> TryAgainError:
    kept = self._before.step if self._before else 0
    last = f'the last checkpoint is that of step {kept}' if kept else 'there is no checkpoint yet'
    return TryAgainError(
      f'{len(self._failed)} saves in a row failed (config.faults.max_failed_saves); {last} in {self._root}. '
      f'{self._failed[-1][1]}. Make room or mend the disk, then run the same command again'
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
        self._fence()
        if step is not None:
          self._prepare()
          self._carried = self._carry(step) if self._carry else None
      except OSError as error:
        return dict(problem=str(error))
      return dict(problem='', revoked=[old for old in doomed if self._revoked(old)])

    found = hosts.from_main('what comes before a checkpoint', ready)
    if found['problem']:
      raise OSError(found['problem'])
    for old in found['revoked']:
      self._drop(old)

  def _revoked(self, old: int) -> bool:
    """Whether a step that is not needed any more has ceased to count."""
    try:
      manifests.revoke(self.path(old))
    except OSError as error:
      self._note_kept(old, error)
      return False
    return True

  def _drop(self, old: int) -> None:
    """Deletes a step that does not count any more. What can't be deleted stays, and is tried again at the next save."""
    try:
      with addresses.errors(self._root):
        self._manager.delete(old)
    except FileNotFoundError:  # the store did as it was asked, and its answer was lost
      self._dropped.add(old)
    except OSError as error:
      if hosts.count() > 1:  # or they would no longer agree on what there is
        raise
      self._note_kept(old, error)

  def _note_kept(self, old: int, error: OSError) -> None:
    if old not in self._kept:
      self._kept.add(old)
      reason = secrets.redacted(' '.join(str(error).split()))[:400]
      print(f'\nwarning: checkpoint of step {old}, which is not needed, stays: {reason}', file=sys.stderr, flush=True)

  def _needless(self) -> list[int]:
    """All but the newest and what the newest two committed checkpoints need.

    One save late on purpose: until a new best is committed, the checkpoint before it still points to the old best. And
    should the newest be damaged, the one before it is whole with its best.
    """
    if len(self._needed) < 2:
      return []
    old = sorted(self._manager.all_steps())[: -self._keep]
    return [step for step in old if step not in self._dropped and not any(step in needed for needed in self._needed)]

  def resume(self, abstract: TrainState, forget_best: bool = False) -> tuple[TrainState, Progress] | None:
    """State and Progress of the newest whole step; None: there is none.

    Raises:
      DataError: the step that is the best so far is lost, unless it may be forgotten.
    """
    if (step := self.last_step()) is None:
      return None
    progress = self.progress(step)
    if progress.best_step and forget_best:
      progress = dataclasses.replace(progress, best_step=0, best_return=0.0)
    elif progress.best_step:
      try:
        self.check(progress.best_step)
      except DataError as error:
        raise DataError(
          f'the best policy so far is lost: {error}. Restore that folder from a copy; or give '
          '--config.faults.forget_best=True once, and the best is chosen among the steps to come'
        ) from error
    path = self.path(step)
    hosts.agree('the last checkpoint', dict(step=step, manifest=manifests.digest(path) if manifests.has(path) else ''))
    self._before = progress
    return self.state(step, abstract), progress

  def progress(self, step: int) -> Progress:
    """The Progress saved with a step."""
    fields = dict(self._restored(step, progress=ocp.args.JsonRestore())['progress'])
    return Progress.from_json(fields)

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
    self._settle()
    if step in self._whole:
      return
    if problem := hosts.from_main(f'whether the checkpoint of step {step} is whole', lambda: self._problem(step)):
      raise DataError(f'checkpoint of step {step} can not be used: {problem}')
    self._whole.add(step)

  def _problem(self, step: int) -> str:
    problem = manifests.problem(self.path(step)) if self.path(step).exists() else 'there is no such folder'
    if not problem:
      return ''
    whole = [s for s in repairs.steps(self._root) if s != step and not manifests.problem(self.path(s))]
    return f'{problem}; whole are: {", ".join(map(str, whole)) or "none"}'

  def _restored(self, step: int, **items: Any) -> Any:
    self.check(step)
    if addresses.is_address(self._root) and step not in self._manager.all_steps():
      if _ORBAX_MARK in addresses.sizes(self.path(step)):
        raise StoreError(f'{self.path(step)} was not seen as {self._root} was listed; run the same command again')
      raise DataError(
        f'checkpoint of step {step} in {self._root} was not saved there but copied: Orbax marks what it saves at an '
        'address, and takes anything else for cut off. Use it where it came from, on a file system'
      )
    try:
      with addresses.errors(self._root):
        return self._manager.restore(step, args=ocp.args.Composite(**items))
    except (ValueError, KeyError, FileNotFoundError) as error:
      reason = str(error).strip().split('\n')[0]
      raise DataError(f'checkpoint of step {step} can not be restored: {reason}') from error

  def wait(self) -> None:
    """Waits for the save under way; `settled` tells how it ended."""
    self._settle()

  def close(self) -> None:
    """Waits for the save under way. May be called again."""
    if self._closed:
      return
    self._closed = True
    self._settle()
    with contextlib.suppress(OSError, TakenOverError):  # what is not needed any more stays, then
      self._make_ready()
    self._sealer.shutdown()
    self._manager.close()


def abstract_like(tree: Any) -> Any:
  """Shapes, dtypes and shardings of a tree of arrays."""
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)
