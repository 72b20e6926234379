# SPDX-License-Identifier: Apache-2.0
"""Hugging Face folders, read without torch: config.json and safetensors. `hf_export.py` writes them.

Both walk the weight table, so they cannot disagree. Weights pass through the host in blocks of at most a tensor, in the
file's dtype, each device taking its part.
"""

from collections.abc import Callable
import dataclasses
import functools
import math
import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
import numpy as np

from score_jax import files, hub
from score_jax.errors import DataError
from score_jax.models import config_json, weights
from score_jax.models.families import DecoderConfig
from score_jax.parallel import mesh as meshes
from score_jax.storage import tensor_files
from score_jax.storage.tensor_files import TensorFile

BUNDLED = 'bundled:'
_ASSETS = pathlib.Path(__file__).parent.parent / 'assets'
_MODEL, INDEX = 'model.safetensors', 'model.safetensors.index.json'
_EMBED, _HEAD = 'model.embed_tokens.weight', 'lm_head.weight'
_UNUSED = 'rotary_emb.inv_freq'  # in older folders; it follows from config.json
PICKLES = ('.bin', '.pt', '.pth', '.pkl', '.ckpt')
_MOST_JSON = 1 << 20  # bytes of a config.json
_BLOCK = 1 << 26  # bytes of rows on the host at a time
DTYPES = {dtype.name: dtype for dtype in tensor_files.DTYPES.values()}  # by 'float32' ...


def folder_of(path: str, field: str = 'config.model.path') -> pathlib.Path:
  """Returns the folder that config.model.path names; 'bundled:NAME' is one of the package.

  An existing folder wins over a hub id, whose files are downloaded unless the cache has them.

  Raises:
    UserError: it is missing, has no config.json, or links to files elsewhere.
  """
  if repo := hub.model(path, field):
    folder = hub.snapshot(repo)
  elif path.startswith(BUNDLED):
    folder = _ASSETS / path.removeprefix(BUNDLED)
  else:
    folder = hub.current(pathlib.Path(files.expanded(path)))
  try:
    if (folder / 'config.json').is_file():
      _check_links(folder)
      if (folder / 'hf/config.json').is_file() and not any(folder.glob('tokenizer*')):
        raise DataError(f'{field} = {path!r} is the folder of a run; its model is {path.rstrip("/")}/hf')
      return folder
  except (OSError, RuntimeError) as error:  # either comes of links in a loop
    raise DataError(f'model folder {path!r:.200} cannot be read: {error!s:.200}') from error
  known = ', '.join(BUNDLED + config.parent.name for config in sorted(_ASSETS.glob('*/config.json')))
  where = f'model folder {path!r}: no config.json in {folder.absolute()}'
  raise DataError(f'{where}; name an HF folder, a hub id OWNER/NAME[@REVISION] or one of {known}')


def _check_links(folder: pathlib.Path) -> None:
  """Refuses links out of the folder by which something is read."""
  for path in folder.iterdir():
    if (path.suffix in hub.READ or path.is_dir()) and leads_outside(path):
      where = f'{path}: is a link to {path.resolve()}'
      raise DataError(f'{where}, outside the folder; copy the file if you trust it')


def leads_outside(path: pathlib.Path) -> bool:
  """Whether a file is a link out of its folder, or of the hub's cache, whose blobs may lie elsewhere."""
  target, home = path.resolve(), path.parent.resolve()
  if not path.is_symlink() or target.is_relative_to(home):
    return False
  blobs = home.parent.parent / 'blobs'
  hashed = re.fullmatch('[0-9a-f]{40}|[0-9a-f]{64}', target.name)
  moved = hashed and target.parent == blobs.resolve()
  return home.parent.name != 'snapshots' or not (moved or target.is_relative_to(blobs))


def read_config(folder: pathlib.Path) -> DecoderConfig:
  path = folder / 'config.json'
  return config_json.from_hf(files.read_json(path, _MOST_JSON), str(path))


