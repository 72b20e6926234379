"""report.html: one file that needs nothing else, with what `report_data` collected embedded as inert data.

The page's policy (CSP) lets it run its script, known by hash, and nothing more: no network, no other script, even if
a text of a model should ever reach the page as markup. It never does: the script writes text nodes alone.
"""

import base64
from collections.abc import Sequence
import hashlib
import html
import json
import pathlib
from typing import Any

from score_jax import files
from score_jax.reporting.report_data import collect

_ASSETS = pathlib.Path(__file__).parent.parent / 'assets' / 'report'
_SCRIPTS = ('base.js', 'lines.js', 'figures.js', 'diff.js', 'browser.js', 'sections.js', 'page.js')


def write(folders: Sequence[pathlib.Path], out: pathlib.Path) -> int:
  """Writes the report of some run folders, whole or not at all, and returns its size in bytes.

  Raises:
    ConfigError: a folder holds nothing to report.
    DataError: a file in one of them cannot be read.
  """
  return write_page(collect(folders), out)


def write_page(data: dict[str, Any], out: pathlib.Path) -> int:
  """Writes the page of collected data, whole or not at all, and returns its size in bytes."""
  text = page(data).encode('ascii')
  files.write_bytes(out, text)
  return len(text)


def page(data: dict[str, Any]) -> str:
  """Returns the HTML, in ASCII."""
  style, text = ((_ASSETS / name).read_text(encoding='ascii') for name in ('style.css', 'page.html'))
  script = "'use strict';\n" + '\n'.join((_ASSETS / name).read_text(encoding='ascii') for name in _SCRIPTS)
  title = html.escape(', '.join(run['name'] for run in data['runs']))
  for name, value in (
    ('POLICY', f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'"),
    ('TITLE', title.encode('ascii', 'xmlcharrefreplace').decode()),
    ('STYLE', style),
    ('SCRIPT', script),
    ('DATA', embedded(data)),
  ):
    before, after = text.split(f'@{name}@')
    text = before + value + after
  return text


def embedded(data: Any) -> str:
  """Returns JSON that can stand in a <script>: in ASCII, and without a character that HTML gives a meaning."""
  text = json.dumps(data, separators=(',', ':'), allow_nan=False)
  for character in '<>&':
    text = text.replace(character, f'\\u{ord(character):04x}')
  return text


def _hash(content: str) -> str:
  return 'sha256-' + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
