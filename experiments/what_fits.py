# SPDX-License-Identifier: Apache-2.0
"""Asks the doctor what fits the accelerators of Colab and Kaggle: `python -m experiments.what_fits [--only=v5e_1,t4]`.

Each cell is a run of the doctor: compiled for TPUs (`pip install 'jax[tpu]'`, minutes a cell), estimated for GPUs.
Written: experiments/results/what_fits/NAME.json of each accelerator that is asked about, and the table of all in
docs/presets.md.
"""

import datetime
import importlib.metadata
import json
import pathlib
import re
import subprocess
import sys
import tempfile
from typing import Any

from absl import flags

from score_jax import cli, files
from score_jax.configs.accelerators import ACCELERATORS
from score_jax.planning.costs import GPUS

RESULTS = pathlib.Path('experiments/results/what_fits')
PAGE = pathlib.Path('docs/presets.md')
_FULL = '--config.model.remat=full'
# What is trained: a shape of the doctor, and fields beside the preset's.
MODELS = {
  'qwen2.5-coder-0.5b, adapters': ('qwen2.5-0.5b', []),
  'qwen2.5-coder-0.5b, all weights': ('qwen2.5-0.5b', ['--config.lora.rank=0', _FULL]),
  'qwen2.5-coder-1.5b, adapters': ('qwen2.5-1.5b', [_FULL]),
  'gemma-2-2b, adapters': ('gemma-2-2b', [_FULL, '--config.sampling.decode_slots=32']),
}
_BEGIN, _END = '<!-- drawn by python -m experiments.what_fits -->', '<!-- end -->'
_GIB = 1 << 30
_COMPILE = flags.DEFINE_bool('compile', True, 'else what was not compiled before is estimated')
_ONLY = flags.DEFINE_list('only', [], 'names of accelerators; default: all')


def main() -> None:
  RESULTS.mkdir(exist_ok=True)
  versions = {name: _version(name) for name in ('jax', 'libtpu')}
  known = dict(date=str(datetime.date.today()), **versions, cells={})
  for name in _ONLY.value or ACCELERATORS:
    known['cells'] = {} if _COMPILE.value else recorded().get(name, {}).get('cells', {})
    for model in MODELS:
      if 'peaks' in known['cells'].get(model, {}):
        continue
      known['cells'][model] = one = cell(name, model, compiling=_COMPILE.value)
      files.write_json(RESULTS / f'{name}.json', known)
      print(name, model, text(one), flush=True)
  page = PAGE.read_text()
  files.write_bytes(PAGE, with_table(page, table(recorded())).encode())


def command(name: str, model: str, compiling: bool) -> list[str]:
  """Returns what a cell asks of the doctor."""
  shape, fields = MODELS[model]
  chosen = f'--config=gsm8k_{name}', f'--model={shape}', f'--topology={ACCELERATORS[name].topology}'
  return ['doctor', *chosen, *fields, *([] if compiling or name in GPUS else ['--nocompile'])]


def cell(name: str, model: str, *, compiling: bool = True) -> dict[str, Any]:
  """Runs the doctor for a model on an accelerator."""
  asked = command(name, model, compiling)
  with tempfile.TemporaryDirectory() as folder:
    result = pathlib.Path(folder) / 'doctor.json'
    run = [sys.executable, '-m', f'score_jax.{asked[0]}', *asked[1:], f'--json={result}']
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    if not result.exists():
      raise RuntimeError(f'{" ".join(asked)}: {done.stderr[-2000:]}')
    return dict(command=f'score-jax {" ".join(asked)}') | summary(json.loads(result.read_text()))


def summary(answer: dict[str, Any]) -> dict[str, Any]:
  """Returns what a cell says of the doctor's answer: of what was asked, what it proposes, or what comes nearest.

  Keys: `fits`, perhaps with `flags`; `peak` and `usable`, bytes; `program`, that has the peak; `floor`, seconds of a
  step by shapes; `peaks` by program, where they were compiled.
  """
  usable, estimated, close = answer['usable'], answer['estimated'], answer.get('nearest')
  told = dict(usable=usable, estimated=estimated)
  setting = answer['asked'] if answer['fits'] else answer.get('proposed')
  if setting:
    peaks = {name: one['with_what_is_held'] for name, one in setting['programs'].items()}
    worst = max(peaks, key=lambda name: peaks[name])
    floor = sum(one['floor']['seconds'] for one in setting['programs'].values())
    return told | dict(
      fits=True, flags=setting['flags'], peak=peaks[worst], program=worst, floor=round(floor, 2), peaks=peaks
    )
  if not close:
    return told | dict(fits=False, refusal=answer['refusal'])
  fits = estimated and close['bytes'] <= usable
  shown = dict(
    flags=close['flags'], peak=round(close['bytes']), program=close['program'], floor=round(close['floor'], 2)
  )
  return told | dict(fits=fits) | shown


def recorded() -> dict[str, Any]:
  """Returns what lies in RESULTS, by accelerator."""
  paths = {name: RESULTS / f'{name}.json' for name in ACCELERATORS}
  return {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}


def text(one: dict[str, Any]) -> str:
  """Returns a cell of the table, in GiB."""
  if 'peak' not in one:
    return 'no' if one else 'not asked'
  peak = f'{"~" * one["estimated"]}{one["peak"] / _GIB:.1f}'
  if not one['fits']:
    return f'no: {peak}'
  changed = ', '.join(f'`{_short(flag)}`' for flag in one['flags'])
  return f'{peak}; {changed}' if changed else f'**{peak}**'


def _short(flag: str) -> str:
  field, _, value = flag.partition('=')
  return f'{field.split(".")[-1]}={value.removesuffix(".0")}'


def table(results: dict[str, Any]) -> str:
  """Returns the table of all accelerators, with the versions and dates of what was asked."""
  columns = list(results.values())
  chips = [f'{ACCELERATORS[name].name}, {_room(one):.1f}' for name, one in results.items()]
  lines = [f'| GiB of | {" | ".join(chips)} |', f'|---{"|---" * len(chips)}|']
  for model in MODELS:
    lines.append(f'| {model} | {" | ".join(text(one["cells"].get(model, {})) for one in columns)} |')
  first = next(iter(MODELS))
  least = [f'{one["cells"][first]["floor"]:.0f} s' for one in columns]
  lines.append(f'| a step of the first row, at least | {" | ".join(least)} |')
  told = {key: ', '.join(sorted({one[key] for one in columns} - {''})) for key in ('jax', 'libtpu', 'date')}
  lines += ['', f'(jax {told["jax"]}, libtpu {told["libtpu"]}, {told["date"]})']
  return '\n'.join(lines)


def _version(package: str) -> str:
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return ''


def _room(one: dict[str, Any]) -> float:
  return next(iter(one['cells'].values()))['usable'] / _GIB


def with_table(page: str, drawn: str) -> str:
  """Returns the page with its table replaced."""
  pattern = re.compile(f'(?<={re.escape(_BEGIN)}\n).*?(?={re.escape(_END)})', re.DOTALL)
  return pattern.sub(lambda _: f'\n{drawn}\n\n', page)


if __name__ == '__main__':
  cli.run(main)
