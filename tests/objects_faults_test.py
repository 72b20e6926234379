"""A store that answers late or not at all, and processes that end between two requests: nothing is lost by it."""

import contextlib
import hashlib
import urllib.parse

from checkpoints_test import progress
from checkpoints_test import state
import fake_gcs
from objects_test import OURS
from objects_test import again
from objects_test import array_of
from objects_test import begun
from objects_test import filled
from objects_test import inside
from objects_test import opened
from objects_test import saved
from objects_test import whole_name
import pytest

from score_jax import errors
from score_jax.storage import addresses
from score_jax.storage import repairs
from score_jax.storage import run_folder
from score_jax.storage.checkpoints import abstract_like
from score_jax.storage.places import Place

pytestmark = pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')


def lose_answers(monkeypatch, wanted):
  """The store does as it is asked, and answers 503, the first time that each object is asked about."""
  seen, route = set(), fake_gcs._route

  def losing(store, method, path, body, headers):
    answer = route(store, method, path, body, headers)
    if wanted(method, urllib.parse.unquote(path)) and (method, path) not in seen:
      seen.add((method, path))
      raise fake_gcs._error(503, 'the answer is lost')
    return answer

  monkeypatch.setattr(fake_gcs, '_route', losing)
  return seen


@pytest.mark.parametrize('steps', [(3, 6, 9), (9,)])
def test_a_list_without_an_answer_does_not_hide_a_step(root, monkeypatch, steps):
  filled(root, steps=steps)
  client = addresses.filesystem()
  list_objects = type(client)._do_list_objects

  async def without_answer(self, path, *arguments, **named):
    if path.rstrip('/').endswith('checkpoints/9') or named.get('prefix', '').rstrip('/').endswith('checkpoints/9'):
      raise TimeoutError
    return await list_objects(self, path, *arguments, **named)

  checkpoints = opened(root)
  with monkeypatch.context() as patched:
    patched.setattr(type(client), '_do_list_objects', without_answer)
    with pytest.raises(errors.StoreError, match='run the same command again'):
      checkpoints.resume(abstract_like(state(0)))
    with pytest.raises(errors.StoreError):
      opened(root)
  assert opened(root).resume(abstract_like(state(0)))[1].step == 9


def test_a_step_that_orbax_has_overlooked_is_not_taken_for_a_copy(root):
  filled(root)
  checkpoints = opened(root)
  checkpoints._manager._checkpoints.delete_if(lambda info: info.step == 9)
  with pytest.raises(errors.StoreError, match='run the same command again'):
    checkpoints.resume(abstract_like(state(0)))


@pytest.mark.parametrize('lost', ['leftover of a save', 'step that is not needed'])
def test_a_deletion_whose_answer_is_lost_has_happened(fake, root, monkeypatch, capfd, lost):
  filled(root, keep=1)
  checkpoints = opened(root, keep=1)
  if lost == 'leftover of a save':
    fake.put('bucket', whole_name(root, 'checkpoints/12/params/d/left'), b'of a save that was cut off')
    seen = lose_answers(monkeypatch, lambda method, path: method == 'DELETE')
    assert opened(root, keep=1).last_step() == 9
  else:
    seen = lose_answers(monkeypatch, lambda method, path: method == 'DELETE')
    for step in (12, 15, 18):
      checkpoints.save(state(step), checkpoints.settled(progress(step)), protected=())
    checkpoints.close()
    assert 'was not saved' not in capfd.readouterr().err
    assert repairs.steps(repairs.absolute(f'{root}/checkpoints'))[-1] == 18
  assert seen


def test_steps_that_can_not_be_deleted_are_said_once_and_saving_goes_on(fake, root, capfd):
  checkpoints = opened(root, keep=1)
  fake.fault = lambda method, kind, name: 403 * (method == 'DELETE')
  for step in (3, 6, 9, 12, 15):
    checkpoints.save(state(step), checkpoints.settled(progress(step)), protected=())
  checkpoints.wait()
  said = capfd.readouterr().err
  assert said.count('checkpoint of step 3, which is not needed, stays') == 1 and 'was not saved' not in said
  assert checkpoints.last_step() == 15
  fake.fault = lambda method, kind, name: 0
  for step in (18, 21):
    checkpoints.save(state(step), checkpoints.settled(progress(step)), protected=())
  checkpoints.close()
  assert repairs.steps(repairs.absolute(f'{root}/checkpoints')) == [18, 21], 'tried again, and gone'


