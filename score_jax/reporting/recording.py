"""Some conversations of every training step, in rows/train.jsonl: what the policy was doing when a curve turned."""

from collections.abc import Sequence
import json
import os
import pathlib
from typing import Any

import numpy as np

from score_jax.reporting import rows
from score_jax.states import Rollout
from score_jax.types import Graded
from score_jax.types import Problem


def add_step(
  path: pathlib.Path,
  count: int,
  seed: int,
  line: dict[str, Any],
  problems: Sequence[Problem],
  rollout: Rollout,
  texts: Sequence[Sequence[str]],
  graded: Sequence[Sequence[Graded]],
) -> None:
  """Appends `count` conversations of a step, drawn by seed and step alone: a run that is resumed draws the same.

  Args:
    path: of the file.
    count: how many; no more than there are.
    seed: of the run.
    line: the step's line of metrics.
    problems: [B], those of a problem side by side.
    rollout: of them, on the host.
    texts, graded: [B][A].
  """
  if not count:
    return
  chosen = np.sort(np.random.default_rng((seed, line['step'])).permutation(len(problems))[:count])
  sample, before = [], None
  for problem in problems:
    sample.append(sample[-1] + 1 if problem is before else 0)
    before = problem
  where = dict(step=line['step'], stage=line['stage'])
  found = rows.of_rollout(problems, rollout, texts, graded, chosen, 'training', sample, **where)
  path.parent.mkdir(parents=True, exist_ok=True)
  with path.open('a') as file:
    file.write(rows.lines(found))


def cut(path: pathlib.Path, step: int) -> None:
  """Drops the conversations of steps after `step`, which are about to be run again, and a half-written last line."""
  if not path.exists():
    return
  partial = path.with_name(path.name + '.partial')
  with path.open() as old, partial.open('w') as new:
    for text in old:
      try:
        if not text.endswith('\n') or json.loads(text)['step'] > step:
          break  # steps only grow
      except (ValueError, KeyError, TypeError):
        break
      new.write(text)
    new.flush()
    os.fsync(new.fileno())
  partial.replace(path)
