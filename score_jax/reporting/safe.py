"""Text of a model, made harmless to look at: what would steer a terminal or reorder a line is written out."""

import re
import textwrap

MOST = 4000  # characters shown of one text
_MOST_LINES = 40  # of one text, so that one can't push the others away
_NOT_PLAIN = re.compile(r'[^ -~]')


def safe(text: str, most: int = MOST, keep: str = '') -> str:
  """The text with every character that has no shape of its own as `<U+202E>`, cut with a note of its true length.

  Written out are control characters (terminal escapes among them), marks of direction, what has no width, lone
  surrogates and characters without a meaning (`str.isprintable`); a reader sees that they are there.

  Args:
    text: of a model, or of anyone else who is not trusted.
    most: characters of the text that are shown; 0: all.
    keep: characters that stay as they are although they steer: '\\n\\t' where lines are wanted.
  """
  shown = text[:most] if most else text
  shown = _NOT_PLAIN.sub(lambda match: _written(match[0], keep), shown)
  return shown if len(text) <= most or not most else f'{shown} [cut: {len(text):,} characters in all]'


def safe_line(text: str, most: int = 120) -> str:
  """For a terminal: on one line, and in ASCII, since a terminal's width of other letters is not known."""
  return ''.join(c if c < '\x7f' else f'<U+{ord(c):04X}>' for c in safe(text, most))


def safe_lines(text: str, most: int = MOST, width: int = 110, margin: int = 0) -> list[str]:
  """For a terminal: in ASCII, lines as the text has them, wrapped and indented.

  Args:
    text: as in `safe`.
    most: characters of the text that are shown; 0: all.
    width: of a line, its margin included.
    margin: spaces before every line.
  """
  lines = []
  for line in safe(text, most, keep='\n\t').split('\n'):
    lines += textwrap.wrap(safe_line(line.expandtabs(4), 0), width - margin) or ['']
  if len(lines) > _MOST_LINES:
    lines[_MOST_LINES:] = [f'[cut: {len(lines):,} lines in all]']
  return [' ' * margin + line if line else '' for line in lines]


def _written(character: str, keep: str) -> str:
  return character if character in keep or character.isprintable() else f'<U+{ord(character):04X}>'
