# SPDX-License-Identifier: Apache-2.0
"""From a rollout to the rows of an update."""

import dataclasses

import jax
import numpy as np

from score_jax.states import Batch, Rollout
from score_jax.training.update import UpdateSpec

_LENGTHS = 16  # of streams, each compiled once
_BLOCK = 128  # slots; what kernels and matrix products like


def of_rollout(rollout: Rollout, trained_BA: np.ndarray, verdict_BA: np.ndarray | None = None) -> Batch:
  """Returns the left-aligned batch of a rollout, in host memory."""
  slot_BL = rollout.start[:, None] + np.arange(rollout.tokens.shape[1])
  inside_BL = slot_BL < rollout.end[:, None]
  slot_BL = np.where(inside_BL, slot_BL, 0)

  def aligned(x_BL: np.ndarray) -> np.ndarray:
    moved_BL = np.take_along_axis(np.asarray(x_BL), slot_BL, axis=1)
    return np.where(inside_BL, moved_BL, np.zeros((), x_BL.dtype))

  return Batch(
    tokens=aligned(rollout.tokens),
    attempt=aligned(rollout.attempt),
    sampler_logp=aligned(rollout.logp),
    length=rollout.end - rollout.start,
    verdict=verdict_BA,
    trained=trained_BA,
  )


def balanced_order(length_B: np.ndarray, group: int, shards: int, parts: int) -> np.ndarray:
  """Returns an order of rows in which a device's micro-batches have about as many tokens.

  The longest problem comes first, to the part with room that has the fewest tokens.

  `update.micro_batched` cuts the `parts`. The row that comes to each index is returned, i64 [B].
  """
  tokens_XP = length_B.reshape(shards, -1, group).sum(-1)
  room = tokens_XP.shape[1] // parts
  order_XP = []
  for tokens_P in tokens_XP:
    members, totals = [[] for _ in range(parts)], np.zeros(parts)
    for problem in np.argsort(-tokens_P, kind='stable'):
      part = min((m for m in range(parts) if len(members[m]) < room), key=lambda m: totals[m])
      members[part].append(problem)
      totals[part] += tokens_P[problem]
    order_XP.append(np.stack(members, axis=1).reshape(-1))
  problem_P = (np.stack(order_XP) + np.arange(shards)[:, None] * tokens_XP.shape[1]).reshape(-1)
  return (problem_P[:, None] * group + np.arange(group)).reshape(-1)


def packed_length(length_B: np.ndarray, longest: int, group: int, shards: int, parts: int) -> int:
  """Returns a stream's length, one of a few, for any micro-batch in `balanced_order`."""
  tokens_XPK = length_B.reshape(shards, -1, parts, group).sum(-1)
  most = int(tokens_XPK.sum(axis=1).max())
  slots = length_B.size // (shards * parts) * longest
  step = -(-slots // (_LENGTHS * _BLOCK)) * _BLOCK
  return -(-most // step) * step


def packed(batch: Batch, spec: UpdateSpec, shards: int, pack: bool) -> tuple[Batch, np.ndarray, UpdateSpec]:
  """Returns a batch on the host as an update packs it, its rows' order, and the spec with its streams' length."""
  order = np.arange(len(batch.length))
  if pack:
    parts = (spec.group, shards, spec.micro_batches)
    order = balanced_order(batch.length, *parts)
    length = packed_length(batch.length[order], batch.tokens.shape[1], *parts)
    spec = dataclasses.replace(spec, packed_length=length)
  return jax.tree.map(lambda x: x[order], batch), order, spec


def chosen_ids(tokens_BL: np.ndarray, chosen_BL: np.ndarray, budget: int) -> np.ndarray:
  """i32 [B, budget]: each row's chosen tokens, then -1."""
  slot_BL = np.cumsum(chosen_BL, axis=1) - 1
  ids = np.full((len(tokens_BL), budget), -1, np.int32)
  row, slot = np.nonzero(chosen_BL)
  ids[row, slot_BL[row, slot]] = tokens_BL[row, slot]
  return ids
