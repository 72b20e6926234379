# SPDX-License-Identifier: Apache-2.0
"""The mesh (data, fsdp, tensor), and the shardings of every tree, from the letters of the weight table."""

from collections.abc import Callable, Iterator
import contextlib
import math
from typing import Any

from absl import logging
import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
import numpy as np
import optax

from score_jax.errors import ConfigError
from score_jax.models.weights import Weight, WeightTable
from score_jax.parallel import hosts, placement

AXES = ('data', 'fsdp', 'tensor')

# Letter of a weight's axis -> mesh axis, for the two layouts of the parameters.
TRAINING_RULES = {'D': 'fsdp', 'H': 'tensor', 'K': 'tensor', 'F': 'tensor', 'V': 'tensor'}
SAMPLING_RULES = {letter: axis for letter, axis in TRAINING_RULES.items() if axis == 'tensor'}
_ROWS = PartitionSpec(('data', 'fsdp'))


def make_mesh(data: int, fsdp: int, tensor: int, devices: list | None = None) -> Mesh:
  """Makes a mesh over devices (default: all), or raises a ConfigError; one of `data` and `fsdp`, -1, takes the rest.

  TPUs lie on it as their interconnect goes (`placement`), others host by host.
  """
  if devices is None:
    devices = jax.devices()
    if hosts.count() > 1:
      devices = sorted(devices, key=lambda device: (device.process_index, device.id))
  sizes = data, fsdp, tensor
  if tensor < 1 or any(size < 1 and size != -1 for size in sizes) or sizes.count(-1) > 1:
    told = f'mesh: data {data}, fsdp {fsdp}, tensor {tensor}'
    raise ConfigError(f'{told} must be 1 or more; one of data and fsdp may be -1: all devices that the others leave')
  rest = max(1, len(devices) // -math.prod(sizes)) if -1 in sizes else 1
  data, fsdp = (rest if size == -1 else size for size in (data, fsdp))
  if data * fsdp * tensor != len(devices):
    raise ConfigError(
      f'mesh: data {data} x fsdp {fsdp} x tensor {tensor} = {data * fsdp * tensor}, but there are '
      f'{len(devices)} devices; set mesh.data or mesh.fsdp to -1, or change them and mesh.tensor'
    )
  if devices[0].platform == 'tpu':
    grid = placement.on_tpus(devices, data, fsdp, tensor)
  else:
    grid = np.asarray(devices).reshape(data, fsdp, tensor)
  _check_groups('mesh.tensor', grid)
  return _mesh(grid)


def sampling_mesh(mesh: Mesh, data: int, tensor: int) -> Mesh:
  """Returns the mesh of rollouts, over the devices of a run's mesh in their order; ConfigError: it has others.

  A size of 0 is what the other leaves; two are as on the run's mesh. A host has the same rows on both, since they
  spread rows over the same order of devices, and groups of `tensor` lie within hosts.
  """
  told = f'config.sampling.mesh: data {data}, tensor {tensor}'
  if not data and not tensor:
    return mesh
  if min(data, tensor) < 0:
    raise ConfigError(f'{told} must be 0 or more; 0 is what the other leaves')
  wanted = data or mesh.size // tensor, tensor or mesh.size // data
  if math.prod(wanted) != mesh.size:
    raise ConfigError(f'{told} do not make {mesh.size} devices; set one of them to 0, or change them')
  if wanted == (row_shards(mesh), mesh.shape['tensor']):
    return mesh
  data, tensor = wanted
  grid = mesh.devices.reshape(data, 1, tensor)
  _check_groups('config.sampling.mesh.tensor', grid)
  return _mesh(grid)


def _mesh(grid: np.ndarray) -> Mesh:
  return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * 3)  # defaults differ by release


def _check_groups(field: str, grid: np.ndarray) -> None:
  """Raises a ConfigError where the devices of a tensor-parallel group are of several hosts."""
  tensor = grid.shape[-1]
  if any(len({device.process_index for device in group}) > 1 for group in grid.reshape(-1, tensor)):
    reason = 'would spread the same rows over several hosts'
    raise ConfigError(f'{field} = {tensor} {reason}; it must divide the devices of a host')


def row_shards(mesh: Mesh) -> int:
  """Returns over how many devices rows are spread."""
  return mesh.shape['data'] * mesh.shape['fsdp']


