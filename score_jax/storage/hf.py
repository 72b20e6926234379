"""HF folders in and out, without torch: config.json, safetensors, and the tokenizer files as they came.

Import and export both walk the weight table, so they can't disagree; a key that is missing, unknown or mis-shaped is
an error that names it. A folder is written beside its place and renamed, so a half-written one is never found there.
"""

import json
import pathlib
import shutil
from typing import Any

import huggingface_hub
import jax
import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from score_jax.errors import DataError
from score_jax.models import families
from score_jax.models import weights
from score_jax.models.families import DecoderConfig

BUNDLED = 'bundled:'
_ASSETS = pathlib.Path(__file__).parent.parent / 'assets'
_DTYPES = {'F32': np.dtype(np.float32), 'BF16': np.dtype(ml_dtypes.bfloat16), 'F16': np.dtype(np.float16)}
# Not copied from a source folder: weights in any format, their indices, and its README, which is about the base.
_NOT_COPIED = ('.safetensors', '.bin', '.pt', '.pth', '.gguf', '.h5', '.msgpack', '.onnx', '.index.json', '.md')
_CONFIG_DTYPES = {'float32': _DTYPES['F32'], 'bfloat16': _DTYPES['BF16'], 'float16': _DTYPES['F16']}


def folder_of(path: str) -> pathlib.Path:
  """The folder that config.model.path names; 'bundled:NAME' is one shipped with the package.

  Raises:
    DataError: it does not exist or holds no config.json.
  """
  folder = _ASSETS / path.removeprefix(BUNDLED) if path.startswith(BUNDLED) else pathlib.Path(path)
  if not (folder / 'config.json').is_file():
    known = ', '.join(BUNDLED + child.name for child in sorted(_ASSETS.iterdir()) if (child / 'config.json').exists())
    raise DataError(f'model folder {path!r}: no config.json in {folder}; name an HF folder, or one of {known}')
  return folder


def read_config(folder: pathlib.Path) -> DecoderConfig:
  """The decoder that a folder's config.json describes."""
  path = folder / 'config.json'
  try:
    return families.from_hf(json.loads(path.read_text()), str(path))
  except ValueError as error:
    raise DataError(f'{path}: not JSON: {error}') from error


def read_params(folder: pathlib.Path, config: DecoderConfig) -> dict[str, Any]:
  """The folder's weights as f32 numpy arrays in our tree.

  Raises:
    DataError: a file is missing or cut off, or a weight is missing, unknown, doubled or mis-shaped.
  """
  files = _weight_files(folder)
  handles = [_opened(path) for path in files]
  where = {}
  for path, handle in zip(files, handles, strict=True):
    for name in sorted(handle.keys()):
      if name in where:
        raise DataError(f'{path}: weight {name} is also in another file of the folder')
      where[name] = handle
  expected = {name: weight for weight in weights.weight_table(config) for name in _names(weight, config)}
  _check_names(folder, set(where), set(expected), config)

  def one_layer(weight: weights.Weight, name: str) -> np.ndarray:
    found = tuple(where[name].get_slice(name).get_shape())
    if found != weight.hf_shape(config):
      raise DataError(f'{folder}: weight {name} has shape {found}, but config.json asks for {weight.hf_shape(config)}')
    return weight.from_hf(where[name].get_tensor(name), config)

  def leaf(weight: weights.Weight) -> np.ndarray:
    out = np.empty(weight.shape(config), np.float32)
    for n, name in enumerate(_names(weight, config)):
      out[n if weight.per_layer else ...] = one_layer(weight, name)
    return out

  params = weights.tree_of(config, leaf)
  _check_tied(folder, where, params, config)
  return params


def stored_dtype(folder: pathlib.Path) -> np.dtype:
  """The dtype in which the folder holds its weights (that of the embedding)."""
  for path in _weight_files(folder):
    with _opened(path) as handle:
      if 'model.embed_tokens.weight' in set(handle.keys()):
        name = handle.get_slice('model.embed_tokens.weight').get_dtype()
        if name not in _DTYPES:
          raise DataError(f'{path}: weights are stored as {name}; use one of {", ".join(_DTYPES)}')
        return _DTYPES[name]
  raise DataError(f'{folder}: weight model.embed_tokens.weight is missing')


