# SPDX-License-Identifier: Apache-2.0
"""Evaluates an HF folder: `python -m score_jax.evaluate --model=DIR --config=quickstart [--output=FILE]`.

Accuracy of each attempt on held-out problems and the changes between them, greedy and sampled, with 95 % intervals.
"""

import os
import pathlib
import sys
import tempfile
import types
from typing import Any

from absl import flags

from score_jax import cli
from score_jax.errors import ConfigError

_CONFIG = cli.define_config()
_MODEL = flags.DEFINE_string('model', '', 'an HF folder or hub id; default: config.model.path')
_DISTRIBUTED = cli.define_distributed()
_OUTPUT = flags.DEFINE_string('output', '', 'also write the result to this JSON file; must not exist')
_WORKDIR = flags.DEFINE_string('workdir', '', 'also write eval.json and rows/NAME.jsonl.gz here, for reports')
_NAME = flags.DEFINE_string('name', 'evaluation', 'what this evaluation is called in --workdir')
_ATTEMPTS, _INSTRUCTION = cli.define_attempts()
_SAMPLES = flags.DEFINE_integer('samples', 1, 'K: sampled conversations a problem', lower_bound=1)
_TEMPERATURE = flags.DEFINE_float('temperature', 1.0, 'of sampled conversations', lower_bound=0.0)
_SCALING = flags.DEFINE_integer(
  'scaling', 0, 'K: majority of 2K samples against K and their corrections, T=0.7. 0: not', lower_bound=0
)
_FIRST = flags.DEFINE_string('first_attempts', '', "another model's: a .jsonl[.gz] file of {id, text}")


class _Callable(types.ModuleType):
  """This module, which hides the function `score_jax.evaluate` once imported."""

  def __call__(self, *args: Any, **kwargs: Any) -> Any:
    from score_jax import api

    return api.evaluate(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable


def main() -> None:
  _check_outputs()

  from score_jax import api, files
  from score_jax.parallel import hosts
  from score_jax.reporting import rows
  from score_jax.storage import run_folder

  result = api.evaluate(
    _CONFIG.value,
    model=_MODEL.value or None,
    attempts=_ATTEMPTS.value,
    samples=_SAMPLES.value,
    temperature=_TEMPERATURE.value,
    scaling=_SCALING.value,
    instruction=_INSTRUCTION.value,
    first_attempts=_FIRST.value,
    distributed=_DISTRIBUTED.value,
  )
  if not hosts.is_main():
    return
  print(result.table())
  if _OUTPUT.value:
    output = pathlib.Path(_OUTPUT.value)
    files.write_json(output, result.results)
    rows.write(output.with_suffix('.rows.jsonl.gz'), result.rows)
  if _WORKDIR.value:
    folder = run_folder.RunFolder(_WORKDIR.value)
    rows.write(folder.rows / f'{_NAME.value}.jsonl.gz', result.rows)
    folder.write_eval(folder.read_eval() | {_NAME.value: result.results})


def _check_outputs() -> None:
  output, workdir, name = pathlib.Path(_OUTPUT.value), _WORKDIR.value, _NAME.value
  folder = pathlib.Path(workdir)
  if _OUTPUT.value and output.exists():
    raise ConfigError(f'--output={output} exists already; choose another file')
  if not output.parent.is_dir():
    raise ConfigError(f'--output={output}: there is no such folder')
  if '://' in workdir:
    raise ConfigError(f'--workdir={workdir}: name a folder of this machine')
  if workdir and (folder / 'config.json').exists():
    raise ConfigError(f'--workdir={folder} is the folder of a run; choose another')
  if not name.replace('_', '').replace('-', '').isalnum():
    raise ConfigError(f'--name={name!r}: use letters, digits, - and _')
  if workdir and (folder / f'rows/{name}.jsonl.gz').exists():
    raise ConfigError(f'--workdir={folder} has an evaluation {name!r} already; give another --name')
  for wanted in [output.parent] * bool(_OUTPUT.value) + [folder] * bool(workdir):
    nearest = next(path for path in (wanted, *wanted.absolute().parents) if os.path.lexists(path))
    if not nearest.is_dir():
      raise ConfigError(f'{nearest} is no folder; name a path that can be used')
    with tempfile.TemporaryFile(dir=nearest):
      pass  # the disk takes files: what was evaluated would be lost


if __name__ == '__main__':
  cli.run(main)
