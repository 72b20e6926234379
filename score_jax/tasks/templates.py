# SPDX-License-Identifier: Apache-2.0
"""Chat templates by name."""

import pathlib
import re

from score_jax.errors import DataError
from score_jax.tasks import turn_boundary
from score_jax.tasks.turn_boundary import Template, TemplateError

_FOLDER = pathlib.Path(__file__).parent.parent / 'assets' / 'chat_templates'
_PREFIX = 'bundled:'
_MARKER = re.compile(r'<[|｜][^<>]+[|｜]>')  # <|im_start|>, <｜User｜>


def bundled() -> dict[str, pathlib.Path]:
  """Returns the files of 'bundled:NAME'."""
  return {f'{_PREFIX}{file.stem}': file for file in sorted(_FOLDER.glob('*.jinja'))}


def named(name: str) -> str:
  """Returns the text of a .jinja file or 'bundled:NAME'; DataError if there is none."""
  path, field = pathlib.Path(name), f'config.task.chat_template = {name!r}'
  if name.startswith(_PREFIX):
    if name not in bundled():
      raise DataError(f'{field} is unknown; use a .jinja file or one of {", ".join(bundled())}')
    path = bundled()[name]
  try:
    return path.read_text(encoding='utf-8')
  except (OSError, ValueError) as error:
    raise DataError(f'{field} cannot be read: {turn_boundary.first_line(error)}') from error


def name_of(text: str) -> str:
  """Returns the name of a bundled template's text, or ''."""
  return next((name for name in bundled() if named(name) == text), '')


def check_markers(template: Template) -> None:
  """Raises TemplateError: a bundled template marks turns with what is no token of its tokenizer."""
  if name := name_of(template.text):
    for marker in _MARKER.findall(template.text):
      id_ = template.tokenizer.convert_tokens_to_ids(marker)
      if id_ is None or template.tokenizer.convert_ids_to_tokens(id_) != marker:
        raise TemplateError(f'chat template {name}: the tokenizer has no token {marker!r}')
