# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of a run: Orbax writes them; this module decides which count and which are kept.

A checkpoint is the state and `Progress`, which points to the best: both change in one commit. It counts with its
manifest (`integrity.py`), and is compared with it before use.
"""

import collections
from collections.abc import Callable
from concurrent import futures
import contextlib
import contextvars
import dataclasses
import functools
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

_LAST_WAIT = 60.0  # seconds for a save when several hosts end with an error
_FIRST_WAIT = 1.0  # seconds until a needed save is tried again, doubled each time


def open_checkpoints(config: RunConfig, folder: RunFolder) -> 'Checkpoints':
  return Checkpoints(folder.store, keep=config.checkpoint.keep, max_failed=config.faults.max_failed_saves, files=folder)


class Checkpoints:
  """The steps of a run, each with items `params`, `rest` (of the state) and `progress`, and a manifest.

  A save that fails is told and undone. All hosts make the same calls; a save must succeed on all.
  """

  def __init__(
    self,
    store: FolderStore,
    keep: int = 1,
    read_only: bool = False,
    max_failed: int = 1,
    files: RunFolder | None = None,
  ):
    """Opens a store; a writer first puts aside what is newer than the newest whole step.

    Args:
      keep: newest steps that stay, beside what they point to.
      max_failed: failed saves in a row that end the run.
      files: of the run, which go with the steps.

    Raises:
      DataError: there are checkpoints, and none is whole.
    """
    self._store, self._keep, self._files = store, keep, files
    self.root = store.root
    # Several hosts end with the first, which Orbax's barriers remember.
    self._max_failed = max_failed if hosts.count() == 1 else 1
    self._needed: Any = collections.deque(maxlen=2)  # sets of steps that the newest two point to
    self._whole: set[int] = set()  # compared with their manifests since the last save
    self._kept: set[int] = set()  # could not be deleted, already told
    self._parts: Any = None  # of the run's files, for the save under way
    self._lock = threading.RLock()  # the thread of a signal saves as well
    self._sealer = futures.ThreadPoolExecutor(1, thread_name_prefix='checkpoint')
    self._saving: futures.Future[None] | None = None
    self._closed = False
    self._progress: Progress | None = None  # of the save under way
    self._before: Progress | None = None  # of the last successful save
    self._failed: list[tuple[int, str]] = []  # saves in a row
    self._orbax = _open_orbax()

    def listed(hasher: integrity.Hasher) -> list[tuple[int, str]]:
      store.check()
      steps = integrity.sealed_steps(store) if read_only else integrity.put_aside_damage(store, hasher)
      return [(step, str(path.relative_to(store.root))) for step, path in steps.items()]

    paths = self._led('the checkpoints', listed)
    self._steps = {step: store.root / path for step, path in paths}  # that count, oldest first
    if paths and not read_only:
      self._whole.add(paths[-1][0])

  def _led(self, what: str, lead: Callable[[integrity.Hasher], Any]) -> Any:
    """Returns what `lead` returns on host 0, on all hosts, which hash files for it."""
    share = functools.partial(integrity.share, self._store)
    return hosts.led(what, lambda hand_out: lead(integrity.by_all(hand_out)), share)

  def __enter__(self) -> 'Checkpoints':
    return self

  def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
    if error is None or hosts.count() == 1:
      self.close()
    elif isinstance(error, errors.UserError) and not isinstance(error, errors.HostError) and self._saving:
      # The save ends if all hosts end alike; otherwise it may never.
      futures.wait([self._saving], _LAST_WAIT)

  def steps(self) -> list[int]:
    """Returns the steps that have a manifest, oldest first."""
    return sorted(self._steps)

  def last_step(self) -> int | None:
    """Returns the newest whole step; warns of damaged ones above it."""
    self.wait()
    step = self._led('the last checkpoint', self._last_whole)
    if step is not None:
      self._whole.add(step)
    return step

  def _last_whole(self, hasher: integrity.Hasher) -> int | None:
    for step in reversed(self.steps()):
      if step in self._whole or not (problem := self._problem(step, hasher)):
        return step
      logging.warning('checkpoint of step %d is not whole and is left out: %s', step, problem)
    return None

  def _path(self, step: int) -> epath.Path:
    return self._steps.get(step, self._store.checkpoints / str(step))

  def _problem(self, step: int, hasher: integrity.Hasher) -> str:
    path = self._path(step)
    return integrity.problem(self._store, path, hasher) if step in self._steps else f'{path} is not there'

  def digest(self, step: int) -> str:
    """Returns what identifies a step: its manifest's sha256."""
    return integrity.digest(self._store, self._path(step))

  def settled(self, progress: Progress) -> Progress:
    """Waits for the save under way; returns `progress`, with the old best if the new one was not saved.

    Raises:
      TryAgainError: `max_failed` saves in a row have failed.
    """
    with self._lock:
      self.wait()
      if len(self._failed) >= self._max_failed:
        raise self._giving_up()
      lost = progress.best_step in [step for step, _ in self._failed]
      return progress.with_best_of(self._before or Progress()) if lost else progress

  def save(self, state: TrainState, progress: Progress, protected: tuple[int, ...]) -> None:
    """Saves in the background, and drops needless steps; the best and `protected` stay.

    Raises:
      TryAgainError: as `settled`; or, of several hosts, one cannot begin.
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
      except Exception as error:  # whatever it is, the run goes on
        self._note_failure(error)
        if hosts.count() > 1:  # or the others would wait within the save
          raise self._giving_up() from error
        return
      self._saving = self._sealer.submit(contextvars.copy_context().run, self._seal, folder)
      self._needed.append({progress.step, progress.best_step, *protected})

  def save_now(self, state: TrainState, progress: Progress, protected: tuple[int, ...]) -> None:
    """Saves what the run cannot go on without, and waits for it.

    Raises:
      TryAgainError: as `settled`.
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
    """Waits until all hosts have written; then host 0 writes the manifest, for which all hash files."""
    failed: list[Exception] = []  # on this host
    try:
      self._orbax.wait_until_finished()
    except Exception as error:  # is told to the others
      failed.append(error)

    def share(asked: Any) -> Any:
      return _told(failed) or integrity.share(self._store, asked)

    def lead(hand_out: hosts.HandOut) -> str:

      def hand_out_to_writers(shares: list[Any]) -> list[Any]:
        answers = hand_out(shares)
        if reasons := [f'host {i}: {text}' for i, text in enumerate(answers) if isinstance(text, str)]:
          raise OSError(reasons[0])
        return answers

      try:
        if not failed:
          integrity.seal(self._store, folder, self._parts, integrity.by_all(hand_out_to_writers))
      except Exception as error:
        failed.append(error)
      return f'host 0: {_told(failed)}' if failed else ''

    told = hosts.led('the manifest of a step', lead, share)
    if failed:
      raise failed[0]
    if told:
      raise OSError(told)

  def wait(self) -> None:
    """Waits for the save under way.

    Raises:
      TakenOverError: another start has the run.
    """
    with self._lock:
      if self._saving is None:
        return
      step, error = self._progress.step, self._saving.exception()
      reason = hosts.combined(f'the checkpoint of step {step}', str(error) if error else '', _first_reason)
      error = error or (OSError(reason) if reason else None)
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
    """Undoes what is left of the save; a new checkpointer remembers nothing of it."""
    step, reason = self._progress.step, _one_line(error)
    self._failed.append((step, reason))
    integrity.warn(f'checkpoint of step {step} was not saved: {reason}')
    if hosts.count() > 1:
      return
    for _ in range(2):  # the first raises the known error, the second waits for threads
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

  def committed_step(self) -> int:
    """Returns the newest step that was saved whole, 0 if there is none, without waiting; host 0 may ask alone."""
    with self._lock:
      if self._saving and self._saving.done() and not self._saving.exception():
        return self._progress.step
      return self._before.step if self._before else 0

  def last_saved(self) -> str:
    step = self._before.step if self._before else 0
    return f'the last checkpoint is that of step {step}' if step else 'there is no checkpoint yet'

  def _make_ready(self, step: int | None = None) -> None:

    def ready() -> tuple[str, list[int]]:
      try:
        self._store.check()
        if step is not None:
          integrity.clear(self._store)
          self._parts = self._files.publish(step) if self._files else None
      except OSError as error:
        return str(error), []
      return '', self._drop_needless()

    problem, dropped = hosts.from_main('what comes before a checkpoint', ready)
    if problem:
      raise OSError(problem)  # on all hosts
    for old in dropped:
      del self._steps[old]

  def _drop_needless(self) -> list[int]:
    """Deletes all steps but the newest and what the last two saves need; returns what is gone.

    The last but one serves, with its best, until the last is committed, and if that is damaged.
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
          integrity.warn(f'checkpoint of step {step}, which is not needed, stays: {_one_line(error)}')
    return dropped

  def resume(self, abstract: TrainState, forget_best: bool = False) -> tuple[TrainState, Progress] | None:
    """Goes back, files included, to the newest whole step, if any; `abstract` is as `abstract_like`.

    Raises:
      DataError: the best step is lost, and `forget_best` is not set.
    """
    step = self.last_step()
    if step is None:
      self._return_files_to(0)
      return None
    progress = self.progress(step)
    if forget_best:
      progress = progress.with_best_of(Progress())
    elif progress.best_step:
      try:
        self.check(progress.best_step)
      except errors.DataError as error:
        raise errors.DataError(
          f'the best policy so far is lost: {error}. Restore that folder from a copy, or give '
          '--config.faults.forget_best=True once, to choose among later steps'
        ) from error
    hosts.agree('the last checkpoint', dict(step=step, manifest=self.digest(step)))
    self._before = progress
    self._return_files_to(step)
    restored = self._restored(
      step,
      params=ocp.args.StandardRestore(abstract.params),
      rest=ocp.args.StandardRestore(abstract.replace(params=None)),
    )
    return restored['rest'].replace(params=restored['params']), progress

  def _return_files_to(self, step: int) -> None:
    if self._files and hosts.is_main():
      self._files.return_to(step, integrity.parts(self._store, self._path(step)) if step else {})

  def progress(self, step: int) -> Progress:
    return Progress.from_json(dict(self._restored(step, progress=ocp.args.JsonRestore())['progress']))

  def params(self, step: int, abstract: Any) -> Any:
    """Returns the parameters of a step, as `abstract_like` describes them."""
    return self._restored(step, params=ocp.args.StandardRestore(abstract))['params']

  def check(self, step: int) -> None:
    """Compares a step with its manifest.

    Raises:
      DataError: it is not there, or not whole.
    """
    self.wait()
    if step in self._whole:
      return

    def problem(hasher: integrity.Hasher) -> str:
      if not (text := self._problem(step, hasher)):
        return ''
      whole = ', '.join(str(other) for other in self.steps() if other != step and not self._problem(other, hasher))
      return f'{text}; whole are: {whole or "none"}'

    if told := self._led(f'whether the checkpoint of step {step} is whole', problem):
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
        raise errors.TryAgainError(f'{path} was whole, and is gone: {reason}; run the same command again') from error
      raise errors.DataError(f'checkpoint of step {step} cannot be restored: {reason}') from error

  def close(self) -> None:
    """Waits for the save under way; may be called again."""
    if self._closed:
      return
    self._closed = True
    self.wait()
    with contextlib.suppress(OSError, errors.TakenOverError):  # needless steps stay, then
      self._make_ready()
    self._sealer.shutdown()
    self._orbax.close()


def _open_orbax() -> ocp.AsyncCheckpointer:
  return ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())


def _first_reason(reasons: list[str]) -> str:
  """Returns why a save failed on the first host where it did; ''."""
  return next((f'host {i}: {reason}' for i, reason in enumerate(reasons) if reason), '')


def _told(failed: list[Exception]) -> str:
  return _one_line(failed[0]) or repr(failed[0]) if failed else ''


def _one_line(error: BaseException) -> str:
  """Shows at most 400 characters; of a chain of errors, the last says why."""
  reason = secrets.redacted(' '.join(str(error).split()))
  return reason if len(reason) <= 400 else f'{reason[:150]} ... {reason[-200:]}'


def abstract_like(tree: Any) -> Any:
  """Returns shapes, dtypes and shardings of a tree of arrays."""
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)
