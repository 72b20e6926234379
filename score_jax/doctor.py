r"""Tells before a run whether it will do: `python -m score_jax.doctor --config=configs/quickstart.py [--workdir=DIR]`.

On the machine that it is to run on, each in a line: devices, versions, data, grading, model and template, memory of the
compiled programs, disk, and two steps in a temporary folder. For TPUs that are not here, on any machine:

  python -m score_jax.doctor --config=configs/math_gemma2_2b.py --model=gemma-2-2b --topology=v5e:4x4

compiles what the run would compile, with the TPU's compiler (`pip install 'jax[tpu]'`): memory, collectives and the
least time of each program, and, where it does not fit, the nearest setting that does. Exit code 0, or 78.
"""

import json
import pathlib
import sys
from typing import Any

from absl import flags

from score_jax import cli
from score_jax.errors import ConfigError

_CONFIG = cli.define_config()
_TOPOLOGY = flags.DEFINE_string('topology', '', 'TPUs that need not be here, e.g. v5e:4x4; default: the devices here')
_MODEL = flags.DEFINE_string(
  'model', '', 'an HF folder, or with --topology a name of score_jax.models.shapes.SHAPES; default: config.model.path'
)
_WORKDIR = flags.DEFINE_string('workdir', '', 'the run folder that is meant; default: runs/<name of the config file>')
_INSTRUCTION = flags.DEFINE_integer('instruction', 64, 'tokens between attempts, without a tokenizer', lower_bound=1)
_TRIES = flags.DEFINE_integer('tries', 3, 'settings to compile in search of one that fits; 0: none', lower_bound=0)
_DRY_RUN = flags.DEFINE_bool('dry_run', True, 'without --topology: whether two steps are run')
_JSON = flags.DEFINE_string('json', '', 'also write what was found to this file')


def main() -> None:
  config = cli.run_config(_CONFIG)
  if config.mode != 'score':
    raise ConfigError(f"config.mode = {config.mode!r}: the doctor knows the programs of mode 'score' alone")
  if _JSON.value and not pathlib.Path(_JSON.value).resolve().parent.is_dir():
    raise ConfigError(f'--json={_JSON.value}: there is no such folder')
  good, data = _plan(config) if _TOPOLOGY.value else _check(config)
  if _JSON.value:
    pathlib.Path(_JSON.value).write_text(json.dumps(data, indent=1, default=str) + '\n')
  if not good:
    sys.exit(ConfigError.exit_code)


def _check(config: Any) -> tuple[bool, Any]:
  """The machine that this runs on."""
  import dataclasses

  from score_jax.planning import checks

  if _MODEL.value:
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, path=_MODEL.value))
  workdir = _WORKDIR.value or f'runs/{cli.config_name()}'
  found = []
  for check in checks.of(config, workdir, tries=_TRIES.value, dry_run=_DRY_RUN.value):
    print(check.line, flush=True)
    found.append(check)
  return all(check.ok for check in found), [dataclasses.asdict(check) for check in found]


def _plan(config: Any) -> tuple[bool, Any]:
  """TPUs that need not be here."""
  import jax

  jax.config.update('jax_platforms', 'cpu')  # a TPU that is here may be at work
  from score_jax.planning import ask
  from score_jax.planning import chips
  from score_jax.planning import programs
  from score_jax.planning import report
  from score_jax.planning import search
  from score_jax.planning import settings

  chip, count = chips.of_topology(_TOPOLOGY.value)
  decoder, rollout = settings.model_of(config, _MODEL.value, _INSTRUCTION.value)
  devices = tuple(programs.topology_mesh(_TOPOLOGY.value, (-1, 1, 1)).devices.flat)
  wanted = search.Wanted(config, decoder, rollout, settings.compute_dtype(config, 'tpu'), devices, chip.usable)
  print(report.chip_line(chip, count, _TOPOLOGY.value), flush=True)
  found = ask.answer(wanted, chip, _TRIES.value, lambda text: print(text, file=sys.stderr, flush=True))
  print(ask.text(found, config))
  return found.fits, ask.as_data(found, config) | dict(topology=_TOPOLOGY.value, devices=count)


if __name__ == '__main__':
  cli.run(main)
