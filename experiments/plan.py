# SPDX-License-Identifier: Apache-2.0
"""Plans a suite: which command makes which folder, and what it may spend.

A suite file has `get_suite()`, which returns a `Suite`.
"""

import ast
from collections.abc import Iterable, Mapping
import dataclasses
import operator
import pathlib
import runpy
import shlex
import sys
from typing import Any

from score_jax.config import RunConfig, from_config_dict, load_config
from score_jax.core_types import Stage
from score_jax.errors import ConfigError

Fields = Mapping[str, Any]  # as of flags: 'optim.learning_rate'
KINDS = ('train', 'evaluate')
_EVALUATED = ('eval.json', 'rows/final.jsonl.gz')


@dataclasses.dataclass(frozen=True)
class Method:
  """A row of the table: a run for each seed, or an evaluation of the base."""

  title: str
  config: str = 'quickstart'  # a preset's name, or a file
  fields: Fields = dataclasses.field(default_factory=dict)  # over the suite's
  kind: str = 'train'  # 'train'; 'evaluate': the base as it is
  init_from: str = ''  # the method whose run of the same seed it begins from
  instruction: str = ''  # of an evaluation; '': the task's
  shown: bool = True  # False: others begin from it, and it has no row
  note: str = ''  # why its budget is another one
  paper: tuple[float, ...] = ()  # the paper's Acc@t1, Acc@t2, delta, in percent


@dataclasses.dataclass(frozen=True)
class Extra:
  """A further evaluation of final policies."""

  methods: tuple[str, ...]
  flags: tuple[str, ...]  # of score_jax.evaluate
  fields: Fields = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Suite:
  """Methods that are compared, and what they have in common."""

  name: str
  base_config: str  # of experiments.countdown_base.main
  fields: Fields  # of every run and evaluation
  seeds: tuple[int, ...]
  reference: str  # the method that others are compared with
  methods: Mapping[str, Method]
  paper: str  # where the methods' `paper` is from
  extras: Mapping[str, Extra] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Job:
  """A command, and the folder that it makes."""

  name: str
  command: tuple[str, ...]
  folder: pathlib.Path
  outputs: tuple[str, ...]  # files in it that the job makes
  needs: tuple[str, ...] = ()  # names of jobs
  fresh: bool = False  # it cannot be resumed: its folder is deleted first


@dataclasses.dataclass(frozen=True)
class Budget:
  """Cost of a method's training alone."""

  conversations: int  # sampled
  attempts: int  # sampled
  updates: int
  rows: int  # conversations in updates
  trained: int  # attempts in them that carry a gradient

  def __add__(self, other: 'Budget') -> 'Budget':
    return Budget(*map(operator.add, dataclasses.astuple(self), dataclasses.astuple(other)))


def read(path: str, fields: Iterable[str] = ()) -> Suite:
  """Reads a suite file.

  Args:
    path: of the file.
    fields: 'NAME=VALUE' each, over the file's own `fields`.

  Raises:
    ConfigError: there is no such file, or a field of it is wrong.
  """
  if not pathlib.Path(path).is_file():
    raise ConfigError(f'--suite={path}: there is no such file')
  module = runpy.run_path(path)
  if 'get_suite' not in module:
    raise ConfigError(f'--suite={path} has no get_suite(); see experiments/suites/countdown.py')
  try:
    suite: Suite = module['get_suite']()
  except TypeError as error:
    raise ConfigError(f'--suite={path}: {error}') from error
  suite = dataclasses.replace(suite, fields={**suite.fields, **dict(map(_field, fields))})
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


def _check(suite: Suite) -> None:
  if suite.reference not in suite.methods:
    raise ConfigError(f'suite.reference = {suite.reference!r} is none of {", ".join(suite.methods)}')
  for name, method in suite.methods.items():
    if method.kind not in KINDS:
      raise ConfigError(f'methods.{name}.kind = {method.kind!r} is unknown; use one of {", ".join(KINDS)}')
    parent = method.init_from
    if parent and (parent not in suite.methods or suite.methods[parent].init_from):
      raise ConfigError(f'methods.{name}.init_from = {parent!r} must name a method that has none')
  for name, extra in suite.extras.items():
    for method in extra.methods:
      if method not in suite.methods:
        raise ConfigError(f'extras.{name}.methods names {method!r}, which is no method')


def run_config(suite: Suite, method: Method) -> RunConfig:
  """Returns the checked configuration of a method's runs. Raises ConfigError."""
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
  problems, samples = run.batch.problems, run.batch.samples
  trained = sum(stage.steps * samples * _trained(stage, problems) for stage in run.stage_runs)
  return Budget(rows, rows * A, run.total_steps, rows, trained)


def _trained(stage: Stage, problems: int) -> int:
  """Counts attempts with a gradient in one sample of every problem."""
  weights = zip(stage.reward_weights, stage.bonus, stage.kl_weights, strict=True)
  wanted = [any(weight) for weight in weights]
  return sum(wanted) * problems - wanted[0] * round(stage.offline_first * problems)


def budgets(suite: Suite) -> dict[str, Budget]:
  """Counts what every method that trains spends, with what it begins from.

  Raises:
    ConfigError: a method spends other than the reference, and has no `note`.
  """
  trained = {name: m for name, m in suite.methods.items() if m.kind == 'train'}
  own = {name: budget(run_config(suite, m)) for name, m in trained.items()}
  spent = {name: own[name] + own[m.init_from] if m.init_from else own[name] for name, m in trained.items()}
  for name, method in suite.methods.items():
    fields = differing(spent[name], spent[suite.reference]) if name in spent else []
    if fields and method.shown and not method.note:
      own_of, theirs = (dataclasses.asdict(spent[one]) for one in (name, suite.reference))
      what = ', '.join(f'{own_of[f]:,} {f} where the reference has {theirs[f]:,}' for f in fields)
      raise ConfigError(f'methods.{name} has {what}; make them equal, or say why in its `note`')
  return spent


