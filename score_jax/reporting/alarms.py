"""Alarms: ways in which training to self-correct goes wrong without a number turning red, with causes and remedies.

Each alarm is a pure function of a run's records of metrics, step by step, so that a report can tell when it sounded and
a test can script its fault. `ALARMS` is the table; `sounding` evaluates it.
"""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np

Records = Sequence[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Alarm:
  """One way to go wrong."""

  name: str
  message: str  # what is seen
  cause: str  # what is behind it, most often
  field: str  # what to turn
  window: int  # steps whose mean is looked at
  sounds: Callable[[Records, int, float], np.ndarray]  # (records, window, config.report.kl_alarm) -> bool [steps]


def sounding(records: Records, kl_alarm: float) -> dict[str, np.ndarray]:
  """Returns bool [steps] of each alarm: whether it sounds after that step, which depends on earlier steps alone.

  Args:
    records: of metrics.jsonl.
    kl_alarm: nats that the KL of attempt 1 may reach (config.report.kl_alarm).
  """
  return {alarm.name: alarm.sounds(records, alarm.window, kl_alarm) for alarm in ALARMS.values()}


def spells(records: Records, kl_alarm: float) -> list[tuple[Alarm, int, int]]:
  """Returns alarms that sounded, with the first and the last step of each time, in the order of the first steps."""
  result = []
  for name, on_T in sounding(records, kl_alarm).items():
    edges = np.flatnonzero(np.diff(np.concatenate([[False], on_T, [False]]).astype(np.int8)))
    for first, end in zip(edges[::2], edges[1::2], strict=True):
      result.append((ALARMS[name], records[first]['step'], records[end - 1]['step']))
  return sorted(result, key=lambda spell: (spell[1], spell[0].name))


def column(records: Records, name: str, attempt: int | None = None) -> np.ndarray:
  """Returns a figure of every record, f64 [steps]; NaN in records that lack it (those of an older version)."""

  def value(record: dict[str, Any]) -> float:
    figure = record.get(name)
    if isinstance(figure, list):
      figure = figure[attempt]
    return float('nan') if figure is None else float(figure)

  return np.array([value(record) for record in records], np.float64)


def trailing_mean(value_T: np.ndarray, window: int) -> np.ndarray:
  """Returns the mean of the last `window` values up to each; NaN where there are fewer, or where one is NaN."""
  means = np.full(len(value_T), np.nan)
  if len(value_T) >= window:
    means[window - 1 :] = np.lib.stride_tricks.sliding_window_view(value_T, window).mean(axis=1)
  return means


def _mean(records: Records, window: int, name: str, attempt: int | None = None) -> np.ndarray:
  return trailing_mean(column(records, name, attempt), window)


def _above(name: str, attempt: int | None, limit: float) -> Callable[[Records, int, float], np.ndarray]:
  """Returns an alarm that sounds while the mean over the window is above a limit."""
  return lambda records, window, kl_alarm: _mean(records, window, name, attempt) > limit


def _copies(records: Records, window: int, kl_alarm: float) -> np.ndarray:
  """Sounds while few second attempts differ in their text although many first ones are wrong."""
  changed_T = _mean(records, window, 'text_changed')
  return (changed_T < 0.05) & (_mean(records, window, 'accuracy', 0) < 0.95)


def _sandbagged(records: Records, window: int, kl_alarm: float) -> np.ndarray:
  """Sounds when Acc@t1 has fallen while delta has risen: by 5 points and by three standard errors."""
  first_T, last_T = column(records, 'accuracy', 0), column(records, 'accuracy', -1)
  now_T, gain_T = trailing_mean(first_T, window), trailing_mean(last_T - first_T, window)
  best_T = np.fmax.accumulate(now_T)
  # The gain at the window in which attempt 1 was at its best so far; index 0 before the first.
  at_best_T = gain_T[np.maximum.accumulate(np.where(now_T == best_T, np.arange(len(now_T)), 0))]
  noise_T = np.nan_to_num(_mean(records, window, 'accuracy_se', 0)) / np.sqrt(window)
  fallen_T = best_T - now_T > np.maximum(0.05, 3 * np.sqrt(2) * noise_T)
  return fallen_T & (gain_T - at_best_T > 0.05)


def _always_changes(records: Records, window: int, kl_alarm: float) -> np.ndarray:
  """Sounds while nearly every answer is another one the second time, and right ones are broken as well."""
  broken_T = _mean(records, window, 'c_to_i')
  right_T = _mean(records, window, 'accuracy', 0)
  return (_mean(records, window, 'answer_changed') > 0.8) & (broken_T > 0.3 * right_T)


def _format(records: Records, window: int, kl_alarm: float) -> np.ndarray:
  """Sounds while unparsed answers are 5 points above the run's best window, in some attempt."""
  sounds_T = np.zeros(len(records), bool)
  for attempt in range(len(records[0]['accuracy']) if records else 0):
    now_T = _mean(records, window, 'unparsed', attempt)
    sounds_T |= now_T - np.fmin.accumulate(now_T) > 0.05
  return sounds_T


def _reference_moved(records: Records, window: int, kl_alarm: float) -> np.ndarray:
  """Sounds where the reference's checksum is not what it was when the stage run began ("visit" is its number)."""
  began: dict[Any, int] = {}
  moved = []
  for record in records:
    now = record.get('reference')
    moved.append(now is not None and began.setdefault(record.get('visit', record['stage']), now) != now)
  return np.array(moved, bool)


_TABLE = (
  Alarm(
    'copies',
    'the second attempt copies the first, though many first ones are wrong',
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
    'attempt 1 moves with the weights that attempt 2 pulls on',
    'stages.*.kl_weights[0] up, optim.learning_rate down (report.kl_alarm is the limit)',
    10,
    lambda records, window, kl_alarm: _mean(records, window, 'kl', 0) > kl_alarm,
  ),
  Alarm(
    'truncated_first',
    'more than a fifth of first attempts are cut by their budget',
    'attempt_tokens[0] is too small for the answers: cut ones are graded as they stand, and attempt 2 reads them so',
    'sampling.attempt_tokens up',
    10,
    _above('truncated', 0, 0.2),
  ),
  Alarm(
    'no_variance',
    'in more than 9 of 10 problems all last attempts do equally well: there is nothing to learn from',
    'problems are too easy or too hard for the policy, or there are too few samples of each',
    'batch.samples up, task (other problems)',
    20,
    _above('flat', -1, 0.9),
  ),
  Alarm(
    'format',
    'answers that cannot be read have become more frequent',
    'the policy drifts from the form that the grader reads, or is cut before it answers',
    'optim.learning_rate down, stages.*.kl_weights up, sampling.attempt_tokens up',
    10,
    _format,
  ),
  Alarm(
    'mismatch',
    'sampler and trainer disagree about the log-probability of a token by more than 0.1 on average',
    'they round differently (a cache in 8 bits, bfloat16), or one of them has a fault',
    'sampling.cache_dtype = auto, model.dtype = float32, loss.importance_cap',
    5,
    _above('mismatch', None, 0.1),
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

ALARMS: dict[str, Alarm] = {alarm.name: alarm for alarm in _TABLE}
