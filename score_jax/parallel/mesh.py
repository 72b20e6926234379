"""The mesh (data, fsdp, tensor) and where every tree lies on it.

Shardings follow from the letters of the weight table. Axis types are always Auto: one code base can't serve Auto and
Explicit, and the default differs between jax releases.
"""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
from typing import Any

from absl import logging
import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
import numpy as np
import optax

from score_jax.errors import ConfigError
from score_jax.models.weights import Weight
from score_jax.models.weights import WeightTable

AXES = ('data', 'fsdp', 'tensor')

# Letter of a weight's axis -> mesh axis, for the two layouts of the parameters. Batch rows go over data and fsdp.
TRAINING_RULES = {'D': 'fsdp', 'H': 'tensor', 'K': 'tensor', 'F': 'tensor', 'V': 'tensor'}
SAMPLING_RULES = {letter: axis for letter, axis in TRAINING_RULES.items() if axis == 'tensor'}
_ROWS = PartitionSpec(('data', 'fsdp'))


def make_mesh(data: int, fsdp: int, tensor: int, devices: list | None = None) -> Mesh:
  """A mesh over the given devices (default: all); `data` -1 takes what the other axes leave.

  Raises:
    ConfigError: the axes do not multiply to the number of devices.
  """
  devices = devices if devices is not None else jax.devices()
  if min(fsdp, tensor) < 1 or (data < 1 and data != -1):
    raise ConfigError(f'mesh: data {data}, fsdp {fsdp}, tensor {tensor} must be 1 or more (data may be -1)')
  if data == -1:
    data = max(1, len(devices) // (fsdp * tensor))
  if data * fsdp * tensor != len(devices):
    raise ConfigError(
      f'mesh: data {data} x fsdp {fsdp} x tensor {tensor} = {data * fsdp * tensor}, but there are '
      f'{len(devices)} devices; set mesh.data to -1 or change mesh.fsdp and mesh.tensor'
    )
  grid = np.asarray(devices).reshape(data, fsdp, tensor)
  return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * 3)


def row_shards(mesh: Mesh) -> int:
  """Over how many devices the rows of a batch are spread."""
  return mesh.shape['data'] * mesh.shape['fsdp']


def rows(mesh: Mesh) -> NamedSharding:
  """Arrays whose first axis is B."""
  return NamedSharding(mesh, _ROWS)


def by_rows(function: Callable, mesh: Mesh, over_rows: tuple[bool, ...]) -> Callable:
  """`function` run by each device (by each group of tensor-parallel devices) on its own rows alone.

  Args:
    function: of arrays and trees; its results have a leading B.
    mesh: the mesh.
    over_rows: of each argument, whether it is spread over the rows' devices; else each has it whole.
  """
  specs = tuple(_ROWS if yes else PartitionSpec() for yes in over_rows)
  manual = set(AXES) if mesh.shape['tensor'] == 1 else {'data', 'fsdp'}
  return jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=_ROWS, axis_names=manual, check_vma=False)


@contextlib.contextmanager
def by_rows_compiles(mesh: Mesh) -> Iterator[None]:
  """Around calls of what `by_rows` made: chooses a partitioner that compiles it.

  On two H200s (jax 0.11.2) Shardy, the default, crashed on the rollout (a segmentation fault within XLA's compiler);
  GSPMD compiled it.
  """
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
  """Within `by_rows`: whether a flag is set on any device, where these must run the same steps; else the device's own.

  Tensor-parallel devices talk in every step, and some of that talk has all devices as its parties.
  """
  if mesh.shape['tensor'] == 1:
    return flag
  return jax.lax.pmax(flag.astype(jnp.int32), ('data', 'fsdp')) > 0


def replicated(mesh: Mesh) -> NamedSharding:
  """Arrays that every device holds whole."""
  return NamedSharding(mesh, PartitionSpec())


def params(mesh: Mesh, table: WeightTable, rules: dict[str, str]) -> dict[str, Any]:
  """The sharding of each weight. An axis that its mesh axis does not divide stays whole (few KV heads, odd V)."""
  return table.tree(lambda weight: _sharding(mesh, table, rules, [[letter] for letter in weight.letters]))


def one_layer_in_file(mesh: Mesh, table: WeightTable, rules: dict[str, str], weight: Weight) -> NamedSharding:
  """The sharding of one layer of a weight in its HF layout, that of its place in our tree: each device reads its own.

  A flattened axis is cut along its first letter, so a device's part is a range of it.
  """
  return _sharding(mesh, table, rules, weight.hf_groups)


def _sharding(mesh: Mesh, table: WeightTable, rules: dict[str, str], axes: list[list[str]]) -> NamedSharding:
  """A sharding of an array whose axes are groups of letters.

  Specs are written as jit writes those of its results (no mesh axes of size 1, no trailing None): otherwise the state
  that an update returns would not match the one it was compiled for, and it would be compiled twice.
  """
  spec, taken = [], set()
  for letter, *_ in axes:
    axis, size = rules.get(letter), table.sizes[letter]
    if axis and (mesh.shape[axis] == 1 or size % mesh.shape[axis]):
      if mesh.shape[axis] > 1:
        logging.info('axis %s (%d) is not divisible by mesh axis %s; kept whole', letter, size, axis)
      axis = None
    if axis and axis in taken:
      raise ValueError(f'{axes}: two axes on mesh axis {axis!r}; change the rules')
    taken.add(axis)
    spec.append(axis)
  while spec and spec[-1] is None:
    spec.pop()
  return NamedSharding(mesh, PartitionSpec(*spec))


def opt_state(mesh: Mesh, optimizer: optax.GradientTransformation, table: WeightTable) -> Any:
  """Shardings of the optimizer's state: moments like their parameters, the rest replicated.

  `jit(optimizer.init)` alone does not give moments their parameters' shardings on an Auto mesh.
  """
  abstract = jax.eval_shape(optimizer.init, table.abstract(jnp.float32))
  return optax.tree_map_params(
    optimizer,
    lambda _, sharding: sharding,
    abstract,
    params(mesh, table, TRAINING_RULES),
    transform_non_params=lambda _: replicated(mesh),
  )


def put_rows(mesh: Mesh, tree: Any) -> Any:
  """Host arrays with a leading B to the devices.

  Raises:
    ConfigError: the rows can't be spread evenly.
  """
  for leaf in jax.tree.leaves(tree):
    if leaf.shape[0] % row_shards(mesh):
      raise ConfigError(
        f'{leaf.shape[0]} rows can not be spread over data x fsdp = {row_shards(mesh)} devices; '
        'change batch.problems, batch.samples or the mesh'
      )
  return jax.device_put(tree, rows(mesh))
