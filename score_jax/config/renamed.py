# SPDX-License-Identifier: Apache-2.0
"""Answers fields and commands of version 0.1 with their new names. The names are in assets/renamed.json."""

import fnmatch
import functools
import json
import pathlib

_FILE = pathlib.Path(__file__).parent.parent / 'assets/renamed.json'


@functools.cache
def table() -> dict[str, dict[str, str]]:
  """Returns {'fields': {old: new}, 'removed': {old: remedy}, 'commands': {old: remedy}}; `*` stands for any name."""
  return json.loads(_FILE.read_text())


def advice(field: str) -> str:
  """Returns what took the place of a field, as the end of a message; '' for a name that never was a field.

  Args:
    field: its full path below `config`, e.g. 'stages.stage1.bonus'.
  """
  for old, new in table()['fields'].items():
    if fnmatch.fnmatchcase(field, old):
      return f'it is called config.{_filled(new, field)} now'
  for old, remedy in table()['removed'].items():
    if field == old or field.startswith(f'{old}.'):
      return remedy
  return ''


def _filled(new: str, field: str) -> str:
  """The new path with the names of the old one in the place of `*`."""
  return '.'.join(there if part == '*' else part for part, there in zip(new.split('.'), field.split('.'), strict=True))
