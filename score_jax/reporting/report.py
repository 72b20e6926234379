"""report.html: one file that needs nothing else, with what `gather` found embedded as inert data.

The page's policy (CSP) lets it run its own script, known by hash, and nothing more: no network, no other script,
even if a text of a model should ever reach the page as markup. It never does: the script writes text nodes alone.
"""

import base64
from collections.abc import Sequence
import hashlib
import json
import pathlib
from typing import Any

from score_jax.reporting.gather import gather

_ASSETS = pathlib.Path(__file__).parent.parent / 'assets' / 'report'
_SCRIPTS = ('base.js', 'lines.js', 'figures.js', 'diff.js', 'browser.js', 'sections.js', 'page.js')


def write(folders: Sequence[pathlib.Path], out: pathlib.Path) -> int:
  """Writes the report of some run folders, whole or not at all; its size in bytes.

  Raises:
    ConfigError: a folder holds nothing to report.
    DataError: a file in one of them can't be read.
  """
  return write_page(gather(folders), out)


def write_page(data: dict[str, Any], out: pathlib.Path) -> int:
  """Writes the page of what `gather` found, whole or not at all; its size in bytes."""
  text = page(data)
  partial = out.with_name(out.name + '.partial')
  partial.write_text(text, encoding='ascii')
  partial.replace(out)
  return len(text)


def page(data: dict[str, Any]) -> str:
  """The HTML, in ASCII."""
  style = (_ASSETS / 'style.css').read_text(encoding='ascii')
  script = "'use strict';\n" + '\n'.join((_ASSETS / name).read_text(encoding='ascii') for name in _SCRIPTS)
  text = (_ASSETS / 'page.html').read_text(encoding='ascii')
  title = ', '.join(run['name'] for run in data['runs'])
  for name, value in (
    ('POLICY', f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'"),
    ('TITLE', _markup(title)),
    ('STYLE', style),
    ('SCRIPT', script),
    ('DATA', embedded(data)),
  ):
    before, after = text.split(f'@{name}@')
    text = before + value + after
  return text


def embedded(data: Any) -> str:
  """JSON that can stand in a <script>: in ASCII, and without a character that HTML gives a meaning."""
  text = json.dumps(data, separators=(',', ':'), allow_nan=False)
  for character in '<>&':
    text = text.replace(character, f'\\u{ord(character):04x}')
  return text


def _hash(content: str) -> str:
  return 'sha256-' + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


def _markup(text: str) -> str:
  """Text in ASCII for markup."""
  for character, entity in (('&', '&amp;'), ('<', '&lt;'), ('>', '&gt;'), ('"', '&quot;')):
    text = text.replace(character, entity)
  return text.encode('ascii', 'xmlcharrefreplace').decode()