@dataclasses.dataclass(frozen=True)
class WeightFiles:
  """A folder's weights: names and shapes agree with config.json; no value is read."""

  where: dict[str, TensorFile]  # HF name -> its file

  def dtypes(self) -> dict[str, np.dtype]:
    return {name: file.entries[name].dtype for name, file in self.where.items()}


def open_weights(folder: pathlib.Path, config: DecoderConfig) -> WeightFiles:
  """Opens a folder's weights by their headers alone.

  Raises:
    DataError: a file is missing or of another kind; a weight is missing, unknown, doubled or mis-shaped.
  """
  shapes, where, others = weights.weight_table(config).hf_shapes(), {}, config.wrapper.others
  for path in _weight_files(folder, len(shapes)):
    file = tensor_files.open_file(path, max_tensors=len(shapes) + config.layers + 1 + 1000 * len(others))
    for name in file.entries:
      if name in where:
        raise DataError(f'{path}: weight {name} is also in another file')
      if not name.endswith(_UNUSED):
        where[name] = file
  missing = set(shapes) - set(where)
  kept = {name for name in where if name.startswith(others)}
  unknown = set(where) - set(shapes) - kept - ({_HEAD} if config.tied and _EMBED in shapes else set())
  for names, fault in ((missing, 'missing'), (unknown, f'unknown to {config.family}')):
    if names:
      raise DataError(f'{folder}: {len(names)} weights are {fault}, the first is {min(names)}')
  for name in set(where) - kept:
    shape, expected = where[name].entries[name].shape, shapes.get(name) or shapes[_EMBED]
    if shape != expected:
      raise DataError(f'{folder}: weight {name} has shape {shape}, but config.json asks for {expected}')
  return WeightFiles(where)


def _weight_files(folder: pathlib.Path, tensors: int) -> list[pathlib.Path]:
  names = _indexed(folder / INDEX, tensors) if (folder / INDEX).exists() else [_MODEL]
  if _MODEL not in names and (folder / _MODEL).is_file():
    raise DataError(f'{folder}: holds {_MODEL} and an index of other files; remove what is stale')
  if (folder / 'adapter_config.json').exists():
    raise DataError(f'{folder}: holds an adapter (adapter_config.json); merge it into the model')
  for name in names:
    if not (folder / name).is_file():
      pickled = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
      remedy = f'; {pickled[0]} is a pickle, which can run code: save the model as safetensors' if pickled else ''
      raise DataError(f'{folder}: weight file {name} is missing{remedy}')
  return [folder / name for name in names]


def _indexed(index: pathlib.Path, tensors: int) -> list[str]:
  content = files.read_json(index, max_bytes=(1 << 16) + 512 * tensors)
  listed = content.get('weight_map') if isinstance(content, dict) else None
  if not isinstance(listed, dict) or not listed:
    raise DataError(f'{index}: weight_map = {listed!r:.80} must map names of weights to files')
  for name in listed.values():
    plain = isinstance(name, str) and len(name) < 256 and name.isprintable() and '/' not in name
    if not plain or not name.endswith('.safetensors'):
      raise DataError(f'{index}: weight_map names {name!r:.80}, which is not a safetensors file of this folder')
  return sorted(set(listed.values()))


def read_params(
  folder: pathlib.Path, config: DecoderConfig, mesh: Mesh, dtype: Any, rules: dict[str, str] = meshes.TRAINING_RULES
) -> dict[str, Any]:
  """Reads a folder's weights into a tree on the devices, in `dtype`.

  Raises:
    DataError: as `open_weights`; or a number is not finite.
  """
  where, table = open_weights(folder, config).where, weights.weight_table(config)
  shardings = meshes.params(mesh, table, rules)
  if config.tied and _HEAD in where:
    _check_tied(where, config)

  def leaf(weight: weights.Weight) -> jax.Array:
    layout = meshes.one_layer_in_file(mesh, table, rules, weight)
    sharding = weights.leaf_at(shardings, weight)
    stack = jnp.zeros(weight.shape(table.sizes), dtype, device=sharding)
    write_layer = _layer_writer(weight, tuple(table.sizes.items()), sharding)
    for name, index in table.hf_names(weight).items():
      file = where[name]
      stack, finite = write_layer(stack, _on_devices(file, name, layout), index)
      if not finite:  # which also keeps the host from reading ahead
        raise DataError(f'{file.path}: weight {name} holds numbers that are not finite')
    return stack

  return table.tree(leaf)


