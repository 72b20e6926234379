"""The mesh, and where parameters, optimizer state and rows lie on it."""

import jax
from jax.sharding import PartitionSpec as Spec
import numpy as np
import optax
import pytest
import tiny

from score_jax.errors import ConfigError
from score_jax.models import weights
from score_jax.parallel import mesh as meshes

CONFIG = tiny.decoder_config('qwen2', vocab=64, tied=False)
TABLE = weights.weight_table(CONFIG)


@pytest.fixture(scope='module')
def mesh():
  return meshes.make_mesh(2, 2, 2)


def specs(mesh, config, rules):
  """PartitionSpec of each weight."""
  return jax.tree.map(lambda sharding: sharding.spec, meshes.params(mesh, weights.weight_table(config), rules))


def test_mesh_takes_all_devices_and_names_its_axes(mesh):
  assert mesh.axis_names == ('data', 'fsdp', 'tensor')
  assert dict(mesh.shape) == dict(data=2, fsdp=2, tensor=2)
  assert set(mesh.devices.flat) == set(jax.devices())
  assert meshes.row_shards(mesh) == 4


def test_data_minus_one_takes_what_the_other_axes_leave():
  assert dict(meshes.make_mesh(-1, 2, 1).shape) == dict(data=4, fsdp=2, tensor=1)
  assert dict(meshes.make_mesh(-1, 1, 1, jax.devices()[:3]).shape) == dict(data=3, fsdp=1, tensor=1)
  assert dict(meshes.make_mesh(1, -1, 2).shape) == dict(data=1, fsdp=4, tensor=2)
  assert dict(meshes.make_mesh(1, -1, 1, jax.devices()[:1]).shape) == dict(data=1, fsdp=1, tensor=1)


@pytest.mark.parametrize('axes', [(3, 1, 1), (-1, 3, 1), (-1, 16, 1), (2, 2, 4)])
def test_wrong_sizes_name_the_fields_and_the_devices(axes):
  with pytest.raises(ConfigError, match=r'8 devices.*mesh\.data.*mesh\.fsdp.*mesh\.tensor'):
    meshes.make_mesh(*axes)


def test_training_layout_follows_from_the_weight_table(mesh):
  actual = specs(mesh, CONFIG, meshes.TRAINING_RULES)
  assert actual['embed'] == actual['head'] == Spec('tensor', 'fsdp')
  assert actual['final_norm'] == Spec('fsdp')
  layer = actual['layers']
  assert layer['q'] == layer['k'] == layer['v'] == Spec(None, 'fsdp', 'tensor')
  assert layer['o'] == Spec(None, 'tensor', None, 'fsdp')
  assert layer['gate'] == layer['up'] == Spec(None, 'fsdp', 'tensor')
  assert layer['down'] == Spec(None, 'tensor', 'fsdp')
  assert layer['attention_norm'] == layer['ffn_norm'] == Spec(None, 'fsdp')
  assert layer['q_bias'] == layer['k_bias'] == Spec(None, 'tensor')


def test_sampling_layout_splits_over_tensor_alone(mesh):
  actual = specs(mesh, CONFIG, meshes.SAMPLING_RULES)
  assert actual['embed'] == Spec('tensor')
  assert actual['layers']['q'] == Spec(None, None, 'tensor')
  assert actual['layers']['down'] == Spec(None, 'tensor')
  axes = {axis for spec in jax.tree.leaves(actual, is_leaf=lambda leaf: isinstance(leaf, Spec)) for axis in spec}
  assert axes == {None, 'tensor'}


def test_an_axis_that_does_not_divide_stays_whole(mesh):
  config = tiny.decoder_config('llama', vocab=63, kv_heads=1)
  actual = specs(mesh, config, meshes.TRAINING_RULES)
  assert actual['embed'] == Spec(None, 'fsdp')
  assert actual['layers']['k'] == Spec(None, 'fsdp')
  assert actual['layers']['q'] == Spec(None, 'fsdp', 'tensor')


def test_rules_that_use_a_mesh_axis_twice_are_refused(mesh):
  with pytest.raises(ValueError, match='two axes on mesh axis'):
    meshes.params(mesh, TABLE, {'D': 'tensor', 'F': 'tensor'})


def test_parameters_put_in_either_layout_hold_a_share_and_keep_their_values(mesh):
  rng = np.random.default_rng(0)
  params = TABLE.tree(lambda weight: rng.normal(size=weight.shape(TABLE.sizes)).astype(np.float32))
  for rules, share in ((meshes.TRAINING_RULES, 4), (meshes.SAMPLING_RULES, 2)):
    embed = jax.device_put(params, meshes.params(mesh, TABLE, rules))['embed']
    assert embed.addressable_shards[0].data.size * share == embed.size
    np.testing.assert_array_equal(embed, params['embed'])


