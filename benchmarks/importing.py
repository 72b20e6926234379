# SPDX-License-Identifier: Apache-2.0
"""Host memory and time of importing an HF folder of random weights of a published shape.

The kernel's high-water mark (VmHWM) misses no peak. It counts pages of mapped files as well.
"""

import json
import pathlib
import tempfile
import time
from typing import Any

import jax
from jax.sharding import Mesh
import numpy as np

from benchmarks.setting import Setting
from score_jax.models import config_json, weights
from score_jax.models.shapes import SHAPES
from score_jax.parallel import mesh as meshes
from score_jax.storage import hf, hf_export
from score_jax.storage.tensor_files import Entry

FIELDS = ('shape', 'dtype')


def measure(setting: Setting) -> dict[str, Any]:
  """Measures one import into the training layout on all devices; memory in MB.

  Returns:
    the result; `extra_host_mb` is the peak beyond a small import's, without parameters on CPU devices; `bound_mb` is
    1.3 times the largest tensor and 300 MB.
  """
  folder, shape, dtype = pathlib.Path(setting.folder), SHAPES[setting.shape], np.dtype(setting.dtype)
  if not (folder / 'config.json').exists():
    write_random_folder(shape, folder)
  mesh = meshes.make_mesh(-1, 1, 1)
  _load_libraries(shape, mesh, dtype)
  config = hf.read_config(folder)
  stored = hf.open_weights(folder, config)
  sizes = {name: file.entries[name].nbytes for name, file in stored.where.items()}
  before = _status('VmRSS')
  pathlib.Path('/proc/self/clear_refs').write_text('5')  # VmHWM begins again
  begun = time.perf_counter()
  params = jax.block_until_ready(hf.read_params(folder, config, mesh, dtype))
  seconds = time.perf_counter() - begun
  held = sum(leaf.nbytes for leaf in jax.tree.leaves(params)) if jax.default_backend() == 'cpu' else 0
  largest = max(sizes.values())
  return dict(
    device=jax.devices()[0].device_kind,
    folder_mb=_mb(sum(sizes.values())),
    largest_tensor_mb=_mb(largest),
    parameters_in_host_mb=_mb(held),
    extra_host_mb=_mb(_status('VmHWM') - before - held),
    bound_mb=_mb(1.3 * largest + 300e6),
    seconds=round(seconds, 2),
  )


def _load_libraries(settings: dict[str, Any], mesh: Mesh, dtype: np.dtype) -> None:
  """Imports a small model first: a device's libraries are not counted."""
  small = settings | dict(num_hidden_layers=2, vocab_size=128, intermediate_size=128)
  with tempfile.TemporaryDirectory() as parent:
    folder = pathlib.Path(parent) / 'small'
    write_random_folder(small, folder)
    jax.block_until_ready(hf.read_params(folder, hf.read_config(folder), mesh, dtype))


def write_random_folder(settings: dict[str, Any], folder: pathlib.Path) -> None:
  """Writes an HF folder with random bf16 weights for a config.json; no tokenizer."""
  table = weights.weight_table(config_json.from_hf(settings))
  entries = {name: Entry(hf.DTYPES['bfloat16'], shape) for name, shape in table.hf_shapes().items()}
  rng = np.random.default_rng(0)

  def array_of(name: str) -> np.ndarray:
    dtype, shape = entries[name]
    return (0.02 * rng.standard_normal(shape, np.float32)).astype(dtype)

  folder.mkdir(parents=True)
  (folder / 'config.json').write_text(json.dumps(settings))
  hf_export.write_shards(folder, entries, array_of, '1GB')


def _status(field: str) -> int:
  lines = pathlib.Path('/proc/self/status').read_text().splitlines()
  return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field + ':'))


def _mb(size: float) -> float:
  return round(size / 1e6, 1)
