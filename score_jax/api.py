# SPDX-License-Identifier: Apache-2.0
"""The public functions: train a model, evaluate one, look at a run. The commands are flags around them.

import score_jax
run = score_jax.train('quickstart', workdir='runs/mine', max_steps=10)
print(run.table())
"""

from collections.abc import Callable, Sequence
import dataclasses
import json
import math
import pathlib
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict

from score_jax import config as configs
from score_jax.errors import ConfigError

if TYPE_CHECKING:
  from score_jax.training.hooks import Hook

Path = str | pathlib.Path


@dataclasses.dataclass(frozen=True)
class Run:
  """A run folder: what a training has written, finished or under way."""

  path: pathlib.Path

  @property
  def config(self) -> dict[str, Any]:
    """The configuration as it was run."""
    return self._folder.read_config()['config']

  @property
  def metrics(self) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, one a step (docs/report.md has the keys)."""
    return [json.loads(line) for line in self._folder.metrics.read_text().splitlines()]

  @property
  def evaluations(self) -> dict[str, Any]:
    """The content of eval.json: 'base', 'final' and, if that is another, 'last'."""
    return self._folder.read_eval()

  @property
  def model(self) -> pathlib.Path:
    """The Hugging Face folder of the final policy."""
    return self._folder.hf

  def rows(self, name: str = 'final') -> list[Any]:
    """Returns the `reporting.rows.Row`s of an evaluation: 'base', 'final', 'last', 'step20', ..."""
    from score_jax.reporting import rows

    return list(rows.read(self._folder.rows / f'{name}.jsonl.gz'))

  def table(self) -> str:
    """Returns each attempt's accuracy and the changes between them, with 95 % intervals."""
    from score_jax.reporting import plain_text

    return plain_text.table({name: value for name, value in self.evaluations.items() if name != 'settings'})

  def report(self, out: Path | None = None) -> pathlib.Path:
    """Writes the report page (default: report.html in the run folder); returns its path."""
    from score_jax.reporting import report_page

    target = pathlib.Path(out) if out else self._folder.report
    report_page.write([self.path], target)
    return target

  @property
  def _folder(self) -> Any:
    from score_jax.storage.run_folder import RunFolder

    return RunFolder(self.path)


@dataclasses.dataclass(frozen=True)
class Conversation:
  """A model that answers, is asked again, and answers again."""

  attempts: Callable[[str], list[str]]  # of a question; raises UserError if it is too long
  instructions: tuple[str, ...]  # what the model is told before each attempt but the first


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """What an evaluation has found."""

  name: str  # of the model
  results: dict[str, Any]  # as in eval.json: 'greedy', 'sampled' and, if asked for, 'scaling'
  rows: list[Any]  # the conversations

  def table(self) -> str:
    """Returns accuracies and changes with 95 % intervals, and further figures."""
    from score_jax.reporting import plain_text as text

    return '\n'.join([text.table({self.name: self.results}), *text.sample_lines(self.results)])


def train(
  config: Path | ConfigDict,
  *,
  workdir: Path,
  model: Path | None = None,
  hooks: Sequence['Hook'] = (),
  profile: int = 0,
  distributed: str = 'off',
  **overrides: Any,
) -> Run:
  """Trains, or goes on with a run that was cut off; evaluates, exports and reports the best policy.

  Args:
    config: a preset's name, the path of a file, or a ConfigDict.
    workdir: the run folder, or an address gs://BUCKET/NAME.
    model: the HF folder or hub id to begin from; None: config.model.path.
    hooks: called around each step.
    profile: steps to trace into WORKDIR/profile, from the third on.
    distributed: as the flag --distributed.
    **overrides: values by field, e.g. max_steps=10, or **{'optim.learning_rate': 1e-4}.

  Raises UserError: the input is wrong, or the run was stopped.
  """
  from score_jax.parallel import hosts

  settings = _settings(config, model, overrides)
  hosts.start(distributed, **vars(settings.hosts))  # before any device is used

  from score_jax.faults import watchdog
  from score_jax.planning import fit
  from score_jax.reporting import profile as profiles
  from score_jax.storage import stores
  from score_jax.training import loop
  from score_jax.training import run as runs

  faults = settings.faults
  patience = watchdog.Patience(faults.stuck_first_seconds, faults.stuck_seconds, faults.stuck_factor)
  with watchdog.watching(str(stores.store_of(workdir).local), patience):
    with watchdog.phase('open'):
      opened = runs.open_run(settings, str(workdir), fit.check_run)
    traced = profile if hosts.is_main() else 0
    tracer = profiles.Tracer(opened.folder.path / 'profile', traced) if traced else profiles.NO_TRACE
    try:
      loop.train(opened, hooks=hooks, tracer=tracer)
    finally:
      opened.grader.close()
  return Run(opened.folder.path)


