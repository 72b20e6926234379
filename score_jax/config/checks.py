# SPDX-License-Identifier: Apache-2.0
"""Checks single values of a configuration, then fields that must agree."""

from collections.abc import Iterator
import json
import math
import operator
from typing import Any

from score_jax import core_types
from score_jax.config import fields
from score_jax.errors import ConfigError

_CHOICES = {
  'mode': fields.MODES,
  'model.dtype': fields.DTYPES,
  'model.remat': ('auto', *fields.REMATS),
  'sampling.cache_dtype': fields.CACHE_DTYPES,
  'task.long_prompts': fields.LONG_PROMPTS,
  'task.reward_format': fields.REWARD_FORMATS,
  'loss.kl_form': core_types.KL_FORMS,
  'optim.schedule': core_types.SCHEDULES,
  'supervised.dataset': fields.DATASETS,
}
_AT_LEAST = {
  1: """
  batch.problems batch.micro_batches sampling.prompt_tokens offline_pool
  optim.max_rejected_in_a_row checkpoint.every checkpoint.keep checkpoint.best_window
  faults.max_failed_saves hosts.init_seconds hosts.heartbeat_seconds hosts.barrier_seconds
  supervised.iterations supervised.steps supervised.problems supervised.samples sampling.longest_draft
  """,
  0: """
  max_steps eval.problems eval.every selection.problems report.rows report.every report.kl_alarm
  model.logits_mb optim.learning_rate optim.clip_norm optim.weight_decay loss.importance_cap lora.rank
  sampling.decode_slots sampling.drafts sampling.mesh.data sampling.mesh.tensor
  faults.grace_seconds faults.stuck_factor faults.stuck_seconds
  faults.stuck_first_seconds faults.max_rejected faults.kl_limit faults.mismatch_stop
  """,
}
_WITH_CHECKS = ('task.countdown', 'task.mbpp', 'task.jsonl', 'grading')  # sections that check themselves


def check(run: fields.RunConfig) -> None:
  """Raises ConfigError for the first field that is wrong by itself, or contradicts another one."""
  for message in _problems(run):
    raise ConfigError(message)


def _problems(run: fields.RunConfig) -> Iterator[str]:
  yield from _values(run)
  if run.selection.problems:
    yield from _attempts('config.selection', run.selection, ('reward_weights', 'bonus'), run)
  if run.mode == 'supervised':
    yield from _supervised(run)
    return
  yield from _estimator(run)
  for stage in run.stage_runs:
    yield from _stage(stage, run)


def _values(run: fields.RunConfig) -> Iterator[str]:
  for field, known in _CHOICES.items():
    yield from _one_of(f'config.{field}', operator.attrgetter(field)(run), known)
  for least, names in _AT_LEAST.items():
    for field in names.split():
      value = operator.attrgetter(field)(run)
      if not least <= value < math.inf:
        yield f'config.{field} = {value} must be {least} or more'
  for name in ('b1', 'b2'):
    if not 0 <= getattr(run.optim, name) < 1:
      yield f'config.optim.{name} = {getattr(run.optim, name)} must be 0 or more and below 1'
  if not run.optim.eps > 0:
    yield f'config.optim.eps = {run.optim.eps} must be above 0'
  if run.lora.rank and not 0 < run.lora.alpha < math.inf:
    yield f'config.lora.alpha = {run.lora.alpha} must be above 0: adapters are multiplied by alpha / rank'
  budgets = run.sampling.attempt_tokens
  if min(budgets, default=0) < 1:
    yield f'config.sampling.attempt_tokens = {budgets}: give each attempt a budget of 1 or more'
  parts, problems = run.batch.micro_batches, run.batch.problems
  if problems % parts:
    yield f'config.batch.micro_batches = {parts} must divide config.batch.problems = {problems}'
  yield from _texts(run.task)
  yield from _rewards(run.task)
  yield from _template_kwargs(run.task)
  prompt = run.task.prompt
  if prompt and (run.task.name == 'countdown' or '{question}' not in prompt):
    yield f'config.task.prompt = {prompt!r} must hold {{question}}; countdown has config.task.countdown.prompt'
  for section in _WITH_CHECKS:
    try:
      operator.attrgetter(section)(run).check()
    except ValueError as error:
      yield f'config.{section}.{error}'


def _texts(task: fields.TaskConfig) -> Iterator[str]:
  for name in ('system', 'instruction', 'prompt', 'countdown.prompt'):
    text = operator.attrgetter(name)(task)
    if not core_types.is_unicode(text):
      yield f'config.task.{name} = {ascii(text):.80} holds half a surrogate pair; write it in UTF-8'


def _template_kwargs(task: fields.TaskConfig) -> Iterator[str]:
  try:
    names = [name.isidentifier() for name in task.template_settings]
    json.dumps(task.template_settings, ensure_ascii=False, allow_nan=False).encode()  # half a surrogate pair fails
  except (ValueError, SyntaxError, TypeError, AttributeError):
    names = [False]
  if not all(names):
    yield f"config.task.template_kwargs = {task.template_kwargs}: write {{'enable_thinking': False}}, a value by name"


