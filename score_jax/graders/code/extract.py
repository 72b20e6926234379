# SPDX-License-Identifier: Apache-2.0
"""Finds the program in what a model wrote. It compiles nothing: the process that runs it does.

It looks in this order, in what follows the reasoning of a model that thinks first:

1. Between [BEGIN] and [DONE] (a text that was prompted with [BEGIN] starts inside), with or without a fence; then
   beside them, and behind a [BEGIN] without an end.
2. In fenced blocks (``` or ~~~) that are unmarked or marked as Python. An open last block counts only where no other
   is complete.
3. In the text itself: all of it, or what is left without the prose around it.
4. In a `return` statement between backticks, where there is a prompt to complete.

Of several, the last that defines a wanted name is taken; if none does, the last. Where there is a prompt to complete,
the program may be the body of the prompt's function, indented or not.

The result is a list of candidates, the most literal first, of which sandbox/reading.py takes one.
"""

import dataclasses
import re

from score_jax.graders import thinking

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
_INLINE = re.compile(r'`(return\b[^`\n]*)`')
_INDENT = '    '


@dataclasses.dataclass(frozen=True)
class Extracted:
  """What stands in a text."""

  programs: tuple[str, ...] = ()  # candidates for the program, the most literal first
  others: tuple[str, ...] = ()  # other blocks, which may hold its helpers

  @property
  def size(self) -> int:
    """Bytes of the most literal candidate and the other blocks."""
    return sum(len(text.encode('utf-8', 'surrogatepass')) for text in (*self.programs[:1], *self.others))


def extract(text: str, names: tuple[str, ...], prompt: str = '') -> Extracted:
  """Returns the candidates for the program in `text`; none if there is no program.

  Args:
    text: what a model wrote.
    names: names that the tests call.
    prompt: source that ends in the head of a function.
  """
  text = thinking.answer(text).replace('\r\n', '\n').replace('\r', '\n').removeprefix('\ufeff')
  sections = _between_markers(text)
  if sections:
    text = _choose(sections, names)
  blocks = _fenced(text)
  marked = bool(blocks or sections)
  if blocks:
    text = _choose(blocks, names)
  if not text.strip():
    return Extracted()
  others = tuple(block for block in blocks if block != text)
  if not prompt or defines(text, names):
    return Extracted(tuple(_whole(text, marked)), others)
  inline = [] if marked else _INLINE.findall(text)
  return Extracted(tuple(_bodies(text, prompt, marked) or _bodies('\n'.join(inline[-1:]), prompt, True)), others)


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
  """Returns the parts of a text with markers, those that end in [DONE] last; none without markers."""
  if _BEGIN not in text and _DONE not in text:
    return []
  *closed, rest = ([part for part in end.split(_BEGIN) if part.strip()] for end in text.split(_DONE))
  ended = [parts[-1] for parts in closed if parts]
  beside = [part for parts in closed for part in parts[:-1]] + rest
  return beside + ended or ['']


def _fenced(text: str) -> list[str]:
  """Returns the blocks marked as Python; if there are none, the unmarked ones."""
  unmarked, python, lines, number = [], [], text.split('\n'), 0
  opened = ''
  while number < len(lines):
    start, fence, mark = number, *_opening(lines[number])
    number += 1
    if not fence:
      continue
    end = _closing(lines, start)
    block = _without_margin(lines[number:end], _margin(lines[start]))
    number = end + 1
    if mark not in _PYTHON:
      continue
    if end == len(lines):
      opened = block
    else:
      (python if mark else unmarked).append(block)
  return python or unmarked or ([opened] if opened.strip() else [])


def _opening(line: str) -> tuple[str, str]:
  """Returns the fence that the line opens, and its mark; ('', '') if it is none."""
  bare = line.strip()
  return (bare[:3], bare.strip('`~ ').lower()) if bare.startswith(_FENCES) else ('', '')


def _closing(lines: list[str], start: int) -> int:
  """Returns the line that ends the block of the fence in line `start`: indented no deeper, or else the next one.

  A fence that is indented deeper stands in a docstring. Without an end, it is the number of lines.
  """
  fence, margin, deeper = lines[start].strip()[:3], _margin(lines[start]), None
  for number in range(start + 1, len(lines)):
    bare = lines[number].strip()
    if not bare.startswith(fence):
      continue
    inside = _margin(lines[number]) > margin
    if bare.strip(fence[0]):  # it opens another
      if deeper is not None and not inside:
        return deeper
    elif not inside:
      return number
    elif deeper is None:
      deeper = number
  return len(lines) if deeper is None else deeper


def _margin(line: str) -> int:
  return len(line) - len(line.lstrip(' '))


def _without_margin(lines: list[str], margin: int) -> str:
  """Joins lines; those of a fence in a list are indented as it is."""
  if all(_margin(line) >= margin for line in lines if line.strip()):
    lines = [line[margin:] for line in lines]
  return '\n'.join(lines) + '\n'


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
  lines = [_untabbed(line) for line in text.split('\n')]
  while lines and not lines[0].strip():
    del lines[0]
  if not lines:
    return []
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


def _untabbed(line: str) -> str:
  """Returns the line indented as the prompt is."""
  code = line.lstrip('\t')
  return _INDENT * (len(line) - len(code)) + code


def _end(lines: list[str]) -> int:
  """Returns the index of the first line, but for line 0, that cannot be code."""
  for number, line in enumerate(lines[1:], start=1):
    if line[:1].strip() and not _GOES_ON.match(line):
      return number
  return len(lines)


def _distinct(*candidates: str) -> list[str]:
  return list(dict.fromkeys(text if text.endswith('\n') else text + '\n' for text in candidates))
