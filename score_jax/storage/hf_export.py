# SPDX-License-Identifier: Apache-2.0
"""Exports a policy as a Hugging Face folder or a PEFT adapter, tensor by tensor."""

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

from score_jax import files, hub
from score_jax.errors import DataError
from score_jax.models import config_json, weights
from score_jax.models import lora as loras
from score_jax.models.families import DecoderConfig
from score_jax.parallel import hosts
from score_jax.parallel import mesh as meshes
from score_jax.storage import tensor_files
from score_jax.storage.hf import DTYPES, INDEX, PICKLES, leads_outside, open_weights
from score_jax.storage.tensor_files import Entry

TEMPLATE = 'chat_template.jinja'
CARD = 'README.md'
# Not copied from a source: weights, their indices, and the README of the base.
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
  card: str = '',
) -> None:
  """Writes an HF folder that transformers opens; all hosts call it, host 0 writes.

  Args:
    out: must not exist unless `replace`.
    params: a policy's tree. Adapters (`lora.scaled`) are merged; what it lacks is `source`'s.
    source: the model's old folder, whose files but the weights are copied. None: a new model.
    chat_template: of the policy; '': that of the source or the tokenizer.
    dtype: of all weights in the files, or by HF name.
    max_shard: of a weight file, e.g. '5GB'.
    card: README.md; '': none.

  Raises:
    DataError: `out` exists without `replace`, or a weight does not fit the dtype.
  """
  with _whole(out, replace) if hosts.is_main() else contextlib.nullcontext() as folder:
    if folder:
      if source:
        for file in source.iterdir():
          if file.is_file() and not file.name.endswith(_NOT_COPIED) and not leads_outside(file):
            shutil.copyfile(file, folder / file.name)
      else:
        files.write_json(folder / 'config.json', config_json.to_hf(config))
      if isinstance(dtype, np.dtype):
        _set_dtype(folder / 'config.json', dtype, new=not source)
      if tokenizer is not None:
        tokenizer.save_pretrained(folder)
      if chat_template:
        _set_template(folder, chat_template)
      if card:
        (folder / CARD).write_text(card, 'utf-8')
    entries, array_of = _tensors(params, config, source, dtype)
    write_shards(folder, entries, array_of, max_shard)
  hosts.barrier(f'the export to {out.name}')


def write_adapter(
  out: pathlib.Path,
  adapters: dict[str, Any],
  config: DecoderConfig,
  lora: loras.Lora,
  *,
  base: pathlib.Path | hub.Repo,
  chat_template: str = '',
  card: str = '',
) -> None:
  """Writes a trained tree of adapters as a PEFT folder, in f32, for `base`, with the policy's chat template and card.

  Raises:
    DataError: `out` exists.
  """
  table = loras.adapter_table(config, lora)
  names = table.by_hf_name()
  from_hub = isinstance(base, hub.Repo)
  settings = dict(
    peft_type='LORA',
    task_type='CAUSAL_LM',
    base_model_name_or_path=base.name if from_hub else str(base.absolute()),
    revision=base.revision if from_hub else None,
    r=lora.rank,
    lora_alpha=lora.alpha,
    target_modules=loras.peft_targets(config, lora),
    lora_dropout=0.0,
    bias='none',
    fan_in_fan_out=False,
    inference_mode=True,
  )

  def array_of(name: str) -> np.ndarray:
    weight, index = names[name]
    layer = weights.leaf_at(adapters, weight)[index]
    return np.ascontiguousarray(weight.to_hf(np.asarray(layer, np.float32), table.sizes))

  entries = {name: Entry(DTYPES['float32'], shape) for name, shape in table.hf_shapes().items()}
  with _whole(out) as folder:
    files.write_json(folder / 'adapter_config.json', settings)
    if chat_template:
      (folder / TEMPLATE).write_text(chat_template, 'utf-8')
    if card:
      (folder / CARD).write_text(card, 'utf-8')
    tensor_files.write_file(folder / 'adapter_model.safetensors', entries, array_of)


