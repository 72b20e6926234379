"""Ways in which training to self-correct goes wrong without a number turning red: their names, causes and remedies.

Each alarm is a pure function of a run's lines of metrics, step by step, so that a report can tell when it sounded and a
test can script its fault. `ALARMS` is the table; `sounding` works it out.
"""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np

Lines = Sequence[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Limits:
  """What an alarm is measured against that only the user can know."""

  kl_alarm: float  # nats


@dataclasses.dataclass(frozen=True)
class Alarm:
  """One way to go wrong."""

  name: str
  says: str  # what is seen
  cause: str  # what is behind it, most often
  field: str  # what to turn
  window: int  # steps whose mean is looked at
  sounds: Callable[[Lines, 'Alarm', Limits], np.ndarray]  # bool [steps]


@dataclasses.dataclass(frozen=True)
class Spell:
  """An alarm that sounded without a break."""

  name: str
  first: int  # step
  last: int


def sounding(lines: Lines, limits: Limits) -> dict[str, np.ndarray]:
  """bool [steps] of each alarm: whether it sounds after that step. A step looks only at those before it."""
  return {alarm.name: alarm.sounds(lines, alarm, limits) for alarm in ALARMS.values()}


def spells(lines: Lines, limits: Limits) -> list[Spell]:
  """When alarms sounded, in the order of their beginnings."""
  found = []
  for name, on_T in sounding(lines, limits).items():
    edges = np.flatnonzero(np.diff(np.concatenate([[False], on_T, [False]]).astype(np.int8)))
    for first, end in zip(edges[::2], edges[1::2], strict=True):
      found.append(Spell(name, lines[first]['step'], lines[end - 1]['step']))
  return sorted(found, key=lambda spell: (spell.first, spell.name))


def column(lines: Lines, name: str, attempt: int | None = None) -> np.ndarray:
  """A figure of every line, f64 [steps]; NaN in lines that lack it (those of an older version)."""

  def value(line: dict[str, Any]) -> float:
    found = line.get(name)
    if isinstance(found, list):
      found = found[attempt]
    return float('nan') if found is None else float(found)

  return np.array([value(line) for line in lines], np.float64)


def trailing_mean(value_T: np.ndarray, window: int) -> np.ndarray:
  """Mean of the last `window` values up to each; NaN before there are as many, or where one is NaN."""
  means = np.full(len(value_T), np.nan)
  if len(value_T) >= window:
    means[window - 1 :] = np.lib.stride_tricks.sliding_window_view(value_T, window).mean(axis=1)
  return means


def _above(name: str, attempt: int | None, limit: float) -> Callable[[Lines, Alarm, Limits], np.ndarray]:
  """Sounds while the mean over the window is above a limit."""

  def sounds(lines: Lines, alarm: Alarm, limits: Limits) -> np.ndarray:
    return trailing_mean(column(lines, name, attempt), alarm.window) > limit

  return sounds


def _copies(lines: Lines, alarm: Alarm, limits: Limits) -> np.ndarray:
  """Few second attempts differ in their text while many first ones are wrong: there was something to mend."""
  changed_T = trailing_mean(column(lines, 'text_changed'), alarm.window)
  right_T = trailing_mean(column(lines, 'accuracy', 0), alarm.window)
  return (changed_T < 0.05) & (right_T < 0.95)


def _sandbagged(lines: Lines, alarm: Alarm, limits: Limits) -> np.ndarray:
  """Acc@t1 has fallen from where it was while delta has risen: by 5 points and by three standard errors."""
  first_T, last_T = column(lines, 'accuracy', 0), column(lines, 'accuracy', -1)
  now_T, gain_T = trailing_mean(first_T, alarm.window), trailing_mean(last_T - first_T, alarm.window)
  best_T = np.fmax.accumulate(now_T)
  # The gain at the window in which attempt 1 was at its best so far.
  at_best_T = gain_T[_last_where(now_T == best_T)]
  noise_T = np.nan_to_num(trailing_mean(column(lines, 'accuracy_se', 0), alarm.window)) / np.sqrt(alarm.window)
  fallen_T = best_T - now_T > np.maximum(0.05, 3 * np.sqrt(2) * noise_T)
  return fallen_T & (gain_T - at_best_T > 0.05)


def _always_changes(lines: Lines, alarm: Alarm, limits: Limits) -> np.ndarray:
  """Nearly every answer is another one the second time, and what was right is broken as well."""
  changed_T = trailing_mean(column(lines, 'answer_changed'), alarm.window)
  right_T = trailing_mean(column(lines, 'accuracy', 0), alarm.window)
  broken_T = trailing_mean(column(lines, 'c_to_i'), alarm.window)
  return (changed_T > 0.8) & (broken_T > 0.3 * right_T)


def _kl(lines: Lines, alarm: Alarm, limits: Limits) -> np.ndarray:
  return trailing_mean(column(lines, 'kl', 0), alarm.window) > limits.kl_alarm


def _collapses(lines: Lines, alarm: Alarm, limits: Limits) -> np.ndarray:
  """More answers than before can not be read: 5 points above the run's best window, in some attempt."""
  sounds_T = np.zeros(len(lines), bool)
  for attempt in range(len(lines[0]['accuracy']) if lines else 0):
    now_T = trailing_mean(column(lines, 'unparsed', attempt), alarm.window)
    sounds_T |= now_T - np.fmin.accumulate(now_T) > 0.05
  return sounds_T


def _moved(lines: Lines, alarm: Alarm, limits: Limits) -> np.ndarray:
  """The reference's checksum is not what it was when the stage_run began."""
  began: dict[Any, Any] = {}
  return np.array(
    [
      'reference' in line and began.setdefault(line.get('visit', line['stage']), line['reference']) != line['reference']
      for line in lines
    ],
    bool,
  )


def _last_where(true_T: np.ndarray) -> np.ndarray:
  """Index of the newest True up to each place; 0 before the first."""
  return np.maximum.accumulate(np.where(true_T, np.arange(len(true_T)), 0))


_TABLE = (
  Alarm(
    'copies',
    'the second attempt copies the first, though many first ones are wrong',
    'nothing reward_weights for changing: Stage I was too short, or beta holds the second attempt at a base that copies',
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
    'KL of attempt 1 to the reference is over its budget',
    'attempt 1 moves with the weights that attempt 2 pulls on',
    'stages.*.kl_weights[0] up, optim.learning_rate down (report.kl_alarm is the limit)',
    10,
    _kl,
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
    'answers that can not be read have become more frequent',
    'the policy drifts from the form that the verifier reads, or is cut before it answers',
    'optim.learning_rate down, stages.*.kl_weights up, sampling.attempt_tokens up',
    10,
    _collapses,
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
    _moved,
  ),
)

ALARMS: dict[str, Alarm] = {alarm.name: alarm for alarm in _TABLE}
