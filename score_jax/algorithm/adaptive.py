# SPDX-License-Identifier: Apache-2.0
"""Adapting beta to a budget of KL, as Ziegler et al. do (arXiv 1909.08593, section 2.2)."""

_GAIN = 0.1
_LARGEST_ERROR = 0.2  # of one step, relative
_WIDEST = 100.0  # how far a beta may move from the stage's own, either way


def next_scale(scale: float, kl: float, budget: float) -> float:
  """The factor of the stage's beta in the next step (eq. 6); a budget of 0 leaves it as it is.

  Args:
    scale: of this step; 1 as a stage begins.
    kl: of this step: an attempt's summed log-ratio in nats, mean over rows. It may be negative.
    budget: of `kl`.
  """
  if not budget:
    return scale
  error = min(max(kl / budget - 1, -_LARGEST_ERROR), _LARGEST_ERROR)
  return min(max(scale * (1 + _GAIN * error), 1 / _WIDEST), _WIDEST)
