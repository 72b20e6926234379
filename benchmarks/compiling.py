# SPDX-License-Identifier: Apache-2.0
"""Rollouts compiled for TPUs that are not here: memory, and what a decode step moves beside the least that it could.

A row that is in the file of results already is not compiled again; one that failed is.
"""

from collections.abc import Callable, Iterator
import dataclasses
import functools
import importlib.metadata
import itertools
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.setting import Setting
from score_jax.config import from_config_dict, load_config
from score_jax.errors import ConfigError
from score_jax.models import config_json
from score_jax.models.families import DecoderConfig
from score_jax.models.shapes import SHAPES
from score_jax.planning import costs, decoding, programs, search
from score_jax.sampling.spec import RolloutSpec

FIELDS = (
  *('topologies', 'shapes', 'tensors', 'rows', 'prompt', 'attempts', 'instruction', 'mean_length'),
  *('layers', 'drafts'),
)
_TITLES = (
  *('topology', 'tensor', 'model', 'layers', 'rows', 'compiled', 'temporary', 'peak of', 'attention', 'operations'),
  *('start', 'middle', 'end', 'whole budgets', 'real answers', ''),
)
_STEPS = ('start', 'middle', 'end', 'whole_budgets', 'real_answers')
_PROGRAMS = ('layout', 'rollout')  # the first makes what the second is given

Row = dict[str, Any]


def measure(setting: Setting) -> list[Row]:
  """Compiles the rollout of every shape for every topology and tensor axis; prints rows of a table as it goes.

  Raises:
    ConfigError: a shape or topology has no such name; or, at the end, rows failed.
  """
  if unknown := set(setting.shapes) - set(SHAPES):
    raise ConfigError(f'--shapes={",".join(sorted(unknown))}: use some of {", ".join(SHAPES)}')
  for topology in setting.topologies:
    costs.chip_of(topology)
  results = pathlib.Path(setting.results) if setting.results else None
  known, rows = _known(results), []
  print(_line(_TITLES), _line(['-'] * len(_TITLES)), sep='\n', flush=True)
  for key in _keys(setting):
    row = known.get(_identity(key)) or key | _compiled(setting, key)
    if results and _identity(key) not in known:
      with results.open('a') as file:
        file.write(json.dumps(row) + '\n')
    rows.append(row)
    print(_line(_cells(row)), flush=True)
  failed = [row for row in rows if row['failure']]
  for row in failed:
    print(f'{row["shape"]}, {row["topology"]}, tensor {row["tensor"]}: {row["failure"]}')
  if failed:
    raise ConfigError(f'{len(failed)} of {len(rows)} programs do not compile or fit')
  return rows


def _keys(setting: Setting) -> Iterator[Row]:
  """Yields what tells a row from all others."""
  shared = dict(rows=setting.rows, prompt=setting.prompt, attempts=list(setting.attempts), dtype=setting.dtype)
  shared |= dict(instruction=setting.instruction, mean_length=setting.mean_length)
  shared |= dict(layers=setting.layers, drafts=setting.drafts[0])
  try:
    shared |= {name: importlib.metadata.version(name) for name in ('jax', 'libtpu')}
  except ModuleNotFoundError as error:
    raise ConfigError("libtpu, the TPU's compiler, is not installed: pip install 'jax[tpu]'") from error
  for shape, topology, tensor in itertools.product(setting.shapes, setting.topologies, setting.tensors):
    yield dict(topology=topology, tensor=tensor, shape=shape) | shared


def _identity(key: Row) -> str:
  return json.dumps(key, sort_keys=True)


def _known(results: pathlib.Path | None) -> dict[str, Row]:
  """Returns the rows of an earlier call that did not fail, by identity."""
  if not results or not results.exists():
    return {}
  rows = [json.loads(line) for line in results.read_text().splitlines()]
  added = {field.name for field in dataclasses.fields(_Outcome)}
  return {
    _identity({name: value for name, value in row.items() if name not in added}): row
    for row in rows
    if not row['failure']
  }


@dataclasses.dataclass(frozen=True)
class _Outcome:
  """What compiling a row came to; bytes are of one chip."""

  failure: str = ''  # why it does not fit or compile
  slots: int = 0  # rows that a chip, or the chips that share a model, decode at a time
  seconds: float = 0.0  # of tracing and compiling
  temporary: int = 0  # of the rollout
  peak: int = 0  # of layout and rollout, with what a run holds
  kernel: str = ''  # of `decode_attention`
  operations: int = 0  # that a decode step starts
  steps: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)  # by _STEPS: bytes moved, and the floor


def _compiled(setting: Setting, key: Row) -> Row:
  """Returns the outcome of a row as plain data."""
  try:
    outcome = _outcome(setting, key)
  except Exception as error:  # the next rows are compiled all the same
    outcome = _Outcome(' '.join(f'{type(error).__name__}: {error}'.split())[:300])
  return dataclasses.asdict(outcome)