def write_folder(
  out: pathlib.Path,
  params: dict[str, Any],
  config: DecoderConfig,
  *,
  source: pathlib.Path | None,
  tokenizer: Any = None,
  chat_template: str = '',
  dtype: np.dtype,
  replace: bool = False,
  max_shard: str = '5GB',
) -> None:
  """Writes an HF folder that transformers opens.

  Args:
    out: where; must not exist unless `replace`.
    params: our tree, of arrays in any float dtype.
    config: of the decoder.
    source: the folder the model came from; every file but the weights is copied as it is. None: a new model.
    tokenizer: an HF tokenizer to save, for a new model.
    chat_template: the template that the policy was trained with, where it is not the source's own.
    dtype: of the weights in the file.
    replace: put it in the place of an earlier folder.
    max_shard: largest weight file, e.g. '5GB'.

  Raises:
    DataError: `out` exists and `replace` is not set.
  """
  if out.exists() and not replace:
    raise DataError(f'{out} exists already; choose another folder or remove it')
  # Names of our own beside the place: nobody else's folder may be removed.
  partial = out.with_name(f'.{out.name}.score_jax-partial')
  shutil.rmtree(partial, ignore_errors=True)
  partial.mkdir(parents=True)
  if source is None:
    (partial / 'config.json').write_text(json.dumps(families.to_hf(config) | dict(dtype=dtype.name), indent=2) + '\n')
  else:
    for file in source.iterdir():
      if file.is_file() and not file.name.endswith(_NOT_COPIED):
        shutil.copyfile(file, partial / file.name)
    _set_dtype(partial / 'config.json', dtype)
  if tokenizer is not None:
    tokenizer.save_pretrained(partial)
  if chat_template:
    (partial / 'chat_template.jinja').write_text(chat_template)
  _write_weights(partial, params, config, dtype, max_shard)
  old = out.with_name(f'.{out.name}.score_jax-old')
  shutil.rmtree(old, ignore_errors=True)
  if out.exists():
    out.rename(old)
  partial.rename(out)
  shutil.rmtree(old, ignore_errors=True)


def _set_dtype(path: pathlib.Path, dtype: np.dtype) -> None:
  """Makes config.json say the dtype of the weights beside it; left byte for byte as it is where it already does."""
  config = json.loads(path.read_text())
  changed = {name: dtype.name for name in ('dtype', 'torch_dtype') if config.get(name, dtype.name) != dtype.name}
  if changed:
    path.write_text(json.dumps(config | changed, indent=2) + '\n')


def _write_weights(folder, params, config, dtype, max_shard) -> None:
  arrays = {}
  for weight in weights.weight_table(config):
    stacked = np.asarray(jax.device_get(weights.leaf_at(params, weight)))
    for n, name in enumerate(_names(weight, config)):
      one = stacked[n] if weight.per_layer else stacked
      arrays[name] = weight.to_hf(one.astype(dtype), config)
  split = huggingface_hub.split_state_dict_into_shards_factory(
    arrays, get_storage_size=lambda a: a.nbytes, max_shard_size=max_shard, filename_pattern='model{suffix}.safetensors'
  )
  for file, names in split.filename_to_tensors.items():
    safetensors.numpy.save_file({name: arrays[name] for name in names}, folder / file, metadata={'format': 'pt'})
    (folder / file).chmod(0o644)  # safetensors writes files that others can't read
  if split.is_sharded:
    index = dict(metadata=split.metadata, weight_map=split.tensor_to_filename)
    (folder / 'model.safetensors.index.json').write_text(json.dumps(index, indent=2) + '\n')


def config_dtype(name: str) -> np.dtype:
  """'float32', 'bfloat16' or 'float16' as a numpy dtype."""
  return _CONFIG_DTYPES[name]


def _names(weight: weights.Weight, config: DecoderConfig) -> list[str]:
  """The HF names of a weight, one per layer if it has one per layer."""
  return [weight.hf_name.format(n=n) for n in range(config.layers)] if weight.per_layer else [weight.hf_name]


def _weight_files(folder: pathlib.Path) -> list[pathlib.Path]:
  """The folder's safetensors files, by its index if it has one."""
  index = folder / 'model.safetensors.index.json'
  if index.exists():
    try:
      names = sorted(set(json.loads(index.read_text())['weight_map'].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
      raise DataError(f'{index}: not an index of weights: {error!r}') from error
  else:
    names = ['model.safetensors']
  for name in names:
    if not (folder / name).is_file():
      raise DataError(f'{folder}: weight file {name} is missing')
  return [folder / name for name in names]


def _opened(path: pathlib.Path) -> Any:
  try:
    return safetensors.safe_open(path, framework='np')
  except (safetensors.SafetensorError, OSError) as error:
    raise DataError(f'{path}: can not be read, it may be cut off: {error}') from error


def _check_names(folder: pathlib.Path, found: set[str], expected: set[str], config: DecoderConfig) -> None:
  optional = {'lm_head.weight'} if config.tied else set()
  missing = sorted(expected - found)
  unknown = sorted(name for name in found - expected - optional if not name.endswith('rotary_emb.inv_freq'))
  if missing:
    raise DataError(f'{folder}: {len(missing)} weights are missing, the first is {missing[0]}')
  if unknown:
    raise DataError(f'{folder}: {len(unknown)} weights are unknown to {config.family}, the first is {unknown[0]}')


def _check_tied(folder: pathlib.Path, where: dict, params: dict[str, Any], config: DecoderConfig) -> None:
  """A tied model whose file holds a head as well must hold the embedding there."""
  if config.tied and 'lm_head.weight' in where:
    head = where['lm_head.weight'].get_tensor('lm_head.weight').astype(np.float32)
    if not np.array_equal(head, params['embed']):
      raise DataError(f'{folder}: tie_word_embeddings is true, but lm_head.weight differs from the embedding')