def test_moments_lie_as_their_parameters_do(mesh):
  optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam())
  _, adam = meshes.opt_state(mesh, optimizer, TABLE)
  assert adam.mu == adam.nu == meshes.params(mesh, TABLE, meshes.TRAINING_RULES)
  assert adam.count == meshes.replicated(mesh)
  assert jax.tree.structure(adam.mu) == jax.tree.structure(TABLE.abstract(np.float32))


def test_rows_are_spread_over_data_and_fsdp(mesh):
  tokens, start = meshes.put_rows(mesh, (np.arange(24).reshape(8, 3), np.arange(8)))
  assert tokens.sharding.spec == start.sharding.spec == Spec(('data', 'fsdp'))
  assert {shard.data.shape for shard in tokens.addressable_shards} == {(2, 3)}
  np.testing.assert_array_equal(tokens, np.arange(24).reshape(8, 3))


def test_rows_that_can_not_be_spread_are_refused(mesh):
  with pytest.raises(ConfigError, match=r'6 rows .* = 4 devices; change batch\.problems, batch\.samples'):
    meshes.put_rows(mesh, (np.zeros((8, 2)), np.zeros(6)))


@pytest.mark.parametrize(('platform', 'count', 'shardy'), [('gpu', 2, False), ('gpu', 1, True), ('tpu', 2, True)])
def test_several_gpus_compile_by_rows_without_shardy_and_nothing_else_does(platform, count, shardy):
  class Some:
    size = count
    devices = np.array([type('Device', (), dict(platform=platform))()])

  before = jax.config.jax_use_shardy_partitioner
  with pytest.raises(KeyError), meshes.by_rows_compiles(Some()):
    assert jax.config.jax_use_shardy_partitioner == (before and shardy)
    raise KeyError
  assert jax.config.jax_use_shardy_partitioner == before


def test_an_axis_of_no_devices_is_refused():
  with pytest.raises(ConfigError, match='fsdp 0, tensor 1 must be 1 or more'):
    meshes.make_mesh(-1, 0, 1)


# Several hosts. Devices that only say whose they are stand for real ones.


def devices_of(*owners: int):
  return np.array([type('Device', (), dict(process_index=owner, platform='cpu')) for owner in owners])


@pytest.mark.parametrize(
  ('owners', 'tensor', 'expected'),
  [
    ((0, 0, 1, 1), 1, [0, 1, 2, 3]),
    ((1, 1, 0, 0), 1, [4, 5, 6, 7]),
    ((1, 0, 1, 0), 1, [2, 3, 6, 7]),
    ((1, 1, 0, 0), 2, [4, 5, 6, 7]),
    ((1, 1, 1, 1, 0, 0, 1, 1), 2, [4, 5]),
  ],
)
def test_a_host_has_the_rows_of_its_devices(owners, tensor, expected):
  class Some:
    devices = devices_of(*owners).reshape(-1, 1, tensor)
    shape = dict(data=len(owners) // tensor, fsdp=1, tensor=tensor)

  actual = meshes.local_rows(Some(), 8)
  assert actual.tolist() == expected
  assert actual.dtype == np.int32
  assert meshes.all_rows(Some(), len(expected)) == 8
  with pytest.raises(ConfigError, match=f'{len(owners) + 1} rows cannot be spread'):
    meshes.local_rows(Some(), len(owners) + 1)


def test_rows_that_two_hosts_would_grade_are_refused(monkeypatch):
  monkeypatch.setattr(meshes.hosts, 'count', lambda: 2)
  with pytest.raises(ConfigError, match=r'mesh\.tensor = 4 would spread the same rows over several hosts'):
    meshes.make_mesh(-1, 1, 4, list(devices_of(0, 0, 1, 1)))


def test_alone_rows_and_whole_arrays_are_all_there_is(mesh):
  rows = np.arange(8)
  assert meshes.local_rows(mesh, 8).tolist() == list(range(8))
  assert meshes.gather_rows(mesh, rows) is rows
  np.testing.assert_array_equal(meshes.fetch_rows(meshes.put_rows(mesh, rows)), rows)
  np.testing.assert_array_equal(meshes.fetch_whole(meshes.put_rows(mesh, rows)), rows)


@pytest.mark.parametrize(
  ('asked', 'shape'), [((0, 4), (2, 1, 4)), ((8, 0), (8, 1, 1)), ((4, 2), None), ((0, 0), None), ((0, 2), None)]
)
def test_a_sampling_mesh_has_the_runs_devices_in_their_order(mesh, asked, shape):
  sampling = meshes.sampling_mesh(mesh, *asked)
  assert list(sampling.devices.flat) == list(mesh.devices.flat)
  assert (sampling is mesh) if shape is None else (sampling.devices.shape == shape)


@pytest.mark.parametrize('asked', [(3, 0), (0, 3), (4, 4), (-1, 2), (0, 16)])
def test_a_sampling_mesh_of_other_sizes_is_refused(mesh, asked):
  with pytest.raises(ConfigError, match=r'config\.sampling\.mesh: data -?\d+, tensor \d+ '):
    meshes.sampling_mesh(mesh, *asked)