def _outcome(setting: Setting, key: Row) -> _Outcome:
  decoder = config_json.from_hf(SHAPES[key['shape']], key['shape'])
  request, slots, needs = _largest(lambda rows: _request(setting, key, decoder, rows), setting.rows)
  usable = request.chip.usable
  if needs > usable:
    return _Outcome(f'one row needs about {needs / costs.GIB:.1f} of {usable / costs.GIB:.2f} GiB', slots)
  if setting.layers:
    request = dataclasses.replace(request, decoder=_cut(decoder, setting.layers))
  plan = request.plan({})
  done = {name: programs.compiled(plan, name)[0] for name in _PROGRAMS}
  rollout, peak = done['rollout'], max(each.peak + costs.beside(plan, name) for name, each in done.items())
  failure = '' if peak <= usable else f'it takes {peak / costs.GIB:.2f} of {usable / costs.GIB:.2f} GiB'
  steps = {}
  if rollout.step_bytes:
    whole, real = decoding.whole_budgets(plan), decoding.real_lengths(plan, _mean(setting))
    last = plan.rollout.growth - 1
    asked = zip(_STEPS, [(whole, [0]), (whole, [last // 2]), (whole, [last]), (whole, None), (real, None)], strict=True)
    steps = {name: dataclasses.asdict(decoding.step(plan, rollout.step_bytes, *one)) for name, one in asked}
  seconds = sum(each.seconds for each in done.values())
  told = dict(kernel=plan.rollout.kernel, operations=rollout.step_operations, steps=steps)
  return _Outcome(failure, slots, seconds, rollout.temporary, peak, **told)


def _mean(setting: Setting) -> float:
  return setting.mean_length or decoding.MEAN_ANSWER


def _largest(request_of: Callable[[int], search.Request], rows: int) -> tuple[search.Request, int, float]:
  """Halves rows until a whole model's programs are estimated to fit; returns the request, its rows, its bytes."""
  while True:
    request = request_of(rows)
    needs = max(search.estimated(request, {}, names=_PROGRAMS).values())
    if needs <= request.chip.usable or rows == 1:
      return request, rows, needs
    rows //= 2


def _request(setting: Setting, key: Row, decoder: DecoderConfig, rows: int) -> search.Request:
  topology, tensor = key['topology'], key['tensor']
  devices = _devices(topology)
  groups = len(devices) // tensor
  fields = {
    'mesh.data': 1,
    'mesh.fsdp': groups,
    'mesh.tensor': tensor,
    'batch.problems': groups,
    'batch.micro_batches': 1,
    'sampling.prompt_tokens': setting.prompt,
    'model.remat': 'full',
  }
  config = from_config_dict(load_config('score', fields))
  separators = (tuple(range(setting.instruction)),) * (len(setting.attempts) - 1)
  rollout = RolloutSpec(setting.attempts, separators, end_of_turn=0, stops=(0,), pad=0, drafts=setting.drafts[0])
  dtype, chip = jnp.dtype(setting.dtype), costs.chip_of(topology)
  return search.Request(config, decoder, rollout, dtype, devices, chip, rows=groups * rows)


@functools.cache
def _devices(topology: str) -> tuple[Any, ...]:
  jax.config.update('jax_platforms', 'cpu')  # a TPU that is here may be at work
  jax.config.update('jax_enable_compilation_cache', False)  # which can't be read back without the devices
  megacore = dict(chip_config_name='megacore') if costs.chip_of(topology).kind == 'TPU v4' else {}
  return programs.topology_devices(topology, **megacore)


def _cut(decoder: DecoderConfig, layers: int) -> DecoderConfig:
  """Returns a model of the first layers alone."""
  layers = min(layers, decoder.layers)
  return dataclasses.replace(decoder, layers=layers, kind_of_layer=decoder.kind_of_layer[:layers])


def _cells(row: Row) -> list[str]:
  usable, steps = costs.chip_of(row['topology']).usable, row['steps']
  compiled = bool(row['seconds'])
  return [
    row['topology'],
    str(row['tensor']),
    row['shape'],
    str(row['layers'] or 'all'),
    str(row['slots'] or '?'),
    f'{row["seconds"]:.0f} s' if compiled else '',
    f'{row["temporary"] / costs.GIB:.2f}' if compiled else '',
    f'{row["peak"] / costs.GIB:.2f} of {usable / costs.GIB:.2f}' if compiled else '',
    (row['kernel'] or 'plain') if compiled else '',
    str(row['operations'] or ''),
    *(_step(steps.get(name)) for name in _STEPS),
    'NO' if row['failure'] else 'fits',
  ]


def _step(step: dict[str, float] | None) -> str:
  return f'{step["moved"] / 1e9:.2f}, {step["moved"] / step["floor"]:.2f}' if step else ''


def _line(cells: Any) -> str:
  return f'| {" | ".join(cells)} |'
