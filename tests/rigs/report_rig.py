"""Run folders around some conversations, and the report of them in a browser."""

import json
import pathlib
import re
import shutil
import subprocess

import numpy as np
import pytest

from score_jax.core_types import Stop, Verdict
from score_jax.reporting import rows
from score_jax.reporting.ledger import account
from score_jax.reporting.rows import Attempt, Row

METRICS = pathlib.Path(__file__).parent.parent / 'testdata/quickstart_metrics.jsonl'


def conversation(i, text, **changes):
  right = [Verdict(int(v)) for v in np.random.default_rng(i).integers(0, 2, 2)]
  attempts = tuple(Attempt(f'{text} {i} {k}', text[:200], right[k], Stop.END_OF_TURN, 9, -3.0) for k in range(2))
  fields = dict(
    id=f'p{i}', question=text, tags={'level': text}, attempts=attempts, edit_ratio=0.2, decoding='sampled', sample=0
  )
  return Row(**fields | changes)


def run_folder(path, chats, steps=60, model='a model'):
  """A run's folder around some conversations, with the curves of a quickstart, repeated."""
  path.mkdir(parents=True)
  (path / 'config.json').write_text(json.dumps(dict(config=dict(model=dict(path=model)), identity={})))
  lines = [json.loads(line) for line in METRICS.read_text().splitlines()]
  with (path / 'metrics.jsonl').open('w') as file:
    for i in range(steps):
      file.write(json.dumps(lines[i % 60] | dict(step=i + 1, visit=0, seconds=dict(sample=1.0, update=2.0))) + '\n')
  rows.write(path / 'rows/final.jsonl.gz', chats)
  ledger = account(chats)
  (path / 'eval.json').write_text(json.dumps(dict(final=dict(sampled=ledger, step=60))))
  return path


def drawn(path, width=1280):
  """The document that a browser makes of a file, and what it complains about."""
  names = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable')
  browser = next(filter(None, map(shutil.which, names)), None)
  if not browser:
    pytest.skip(f'needs a browser: none of {", ".join(names)} is installed')
  flags = ['--headless', '--no-sandbox', '--disable-gpu', '--enable-logging=stderr', '--virtual-time-budget=2000']
  command = [browser, *flags, f'--window-size={width},900', f'--user-data-dir={path.parent / "profile"}', '--dump-dom']
  done = subprocess.run([*command, path.as_uri()], capture_output=True, text=True, timeout=120, check=True)
  return done.stdout, [line for line in done.stderr.splitlines() if 'CONSOLE' in line]


def without_scripts(dom):
  return re.sub('<script.*?</script>', '', dom, flags=re.DOTALL)
