# SPDX-License-Identifier: Apache-2.0
"""Finds the program in what a model wrote. It compiles nothing: the process that runs it does.

It looks in this order:

1. Between [BEGIN] and [DONE] (a text that was prompted with [BEGIN] starts inside), with or without a fence.
2. In fenced blocks (``` or ~~~) that are unmarked or marked as Python. An open last block counts only where no other
   is complete.
3. In the text itself: all of it, or what is left without the prose around it.

Of several, the last that defines a wanted name is taken; if none does, the last. Where there is a prompt to complete,
the program may be the body of the prompt's function, indented or not.

The result is a list of candidates, the most literal first, of which the first that compiles is run.
"""

import re

_PYTHON = ('', 'python', 'python3', 'py', 'py3', 'python 3')
_FENCES = ('```', '~~~')
_BEGIN, _DONE = '[BEGIN]', '[DONE]'
# A line at the margin that starts a program, and one that can go on with it.
_STARTS = re.compile(r'(def|class|import|from|async def)\s+\w|@\w|[A-Za-z_]\w*(\s*:[^=]{0,80})?\s*=[^=]')
_GOES_ON = re.compile(
  r'(def|class|import|from|async|if|elif|else|for|while|try|except|finally|with|return|print|assert|global|pass|raise|del)\b'
  r'|[#@)\]}\'"]|[A-Za-z_][\w.]*(\s*,\s*\*?[A-Za-z_][\w.]*)*\s*([-+*/%&|^]|//|\*\*|<<|>>|:[^=]{1,80})?[=(\[]'
)
_STATEMENT = re.compile(
  r'(return|if|for|while|try|with|raise|assert|pass|yield|import|from|def|print|[A-Za-z_]\w*\s*[=(\[.,+-])'
)
_INDENT = '    '


def extract(text: str, names: tuple[str, ...], prompt: str = '') -> list[str]:
  """Returns candidates for the program in `text`; [] if there is none.

  Args:
    text: what a model wrote.
    names: names that the tests call.
    prompt: source that ends in the head of a function.
  """
  text = text.replace('\r\n', '\n').replace('\r', '\n').removeprefix('\ufeff')
  sections = _between_markers(text)
  if sections:
    text = _choose(sections, names)
  blocks = _fenced(text)
  marked = bool(blocks or sections)
  if blocks:
    text = _choose(blocks, names)
  if not text.strip():
    return []
  if prompt and not defines(text, names):
    return _bodies(text, prompt, marked)
  return _whole(text, marked)


def defines(text: str, names: tuple[str, ...]) -> bool:
  """Returns whether a line at the margin gives one of the names a value."""
  heads = tuple(f'{word}{name}' for name in names for word in ('def ', 'class ', 'async def ', ''))
  return any(line.startswith(heads) and _names_it(line, names) for line in text.split('\n'))


def _names_it(line: str, names: tuple[str, ...]) -> bool:
  words = re.match(r'(?:(?:async\s+)?def\s+|class\s+)?(\w+)\s*([(:=\[]|$)', line)
  return bool(words) and words[1] in names and (words[2] != '(' or line.startswith(('def', 'class', 'async')))


def _choose(parts: list[str], names: tuple[str, ...]) -> str:
  return next((part for part in reversed(parts) if defines(part, names)), parts[-1])


def _between_markers(text: str) -> list[str]:
  """Returns the text from [BEGIN] to each [DONE]; without a [DONE], to the end."""
  if _BEGIN not in text and _DONE not in text:
    return []
  closed = [part.rpartition(_BEGIN)[2] for part in text.split(_DONE)[:-1]]
  closed = [part for part in closed if part.strip()]
  return closed or [text.partition(_BEGIN)[2].replace(_DONE, '')]


def _fenced(text: str) -> list[str]:
  """Returns the blocks marked as Python; if there are none, the unmarked ones."""
  unmarked, python, block, fence, mark = [], [], None, '', ''
  for line in text.split('\n'):
    bare = line.strip()
    if block is None:
      if bare.startswith(_FENCES):
        fence, mark, block = bare[:3], bare.strip('`~ ').lower(), []
    elif bare.startswith(fence) and not bare.strip(fence[0]):
      if mark in _PYTHON:
        (python if mark else unmarked).append('\n'.join(block) + '\n')
      block = None
    else:
      block.append(line)
  if not python and not unmarked and block and mark in _PYTHON:
    return ['\n'.join(block) + '\n']
  return python or unmarked


def _whole(text: str, marked: bool) -> list[str]:
  lines = text.split('\n')
  first = next((i for i, line in enumerate(lines) if _STARTS.match(line)), None)
  if first is None:
    return [text] if marked else []
  tail = lines[first:]
  last = max(i for i, line in enumerate(tail) if not i or _GOES_ON.match(line) or line[:1].isspace() and line.strip())
  return _distinct(*('\n'.join(part) for part in (lines, tail, tail[: last + 1], tail[: _end(tail)])))


def _bodies(text: str, prompt: str, marked: bool) -> list[str]:
  """Returns the prompt with the text as its body: as it is, cut, and indented."""
  lines = text.split('\n')
  while lines and not lines[0].strip():
    del lines[0]
  if not marked and not any(line[:1].isspace() and line.strip() for line in lines) and not _STATEMENT.match(lines[0]):
    return []
  candidates = [lines, lines[: _end(lines)]]
  if lines[0][:1].strip():  # the margin was stripped: from all lines, or the first
    kept = candidates[1]
    inside = next((i for i, line in enumerate(kept) if i and line[:1].strip()), len(kept))
    indented = [[_INDENT + line if line.strip() else line for line in part] for part in candidates]
    first_line = [_INDENT + lines[0], *kept[1:inside]]
    shifted = [*indented, first_line] if inside < len(kept) else [first_line, *indented]
    candidates = [*shifted, *candidates]
  head = prompt if prompt.endswith('\n') else prompt + '\n'
  return _distinct(*(head + '\n'.join(part) for part in candidates))


def _end(lines: list[str]) -> int:
  """Returns the index of the first line, but for line 0, that cannot be code."""
  for number, line in enumerate(lines[1:], start=1):
    if line[:1].strip() and not _GOES_ON.match(line):
      return number
  return len(lines)


def _distinct(*candidates: str) -> list[str]:
  return list(dict.fromkeys(text if text.endswith('\n') else text + '\n' for text in candidates))
