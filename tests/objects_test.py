"""Checkpoints in an object store: against a fake of Google's API (`fake_gcs.py`), never against Google's service."""

import functools
import json
import os
import shutil
import signal
import sys

from checkpoints_test import progress
from checkpoints_test import state
import disturbed
import jax
import numpy as np
import pytest

from score_jax import errors
from score_jax.faults import lock
from score_jax.storage import addresses
from score_jax.storage import carried
from score_jax.storage import manifests
from score_jax.storage import repairs
from score_jax.storage.checkpoints import Checkpoints
from score_jax.storage.checkpoints import abstract_like
from score_jax.storage.places import Place
from score_jax.storage.run_folder import RunFolder
from score_jax.training import sources

# Where a request fails, Orbax leaves others behind that end after the event loop they belong to.
pytestmark = pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')

SMALL = {'config.json': b'{}', 'metrics.jsonl': b'{"step": 1}\n'}


def opened(root, **settings):
  return Checkpoints(f'{root}/checkpoints', **dict(keep=2, max_failed=3) | settings)


def filled(root, steps=(3, 6, 9), **settings):
  checkpoints = opened(root, **settings)
  for step in steps:
    checkpoints.save(state(step), checkpoints.settled(progress(step)), protected=())
  checkpoints.close()


def inside(fake, root):
  """Names of the objects of a test, without its own."""
  prefix = root.removeprefix('gs://bucket/') + '/'
  return [name.removeprefix(prefix) for name in fake.names('bucket', prefix)]


def whole_name(root, name):
  return f'{root.removeprefix("gs://bucket/")}/{name}'


