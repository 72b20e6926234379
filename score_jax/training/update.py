# SPDX-License-Identifier: Apache-2.0
"""One update: loss, gradient and optimizer in one compiled, donated call.

The reference scores a rollout before, while the host grades; the exact KL needs it in the update.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from score_jax.algorithm import losses, rewards
from score_jax.algorithm.losses import TokenScores
from score_jax.models import flash, packing, scoring
from score_jax.models import lora as loras
from score_jax.models.families import DecoderConfig
from score_jax.models.flash import Attention
from score_jax.models.lora import Lora
from score_jax.states import Batch, StageValues, TrainState

Metrics = dict[str, jax.Array]
# XLA:CPU else orders programs for concurrency: copies of the optimizer's state and broadcast scalars then lie beside
# what the backward pass keeps (134 million parameters: 1.6 GiB). The order changes no number, and here no time.
_FOR_MEMORY = dict(xla_cpu_scheduler_type='CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED')


@dataclasses.dataclass(frozen=True)
class UpdateSpec:
  """What is compiled in."""

  config: DecoderConfig
  dtype: Any  # compute dtype
  group: int  # G
  micro_batches: int  # k parts of whole problems
  kl_form: str
  importance_cap: float
  remat: str  # a name of `decoder.REMATS`
  logits_mb: float  # f32 logits at a time, on each device
  attempt_gradient_norms: bool  # one backward pass per attempt
  lora: Lora = loras.NONE
  attention: Attention = flash.PLAIN
  shards: int = 1  # devices that rows are spread over
  packed_length: int = 0  # T of a stream of a device's rows, end to end; 0: one row a stream

  @property
  def reference_in_update(self) -> bool:
    return self.kl_form == 'exact'


def micro_batched(tree: Any, parts: int, group: int) -> Any:
  """[B, ...] -> [k, B/k, ...]. Part m takes problems m, m + k, ...; rows stay on their device."""

  def cut(x):
    problems = x.shape[0] // group
    x = x.reshape(problems // parts, parts, group, *x.shape[1:])
    return jnp.moveaxis(x, 1, 0).reshape(parts, -1, *x.shape[3:])

  return jax.tree.map(cut, tree)


def whole(tree: Any, group: int) -> Any:
  """The inverse of `micro_batched`."""

  def join(x):
    x = jnp.moveaxis(x.reshape(x.shape[0], -1, group, *x.shape[2:]), 0, 1)
    return x.reshape(-1, *x.shape[3:])

  return jax.tree.map(join, tree)


def _streams(part: Batch, spec: UpdateSpec) -> tuple[jax.Array, packing.PackedRows, packing.Alignment]:
  """tokens_XT, where its rows lie, and the way back to [B, L]."""
  B, L = part.tokens.shape
  if not spec.packed_length:
    rows = packing.left_aligned(part.length, L)
    return part.tokens, rows, packing.alignment(rows, L, L)
  rows = packing.end_to_end(part.length.reshape(spec.shards, B // spec.shards), L)
  back = packing.alignment(rows, spec.packed_length, L)
  return back.to_streams(part.tokens), rows, back


def _scored(params: Any, reference: Any, part: Batch, spec: UpdateSpec, remat: str) -> tuple[jax.Array, ...]:
  """f32 [B, L]: log-probabilities; with a reference its own and the exact KL."""
  tokens_XT, rows, back = _streams(part, spec)
  streams = max(1, tokens_XT.shape[0] // spec.shards)
  chunk = scoring.chunk_of(spec.logits_mb, spec.config.vocab, streams)
  settings = dict(dtype=spec.dtype, remat=remat, chunk=chunk, attention=spec.attention)
  if reference is None:
    scores_XT = (scoring.token_logps(params, spec.config, tokens_XT, rows, **settings),)
  else:
    scores_XT = scoring.token_logps_and_kl(params, reference, spec.config, tokens_XT, rows, **settings)
  return tuple(map(back.to_rows, scores_XT))


def scores(params: Any, reference: Any, part: Batch, spec: UpdateSpec) -> TokenScores:
  """Scores of a micro-batch, with the policy's gradient."""
  if spec.reference_in_update:
    logp, ref_logp, kl = _scored(params, reference, part, spec, spec.remat)
    return TokenScores(logp=logp, ref_logp=jax.lax.stop_gradient(ref_logp), kl=kl)
  (logp,) = _scored(params, None, part, spec, spec.remat)
  return TokenScores(logp=logp, ref_logp=part.ref_logp, kl=jnp.zeros_like(logp))


@functools.partial(jax.jit, static_argnames=('spec',))
def reference_logps(frozen: Any, reference: Any, batch: Batch, *, spec: UpdateSpec) -> jax.Array:
  """f32 [B, L]: log-probabilities under the reference; args as of `update`."""
  params = loras.joined(frozen, reference, spec.lora)
  parts = micro_batched(batch, spec.micro_batches, spec.group)
  return whole(jax.lax.map(lambda part: _scored(params, None, part, spec, 'none')[0], parts), spec.group)


