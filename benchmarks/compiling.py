"""The programs of a step, compiled for a TPU topology without a TPU: how long it takes, and what they need.

`score_jax.doctor --topology` does it for a whole configuration. Nothing is executed and no memory is taken.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp

from benchmarks import updates as benches
from score_jax.models import lora as loras
from score_jax.planning import programs
from score_jax.sampling.rollout import RolloutSpec


@dataclasses.dataclass(frozen=True)
class Setting:
  """What is compiled."""

  shape: str
  topology: str  # e.g. v5e:4x4
  mesh: tuple[int, int, int]
  rows: int  # B, over all chips
  prompt: int
  budgets: tuple[int, ...]
  instruction: int
  micro_batches: int
  remat: str
  logits_mb: float
  attempt_gradient_norms: bool
  dtype: str


def plan_of(setting: Setting) -> programs.Plan:
  """What decides the programs, all weights trained."""
  mesh, config = programs.topology_mesh(setting.topology, setting.mesh), benches.decoder_config(setting.shape)
  return programs.Plan(
    decoder=config,
    lora=loras.NONE,
    optim=benches.ADAM,
    mesh=mesh,
    dtype=jnp.dtype(setting.dtype),
    rollout=RolloutSpec(
      budgets=setting.budgets,
      feeds=(tuple(range(setting.instruction)),) * (len(setting.budgets) - 1),
      end_of_turn=0,
      stops=(0,),
      pad=0,
    ),
    update=benches.update_spec(setting, config, mesh),
    prompt=setting.prompt,
    rows=setting.rows,
  )


def measure(setting: Setting) -> dict[str, Any]:
  """One line of results: for each program compile seconds, bytes a chip, and its collectives."""
  plan = plan_of(setting)
  compiled = {name: dataclasses.asdict(programs.compiled(plan, name)[0]) for name in programs.NAMES}
  return dict(bench='compile', **dataclasses.asdict(setting), attention=plan.update.how.kind, programs=compiled)