def _on_devices(file: TensorFile, name: str, layout: NamedSharding) -> jax.Array:
  """Reads a tensor, each device its part; what several hold is read once."""
  shape = file.entries[name].shape
  holders: dict[tuple[tuple[int, int], ...], list[jax.Device]] = {}
  for device, index in layout.addressable_devices_indices_map(shape).items():
    cut = tuple(axis.indices(size)[:2] for axis, size in zip(index, shape, strict=True))
    holders.setdefault(cut, []).append(device)
  parts = [part for cut, devices in holders.items() for part in _part(file, name, cut, devices)]
  return jax.make_array_from_single_device_arrays(shape, layout, parts)


def _part(file: TensorFile, name: str, cut: tuple[tuple[int, int], ...], devices: list[jax.Device]) -> list[jax.Array]:
  """Reads a part onto devices, in blocks: a transfer may keep a second copy on the host."""
  rows, *inner = (slice(*axis) for axis in cut)
  shape, dtype = [last - first for first, last in cut], file.entries[name].dtype
  blocks = _blocks(rows, dtype.itemsize * math.prod(shape[1:]))
  if len(blocks) < 2:
    whole = file.read(name, (rows, *inner))
    return [jax.device_put(whole, device) for device in devices]
  parts = [jnp.zeros(shape, dtype, device=device) for device in devices]
  for block in blocks:
    values, first = file.read(name, (block, *inner)), block.start - rows.start
    parts = [_with_rows(part, jax.device_put(values, part.device), first) for part in parts]
    jax.block_until_ready(parts)  # or the host would read ahead
  return parts


def _blocks(rows: slice, row_bytes: int) -> list[slice]:
  """Cuts rows into blocks of at most `_BLOCK` bytes, or of one row."""
  step = max(1, _BLOCK // max(1, row_bytes))
  return [slice(n, min(n + step, rows.stop)) for n in range(rows.start, rows.stop, step)]


@functools.partial(jax.jit, donate_argnums=0)
def _with_rows(whole: jax.Array, rows: jax.Array, first: jax.Array) -> jax.Array:
  return jax.lax.dynamic_update_slice_in_dim(whole, rows, first, 0)


@functools.lru_cache(maxsize=256)
def _layer_writer(weight: weights.Weight, sizes: tuple[tuple[str, int], ...], sharding: NamedSharding) -> Callable:
  """Compiles (stack, layer of the file, index) -> (stack with it, is finite), in place."""

  def write(stack, layer, index):
    ours = weight.from_hf(layer, dict(sizes)).astype(stack.dtype)
    first = *index, *(0,) * ours.ndim
    updated = jax.lax.dynamic_update_slice(stack, ours[(None,) * len(index)], first)
    return updated, jnp.all(jnp.isfinite(ours))

  return jax.jit(write, donate_argnums=0, out_shardings=(sharding, None))


def _check_tied(where: dict[str, TensorFile], config: DecoderConfig) -> None:
  head, embedding = where[_HEAD], where[_EMBED]
  row_bytes = config.width * embedding.entries[_EMBED].dtype.itemsize
  for rows in _blocks(slice(0, config.vocab), row_bytes):
    if not np.array_equal(head.read(_HEAD, (rows,)), embedding.read(_EMBED, (rows,))):
      raise DataError(f'{head.path}: tie_word_embeddings is true, but {_HEAD} differs')
