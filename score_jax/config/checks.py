"""What a configuration must be: single values, then fields that must agree. A refusal names field, value and remedy."""


from score_jax.config.fields import CACHE_DTYPES
from score_jax.config.fields import DATASETS
from score_jax.config.fields import DTYPES
from score_jax.config.fields import LONG_PROMPTS
from score_jax.config.fields import MODES
from score_jax.config.fields import REMATS
from score_jax.config.fields import RunConfig
from score_jax.core_types import KL_FORMS
from score_jax.core_types import REFERENCES
from score_jax.core_types import SCHEDULES
from score_jax.core_types import Stage
from score_jax.errors import ConfigError
from score_jax.models.lora import Lora


def _require(condition: bool, message: str) -> None:
  if not condition:
    raise ConfigError(message)


def _one_of(where: str, value: str, known: tuple[str, ...]) -> None:
  _require(value in known, f'{where} = {value!r} is unknown; use one of {", ".join(known)}')


def check(run: RunConfig) -> None:
  """Checks of single values, then between fields."""
  _one_of('config.mode', run.mode, MODES)
  _one_of('config.model.dtype', run.model.dtype, DTYPES)
  _one_of('config.sampling.cache_dtype', run.sampling.cache_dtype, CACHE_DTYPES)
  _one_of('config.task.long_prompts', run.task.long_prompts, LONG_PROMPTS)
  _one_of('config.model.remat', run.model.remat, REMATS)
  _require(run.model.logits_mb > 0, f'config.model.logits_mb = {run.model.logits_mb} must be above 0')
  _one_of('config.loss.kl_form', run.loss.kl_form, KL_FORMS)
  _one_of('config.optim.schedule', run.optim.schedule, SCHEDULES)
  _check_numbers(run)
  _check_lora(run.lora)
  _check_selection(run)
  if run.mode == 'supervised':
    _check_supervised(run)
  else:
    _require(bool(run.stage_runs), 'config.schedule is empty: name at least one stage of config.stages')
  _check_batch(run)
  if run.mode == 'score':
    _check_method(run)
    for stage in run.stage_runs:
      _check_stage(stage, run)
  for where, section in (
    ('task.countdown', run.task.countdown),
    ('task.mbpp', run.task.mbpp),
    ('task.jsonl', run.task.jsonl),
    ('grading', run.grading),
  ):
    try:
      section.check()
    except ValueError as error:
      raise ConfigError(f'config.{where}.{error}') from error
  _require(
    not run.task.prompt or (run.task.name != 'countdown' and '{question}' in run.task.prompt),
    f'config.task.prompt = {run.task.prompt!r} must hold {{question}}; countdown has config.task.countdown.prompt',
  )


def _check_numbers(run: RunConfig) -> None:
  """Lower bounds of numbers."""
  for where, value in (
    ('batch.problems', run.batch.problems),
    ('batch.micro_batches', run.batch.micro_batches),
    ('sampling.prompt_tokens', run.sampling.prompt_tokens),
    ('offline_pool', run.offline_pool),
    ('optim.max_rejected_in_a_row', run.optim.max_rejected_in_a_row),
    ('checkpoint.every', run.checkpoint.every),
    ('checkpoint.keep', run.checkpoint.keep),
    ('checkpoint.best_window', run.checkpoint.best_window),
    ('faults.max_failed_saves', run.faults.max_failed_saves),
    ('hosts.init_seconds', run.hosts.init_seconds),
    ('hosts.heartbeat_seconds', run.hosts.heartbeat_seconds),
    ('hosts.barrier_seconds', run.hosts.barrier_seconds),
  ):
    _require(value >= 1, f'config.{where} = {value} must be 1 or more')
  for where, value in (
    ('max_steps', run.max_steps),
    ('eval.problems', run.eval.problems),
    ('eval.every', run.eval.every),
    ('selection.problems', run.selection.problems),
    ('report.rows', run.report.rows),
    ('report.every', run.report.every),
    ('report.kl_alarm', run.report.kl_alarm),
    ('optim.learning_rate', run.optim.learning_rate),
    ('optim.clip_norm', run.optim.clip_norm),
    ('optim.weight_decay', run.optim.weight_decay),
    ('loss.importance_cap', run.loss.importance_cap),
    ('lora.rank', run.lora.rank),
    ('sampling.decode_slots', run.sampling.decode_slots),
    ('faults.grace_seconds', run.faults.grace_seconds),
    ('faults.stuck_factor', run.faults.stuck_factor),
    ('faults.stuck_seconds', run.faults.stuck_seconds),
    ('faults.stuck_first_seconds', run.faults.stuck_first_seconds),
    ('faults.max_rejected', run.faults.max_rejected),
    ('faults.kl_limit', run.faults.kl_limit),
    ('faults.mismatch_stop', run.faults.mismatch_stop),
  ):
    _require(0 <= value < float('inf'), f'config.{where} = {value} must be 0 or more')
  budgets = run.sampling.attempt_tokens
  _require(
    min(budgets, default=0) >= 1,
    f'config.sampling.attempt_tokens = {budgets}: give each attempt a budget of 1 or more',
  )


