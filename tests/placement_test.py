"""Where TPUs lie on a mesh: hosts as the interconnect goes, copies of the model over slices."""

import itertools

from chips import Chip, chips
import jax
import numpy as np
import pytest

from score_jax.errors import ConfigError
from score_jax.parallel import mesh as meshes
from score_jax.parallel import placement


def distance(a: Chip, b: Chip, size: int) -> int:
  """Links between chips of a square of `size` whose ends are joined."""
  steps = (abs(p - q) for p, q in zip(a.coords, b.coords, strict=True))
  return sum(min(step, size - step) for step in steps)


AXES = [(1, 256, 1), (16, 16, 1), (64, 1, 4), (1, 64, 4), (128, 1, 2), (64, 2, 2), (256, 1, 1)]


@pytest.mark.parametrize('axes', AXES)
def test_a_hosts_devices_follow_each_other_and_groups_are_neighbours(axes):
  grid = placement.on_tpus(chips(16, 16), *axes)
  assert grid.shape == axes and len(set(grid.flat)) == 256
  hosts = [device.process_index for device in grid.flat]
  assert [host for host, _ in itertools.groupby(hosts)] == list(dict.fromkeys(hosts)), 'no host comes twice'
  for group in grid.reshape(-1, axes[-1]):
    assert max(distance(group[0], chip, 16) for chip in group) == axes[-1] // 2, 'a pair, or a square'


def test_devices_that_share_parameters_lie_in_a_box():
  for group in placement.on_tpus(chips(16, 16), 16, 16, 1)[..., 0]:
    coords = np.array([device.coords for device in group])
    extents = coords.max(axis=0) - coords.min(axis=0) + 1
    assert extents.prod() == 16, 'a box has links of its own'


def test_copies_of_the_model_lie_on_slices():
  grid = placement.on_tpus(chips(4, 4, slices=2), 4, 8, 1)
  assert [{device.slice_index for device in copy.flat} for copy in grid] == [{0}, {0}, {1}, {1}]


@pytest.mark.parametrize('axes', [(1, 32, 1), (1, 8, 4)])
def test_what_copies_share_is_refused_over_slices(axes):
  with pytest.raises(ConfigError, match=r'fsdp or tensor would lie over several of 2 slices.*let mesh\.data be a mul'):
    placement.on_tpus(chips(4, 4, slices=2), *axes)


@pytest.mark.parametrize(('count', 'axes'), [(3, (3, 1, 1)), (1, (1, 1, 1))])
def test_devices_that_make_no_box_are_taken_by_number(count, axes):
  some = sorted(chips(2, 2), key=lambda chip: chip.id)[:count]
  assert list(placement.on_tpus(some[::-1], *axes).flat) == some


def test_a_mesh_without_blocks_of_hosts_goes_host_by_host():
  grid = placement.on_tpus(chips(6, 2), 4, 3, 1)
  assert [device.process_index for device in grid.flat] == [0] * 4 + [1] * 4 + [2] * 4


def test_a_host_has_the_same_rows_on_a_sampling_mesh():
  devices = chips(16, 16)
  mesh = meshes.make_mesh(16, 16, 1, devices)
  for tensor in (2, 4):
    sampling = meshes.sampling_mesh(mesh, 0, tensor)
    assert list(sampling.devices.flat) == list(mesh.devices.flat)
    rows = [np.repeat([group[0].process_index for group in each.devices.reshape(-1, each.shape['tensor'])],
                      512 // meshes.row_shards(each)) for each in (mesh, sampling)]  # fmt: skip
    np.testing.assert_array_equal(*rows)


def test_a_sampling_group_over_hosts_is_refused_by_field():
  mesh = meshes.make_mesh(1, 16, 1, chips(4, 4))
  with pytest.raises(ConfigError, match=r'config\.sampling\.mesh\.tensor = 8 would spread .* divide the devices of'):
    meshes.sampling_mesh(mesh, 0, 8)


def test_meshes_of_other_platforms_keep_their_order():
  assert list(meshes.make_mesh(2, 2, 2).devices.flat) == jax.devices()
