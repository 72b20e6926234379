# SPDX-License-Identifier: Apache-2.0
"""Colours of programs in a text: where a report shows keywords, strings, comments and so on."""

from collections.abc import Iterator
import functools
import re
from typing import Any

from pygments import token
from pygments.lexers.python import PythonLexer

KINDS = (
  'keyword',
  'string',
  'comment',
  'number',
  'name',
  'builtin',
)  # `SYNTAX` of conversation.js
_BLOCK = re.compile(
  r'^[ \t]*```[ \t]*(?:python3?|py)[ \t]*\n(.*?)(?=^[ \t]*```|\Z)', re.DOTALL | re.IGNORECASE | re.MULTILINE
)
_LEXER = PythonLexer()
_KIND_OF = {  # the first that a token's type lies in
  token.Comment: 'comment',
  token.String: 'string',
  token.Number: 'number',
  token.Operator.Word: 'keyword',
  token.Keyword: 'keyword',
  token.Name.Builtin: 'builtin',
  token.Name.Exception: 'builtin',
  token.Name.Function: 'name',
  token.Name.Class: 'name',
  token.Name.Decorator: 'name',
}


def spans(text: str) -> list[int]:
  """Returns coloured stretches of the Python programs in a text, as triples: letters skipped, letters, kind.

  Programs stand in blocks fenced as Python; a block may lack its end. Letters are UTF-16 units, which JavaScript
  counts; a kind is an index of `KINDS`.
  """
  result: list[int] = []
  end = 0
  for begin, number, part in _tokens(text):
    skipped, letters = _units(text[end:begin]), _units(part)
    if result and not skipped and result[-1] == number:
      result[-2] += letters
    else:
      result += [skipped, letters, number]
    end = begin + len(part)
  return result


def _tokens(text: str) -> Iterator[tuple[int, int, str]]:
  """Yields position, number of the kind and text of what has a colour."""
  for block in _BLOCK.finditer(text):
    for position, type_, part in _LEXER.get_tokens_unprocessed(block[1]):
      number = _number(type_)
      if number >= 0 and part:
        yield block.start(1) + position, number, part


@functools.cache
def _number(type_: Any) -> int:
  return next((KINDS.index(kind) for parent, kind in _KIND_OF.items() if type_ in parent), -1)


def _units(text: str) -> int:
  return len(text.encode('utf-16-le')) // 2
