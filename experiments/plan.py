"""Plans a suite: which command makes which folder, what it needs first, and what it may spend.

A suite file (experiments/suites/countdown.py) has `get_suite()`, which returns the fields of `Suite` as plain data.
"""

import ast
from collections.abc import Iterable
from collections.abc import Mapping
import dataclasses
import pathlib
import runpy
import sys
from typing import Any

from score_jax.config import RunConfig
from score_jax.config import from_config_dict
from score_jax.config import load_config
from score_jax.core_types import Stage
from score_jax.errors import ConfigError

KINDS = ('train', 'evaluate')
_EVALUATED = ('eval.json', 'rows/final.jsonl.gz')


@dataclasses.dataclass(frozen=True)
class Method:
  """A row of the table: a run for each seed, or an evaluation of the base."""

  title: str
  config: str = 'quickstart'  # a preset's name, or a file
  fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # beside the suite's, and over them
  kind: str = 'train'  # 'train'; 'evaluate': the base as it is
  init_from: str = ''  # a method whose run of the same seed it begins from
  instruction: str = ''  # of an evaluation; '': the task's
  shown: bool = True  # False: a run that others begin from, no row of its own
  note: str = ''  # why its budget is another one
  paper: tuple[float, ...] = ()  # Acc@t1, Acc@t2, delta in the paper's table, in percent


@dataclasses.dataclass(frozen=True)
class Extra:
  """A further evaluation of some methods' final policies."""

  methods: tuple[str, ...]  # their names
  flags: tuple[str, ...]  # of score_jax.evaluate
  fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Suite:
  """Methods that are compared, and what they have in common."""

  name: str
  base_config: str  # of experiments.countdown_base.main, which makes the base
  base_fields: Mapping[str, Any]
  fields: Mapping[str, Any]  # of every run and evaluation
  seeds: tuple[int, ...]
  reference: str  # the method that others are compared with
  methods: Mapping[str, Method]
  extras: Mapping[str, Extra]
  paper: str  # where the methods' `paper` is from


@dataclasses.dataclass(frozen=True)
class Job:
  """A command, and the folder that it makes."""

  name: str
  command: tuple[str, ...]
  folder: pathlib.Path
  outputs: tuple[str, ...]  # files in it; all are there once the job is done
  needs: tuple[str, ...] = ()  # names of jobs
  fresh: bool = False  # it cannot be resumed: what is left of it is deleted first


@dataclasses.dataclass(frozen=True)
class Budget:
  """Cost of a method's training; evaluation and selection come on top, the same for all."""

  conversations: int  # sampled
  attempts: int  # sampled
  updates: int
  rows: int  # conversations that went through an update
  trained: int  # attempts in them that carry a gradient

  def __add__(self, other: 'Budget') -> 'Budget':
    return Budget(*(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)))


def read(path: str, fields: Iterable[str] = ()) -> Suite:
  """Reads a suite file.

  Args:
    path: of the file.
    fields: 'NAME=VALUE' each, which override the file's own `fields`.

  Raises:
    ConfigError: there is no such file, or a field of it is wrong.
  """
  if not pathlib.Path(path).is_file():
    raise ConfigError(f'--suite={path}: there is no such file')
  module = runpy.run_path(path)
  if 'get_suite' not in module:
    raise ConfigError(f'--suite={path} defines no get_suite(); name a file like experiments/suites/countdown.py')
  raw = dict(module['get_suite']())
  for name, cls in (('methods', Method), ('extras', Extra)):
    raw[name] = {key: _built(cls, value, f'{name}.{key}') for key, value in raw.get(name, {}).items()}
  raw['fields'] = dict(raw.get('fields', {})) | dict(map(_field, fields))
  suite = _built(Suite, raw, 'suite')
  _check(suite)
  return suite


def _field(text: str) -> tuple[str, Any]:
  """Parses NAME=VALUE; a value that is no literal of Python is a string."""
  name, sign, value = text.partition('=')
  if not sign:
    raise ConfigError(f'--field={text}: write NAME=VALUE, e.g. --field=optim.learning_rate=1e-4')
  try:
    return name, ast.literal_eval(value)
  except (ValueError, SyntaxError):
    return name, value


