"""Exports a policy as a Hugging Face folder or a PEFT adapter: tensor by tensor into a new folder, then renamed."""

from collections.abc import Callable
import functools
import json
import pathlib
import shutil
from typing import Any

import huggingface_hub
import jax
import numpy as np

from score_jax.errors import DataError
from score_jax.models import config_json
from score_jax.models import lora as loras
from score_jax.models import weights
from score_jax.models.families import DecoderConfig
from score_jax.models.lora import Lora
from score_jax.models.weights import Weight
from score_jax.parallel import hosts
from score_jax.parallel import mesh as meshes
from score_jax.storage import tensor_files
from score_jax.storage.hf import DTYPES
from score_jax.storage.hf import INDEX
from score_jax.storage.hf import PICKLES
from score_jax.storage.hf import open_weights

# Not copied from a source folder: weights in any format, their indices, and its README, which is about the base.
_NOT_COPIED = ('.safetensors', *PICKLES, '.gguf', '.h5', '.msgpack', '.onnx', '.index.json', '.md')


def write_folder(
  out: pathlib.Path,
  params: dict[str, Any],
  config: DecoderConfig,
  *,
  source: pathlib.Path | None,
  tokenizer: Any = None,
  chat_template: str = '',
  dtype: np.dtype | dict[str, np.dtype],
  replace: bool = False,
  max_shard: str = '5GB',
) -> None:
  """Writes an HF folder that transformers opens. Of several hosts, main writes, and the others give it their parts.

  Args:
    out: where; must not exist unless `replace`.
    params: a policy's tree, of arrays in any float dtype. Adapters in it (`lora.scaled`) are merged into the weights;
      weights that it lacks are the source's own.
    config: of the decoder.
    source: the folder the model came from; every file but the weights is copied as it is. None: a new model.
    tokenizer: an HF tokenizer to save, for a new model.
    chat_template: the template that the policy was trained with, where it is not the source's own.
    dtype: of the weights in the files: one for all, or one per HF name.
    replace: replaces an earlier folder.
    max_shard: largest weight file, e.g. '5GB'.

  Raises:
    DataError: `out` exists and `replace` is not set, or a weight does not fit the dtype.
  """

  def fill(folder: pathlib.Path) -> None:
    if source is not None:
      _copy_other_files(source, folder)
    else:
      (folder / 'config.json').write_text(json.dumps(config_json.to_hf(config), indent=2) + '\n')
    if isinstance(dtype, np.dtype):
      _set_dtype(folder / 'config.json', dtype, new=source is None)
    if tokenizer is not None:
      tokenizer.save_pretrained(folder)
    if chat_template:
      (folder / 'chat_template.jinja').write_text(chat_template)
    _write_weights(folder, params, config, source, dtype, max_shard)

  if hosts.is_main():
    _write_whole(out, replace, fill)
  else:
    _write_weights(None, params, config, source, dtype, max_shard)
  hosts.barrier(f'the export to {out.name}')


def write_adapter(
  out: pathlib.Path, adapters: dict[str, Any], config: DecoderConfig, lora: Lora, *, base: pathlib.Path
) -> None:
  """Writes a PEFT adapter folder, f32, that `peft.PeftModel.from_pretrained` loads onto the base.

  Args:
    out: where; must not exist.
    adapters: the trained tree.
    config: of the decoder.
    lora: rank, alpha and targets of the adapters.
    base: the folder that they were trained on.
  """
  table = loras.adapter_table(config, lora)
  names = table.by_hf_name()
  settings = dict(
    peft_type='LORA',
    task_type='CAUSAL_LM',
    base_model_name_or_path=str(base),
    r=lora.rank,
    lora_alpha=lora.alpha,
    target_modules=[loras.module_of(weight) for weight in loras.targets(config, lora)],
    lora_dropout=0.0,
    bias='none',
    fan_in_fan_out=False,
    inference_mode=True,
  )

  def array_of(name: str) -> np.ndarray:
    weight, n = names[name]
    layer = weights.leaf_at(adapters, weight)[n]
    return np.ascontiguousarray(weight.to_hf(np.asarray(layer, np.float32), table.sizes))

  def fill(folder: pathlib.Path) -> None:
    (folder / 'adapter_config.json').write_text(json.dumps(settings, indent=2) + '\n')
    entries = {name: (DTYPES['float32'], shape) for name, shape in table.hf_shapes().items()}
    tensor_files.write_file(folder / 'adapter_model.safetensors', entries, array_of)

  _write_whole(out, False, fill)


