"""Hashes that all hosts of a run make together; hosts are threads on a stand-in of the coordination service."""

import collections
import functools
import json
import pathlib

import pytest

from benchmarks import coordination, many_hosts
from score_jax import errors, files
from score_jax.parallel import hosts
from score_jax.storage import checkpoints as saves
from score_jax.storage import hashes, integrity, stores
from score_jax.storage.progress import Progress

SIZES = {f'params/ocdbt.process_{i % 8}/d/{i}': 100 + i for i in range(40)}


@pytest.fixture
def hashed_bytes(monkeypatch):
  """Counts the bytes that each host hashes."""
  counted, sha256s = collections.Counter(), hashes.sha256s

  def counting(folder, names, *attempt):
    known = sha256s(folder, names, *attempt)
    counted[hosts.index()] += sum((pathlib.Path(folder) / name).stat().st_size for name in known)
    return known

  monkeypatch.setattr(hashes, 'sha256s', counting)
  return counted


def written(folder: pathlib.Path, sizes: dict[str, int]) -> pathlib.Path:
  for number, (name, size) in enumerate(sizes.items()):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes([number]) * size)
  return folder


def led(store: stores.FolderStore, lead):
  """Returns what `lead(hasher)` returns on host 0, where all hosts hash."""
  share = functools.partial(integrity.share, store)
  return hosts.led('a test', lambda hand_out: lead(integrity.by_all(hand_out)), share)


def test_files_are_dealt_evenly_and_to_those_who_wrote_them():
  shares = hashes.dealt(SIZES, 8)
  assert sorted(name for share in shares for name in share) == sorted(SIZES)
  for share in shares:
    assert abs(sum(SIZES[name] for name in share) - sum(SIZES.values()) / 8) <= max(SIZES.values())
  owned = sum(f'process_{host}/' in name for host, share in enumerate(shares) for name in share)
  assert owned >= 30  # 4 or 5 of each host's 5
  assert hashes.dealt({'a': 3, 'b': 2, 'c': 2, 'd': 1}, 2) == [['a', 'd'], ['b', 'c']]
  wrote = {'ocdbt.process_1/a': 3, 'b': 2, 'ocdbt.process_9/c': 1}  # of a run of ten
  assert hashes.dealt(wrote, 2) == [['b', 'ocdbt.process_9/c'], ['ocdbt.process_1/a']]
  assert hashes.dealt({}, 3) == [[], [], []]


def test_eight_hosts_hash_an_eighth_each_and_find_what_one_finds(tmp_path, hashed_bytes):
  store = stores.store_of(tmp_path)
  folder = store.checkpoints / '1'
  written(pathlib.Path(folder), SIZES)
  integrity.seal(store, folder)
  alone, total = (folder / integrity.NAME).read_text(), sum(SIZES.values())
  assert hashed_bytes.pop(0) == total
  (folder / integrity.NAME).unlink()

  def seal():
    led(store, lambda hasher: integrity.seal(store, folder, None, hasher))

  coordination.run(8, seal)
  assert (folder / integrity.NAME).read_text() == alone
  assert len(hashed_bytes) == 8
  assert all(abs(count - total / 8) <= max(SIZES.values()) for count in hashed_bytes.values()), hashed_bytes

  def problem():
    return led(store, lambda hasher: integrity.problem(store, folder, hasher))

  assert coordination.run(8, problem)[0] == [''] * 8
  *_, last = SIZES
  pathlib.Path(folder / last).write_bytes(b'\xff' * SIZES[last])
  assert coordination.run(8, problem)[0] == [f'{folder / last} has other bytes than were written'] * 8


def test_what_another_host_cannot_read_host_0_reads(tmp_path, monkeypatch):
  store, sha256s = stores.store_of(written(tmp_path, {'a': 5, 'b': 4, 'c': 3})), hashes.sha256s

  def elsewhere(folder, names, *attempt):
    return sha256s(folder if hosts.is_main() else folder / 'not here', names, *attempt)

  monkeypatch.setattr(hashes, 'sha256s', elsewhere)
  sizes = dict(a=5, b=4, c=3)

  def together():
    return led(store, lambda hasher: hasher(store, store.root, sizes))

  expected = sha256s(tmp_path, sizes)
  assert coordination.run(3, together)[0] == [expected] * 3


class Orbax:
  """Writes nothing; on one host it fails."""

  def __init__(self, folder: pathlib.Path, failing: int):
    self._folder, self._failing = folder, failing

  def save(self, folder, args):
    if hosts.is_main():
      written(pathlib.Path(folder), {'params/x': 10})

  def wait_until_finished(self):
    if hosts.index() == self._failing:
      raise OSError('No space left on device')

  def close(self):
    pass


@pytest.mark.parametrize('failing', [0, 1, 2])
def test_a_save_that_fails_on_one_host_has_no_manifest_and_ends_all(tmp_path, monkeypatch, failing):
  monkeypatch.setattr(saves, '_open_orbax', lambda: Orbax(tmp_path, failing))

  def save():
    checkpoints = saves.Checkpoints(stores.store_of(tmp_path))
    checkpoints.save(many_hosts._STATE, Progress(step=1), ())
    with pytest.raises(errors.TryAgainError, match='No space left on device'):
      checkpoints.settled(Progress(step=1))
    return checkpoints.steps()

  assert coordination.run(3, save)[0] == [[]] * 3
  assert not list(tmp_path.rglob(integrity.NAME))


def test_hosts_that_see_one_model_share_its_reading_and_others_read_their_copy(tmp_path, hashed_bytes):
  sizes = {f'model-{i}.safetensors': 50 + i for i in range(8)} | {'config.json': 7}
  shared, copy = written(tmp_path / 'shared', sizes), written(tmp_path / 'copy', sizes)
  expected, total = files.hash_files(shared, ('.safetensors',)), sum(sizes.values()) - 7

  def hashed():
    return hashes.of_model(copy if hosts.index() == 3 else shared, ('.safetensors',))

  assert coordination.run(5, hashed)[0] == [expected] * 5
  assert hashed_bytes.pop(3) == total
  assert sorted(hashed_bytes) == [0, 1, 2, 4]
  assert all(abs(count - total / 4) <= 57 for count in hashed_bytes.values()), hashed_bytes
  (copy / 'model-3.safetensors').write_bytes(b'x' * 53)
  ours, theirs = (coordination.run(5, hashed)[0][host] for host in (0, 3))
  assert ours == expected and theirs == files.hash_files(copy, ('.safetensors',)) != expected
  hashed_bytes.clear()
  assert hashes.of_model(shared, ('.safetensors',)) == expected and hashed_bytes[0] == total


def test_a_model_file_that_cannot_be_read_ends_all_with_its_name(tmp_path):
  folder = written(tmp_path, {'a.safetensors': 3})

  def hashed():
    with pytest.raises(errors.DataError, match=r'host 1 cannot read .*nowhere'):
      hashes.of_model(folder, ('.safetensors',))

  seen = hashes._seen

  def broken(paths):
    if hosts.index() == 1:
      (tmp_path / 'nowhere').stat()
    return seen(paths)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(hashes, '_seen', broken)
    coordination.run(2, hashed)


def test_the_joint_hash_is_that_of_the_folder(tmp_path):
  folder = written(tmp_path, {'b.json': 3, 'a.json': 2, 'c.txt': 1})
  known = json.loads(json.dumps(hashes.sha256s(folder, ['b.json', 'a.json'])))
  assert files.joint_hash(known) == files.hash_files(folder, ('.json',))
