"""Some conversations of every training step, in rows/train.jsonl: what the policy was doing when a curve turned."""

from collections.abc import Sequence
import pathlib
from typing import Any

from jax.sharding import Mesh
import numpy as np

from score_jax.config import RunConfig
from score_jax.core_types import Graded
from score_jax.core_types import Problem
from score_jax.parallel import hosts
from score_jax.parallel import mesh as meshes
from score_jax.reporting import rows
from score_jax.states import Rollout


def add_step(
  path: pathlib.Path,
  config: RunConfig,
  mesh: Mesh,
  record: dict[str, Any],
  problems: Sequence[Problem],
  rollout: Rollout,
  texts: Sequence[Sequence[str]],
  graded: Sequence[Sequence[Graded]],
) -> None:
  """Appends config.report.rows conversations of a step, drawn by seed and step alone: a resumed run draws the same.

  Every host calls it with its own rows; host 0 writes those that were drawn of all.

  Args:
    path: of the file.
    config, mesh: of the run.
    record: the step's metrics.
    problems: [B], those of a problem side by side.
    rollout: of them, on the host.
    texts, graded: [B][A].
  """
  if not config.report.rows:
    return
  step, number_B = record['step'], meshes.local_rows(mesh, config.rows)
  drawn = np.random.default_rng((config.seed, step)).permutation(config.rows)[: config.report.rows]
  chosen = np.flatnonzero(np.isin(number_B, drawn))
  samples, where = number_B % config.batch.samples, dict(step=step, stage=record['stage'])
  kept = rows.from_rollout(problems, rollout, texts, graded, chosen, 'training', samples, **where)
  kept = rows.from_all_hosts(f'rows of step {step}', number_B[chosen], kept)
  if hosts.is_main():
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('a') as file:
      file.write(rows.lines(kept))
