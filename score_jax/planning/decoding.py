# SPDX-License-Identifier: Apache-2.0
"""What the decode steps of a rollout move in a device's memory, beside the least that they could.

Outside of attention it is read from a TPU's program (`traffic.py`), else assumed; what attention moves is counted for
the lengths of rows.
"""

from collections import Counter
from collections.abc import Sequence
import dataclasses

import numpy as np

from score_jax.models import attention, decode_attention_tpu
from score_jax.planning import costs
from score_jax.planning.programs import Plan
from score_jax.sampling import spec as specs

MEAN_ANSWER = 300  # tokens, of real answers (reasoning and programs of models without long thoughts)
_SPREAD = 0.8  # of the logarithm of an answer's length
_SEED = 0


@dataclasses.dataclass(frozen=True)
class Step:
  """Bytes of a decode step on a chip, the mean over a rollout."""

  moved: float
  floor: float  # the weights, and the live cache of rows that are not done

  @property
  def ratio(self) -> float:
    return self.moved / self.floor


def whole_budgets(plan: Plan) -> tuple[np.ndarray, np.ndarray]:
  """Returns tokens of prompts and of what follows, each [B], where rows use all that they may."""
  rows = plan.decode_slots
  return np.full(rows, plan.prompt), np.full(rows, plan.rollout.growth)


def real_lengths(plan: Plan, mean: float = MEAN_ANSWER) -> tuple[np.ndarray, np.ndarray]:
  """Returns the same for prompts of an eighth to half of theirs, and log-normal answers up to their budgets."""
  rng, rows = np.random.default_rng(_SEED), plan.decode_slots
  prompt_B = rng.integers(plan.prompt // 8, plan.prompt // 2, rows, endpoint=True)
  fed = sum(map(len, plan.rollout.separators))
  answers = rng.lognormal(np.log(mean) - _SPREAD**2 / 2, _SPREAD, (len(plan.rollout.budgets), rows))
  answers = np.minimum(np.maximum(answers, 1), np.array(plan.rollout.budgets)[:, None]).astype(int)
  return prompt_B, answers.sum(axis=0) + fed


def step(
  plan: Plan, outside: float, lengths: tuple[np.ndarray, np.ndarray], times: Sequence[int] | None = None
) -> Step:
  """Returns what a step moves on average, until the last row is done; slots are not refilled, no guess is right.

  Args:
    plan: of the rollout.
    outside: bytes that a step moves beside attention to the cache.
    lengths: of whole_budgets or real_lengths.
    times: the steps to average over, from 0 on; None: all.
  """
  prompt_B, grown_B = lengths
  windows = [plan.decoder.kinds[kind].window for kind in plan.decoder.kind_of_layer]
  times = range(int(grown_B.max())) if times is None else times
  inside, live = 0, 0
  for t in times:
    runs_B = grown_B > t
    length_B = np.where(runs_B, prompt_B + t, 0) + 1 + plan.rollout.guesses
    for window, layers in Counter(windows).items():
      seen_B = np.minimum(length_B, window) if window else length_B
      inside += layers * _attention(plan, length_B, seen_B, plan.prompt + t, window)
      live += layers * int((seen_B * runs_B).sum()) * _slot(plan)
  return Step(outside + inside / len(times), costs.read_in_a_step(plan) + live / len(times))


def assumed_outside(plan: Plan) -> int:
  """Returns what a step moves beside attention where the program can't be read: the weights, and logits.

  Logits are f32, written once and read twice, for the draw and for its log-probability.
  """
  vocab, tensor = plan.decoder.vocab, plan.sampling_mesh.shape['tensor']
  return costs.read_in_a_step(plan) + 3 * 4 * plan.rollout.step_tokens(plan.decode_slots) * (
    vocab if vocab % tensor else vocab // tensor
  )


def _slot(plan: Plan) -> int:
  """Returns the bytes of a slot of a layer's cache on a device, keys and values."""
  heads, width, itemsize = _cached(plan)
  return 2 * heads * width * itemsize


def _cached(plan: Plan) -> tuple[int, int, int]:
  """Returns heads and width of a cache on a device, and the bytes of a number."""
  heads, width = attention.cached_heads(plan.decoder, plan.rollout.kernel)
  tensor = plan.sampling_mesh.shape['tensor']
  return heads if heads % tensor else heads // tensor, width, specs.cache_dtype(plan.rollout, plan.dtype).itemsize


def _attention(plan: Plan, length_B: np.ndarray, seen_B: np.ndarray, write: int, window: int) -> int:
  """Returns the bytes of a layer's cache that a step reads and writes, by the kernel that attends."""
  if plan.rollout.kernel == 'mosaic':
    heads, width, itemsize = _cached(plan)
    sizes = dict(tokens=1 + plan.rollout.guesses, window=window, heads=heads, width=width, itemsize=itemsize)
    return decode_attention_tpu.moved(length_B, np.full_like(length_B, write), **sizes)
  if plan.rollout.kernel == 'triton':  # what it masks it does not read; the newest token is written, not read
    return int(seen_B.sum()) * _slot(plan)
  slots = specs.cache_sizes(plan.rollout, plan.prompt, together=True)[-1]
  return len(length_B) * (slots + 1 + plan.rollout.guesses) * _slot(plan)
