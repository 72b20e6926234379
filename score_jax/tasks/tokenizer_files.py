"""The files of a tokenizer beside its vocabulary, and their settings."""

import pathlib
from typing import Any

from score_jax import files
from score_jax.errors import DataError

SETTINGS, SPECIALS, ADDED = 'tokenizer_config.json', 'special_tokens_map.json', 'added_tokens.json'
FAST, SENTENCEPIECE = 'tokenizer.json', 'tokenizer.model'
MOST_BYTES = 1 << 28  # of any of them; the largest there are have 1 << 25


def has_only_sentencepiece(folder: pathlib.Path) -> bool:
  """Tells whether the folder's tokenizer is a sentencepiece model and nothing that a fast tokenizer reads."""
  return not (folder / FAST).is_file() and (folder / SENTENCEPIECE).is_file()


def read_settings(path: pathlib.Path) -> dict[str, Any]:
  """Returns what a JSON file of the folder says; {} if there is no such file.

  Raises:
    DataError: it is not a JSON object.
  """
  if not path.is_file():
    return {}
  settings = files.read_json(path, MOST_BYTES)
  if not isinstance(settings, dict):
    raise DataError(f'{path}: holds a JSON {type(settings).__name__}, not an object; restore the file')
  return settings