def rows(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of arrays whose first axis is B."""
  return NamedSharding(mesh, _ROWS)


def by_rows(function: Callable, mesh: Mesh, over_rows: tuple[bool, ...]) -> Callable:
  """Returns `function`, run by devices on their own rows of results and of arguments that `over_rows` marks."""
  specs = tuple(_ROWS if yes else PartitionSpec() for yes in over_rows)
  manual = set(AXES) if mesh.shape['tensor'] == 1 else {'data', 'fsdp'}
  return jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=_ROWS, axis_names=manual, check_vma=False)


@contextlib.contextmanager
def by_rows_compiles(mesh: Mesh) -> Iterator[None]:
  """Chooses GSPMD on several GPUs: Shardy crashed XLA on the rollout there (jax 0.11.2, two H200s)."""
  option = 'jax_use_shardy_partitioner'
  if mesh.size == 1 or mesh.devices.flat[0].platform != 'gpu' or not hasattr(jax.config, option):
    yield
    return
  before = getattr(jax.config, option)
  jax.config.update(option, False)
  try:
    yield
  finally:
    jax.config.update(option, before)


def on_any_device(flag: jax.Array, mesh: Mesh) -> jax.Array:
  """Tells within `by_rows` whether a flag is set on any device that must keep step: all, with tensor > 1."""
  if mesh.shape['tensor'] == 1:
    return flag
  return jax.lax.pmax(flag.astype(jnp.int32), ('data', 'fsdp')) > 0


def on_half_of_devices(flag: jax.Array, among: jax.Array, mesh: Mesh) -> jax.Array:
  """Tells within `by_rows` whether half of the groups that must keep step, and are `among`, have a flag."""
  if mesh.shape['tensor'] == 1:
    return flag
  both = jnp.stack([flag & among, among]).astype(jnp.int32)
  flags, groups = jax.lax.psum(both, ('data', 'fsdp'))
  return 2 * flags >= groups


def replicated(mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, PartitionSpec())


def params(mesh: Mesh, table: WeightTable, rules: dict[str, str]) -> dict[str, Any]:
  """Returns each weight's sharding; axes that a mesh axis does not divide stay whole."""
  return table.tree(lambda weight: _sharding(mesh, table, rules, [[letter] for letter in weight.letters]))


def one_layer_in_file(mesh: Mesh, table: WeightTable, rules: dict[str, str], weight: Weight) -> NamedSharding:
  """Returns the sharding of a weight's layer in its HF layout."""
  return _sharding(mesh, table, rules, weight.hf_groups)


def _sharding(mesh: Mesh, table: WeightTable, rules: dict[str, str], axes: list[list[str]]) -> NamedSharding:
  """The sharding of axes that are groups of letters; as jit's results have it, else an update is compiled twice."""
  spec, used = [], set()
  for letter, *_ in axes:
    axis, size = rules.get(letter), table.sizes[letter]
    if axis and (mesh.shape[axis] == 1 or size % mesh.shape[axis]):
      if mesh.shape[axis] > 1:
        logging.info('axis %s (%d) is not divisible by mesh axis %s; kept whole', letter, size, axis)
      axis = None
    if axis and axis in used:
      raise ValueError(f'{axes}: two axes on mesh axis {axis!r}; change the rules')
    used.add(axis)
    spec.append(axis)
  while spec and spec[-1] is None:
    spec.pop()
  return NamedSharding(mesh, PartitionSpec(*spec))


def opt_state(mesh: Mesh, optimizer: optax.GradientTransformation, table: WeightTable) -> Any:
  """Returns the optimizer state's shardings: moments like their parameters, which jit alone misses."""
  trees = jax.eval_shape(optimizer.init, table.abstract(jnp.float32)), params(mesh, table, TRAINING_RULES)
  rest = dict(transform_non_params=lambda _: replicated(mesh))
  return optax.tree_map_params(optimizer, lambda _, sharding: sharding, *trees, **rest)


def local_shards(mesh: Mesh) -> list[int]:
  """Returns which row shards lie on this host."""
  groups = mesh.devices.reshape(row_shards(mesh), -1)
  return [number for number, group in enumerate(groups) if group[0].process_index == jax.process_index()]


def local_rows(mesh: Mesh, count: int) -> np.ndarray:
  """Returns (i32, ascending) this host's of `count` rows; ConfigError if they spread unevenly."""
  _check_even(mesh, count)
  each = count // row_shards(mesh)
  return np.concatenate([np.arange(each, dtype=np.int32) + shard * each for shard in local_shards(mesh)])


def put_rows(mesh: Mesh, tree: Any) -> Any:
  """Puts this host's rows on the devices, in arrays of all; ConfigError if they spread unevenly."""
  for leaf in jax.tree.leaves(tree):
    _check_even(mesh, all_rows(mesh, leaf.shape[0]))
  if hosts.count() == 1:
    return jax.device_put(tree, rows(mesh))

  def put(x: Any) -> jax.Array:
    shape = (all_rows(mesh, len(x)), *x.shape[1:])
    return jax.make_array_from_process_local_data(rows(mesh), np.asarray(x), shape)

  return jax.tree.map(put, tree)


def all_rows(mesh: Mesh, local: int) -> int:
  return local * row_shards(mesh) // len(local_shards(mesh))


def _check_even(mesh: Mesh, count: int) -> None:
  if count % row_shards(mesh):
    raise ConfigError(
      f'{count} rows cannot be spread over data x fsdp = {row_shards(mesh)} devices; '
      'change batch.problems, batch.samples or the mesh'
    )


def fetch_rows(tree: Any) -> Any:
  """Fetches this host's rows of what `put_rows` made."""
  if hosts.count() == 1:
    return jax.device_get(tree)

  def fetch(x: Any) -> np.ndarray:
    if isinstance(x, np.ndarray):
      return x
    parts = {shard.index[0].start or 0: shard.data for shard in x.addressable_shards}
    return np.concatenate([np.asarray(parts[first]) for first in sorted(parts)])

  return jax.tree.map(fetch, tree)


def gather_rows(mesh: Mesh, tree: Any) -> Any:
  """Returns all hosts' rows of small arrays."""
  return tree if hosts.count() == 1 else fetch_whole(put_rows(mesh, tree))


def fetch_whole(tree: Any) -> Any:
  """Fetches arrays of any sharding, all of each. Every host must call it."""

  def fetch(x: jax.Array) -> np.ndarray:
    return np.asarray(x) if x.is_fully_addressable else multihost_utils.process_allgather(x, tiled=True)

  return jax.device_get(tree) if hosts.count() == 1 else jax.tree.map(fetch, tree)


def put(tree: Any, shardings: Any) -> Any:
  """Puts arrays that every host has on the devices of all."""
  if hosts.count() == 1:
    return jax.device_put(tree, shardings)

  def put_leaf(x: Any, sharding: NamedSharding) -> jax.Array:
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
      return jax.device_put(x, sharding)
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

  return jax.tree.map(put_leaf, tree, shardings)
