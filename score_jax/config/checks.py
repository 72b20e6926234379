"""Checks a configuration: single values, then fields that must agree. A refusal names field, value and remedy."""

import math
import operator
from typing import Any

from score_jax.config import fields
from score_jax.config.fields import RunConfig
from score_jax.core_types import KL_FORMS
from score_jax.core_types import REFERENCES
from score_jax.core_types import SCHEDULES
from score_jax.core_types import Stage
from score_jax.errors import ConfigError

_CHOICES = {
  'mode': fields.MODES,
  'model.dtype': fields.DTYPES,
  'model.remat': fields.REMATS,
  'sampling.cache_dtype': fields.CACHE_DTYPES,
  'task.long_prompts': fields.LONG_PROMPTS,
  'loss.kl_form': KL_FORMS,
  'optim.schedule': SCHEDULES,
  'supervised.dataset': fields.DATASETS,
}
_AT_LEAST_1 = (
  'batch.problems', 'batch.micro_batches', 'sampling.prompt_tokens', 'offline_pool',
  'optim.max_rejected_in_a_row', 'checkpoint.every', 'checkpoint.keep',
  'checkpoint.best_window', 'faults.max_failed_saves', 'hosts.init_seconds',
  'hosts.heartbeat_seconds', 'hosts.barrier_seconds', 'supervised.iterations',
  'supervised.steps', 'supervised.problems', 'supervised.samples',
)  # fmt: skip
_AT_LEAST_0 = (
  'max_steps', 'eval.problems', 'eval.every', 'selection.problems', 'report.rows',
  'report.every', 'report.kl_alarm', 'optim.learning_rate', 'optim.clip_norm',
  'optim.weight_decay', 'loss.importance_cap', 'lora.rank', 'sampling.decode_slots',
  'faults.grace_seconds', 'faults.stuck_factor', 'faults.stuck_seconds',
  'faults.stuck_first_seconds', 'faults.max_rejected', 'faults.kl_limit',
  'faults.mismatch_stop',
)  # fmt: skip
_WITH_CHECKS = ('task.countdown', 'task.mbpp', 'task.jsonl', 'grading')  # sections that check themselves


def check(run: RunConfig) -> None:
  """Checks the values of all fields, then what the fields of a mode must agree on.

  Raises:
    ConfigError: with the first field that is wrong.
  """
  _check_values(run)
  if run.selection.problems:
    _check_attempts('config.selection', run.selection, ('reward_weights', 'bonus'), run)
  if run.mode == 'supervised':
    _check_supervised(run)
  else:
    _require(bool(run.stage_runs), 'config.schedule is empty: name at least one stage of config.stages')
    _check_estimator(run)
    for stage in run.stage_runs:
      _check_stage(stage, run)


def _require(condition: bool, message: str) -> None:
  if not condition:
    raise ConfigError(message)


def _check_values(run: RunConfig) -> None:
  """Checks each field by itself."""
  for field, known in _CHOICES.items():
    _one_of(f'config.{field}', operator.attrgetter(field)(run), known)
  for names, least in ((_AT_LEAST_1, 1), (_AT_LEAST_0, 0)):
    for field in names:
      value = operator.attrgetter(field)(run)
      _require(least <= value < math.inf, f'config.{field} = {value} must be {least} or more')
  _require(run.model.logits_mb > 0, f'config.model.logits_mb = {run.model.logits_mb} must be above 0')
  _require(
    not run.lora.rank or 0 < run.lora.alpha < math.inf,
    f'config.lora.alpha = {run.lora.alpha} must be above 0: adapters are multiplied by alpha / rank',
  )
  budgets = run.sampling.attempt_tokens
  _require(
    min(budgets, default=0) >= 1,
    f'config.sampling.attempt_tokens = {budgets}: give each attempt a budget of 1 or more',
  )
  _require(
    run.batch.problems % run.batch.micro_batches == 0,
    f'config.batch.micro_batches = {run.batch.micro_batches} must divide config.batch.problems = {run.batch.problems}',
  )
  _require(
    not run.task.prompt or (run.task.name != 'countdown' and '{question}' in run.task.prompt),
    f'config.task.prompt = {run.task.prompt!r} must hold {{question}}; countdown has config.task.countdown.prompt',
  )
  for section in _WITH_CHECKS:
    try:
      operator.attrgetter(section)(run).check()
    except ValueError as error:
      raise ConfigError(f'config.{section}.{error}') from error


