"""Evaluates a Hugging Face folder on a task's held-out problems."""

import pathlib
from typing import Any

from score_jax.config import RunConfig
from score_jax.core_types import Problem
from score_jax.errors import ConfigError
from score_jax.graders.pool import Grader
from score_jax.graders.pool import open_grader
from score_jax.graders.registry import GRADERS
from score_jax.parallel import hosts
from score_jax.parallel import mesh as meshes
from score_jax.reporting import test_time
from score_jax.storage import hf
from score_jax.tasks import heldout_problems
from score_jax.tasks import open_task
from score_jax.training import evaluation
from score_jax.training import first_attempts as given_attempts
from score_jax.training import preflight
from score_jax.training import run

_SCALING_TEMPERATURE = 0.7  # paper, section 6.2


def evaluate_folder(
  config: RunConfig, *, samples: int, temperature: float, scaling: int, first_attempts: str
) -> tuple[dict[str, Any], list[Any]]:
  """Returns the ledgers of config.model.path by decoding, and the rows that they were counted from.

  Of several hosts, host 0 has them; the others get ({}, []).

  Args:
    config: of the run.
    samples: K sampled conversations a problem.
    temperature: of the sampled conversations.
    scaling: K; above 0, 2K further conversations a problem at T=0.7 compare sequential with parallel sampling.
    first_attempts: a file of first attempts; '': the model's own.

  Raises:
    UserError: the model, the data or the file cannot be used, or `scaling` asks for a majority of programs.
  """
  task = open_task(config.task)
  votes = GRADERS[task.verifier].votes
  if scaling and not votes:
    raise ConfigError(f'scaling = {scaling} compares majorities, which programs do not have; use samples instead')
  problems = heldout_problems(task, config.eval.problems, config.eval.seed)
  problems = list({problem.id: problem for problem in problems}.values())
  # Before the devices: grader processes begin with nothing of them.
  grader = open_grader(task.verifier, config.grading)
  try:
    preflight.check_hosts(config, task)
    return _counted(config, problems, grader, samples, temperature, scaling, first_attempts, votes)
  finally:
    grader.close()


def _counted(
  config: RunConfig,
  problems: list[Problem],
  grader: Grader,
  samples: int,
  temperature: float,
  scaling: int,
  first_attempts: str,
  votes: bool,
) -> tuple[dict[str, Any], list[Any]]:
  """The rest of `evaluate_folder`, with devices."""
  mesh = meshes.make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
  folder = hf.folder_of(config.model.path)
  sampler = run.open_sampler(config, folder, mesh)
  first = None
  if first_attempts:
    first = given_attempts.read(pathlib.Path(first_attempts), problems, sampler.chat, sampler.budgets[0])
  params = sampler.layout(hf.read_params(folder, sampler.config, mesh, sampler.dtype, meshes.SAMPLING_RULES))

  def sampled(decoding: str, temperature: float, samples: int = 1) -> list[Any]:
    spec = sampler.spec(temperature=temperature)
    settings = (sampler, grader, params, problems, spec, config.eval.seed, config.rows)
    return evaluation.conversations(*settings, decoding=decoding, samples=samples, first=first)

  rows = dict(greedy=sampled('greedy', 0.0), sampled=sampled('sampled', temperature, samples))
  if scaling:
    rows['scaling'] = sampled('scaling', _SCALING_TEMPERATURE, 2 * scaling)
  if not hosts.is_main():  # which has the rows of all
    return {}, []
  results = {decoding: evaluation.accounted(part) for decoding, part in rows.items()}
  if samples > 1:
    results['sampled']['at_k'] = test_time.at_k(test_time.samples(rows['sampled']), votes)
  if scaling:
    results['scaling']['curves'] = test_time.scaling(test_time.samples(rows['scaling']), 2 * scaling)
  return results, [row for part in rows.values() for row in part]
