"""Measures the package on this machine, one JSON line a result: `python -m score_jax.bench NAME --shape=...`.

import    host memory and seconds of reading an HF folder of that shape into device arrays (Linux)
"""

import json
import pathlib

from absl import flags

from score_jax import doors
from score_jax.errors import ConfigError

_SHAPE = flags.DEFINE_string('shape', 'qwen2.5-1.5b', 'a name of score_jax.models.shapes.SHAPES')
_FOLDER = flags.DEFINE_string('folder', '', 'where the random model is written, and found by a second run')
_DTYPE = flags.DEFINE_enum('dtype', 'bfloat16', ['bfloat16', 'float32'], 'of the parameters on the devices')


def main(name: str) -> None:
  from score_jax.benchmarks import importing
  from score_jax.models.shapes import SHAPES

  if name != 'import':
    raise ConfigError(f'benchmark {name!r} is unknown; there is: import')
  if _SHAPE.value not in SHAPES:
    raise ConfigError(f'--shape={_SHAPE.value} is unknown; use one of {", ".join(SHAPES)}')
  if not _FOLDER.value:
    raise ConfigError('give --folder=DIR, with room for the weights')
  print(json.dumps(importing.measure(_SHAPE.value, pathlib.Path(_FOLDER.value), _DTYPE.value)))


if __name__ == '__main__':
  doors.run(main, arguments=('NAME of a benchmark',))
