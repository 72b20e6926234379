# SPDX-License-Identifier: Apache-2.0
"""What is measured: a dataclass whose fields are the flags of `benchmarks.main`."""

import dataclasses
from typing import Any

from absl import flags

from score_jax.errors import ConfigError


def _field(default: Any, doc: str, **options: Any) -> Any:
  """`options` are absl's, or the `choices` of an enum."""
  return dataclasses.field(default=default, metadata=dict(doc=doc, **options))


@dataclasses.dataclass(frozen=True)
class Setting:
  """Sizes and paths of a measurement; a benchmark reads those in its `FIELDS`."""

  shape: str = _field('qwen2.5-0.5b', 'a name of score_jax.models.shapes.SHAPES')
  dtype: str = _field('bfloat16', 'of the parameters on the devices', choices=['bfloat16', 'float32'])
  folder: str = _field('', 'import, step: of the random model, written if missing; drafts: of a model')
  preset: str = _field('', 'drafts: a preset or a file, for task and budgets')
  data: str = _field('', "drafts: a file of problems, instead of the preset's held-out ones")
  temperature: float = _field(1.0, 'drafts: of what is sampled', lower_bound=0)
  rows: int = _field(64, 'conversations in all; compile: of a chip, halved until they fit', lower_bound=1)
  prompt: int = _field(256, 'tokens of a prompt', lower_bound=1)
  attempts: tuple[int, ...] = _field((512,), 'sampled tokens of each attempt, e.g. 512,512')
  instruction: int = _field(64, 'tokens fed between attempts', lower_bound=1)
  drafts: tuple[float, ...] = _field((0.0,), 'config.sampling.drafts; `drafts` compares several')
  longest_draft: int = _field(8, 'config.sampling.longest_draft', lower_bound=1)
  decode_slots: int = _field(0, 'conversations at a time on a device; 0: all', lower_bound=0)
  keep_slots: bool = _field(False, 'drafts: a rollout ends on all of its decode slots')
  draws: int = _field(
    1, 'drafts: of all conversations, each with its own seed; times are means over them', lower_bound=1
  )
  problems: int = _field(128, 'step: problems', lower_bound=1)
  samples: int = _field(4, 'step: samples of a problem', lower_bound=2)
  slots: int = _field(2048, 'update: slots of a row', lower_bound=2)
  mean_length: int = _field(
    0, 'of geometric lengths, 0: all are full; compile: of log-normal answers, 0: 300', lower_bound=0
  )
  pack: bool = _field(False, 'update, step: rows end to end, without padding')
  micro_batches: int = _field(1, 'parts of the batch', lower_bound=1)
  remat: str = _field('dots', 'config.model.remat', choices=['none', 'elementwise', 'dots', 'full'])
  logits_mb: float = _field(1024.0, 'config.model.logits_mb', lower_bound=1)
  attempt_gradient_norms: bool = _field(False, 'config.loss.attempt_gradient_norms')
  layers: int = _field(0, "compile, update, numerics: instead of the shape's own", lower_bound=0)
  vocab: int = _field(0, "update: instead of the shape's own", lower_bound=0)
  mesh: tuple[int, int, int] = _field((-1, 1, 1), 'data,fsdp,tensor')
  topologies: tuple[str, ...] = _field(('v5e:4x4', 'v6e:4x4', 'v5p:4x4x4'), 'compile: for these')
  shapes: tuple[str, ...] = _field(
    ('qwen2.5-0.5b', 'qwen2.5-1.5b', 'gemma-2-2b', 'llama-3-8b'), 'compile: instead of --shape'
  )
  tensors: tuple[int, ...] = _field((1, 4), 'compile: chips that share a model')
  results: str = _field('', 'compile: a file of JSON lines, which a second call goes on with')
  verifier: str = _field('math', 'verify: which', choices=['text', 'countdown', 'math', 'math_verify', 'code'])
  answers: str = _field('', 'verify: a file of {"response", "reference"}; drafts: rows of an evaluation')
  workers: int = _field(0, 'verify: processes; 0: one for each core', lower_bound=0)
  hosts: tuple[int, ...] = _field((16, 64, 256), 'hosts: of a simulated run')
  steps: int = _field(3, 'hosts: of a simulated run', lower_bound=1)
  repeats: int = _field(3, 'the median of this many is given', lower_bound=1)


flags.disclaim_key_flags()  # --help shows them with benchmarks.main
_DEFINE = {int: flags.DEFINE_integer, float: flags.DEFINE_float, bool: flags.DEFINE_bool, str: flags.DEFINE_string}


def define_flags() -> None:
  """Defines a flag for each field of `Setting`."""
  for field in dataclasses.fields(Setting):
    options = dict(field.metadata)
    doc = options.pop('doc')
    if 'choices' in options:
      flags.DEFINE_enum(field.name, field.default, options['choices'], doc)
    elif isinstance(field.default, tuple):
      flags.DEFINE_list(field.name, [str(part) for part in field.default], doc)
    else:
      _DEFINE[field.type](field.name, field.default, doc, **options)


def from_flags() -> Setting:
  """Returns the setting of the command line. Raises ConfigError."""
  values = {field.name: flags.FLAGS[field.name].value for field in dataclasses.fields(Setting)}
  attempts, mesh, tensors, hosts = (_numbers(values[name]) for name in ('attempts', 'mesh', 'tensors', 'hosts'))
  drafts = _numbers(values['drafts'], float)
  names = {name: tuple(values[name]) for name in ('topologies', 'shapes')}
  if min(attempts, default=0) < 1:
    raise ConfigError(f'--attempts={",".join(values["attempts"])} must be counts of tokens, e.g. 512,512')
  if min(tensors, default=0) < 1:
    raise ConfigError(f'--tensors={",".join(values["tensors"])} must be counts of chips, e.g. 1,4')
  if min(hosts, default=0) < 1:
    raise ConfigError(f'--hosts={",".join(values["hosts"])} must be counts of hosts, e.g. 16,64')
  if len(mesh) != 3:
    raise ConfigError(f'--mesh={",".join(values["mesh"])} must be three numbers: data,fsdp,tensor')
  if min(drafts, default=-1) < 0:
    raise ConfigError(f'--drafts={",".join(values["drafts"])} must be tokens a row, e.g. 0,1,2.5')
  numbers = dict(attempts=attempts, drafts=drafts, mesh=mesh, tensors=tensors, hosts=hosts)
  return Setting(**values | numbers | names)


def _numbers(text: list[str], kind: Any = int) -> tuple[Any, ...]:
  try:
    return tuple(map(kind, text))
  except ValueError:
    return ()
