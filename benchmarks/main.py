# SPDX-License-Identifier: Apache-2.0
"""Measures the package, one JSON line a result: `python -m benchmarks.main NAME --shape=...`.

compile    rollouts compiled for TPUs that are not here, one line of a table each: memory, bytes of a decode step beside
           its floor (--topologies, --shapes, --tensors, --rows, --attempts, --layers, --results)
drafts     what guessed tokens save on real conversations (--folder, --preset, --drafts=0,1,3, --rows, --answers)
hashing    seconds in which hosts hash a model's files together, each a process on a core (--folder, --hosts=1,2)
hosts      seconds and bytes by which hosts agree in a step and a save, simulated: real exchanges, hosts as threads, a
           model of time (--hosts=16,64,256, --steps)
import     host memory and seconds of reading an HF folder of that shape (Linux; --folder)
numerics   errors of this machine's fast paths, and of the plain ones (--shape, --layers)
pods       a model of a step on pods: floors of its programs and seconds of hosts (--shapes, --topologies, --problems,
           --samples, --prompt, --attempts)
rollout    tokens per second of the compiled rollout (--rows, --prompt, --attempts, --instruction)
step       seconds by phase of training steps, and the devices' idle share (--problems, --folder, ...)
update     seconds, memory and share of the matmul rate of the update (--rows, --slots, --remat, ...)
verify     answers graded per second, and the time of one (--verifier, --rows, --workers); or how far `math` and
           `math_verify` agree on a file (--answers)
"""

import importlib
import json
import pathlib

from absl import flags

from benchmarks import setting as settings
from score_jax import cli
from score_jax.errors import ConfigError

_MODULES = {
  'compile': 'compiling',
  'drafts': 'drafting',
  'hashing': 'hashing',
  'hosts': 'many_hosts',
  'import': 'importing',
  'numerics': 'numerics',
  'pods': 'pod_steps',
  'rollout': 'rollouts',
  'step': 'steps',
  'update': 'updates',
  'verify': 'verifying',
}
_PROFILE = flags.DEFINE_string('profile', '', 'a folder for a trace, whose summary is printed')
settings.define_flags()


def main(name: str) -> None:
  setting = settings.from_flags()
  if name not in _MODULES:
    raise ConfigError(f'benchmark {name!r} is unknown; use one of {", ".join(_MODULES)}')
  if name in ('import', 'step') and not setting.folder:
    raise ConfigError('give --folder=DIR, with room for the weights')
  if _PROFILE.value and name == 'step':
    raise ConfigError('`step` traces its last step into --folder; leave --profile out')
  if _PROFILE.value and name in ('compile', 'pods'):
    raise ConfigError(f'`{name}` runs nothing; leave --profile out')

  from score_jax.models.shapes import SHAPES
  from score_jax.reporting import profile

  if setting.shape not in SHAPES:
    raise ConfigError(f'--shape={setting.shape} is unknown; use one of {", ".join(SHAPES)}')
  module = importlib.import_module(f'benchmarks.{_MODULES[name]}')
  if name in ('compile', 'pods'):
    module.measure(setting)
    return
  if _PROFILE.value:
    folder = pathlib.Path(_PROFILE.value)
    with profile.traced(folder):
      result = module.measure(setting)
    result |= profile.summary(folder)
  else:
    result = module.measure(setting)
  print(json.dumps({'bench': name} | {field: getattr(setting, field) for field in module.FIELDS} | result))


if __name__ == '__main__':
  cli.run(main, arguments=('NAME of a benchmark',))