def _built(cls: type, values: Any, where: str) -> Any:
  """Builds a dataclass; `where` names it in the ConfigError about an unknown or missing field."""
  known = {field.name for field in dataclasses.fields(cls)}
  for name in values:
    if name not in known:
      raise ConfigError(f'{where}.{name} is not a field of a suite; known fields: {", ".join(sorted(known))}')
  try:
    return cls(**values)
  except TypeError as error:
    raise ConfigError(f'{where}: {error}') from error


def _check(suite: Suite) -> None:
  """Checks that every name of a method is one."""
  if suite.reference not in suite.methods:
    raise ConfigError(f'suite.reference = {suite.reference!r} is none of its methods: {", ".join(suite.methods)}')
  for name, method in suite.methods.items():
    if method.kind not in KINDS:
      raise ConfigError(f'methods.{name}.kind = {method.kind!r} is unknown; use one of {", ".join(KINDS)}')
    parent = method.init_from
    if parent and (parent not in suite.methods or suite.methods[parent].init_from):
      raise ConfigError(f'methods.{name}.init_from = {parent!r} must name a method that begins from the base')
  for name, extra in suite.extras.items():
    for method in extra.methods:
      if method not in suite.methods:
        raise ConfigError(f'extras.{name}.methods names {method!r}, which is none of the methods')


def run_config(suite: Suite, method: Method) -> RunConfig:
  """Returns the checked configuration of a method's runs.

  Raises:
    ConfigError: it is wrong.
  """
  try:
    return from_config_dict(load_config(method.config, dict(suite.fields) | dict(method.fields)))
  except ConfigError as error:
    raise ConfigError(f'{method.config} with the fields of {method.title!r}: {error}') from error


def budget(run: RunConfig) -> Budget:
  """Counts what a configuration spends."""
  A, settings, rows = run.attempts, run.supervised, run.total_steps * run.rows
  if run.mode == 'supervised':
    conversations = settings.iterations * settings.problems * settings.samples
    return Budget(conversations, conversations * A, run.total_steps, rows, rows * sum(settings.loss_on))
  trained = sum(stage.steps * run.batch.samples * _trained(stage, run.batch.problems) for stage in run.stage_runs)
  return Budget(rows, rows * A, run.total_steps, rows, trained)


def _trained(stage: Stage, problems: int) -> int:
  """Counts the attempts that carry a gradient in one sample of every problem of a step."""
  weights = zip(stage.reward_weights, stage.bonus, stage.kl_weights, strict=True)
  wanted = [any(weight) for weight in weights]
  return sum(wanted) * problems - wanted[0] * round(stage.offline_first * problems)


def budgets(suite: Suite) -> dict[str, Budget]:
  """Counts what every method that trains spends, what it begins from included.

  Raises:
    ConfigError: a method's samples or updates are not those of the reference, and its `note` does not say why.
  """
  own = {name: budget(run_config(suite, m)) for name, m in suite.methods.items() if m.kind == 'train'}
  spent = {name: b + own[m.init_from] if (m := suite.methods[name]).init_from else b for name, b in own.items()}
  for name, method in suite.methods.items():
    fields = differing(spent[name], spent[suite.reference]) if name in spent else []
    if fields and method.shown and not method.note:
      what = ', '.join(
        f'{getattr(spent[name], field):,} {field} where the reference has {getattr(spent[suite.reference], field):,}'
        for field in fields
      )
      raise ConfigError(f'methods.{name} has {what}; make them equal, or say why in its `note`')
  return spent


def differing(one: Budget, other: Budget) -> list[str]:
  """Names the fields in which two comparable budgets must agree and do not."""
  return [name for name in ('conversations', 'attempts', 'updates') if getattr(one, name) != getattr(other, name)]


def chosen(suite: Suite, only: Iterable[str]) -> tuple[str, ...]:
  """Returns the methods that are asked for and those they begin from, in the suite's order; all, if none is named.

  Raises:
    ConfigError: one is unknown.
  """
  wanted = set(only) or set(suite.methods)
  for name in wanted:
    if name not in suite.methods:
      raise ConfigError(f'--only names {name!r}; methods are {", ".join(suite.methods)}')
  wanted |= {suite.methods[name].init_from for name in wanted} - {''}
  return tuple(name for name in suite.methods if name in wanted)


def seeds_of(suite: Suite, method: str, seeds: tuple[int, ...]) -> tuple[int, ...]:
  """Returns the seeds of a method's jobs; an evaluation of the base has one."""
  return seeds if suite.methods[method].kind == 'train' else suite.seeds[:1]


