"""Runs at an address of an object store: against a fake of Google's API (`fake_gcs.py`), never against Google."""

import functools
import json
import signal
import sys
import urllib.parse

from checkpoints_test import progress, state
import disturbed
import fake_gcs
import jax
import numpy as np
import pytest

from score_jax import errors
from score_jax.faults import lock
from score_jax.storage import integrity, stores
from score_jax.storage.checkpoints import Checkpoints, abstract_like
from score_jax.storage.run_folder import RunFolder
from score_jax.training import preflight

# Where a request fails, Orbax leaves others behind that end after the event loop they belong to.
pytestmark = pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')

OURS = dict(seed=0)


def opened(root, **settings):
  """Checkpoints of another start."""
  store = stores.store_of(root)
  store.take()
  return Checkpoints(store, **dict(keep=2, max_failed=3) | settings)


def saved(checkpoints, *steps):
  for step in steps:
    checkpoints.save(state(step), checkpoints.settled(progress(step)), protected=())
  checkpoints.close()
  return checkpoints


def filled(root, steps=(3, 6, 9), **settings):
  return saved(opened(root, **settings), *steps)


def steps_at(root):
  return list(integrity.sealed_steps(stores.store_of(root)))


def inside(fake, root, part=''):
  """Names of the objects of a test that have `part` in them."""
  prefix = root.removeprefix('gs://bucket/') + '/'
  return [name.removeprefix(prefix) for name in fake.names('bucket', prefix) if part in name]


def object_of(fake, root, part):
  """The bucket and the name of the largest object of a test that has `part` in its name."""
  prefix = root.removeprefix('gs://bucket/') + '/'
  return 'bucket', prefix + max(inside(fake, root, part), key=lambda name: len(fake.read('bucket', prefix + name)))


