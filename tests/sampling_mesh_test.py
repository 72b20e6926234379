"""Rollouts on a mesh of their own: the same conversations, updates and resumed runs as on the mesh of the update."""

import json
import pathlib
import shutil

import hosts_rig
import jax
import numpy as np
import pytest
import tiny

from score_jax.core_types import Problem
from score_jax.errors import ConfigError
from score_jax.models import weights
from score_jax.parallel import mesh as meshes
from score_jax.reporting import rows
from score_jax.sampling.sampler import Stream, stream_key
from score_jax.training import run as runs
from score_jax.training import specs

ROWS = 16
FLOATS = ('reward', 'kl', 'loss', 'gradient_norm', 'attempt_gradient_norm', 'mismatch', 'learning_rate')


def sampled(folder: pathlib.Path, axes: tuple[int, int, int], changes: dict[str, int]):
  """Conversations of a policy that lies on a run's mesh, in the layout of the update."""
  config = tiny.run_config(**{'model.path': str(folder)} | {f'sampling.{name}': n for name, n in changes.items()})
  count = int(np.prod(axes))
  mesh = meshes.make_mesh(*axes, jax.devices()[:count])
  sampler = runs.open_sampler(config, folder, mesh)
  table = weights.weight_table(sampler.config)
  policy = runs.put_params(mesh, table, tiny.random_params(sampler.config), np.float32)
  problems = [Problem(str(i), f'reach {9 + i} with 1 2 3', {}) for i in range(ROWS)]
  rollout = sampler.sample(
    sampler.layout(policy), sampler.encoded(problems), stream_key(0, Stream.TRAIN, 0), sampler.spec()
  )
  return sampler, meshes.fetch_rows(rollout)


@pytest.fixture(scope='module')
def alone(hf_folder):
  return sampled(hf_folder, (1, 1, 1), {})[1]


@pytest.mark.parametrize(
  ('axes', 'changes', 'shape'),
  [
    pytest.param((1, 8, 1), {'mesh.tensor': 2}, (4, 1, 2), marks=pytest.mark.slow),
    ((2, 2, 2), {'mesh.tensor': 4}, (2, 1, 4)),  # 2 key/value heads: each device has both
    pytest.param((1, 4, 2), {'mesh.data': 8}, (8, 1, 1), marks=pytest.mark.slow),
    ((1, 8, 1), {'mesh.tensor': 2, 'decode_slots': 2}, (4, 1, 2)),
  ],
)
def test_a_policy_in_the_updates_layout_samples_the_same_on_any_sampling_mesh(hf_folder, alone, axes, changes, shape):
  sampler, rollout = sampled(hf_folder, axes, changes)
  assert sampler.mesh.devices.shape == shape
  np.testing.assert_array_equal(rollout.tokens, alone.tokens)
  np.testing.assert_array_equal(rollout.stop, alone.stop)
  np.testing.assert_allclose(rollout.logp, alone.logp, atol=1e-5)


def test_rows_that_a_sampling_mesh_does_not_divide_are_refused():
  config = tiny.run_config(**{'mesh.fsdp': 4, 'mesh.tensor': 2, 'batch.problems': 2})  # 4 rows
  mesh = meshes.make_mesh(1, 4, 2)
  specs.check_spread(config, mesh, mesh)
  with pytest.raises(ConfigError, match=r'over 8 groups .* the 4 conversations .* config\.sampling\.mesh\.tensor'):
    specs.check_spread(config, mesh, meshes.sampling_mesh(mesh, 8, 0))


# --- whole runs


@pytest.fixture(scope='module')
def rig(tmp_path_factory):
  return hosts_rig.Rig(tmp_path_factory.mktemp('cache'), tmp_path_factory.mktemp('logs'))


# 16 rows on 8 devices; the heads of the bundled base divide 2 and 4.
MESH = ('--config.batch.problems=8', '--config.batch.samples=2', '--config.mesh.data=1', '--config.mesh.fsdp=8')
KEEP = (*MESH, '--config.checkpoint.keep=9')


@pytest.fixture(scope='module')
def plain(rig, tmp_path_factory):
  """A run that samples on the mesh of its update."""
  workdir = tmp_path_factory.mktemp('runs') / 'plain'
  rig.run(1, workdir, *KEEP, devices=8)
  return workdir


def read(workdir: pathlib.Path) -> list[dict]:
  return [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]


def conversations(workdir: pathlib.Path) -> dict[str, list[tuple]]:
  return {
    path.name: [(row.step, row.id, row.sample, [attempt.text for attempt in row.attempts]) for row in rows.read(path)]
    for path in sorted((workdir / 'rows').iterdir())
  }


def moments(workdir: pathlib.Path, step: int) -> np.ndarray:
  rest = hosts_rig.arrays(workdir / f'checkpoints/{step}/rest')
  return np.concatenate([rest[path].astype(np.float64).ravel() for path in rest if "'mu'" in path])


def assert_same_run(workdir: pathlib.Path, expected: pathlib.Path, skipped: tuple[str, ...] = ()) -> None:
  """Conversations are equal, gradients and figures within 1e-5."""
  assert conversations(workdir) == conversations(expected)
  for ours, theirs in zip(read(workdir), read(expected), strict=True):
    for name in ours.keys() - {'seconds', *skipped}:
      if name in FLOATS:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5, atol=1e-5, err_msg=name)
      else:
        assert ours[name] == theirs[name], name
  for step in range(1, len(read(expected)) + 1):
    ours, theirs = moments(workdir, step), moments(expected, step)
    assert np.linalg.norm(ours - theirs) <= 1e-5 * np.linalg.norm(theirs), step
    assert np.linalg.norm(theirs) > 1e-4 or step == 1


@pytest.mark.slow
@pytest.mark.parametrize(('count', 'tensor'), [(1, 4), (4, 2)], ids=['one process', 'four processes'])
def test_a_run_with_a_sampling_mesh_is_the_run_without(rig, plain, tmp_path, count, tensor):
  workdir = tmp_path / f'on{count}'
  rig.run(count, workdir, *KEEP, f'--config.sampling.mesh.tensor={tensor}', devices=8 // count)
  # The reference of Stage II is trained, and processes sum in another order: its bits are others.
  assert_same_run(workdir, plain, ('reference',) if count > 1 else ())


@pytest.mark.slow
def test_a_run_goes_on_with_another_sampling_mesh(rig, plain, tmp_path):
  workdir = tmp_path / 'resumed'
  shutil.copytree(plain, workdir)
  for path in (workdir / 'checkpoints').glob('[0-9]*'):
    if int(path.name) > 3:
      shutil.rmtree(path)
  rig.run(1, workdir, *KEEP, '--config.sampling.mesh.tensor=2', devices=8)
  assert_same_run(workdir, plain)