def evaluate(
  config: Path | ConfigDict,
  *,
  model: Path | None = None,
  attempts: int = 0,
  samples: int = 1,
  temperature: float = 1.0,
  scaling: int = 0,
  instruction: str = '',
  first_attempts: Path = '',
  distributed: str = 'off',
  **overrides: Any,
) -> Evaluation:
  """Evaluates a model on held-out problems: each attempt's accuracy and what changes between them.

  Args:
    config, model, distributed, **overrides: as in `train`.
    attempts: more repeat the last instruction and budget; 0: as configured.
    samples: K sampled conversations a problem; above 1 avg@K, pass@K and majority are counted.
    temperature: of the sampled conversations.
    scaling: K: compares 2K samples with K and their corrections at T=0.7 (paper, section 6.2); 0: not.
    instruction: a name of `tasks.prompts.INSTRUCTIONS` or a text; '': as configured.
    first_attempts: a file of another model's (`training.first_attempts`); '': the model's own.

  Raises UserError: the input is wrong.
  """
  from score_jax.parallel import hosts

  settings = _asked(_settings(config, model, overrides), attempts, instruction, temperature)
  hosts.start(distributed, **vars(settings.hosts))

  from score_jax.planning import fit
  from score_jax.training import evaluation

  results, rows = evaluation.evaluate_folder(
    settings,
    samples=samples,
    temperature=temperature,
    scaling=scaling,
    first_attempts=str(first_attempts),
    before_loading=fit.check_evaluation,
  )
  return Evaluation(settings.model.path, results, rows)


def open_conversation(
  config: Path | ConfigDict,
  *,
  model: Path | None = None,
  attempts: int = 0,
  instruction: str = '',
  temperature: float = 0.0,
  **overrides: Any,
) -> Conversation:
  """Loads a model to be asked questions of your own, on this machine's devices.

  Args:
    config, model, **overrides: as in `train`; template, prompt, budgets and instruction are the configuration's.
    attempts, instruction: as in `evaluate`.
    temperature: of all attempts; 0: greedy, as an evaluation's.

  Raises UserError: the input is wrong.
  """
  from score_jax.training import answering

  settings = _asked(_settings(config, model, overrides), attempts, instruction, temperature)
  told = (settings.task.instruction,) * (len(settings.sampling.attempt_tokens) - 1)
  return Conversation(answering.open_answers(settings, temperature), told)


def _settings(config: Path | ConfigDict, model: Path | None, overrides: dict[str, Any]) -> configs.RunConfig:
  """The checked configuration, with overrides; a ConfigDict stays as it is."""
  if isinstance(config, ConfigDict):
    fields = config.copy_and_resolve_references()
  else:
    fields = configs.load_config(config)
  for field, value in overrides.items():
    configs.set_field(fields, field, value)
  if model is not None:
    configs.set_field(fields, 'model.path', str(model))
  return configs.from_config_dict(fields)


def _asked(config: configs.RunConfig, attempts: int, instruction: str, temperature: float) -> configs.RunConfig:
  from score_jax.tasks import prompts

  sampling, task = config.sampling, config.task
  if not 0 <= temperature < math.inf:
    raise ConfigError(f'temperature = {temperature} must be a number of 0 or more')
  if attempts == 1:
    raise ConfigError(f'attempts = {attempts}: give 2 or more, a correction needs something to correct')
  if attempts:
    budgets = sampling.attempt_tokens
    budgets = (budgets + budgets[-1:] * attempts)[:attempts]
    sampling = dataclasses.replace(sampling, attempt_tokens=budgets)
  if instruction:
    task = dataclasses.replace(task, instruction=prompts.INSTRUCTIONS.get(instruction, instruction))
  return dataclasses.replace(config, sampling=sampling, task=task)
