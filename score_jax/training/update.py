"""One update: reference, loss, gradient and optimizer in one compiled, donated call.

The reference's forward pass lives here, beside the policy's: the exact KL needs both distributions at the same prefix,
and a pass of its own would be one more program that holds the same two trees.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from score_jax.algorithm import losses
from score_jax.algorithm import rewards
from score_jax.models import decoder
from score_jax.models import lora as loras
from score_jax.models.families import DecoderConfig
from score_jax.models.lora import Lora
from score_jax.states import Batch
from score_jax.states import StageValues
from score_jax.states import TrainState

Metrics = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class UpdateSpec:
  """What is compiled in."""

  config: DecoderConfig
  dtype: Any  # compute dtype
  group: int  # G
  micro_batches: int  # k: the batch is cut into k parts of whole problems, whose gradients are added
  kl_form: str
  importance_cap: float
  remat: bool
  chunk: int  # positions whose logits exist at a time
  attempt_gradient_norms: bool  # one backward pass per attempt instead of one in all
  lora: Lora = loras.NONE


def micro_batched(tree: Any, parts: int, group: int) -> Any:
  """[B, ...] -> [k, B/k, ...]. Part m takes problems m, m + k, ...: rows stay on the device that holds them."""

  def cut(x):
    problems = x.shape[0] // group
    x = x.reshape(problems // parts, parts, group, *x.shape[1:])
    return jnp.moveaxis(x, 1, 0).reshape(parts, -1, *x.shape[3:])

  return jax.tree.map(cut, tree)


def scores(params: Any, reference: Any, batch: Batch, spec: UpdateSpec) -> losses.TokenScores:
  """Token scores of a micro-batch under policy and reference; the gradient flows through the policy alone."""
  settings = dict(dtype=spec.dtype, chunk=spec.chunk)
  if spec.kl_form == 'exact':
    logp, ref_logp, kl = decoder.token_logps_and_kl(
      params, reference, spec.config, batch.tokens, batch.start, remat=spec.remat, **settings
    )
    return losses.TokenScores(logp=logp, ref_logp=jax.lax.stop_gradient(ref_logp), kl=kl)
  logp = decoder.token_logps(params, spec.config, batch.tokens, batch.start, remat=spec.remat, **settings)
  ref_logp = jax.lax.stop_gradient(decoder.token_logps(reference, spec.config, batch.tokens, batch.start, **settings))
  return losses.TokenScores(logp=logp, ref_logp=ref_logp, kl=jnp.zeros_like(logp))


def gradients(
  params: Any, frozen: Any, reference: Any, batch: Batch, stage: StageValues, spec: UpdateSpec
) -> tuple[jax.Array, tuple[Any, ...], Metrics]:
  """Loss and gradient of a whole batch, accumulated over micro-batches.

  Args:
    params: what is trained: the whole model, or adapters.
    frozen: with adapters the base's tree, which policy and reference share; else {}.
    reference: as `params`; with adapters {} is the base itself.
    batch: of a step.
    stage: its numbers.
    spec: what is compiled in.

  Returns:
    loss_A; a tuple of gradient trees whose sum is the gradient (one per attempt if their norms are wanted, else one);
    metrics summed over rows, still to be divided (`_row_metrics`).
  """
  advantage_BA, reward_share_BA = rewards.reward_credit(batch.verdict, batch.trained, stage, spec.group)
  reference_policy = loras.joined(frozen, reference, spec.lora)
  credit = losses.Credit(
    advantage=advantage_BA,
    reward_share=reward_share_BA,
    trained=batch.trained,
    kl_share=rewards.shares(batch.trained, advantage_BA.dtype),
  )

  def micro(inputs):
    part, part_credit = inputs

    def loss(params):
      token_scores = scores(loras.joined(frozen, params, spec.lora), reference_policy, part, spec)
      importance = losses.importance_weights(token_scores.logp, part.sampler_logp, spec.importance_cap)
      loss_A, ratio_BA = losses.attempt_losses(
        token_scores, part.attempt, importance, part_credit, stage, kl_form=spec.kl_form, group=spec.group
      )
      metrics = _row_metrics(token_scores, ratio_BA, part)
      return (loss_A, metrics) if spec.attempt_gradient_norms else (jnp.sum(loss_A, keepdims=True), (loss_A, metrics))

    if spec.attempt_gradient_norms:
      loss_A, pullback, metrics = jax.vjp(loss, params, has_aux=True)
    else:
      _, pullback, (loss_A, metrics) = jax.vjp(loss, params, has_aux=True)
    terms = loss_A.shape[0] if spec.attempt_gradient_norms else 1
    grads = tuple(pullback(row)[0] for row in jnp.eye(terms, dtype=loss_A.dtype))
    return loss_A, grads, metrics

  if spec.micro_batches == 1:
    return micro((batch, credit))
  parts = micro_batched((batch, credit), spec.micro_batches, spec.group)
  first = micro(jax.tree.map(lambda x: x[0], parts))
  rest = jax.tree.map(lambda x: x[1:], parts)
  total, _ = jax.lax.scan(lambda total, part: (jax.tree.map(jnp.add, total, micro(part)), None), first, rest)
  return total


def _row_metrics(token_scores: losses.TokenScores, ratio_BA: jax.Array, part: Batch) -> Metrics:
  """Sums over a micro-batch's rows and sampled tokens; kept unnormalised, so that micro-batches add up."""
  trained_BA = part.trained.astype(ratio_BA.dtype)
  attempt_trained_BA = jnp.pad(part.trained, ((0, 0), (1, 0)))  # column a: attempt a, 1-based; column 0: context
  counted_BL = jnp.take_along_axis(attempt_trained_BA, part.attempt.astype(jnp.int32), axis=1)
  gap_BL = jnp.where(counted_BL, jnp.abs(token_scores.logp - part.sampler_logp), 0)
  return dict(
    kl_A=jnp.sum(ratio_BA * trained_BA, axis=0),
    rows_A=jnp.sum(trained_BA, axis=0),
    gap=jnp.sum(gap_BL),
    tokens=jnp.sum(counted_BL.astype(gap_BL.dtype)),
  )


