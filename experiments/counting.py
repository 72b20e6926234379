# SPDX-License-Identifier: Apache-2.0
"""Counts the figures of a suite: means over seeds, 95 % intervals, paired differences.

Methods are compared problem by problem. A draw of the bootstrap weighs problems, the same for all methods (Bayesian
bootstrap), and draws seeds for each method apart.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import math
import pathlib
from typing import Any

import numpy as np

from score_jax.core_types import Verdict
from score_jax.errors import DataError
from score_jax.reporting.rows import Row

_DRAWS = 2000
_PRIOR = 0.5  # problems added to each of the four transitions
_SEED = 20240919


@dataclasses.dataclass(frozen=True)
class Answers:
  """Answers of one method."""

  right: np.ndarray  # bool [S, P, A], or [S, P, K, A]: seeds, problems, conversations on each, attempts

  def figures(self) -> dict[str, np.ndarray]:
    """Returns f32 [S, P] by name: acc_t1 .. acc_tA, delta, i_to_c, c_to_i."""
    right = self.right.astype(np.float32)
    first, last = right[..., 0], right[..., -1]
    accuracies = {f'acc_t{i + 1}': right[..., i] for i in range(right.shape[-1])}
    every = accuracies | dict(delta=last - first, i_to_c=(1 - first) * last, c_to_i=first * (1 - last))
    return {name: x.mean(axis=2) if x.ndim == 3 else x for name, x in every.items()}


def answers(rows: Mapping[str, Sequence[Sequence[Row]]]) -> tuple[dict[str, Answers], int, int]:
  """Returns the answers of every method.

  Args:
    rows: method -> for each seed its rows of one decoding.

  Returns:
    answers; the number of problems, and of those left out because a grader failed on them.

  Raises:
    DataError: two methods were asked different problems, or no problem is left.
  """
  tables = {
    method: [{row.id: [a.verdict for a in row.attempts] for row in one} for one in seeds]
    for method, seeds in rows.items()
  }
  every = [(method, table) for method in tables for table in tables[method]]
  ids = sorted(every[0][1]) if every else []
  for method, table in every:
    if table.keys() != set(ids):
      raise DataError(f'{method} was asked other problems than the first method: {len(table)}, not {len(ids)}')
  kept = [id_ for id_ in ids if not any(Verdict.ERROR in table[id_] for _, table in every)]
  if not kept:
    raise DataError('no problem was graded for all methods')
  result = {
    method: Answers(np.array([[table[id_] for id_ in kept] for table in seeds]) == Verdict.CORRECT)
    for method, seeds in tables.items()
  }
  return result, len(kept), len(ids) - len(kept)


def write(path: pathlib.Path, by_decoding: Mapping[str, Mapping[str, Answers]]) -> None:
  """Writes decoding -> method -> answers as one .npz of bool [S, P, A]."""
  arrays = {}
  for name, methods in by_decoding.items():
    arrays |= {f'{name}/{method}': one.right for method, one in methods.items()}
  np.savez_compressed(path, **arrays)


def read(path: pathlib.Path) -> dict[str, dict[str, Answers]]:
  """Returns what `write` was given."""
  by_decoding: dict[str, dict[str, Answers]] = {}
  with np.load(path, allow_pickle=False) as arrays:
    for name, right in arrays.items():
      decoding, _, method = name.partition('/')
      by_decoding.setdefault(decoding, {})[method] = Answers(right)
  return by_decoding


def count(methods: Mapping[str, Answers], reference: str) -> dict[str, dict[str, Any]]:
  """Counts every figure of every method.

  Returns:
    method -> figure -> {mean, interval [low, high], by_seed}; but for the reference also `difference`: figure ->
    {mean, interval} of the method minus the reference.
  """
  problems = next(iter(methods.values())).right.shape[1]
  rng = np.random.default_rng(_SEED)
  weight_RP = rng.standard_exponential((_DRAWS, problems), dtype=np.float32)
  draws = {method: _draws(one, weight_RP, rng) for method, one in methods.items()}
  result: dict[str, dict[str, Any]] = {}
  for method, one in methods.items():
    value = {name: x_SP.mean(axis=1) for name, x_SP in one.figures().items()}
    result[method] = {
      name: dict(
        mean=float(value_S.astype(np.float64).mean()),
        interval=_interval(draws[method][name]),
        by_seed=[float(v) for v in value_S],
      )
      for name, value_S in value.items()
    }
  for method in methods if reference in methods else ():
    if method != reference:
      result[method]['difference'] = {
        name: dict(
          mean=result[method][name]['mean'] - result[reference][name]['mean'],
          interval=_interval(draw_R - draws[reference][name]),
        )
        for name, draw_R in draws[method].items()
        if name in draws[reference]
      }
  return result


def _draws(answers: Answers, weight_RP: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
  """Draws each figure R times.

  Half a problem is added to each transition, so that no change seen is no proof that there is none. Seeds drawn with
  replacement have (S - 1) / S of the variance, which is corrected.
  """
  S, R = len(answers.right), len(weight_RP)
  prior_RC = rng.standard_gamma(_PRIOR, (R, 4)).astype(np.float32)
  total_R = weight_RP.sum(axis=1) + prior_RC.sum(axis=1)
  share_RS = rng.multinomial(S, np.full(S, 1 / S), R) / S
  result, transitions = {}, Answers(np.array([[[0, 1], [1, 0], [1, 1], [0, 0]]], bool)).figures()
  for name, x_SP in answers.figures().items():
    extra_C = transitions.get(name, transitions['acc_t2'])[0]
    mean_RS = (weight_RP @ x_SP.T + (prior_RC @ extra_C)[:, None]) / total_R[:, None]
    centre_R = mean_RS.mean(axis=1)
    if S > 1:
      centre_R = centre_R + math.sqrt(S / (S - 1)) * ((share_RS * mean_RS).sum(axis=1) - centre_R)
    result[name] = centre_R
  return result


def _interval(draw_R: np.ndarray) -> list[float]:
  low, high = np.quantile(draw_R, [0.025, 0.975])
  return [float(low), float(high)]
