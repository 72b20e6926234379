# SPDX-License-Identifier: Apache-2.0
"""Alarms: ways in which training to self-correct goes wrong unseen.

Each is a pure function of metrics by step: a report can tell when it sounded. Where a part of first attempts is
offline, alarms about the policy's own first attempts, and what becomes of them, look at these alone.
"""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any

import numpy as np

Records = Sequence[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Means:
  """Figures of a run as means over an alarm's window."""

  records: Records
  window: int

  def __call__(self, name: str, attempt: int | None = None) -> np.ndarray:
    """Returns a figure's mean over the window that ends at each step; f64 [steps]."""
    return trailing_mean(column(self.records, name, attempt), self.window)

  def on_policy(self, name: str, attempt: int | None = None) -> np.ndarray:
    """Returns the same of conversations whose first attempt is the policy's own; NaN where there are none."""
    return trailing_mean(on_policy(self.records, name, attempt), self.window)

  def preferred(self, name: str, attempt: int | None = None) -> np.ndarray:
    """Returns `on_policy`, and the mean of all conversations where there are none of these."""
    own_T = self.on_policy(name, attempt)
    return np.where(np.isnan(own_T), self(name, attempt), own_T)


@dataclasses.dataclass(frozen=True)
class Alarm:
  """One way to go wrong."""

  name: str
  message: str  # what is seen
  cause: str  # what is likely behind it
  field: str  # what to turn
  window: int  # steps of the means
  sounds: Callable[[Means, float], np.ndarray]  # (means, config.report.kl_alarm) -> bool [steps]


def sounding(records: Records, kl_alarm: float) -> dict[str, np.ndarray]:
  """Returns bool [steps] of each alarm: whether it sounds after that step.

  `kl_alarm`, in nats, limits the KL of attempt 1.
  """
  return {name: alarm.sounds(Means(records, alarm.window), kl_alarm) for name, alarm in ALARMS.items()}


def spells(records: Records, kl_alarm: float) -> list[tuple[Alarm, int, int]]:
  """Returns alarms that sounded, with first and last step of each time, in order."""
  result = []
  for name, on_T in sounding(records, kl_alarm).items():
    edges = np.flatnonzero(np.diff(np.pad(on_T, 1).astype(np.int8)))
    for first, end in edges.reshape(-1, 2):
      result.append((ALARMS[name], records[first]['step'], records[end - 1]['step']))
  return sorted(result, key=lambda spell: (spell[1], spell[0].name))


def column(records: Records, name: str, attempt: int | None = None) -> np.ndarray:
  """Returns a figure of every record, f64 [steps]; NaN where a record lacks it."""
  figures = [record.get(name) for record in records]
  figures = [figure[attempt] if isinstance(figure, list) else figure for figure in figures]
  return np.array([np.nan if figure is None else figure for figure in figures], np.float64)


def with_on_policy(record: dict[str, Any]) -> dict[str, Any]:
  """Returns what a record holds of conversations with on-policy first attempts (`metrics.by_first_attempt`).

  Where it tells none apart, all are on-policy.
  """
  return record.get('on_policy', {}) if 'offline' in record else record


def on_policy(records: Records, name: str, attempt: int | None = None) -> np.ndarray:
  """Returns `column` of conversations with on-policy first attempts; NaN where there are none."""
  return column([with_on_policy(record) for record in records], name, attempt)


def trailing_mean(value_T: np.ndarray, window: int) -> np.ndarray:
  """Returns the mean of `window` values up to each; NaN where one is NaN or missing."""
  means_T = np.full(len(value_T), np.nan)
  if len(value_T) >= window:
    windows = np.lib.stride_tricks.sliding_window_view(value_T, window)
    means_T[window - 1 :] = windows.mean(axis=1)
  return means_T


def _sandbagged(mean: Means, _: float) -> np.ndarray:
  """Sounds when Acc@t1 fell by 5 points and 3 standard errors, and delta rose by 5."""
  first_T, last_T = (on_policy(mean.records, 'accuracy', attempt) for attempt in (0, -1))
  now_T = trailing_mean(first_T, mean.window)
  gain_T = trailing_mean(last_T - first_T, mean.window)
  best_T = np.fmax.accumulate(now_T)
  # The gain where attempt 1 was at its best so far; index 0 before the first.
  best_index_T = np.maximum.accumulate(np.where(now_T == best_T, np.arange(len(now_T)), 0))
  noise_T = np.nan_to_num(mean.on_policy('accuracy_se', 0)) / np.sqrt(mean.window)
  fallen_T = best_T - now_T > np.maximum(0.05, 3 * np.sqrt(2) * noise_T)
  return fallen_T & (gain_T - gain_T[best_index_T] > 0.05)


def _copies(mean: Means, _: float) -> np.ndarray:
  """Sounds when below 5 % of texts differ, or below 5 % of wrong answers, while Acc@t1 is below 95 %."""
  first_T = mean.preferred('accuracy', 0)
  same_T = mean.preferred('i_to_i_same') > 0.95 * (1 - first_T)
  return ((mean.preferred('text_changed') < 0.05) | same_T) & (first_T < 0.95)


def _always_changes(mean: Means, _: float) -> np.ndarray:
  """Sounds when above 80 % of answers change and above 30 % of right ones break."""
  breaks_T = mean.preferred('c_to_i') > 0.3 * mean.preferred('accuracy', 0)
  return (mean.preferred('answer_changed') > 0.8) & breaks_T


def _truncated_later(mean: Means, _: float) -> np.ndarray:
  """Sounds when above 20 % of some later attempt are cut by their budget."""
  sounds_T = np.zeros(len(mean.records), bool)
  for attempt in range(1, len(mean.records[0]['accuracy']) if mean.records else 1):
    sounds_T |= mean('truncated', attempt) > 0.2
  return sounds_T


def _unparsed(mean: Means, _: float) -> np.ndarray:
  """Sounds while some attempt's unparsed answers are 5 points above the best window; offline ones don't count."""
  sounds_T = np.zeros(len(mean.records), bool)
  for attempt in range(len(mean.records[0]['accuracy']) if mean.records else 0):
    now_T = mean('unparsed', attempt) if attempt else mean.on_policy('unparsed', 0)
    sounds_T |= now_T - np.fmin.accumulate(now_T) > 0.05
  return sounds_T


def _reference_moved(mean: Means, _: float) -> np.ndarray:
  """Sounds where the reference's checksum has changed within a stage run ("visit")."""
  sums = [(r.get('visit', r['stage']), r.get('reference')) for r in mean.records]
  began = dict(reversed([one for one in sums if one[1] is not None]))
  return np.array([now is not None and now != began[stage_run] for stage_run, now in sums], bool)


_TABLE = (
  Alarm(
    'copies',
    'the second attempt copies the first, or repeats its answer where that is wrong',
    'nothing rewards a change: Stage I was too short, or beta holds the second attempt at a base that copies',
    'stages.stage1.steps up, stages.stage1.kl_weights[1] down, stages.stage2.bonus[1] up',
    20,
    _copies,
  ),
  Alarm(
    'sandbagged',
    'the first attempt gets worse while delta grows: the gain is made by failing first',
    'the bonus reaches attempt 1 (gamma above 0), or its KL is too weak to hold it',
    'stages.*.gamma = 0, stages.*.kl_weights[0] up, stages.stage2.bonus[1] down',
    20,
    _sandbagged,
  ),
  Alarm(
    'always_changes',
    'nearly every answer is changed, right ones too',
    'the second attempt is rewarded without a KL that keeps what it knows, or the instruction says that it was wrong',
    'stages.*.kl_weights[1] up, task.instruction',
    20,
    _always_changes,
  ),
  Alarm(
    'kl_first',
    'KL of attempt 1 to the reference is above its limit',
    'attempt 1 moves with the weights that attempt 2 pulls on, or with its own reward; long answers move further',
    'stages.*.kl_weights[0] up, optim.learning_rate down (report.kl_alarm is the limit)',
    10,
    lambda mean, kl_alarm: mean('kl', 0) > kl_alarm,
  ),
  Alarm(
    'truncated_first',
    'more than a fifth of first attempts are cut by their budget',
    'attempt_tokens[0] is too small for the answers: cut ones are graded as they stand, and attempt 2 reads them so',
    'sampling.attempt_tokens up',
    10,
    lambda mean, _: mean.on_policy('truncated', 0) > 0.2,
  ),
  Alarm(
    'truncated_later',
    'more than a fifth of later attempts are cut by their budget',
    'attempt_tokens[1] is too small for what the instruction asks for: an attempt that is cut is rarely right',
    'sampling.attempt_tokens up, task.instruction',
    10,
    _truncated_later,
  ),
  Alarm(
    'no_variance',
    'in more than 9 of 10 problems all last attempts do equally well: there is nothing to learn from',
    'problems are too easy or too hard for the policy, or there are too few samples of each',
    'batch.samples up, task (other problems)',
    20,
    lambda mean, _: mean('flat', -1) > 0.9,
  ),
  Alarm(
    'format',
    'answers that cannot be read have become more frequent',
    'the policy drifts from the form that the grader reads, or is cut before it answers',
    'optim.learning_rate down, stages.*.kl_weights up, sampling.attempt_tokens up',
    10,
    _unparsed,
  ),
  Alarm(
    'mismatch',
    'sampler and trainer disagree about the log-probability of a token by more than 0.1 on average',
    'they round differently (a cache in 8 bits, bfloat16), or one of them has a fault',
    'sampling.cache_dtype = auto, model.dtype = float32, loss.importance_cap',
    5,
    lambda mean, _: mean('mismatch') > 0.1,
  ),
  Alarm(
    'reference_moved',
    'the reference is not what it was when the stage began',
    'a fault of the program or the device: the reference is never trained. The KL means nothing from here on',
    'none: go back to a checkpoint before it',
    1,
    _reference_moved,
  ),
)

ALARMS = {alarm.name: alarm for alarm in _TABLE}