def flip(fake, root, name):
  """One bit of an object."""
  data = bytearray(fake.read('bucket', whole_name(root, name)))
  data[len(data) // 2] ^= 1
  fake.put('bucket', whole_name(root, name), bytes(data))


def array_of(fake, root, step):
  """The name of the largest object of a step's parameters."""
  names = [name for name in inside(fake, root) if name.startswith(f'checkpoints/{step}/params/') and '/d/' in name]
  return max(names, key=lambda name: len(fake.read('bucket', whole_name(root, name))))


def test_what_was_saved_at_an_address_is_restored_to_the_bit(fake, root):
  filled(root, steps=(3, 6, 9, 12), carry=lambda step: SMALL)
  found, at = opened(root).resume(abstract_like(state(0)))
  assert at == progress(12)
  jax.tree.map(np.testing.assert_array_equal, found, state(12))
  assert repairs.steps(repairs.absolute(f'{root}/checkpoints')) == [9, 12], 'old steps are dropped'
  text = fake.read('bucket', whole_name(root, 'checkpoints/12/manifest.json')).split(b'\n')[1]
  here = {name.removeprefix('checkpoints/12/') for name in inside(fake, root) if name.startswith('checkpoints/12/')}
  assert set(json.loads(text)['files']) == here - {'manifest.json'} and carried.NAME in here
  assert carried.newest(repairs.absolute(f'{root}/checkpoints')) == (12, SMALL)


def test_a_flipped_bit_in_an_object_is_found_and_the_step_before_it_is_taken(fake, root, capfd):
  filled(root)
  name = array_of(fake, root, 9)
  flip(fake, root, name)
  checkpoints = opened(root)
  assert checkpoints.last_step() == 6
  said = capfd.readouterr().err
  assert f'{root}/{name} has other bytes than were written' in said and 'going on from step 6 instead of 9' in said
  aside = [other for other in inside(fake, root) if other.startswith('damaged/9/')]
  assert 'damaged/9/manifest.json' in aside and len(aside) > 8
  assert not [other for other in inside(fake, root) if other.startswith('checkpoints/9/')]
  checkpoints.save_now(state(9), progress(9), protected=())
  assert checkpoints.last_step() == 9


@pytest.mark.parametrize('kind', ['POST copy', 'DELETE object'])
def test_a_damaged_step_whose_move_is_cut_off_is_there_in_whole_and_moved_later(fake, root, kind):
  filled(root)
  flip(fake, root, array_of(fake, root, 9))
  before = {name for name in inside(fake, root) if name.startswith('checkpoints/9/')}
  left = [5]

  def breaking(method, what, name):
    left[0] -= f'{method} {what}' == kind
    return 503 if left[0] < 0 else 0

  fake.fault = breaking
  with pytest.raises(errors.StoreError, match='can not be reached'):
    opened(root)
  names = inside(fake, root)
  kept = {name.replace('damaged/', 'checkpoints/') for name in names if name.startswith('damaged/9/')}
  assert before <= set(names) or before == kept, 'one of the two is complete'
  fake.fault = lambda method, what, name: 0
  assert opened(root).last_step() == 6
  assert not [name for name in inside(fake, root) if name.startswith('checkpoints/9/')]
  assert {n.replace('damaged/', 'checkpoints/') for n in inside(fake, root) if n.startswith('damaged/9/')} == before


def test_a_save_that_was_cut_off_at_an_address_does_not_count_and_is_cleared_away(fake, root):
  filled(root)
  for name in ('checkpoints/9/manifest.json', 'checkpoints/9/commit_success.txt'):
    fake.delete('bucket', whole_name(root, name))
  fake.put('bucket', whole_name(root, 'checkpoints/2/params/d/left'), b'of a save that was cut off')
  checkpoints = opened(root)
  assert checkpoints.last_step() == 6
  assert {int(name.split('/')[1]) for name in inside(fake, root)} == {6}


def test_a_store_that_fails_while_a_step_is_compared_says_nothing_about_the_step(fake, root):
  filled(root)
  before = inside(fake, root)
  for status in (503, 403):
    fake.fault = lambda method, kind, name, status=status: status * ('/9/' in name and kind == 'media')
    with pytest.raises((errors.StoreError, errors.StoreRefusalError)) as raised:
      opened(root)
    assert raised.value.exit_code == {503: 75, 403: 78}[status] and '\n' not in str(raised.value)
    assert inside(fake, root) == before
  fake.fault = lambda method, kind, name: 0
  assert opened(root).last_step() == 9


def test_a_store_that_is_away_for_a_while_delays_a_save(fake, root):
  left = [4]

  def failing(method, kind, name):
    left[0] -= kind == 'upload'
    return 503 if kind == 'upload' and left[0] >= 0 else 0

  checkpoints = opened(root)
  fake.fault = failing
  checkpoints.save(state(3), progress(3), protected=())
  checkpoints.settled(progress(3))
  assert left[0] < 0 and checkpoints.last_step() == 3
  found, _ = opened(root).resume(abstract_like(state(0)))
  jax.tree.map(np.testing.assert_array_equal, found, state(3))


@pytest.mark.parametrize(('part', 'status'), [('manifest.json', 503), ('commit_success.txt', 503), ('/d/', 403)])
def test_a_save_that_the_store_does_not_take_is_not_believed(fake, root, capfd, part, status):
  checkpoints = opened(root)
  checkpoints.save(state(3), checkpoints.settled(progress(3, best=3)), protected=())
  checkpoints.settled(progress(3))
  fake.fault = lambda method, kind, name: status * (kind == 'upload' and '/6/' in name and part in name)
  checkpoints.save(state(6), progress(6, best=6), protected=())
  later = checkpoints.settled(progress(9, best=6))
  assert later.best_step == 3 and 'checkpoint of step 6 was not saved' in capfd.readouterr().err
  assert checkpoints.last_step() == 3
  fake.fault = lambda method, kind, name: 0
  checkpoints.save_now(state(9), later, protected=())
  checkpoints.close()
  assert opened(root).last_step() == 9


def test_a_save_whose_leftovers_could_not_be_removed_is_not_taken_for_a_checkpoint(fake, root):
  checkpoints = opened(root)
  fake.fault = lambda method, kind, name: 503 * (method == 'DELETE' or kind == 'upload' and 'manifest.json' in name)
  checkpoints.save(state(3), progress(3), protected=())
  checkpoints.wait()
  fake.fault = lambda method, kind, name: 0
  assert repairs.steps(repairs.absolute(f'{root}/checkpoints')) == [3] and checkpoints.last_step() is None
  checkpoints.save_now(state(3), progress(3), protected=())
  assert checkpoints.last_step() == 3


def test_steps_that_were_copied_to_an_address_are_told_and_stay(fake, root):
  filled(root)
  for name in inside(fake, root):
    if 'commit_success' in name:
      fake.delete('bucket', whole_name(root, name))
  for step in (6, 9):
    manifests.write(repairs.absolute(f'{root}/checkpoints/{step}'))
  before = inside(fake, root)
  checkpoints = opened(root)
  with pytest.raises(errors.DataError, match='step 9 in .* was not saved there but copied'):
    checkpoints.resume(abstract_like(state(0)))
  checkpoints.save_now(state(12), progress(12), protected=())
  assert set(before) < set(inside(fake, root))


def test_what_others_write_is_seen_at_once(fake, root):
  filled(root, steps=(3,))
  where = repairs.absolute(f'{root}/checkpoints')
  assert repairs.steps(where) == [3] and (where / '3').exists()
  for name in inside(fake, root):
    fake.put('bucket', whole_name(root, name.replace('/3/', '/6/')), fake.read('bucket', whole_name(root, name)))
  assert repairs.steps(where) == [3, 6] and not manifests.problem(where / '6')
  fake.delete('bucket', whole_name(root, 'checkpoints/6/_CHECKPOINT_METADATA'))
  assert '_CHECKPOINT_METADATA is missing' in manifests.problem(where / '6')


# Who may write there, and what else is kept there.


def test_the_newest_owner_goes_on_and_the_one_before_it_stops_with_one_line(fake, root, capfd):
  first, second = Place(root), Place(root)
  first.take()
  checkpoints = opened(root, fence=first.check)
  checkpoints.save_now(state(3), progress(3), protected=())
  assert not capfd.readouterr().err
  second.take()
  assert f'{root} was in use by process {os.getpid()}' in capfd.readouterr().err
  before = inside(fake, root)
  with pytest.raises(
    errors.TakenOverError, match=f'taken over by process {os.getpid()} on .*; this one stops'
  ) as raised:
    checkpoints.save(state(6), progress(6), protected=())
  assert raised.value.exit_code == 78 and inside(fake, root) == before
  checkpoints.close()
  assert inside(fake, root) == before
  opened(root, fence=second.check).save_now(state(6), progress(6), protected=())


def test_a_save_under_way_as_another_takes_over_does_not_count_and_nothing_of_the_other_is_removed(root):
  first, asked = Place(root), []
  first.take()

  def fence():
    asked.append(1)
    if len(asked) == 3:  # opened, before the save, before the manifest
      Place(root).take()
    first.check()

  checkpoints = opened(root, fence=fence)
  checkpoints.save(state(3), progress(3), protected=())
  with pytest.raises(errors.TakenOverError):
    checkpoints.wait()
  assert repairs.steps(repairs.absolute(f'{root}/checkpoints')) == [3], 'it may be the other one that writes it now'
  assert opened(root, read_only=True).last_step() is None


def test_a_process_that_is_gone_from_this_machine_is_not_worth_a_word(fake, root, capfd, monkeypatch):
  Place(root).take()
  monkeypatch.setattr(lock, 'is_alive', lambda pid: False)
  Place(root).take()
  assert not capfd.readouterr().err


REFUSALS = [
  pytest.param('gs://none/run', 0, 78, 'bucket does not exist', id='no bucket'),
  pytest.param('gs://bucket/run', 403, 78, 'storage.objectUser', id='403'),
  pytest.param('gs://bucket/run', 401, 78, 'storage.legacyBucketReader', id='401'),
  pytest.param('gs://bucket/run', 503, 75, 'run the same command again', id='503'),
]


@pytest.mark.parametrize(('path', 'status', 'code', 'words'), REFUSALS)
def test_a_store_that_lets_nobody_in_is_one_line_and_an_exit_code(fake, root, monkeypatch, path, status, code, words):
  monkeypatch.setattr(addresses, '_PROBE_SECONDS', 0.5)
  fake.fault = lambda method, kind, name: status
  with pytest.raises(errors.UserError, match=words) as raised:
    Place(path).probe()
  assert raised.value.exit_code == code and path in str(raised.value) and '\n' not in str(raised.value)


def test_an_address_that_nobody_answers_at_is_tried_again_later(root, monkeypatch):
  monkeypatch.setattr(addresses, '_PROBE_SECONDS', 0.5)
  monkeypatch.setenv('STORAGE_EMULATOR_HOST', 'http://127.0.0.1:9')
  with pytest.raises(errors.StoreError, match='can not be reached') as raised:
    Place(root).probe()
  assert raised.value.exit_code == 75


@pytest.mark.parametrize('package', ['gcsfs', 'google.cloud.storage'])
def test_a_missing_package_names_the_extra(fake, monkeypatch, package):
  addresses.filesystem.cache_clear()
  monkeypatch.setitem(sys.modules, package, None)
  with pytest.raises(errors.ConfigError, match=rf"package {package} is missing .*install -e '\.\[gcs\]'"):
    Place('gs://bucket/run').probe()


def test_results_are_copied_and_a_model_is_one_when_its_last_file_is_there(fake, root, tmp_path):
  for name in (
    'hf/config.json',
    'hf/model.safetensors',
    'rows/base.jsonl.gz',
    'eval.json',
    'stuck-1.txt',
    'rows/a.partial',
  ):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(name)
  fake.fault = lambda method, kind, name: 403 * (kind == 'upload' and 'safetensors' in name)
  with pytest.raises(errors.StoreRefusalError):
    Place(root).publish(tmp_path)
  assert whole_name(root, 'hf/config.json') not in fake.names('bucket')
  fake.fault = lambda method, kind, name: 0
  Place(root).publish(tmp_path)
  assert inside(fake, root) == ['eval.json', 'hf/config.json', 'hf/model.safetensors', 'rows/base.jsonl.gz']
  Place(str(tmp_path / 'elsewhere')).publish(tmp_path)
  assert (tmp_path / 'elsewhere/hf/model.safetensors').read_text() == 'hf/model.safetensors'


# The run's small files, on a file system: the same code.

OURS = dict(seed=0)


def begun(tmp_path, steps=(1, 2)):
  """A run that has saved its last step in another folder."""
  folder = RunFolder(tmp_path / 'run', Place(str(tmp_path / 'place')))
  folder.claim(dict(checkpoint=dict(path=str(tmp_path / 'place'))), OURS)
  for step in steps:
    folder.add_metrics(dict(step=step))
  folder.write_eval(dict(base=1))
  folder.rows.mkdir()
  (folder.rows / 'base.jsonl.gz').write_bytes(b'rows')
  folder.offline.mkdir()
  (folder.offline / 'visit1.npy').write_bytes(b'pool')
  saved(folder, steps[-1])
  return folder


def saved(folder, step):
  path = repairs.absolute(folder.checkpoints / str(step))
  path.mkdir(parents=True)
  (path / carried.NAME).write_bytes(carried.packed(folder.small_files(step)))
  manifests.write(path)


def tree(folder):
  return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


def again(path, place, identity=OURS):
  folder = RunFolder(path, Place(str(place)))
  folder.look()
  folder.claim(dict(checkpoint=dict(path=str(place))), identity)
  return folder


def test_an_empty_folder_takes_what_the_newest_step_carries(tmp_path):
  folder = begun(tmp_path)
  folder.add_metrics(dict(step=3))  # after the save
  new = again(tmp_path / 'new', tmp_path / 'place')
  assert {name: data for name, data in tree(new.path).items() if name != lock.NAME} == {
    **{name: data for name, data in tree(folder.path).items() if name != lock.NAME},
    'metrics.jsonl': b'{"step": 1}\n{"step": 2}\n',
  }


def test_a_folder_that_is_behind_takes_it_and_one_that_is_not_is_left_alone(tmp_path):
  folder = begun(tmp_path)
  shutil.copytree(folder.path, tmp_path / 'behind')
  folder.add_metrics(dict(step=3))
  saved(folder, 3)
  folder.write_eval(dict(base=1, final=2))
  assert again(tmp_path / 'behind', tmp_path / 'place').last_metrics() == dict(step=3)
  assert again(folder.path, tmp_path / 'place').read_eval() == dict(base=1, final=2)


def test_a_damaged_archive_is_not_used(tmp_path):
  folder = begun(tmp_path)
  folder.add_metrics(dict(step=3))
  saved(folder, 3)
  path = folder.checkpoints / '3' / carried.NAME
  path.write_bytes(path.read_bytes() + b'0')
  assert again(tmp_path / 'new', tmp_path / 'place').last_metrics() == dict(step=2)


def test_the_place_of_another_run_is_refused_before_anything_is_written(tmp_path):
  folder = begun(tmp_path)
  before = tree(tmp_path / 'place')
  with pytest.raises(errors.ConfigError, match='checkpoint.path = .* belongs to another run: seed was 0, is now 7'):
    again(tmp_path / 'new', tmp_path / 'place', dict(seed=7))
  assert tree(tmp_path / 'place') == before and not (tmp_path / 'new').exists()
  del folder


def test_a_run_whose_checkpoints_are_looked_for_elsewhere_is_not_begun_anew(tmp_path):
  folder = begun(tmp_path)
  before = folder.metrics.read_bytes()
  with pytest.raises(errors.ConfigError, match='there is no checkpoint, and the run in .* has saved to .*place before'):
    again(folder.path, tmp_path / 'mistyped')
  with pytest.raises(errors.ConfigError, match="checkpoint.path = '': there is no checkpoint"):
    RunFolder(folder.path).claim({}, OURS)
  assert folder.metrics.read_bytes() == before
  shutil.copytree(tmp_path / 'place', tmp_path / 'moved')
  again(folder.path, tmp_path / 'moved')


def test_what_an_archive_holds_is_written_nowhere_else(tmp_path):
  files = {'config.json': b'{}', '../outside': b'', 'rows/../../outside': b'', '/etc/passwd': b'', 'rows/a': b'1'}
  assert carried.unpacked(carried.packed(files)) == {'config.json': b'{}', 'rows/a': b'1'}


def test_rows_come_along_while_they_are_few(tmp_path, monkeypatch):
  (tmp_path / 'rows').mkdir()
  for name in ('base.jsonl.gz', 'train.jsonl'):
    (tmp_path / 'rows' / name).write_bytes(bytes(60))
  monkeypatch.setattr(carried, '_MOST_ROWS', 100)
  assert set(carried.gathered(tmp_path, '')) == {'metrics.jsonl', 'rows/base.jsonl.gz'}


def test_other_doors_find_a_run_s_checkpoints_where_it_keeps_them(fake, root, tmp_path):
  filled(root, steps=(3,))
  RunFolder(tmp_path / 'run').claim(dict(checkpoint=dict(path=root)), OURS)
  with sources.open_checkpoints(RunFolder(tmp_path / 'run')) as checkpoints:
    assert sources.chosen_step(checkpoints, RunFolder(tmp_path / 'run'), 'best') == 3
    np.testing.assert_array_equal(checkpoints.params(3, abstract_like(state(0).params))['w'], state(3).params['w'])
  RunFolder(tmp_path / 'none').claim(dict(checkpoint=dict(path=f'{root}/none')), OURS)
  with pytest.raises(errors.ConfigError, match='has no checkpoints'):
    sources.open_checkpoints(RunFolder(tmp_path / 'none'))


# A whole run: killed in a save, on a machine whose disk is lost with it.

SHORT = ('--config.stages.stage1.steps=3', '--config.stages.stage2.steps=5', '--config.checkpoint.every=2')


def test_a_run_that_lost_its_machine_goes_on_from_the_store_and_ends_the_same(fake, tmp_path, monkeypatch):
  monkeypatch.setenv('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')  # compiled fast rather than well
  cache, there = tmp_path / 'cache', (*SHORT, '--config.checkpoint.path=gs://bucket/runs/one')
  expected = disturbed.run_to_the_end(tmp_path / 'whole', cache, *SHORT)
  monkeypatch.setattr(disturbed, 'environment', functools.partial(disturbed.environment, **fake.environment()))
  with disturbed.start(tmp_path / 'first', cache, *there) as process:
    # Its objects are on their way, its manifest is not there.
    disturbed.wait_for(lambda: fake.names('bucket', 'runs/one/checkpoints/6/'), process)
    assert disturbed.end(process) == -signal.SIGKILL
  whole = {name.split('/')[3] for name in fake.names('bucket', 'runs/one/') if name.endswith('/manifest.json')}
  assert '4' in whole
  shutil.rmtree(tmp_path / 'first')
  with disturbed.start(tmp_path / 'second', cache, *there) as process:
    process.wait()
  log = (tmp_path / 'second.log').read_text()
  assert process.returncode == 0, log[-3000:]
  assert len(disturbed.lines(tmp_path / 'second')) == 8 and not (tmp_path / 'second/checkpoints').exists()
  fake.download('bucket', 'runs/one/', tmp_path / 'store')  # as a folder, to be compared with a run's own
  assert disturbed.fingerprint(tmp_path / 'store') == expected
  rows = {path.name: path.read_bytes() for path in (tmp_path / 'whole/rows').iterdir()}
  for folder in ('second', 'store'):
    assert {path.name: path.read_bytes() for path in (tmp_path / folder / 'rows').iterdir()} == rows
