"""Text of a model, made harmless to look at: what would steer a terminal or reorder a line is written out."""

import re
import textwrap

MOST = 4000  # characters shown of one text
_MOST_LINES = 40  # of one text, so that one can't push the others away
_NOT_PLAIN = re.compile(r'[^ -~]')


def sanitize(text: str, most: int = MOST, keep: str = '') -> str:
  """Returns the text with characters without a shape as `<U+202E>`, cut with a note of its length.

  Args:
    text: of a model, or of anyone else who is not trusted.
    most: characters of the text that are shown; 0: all.
    keep: characters that stay though `str.isprintable` denies them: '\\n\\t' where lines are wanted.
  """

  def written(match: re.Match[str]) -> str:
    character = match[0]
    return character if character in keep or character.isprintable() else f'<U+{ord(character):04X}>'

  shown = _NOT_PLAIN.sub(written, text[:most] if most else text)
  return shown if len(text) <= most or not most else f'{shown} [cut: {len(text):,} characters in all]'


def sanitize_line(text: str, most: int = 120) -> str:
  """Returns text for a terminal, on one line and in ASCII, whose width in a terminal is known."""
  return ''.join(c if c < '\x7f' else f'<U+{ord(c):04X}>' for c in sanitize(text, most))


def sanitize_lines(text: str, most: int = MOST, width: int = 110, margin: int = 0) -> list[str]:
  """Returns lines for a terminal: in ASCII, as the text has them, wrapped and indented.

  Args:
    text: as in `sanitize`.
    most: characters of the text that are shown; 0: all.
    width: of a line, its margin included.
    margin: spaces before every line.
  """
  lines = []
  for line in sanitize(text, most, keep='\n\t').split('\n'):
    lines += textwrap.wrap(sanitize_line(line.expandtabs(4), 0), width - margin) or ['']
  if len(lines) > _MOST_LINES:
    lines[_MOST_LINES:] = [f'[cut: {len(lines):,} lines in all]']
  return [' ' * margin + line if line else '' for line in lines]
