r"""Tells before a run whether it will do: `python -m score_jax.doctor --config=quickstart [--workdir=DIR]`.

On the machine that it is to run on, each in a line: devices, versions, data, grading, model and template, memory of the
compiled programs, disk, and two steps in a temporary folder. For TPUs that are not here, on any machine:

  python -m score_jax.doctor --config=math_gemma2_2b --model=gemma-2-2b --topology=v5e:4x4

compiles what the run would compile, with the TPU's compiler (`pip install 'jax[tpu]'`): memory, collectives and the
least time of each program, and, where it does not fit, the nearest setting that does. Exit code 0, or 78.
"""

import dataclasses
import json
import pathlib
import sys
from typing import TYPE_CHECKING
from typing import Any

from absl import flags

from score_jax import cli
from score_jax.errors import ConfigError

if TYPE_CHECKING:
  from score_jax.config import RunConfig

_CONFIG = cli.define_config()
_TOPOLOGY = flags.DEFINE_string('topology', '', 'TPUs that need not be here, e.g. v5e:4x4; default: the devices here')
_MODEL = flags.DEFINE_string(
  'model', '', 'an HF folder, or with --topology a name of score_jax.models.shapes.SHAPES; default: config.model.path'
)
_WORKDIR = flags.DEFINE_string('workdir', '', 'the run folder that is meant; default: runs/<name of the config file>')
_INSTRUCTION = flags.DEFINE_integer('instruction', 64, 'tokens between attempts, without a tokenizer', lower_bound=1)
_TRIES = flags.DEFINE_integer('tries', 3, 'settings to compile in search of one that fits; 0: none', lower_bound=0)
_DRY_RUN = flags.DEFINE_bool('dry_run', True, 'without --topology: whether two steps are run')
_JSON = flags.DEFINE_string('json', '', 'also write the results to this file')


def main() -> None:
  from score_jax.config import from_config_dict

  config = from_config_dict(_CONFIG.value)
  if config.mode != 'score':
    raise ConfigError(f"config.mode = {config.mode!r}: the doctor knows the programs of mode 'score' alone")
  if _JSON.value and not pathlib.Path(_JSON.value).resolve().parent.is_dir():
    raise ConfigError(f'--json={_JSON.value}: there is no such folder')
  good, data = _plan(config) if _TOPOLOGY.value else _check(config)
  if _JSON.value:
    pathlib.Path(_JSON.value).write_text(json.dumps(data, indent=1, default=str) + '\n')
  if not good:
    sys.exit(ConfigError.exit_code)


def _check(config: 'RunConfig') -> tuple[bool, Any]:
  """Checks the machine that this runs on."""
  from score_jax.planning import machine_checks

  if _MODEL.value:
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, path=_MODEL.value))
  workdir, results = _WORKDIR.value or f'runs/{cli.config_name()}', []
  for check in machine_checks.run_checks(config, workdir, tries=_TRIES.value, dry_run=_DRY_RUN.value):
    print(check.line, flush=True)
    results.append(check)
  return all(check.ok for check in results), [dataclasses.asdict(check) for check in results]


def _plan(config: 'RunConfig') -> tuple[bool, Any]:
  """Compiles for TPUs that need not be here."""
  import jax

  jax.config.update('jax_platforms', 'cpu')  # a TPU that is here may be at work
  from score_jax.planning import report
  from score_jax.planning import search

  request = search.topology_request(config, _TOPOLOGY.value, _MODEL.value, _INSTRUCTION.value)
  print(report.chip_line(request, _TOPOLOGY.value), flush=True)
  answer = search.answer(request, _TRIES.value, lambda text: print(text, file=sys.stderr, flush=True))
  print(report.text(answer))
  return answer.fits, report.as_data(answer) | dict(topology=_TOPOLOGY.value, devices=len(request.devices))


if __name__ == '__main__':
  cli.run(main)
