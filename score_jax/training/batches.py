"""From a rollout to the rows of an update: left-aligned, in an order that spreads the work evenly."""

import numpy as np

from score_jax.states import Batch
from score_jax.states import Rollout

# Streams come in so many lengths between none and all of their rows' slots: each length that occurs is compiled once.
_LENGTHS = 16
_BLOCK = 128  # places; what kernels and matrix products like


def of_rollout(rollout: Rollout, trained_BA: np.ndarray, verdict_BA: np.ndarray | None = None) -> Batch:
  """The batch of a rollout, all of it in host memory; rows of full length, in their order."""
  slot_BL = rollout.start[:, None] + np.arange(rollout.tokens.shape[1])
  inside_BL = slot_BL < rollout.end[:, None]
  slot_BL = np.where(inside_BL, slot_BL, 0)

  def aligned(x_BL: np.ndarray) -> np.ndarray:
    return np.where(inside_BL, np.take_along_axis(np.asarray(x_BL), slot_BL, axis=1), np.zeros((), x_BL.dtype))

  return Batch(
    tokens=aligned(rollout.tokens),
    attempt=aligned(rollout.attempt),
    sampler_logp=aligned(rollout.logp),
    length=rollout.end - rollout.start,
    verdict=verdict_BA,
    trained=trained_BA,
  )


def balanced_order(length_B: np.ndarray, group: int, shards: int, parts: int) -> np.ndarray:
  """An order of rows in which the micro-batches of each device have about the same number of tokens.

  Whole problems move, and only among the rows of their own device: the longest first, each to the part that has the
  fewest tokens so far and still has room.

  Args:
    length_B: i32, tokens of each row.
    group: G, rows of a problem.
    shards: devices that rows are spread over; each has its problems in one piece.
    parts: micro-batches; part m takes a device's problems m, m + parts, ... (`update.micro_batched`).

  Returns:
    i64 [B]: the row that comes to stand in each place.
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


def stream_places(length_B: np.ndarray, longest: int, group: int, shards: int, parts: int) -> int:
  """Places of a stream that hold any device's part of any micro-batch, of rows in `balanced_order`.

  A sixteenth of all slots of a part's rows, or a multiple of it, so that few programs are compiled.
  """
  tokens_XPK = length_B.reshape(shards, -1, parts, group).sum(-1)
  most = int(tokens_XPK.sum(axis=1).max())
  slots = length_B.size // (shards * parts) * longest
  step = -(-slots // (_LENGTHS * _BLOCK)) * _BLOCK
  return -(-most // step) * step
