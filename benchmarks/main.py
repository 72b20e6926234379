"""Measures the package on this machine, one JSON line a result: `python -m benchmarks.main NAME --shape=...`.

compile    the programs of a run for a TPU topology that is not here: seconds, bytes a chip, collectives (--topology)
import     host memory and seconds of reading an HF folder of that shape into device arrays (Linux; --folder)
numerics   the fast paths of this machine against the plain ones, in numbers (--shape, --layers)
rollout    tokens per second of the compiled rollout with random weights (--rows, --prompt, --attempts, --instruction)
step       seconds by phase of whole training steps, and the devices' idle share (--problems, --folder, ...)
update     seconds, share of the matmul rate and memory of the compiled update (--rows, --slots, --remat, ...)
verify     answers graded per second, and the time of one (--verifier, --rows, --workers)
"""

import dataclasses
import json
import pathlib
from typing import Any

from absl import flags

from score_jax import cli
from score_jax.errors import ConfigError

_SHAPE = flags.DEFINE_string('shape', 'qwen2.5-0.5b', 'a name of score_jax.models.shapes.SHAPES')
_DTYPE = flags.DEFINE_enum('dtype', 'bfloat16', ['bfloat16', 'float32'], 'of the parameters on the devices')
_FOLDER = flags.DEFINE_string('folder', '', 'import, step: where the random model is written, and found again')
_ROWS = flags.DEFINE_integer('rows', 64, 'conversations in all', lower_bound=1)
_PROMPT = flags.DEFINE_integer('prompt', 256, 'rollout: tokens of a prompt', lower_bound=1)
_ATTEMPTS = flags.DEFINE_list('attempts', ['512'], 'rollout: sampled tokens of each attempt, e.g. 512,512')
_INSTRUCTION = flags.DEFINE_integer('instruction', 64, 'rollout: tokens fed between attempts', lower_bound=1)
_DECODE_SLOTS = flags.DEFINE_integer(
  'decode_slots', 0, 'rollout: conversations at a time on each device; 0: all', lower_bound=0
)
_PROBLEMS = flags.DEFINE_integer('problems', 128, 'step: problems', lower_bound=1)
_SAMPLES = flags.DEFINE_integer('samples', 4, 'step: samples of a problem', lower_bound=2)
_SLOTS = flags.DEFINE_integer('slots', 2048, 'update: slots of a row', lower_bound=2)
_MEAN_LENGTH = flags.DEFINE_integer('mean_length', 0, 'of geometric lengths; 0: all are full', lower_bound=0)
_PACK = flags.DEFINE_bool('pack', False, 'update: rows end to end, without padding')
_MICRO_BATCHES = flags.DEFINE_integer('micro_batches', 1, 'update: parts of the batch', lower_bound=1)
_REMAT = flags.DEFINE_enum('remat', 'dots', ['none', 'dots', 'full'], 'update: config.model.remat')
_LOGITS_MB = flags.DEFINE_float('logits_mb', 1024, 'update: config.model.logits_mb', lower_bound=1)
_ATTEMPT_NORMS = flags.DEFINE_bool('attempt_norms', False, 'update: config.loss.attempt_gradient_norms')
_LAYERS = flags.DEFINE_integer('layers', 0, "update: instead of the shape's own", lower_bound=0)
_VOCAB = flags.DEFINE_integer('vocab', 0, "update: instead of the shape's own", lower_bound=0)
_MESH = flags.DEFINE_list('mesh', ['-1', '1', '1'], 'data,fsdp,tensor')
_TOPOLOGY = flags.DEFINE_string('topology', 'v5e:4x4', 'compile: a TPU topology')
_VERIFIER = flags.DEFINE_enum('verifier', 'math', ['text', 'countdown', 'math', 'code'], 'verify: which')
_WORKERS = flags.DEFINE_integer('workers', 0, 'verify: processes; 0: one for each core', lower_bound=0)
_PROFILE = flags.DEFINE_string('profile', '', 'a folder: trace the benchmark into it, and print where the time went')
_REPEATS = flags.DEFINE_integer('repeats', 3, 'rollout, update: the median of so many is given', lower_bound=1)


def main(name: str) -> None:
  from score_jax.models.shapes import SHAPES

  if _SHAPE.value not in SHAPES:
    raise ConfigError(f'--shape={_SHAPE.value} is unknown; use one of {", ".join(SHAPES)}')
  benches = {
    'compile': _compile,
    'import': _import,
    'rollout': _rollout,
    'step': _step,
    'update': _update,
    'numerics': _numerics,
    'verify': _verify,
  }
  if name not in benches:
    raise ConfigError(f'benchmark {name!r} is unknown; there are: {", ".join(benches)}')
  if _PROFILE.value and name == 'step':
    raise ConfigError('`bench step` traces its last step into --folder by itself; leave --profile out')
  if not _PROFILE.value:
    print(json.dumps(benches[name]()))
    return
  from score_jax.reporting import profile

  with profile.traced(pathlib.Path(_PROFILE.value)):
    result = benches[name]()
  print(json.dumps(result | profile.summary(pathlib.Path(_PROFILE.value))))


def _compile() -> dict:
  from benchmarks import compiling

  return compiling.measure(_setting(compiling.Setting))


def _import() -> dict:
  from benchmarks import importing

  return importing.measure(_SHAPE.value, _folder(), _DTYPE.value)


def _rollout() -> dict:
  from benchmarks import rollouts

  if _MEAN_LENGTH.value and len(_budgets()) > 1:
    raise ConfigError('--mean_length goes with one attempt: --attempts=1024')
  return rollouts.measure(_setting(rollouts.Setting))


def _step() -> dict:
  from benchmarks import steps

  return steps.measure(_setting(steps.Setting), _folder())


def _update() -> dict:
  from benchmarks import updates

  return updates.measure(_setting(updates.Setting))


def _numerics() -> dict:
  from benchmarks import numerics

  return numerics.measure(_setting(numerics.Setting))


def _verify() -> dict:
  from benchmarks import verifying

  return verifying.measure(_setting(verifying.Setting))


def _setting(kind: type) -> Any:
  """A benchmark's setting: each field is the flag of its name, but for those that are worked out of one."""
  worked_out = dict(budgets=_budgets, mesh=_mesh, attempt_gradient_norms=lambda: _ATTEMPT_NORMS.value)
  names = [field.name for field in dataclasses.fields(kind)]
  return kind(**{name: worked_out[name]() if name in worked_out else flags.FLAGS[name].value for name in names})


def _folder() -> pathlib.Path:
  if not _FOLDER.value:
    raise ConfigError('give --folder=DIR, with room for the weights')
  return pathlib.Path(_FOLDER.value)


def _budgets() -> tuple[int, ...]:
  if not all(part.isdigit() and int(part) for part in _ATTEMPTS.value):
    raise ConfigError(f'--attempts={",".join(_ATTEMPTS.value)} must be numbers of tokens, e.g. 512,512')
  return tuple(int(part) for part in _ATTEMPTS.value)


def _mesh() -> tuple[int, int, int]:
  try:
    data, fsdp, tensor = map(int, _MESH.value)
  except ValueError as error:
    raise ConfigError(f'--mesh={",".join(_MESH.value)} must be three numbers: data,fsdp,tensor') from error
  return data, fsdp, tensor


if __name__ == '__main__':
  cli.run(main, arguments=('NAME of a benchmark',))
