# SPDX-License-Identifier: Apache-2.0
"""Answers to questions of one's own, which nobody grades: all attempts of a conversation."""

from collections.abc import Callable
import dataclasses
import pathlib

from score_jax.config import RunConfig
from score_jax.core_types import Problem
from score_jax.errors import ConfigError
from score_jax.parallel import mesh as meshes
from score_jax.sampling import sampler as samplers
from score_jax.storage import hf, pins
from score_jax.storage.run_folder import RunFolder
from score_jax.tasks import problems
from score_jax.training import run as runs


def trained_instruction(model: str) -> str:
  """Returns the instruction that a run trained its model RUN/hf with; '': it is no run's."""
  try:
    trained = RunFolder(pathlib.Path(model).absolute().parent).read_config()['config']
  except ConfigError:
    return ''
  return trained.get('task', {}).get('instruction', '')  # none: of version 0.1


def open_answers(config: RunConfig, temperature: float) -> Callable[[str], list[str]]:
  """Loads config.model.path; returns what answers a question, with config.task.prompt around it, in all attempts.

  Greedy answers are those of an evaluation. Sampled ones differ from call to call.

  Raises:
    UserError: the model cannot be used; from a call, the question cannot be (it is too long, or holds special tokens).
  """
  asked = dataclasses.replace(config.task, data=problems.DataSpec((), ()))  # the model alone is read
  config = pins.pinned(dataclasses.replace(config, task=asked))
  folder = hf.folder_of(config.model.path)
  sampler = runs.open_sampler(config, folder, meshes.make_mesh(**vars(config.mesh)))
  params = sampler.layout(hf.read_params(folder, sampler.config, sampler.mesh, sampler.dtype, meshes.SAMPLING_RULES))
  spec, rows, calls = sampler.spec(temperature), meshes.row_shards(sampler.mesh), 0

  def answers(question: str) -> list[str]:
    nonlocal calls
    asked = problems.asked(config.task.prompt or '{question}', question=question)
    sampler.chat.check_text('the question', asked)
    key = samplers.stream_key(config.eval.seed, samplers.Stream.EVALUATION, calls)
    calls += 1
    prompts = sampler.encoded([Problem(id='(yours)', question=asked, reference={})] * rows)
    return sampler.texts(meshes.fetch_rows(sampler.sample(params, prompts, key, spec)))[0]

  return answers
