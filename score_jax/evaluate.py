"""Evaluates an HF folder: `python -m score_jax.evaluate --model=DIR --config=configs/quickstart.py [--output=FILE]`.

Accuracy of each attempt on held-out problems and what changes between them, greedy and sampled at T=1, with 95 %
intervals. --samples=K adds avg@K, pass@k and majority; --scaling=K compares 2K samples with K samples and a correction
of each; --attempts, --instruction and --first_attempts change what is asked. docs/report.md has examples.
"""

import dataclasses
import pathlib
from typing import Any

from absl import flags

from score_jax import cli
from score_jax.config import RunConfig
from score_jax.errors import ConfigError

_CONFIG = cli.define_config()
_MODEL = flags.DEFINE_string('model', '', 'an HF folder; default: config.model.path')
_DISTRIBUTED = cli.define_distributed()
_OUTPUT = flags.DEFINE_string('output', '', 'also write the result to this JSON file; must not exist')
_WORKDIR = flags.DEFINE_string(
  'workdir', '', 'also write eval.json and rows/NAME.jsonl.gz to this folder, for score_jax.report; not a run folder'
)
_NAME = flags.DEFINE_string('name', 'evaluation', 'what this evaluation is called in --workdir')
_ATTEMPTS = flags.DEFINE_integer(
  'attempts',
  0,
  'attempts; more than configured repeat the last instruction and budget. 0: as configured',
)
_SAMPLES = flags.DEFINE_integer('samples', 1, 'K: sampled conversations a problem', lower_bound=1)
_TEMPERATURE = flags.DEFINE_float('temperature', 1.0, 'of sampled conversations', lower_bound=0.0)
_SCALING = flags.DEFINE_integer(
  'scaling', 0, 'K: 2K samples against K samples and a correction of each, majority, T=0.7. 0: not', lower_bound=0
)
_FIRST = flags.DEFINE_string('first_attempts', '', 'first attempts of another model: a .jsonl[.gz] file of {id, text}')
_INSTRUCTION = flags.DEFINE_string(
  'instruction', '', 'self_refine, paper_math, paper_code, or a text; default: config.task.instruction'
)

_SCALING_TEMPERATURE = 0.7  # paper, section 6.2


def main() -> None:
  config = _changed(cli.run_config(_CONFIG))
  _check_outputs()

  cli.join_hosts(_DISTRIBUTED, config)

  from score_jax.parallel import hosts
  from score_jax.reporting import rows as report_rows
  from score_jax.reporting import terminal
  from score_jax.storage import run_folder

  result, rows = _evaluated(config)
  if not hosts.is_main():
    return
  name = _MODEL.value or config.model.path
  print(terminal.table({name: result}))
  for text in terminal.compute_lines(result):
    print(text)
  if _OUTPUT.value:
    output = pathlib.Path(_OUTPUT.value)
    run_folder.write_json(output, result)
    report_rows.write(output.with_suffix('.rows.jsonl.gz'), rows)
  if _WORKDIR.value:
    folder = run_folder.RunFolder(_WORKDIR.value)
    report_rows.write(folder.rows / f'{_NAME.value}.jsonl.gz', rows)
    folder.write_eval(folder.read_eval() | {_NAME.value: result})


def _changed(config: RunConfig) -> RunConfig:
  """The configuration with what the flags change of it."""
  from score_jax.tasks import prompts

  if _ATTEMPTS.value:
    if _ATTEMPTS.value < 2:
      raise ConfigError(f'--attempts={_ATTEMPTS.value}: give 2 or more, a correction needs something to correct')
    budgets = config.sampling.attempt_tokens
    budgets = (budgets + budgets[-1:] * _ATTEMPTS.value)[: _ATTEMPTS.value]
    config = dataclasses.replace(config, sampling=dataclasses.replace(config.sampling, attempt_tokens=budgets))
  if _INSTRUCTION.value:
    instruction = prompts.INSTRUCTIONS.get(_INSTRUCTION.value, _INSTRUCTION.value)
    config = dataclasses.replace(config, task=dataclasses.replace(config.task, instruction=instruction))
  return config


