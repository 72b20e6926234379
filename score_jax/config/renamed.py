"""Answers fields and commands of version 0.1 with their new names. The names are in assets/renamed.json."""

import fnmatch
import functools
import json
import pathlib
from typing import Any

_FILE = pathlib.Path(__file__).parent.parent / 'assets/renamed.json'


@functools.cache
def table() -> dict[str, dict[str, str]]:
  """Returns {'fields': {old: new}, 'removed': {old: remedy}, 'commands': {old: remedy}}; `*` stands for any name."""
  return json.loads(_FILE.read_text())


def advice(field: str) -> str:
  """Returns what took the place of a field, as the end of a message; '' for a name that never was a field.

  Args:
    field: its full path below `config`, e.g. 'stages.stage1.pays'.
  """
  for old, new in table()['fields'].items():
    if fnmatch.fnmatchcase(field, old):
      return f'it is called config.{_filled(new, field)} now'
  for old, remedy in table()['removed'].items():
    if field == old or field.startswith(f'{old}.'):
      return remedy
  return ''


def upgraded(config: dict[str, Any]) -> dict[str, Any]:
  """Returns a run's config.json of version 0.1 with the fields' names of today.

  Args:
    config: the value of 'config' in config.json, where `stage_runs` (then `visits`) is a list of stages.
  """
  config = {('stage_runs' if name == 'visits' else name): value for name, value in config.items()}
  names = {old: new for old, new in table()['fields'].items() if '.' in old}
  stage_names = {old.split('.')[-1]: new.split('.')[-1] for old, new in names.items() if old.startswith('stages.')}
  if 'stage_runs' in config:
    config['stage_runs'] = [_renamed(stage, stage_names) for stage in config['stage_runs']]
  for old, new in names.items():
    section, name = old.split('.')[0], old.split('.')[-1]
    if isinstance(config.get(section), dict) and '*' not in old:
      config[section] = _renamed(config[section], {name: new.split('.')[-1]})
  return config


def _renamed(section: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
  return {names.get(name, name): value for name, value in section.items()}


def _filled(new: str, field: str) -> str:
  """The new path with the names of the old one in the place of `*`."""
  return '.'.join(there if part == '*' else part for part, there in zip(new.split('.'), field.split('.'), strict=True))