def apply(
  state: TrainState, grads: tuple[Any, ...], loss_A: jax.Array, learning_rate: jax.Array, optimizer
) -> tuple[TrainState, Metrics]:
  """The optimizer's step, or none at all: any non-finite loss, gradient or parameter rejects the whole step."""
  grad = functools.reduce(lambda a, b: jax.tree.map(jnp.add, a, b), grads)
  norm = optax.tree.norm(grad)
  with jax.numpy_dtype_promotion('standard'):  # optax mixes floats with its integer step count
    direction, opt_state = optimizer.update(grad, state.opt_state, state.params)
  params = jax.tree.map(lambda p, d: p - learning_rate * d, state.params, direction)
  # The gradient's norm is finite only if all its entries are; the same for parameters and moments.
  checks = [jnp.sum(loss_A), norm, optax.tree.norm(params), *(jnp.sum(x) for x in jax.tree.leaves(opt_state))]
  finite = functools.reduce(jnp.logical_and, [jnp.isfinite(check) for check in checks])

  def keep(new, old):
    return jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)

  rejected = 1 - finite.astype(jnp.int32)
  new_state = TrainState(
    step=state.step + 1,
    params=keep(params, state.params),
    opt_state=keep(opt_state, state.opt_state),
    rejected=state.rejected + rejected,
    rejected_in_a_row=(state.rejected_in_a_row + rejected) * rejected,
  )
  metrics = dict(gradient_norm=norm, rejected=rejected)
  if len(grads) > 1:
    metrics['gradient_norm_A'] = jnp.stack([optax.tree.norm(part) for part in grads])
  return new_state, metrics


@functools.partial(jax.jit, static_argnames=('spec', 'optimizer'), donate_argnames=('state',))
def update(
  state: TrainState,
  frozen: Any,
  reference: Any,
  batch: Batch,
  stage: StageValues,
  *,
  spec: UpdateSpec,
  optimizer: optax.GradientTransformation,
) -> tuple[TrainState, Metrics]:
  """One update per rollout. Donates `state`, never `frozen` or `reference` (`gradients` says what they are).

  Returns:
    the new state, and metrics as arrays: reward_A, kl_A, loss_A, gradient_norm, gradient_norm_A, mismatch, ...
  """
  loss_A, grads, sums = gradients(state.params, frozen, reference, batch, stage, spec)
  state, metrics = apply(state, grads, loss_A, stage.learning_rate, optimizer)
  reward_BA = rewards.attempt_rewards(batch.verdict, stage.pays, stage.bonus)
  # A failed grader must not earn the next attempt a bonus here either: `best` is chosen by these rewards.
  known_BA = rewards.reward_is_known(batch.verdict, stage.pays, stage.bonus)
  metrics |= dict(
    loss_A=loss_A,
    reward_A=jnp.sum(reward_BA * rewards.shares(known_BA, reward_BA.dtype), axis=0),
    kl_A=sums['kl_A'] / jnp.maximum(sums['rows_A'], 1),
    mismatch=sums['gap'] / jnp.maximum(sums['tokens'], 1),
  )
  return state, metrics


@functools.partial(jax.jit, static_argnames=('config', 'optimizer', 'dtype'), donate_argnames=('state',))
def supervised_update(
  state: TrainState, tokens_BL, weight_BL, learning_rate, *, config: DecoderConfig, optimizer, dtype
) -> tuple[TrainState, Metrics]:
  """One supervised update on right-padded rows, for pretraining the bundled base."""
  start_B = jnp.zeros(tokens_BL.shape[:1], jnp.int32)

  def loss(params):
    logp_BL = decoder.token_logps(params, config, tokens_BL, start_B, dtype=dtype)
    return losses.supervised_loss(logp_BL, weight_BL.astype(logp_BL.dtype))

  value, grad = jax.value_and_grad(loss)(state.params)
  state, metrics = apply(state, (grad,), value[None], learning_rate, optimizer)
  return state, metrics | dict(loss=value)