def test_who_may_not_delete_is_told_before_anything_is_saved(fake, root):
  fake.fault = lambda method, kind, name: 403 * (method == 'DELETE')
  with pytest.raises(errors.StoreRefusalError, match='storage.objectUser'):
    Place(root).take()
  fake.fault = lambda method, kind, name: 0
  Place(root).take()
  assert [name for name in inside(fake, root) if not name.endswith('.tried')] == ['owner.json']


def test_an_owner_file_that_is_gone_is_no_takeover(fake, root):
  place = Place(root)
  place.take()
  fake.delete('bucket', whole_name(root, 'owner.json'))
  with pytest.raises(errors.TryAgainError, match='owner.json is gone'):
    place.check()
  place.take()
  place.check()


def test_a_late_upload_beside_what_was_written_is_no_damage_and_one_in_its_place_is(fake, root):
  filled(root)
  fake.put('bucket', whole_name(root, f'checkpoints/9/params/d/{hashlib.sha256(b"").hexdigest()[:32]}'), b'late')
  checkpoints = opened(root)
  assert checkpoints.resume(abstract_like(state(0)))[1].step == 9
  fake.put('bucket', whole_name(root, array_of(fake, root, 9)), b'late')
  assert opened(root).last_step() == 6


def test_results_are_not_published_by_a_run_that_lost_the_place_nor_weights_beside_another_config(
  fake,
  root,
  tmp_path,
):
  (tmp_path / 'hf').mkdir()
  for name in ('config.json', 'model.safetensors'):
    (tmp_path / 'hf' / name).write_text('old')
  place = Place(root)
  place.take()
  place.publish(tmp_path)
  (tmp_path / 'hf/model.safetensors').write_text('new')
  fake.fault = lambda method, kind, name: 403 * (kind == 'upload' and 'safetensors' in name)
  with pytest.raises(errors.StoreRefusalError):
    place.publish(tmp_path)
  assert 'hf/config.json' not in inside(fake, root), 'hf/ is no model while its parts are of two'
  fake.fault = lambda method, kind, name: 0
  Place(root).take()
  before = inside(fake, root)
  with pytest.raises(errors.TakenOverError):
    place.publish(tmp_path)
  assert inside(fake, root) == before


# The run's small files, on a file system: the same code.


@pytest.mark.parametrize('after', range(1, 6))
@pytest.mark.parametrize('behind', [False, True])
def test_a_machine_that_is_killed_as_it_takes_a_run_over_takes_it_over_again(tmp_path, monkeypatch, after, behind):
  folder = begun(tmp_path)
  folder.add_metrics(dict(step=3))
  (folder.offline / 'visit2.npy').write_bytes(b'pool 2')
  saved(folder, 3)
  target = tmp_path / 'new'
  if behind:
    older(folder, target)
  write, written = run_folder.write_bytes, []

  def killed(path, data):
    write(path, data)
    written.append(path.name)
    if len(written) == after:
      raise KeyboardInterrupt

  with monkeypatch.context() as patched:
    patched.setattr(run_folder, 'write_bytes', killed)
    with contextlib.suppress(KeyboardInterrupt):
      again(target, tmp_path / 'place')
  new = again(target, tmp_path / 'place', OURS)
  assert (new.offline / 'visit1.npy').read_bytes() == b'pool' and (new.offline / 'visit2.npy').read_bytes() == b'pool 2'
  assert new.last_metrics() == dict(step=3) and (new.rows / 'base.jsonl.gz').read_bytes() == b'rows'


def older(folder, target):
  """The folder as it was at its first save: an older disk."""
  target.mkdir()
  (target / 'config.json').write_bytes(folder.config.read_bytes())
  (target / 'metrics.jsonl').write_bytes(b'{"step": 1}\n{"step": 2}\n')