def differing(one: Budget, other: Budget) -> list[str]:
  """Names the fields in which two budgets should agree and do not."""
  names = ('conversations', 'attempts', 'updates')
  return [name for name in names if getattr(one, name) != getattr(other, name)]


def chosen(suite: Suite, only: Iterable[str]) -> tuple[str, ...]:
  """Returns the methods of `only` and those they begin from; () means all.

  Raises:
    ConfigError: one is unknown.
  """
  wanted = set(only) or set(suite.methods)
  for name in wanted:
    if name not in suite.methods:
      raise ConfigError(f'--only names {name!r}; methods: {", ".join(suite.methods)}')
  wanted |= {suite.methods[name].init_from for name in wanted} - {''}
  return tuple(name for name in suite.methods if name in wanted)


def seeds_of(suite: Suite, method: str, seeds: tuple[int, ...]) -> tuple[int, ...]:
  """Returns the seeds of a method; an evaluation of the base has one."""
  return seeds if suite.methods[method].kind == 'train' else suite.seeds[:1]


def folder_of(work: pathlib.Path, method: str, seed: int) -> pathlib.Path:
  """Returns the folder of a run, or of an evaluation of the base."""
  return work / 'runs' / method / f'seed{seed}'


def extra_folder(work: pathlib.Path, extra: str, method: str, seed: int) -> pathlib.Path:
  return work / 'extras' / extra / method / f'seed{seed}'


def jobs(suite: Suite, work: pathlib.Path, only: tuple[str, ...], seeds: tuple[int, ...], base: str) -> list[Job]:
  """Plans all jobs, each after those that it needs.

  Args:
    suite: what is compared.
    work: folder of what the jobs make.
    only: methods, from `chosen`.
    seeds: of them.
    base: an HF folder; '': the suite's own is made first.
  """
  planner = _Planner(suite, work, base)
  # Runs that others begin from come first.
  order = sorted(only, key=lambda name: suite.methods[name].shown)
  planned = [] if base else [planner.base_job()]
  planned += [planner.job(n, seed) for seed in seeds for n in order if seed in seeds_of(suite, n, seeds)]
  for extra_name, extra in suite.extras.items():
    for name in (name for name in extra.methods if name in only):
      chosen_seeds = (seed for seed in seeds if seed in seeds_of(suite, name, seeds))
      planned += [planner.extra_job(extra_name, name, seed) for seed in chosen_seeds]
  return planned


@dataclasses.dataclass(frozen=True)
class _Planner:
  suite: Suite
  work: pathlib.Path
  base: str  # an HF folder; '': the one that `base_job` makes

  def base_job(self) -> Job:
    folder = self.work / 'base'
    command = _command('experiments.countdown_base.main', self.suite.base_config, {}, folder)
    return Job('base', command, folder, ('eval.json', 'hf/config.json', 'hf/model.safetensors'), fresh=True)

  def job(self, name: str, seed: int) -> Job:
    method, folder = self.suite.methods[name], folder_of(self.work, name, seed)
    if method.kind == 'evaluate':
      flags = (f'--instruction={method.instruction}',) if method.instruction else ()
      return self._evaluation(f'{name}/seed{seed}', method.config, method.fields, folder, *flags)
    fields, needs = self._fields(method.fields) | dict(seed=seed), self._needs()
    if method.init_from:
      fields['init_from'] = str(folder_of(self.work, method.init_from, seed))
      needs += (f'{method.init_from}/seed{seed}',)
    command = _command('score_jax.main', method.config, fields, folder)
    return Job(f'{name}/seed{seed}', command, folder, (*_EVALUATED, 'hf/config.json', 'report.html'), needs)

  def extra_job(self, extra_name: str, name: str, seed: int) -> Job:
    extra = self.suite.extras[extra_name]
    config = self.suite.methods[self.suite.reference].config
    folder = extra_folder(self.work, extra_name, name, seed)
    run = f'{name}/seed{seed}' if self.suite.methods[name].kind == 'train' else ''
    return self._evaluation(f'{extra_name}/{name}/seed{seed}', config, extra.fields, folder, *extra.flags, run=run)

  def _evaluation(
    self, name: str, config: str, fields: Fields, folder: pathlib.Path, *flags: str, run: str = ''
  ) -> Job:
    model = self.work / 'runs' / run / 'hf' if run else self._base_hf()
    needs = (run,) if run else self._needs()
    flags = (f'--model={model}', '--name=final', *flags)
    command = _command('score_jax.evaluate', config, self._fields(fields), folder, *flags)
    return Job(name, command, folder, _EVALUATED, needs, fresh=True)

  def _base_hf(self) -> pathlib.Path:
    return pathlib.Path(self.base or self.work / 'base/hf')

  def _needs(self) -> tuple[str, ...]:
    return () if self.base else ('base',)

  def _fields(self, fields: Fields) -> dict[str, Any]:
    return {**self.suite.fields, 'model.path': str(self._base_hf()), **fields}


def _command(module: str, config: str, fields: Fields, folder: pathlib.Path, *flags: str) -> tuple[str, ...]:
  values = (f'--config.{name}={value}' for name, value in fields.items())
  return (sys.executable, '-m', module, f'--config={config}', f'--workdir={folder}', *flags, *values)


def shown(command: tuple[str, ...]) -> str:
  """Returns a command as typed."""
  return shlex.join(('python', *command[1:]))