def _rewards(task: fields.TaskConfig) -> Iterator[str]:
  if task.reward and task.rewards:
    yield f'config.task.reward = {task.reward!r} and config.task.rewards are both set; name all in rewards'
  try:
    weights = task.reward_weights
    numbers = [isinstance(name, str) and math.isfinite(weight) for name, weight in weights.items()]
  except (ValueError, SyntaxError, TypeError, AttributeError):
    numbers = [False]
  if not all(numbers):
    yield f'config.task.rewards = {task.rewards}: write {{"math": 1.0, "my.py:f": 0.1}}, a number for each name'
  if not 0 <= task.unreadable_golds <= 1:
    yield f'config.task.unreadable_golds = {task.unreadable_golds} must lie in 0..1'
  if not math.isfinite(task.correct_at):
    yield f'config.task.correct_at = {task.correct_at} must be a finite score'


def _one_of(where: str, value: str, known: tuple[str, ...]) -> Iterator[str]:
  if value not in known:
    yield f'{where} = {value!r} is unknown; use one of {", ".join(known)}'


def _attempts(where: str, section: Any, names: tuple[str, ...], run: fields.RunConfig) -> Iterator[str]:
  for name in names:
    value = getattr(section, name)
    if len(value) != run.attempts:
      yield f'{where}.{name} = {value} must have one value per attempt: {run.attempts} (config.sampling.attempt_tokens)'
  if section.bonus[0]:
    yield f'{where}.bonus = {section.bonus}: the first must be 0, nothing comes before attempt 1'


def _supervised(run: fields.RunConfig) -> Iterator[str]:
  settings, warmup = run.supervised, run.optim.warmup_steps
  if run.attempts != 2:
    yield f'config.sampling.attempt_tokens = {run.sampling.attempt_tokens}: supervised baselines are of two attempts'
  if len(settings.loss_on) != 2 or not any(settings.loss_on):
    yield f'config.supervised.loss_on = {settings.loss_on} must say for both attempts if they carry loss; one must'
  if not run.selection.problems:
    yield 'config.selection.problems = 0: a supervised run has no training return to choose its best by; give e.g. 1024'
  if warmup >= settings.steps:
    yield f'config.optim.warmup_steps = {warmup} must be below config.supervised.steps = {settings.steps}'


def _estimator(run: fields.RunConfig) -> Iterator[str]:
  """Yields what would make the estimator wrong."""
  loss, samples = run.loss, run.batch.samples
  if not run.stage_runs:
    yield 'config.schedule is empty: name at least one stage of config.stages'
  if samples < 2:
    yield f'config.batch.samples = {samples}: the leave-one-out baseline needs at least 2 samples a problem'
  if loss.importance_cap and loss.kl_form not in ('k1', 'k1_togo'):
    yield (
      f'config.loss.importance_cap = {loss.importance_cap} weighs only the k1 forms, not kl_form = {loss.kl_form!r}; '
      'set it to 0 or choose k1_togo'
    )


def _stage(stage: core_types.Stage, run: fields.RunConfig) -> Iterator[str]:
  where, optim, betas = f'config.stages.{stage.name}', stage.optim, stage.kl_weights
  yield from _one_of(f'{where}.reference', stage.reference, core_types.REFERENCES)
  yield from _one_of(f'{where}.optim.schedule', optim.schedule, core_types.SCHEDULES)
  if optim.learning_rate < 0:
    yield f'{where}.optim.learning_rate = {optim.learning_rate} must be 0 or more'
  if stage.steps < 1:
    yield f'{where}.steps = {stage.steps} must be 1 or more'
  yield from _attempts(where, stage, ('reward_weights', 'bonus', 'kl_weights'), run)
  if not min(betas) >= 0:
    yield f'{where}.kl_weights = {betas} must not be negative'
  targets = stage.kl_target or (0.0,) * run.attempts
  if len(targets) != run.attempts or not all(t == 0 or (t > 0 and b > 0) for t, b in zip(targets, betas, strict=True)):
    yield (
      f'{where}.kl_target = {stage.kl_target} must be () or one value per attempt, 0 or above; above 0 it needs a '
      f'{where}.kl_weights above 0 to begin from'
    )
  for name in ('gamma', 'offline_first', 'offline_wrong'):
    if not 0 <= getattr(stage, name) <= 1:
      yield f'{where}.{name} = {getattr(stage, name)} must lie in 0..1'
  if stage.offline_shared and not stage.offline_first:
    yield f'{where}.offline_shared = True needs {where}.offline_first above 0'
  if stage.offline_wrong and not stage.offline_shared:
    yield f'{where}.offline_wrong = {stage.offline_wrong} needs {where}.offline_shared = True'
  warmup = optim.warmup_steps
  if warmup and not 0 <= warmup < stage.steps:
    yield f'{where}: warmup_steps = {warmup} must be below its steps = {stage.steps}'
