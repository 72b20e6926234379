# SPDX-License-Identifier: Apache-2.0
"""What the decode steps of a rollout move in a TPU's memory, beside the least that they could.

Outside of the kernel it is read from the compiled program (`traffic.py`), inside it is counted for the lengths of rows.
"""

import dataclasses

import numpy as np

from score_jax.models import attention, decode_attention_tpu
from score_jax.planning import costs
from score_jax.planning.programs import Plan
from score_jax.sampling import rollout as rollouts

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


def step(plan: Plan, outside: int, lengths: tuple[np.ndarray, np.ndarray]) -> Step:
  """Returns what a step moves on average, until the last row is done; slots are not refilled, no guess is right.

  Args:
    plan: its rollout attends by the TPU's kernel.
    outside: bytes that a step moves beside the kernel.
    lengths: of whole_budgets or real_lengths.
  """
  prompt_B, grown_B = lengths
  config, policy = plan.decoder, costs.sizes(plan).policy
  itemsize = rollouts.cache_dtype(plan.rollout, plan.dtype).itemsize
  heads, width = attention.cached_heads(config, plan.rollout.kernel)
  heads = heads if heads % plan.mesh.shape['tensor'] else heads // plan.mesh.shape['tensor']
  tokens = 1 + plan.rollout.guesses
  sizes = dict(tokens=tokens, heads=heads, width=width, itemsize=itemsize)
  windows = [config.kinds[kind].window for kind in config.kind_of_layer]
  layers = {window: windows.count(window) for window in set(windows)}
  steps, inside, live = int(grown_B.max()), 0, 0
  for t in range(steps):
    runs_B = grown_B > t
    length_B = np.where(runs_B, prompt_B + t, 0) + tokens
    write_B = np.full(len(length_B), plan.prompt + t)
    for window, count in layers.items():
      inside += count * decode_attention_tpu.moved(length_B, write_B, window=window, **sizes)
      seen_B = np.minimum(length_B, window) if window else length_B
      live += count * int((seen_B * runs_B).sum()) * 2 * heads * width * itemsize
  return Step(outside + inside / steps, policy + live / steps)
