# SPDX-License-Identifier: Apache-2.0
"""The device's data, as frozen trees. Letters: `core_types.py`."""

from typing import Any

from flax import struct
import jax


@struct.dataclass
class Rollout:
  """Conversations of A attempts, each from `start` to `end` of its row."""

  tokens: jax.Array  # i32 [B, L]
  attempt: jax.Array  # i8 [B, L]  0: context or padding; a: sampled in attempt a (from 1), with its stop token
  logp: jax.Array  # f32 [B, L]  of tokens[b, t] under the sampler at T=1; 0 where attempt is 0
  start: jax.Array  # i32 [B]  first slot of the row
  end: jax.Array  # i32 [B]  one past its last slot
  stop: jax.Array  # i8 [B, A]  core_types.Stop
  steps: jax.Array  # i32 [B, A]  decode steps that chose tokens of an attempt


@struct.dataclass
class Batch:
  """All that an update sees of a step. Rows are left-aligned (`training.batches`)."""

  tokens: jax.Array  # i32 [B, L]
  attempt: jax.Array  # i8 [B, L]  as in Rollout
  sampler_logp: jax.Array  # f32 [B, L]
  length: jax.Array  # i32 [B]  tokens of a row; padding stands after them
  verdict: jax.Array | None  # i8 [B, A]  core_types.Verdict; None: not graded yet
  trained: jax.Array  # bool [B, A]  False: an offline first attempt, context only
  ref_logp: jax.Array | None = None  # f32 [B, L]  under the reference; None: not scored yet, or scored by the update
  score: jax.Array | None = None  # f32 [B, A]  of reward functions; None: 1 for CORRECT, else 0


@struct.dataclass
class StageValues:
  """A stage as numbers, so that every stage shares one compiled update."""

  reward_weights: jax.Array  # f32 [A]
  bonus: jax.Array  # f32 [A]
  kl_weights: jax.Array  # f32 [A]
  gamma: jax.Array  # f32 []
  learning_rate: jax.Array  # f32 []


@struct.dataclass
class TrainState:
  """What an update reads and replaces. The reference is not part of it."""

  step: jax.Array  # i32 []  updates attempted in this run
  params: Any  # f32 tree
  opt_state: Any
  rejected: jax.Array  # i32 []  steps rejected for non-finite numbers, in all
  rejected_in_a_row: jax.Array  # i32 []
