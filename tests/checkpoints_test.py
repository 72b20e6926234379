"""A checkpoint counts when it is whole, is compared before it is used, and a save that fails is not believed."""

from concurrent import futures
import dataclasses
import errno
import json
import threading

import damage
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint._src.path import atomicity
import pytest

from score_jax.errors import DataError, TryAgainError
from score_jax.states import TrainState
from score_jax.storage import checkpoints as module
from score_jax.storage import integrity, stores
from score_jax.storage.checkpoints import Checkpoints, abstract_like
from score_jax.storage.progress import Progress

FULL = OSError(errno.ENOSPC, 'No space left on device')


def state(step):
  number = jnp.int32(step)
  weights = jnp.arange(600, dtype=jnp.float32) + step
  return TrainState(
    step=number, params=dict(w=weights), opt_state=dict(m=weights + 1), rejected=number, rejected_in_a_row=number
  )


def progress(step, best=0):
  return dataclasses.replace(Progress(), step=step, best_step=best, best_return=float(best), kl_scale=(0.5, 1.0))


def opened(folder, **settings):
  return Checkpoints(stores.store_of(folder), **dict(keep=2, max_failed=3) | settings)


def filled(folder, steps=(3, 6, 9), best=0):
  """A folder with these steps, saved in the background as a run does."""
  checkpoints = opened(folder)
  for step in steps:
    checkpoints.save(state(step), checkpoints.settled(progress(step, best)), protected=())
  checkpoints.close()
  return folder / 'checkpoints'


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """A folder that tests copy before they damage it."""
  return filled(tmp_path_factory.mktemp('whole')).parent


def test_what_was_saved_is_restored_to_the_bit(tmp_path):
  filled(tmp_path)
  restored, at = opened(tmp_path).resume(abstract_like(state(0)))
  assert at == progress(9)
  jax.tree.map(np.testing.assert_array_equal, restored, state(9))


def test_a_step_is_committed_once_it_is_sealed_and_again_when_the_run_goes_on(tmp_path, monkeypatch):
  checkpoints, sealed, may_seal = opened(tmp_path), integrity.seal, threading.Event()
  monkeypatch.setattr(integrity, 'seal', lambda *args: may_seal.wait() and sealed(*args))
  assert checkpoints.committed_step() == 0
  checkpoints.save(state(3), progress(3), protected=())
  assert checkpoints.committed_step() == 0, 'the save is under way'
  may_seal.set()
  futures.wait([checkpoints._saving])
  assert checkpoints.committed_step() == 3, 'though nobody waited for it'
  monkeypatch.setattr(integrity, 'seal', lambda *_: (_ for _ in ()).throw(FULL))
  checkpoints.save(state(6), progress(6), protected=())
  futures.wait([checkpoints._saving])
  assert checkpoints.committed_step() == 3, 'a save that failed'
  checkpoints.close()
  again = opened(tmp_path)
  again.resume(abstract_like(state(0)))
  assert again.committed_step() == 3
  again.close()


def test_a_manifest_names_every_file_of_its_step(tmp_path):
  folder, store = filled(tmp_path) / '9', stores.store_of(tmp_path)
  assert integrity.problem(store, store.checkpoints / '9') == ''
  names = {path.relative_to(folder).as_posix() for path in folder.rglob('*') if path.is_file()}
  text = (folder / integrity.NAME).read_text().split('\n')[1]
  assert set(json.loads(text)['files']) == names - {integrity.NAME}


def test_every_kind_of_damage_is_seen_and_the_step_before_it_is_taken(whole, tmp_path):
  counts = damage.matrix(whole, tmp_path, flips=20, seed=1)
  assert all(number == of for number, of in counts.values()), counts
  assert set(counts) == {'flipped', 'truncated', 'deleted', 'added'} and counts['deleted'][1] > 15


def test_damage_is_told_and_the_damaged_step_is_put_aside(tmp_path, capfd):
  folder = filled(tmp_path)
  path = next(path for path in (folder / '9/params').rglob('*') if path.is_file() and path.stat().st_size > 500)
  damage.flip(path, damage.random.Random(0))
  checkpoints = opened(tmp_path)
  assert checkpoints.last_step() == 6
  printed = capfd.readouterr().err
  assert str(path) in printed and 'going on from step 6 instead of 9' in printed
  assert (tmp_path / 'damaged/9/manifest.json').exists() and not (folder / '9').exists()
  # The run comes to that step again.
  checkpoints.save_now(state(9), progress(9), protected=())
  assert checkpoints.last_step() == 9


def test_a_reader_takes_the_step_before_and_changes_nothing(tmp_path):
  folder = filled(tmp_path)
  (folder / '9/progress/metadata').unlink()
  reader = opened(tmp_path, read_only=True)
  assert reader.last_step() == 6
  with pytest.raises(DataError, match=r'step 9 cannot be used: .*progress/metadata is missing; whole are: 6'):
    reader.params(9, abstract_like(state(0).params))
  assert (folder / '9').exists()


def test_damage_that_comes_after_opening_is_seen(tmp_path):
  folder = filled(tmp_path)
  checkpoints = opened(tmp_path)
  damage.truncate(folder / '6/progress/metadata')
  with pytest.raises(DataError, match='step 6 cannot be used'):
    checkpoints.progress(6)


def test_a_folder_whose_only_save_was_cut_off_is_begun_anew(tmp_path):
  folder = filled(tmp_path, steps=(3,))
  (folder / '3/manifest.json').unlink()
  assert opened(tmp_path).last_step() is None
  assert not (folder / '3').exists()


