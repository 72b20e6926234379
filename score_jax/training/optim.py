# SPDX-License-Identifier: Apache-2.0
"""The optimizer: clip, then Adam or AdamW; each step gives its learning rate."""

import functools

import optax

from score_jax.config import OptimConfig
from score_jax.core_types import Stage
from score_jax.models.weights import WeightTable


@functools.lru_cache  # programs are compiled for the object
def make_optimizer(config: OptimConfig, table: WeightTable) -> optax.GradientTransformation:
  """Gradient -> direction, which `update.apply` multiplies by minus the rate."""
  parts = []
  if config.clip_norm:
    parts.append(optax.clip_by_global_norm(config.clip_norm))
  parts.append(optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps))
  if config.weight_decay:
    parts.append(optax.add_decayed_weights(config.weight_decay, mask=table.decay_mask()))
  return optax.chain(*parts)


def learning_rate(stage: Stage, step_in_stage: int) -> float:
  """The learning rate at a stage's step: warm-up from 0, then its schedule."""
  rate, warmup = stage.optim.learning_rate, stage.optim.warmup_steps
  if step_in_stage < warmup:
    return rate * (step_in_stage + 1) / warmup
  rest = max(1, stage.steps - warmup)
  schedules = dict(
    constant=optax.constant_schedule(rate),
    linear=optax.linear_schedule(rate, 0.0, rest),
    cosine=optax.cosine_decay_schedule(rate, rest),
  )
  return float(schedules[stage.optim.schedule](step_in_stage - warmup))
