# SPDX-License-Identifier: Apache-2.0
"""A model of a pod's step: what its programs take at least by published rates, and what its hosts spend on agreeing.

Bytes and FLOPs are the planner's (`score_jax.planning.costs`), for whole budgets; nothing is compiled, and nothing that
devices send each other counts. Hosts are those of `many_hosts`.
"""

import json

from benchmarks import many_hosts
from benchmarks.setting import Setting
from score_jax import config as configs
from score_jax.errors import ConfigError
from score_jax.planning import costs, programs, search

FIELDS = ('topologies', 'shapes', 'problems', 'samples', 'prompt', 'attempts', 'instruction')
_CHIPS = 4  # of a host
_TENSORS = (1, 2, 4, 8, 16)  # chips that share a model in rollouts


def measure(setting: Setting) -> None:
  """Prints a line for each shape and topology: seconds of a step by program, and of exchanges."""
  agreeing: dict[int, dict[str, float]] = {}
  for topology in setting.topologies:
    for shape in setting.shapes:
      plan, tensor, chip = _plan(setting, shape, topology)
      seconds = {name: round(chip.seconds(*work), 3) for name, work in costs.work(plan).items()}
      hosts = plan.mesh.size // _CHIPS
      if hosts not in agreeing:
        figures = many_hosts.figures(hosts, setting.steps)
        agreeing[hosts] = {name: figures[name]['seconds'] for name in figures}
      seconds['all'] = round(sum(seconds.values()), 2)
      line = dict(shape=shape, topology=topology, hosts=hosts, sampling_tensor=tensor)
      line |= dict(programs=seconds, agreeing=agreeing[hosts])
      print(json.dumps(line), flush=True)


def _plan(setting: Setting, shape: str, topology: str) -> tuple[programs.Plan, int, costs.Chip]:
  """Returns the plan whose rollouts have the least floor, the chips that share a model in them, and the chip."""
  config = configs.load_config('score')
  fields = {
    'mesh.data': 1,
    'mesh.fsdp': -1,
    'batch.problems': setting.problems,
    'batch.samples': setting.samples,
    'sampling.prompt_tokens': setting.prompt,
    'sampling.attempt_tokens': setting.attempts,
    'model.remat': 'full',
  }
  for name, value in fields.items():
    configs.set_field(config, name, value)
  request = search.topology_request(configs.from_config_dict(config), topology, shape, setting.instruction)
  plans, refused = {}, ''
  for tensor in _TENSORS:
    try:
      plans[tensor] = request.plan({'sampling.mesh.data': 0, 'sampling.mesh.tensor': tensor})
    except ConfigError as error:  # rows or heads do not divide
      refused = refused or str(error)
  if not plans:
    raise ConfigError(f'{shape} on {topology}: {refused}')
  least = min(plans, key=lambda tensor: request.chip.seconds(*costs.work(plans[tensor])['rollout']))
  return plans[least], least, request.chip
