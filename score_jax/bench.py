"""Measures the package on this machine, one JSON line a result: `python -m score_jax.bench NAME --shape=...`.

import     host memory and seconds of reading an HF folder of that shape into device arrays (Linux; --folder)
rollout    tokens per second of the compiled rollout with random weights (--rows, --prompt, --attempts, --instruction)
"""

import json
import pathlib

from absl import flags

from score_jax import doors
from score_jax.errors import ConfigError

_SHAPE = flags.DEFINE_string('shape', 'qwen2.5-0.5b', 'a name of score_jax.models.shapes.SHAPES')
_DTYPE = flags.DEFINE_enum('dtype', 'bfloat16', ['bfloat16', 'float32'], 'of the parameters on the devices')
_FOLDER = flags.DEFINE_string('folder', '', 'import: where the random model is written, and found by a second run')
_ROWS = flags.DEFINE_integer('rows', 64, 'rollout: conversations at a time', lower_bound=1)
_PROMPT = flags.DEFINE_integer('prompt', 256, 'rollout: tokens of a prompt', lower_bound=1)
_ATTEMPTS = flags.DEFINE_list('attempts', ['512'], 'rollout: sampled tokens of each attempt, e.g. 512,512')
_INSTRUCTION = flags.DEFINE_integer('instruction', 64, 'rollout: tokens fed between attempts', lower_bound=1)
_REPEATS = flags.DEFINE_integer('repeats', 3, 'rollout: the median of so many is given', lower_bound=1)


def main(name: str) -> None:
  from score_jax.models.shapes import SHAPES

  if _SHAPE.value not in SHAPES:
    raise ConfigError(f'--shape={_SHAPE.value} is unknown; use one of {", ".join(SHAPES)}')
  benches = {'import': _import, 'rollout': _rollout}
  if name not in benches:
    raise ConfigError(f'benchmark {name!r} is unknown; there are: {", ".join(benches)}')
  print(json.dumps(benches[name]()))


def _import() -> dict:
  from score_jax.benchmarks import importing

  if not _FOLDER.value:
    raise ConfigError('give --folder=DIR, with room for the weights')
  return importing.measure(_SHAPE.value, pathlib.Path(_FOLDER.value), _DTYPE.value)


def _rollout() -> dict:
  from score_jax.benchmarks import rollouts

  if not all(part.isdigit() and int(part) for part in _ATTEMPTS.value):
    raise ConfigError(f'--attempts={",".join(_ATTEMPTS.value)} must be numbers of tokens, e.g. 512,512')
  budgets = tuple(int(part) for part in _ATTEMPTS.value)
  return rollouts.measure(
    rollouts.Setting(
      _SHAPE.value, _ROWS.value, _PROMPT.value, budgets, _INSTRUCTION.value, _DTYPE.value, _REPEATS.value
    )
  )


if __name__ == '__main__':
  doors.run(main, arguments=('NAME of a benchmark',))
