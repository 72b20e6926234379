# SPDX-License-Identifier: Apache-2.0
"""Whole training steps on random weights: seconds by phase, and the devices' idle share.

The loop's own step runs, on Countdown. A random model all but never ends a turn: attempts take their budgets.
"""

import functools
import pathlib
import shutil
import statistics
import tempfile
from typing import Any

import jax

from benchmarks import importing, machine
from benchmarks.setting import Setting
from score_jax import config as configs
from score_jax.configs import common
from score_jax.models.shapes import SHAPES
from score_jax.planning import machine_checks
from score_jax.reporting import profile
from score_jax.storage import hf
from score_jax.storage.checkpoints import open_checkpoints
from score_jax.storage.progress import Progress
from score_jax.training import loop, stages
from score_jax.training import run as runs
from score_jax.training.hooks import Training
from score_jax.training.methods import score

_SETTLING = 2  # steps before those that count
FIELDS = (
  *('shape', 'problems', 'samples', 'prompt', 'attempts', 'decode_slots', 'micro_batches', 'pack'),
  *('remat', 'mesh', 'repeats'),
)


def measure(setting: Setting) -> dict[str, Any]:
  """Measures steps; seconds are medians of `repeats`, but for the last, which is traced."""
  folder = pathlib.Path(setting.folder)
  model = folder / 'model'
  if not (model / 'config.json').exists():
    importing.write_random_folder(SHAPES[setting.shape], model)
    for name in ('tokenizer.json', 'tokenizer_config.json', 'chat_template.jinja'):
      shutil.copy(hf.folder_of('bundled:countdown_base') / name, model / name)
  compiles = machine.Compiles()
  with tempfile.TemporaryDirectory(dir=folder) as workdir:
    run = runs.open_run(run_config(setting, model), workdir)
    planned = _planned_mb(run.config)
    checkpoints, records = open_checkpoints(run.config, run.folder), []
    stage_run = stages.stage_run_at(run.config.stage_runs, 0)
    training = Training(run, checkpoints, runs.initial_state(run), Progress(), stage_run)
    training.state, context = score.enter(training)

    make = functools.partial(score.step_inputs, run, context)
    inputs = loop.prefetched(make, 0, _SETTLING + setting.repeats)

    def step(number: int) -> None:
      training.progress = Progress(step=number)
      training.state, record = score.run_step(training, context, next(inputs))
      records.append(record)

    for number in range(_SETTLING + setting.repeats - 1):
      step(number)
    compiled = compiles.count
    with profile.traced(folder / 'profile'):
      step(len(records))
  timed = [record['seconds'] for record in records[_SETTLING:-1] or records[-1:]]
  seconds = {phase: round(statistics.median(each[phase] for each in timed), 3) for phase in timed[0]}
  trace = profile.summary(folder / 'profile')
  return dict(
    device=jax.devices()[0].device_kind,
    devices=run.mesh.size,
    rows=run.config.rows,
    step_seconds=round(sum(seconds.values()), 3),
    seconds=seconds,
    idle=trace['idle'],
    traced_seconds=trace['span_seconds'],
    first_step_seconds=round(sum(records[0]['seconds'].values()), 1),
    compiles=compiled,
    compiles_after_settling=compiles.count - compiled,
    peak_mb=machine.peak_mb(),
    planned_mb=planned,
  )


def _planned_mb(config: configs.RunConfig) -> float | None:
  """Returns what `score_jax.doctor` foresees; None if the run does not fit."""
  asked = machine_checks.memory_here(config, tries=0).asked
  return asked and round(asked.peak / 1e6, 1)


def run_config(setting: Setting, model: pathlib.Path) -> configs.RunConfig:
  config = common.get_config()
  config.model.path = str(model)
  config.model.remat = setting.remat
  config.batch.problems = setting.problems
  config.batch.samples = setting.samples
  config.batch.micro_batches = setting.micro_batches
  config.batch.pack = setting.pack
  config.sampling.prompt_tokens = setting.prompt
  config.sampling.attempt_tokens = setting.attempts
  config.sampling.decode_slots = setting.decode_slots
  config.loss.attempt_gradient_norms = False
  config.mesh.data, config.mesh.fsdp, config.mesh.tensor = setting.mesh
  return configs.from_config_dict(config)