def flip(fake, name):
  """One bit of an object."""
  data = bytearray(fake.read(*name))
  data[len(data) // 2] ^= 1
  fake.put(*name, bytes(data))


def begun(root, identity=OURS):
  """A run folder that another process claims: its scratch folder is new."""
  stores.scratch_folder.cache_clear()
  folder = RunFolder(root)
  folder.claim({}, identity)
  return folder


def resumed(root):
  """A process that goes on with a run, and its checkpoints."""
  folder = begun(root)
  checkpoints = Checkpoints(folder.store, keep=2, files=folder)
  checkpoints.resume(abstract_like(state(0)))
  return folder, checkpoints


def test_what_was_saved_at_an_address_is_restored_to_the_bit(fake, root):
  filled(root, steps=(3, 6, 9, 12))
  restored, at = opened(root).resume(abstract_like(state(0)))
  assert at == progress(12)
  jax.tree.map(np.testing.assert_array_equal, restored, state(12))
  assert steps_at(root) == [9, 12], 'old steps are dropped'
  text = fake.read(*object_of(fake, root, '/12/manifest.json')).split(b'\n')[1]
  here = {name.partition('/12/')[2] for name in inside(fake, root, '/12/')}
  assert set(json.loads(text)['files']) == here - {'manifest.json'} and len(here) > 8


def test_a_flipped_bit_in_an_object_is_seen_and_the_step_before_it_is_taken(fake, root, capfd):
  filled(root)
  name = object_of(fake, root, '/9/params/')
  flip(fake, name)
  before = inside(fake, root, '/9/')
  checkpoints = opened(root)
  assert checkpoints.last_step() == 6
  printed = capfd.readouterr().err
  assert f'gs://{"/".join(name)} has other bytes than were written' in printed
  assert 'going on from step 6 instead of 9' in printed
  assert inside(fake, root, '/9/') == before, 'it stays, and nothing is written to it'
  saved(checkpoints, 9)
  assert opened(root).last_step() == 9 and set(before) < set(inside(fake, root, '/9/'))


def test_a_save_that_was_cut_off_at_an_address_does_not_count_and_is_cleared_away(fake, root):
  filled(root)
  for name in ('/9/manifest.json', '/9/commit_success.txt'):
    fake.delete(*object_of(fake, root, name))
  bucket, name = object_of(fake, root, '/6/params/')
  fake.put(bucket, name.replace('/6/', '/2/'), b'of a save that was cut off')
  assert opened(root).last_step() == 6
  assert inside(fake, root, '/6/') and not inside(fake, root, '/9/') and not inside(fake, root, '/2/')


def test_a_store_that_fails_while_a_step_is_compared_says_nothing_about_the_step(fake, root):
  filled(root)
  for status, code in ((503, 75), (403, 78)):
    fake.fault = lambda method, kind, name, status=status: status * ('/9/' in name and kind == 'media')
    with pytest.raises((errors.StoreError, errors.StoreRefusalError)) as raised:
      opened(root)
    assert raised.value.exit_code == code and '\n' not in str(raised.value)
  fake.fault = lambda method, kind, name: 0
  assert opened(root).last_step() == 9


def test_a_store_that_is_away_for_a_while_delays_a_save(fake, root):
  left = [4]

  def failing(method, kind, name):
    left[0] -= kind == 'upload'
    return 503 if kind == 'upload' and left[0] >= 0 else 0

  checkpoints = opened(root)
  fake.fault = failing
  saved(checkpoints, 3)
  assert left[0] < 0
  restored, _ = opened(root).resume(abstract_like(state(0)))
  jax.tree.map(np.testing.assert_array_equal, restored, state(3))


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
  assert inside(fake, root, '/3/') and checkpoints.last_step() is None
  checkpoints.save_now(state(3), progress(3), protected=())
  assert checkpoints.last_step() == 3


# Several starts.


def test_the_newest_start_goes_on_and_the_one_before_it_stops_with_one_line(fake, root):
  first = opened(root)
  first.save_now(state(3), progress(3), protected=())
  second = opened(root)
  before = inside(fake, root)
  with pytest.raises(errors.TakenOverError, match=r'taken over by start 000002-.*; this one stops') as raised:
    first.save(state(6), progress(6), protected=())
  first.close()
  assert raised.value.exit_code == 78 and inside(fake, root) == before
  second.save_now(state(6), progress(6), protected=())
  assert steps_at(root) == [3, 6]


def test_of_two_starts_at_the_same_moment_one_goes_on(root, monkeypatch):
  first, second = stores.store_of(root), stores.store_of(root)
  with monkeypatch.context() as patched:
    patched.setattr(type(first), 'names', lambda store, folder: [])
    for number, store in enumerate((first, second)):
      patched.setattr(lock, 'ourselves', lambda number=number: dict(host='here', pid=number))
      store.take()
  stopped = 0
  for store in (first, second):
    try:
      store.check()
    except errors.TakenOverError:
      stopped += 1
  assert stopped == 1


def test_a_save_that_goes_on_as_another_takes_over_does_not_count(root, monkeypatch):
  checkpoints, seal = opened(root), integrity.seal

  def taken_over(*arguments):
    stores.store_of(root).take()
    seal(*arguments)

  monkeypatch.setattr(integrity, 'seal', taken_over)
  checkpoints.save(state(3), progress(3), protected=())
  with pytest.raises(errors.TakenOverError):
    checkpoints.wait()
  assert steps_at(root) == []


def test_what_is_kept_and_what_is_best_counts_over_all_starts(root):
  first = opened(root)
  for step in (3, 6):
    first.save(state(step), first.settled(progress(step, best=3)), protected=())
  first.close()
  second = opened(root)
  assert second.resume(abstract_like(state(0)))[1] == progress(6, best=3)
  for step in (9, 12, 15):
    second.save(state(step), second.settled(progress(step, best=3)), protected=())
  second.close()
  assert steps_at(root) == [3, 12, 15], 'the first start saved 3 and 6'
  np.testing.assert_array_equal(opened(root).params(3, abstract_like(state(0).params))['w'], state(3).params['w'])


# A store that answers late or not at all, or lets nobody in.


@pytest.mark.parametrize('steps', [(3, 6, 9), (9,)])
def test_a_list_without_an_answer_does_not_hide_a_step(root, monkeypatch, steps):
  filled(root, steps=steps)
  list_objects = type(stores.client())._do_list_objects

  async def without_answer(self, path, *arguments, **named):
    if path.rstrip('/').endswith('checkpoints/9') or named.get('prefix', '').rstrip('/').endswith('checkpoints/9'):
      raise TimeoutError
    return await list_objects(self, path, *arguments, **named)

  checkpoints = opened(root)
  with monkeypatch.context() as patched:
    patched.setattr(type(stores.client()), '_do_list_objects', without_answer)
    with pytest.raises(errors.StoreError, match='run the same command again'):
      opened(root)
    with pytest.raises(errors.TryAgainError, match='run the same command again'):
      checkpoints.resume(abstract_like(state(0)))
  assert opened(root).resume(abstract_like(state(0)))[1].step == 9


def test_deletions_whose_answers_are_lost_have_happened(fake, root, monkeypatch, capfd):
  """The store does as it is told, and answers 503, the first time that each object is deleted."""
  filled(root, keep=1)
  bucket, name = object_of(fake, root, '/9/params/')
  fake.put(bucket, name.replace('/9/', '/12/'), b'of a save that was cut off')
  seen, route = set(), fake_gcs._route

  def losing(store, method, path, body, headers):
    answer = route(store, method, path, body, headers)
    if method == 'DELETE' and path not in seen:
      seen.add(path)
      raise fake_gcs._error(503, 'the answer is lost')
    return answer

  monkeypatch.setattr(fake_gcs, '_route', losing)
  checkpoints = opened(root, keep=1)
  assert checkpoints.last_step() == 9
  assert any('/12/' in urllib.parse.unquote(path) for path in seen)
  saved(checkpoints, 12, 15, 18)
  assert 'was not saved' not in capfd.readouterr().err
  assert steps_at(root)[-1] == 18 and 3 not in steps_at(root)


def test_steps_that_cannot_be_deleted_are_told_once_and_saving_goes_on(fake, root, capfd):
  checkpoints = opened(root, keep=1)
  fake.fault = lambda method, kind, name: 403 * (method == 'DELETE')
  for step in (3, 6, 9, 12, 15):
    checkpoints.save(state(step), checkpoints.settled(progress(step)), protected=())
  checkpoints.wait()
  printed = capfd.readouterr().err
  assert printed.count('checkpoint of step 3, which is not needed, stays') == 1 and 'was not saved' not in printed
  assert checkpoints.last_step() == 15
  fake.fault = lambda method, kind, name: 0
  saved(checkpoints, 18, 21)
  assert steps_at(root) == [18, 21], 'tried again, and gone'


REFUSALS = [
  pytest.param('gs://none/run', '', 0, 78, 'bucket does not exist', id='no bucket'),
  pytest.param('gs://bucket/run', '', 403, 78, 'storage.objectUser', id='403'),
  pytest.param('gs://bucket/run', '', 401, 78, 'storage.objectUser', id='401'),
  pytest.param('gs://bucket/run', 'DELETE', 403, 78, 'storage.objectUser', id='deletion'),
  pytest.param('gs://bucket/run', '', 503, 75, 'run the same command again', id='503'),
]


@pytest.mark.parametrize(('path', 'method', 'status', 'code', 'words'), REFUSALS)
def test_a_store_that_lets_nobody_in_is_one_line_and_an_exit_code(fake, root, path, method, status, code, words):
  fake.fault = lambda by, kind, name: status * (method in ('', by))
  with pytest.raises(errors.UserError, match=words) as raised:
    stores.store_of(path).probe()
  assert raised.value.exit_code == code and path in str(raised.value) and '\n' not in str(raised.value)


def test_an_address_that_can_be_used_has_nothing_left_of_the_probe(fake, root):
  stores.store_of(root).probe()
  assert inside(fake, root) == []


def test_a_missing_package_names_the_extra(fake, monkeypatch):
  stores.client.cache_clear()
  monkeypatch.setitem(sys.modules, 'gcsfs', None)
  with pytest.raises(errors.ConfigError, match=r"package gcsfs is missing .*install -e '\.\[gcs\]'"):
    stores.store_of('gs://bucket/run')


@pytest.mark.parametrize('workdir', ['s3://bucket/run', 'gs://bucket', 'gs://bucket/a[1]'])
def test_addresses_that_cannot_be_used_are_refused(workdir):
  with pytest.raises(errors.ConfigError, match='must be gs://BUCKET/NAME of letters.*s3://'):
    stores.store_of(workdir)


# The run's other files.


def written(folder):
  """The files of a run that are published, by name."""
  paths = [path for path in folder.path.rglob('*') if path.is_file()]
  return {path.relative_to(folder.path).as_posix(): path.read_bytes() for path in paths}


def add_step(folder, step):
  folder.add_metrics(dict(step=step))
  folder.rows.mkdir(exist_ok=True)
  with (folder.rows / 'train.jsonl').open('a') as file:
    file.write(f'{{"step": {step}}}\n')


def run_of(root, *steps):
  """A run that has saved these steps, with all kinds of files."""
  folder, checkpoints = resumed(root)
  folder.write_eval(dict(base=1))
  folder.offline.mkdir(exist_ok=True)
  (folder.offline / 'pool.npy').write_bytes(b'pool')
  for step in range(1, steps[-1] + 1):
    add_step(folder, step)
    if step in steps:
      checkpoints.save_now(state(step), progress(step), protected=())
  checkpoints.close()
  return folder


def test_files_that_grow_are_published_as_parts_and_a_resume_has_those_of_its_step(fake, root):
  folder = run_of(root, 2, 4)
  expected = written(folder)
  add_step(folder, 5)  # after the last save
  assert [len(inside(fake, root, f'parts/{name}/')) for name in ('metrics.jsonl', 'eval.json')] == [2, 1]
  assert fake.read(*object_of(fake, root, 'parts/metrics.jsonl/000004')) == b'{"step": 3}\n{"step": 4}\n'
  again, checkpoints = resumed(root)
  assert again.path != folder.path and written(again) == expected
  # A step that is evaluated later has another last line: what is published keeps what it was.
  again.cut_metrics(3)
  again.add_metrics(dict(step=4, eval=1))
  checkpoints.save_now(state(6), progress(6), protected=())
  checkpoints.close()
  assert resumed(root)[0].metrics.read_text() == '{"step": 1}\n{"step": 2}\n{"step": 3}\n{"step": 4, "eval": 1}\n'


def test_a_damaged_part_makes_its_step_damaged(fake, root, capfd):
  run_of(root, 2, 4)
  flip(fake, object_of(fake, root, 'parts/metrics.jsonl/000004'))
  folder, _ = resumed(root)
  assert 'metrics.jsonl/000004 has other bytes than were written' in capfd.readouterr().err
  assert folder.last_metrics() == dict(step=2) and folder.read_eval() == dict(base=1)
  assert (folder.rows / 'train.jsonl').read_text() == '{"step": 1}\n{"step": 2}\n'


def test_parts_are_written_nowhere_else(root):
  store = stores.store_of(root)
  with pytest.raises(errors.DataError, match='which is no file of a run'):
    store.restore({'../outside': []})


def test_another_run_is_refused_at_an_address_and_one_without_a_checkpoint_is_begun_anew(fake, root):
  begun(root, dict(seed=3))
  run_of(root, 2)
  before = inside(fake, root)
  with pytest.raises(errors.ConfigError, match='belongs to another run: seed was 0, is now 7'):
    begun(root, dict(seed=7))
  assert inside(fake, root) == before


def test_results_are_copied_and_a_model_is_one_when_its_last_file_is_there(fake, root):
  folder = begun(root)
  folder.hf.mkdir()
  for name in ('config.json', 'model.safetensors'):
    (folder.hf / name).write_text('old')
  folder.store.copy_results()
  assert inside(fake, root, 'hf/') == ['hf/config.json', 'hf/model.safetensors']
  fake.fault = lambda method, kind, name: 403 * (kind == 'upload' and 'safetensors' in name)
  with pytest.raises(errors.StoreRefusalError):
    folder.store.copy_results()
  assert inside(fake, root, 'hf/') == ['hf/model.safetensors'], 'hf/ is no model while its parts are of two'
  fake.fault = lambda method, kind, name: 0
  begun(root)
  with pytest.raises(errors.TakenOverError):
    folder.store.copy_results()


def test_other_commands_read_a_run_at_an_address(root):
  folder = run_of(root, 3)
  expected = written(folder)
  stores.scratch_folder.cache_clear()
  assert written(RunFolder(root)) == {} and RunFolder(root).fetch() != folder.path
  assert written(RunFolder(root)) == expected, 'of the newest checkpoint'
  folder.write_eval(dict(final=1))
  folder.store.copy_results()
  RunFolder(root).fetch()
  assert RunFolder(root).read_eval() == dict(final=1)
  with preflight.open_to_read(RunFolder(root)) as checkpoints:
    assert preflight.chosen_step(checkpoints, 'best') == 3
    np.testing.assert_array_equal(checkpoints.params(3, abstract_like(state(0).params))['w'], state(3).params['w'])
  begun(f'{root}/none')
  with pytest.raises(errors.ConfigError, match='has no checkpoints'):
    preflight.open_to_read(RunFolder(f'{root}/none'))


# A whole run: killed in a save, on a machine whose disk is lost with it.

SHORT = ('--config.stages.stage1.steps=3', '--config.stages.stage2.steps=5', '--config.checkpoint.every=2')


@pytest.mark.slow
def test_a_run_that_lost_its_machine_goes_on_from_the_store_and_ends_the_same(fake, tmp_path, monkeypatch):
  monkeypatch.setenv('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')  # compiled fast rather than well
  cache, there = tmp_path / 'cache', (*SHORT, '--workdir=gs://bucket/runs/one')
  expected = disturbed.run_to_the_end(tmp_path / 'whole', cache, *SHORT)
  monkeypatch.setattr(disturbed, 'environment', functools.partial(disturbed.environment, **fake.environment()))
  with disturbed.start(tmp_path / 'first', cache, *there) as process:
    # Its objects are on their way, its manifest is not there.
    disturbed.wait_for(lambda: any('/checkpoints/6/' in name for name in fake.names('bucket', 'runs/one/')), process)
    assert disturbed.end(process) == -signal.SIGKILL
  whole = {name.split('/')[5] for name in fake.names('bucket', 'runs/one/') if name.endswith('/manifest.json')}
  assert '4' in whole
  with disturbed.start(tmp_path / 'second', cache, *there) as process:
    process.wait()
  assert process.returncode == 0, (tmp_path / 'second.log').read_text()[-3000:]
  fake.download('bucket', 'runs/one/', tmp_path / 'store')  # as a folder, to be compared with a run's own
  assert len(disturbed.lines(tmp_path / 'store')) == 8 and disturbed.fingerprint(tmp_path / 'store') == expected
  rows = {path.name: path.read_bytes() for path in (tmp_path / 'whole/rows').iterdir()}
  assert {path.name: path.read_bytes() for path in (tmp_path / 'store/rows').iterdir()} == rows
