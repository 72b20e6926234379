# SPDX-License-Identifier: Apache-2.0
"""Exports a policy as a Hugging Face folder or a PEFT adapter: tensor by tensor into a new folder, then renamed."""

from collections.abc import Callable, Iterator
import contextlib
import functools
import json
import pathlib
import shutil
from typing import Any

import huggingface_hub
import jax
import numpy as np

from score_jax import files
from score_jax.errors import DataError
from score_jax.models import config_json, weights
from score_jax.models import lora as loras
from score_jax.models.families import DecoderConfig
from score_jax.models.lora import Lora
from score_jax.models.weights import Weight
from score_jax.parallel import hosts
from score_jax.parallel import mesh as meshes
from score_jax.storage import tensor_files
from score_jax.storage.hf import DTYPES, INDEX, PICKLES, open_weights
from score_jax.storage.tensor_files import Entry

# Not copied from a source: weights in any format, their indices, and its README, which is about the base.
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
    out: must not exist unless `replace`.
    params: a policy's tree, in any float dtype. Adapters in it (`lora.scaled`) are merged; what it lacks is `source`'s.
    config: of the decoder.
    source: the folder the model came from, whose files but the weights are copied as they are. None: a new model.
    tokenizer: an HF tokenizer to save, for a new model.
    chat_template: that the policy was trained with, where it is not the source's.
    dtype: of all weights in the files, or by HF name.
    replace: replaces an earlier folder.
    max_shard: largest weight file, e.g. '5GB'.

  Raises:
    DataError: `out` exists and `replace` is not set, or a weight does not fit the dtype.
  """
  with _whole(out, replace) if hosts.is_main() else contextlib.nullcontext() as folder:
    if folder:
      if source:
        for file in source.iterdir():
          if file.is_file() and not file.name.endswith(_NOT_COPIED):
            shutil.copyfile(file, folder / file.name)
      else:
        files.write_json(folder / 'config.json', config_json.to_hf(config))
      if isinstance(dtype, np.dtype):
        _set_dtype(folder / 'config.json', dtype, new=source is None)
      if tokenizer is not None:
        tokenizer.save_pretrained(folder)
      if chat_template:
        (folder / 'chat_template.jinja').write_text(chat_template)
    entries, array_of = _tensors(params, config, source, dtype)
    write_shards(folder, entries, array_of, max_shard)
  hosts.barrier(f'the export to {out.name}')


def write_adapter(
  out: pathlib.Path, adapters: dict[str, Any], config: DecoderConfig, lora: Lora, *, base: pathlib.Path
) -> None:
  """Writes a trained tree of adapters as a PEFT folder, f32, that `peft.PeftModel.from_pretrained` loads onto `base`.

  Raises:
    DataError: `out` exists.
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

  entries = {name: Entry(DTYPES['float32'], shape) for name, shape in table.hf_shapes().items()}
  with _whole(out) as folder:
    files.write_json(folder / 'adapter_config.json', settings)
    tensor_files.write_file(folder / 'adapter_model.safetensors', entries, array_of)


@contextlib.contextmanager
def _whole(out: pathlib.Path, replace: bool = False) -> Iterator[pathlib.Path]:
  """Gives a new folder beside `out` to fill, and renames it: `out` is the old folder, or the whole new one."""
  if (out.exists() or out.is_symlink()) and not replace:
    raise DataError(f'{out} exists already; choose another folder or remove it')
  # Names that nobody else has: no other folder may be removed.
  partial = out.with_name(f'.{out.name}.score_jax-partial')
  old = out.with_name(f'.{out.name}.score_jax-old')
  shutil.rmtree(partial, ignore_errors=True)
  if old.exists() and not out.exists():  # a kill between the two renames below
    old.rename(out)
  partial.mkdir(parents=True)
  yield partial
  shutil.rmtree(old, ignore_errors=True)
  if out.exists():
    out.rename(old)
  partial.rename(out)
  shutil.rmtree(old, ignore_errors=True)


def _set_dtype(path: pathlib.Path, dtype: np.dtype, new: bool) -> None:
  """Makes config.json name the dtype of the weights beside it; one that does already stays byte for byte."""
  config = json.loads(path.read_text())
  fields = ('dtype',) if new else ('dtype', 'torch_dtype')
  changed = {name: dtype.name for name in fields if new or config.get(name, dtype.name) != dtype.name}
  if changed:
    files.write_json(path, config | changed)


def _tensors(
  params: dict[str, Any], config: DecoderConfig, source: pathlib.Path | None, dtype: Any
) -> tuple[dict[str, Entry], Callable[[str], np.ndarray]]:
  """Returns dtype and shape of a policy's tensors by HF name, and what makes one of them, with all hosts' devices."""
  table = weights.weight_table(config)
  sizes, names, shapes = tuple(table.sizes.items()), table.by_hf_name(), table.hf_shapes()
  dtypes = dict.fromkeys(shapes, dtype) if isinstance(dtype, np.dtype) else dtype
  entries = {name: Entry(dtypes[name], shape) for name, shape in shapes.items()}
  given = {weight: loras.leaves_of(params, weight) for weight in table.weights}
  stored = open_weights(source, config) if source and any('' not in leaves for leaves in given.values()) else None

  def array_of(name: str) -> np.ndarray:
    weight, n = names[name]
    own = None if '' in given[weight] else stored.where[name].read(name)
    if given[weight]:
      array = meshes.fetch_whole(_layer_maker(weight, sizes, dtypes[name])(given[weight], n, own))
    else:
      array = own.astype(dtypes[name])
    if not np.all(np.isfinite(array)):  # float16 ends at 65,504
      raise DataError(f'weight {name} has numbers that {array.dtype} cannot hold; export in another dtype')
    return array

  return entries, array_of


def write_shards(
  folder: pathlib.Path | None,
  entries: dict[str, Entry],
  array_of: Callable[[str], np.ndarray],
  max_shard: str,
) -> None:
  """Writes weight files of at most `max_shard` ('5GB') or one tensor, and their index if they are several.

  Args:
    folder: None: nothing is written, but the tensors are made in the same order.
    entries: by HF name.
    array_of: makes a tensor by its name, once each.
    max_shard: with a decimal prefix.
  """
  split = huggingface_hub.split_state_dict_into_shards_factory(
    entries,
    get_storage_size=lambda entry: entry.nbytes,
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
    files.write_json(folder / INDEX, index)


@functools.lru_cache(maxsize=256)
def _layer_maker(weight: Weight, sizes: tuple[tuple[str, int], ...], dtype: np.dtype) -> Callable:
  """Compiles (leaves of a weight, n, the source's layer n or None) -> layer n in the file's layout, adapters merged."""

  def make(leaves, n, own):
    if weight.per_layer:
      leaves = {end: jax.lax.dynamic_index_in_dim(leaf, n, 0, keepdims=False) for end, leaf in leaves.items()}
    if own is not None:
      leaves = {'': weight.from_hf(own, dict(sizes)), **leaves}
    return weight.to_hf(loras.merged(weight, leaves), dict(sizes)).astype(dtype)

  return jax.jit(make)
