"""Trackers of runs that are killed, by real clients and without a network.

As a program it goes on with the feed of a folder and is killed by itself:

    python tests/rigs/tracked.py FOLDER COMMITTED TRACKERS [SECONDS], after which it kills itself
"""

import collections
import contextlib
import json
import os
import pathlib
import signal
import sqlite3
import subprocess
import sys
import time

import tiny

from score_jax.core_types import Stop, Verdict
from score_jax.reporting import rows, trackers, written_steps

ID = 'aaaaaaaa-bbbbbbbb'
PROJECT = 'kept'
FIELDS = ('tensorboard', 'wandb', 'trackio')
ROOT = pathlib.Path(__file__).parents[2]


def row(step=0, text='5 + 2', verdict=Verdict.WRONG, decoding='sampled') -> rows.Row:
  attempts = tuple(
    rows.Attempt(t, t, v, Stop.END_OF_TURN, 3, -1.0) for t, v in ((text, verdict), ('7', Verdict.CORRECT))
  )
  return rows.Row('p/1', 'reach 7', {}, attempts, 0.5, decoding, 0, step, 'stage1' if step else '')


def record(step, **more):
  many = {f'figure{i}': i + 0.5 for i in range(60)}  # a client keeps back 32 KB
  return dict(step=step, stage='stage1', accuracy=[0.25, 0.5], i_to_c=0.3, c_to_i=0.05, many=many) | more


def write_run(folder: pathlib.Path, steps: int, conversations: bool = True) -> None:
  """What a run of these steps has left: an evaluation of the base, and two conversations a step."""
  folder.mkdir(parents=True, exist_ok=True)
  (folder / 'metrics.jsonl').write_text(''.join(json.dumps(record(step)) + '\n' for step in range(1, steps + 1)))
  (folder / 'eval.json').write_text(json.dumps(dict(base=dict(sampled=dict(delta=0.1, intervals=dict(delta=[0, 1]))))))
  if not conversations:
    return
  rows.write(folder / 'rows/base.jsonl.gz', [row(decoding='greedy'), row(), row()])
  lines = rows.lines(row(step, text) for step in range(1, steps + 1) for text in ('5 + 2', '`` ``` <b>x</b>'))
  (folder / 'rows/train.jsonl').write_text(lines)


def environment(home: pathlib.Path) -> dict[str, str]:
  """Clients that write below `home` and reach nothing."""
  offline = dict(WANDB_MODE='offline', WANDB_DATA_DIR=home, WANDB_CACHE_DIR=home, WANDB_CONFIG_DIR=home)
  offline |= dict(TRACKIO_DIR=home / 'trackio', HF_HUB_OFFLINE='1', PYTHONPATH=f'{ROOT}:{ROOT / "tests/rigs"}')
  return {**os.environ, **{name: str(value) for name, value in offline.items()}}


def feed(folder: pathlib.Path, asked: tuple[str, ...]) -> trackers.Feed:
  settings = {f'report.{name}': True if name == 'tensorboard' else PROJECT for name in asked}
  settings |= {'report.tags': ('a', 'b'), 'report.group': 'g', 'report.wandb_entity': 'team'}
  info = trackers.RunInfo(folder, folder.name, ID, dict(seed=0))
  opened = trackers.open_trackers(tiny.run_config(**settings).report, info)
  return trackers.Feed(opened, folder, every=3, last=100, rows=2)


def go_on(folder: pathlib.Path, committed: int, asked: tuple[str, ...], kill: float | None = None, **more: str) -> str:
  """What a process prints that sends what is committed and ends, or is killed some seconds later."""
  command = [sys.executable, __file__, str(folder), str(committed), ','.join(asked)]
  command += [] if kill is None else [str(kill)]
  env = environment(folder.parent) | more
  done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
  assert done.returncode == (0 if kill is None else -signal.SIGKILL), done.stderr
  return done.stdout + done.stderr


def steps(folder: pathlib.Path, field: str, id: str = ID) -> collections.Counter:
  """How often each step is in what a tracker has written."""
  if field == 'wandb':
    return collections.Counter(written_steps.wandb(folder, id))
  if field == 'tensorboard':
    return collections.Counter(written_steps.tensorboard(folder / 'tensorboard'))
  logged = []
  for database in (folder.parent / 'trackio').glob('*.db'):
    with contextlib.closing(sqlite3.connect(database)) as connection:
      logged += connection.execute('SELECT run_name, step FROM metrics').fetchall()
  assert {name for name, _ in logged} <= {f'{folder.name}-{id}'}
  return collections.Counter(step for _, step in logged)


if __name__ == '__main__':
  at, until, chosen = pathlib.Path(sys.argv[1]), int(sys.argv[2]), tuple(sys.argv[3].split(','))
  fed = feed(at, chosen)
  print('has', *(tracker.last for tracker in fed._trackers))
  fed.up_to(until)
  if len(sys.argv) > 4:
    time.sleep(float(sys.argv[4]))
    os.kill(os.getpid(), signal.SIGKILL)
  fed.close(dict(final=dict(sampled=dict(delta=0.2))))