def _write_whole(out: pathlib.Path, replace: bool, fill: Callable[[pathlib.Path], None]) -> None:
  """Fills a new folder beside `out` and renames it: `out` is the old folder, or the whole new one."""
  if (out.exists() or out.is_symlink()) and not replace:
    raise DataError(f'{out} exists already; choose another folder or remove it')
  # Names that nobody else has: no other folder may be removed.
  partial = out.with_name(f'.{out.name}.score_jax-partial')
  old = out.with_name(f'.{out.name}.score_jax-old')
  shutil.rmtree(partial, ignore_errors=True)
  if old.exists() and not out.exists():  # a kill between the two renames below
    old.rename(out)
  partial.mkdir(parents=True)
  fill(partial)
  shutil.rmtree(old, ignore_errors=True)
  if out.exists():
    out.rename(old)
  partial.rename(out)
  shutil.rmtree(old, ignore_errors=True)


def _copy_other_files(source: pathlib.Path, folder: pathlib.Path) -> None:
  for file in source.iterdir():
    if file.is_file() and not file.name.endswith(_NOT_COPIED):
      shutil.copyfile(file, folder / file.name)


def _set_dtype(path: pathlib.Path, dtype: np.dtype, new: bool) -> None:
  """Makes config.json name the dtype of the weights beside it; one that does already stays byte for byte."""
  config = json.loads(path.read_text())
  fields = ('dtype',) if new else ('dtype', 'torch_dtype')
  changed = {name: dtype.name for name in fields if new or config.get(name, dtype.name) != dtype.name}
  if changed:
    path.write_text(json.dumps(config | changed, indent=2) + '\n')


def _write_weights(
  folder: pathlib.Path | None,
  params: dict[str, Any],
  config: DecoderConfig,
  source: pathlib.Path | None,
  dtype: np.dtype | dict[str, np.dtype],
  max_shard: str,
) -> None:
  """Writes a policy's weights, one tensor at a time. Without a folder it only takes part where all devices have to."""
  table = weights.weight_table(config)
  sizes = tuple(table.sizes.items())
  names = table.by_hf_name()
  entries = {
    name: (dtype if isinstance(dtype, np.dtype) else dtype[name], shape) for name, shape in table.hf_shapes().items()
  }
  given = {weight: loras.leaves_of(params, weight) for weight in table.weights}
  stored = open_weights(source, config) if source and any('' not in leaves for leaves in given.values()) else None

  def array_of(name: str) -> np.ndarray:
    weight, n = names[name]
    to = entries[name][0]
    own = None if '' in given[weight] else stored.where[name].read(name)
    if not given[weight]:
      return _fitting(name, own.astype(to))
    return _fitting(name, meshes.fetch_whole(_layer_maker(weight, sizes, to)(given[weight], n, own)))

  write_shards(folder, entries, array_of, max_shard)


def write_shards(
  folder: pathlib.Path | None,
  entries: dict[str, tuple[np.dtype, tuple[int, ...]]],
  array_of: Callable[[str], np.ndarray],
  max_shard: str,
) -> None:
  """Writes weight files of at most `max_shard` ('5GB'), and their index if they are several.

  Args:
    folder: where; None: nowhere, but the tensors are asked for in the same order.
    entries: dtype and shape of every tensor, by HF name.
    array_of: gives a tensor by its name, and is asked once for each.
    max_shard: a tensor larger than this has a file for itself.
  """
  split = huggingface_hub.split_state_dict_into_shards_factory(
    entries,
    get_storage_size=lambda entry: entry[0].itemsize * int(np.prod(entry[1], dtype=np.int64)),
    max_shard_size=max_shard,
    filename_pattern='model{suffix}.safetensors',
  )
  for file, held in split.filename_to_tensors.items():
    declared = {name: entries[name] for name in held}
    if folder:
      tensor_files.write_file(folder / file, declared, array_of)
    else:
      for name in tensor_files.ordered(declared):
        array_of(name)
  if folder and split.is_sharded:
    index = dict(metadata=split.metadata, weight_map=split.tensor_to_filename)
    (folder / INDEX).write_text(json.dumps(index, indent=2) + '\n')


def _fitting(name: str, array: np.ndarray) -> np.ndarray:
  """Returns the array, if its dtype can hold it: float16 ends at 65,504."""
  if not np.all(np.isfinite(array)):
    raise DataError(f'weight {name} has numbers that {array.dtype} cannot hold; export in another dtype')
  return array


@functools.lru_cache(maxsize=256)
def _layer_maker(weight: Weight, sizes: tuple[tuple[str, int], ...], dtype: np.dtype) -> Callable:
  """Compiles (leaves of a weight, n, the source's layer n or None) -> layer n in the file's layout, adapters merged."""

  def make(leaves, n, own):
    layer = _layer(weight, leaves, n)
    if own is not None:
      layer = {'': weight.from_hf(own, dict(sizes)), **layer}
    return weight.to_hf(loras.merged(weight, layer), dict(sizes)).astype(dtype)

  return jax.jit(make)


def _layer(weight: Weight, leaves: dict[str, jax.Array], n: jax.Array) -> dict[str, jax.Array]:
  if not weight.per_layer:
    return leaves
  return {ending: jax.lax.dynamic_index_in_dim(leaf, n, 0, keepdims=False) for ending, leaf in leaves.items()}