@contextlib.contextmanager
def _whole(out: pathlib.Path, replace: bool = False) -> Iterator[pathlib.Path]:
  """Gives a folder to fill, then renames it: `out` is the old or the whole new one."""
  if (out.exists() or out.is_symlink()) and not replace:
    raise DataError(f'{out} exists already; choose another folder or remove it')
  # Nobody else's names: these folders are removed.
  partial, old = (out.with_name(f'.{out.name}.score_jax-{end}') for end in ('partial', 'old'))
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
  """Makes config.json name the weights' dtype; one that does stays byte for byte."""
  before = json.loads(path.read_text())
  named = {'dtype'} if new else before.keys() & {'dtype', 'torch_dtype'}
  after = before | dict.fromkeys(named, dtype.name)
  if after != before:
    files.write_json(path, after)


def _set_template(folder: pathlib.Path, template: str) -> None:
  """Makes the tokenizer's files name one template; files that do stay byte for byte."""
  own, settings = folder / TEMPLATE, folder / 'tokenizer_config.json'
  before = json.loads(settings.read_text()) if settings.exists() else {}
  held = own.read_text('utf-8') if own.exists() else before.get('chat_template')
  if isinstance(held, list):  # of several the default
    held = {named['name']: named['template'] for named in held}.get('default')
  if held != template:
    own.write_text(template, 'utf-8')
    if 'chat_template' in before:
      files.write_json(settings, before | dict(chat_template=template))


def _tensors(
  params: dict[str, Any], config: DecoderConfig, source: pathlib.Path | None, dtype: Any
) -> tuple[dict[str, Entry], Callable[[str], np.ndarray]]:
  """Returns a policy's tensors by HF name, and what makes one, on all hosts."""
  table = weights.weight_table(config)
  sizes, names, shapes = tuple(table.sizes.items()), table.by_hf_name(), table.hf_shapes()
  dtypes = dict.fromkeys(shapes, dtype) if isinstance(dtype, np.dtype) else dtype
  entries = {name: Entry(dtypes[name], shape) for name, shape in shapes.items()}
  given = {weight: loras.leaves_of(params, weight) for weight in table.weights}
  others = config.wrapper.others
  needed = others or any('' not in leaves for leaves in given.values())
  stored = open_weights(source, config) if source and needed else None
  for name, file in stored.where.items() if stored else ():
    if name.startswith(others):
      entries[name] = file.entries[name]

  def array_of(name: str) -> np.ndarray:
    if name not in names:  # of another part
      return stored.where[name].read(name)
    weight, index = names[name]
    own = None if '' in given[weight] else stored.where[name].read(name)
    if given[weight]:
      array = meshes.fetch_whole(_layer_maker(weight, sizes, dtypes[name])(given[weight], index, own))
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
  """Writes weight files of at most `max_shard` ('5GB') or one tensor, and an index of several.

  `array_of` makes a tensor by its HF name, once each, also where no folder is given.
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
    files.write_json(folder / INDEX, dict(metadata=split.metadata, weight_map=split.tensor_to_filename))


@functools.lru_cache(maxsize=256)
def _layer_maker(weight: weights.Weight, sizes: tuple[tuple[str, int], ...], dtype: np.dtype) -> Callable:
  """Compiles (leaves of a weight, index, the source's layer or None) -> a layer of the file."""

  def make(leaves, index, own):
    for n in index:
      leaves = {end: jax.lax.dynamic_index_in_dim(leaf, n, 0, keepdims=False) for end, leaf in leaves.items()}
    if own is not None:
      leaves = {'': weight.from_hf(own, dict(sizes)), **leaves}
    return weight.to_hf(loras.merged(weight, leaves), dict(sizes)).astype(dtype)

  return jax.jit(make)