def _one_of(where: str, value: str, known: tuple[str, ...]) -> None:
  _require(value in known, f'{where} = {value!r} is unknown; use one of {", ".join(known)}')


def _check_attempts(where: str, section: Any, names: tuple[str, ...], run: RunConfig) -> None:
  """Checks that fields have one value per attempt, and that no bonus is given for the first."""
  for name in names:
    value = getattr(section, name)
    _require(
      len(value) == run.attempts,
      f'{where}.{name} = {value} must have one value per attempt: {run.attempts}, as config.sampling.attempt_tokens',
    )
  _require(
    section.bonus[0] == 0, f'{where}.bonus = {section.bonus}: the first must be 0, nothing comes before attempt 1'
  )


def _check_supervised(run: RunConfig) -> None:
  """Checks what supervised baselines need."""
  settings = run.supervised
  _require(
    run.attempts == 2,
    f'config.sampling.attempt_tokens = {run.sampling.attempt_tokens}: supervised baselines are of two attempts',
  )
  _require(
    len(settings.loss_on) == 2 and any(settings.loss_on),
    f'config.supervised.loss_on = {settings.loss_on} must say for both attempts whether they carry loss, and one must',
  )
  _require(
    run.selection.problems > 0,
    'config.selection.problems = 0: a supervised run has no training return to choose its best checkpoint by; give it '
    'problems, e.g. 1024',
  )
  _require(
    run.optim.warmup_steps < settings.steps,
    f'config.optim.warmup_steps = {run.optim.warmup_steps} must be below config.supervised.steps = {settings.steps}',
  )


def _check_estimator(run: RunConfig) -> None:
  """Checks what the estimator needs to be right."""
  _require(
    run.batch.samples >= 2,
    f'config.batch.samples = {run.batch.samples}: the leave-one-out baseline needs at least 2 samples a problem',
  )
  _require(
    run.loss.importance_cap == 0 or run.loss.kl_form in ('k1', 'k1_togo'),
    f'config.loss.importance_cap = {run.loss.importance_cap} weighs only the k1 forms of the KL, not '
    f'kl_form = {run.loss.kl_form!r}; set it to 0 or choose k1_togo',
  )


def _check_stage(stage: Stage, run: RunConfig) -> None:
  """Checks one stage against the number of attempts and its bounds."""
  where, optim = f'config.stages.{stage.name}', stage.optim
  _one_of(f'{where}.reference', stage.reference, REFERENCES)
  _one_of(f'{where}.optim.schedule', optim.schedule, SCHEDULES)
  _require(stage.steps >= 1, f'{where}.steps = {stage.steps} must be 1 or more')
  _check_attempts(where, stage, ('reward_weights', 'bonus', 'kl_weights'), run)
  _require(min(stage.kl_weights) >= 0, f'{where}.kl_weights = {stage.kl_weights} must not be negative')
  targets = stage.kl_target or (0.0,) * run.attempts
  _require(
    len(targets) == run.attempts
    and all(target == 0 or (target > 0 and beta > 0) for target, beta in zip(targets, stage.kl_weights, strict=True)),
    f'{where}.kl_target = {stage.kl_target} must be () or one value per attempt, 0 or above; above 0 it needs a '
    f'{where}.kl_weights above 0 to begin from',
  )
  _require(0 <= stage.gamma <= 1, f'{where}.gamma = {stage.gamma} must lie in 0..1')
  _require(0 <= stage.offline_first <= 1, f'{where}.offline_first = {stage.offline_first} must lie in 0..1')
  _require(
    optim.warmup_steps == 0 or 0 <= optim.warmup_steps < stage.steps,
    f'{where}: warmup_steps = {optim.warmup_steps} must be below its steps = {stage.steps}',
  )