def _check_outputs() -> None:
  """Before anything takes its time: whether the results have a place to go to."""
  output, folder = pathlib.Path(_OUTPUT.value), pathlib.Path(_WORKDIR.value)
  if _OUTPUT.value and output.exists():
    raise ConfigError(f'--output={_OUTPUT.value} exists already; choose another file')
  if not output.parent.is_dir():
    raise ConfigError(f'--output={_OUTPUT.value}: there is no such folder')
  if _WORKDIR.value and (folder / 'config.json').exists():
    raise ConfigError(f'--workdir={folder} is the folder of a run; choose another')
  if not _NAME.value.replace('_', '').replace('-', '').isalnum():
    raise ConfigError(f'--name={_NAME.value!r}: use letters, digits, - and _')
  if _WORKDIR.value and (folder / 'rows' / f'{_NAME.value}.jsonl.gz').exists():
    raise ConfigError(f'--workdir={folder} has an evaluation {_NAME.value!r} already; give another --name')


def _evaluated(config: RunConfig) -> tuple[dict[str, Any], list[Any]]:
  """The result and the rows that it was counted from."""
  from score_jax.tasks import heldout_problems
  from score_jax.tasks import open_task
  from score_jax.training import admission
  from score_jax.graders.pool import open_grader

  task = open_task(config.task)
  problems = heldout_problems(task, config.eval.problems, config.eval.seed)
  problems = list({problem.id: problem for problem in problems}.values())
  # Before the devices: grader processes begin with nothing of them.
  grader = open_grader(task.verifier, config.grading)
  try:
    admission.check_hosts(config, task)
    return _counted(config, problems, grader)
  except BaseException:
    grader.close()
    raise


def _counted(config: RunConfig, problems: list[Any], grader: Any) -> tuple[dict[str, Any], list[Any]]:
  """The rest of `_evaluated`."""
  from score_jax.parallel import hosts
  from score_jax.parallel import mesh as meshes
  from score_jax.reporting import compute
  from score_jax.storage import hf
  from score_jax.training import evaluation
  from score_jax.training import first_attempts
  from score_jax.training import run

  mesh = meshes.make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
  folder = hf.folder_of(_MODEL.value or config.model.path)
  sampler = run.open_sampler(config, folder, mesh)
  first = None
  if _FIRST.value:
    first = first_attempts.read(pathlib.Path(_FIRST.value), problems, sampler.chat, sampler.budgets[0])
  params = sampler.layout(hf.read_params(folder, sampler.config, mesh, sampler.dtype, meshes.SAMPLING_RULES))

  def sampled(way: str, temperature: float, samples: int = 1) -> list[Any]:
    spec = sampler.spec(temperature=temperature)
    settings = (sampler, grader, params, problems, spec, config.eval.seed, config.rows)
    return evaluation.conversations(*settings, way=way, samples=samples, first=first)

  found = dict(greedy=sampled('greedy', 0.0), sampled=sampled('sampled', _TEMPERATURE.value, _SAMPLES.value))
  if _SCALING.value:
    found['scaling'] = sampled('scaling', _SCALING_TEMPERATURE, 2 * _SCALING.value)
  if not hosts.is_main():  # which has the rows of all
    return {}, []
  result = {way: evaluation.accounted(part) for way, part in found.items()}
  if _SAMPLES.value > 1:
    result['sampled']['at_k'] = compute.at_k(compute.sampled(found['sampled']))
  if _SCALING.value:
    result['scaling']['curves'] = compute.scaling(compute.sampled(found['scaling']), 2 * _SCALING.value)
  return result, [row for part in found.values() for row in part]


if __name__ == '__main__':
  cli.run(main)
