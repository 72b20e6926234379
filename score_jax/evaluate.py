"""Evaluates an HF folder: `python -m score_jax.evaluate --model=DIR --config=configs/quickstart.py [--output=FILE]`.

Two-attempt accuracy on held-out problems, greedy and sampled at T=1, with 95 % intervals.
"""

import pathlib

from absl import flags

from score_jax import doors
from score_jax.errors import ConfigError

_CONFIG = doors.define_config()
_MODEL = flags.DEFINE_string('model', '', 'an HF folder; default: config.model.path')
_DISTRIBUTED = doors.define_distributed()
_OUTPUT = flags.DEFINE_string('output', '', 'also write the result to this JSON file; must not exist')


def main() -> None:
  config = doors.run_config(_CONFIG)
  if _OUTPUT.value and pathlib.Path(_OUTPUT.value).exists():
    raise ConfigError(f'--output={_OUTPUT.value} exists already; choose another file')
  if not pathlib.Path(_OUTPUT.value).parent.is_dir():
    raise ConfigError(f'--output={_OUTPUT.value}: there is no such folder')

  doors.join_hosts(_DISTRIBUTED, config)

  from score_jax.parallel import hosts
  from score_jax.parallel import mesh as meshes
  from score_jax.reporting import terminal
  from score_jax.storage import hf
  from score_jax.storage import run_folder
  from score_jax.tasks import heldout_problems
  from score_jax.tasks import open_task
  from score_jax.training import evaluation
  from score_jax.training import run
  from score_jax.verifiers.pool import open_grader

  task = open_task(config.task)
  heldout_problems(task, config.eval.problems, config.eval.seed)
  grader = open_grader(task.verifier, config.grading)
  mesh = meshes.make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
  folder = hf.folder_of(_MODEL.value or config.model.path)
  sampler = run.open_sampler(config, folder, mesh)
  params = sampler.layout(hf.read_params(folder, sampler.config, mesh, sampler.dtype, meshes.SAMPLING_RULES))
  result = evaluation.evaluate(
    sampler, task, grader, params, problems=config.eval.problems, seed=config.eval.seed, rows=config.rows
  )
  if hosts.is_main():
    print(terminal.table({_MODEL.value or config.model.path: result}))
  if hosts.is_main() and _OUTPUT.value:
    run_folder.write_json(pathlib.Path(_OUTPUT.value), result)


if __name__ == '__main__':
  doors.run(main)
