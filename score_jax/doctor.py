# SPDX-License-Identifier: Apache-2.0
r"""Tells before a run whether it will do: `python -m score_jax.doctor --config=quickstart [--workdir=DIR]`.

It checks this machine, and runs two steps. For TPUs that are not here (`pip install 'jax[tpu]'`)

  python -m score_jax.doctor --config=math_gemma2_2b --model=gemma-2-2b --topology=v5e:4x4

compiles the programs: their memory, collectives, least times, and the nearest setting that fits. For GPUs that are not
here, --topology=t4:1 or l4:1, it estimates the memory alone. Exit code 0, or 78.
"""

import dataclasses
import json
import pathlib
import sys
from typing import Any

from absl import flags

from score_jax import cli
from score_jax.errors import ConfigError

_CONFIG = cli.define_config()
_TOPOLOGY = flags.DEFINE_string('topology', '', 'TPUs, e.g. v5e:4x4, or GPUs, e.g. t4:1; default: the devices here')
_MODEL = flags.DEFINE_string(
  'model', '', "an HF folder, a hub id or, with --topology, a shape's name; default: config.model.path"
)
_WORKDIR = flags.DEFINE_string('workdir', '', 'the run folder; default: runs/<name of the config>')
_INSTRUCTION = flags.DEFINE_integer('instruction', 64, 'tokens between attempts, without a tokenizer', lower_bound=1)
_TRIES = flags.DEFINE_integer('tries', 3, 'settings to compile if it does not fit', lower_bound=0)
_DRY_RUN = flags.DEFINE_bool('dry_run', True, 'without --topology: run two steps')
_COMPILE = flags.DEFINE_bool('compile', True, 'with --topology: compile the programs; else estimate, in seconds')
_JSON = flags.DEFINE_string('json', '', 'also write the results to this file')


def main() -> None:
  from score_jax.config import from_config_dict

  config = from_config_dict(_CONFIG.value)
  if config.mode != 'score':
    raise ConfigError(f"config.mode = {config.mode!r}: the doctor knows mode 'score' alone")
  if _JSON.value and not pathlib.Path(_JSON.value).resolve().parent.is_dir():
    raise ConfigError(f'--json={_JSON.value}: there is no such folder')
  good, data = _plan(config) if _TOPOLOGY.value else _check(config)
  if _JSON.value:
    pathlib.Path(_JSON.value).write_text(json.dumps(data, indent=1) + '\n')
  if not good:
    sys.exit(ConfigError.exit_code)


def _check(config: Any) -> tuple[bool, Any]:
  from score_jax.planning import machine_checks

  if _MODEL.value:
    model = dataclasses.replace(config.model, path=_MODEL.value)
    config = dataclasses.replace(config, model=model)
  workdir, results = _WORKDIR.value or f'runs/{cli.config_name()}', []
  for check in machine_checks.run_checks(config, workdir, tries=_TRIES.value, dry_run=_DRY_RUN.value):
    print(check.line, flush=True)
    results.append(check)
  return all(check.ok for check in results), [dataclasses.asdict(check) for check in results]


def _plan(config: Any) -> tuple[bool, Any]:
  import jax

  jax.config.update('jax_platforms', 'cpu')  # a TPU that is here may be at work
  jax.config.update('jax_enable_compilation_cache', False)  # which can't be read back without the devices
  from score_jax.planning import report, search

  topology = _TOPOLOGY.value
  request = search.topology_request(config, topology, _MODEL.value, _INSTRUCTION.value)
  print(f'{topology}: {report.chip_line(request)}', flush=True)
  answer = search.answer(request, _TRIES.value, compiling=_COMPILE.value)
  print(report.text(answer))
  return answer.fits, dict(topology=topology, devices=len(request.devices)) | report.as_data(answer)


if __name__ == '__main__':
  cli.run(main)