def folder_of(work: pathlib.Path, method: str, seed: int) -> pathlib.Path:
  """Returns the folder of a run, or of an evaluation of the base."""
  return work / 'runs' / method / f'seed{seed}'


def extra_folder(work: pathlib.Path, extra: str, method: str, seed: int) -> pathlib.Path:
  """Returns the folder of a further evaluation."""
  return work / 'extras' / extra / method / f'seed{seed}'


def jobs(suite: Suite, work: pathlib.Path, only: tuple[str, ...], seeds: tuple[int, ...], base: str) -> list[Job]:
  """Plans all jobs, each after those that it needs.

  Args:
    suite: what is compared.
    work: folder of what the jobs make.
    only: methods, from `chosen`.
    seeds: of them.
    base: an HF folder; '': the suite's own base is made first.
  """
  base_hf, planned = pathlib.Path(base or work / 'base/hf'), []
  if not base:
    command = _command('experiments.countdown_base.main', suite.base_config, suite.base_fields, work / 'base')
    planned = [Job('base', command, work / 'base', ('eval.json', 'hf/config.json', 'hf/model.safetensors'), fresh=True)]
  first = tuple(job.name for job in planned)
  common = dict(suite.fields) | {'model.path': str(base_hf)}
  # Runs that others begin from come first, so that those need not wait for long.
  order = sorted(only, key=lambda name: suite.methods[name].shown)
  for seed, name in ((seed, name) for seed in seeds for name in order if seed in seeds_of(suite, name, seeds)):
    planned.append(_job(suite, work, name, seed, common, base_hf, first))
  for extra_name, extra in suite.extras.items():
    for name in (name for name in extra.methods if name in only):
      trained = suite.methods[name].kind == 'train'
      for seed in (seed for seed in seeds if seed in seeds_of(suite, name, seeds)):
        model = folder_of(work, name, seed) / 'hf' if trained else base_hf
        folder = extra_folder(work, extra_name, name, seed)
        needs = (f'{name}/seed{seed}',) if trained else first
        config, fields = suite.methods[suite.reference].config, common | dict(extra.fields)
        planned.append(_evaluation(f'{extra_name}/{name}', seed, config, fields, folder, model, needs, *extra.flags))
  return planned


def _job(
  suite: Suite,
  work: pathlib.Path,
  name: str,
  seed: int,
  common: dict[str, Any],
  base_hf: pathlib.Path,
  first: tuple[str, ...],
) -> Job:
  """Plans a method's run with a seed, or its evaluation of the base."""
  method, folder = suite.methods[name], folder_of(work, name, seed)
  fields, needs = common | dict(method.fields), first
  if method.kind == 'evaluate':
    flags = (f'--instruction={method.instruction}',) if method.instruction else ()
    return _evaluation(name, seed, method.config, fields, folder, base_hf, needs, *flags)
  fields['seed'] = seed
  if method.init_from:
    fields['init_from'] = str(folder_of(work, method.init_from, seed))
    needs += (f'{method.init_from}/seed{seed}',)
  command = _command('score_jax.main', method.config, fields, folder)
  return Job(f'{name}/seed{seed}', command, folder, (*_EVALUATED, 'hf/config.json', 'report.html'), needs)


def _evaluation(
  name: str,
  seed: int,
  config: str,
  fields: Mapping[str, Any],
  folder: pathlib.Path,
  model: pathlib.Path,
  needs: tuple[str, ...],
  *flags: str,
) -> Job:
  """Plans an evaluation of a model into a folder."""
  command = _command('score_jax.evaluate', config, fields, folder, f'--model={model}', '--name=final', *flags)
  return Job(f'{name}/seed{seed}', command, folder, _EVALUATED, needs, fresh=True)


def _command(module: str, config: str, fields: Mapping[str, Any], folder: pathlib.Path, *flags: str) -> tuple[str, ...]:
  values = (f'--config.{name}={value}' for name, value in fields.items())
  return (sys.executable, '-m', module, f'--config={config}', f'--workdir={folder}', *flags, *values)


def shown(command: tuple[str, ...]) -> str:
  """Returns a command as one would type it."""
  words = ('python', *command[1:])
  return ' '.join(f"'{word}'" if set(word) & set(' ()\'"{};*') else word for word in words)
