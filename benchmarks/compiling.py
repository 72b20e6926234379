"""The programs of a step, compiled for a TPU topology without a TPU: how long it takes, and what they need.

`score_jax.doctor --topology` does it for a whole configuration. Nothing is executed and no memory is taken.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp

from benchmarks import updates as benches
from benchmarks.setting import Setting
from score_jax.models import lora as loras
from score_jax.parallel import mesh as meshes
from score_jax.planning import programs
from score_jax.planning import roofline
from score_jax.sampling.rollout import RolloutSpec

FIELDS = (
  *('shape', 'topology', 'mesh', 'rows', 'prompt', 'attempts', 'instruction', 'micro_batches', 'remat', 'logits_mb'),
  *('attempt_gradient_norms', 'dtype'),
)


def plan_of(setting: Setting) -> programs.Plan:
  """Returns what decides the programs; all weights are trained."""
  chip, config = roofline.chip_of(setting.topology), benches.decoder_config(setting.shape)
  devices = programs.topology_devices(setting.topology, **dict(chip.settings))
  mesh = meshes.make_mesh(*setting.mesh, list(devices))
  return programs.Plan(
    decoder=config,
    lora=loras.NONE,
    optim=benches.ADAM,
    mesh=mesh,
    dtype=jnp.dtype(setting.dtype),
    rollout=RolloutSpec(
      budgets=setting.attempts,
      separators=(tuple(range(setting.instruction)),) * (len(setting.attempts) - 1),
      end_of_turn=0,
      stops=(0,),
      pad=0,
    ),
    update=benches.update_spec(setting, config, mesh),
    prompt=setting.prompt,
    rows=setting.rows,
  )


def measure(setting: Setting) -> dict[str, Any]:
  """Returns compile seconds, bytes a chip and collectives of each program."""
  plan = plan_of(setting)
  compiled = {name: dataclasses.asdict(programs.compiled(plan, name)[0]) for name in programs.NAMES}
  return dict(attention=plan.update.attention.kind, programs=compiled)