@pytest.mark.parametrize('steps', [(3,), (3, 6)])
def test_a_folder_with_nothing_whole_is_refused_and_untouched(tmp_path, steps):
  folder = filled(tmp_path, steps=steps)
  for step in steps:  # one that was whole once; or two, of which at most one can have been cut off
    path = folder / str(step) / ('manifest.json' if len(steps) > 1 else 'commit_success.txt')
    path.unlink()
  before = sorted(map(str, tmp_path.rglob('*')))
  with pytest.raises(DataError, match='no checkpoint in .* is whole'):
    opened(tmp_path)
  assert sorted(map(str, tmp_path.rglob('*'))) == before


def test_a_damaged_best_is_an_error_that_says_what_to_do(tmp_path):
  folder = filled(tmp_path, best=3)
  damage.truncate(folder / '3/params/_METADATA')
  with pytest.raises(DataError, match=r'best policy so far is lost: .*params/_METADATA.*config.faults.forget_best'):
    opened(tmp_path).resume(abstract_like(state(0)))
  _, at = opened(tmp_path).resume(abstract_like(state(0)), forget_best=True)
  assert (at.step, at.best_step, at.best_return) == (9, 0, 0.0)


def test_should_the_newest_be_damaged_the_step_before_it_still_has_its_best(tmp_path):
  checkpoints = opened(tmp_path, keep=1)
  for step, best in ((3, 3), (6, 3), (9, 9)):
    checkpoints.save(state(step), checkpoints.settled(progress(step, best)), protected=())
  checkpoints.close()
  damage.truncate(tmp_path / 'checkpoints/9/params/_METADATA')
  _, at = opened(tmp_path).resume(abstract_like(state(0)))
  assert (at.step, at.best_step) == (6, 3)


def test_old_steps_are_dropped_and_those_that_are_pointed_to_are_kept(tmp_path):
  checkpoints = opened(tmp_path)
  for step in range(1, 9):
    checkpoints.save(state(step), checkpoints.settled(progress(step, best=2)), protected=(4,))
  checkpoints.close()
  assert sorted(int(path.name) for path in (tmp_path / 'checkpoints').iterdir()) == [2, 4, 7, 8]


# Saves that fail: before Orbax begins, in its threads, and as the manifest is written.


def failing_at(monkeypatch, where, times):
  """The next calls of a function raise."""
  target, name = where
  real, left = getattr(target, name), [times]

  def call(*args, **kwargs):
    if left[0] > 0:
      left[0] -= 1
      raise FULL
    return real(*args, **kwargs)

  monkeypatch.setattr(target, name, call)


MOMENTS = [
  pytest.param((ocp.AsyncCheckpointer, 'save'), id='orbax'),
  pytest.param((atomicity.AtomicRenameTemporaryPath, 'finalize'), id='thread'),
  pytest.param((integrity, 'seal'), id='manifest'),
]


@pytest.mark.parametrize('where', MOMENTS)
def test_a_failed_save_is_not_believed_and_the_next_is_not_skipped(tmp_path, monkeypatch, capfd, where):
  checkpoints = opened(tmp_path)
  checkpoints.save(state(3), checkpoints.settled(progress(3, best=3)), protected=())
  checkpoints.settled(progress(3))
  failing_at(monkeypatch, where, times=1)
  checkpoints.save(state(6), progress(6, best=6), protected=())
  later = checkpoints.settled(progress(9, best=6))
  assert (later.best_step, later.best_return) == (3, 3.0), 'the best is one that there is'
  assert 'checkpoint of step 6 was not saved' in capfd.readouterr().err
  assert checkpoints.last_step() == 3
  assert not (tmp_path / 'checkpoints/6').exists(), 'it takes no room'
  checkpoints.save(state(9), later, protected=())
  checkpoints.close()
  restored, at = opened(tmp_path).resume(abstract_like(state(0)))
  assert (at.step, at.best_step) == (9, 3)
  jax.tree.map(np.testing.assert_array_equal, restored, state(9))


@pytest.mark.parametrize('where', MOMENTS)
def test_too_many_failed_saves_in_a_row_end_the_run(tmp_path, monkeypatch, where):
  checkpoints = opened(tmp_path, max_failed=2)
  checkpoints.save(state(3), checkpoints.settled(progress(3)), protected=())
  checkpoints.settled(progress(3))
  failing_at(monkeypatch, where, times=99)
  checkpoints.save(state(6), checkpoints.settled(progress(6)), protected=())
  checkpoints.save(state(9), checkpoints.settled(progress(9)), protected=())
  with pytest.raises(TryAgainError, match='2 saves in a row failed.*of step 3 in.*No space left') as raised:
    checkpoints.settled(progress(12))
  assert raised.value.exit_code == 75
  assert opened(tmp_path, read_only=True).last_step() == 3


def test_a_save_that_the_run_needs_is_tried_again_at_once(tmp_path, monkeypatch):
  monkeypatch.setattr(module, '_FIRST_WAIT', 0.01)
  checkpoints = opened(tmp_path, max_failed=3)
  failing_at(monkeypatch, (integrity, 'seal'), times=2)
  checkpoints.save_now(state(3), progress(3), protected=(3,))
  assert checkpoints.last_step() == 3
  failing_at(monkeypatch, (integrity, 'seal'), times=3)
  with pytest.raises(TryAgainError, match='3 saves in a row'):
    checkpoints.save_now(state(6), progress(6), protected=(6,))


def test_what_must_be_on_the_disk_before_a_checkpoint_fails_it(tmp_path):
  class Full:
    def publish(self, step):
      raise FULL

  checkpoints = opened(tmp_path, files=Full())
  checkpoints.save(state(3), progress(3), protected=())
  assert checkpoints.last_step() is None
