"""The optimizer: clip, Adam or AdamW moments; the learning rate is the stage's and is given at each step."""

import optax

from score_jax.config import OptimConfig
from score_jax.core_types import Stage
from score_jax.models.weights import WeightTable


def make_optimizer(config: OptimConfig, table: WeightTable) -> optax.GradientTransformation:
  """Gradient -> direction. `update.apply` multiplies it by minus the learning rate."""
  parts = []
  if config.clip_norm:
    parts.append(optax.clip_by_global_norm(config.clip_norm))
  parts.append(optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps))
  if config.weight_decay:
    parts.append(optax.add_decayed_weights(config.weight_decay, mask=table.decay_mask()))
  return optax.chain(*parts)


def learning_rate(stage: Stage, step_in_stage: int) -> float:
  """The stage's learning rate at one of its steps: warm-up from 0, then the stage's schedule down to 0."""
  optim = stage.optim
  after_warmup = max(1, stage.steps - optim.warmup_steps)
  body = {
    'constant': lambda: optax.constant_schedule(optim.learning_rate),
    'linear': lambda: optax.linear_schedule(optim.learning_rate, 0.0, after_warmup),
    'cosine': lambda: optax.cosine_decay_schedule(optim.learning_rate, after_warmup),
  }[optim.schedule]()
  if step_in_stage < optim.warmup_steps:
    return optim.learning_rate * (step_in_stage + 1) / optim.warmup_steps
  return float(body(step_in_stage - optim.warmup_steps))
