# SPDX-License-Identifier: Apache-2.0
"""The tokenizer of an HF folder, with its chat template or another. No code of the folder is run.

Commands exclude torch, which takes seconds to import for nothing.
"""

from collections.abc import Iterator
import contextlib
import json
import os
import pathlib
import shutil
import sys
import tempfile
from typing import Any

from score_jax import files
from score_jax.errors import DataError
from score_jax.tasks import templates, turn_boundary

SETTINGS, SPECIALS, ADDED = 'tokenizer_config.json', 'special_tokens_map.json', 'added_tokens.json'
FAST, SENTENCEPIECE = 'tokenizer.json', 'tokenizer.model'
MOST_BYTES = 1 << 28  # of any of them; the largest there are have 1 << 25
_VOCABULARIES = (FAST, SENTENCEPIECE, 'vocab.json', 'vocab.txt', 'merges.txt', 'tekken.json')
_BESIDE = ('config.json', SETTINGS, SPECIALS, ADDED, 'chat_template.jinja', 'chat_template.json')


_torch_is_excluded = False


def exclude_torch() -> None:
  global _torch_is_excluded
  _torch_is_excluded = True


@contextlib.contextmanager
def without_torch() -> Iterator[None]:
  """Hides an excluded torch from transformers."""
  if not _torch_is_excluded or 'torch' in sys.modules:
    yield
    return
  sys.modules['torch'] = None
  try:
    yield
  finally:
    del sys.modules['torch']  # others look there for it


@without_torch()
def load_tokenizer(folder: pathlib.Path, chat_template: str = '') -> Any:
  """Loads the folder's tokenizer, of tokenizer.json or tokenizer.model (sentencepiece).

  `chat_template` is a .jinja file, 'bundled:NAME' of assets/chat_templates, or '' for its own, which may be ''.

  Raises DataError: it cannot be read, or it asks to run code.
  """
  os.environ.setdefault('TRANSFORMERS_VERBOSITY', 'error')  # else it announces that there is no torch
  import transformers  # takes seconds

  transformers.utils.logging.set_verbosity_error()
  _check_files(folder)
  try:
    tokenizer = _from_files(folder)
  except (DataError, KeyboardInterrupt, SystemExit):
    raise
  except BaseException as error:  # tokenizers' panics are not even Exceptions
    reason = f'{type(error).__name__}: {turn_boundary.first_line(error)}'
    remedy = 'restore tokenizer.json and tokenizer_config.json'
    raise DataError(f'{folder}: its tokenizer cannot be read: {reason}; {remedy}') from error
  tokenizer.chat_template = templates.named(chat_template) if chat_template else _own_template(folder, tokenizer)
  return tokenizer


def _from_files(folder: pathlib.Path) -> Any:
  """Loads copies of the folder's files: its settings may name files elsewhere."""
  import transformers

  with tempfile.TemporaryDirectory() as copies:
    for name in (*_VOCABULARIES, *_BESIDE):
      if (folder / name).is_file():
        shutil.copyfile(folder / name, f'{copies}/{name}')
    settings = read_settings(folder / SETTINGS)
    own = {field: value for field, value in settings.items() if not field.endswith(('_file', '_files'))}
    if own != settings:
      pathlib.Path(copies, SETTINGS).write_text(json.dumps(own))
    if (folder / SENTENCEPIECE).is_file() and not (folder / FAST).is_file():
      from score_jax.tasks import sentencepiece_tokenizer  # imports transformers

      tokenizer = sentencepiece_tokenizer.from_files(pathlib.Path(copies), folder)
    else:
      tokenizer = transformers.AutoTokenizer.from_pretrained(copies, local_files_only=True, trust_remote_code=False)
  if tokenizer is not None:
    tokenizer.name_or_path = str(folder)
  return tokenizer


def _check_files(folder: pathlib.Path) -> None:
  """Refuses code, and files that are too large or not JSON."""
  vocabularies = [folder / name for name in _VOCABULARIES if (folder / name).is_file()]
  if not vocabularies:
    raise DataError(f'{folder}: has no tokenizer; put the tokenizer.json of the model there')
  for path in vocabularies:
    size = path.stat().st_size
    if size > MOST_BYTES:
      raise DataError(f'{path}: has {size} bytes, and tokenizers at most {MOST_BYTES}; restore the file')
  for name in ('config.json', SETTINGS, SPECIALS, ADDED):
    settings = read_settings(folder / name)
    if name == SETTINGS and settings.get('auto_map'):
      raise DataError(
        f'{folder / name}: auto_map = {str(settings["auto_map"])[:80]!r} asks to run code; '
        'remove auto_map if tokenizer.json is all that the tokenizer needs'
      )


def read_settings(path: pathlib.Path) -> dict[str, Any]:
  """Returns a file's JSON object; {} if there is no file, DataError if it holds no object."""
  if not path.is_file():
    return {}
  settings = files.read_json(path, MOST_BYTES)
  if not isinstance(settings, dict):
    raise DataError(f'{path}: holds a JSON {type(settings).__name__}, not an object; restore the file')
  return settings


def _own_template(folder: pathlib.Path, tokenizer: Any) -> str:
  """Returns the template, of several the default; '' if there is none."""
  own = tokenizer.chat_template
  template = own.get('default') if isinstance(own, dict) else own
  if template is None:
    return ''
  if not isinstance(template, str):
    held = f'its chat template is {str(template)[:60]!r}, not text'
    raise DataError(f'{folder}: {held}; set config.task.chat_template')
  return template