def _check_supervised(run: RunConfig) -> None:
  """What supervised baselines need."""
  settings = run.supervised
  _one_of('config.supervised.dataset', settings.dataset, DATASETS)
  for name in ('iterations', 'steps', 'problems', 'samples'):
    _require(getattr(settings, name) >= 1, f'config.supervised.{name} = {getattr(settings, name)} must be 1 or more')
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


def _check_selection(run: RunConfig) -> None:
  """What the best checkpoint is chosen by, where it is measured."""
  if not run.selection.problems:
    return
  for field in ('reward_weights', 'bonus'):
    value = getattr(run.selection, field)
    _require(
      len(value) == run.attempts,
      f'config.selection.{field} = {value} must have one value per attempt: {run.attempts}, as '
      'config.sampling.attempt_tokens',
    )
  _require(
    run.selection.bonus[0] == 0,
    f'config.selection.bonus = {run.selection.bonus}: the first must be 0, nothing comes before attempt 1',
  )


def _check_lora(lora: Lora) -> None:
  _require(
    not lora.rank or 0 < lora.alpha < float('inf'),
    f'config.lora.alpha = {lora.alpha} must be above 0: adapters are multiplied by alpha / rank',
  )


def _check_method(run: RunConfig) -> None:
  """What the estimator needs to be right."""
  _require(
    run.batch.samples >= 2,
    f'config.batch.samples = {run.batch.samples}: the leave-one-out baseline needs at least 2 samples a problem',
  )
  _require(
    run.loss.importance_cap == 0 or run.loss.kl_form in ('k1', 'k1_togo'),
    f'config.loss.importance_cap = {run.loss.importance_cap} weighs only the k1 forms of the KL, not '
    f'kl_form = {run.loss.kl_form!r}; set it to 0 or choose k1_togo',
  )


def _check_batch(run: RunConfig) -> None:
  """Checks how a step is cut into parts."""
  _require(
    run.batch.problems % run.batch.micro_batches == 0,
    f'config.batch.micro_batches = {run.batch.micro_batches} must divide config.batch.problems = {run.batch.problems}',
  )


def _check_stage(stage: Stage, run: RunConfig) -> None:
  """One stage against the number of attempts and its own bounds."""
  where = f'config.stages.{stage.name}'
  _one_of(f'{where}.reference', stage.reference, REFERENCES)
  _one_of(f'{where}.optim.schedule', stage.optim.schedule, SCHEDULES)
  _require(stage.steps >= 1, f'{where}.steps = {stage.steps} must be 1 or more')
  for field in ('reward_weights', 'bonus', 'kl_weights'):
    value = getattr(stage, field)
    _require(
      len(value) == run.attempts,
      f'{where}.{field} = {value} must have one value per attempt: {run.attempts}, as config.sampling.attempt_tokens',
    )
  _require(stage.bonus[0] == 0, f'{where}.bonus = {stage.bonus}: the first must be 0, nothing comes before attempt 1')
  _require(min(stage.kl_weights) >= 0, f'{where}.kl_weights = {stage.kl_weights} must not be negative')
  budgets = stage.kl_target or (0.0,) * run.attempts
  _require(
    len(budgets) == run.attempts
    and all(budget == 0 or (budget > 0 and beta > 0) for budget, beta in zip(budgets, stage.kl_weights, strict=True)),
    f'{where}.kl_target = {stage.kl_target} must be () or one value per attempt, 0 or above; above 0 it needs a '
    f'{where}.kl_weights above 0 to begin from',
  )
  _require(0 <= stage.gamma <= 1, f'{where}.gamma = {stage.gamma} must lie in 0..1')
  _require(0 <= stage.offline_first <= 1, f'{where}.offline_first = {stage.offline_first} must lie in 0..1')
  _require(
    0 <= stage.optim.warmup_steps < max(stage.steps, 1) or stage.optim.warmup_steps == 0,
    f'{where}: warmup_steps = {stage.optim.warmup_steps} must be below its steps = {stage.steps}',
  )