def gradients(
  params: Any, frozen: Any, reference: Any, batch: Batch, stage: StageValues, spec: UpdateSpec
) -> tuple[jax.Array, tuple[Any, ...], Metrics]:
  """Loss and gradient of a whole batch, accumulated over micro-batches.

  Args:
    params: what is trained: the whole model, or adapters.
    frozen: the base under adapters; else {}.
    reference: as `params`; with adapters {} is the base. Read if `spec.reference_in_update`.
    batch: graded, and scored by `reference_logps` if `reference` is not read.
    stage, spec: its numbers, and what is compiled in.

  Returns:
    loss_A; gradient trees to be added (per attempt if their norms are wanted), f32 for several micro-batches,
    else in the compute dtype; metrics summed over rows.
  """
  advantage_BA, reward_share_BA = rewards.reward_credit(batch.verdict, batch.trained, stage, spec.group, batch.score)
  reference_policy = loras.joined(frozen, reference, spec.lora) if spec.reference_in_update else None
  credit = losses.Credit(
    advantage=advantage_BA,
    reward_share=reward_share_BA,
    trained=batch.trained,
    kl_share=rewards.shares(batch.trained, advantage_BA.dtype),
  )
  cast = _cast(params, spec)

  def micro(inputs):
    part, part_credit = inputs

    def loss(params):
      token_scores = scores(loras.joined(frozen, params, spec.lora), reference_policy, part, spec)
      importance = losses.importance_weights(token_scores.logp, part.sampler_logp, spec.importance_cap)
      loss_A, ratio_BA = losses.attempt_losses(
        token_scores, part.attempt, importance, part_credit, stage, kl_form=spec.kl_form, group=spec.group
      )
      metrics = _row_metrics(token_scores, ratio_BA, part)
      terms = loss_A if spec.attempt_gradient_norms else jnp.sum(loss_A, keepdims=True)
      return terms, (loss_A, metrics)

    terms, pullback, (loss_A, metrics) = jax.vjp(loss, cast, has_aux=True)
    grads = tuple(pullback(row)[0] for row in jnp.eye(len(terms), dtype=terms.dtype))
    return loss_A, grads, metrics

  return _added_up(micro, (batch, credit), spec)


def _cast(params: Any, spec: UpdateSpec) -> Any:
  """Casts weights once a step, not in every layer; adapters stay f32."""
  return params if spec.lora.rank else jax.tree.map(lambda leaf: leaf.astype(spec.dtype), params)


def _added_up(micro: Callable[[Any], Any], inputs: Any, spec: UpdateSpec) -> Any:
  """The sum of `micro` over micro-batches; f32 if there are several."""
  if spec.micro_batches == 1:
    return micro(inputs)
  parts = micro_batched(inputs, spec.micro_batches, spec.group)
  shapes = jax.eval_shape(micro, jax.tree.map(lambda x: x[0], parts))
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), shapes)

  def add(total, part):
    return jax.tree.map(lambda sum_, x: sum_ + x.astype(jnp.float32), total, micro(part)), None

  return jax.lax.scan(add, zeros, parts)[0]


def _row_metrics(token_scores: TokenScores, ratio_BA: jax.Array, part: Batch) -> Metrics:
  """Sums over a micro-batch's rows and sampled tokens."""
  trained_BA = part.trained.astype(ratio_BA.dtype)
  attempt_trained_BA = jnp.pad(part.trained, ((0, 0), (1, 0)))  # column 0: context
  counted_BL = jnp.take_along_axis(attempt_trained_BA, part.attempt.astype(jnp.int32), axis=1)
  gap_BL = jnp.where(counted_BL, jnp.abs(token_scores.logp - part.sampler_logp), 0)
  return dict(
    kl_A=jnp.sum(ratio_BA * trained_BA, axis=0),
    rows_A=jnp.sum(trained_BA, axis=0),
    gap=jnp.sum(gap_BL),
    tokens=jnp.sum(counted_BL.astype(gap_BL.dtype)),
  )


