# SPDX-License-Identifier: Apache-2.0
"""report.html: one file that needs nothing else, with the data of `report_data` inside.

Its policy (CSP) allows no network, and no script but its own, by hash, which writes text nodes alone.
"""

import base64
from collections.abc import Sequence
import hashlib
import html
import json
import os
import pathlib
from typing import Any

from score_jax import files
from score_jax.reporting.report_data import collect

_ASSETS = pathlib.Path(__file__).parent.parent / 'assets' / 'report'
_SCRIPTS = ('base', 'lines', 'figures', 'diff', 'conversation', 'browser', 'sections', 'page')


def write(folders: Sequence[pathlib.Path], out: pathlib.Path, public: bool = False) -> int:
  """Writes the report of run folders whole and returns its bytes; raises as `collect` does.

  One that is `public` names the last part of a machine's paths alone.
  """
  data = collect(folders)
  for run in data['runs'] if public else ():
    run['facts'] = [[label, os.path.basename(fact) if os.path.isabs(fact) else fact] for label, fact in run['facts']]
  text = page(data).encode('ascii')
  files.write_bytes(out, text)
  return len(text)


def page(data: dict[str, Any]) -> str:
  """Returns the HTML of collected data, in ASCII."""
  names = ('style.css', 'page.html', *(f'{name}.js' for name in _SCRIPTS))
  style, text, *scripts = ((_ASSETS / name).read_text(encoding='ascii') for name in names)
  script = '\n'.join(["'use strict';", *scripts])
  allowed = f"style-src '{_hash(style)}'; script-src '{_hash(script)}'"
  title = html.escape(', '.join(run['name'] for run in data['runs']))
  for name, value in dict(
    POLICY=f"default-src 'none'; {allowed}",
    TITLE=title.encode('ascii', 'xmlcharrefreplace').decode(),
    STYLE=style,
    SCRIPT=script,
    DATA=_embedded(data),
  ).items():
    before, after = text.split(f'@{name}@')
    text = before + value + after
  return text


def _embedded(data: Any) -> str:
  """Returns JSON as a <script> may hold it: ASCII, without characters that mean HTML."""
  text = json.dumps(data, separators=(',', ':'), allow_nan=False)
  for character in '<>&':
    text = text.replace(character, f'\\u{ord(character):04x}')
  return text


def _hash(content: str) -> str:
  return 'sha256-' + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
