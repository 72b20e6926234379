# SPDX-License-Identifier: Apache-2.0
"""From the ConfigDict of a config file to frozen dataclasses."""

import dataclasses
import re
import types
import typing
from typing import Any

from ml_collections import ConfigDict

from score_jax import core_types, files
from score_jax.config import checks, load
from score_jax.config.fields import OptimConfig, RunConfig, SupervisedConfig
from score_jax.errors import ConfigError
from score_jax.graders import user_file, weighted

_PATHS = re.compile(r'config\.(compile_cache|init_from|model\.path|task\.(chat_template|examples|data\..*))')

_LARGEST = 2**53  # of numbers, which a float holds exactly


def from_config_dict(config: ConfigDict) -> RunConfig:
  """Builds and checks a RunConfig.

  Raises:
    ConfigError: a field is unknown, missing, ill-typed, or contradicts another.
  """
  raw = config.to_dict()
  stages, schedule = raw.pop('stages', None), raw.pop('schedule', None)
  if not isinstance(stages, dict) or not isinstance(schedule, (tuple, list)):
    raise ConfigError('config.stages must be a ConfigDict of stages and config.schedule a tuple of their names')
  optim = _built(OptimConfig, raw.get('optim', {}), 'config.optim')
  stage_runs = _stage_runs(stages, tuple(schedule), optim)
  if raw.get('mode') == 'supervised':
    stage_runs = _iterations(_built(SupervisedConfig, raw.get('supervised', {}), 'config.supervised'), optim)
  run = _built(RunConfig, raw | dict(stage_runs=stage_runs), 'config')
  checks.check(run)
  return run


def _built(cls: Any, values: Any, where: str) -> Any:
  """A dataclass from a dict, with types checked."""
  if dataclasses.is_dataclass(values):
    return values
  if not isinstance(values, dict):
    raise ConfigError(f'{where} = {values!r} must be a section with the fields of configs/common.py')
  hints = typing.get_type_hints(cls)
  for name in values:
    if name not in hints:
      raise ConfigError(load.unknown(f'{where}.{name}', tuple(hints)))
  for name in hints:
    if name not in values:
      raise ConfigError(f'{where}.{name} is missing; configs/common.py has its default')
  return cls(**{name: _typed(hint, values[name], f'{where}.{name}') for name, hint in hints.items()})


def _typed(hint: Any, value: Any, where: str) -> Any:
  """`value` as the annotated type, or None for `TYPE | None`; ints pass for floats, lists for tuples."""
  if isinstance(hint, types.UnionType):
    if value is None:
      return None
    hint = typing.get_args(hint)[0]
  if dataclasses.is_dataclass(hint):
    return _built(hint, value, where)
  if typing.get_origin(hint) is tuple:
    if isinstance(value, str):
      value = (value,)  # one name needs no brackets
    if not isinstance(value, (tuple, list)):
      raise ConfigError(f'{where} = {value!r} must be a tuple')
    inner = typing.get_args(hint)[0]
    return tuple(_typed(inner, item, f'{where}[{i}]') for i, item in enumerate(value))
  if isinstance(value, int | float) and not -_LARGEST <= value <= _LARGEST:
    raise ConfigError(f'{where} = {value!r:.60} must be a finite number within 2**53')
  if hint is float and isinstance(value, int) and not isinstance(value, bool):
    value = float(value)
  if isinstance(value, str) and _PATHS.fullmatch(where):
    value = files.expanded(value)
  if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
    raise ConfigError(f'{where} = {value!r} must be of type {hint.__name__}, not {type(value).__name__}')
  return value


def _stage_runs(stages: dict[str, Any], schedule: tuple[str, ...], optim: OptimConfig) -> tuple[core_types.Stage, ...]:
  """The stages in the order of the run; 0, '' and -1 in a stage's `optim` mean the run's own."""
  stage_runs = []
  for name in schedule:
    if name not in stages:
      raise ConfigError(f'config.schedule names {name!r}, which is not in config.stages ({", ".join(stages)})')
    where, fields = f'config.stages.{name}', dict(stages[name])
    own = _built(core_types.StageOptim, fields.pop('optim', None), f'{where}.optim')
    merged = dataclasses.replace(
      own,
      learning_rate=own.learning_rate or optim.learning_rate,
      schedule=own.schedule or optim.schedule,
      warmup_steps=optim.warmup_steps if own.warmup_steps < 0 else own.warmup_steps,
    )
    stage_runs.append(_built(core_types.Stage, fields | dict(name=name, optim=merged), where))
  return tuple(stage_runs)


def _iterations(settings: SupervisedConfig, optim: OptimConfig) -> tuple[core_types.Stage, ...]:
  """Iterations of supervised training as stages."""
  one = core_types.StageOptim(optim.learning_rate, optim.schedule, optim.warmup_steps, reset_moments=True)
  return tuple(
    core_types.Stage(f'iteration{i + 1}', settings.steps, (0.0,) * 2, (0.0,) * 2, (0.0,) * 2, 0.0, 'base', 0.0, one)
    for i in range(settings.iterations)
  )


def _reward_identity(name: str, weight: float) -> dict[str, Any]:
  """A reward's weight, and for a file of the user's its hash, wherever it lies."""
  if not user_file.is_user_function(name):
    return dict(weight=float(weight))
  return dict(weight=float(weight), sha256=user_file.find(name, 'config.task.reward(s)').sha256)


def as_dict(run: RunConfig) -> dict[str, Any]:
  """The configuration as plain JSON data."""
  return dataclasses.asdict(run)


def identity(run: RunConfig) -> dict[str, Any]:
  """What must be the same for a run to be continued; never how long, where, how often saved or evaluated.

  The model, the tokenizer and the training data are added to it as hashes (`training.run`).
  """
  everything = as_dict(run)
  kept = 'mode seed init_from lora task grading batch sampling stage_runs offline_pool loss optim'
  chosen = {name: everything[name] for name in kept.split()}
  chosen['optim'].pop('max_rejected_in_a_row')
  # Where and in what order the same sums are made, like the mesh.
  elsewhere = [('batch', 'pack'), ('sampling', 'decode_slots'), ('sampling', 'mesh')]
  elsewhere += [('grading', field) for field in ('workers', 'wall_seconds', 'environment')]
  for section, field in elsewhere:
    chosen[section].pop(field)
  # What is trained on is known by its hash, wherever its files lie; held-out problems decide nothing.
  for field in ('data', 'evaluate', 'reward', 'rewards'):
    chosen['task'].pop(field)
  # What data are tried by, and refused.
  chosen['task'].pop('unreadable_golds')
  chosen['task']['jsonl'].pop('solution')
  for field in ('examples', 'tests'):  # of questions, which are known by their hash
    chosen['task']['mbpp'].pop(field)
  if user_file.is_user_function(run.task.name):
    chosen['task']['name'] = 'own'
  chosen['rewards'] = {weighted.label(name): _reward_identity(name, w) for name, w in run.task.reward_weights.items()}
  if not run.lora.rank:
    chosen['lora'] = dict(rank=0)  # the rest means nothing then
  chosen['best'] = dict(window=run.checkpoint.best_window, every=run.checkpoint.every)
  if run.selection.problems:
    chosen['best'] = dict(every=run.checkpoint.every, selection=everything['selection'])
  if run.mode == 'supervised':
    chosen['supervised'] = everything['supervised']
  return chosen
