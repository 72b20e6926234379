"""Some conversations of every training step, in rows/train.jsonl: what the policy was doing when a curve turned."""

from collections.abc import Sequence
import json
import os
import pathlib
from typing import Any

import numpy as np

from score_jax.core_types import Graded
from score_jax.core_types import Problem
from score_jax.parallel import hosts
from score_jax.reporting import rows
from score_jax.states import Rollout


def add_step(
  path: pathlib.Path,
  count: int,
  seed: int,
  line: dict[str, Any],
  problems: Sequence[Problem],
  rollout: Rollout,
  texts: Sequence[Sequence[str]],
  graded: Sequence[Sequence[Graded]],
  *,
  samples: int,
  number_B: np.ndarray,
  total: int,
) -> None:
  """Appends `count` conversations of a step, drawn by seed and step alone: a run that is resumed draws the same.

  Every host calls it with its own rows; host 0 writes those that were drawn of all.

  Args:
    path: of the file.
    count: how many; no more than there are.
    seed: of the run.
    line: the step's line of metrics.
    problems: [B], those of a problem side by side.
    rollout: of them, on the host.
    texts, graded: [B][A].
    samples: conversations on each problem.
    number_B: of these rows among all.
    total: how many those are.
  """
  if not count:
    return
  drawn = np.random.default_rng((seed, line['step'])).permutation(total)[:count]
  chosen = np.flatnonzero(np.isin(number_B, drawn))
  where = dict(step=line['step'], stage=line['stage'])
  found = rows.from_rollout(problems, rollout, texts, graded, chosen, 'training', number_B % samples, **where)
  found = rows.from_all_hosts(f'rows of step {line["step"]}', number_B[chosen], found)
  if not hosts.is_main():
    return
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