def apply(
  state: TrainState,
  grads: tuple[Any, ...],
  loss_A: jax.Array,
  learning_rate: jax.Array,
  optimizer: optax.GradientTransformation,
  checked: tuple[jax.Array, ...] = (),
) -> tuple[TrainState, Metrics]:
  """The optimizer's step, or none if loss, gradient, parameter, moment or `checked` is not finite.

  A zero weight could have masked what is `checked`. The step is worked out twice, the second time in place of the old
  state: beside it, it would take three more copies of the parameters.
  """
  norm = optax.tree.norm(_sum(grads))

  def stepped(params, opt_state, grads):
    with jax.numpy_dtype_promotion('standard'):  # for optax's integer step count
      direction, opt_state = optimizer.update(_sum(grads), opt_state, params)
    return jax.tree.map(lambda p, d: p - learning_rate * d, params, direction), opt_state

  params, opt_state = stepped(state.params, state.opt_state, grads)
  # A norm or a sum is finite only if all entries are.
  checks = [jnp.sum(loss_A), norm, optax.tree.norm(params)]
  checks += [jnp.sum(x) for x in (*jax.tree.leaves(opt_state), *checked)]
  finite = functools.reduce(jnp.logical_and, [jnp.isfinite(check) for check in checks])
  finite, *old, grads = jax.lax.optimization_barrier((finite, state.params, state.opt_state, grads))
  new = stepped(*old, grads)
  params, opt_state = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, tuple(old))
  rejected = 1 - finite.astype(jnp.int32)
  in_a_row = (state.rejected_in_a_row + rejected) * rejected
  new_state = TrainState(state.step + 1, params, opt_state, state.rejected + rejected, in_a_row)
  metrics = dict(gradient_norm=norm, rejected=rejected)
  if len(grads) > 1:
    metrics['gradient_norm_A'] = jnp.stack([optax.tree.norm(_sum((part,))) for part in grads])
  return new_state, metrics


def _sum(grads: tuple[Any, ...]) -> Any:
  """The whole gradient in f32."""
  return jax.tree.map(lambda *parts: functools.reduce(jnp.add, [part.astype(jnp.float32) for part in parts]), *grads)


@functools.partial(
  jax.jit, static_argnames=('spec', 'optimizer'), donate_argnames=('state',), compiler_options=_FOR_MEMORY
)
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
  """One update per rollout; args are those of `gradients`. Donates `state` alone.

  Returns:
    the state, and reward_A, kl_A, loss_A, gradient_norm, gradient_norm_A, mismatch, rejected.
  """
  loss_A, grads, sums = gradients(state.params, frozen, reference, batch, stage, spec)
  reward_BA = rewards.attempt_rewards(batch.verdict, stage.reward_weights, stage.bonus, batch.score)
  checked = (sums['gap'], sums['kl_A'], reward_BA)
  state, metrics = apply(state, grads, loss_A, stage.learning_rate, optimizer, checked)
  # A failed grader must not earn the next attempt a bonus: `best` is chosen by these rewards.
  known_BA = rewards.reward_is_known(batch.verdict, stage.reward_weights, stage.bonus)
  metrics |= dict(
    loss_A=loss_A,
    reward_A=jnp.sum(reward_BA * rewards.shares(known_BA, reward_BA.dtype), axis=0),
    kl_A=sums['kl_A'] / jnp.maximum(sums['rows_A'], 1),
    mismatch=sums['gap'] / jnp.maximum(sums['tokens'], 1),
  )
  return state, metrics


@jax.jit
def checksum(tree: Any) -> jax.Array:
  """u32 sum of the bits of all leaves: the same on every mesh."""

  def bits(leaf: jax.Array) -> jax.Array:
    words = jax.lax.bitcast_convert_type(leaf, jnp.dtype(f'uint{8 * leaf.dtype.itemsize}'))
    return jnp.sum(words.astype(jnp.uint32), dtype=jnp.uint32)

  return sum((bits(leaf) for leaf in jax.tree.leaves(tree)), jnp.uint32(0))


@functools.partial(
  jax.jit, static_argnames=('spec', 'optimizer'), donate_argnames=('state',), compiler_options=_FOR_MEMORY
)
def supervised_update(
  state: TrainState,
  frozen: Any,
  batch: Batch,
  learning_rate: jax.Array,
  *,
  spec: UpdateSpec,
  optimizer: optax.GradientTransformation,
) -> tuple[TrainState, Metrics]:
  """One update on the mean negative log-probability of trained attempts' tokens.

  Args are those of `update`.

  Returns:
    the state, and loss_A, gradient_norm, rejected, tokens (with loss).
  """
  cast = _cast(state.params, spec)

  def mask(part: Batch) -> jax.Array:
    return losses.trained_mask(part.attempt, part.trained, jnp.float32)

  tokens = jnp.sum(mask(batch))

  def micro(part: Batch):
    def loss(params):
      (logp_BL,) = _scored(loras.joined(frozen, params, spec.lora), None, part, spec, spec.remat)
      loss_A = losses.supervised_losses(logp_BL, mask(part), tokens)
      return jnp.sum(loss_A), loss_A

    grad, loss_A = jax.grad(loss, has_aux=True)(cast)
    return loss_A, grad

  loss_A, grad = _added_up(micro, batch, spec)
  state, metrics = apply(state, (grad,), loss_A, learning_rate, optimizer)
  return state, metrics | dict(loss_A=loss_A, tokens=tokens)
