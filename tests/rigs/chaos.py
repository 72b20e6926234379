"""The full matrix of disturbances: `PYTHONPATH=.:tests/rigs python -m chaos --kills=50 --terms=20 --flips=200`.

A run is disturbed a few times and then left to end, which must be exactly the end of one that nobody disturbed
(`disturbed.fingerprint`). A subset is in the tests. 50 kills and 20 stops take half an hour on two cores. The exit
code is 1 if anything failed.
"""

import argparse
import collections
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

import damage
import disturbed
import jax

_EACH = 4  # disturbances of one run


def kill(workdir: pathlib.Path, cache: pathlib.Path, draw: random.Random, seconds: float, number: int) -> str | None:
  """SIGKILL: every second one inside a save, the others at a random moment of a run's `seconds`."""
  ahead = [step for step in disturbed.SAVED if step > max(disturbed.whole_steps(workdir), default=0)]
  with disturbed.start(workdir, cache) as process:
    if number % 2 and ahead:
      step = draw.choice(ahead[:3])
      disturbed.wait_for(lambda: any((workdir / 'checkpoints').glob(f'{step}[.]*')), process)
      time.sleep(draw.random() * 0.1)
    else:
      time.sleep(draw.random() * seconds)
    if disturbed.end(process) != -signal.SIGKILL:
      return None
  where = 'inside' if disturbed.in_a_save(workdir) else 'outside'
  return f'{where} a save, newest whole checkpoint {max(disturbed.whole_steps(workdir), default=0)}'


def stop(workdir: pathlib.Path, cache: pathlib.Path, draw: random.Random, seconds: float, number: int) -> str | None:
  """SIGTERM: exit code 75, and the newest checkpoint is that of the newest step.

  Every fourth at a random moment of `seconds`, which is mostly before the first step: importing, loading, compiling.
  The others at a random moment of the steps that are left, their evaluations and the export. In its first tenths of a
  second, before any module is imported, Python itself dies of the signal: nothing has begun then.
  """
  done = len(disturbed.lines(workdir))
  with disturbed.start(workdir, cache) as process:
    if number % _EACH and done < disturbed.STEPS:
      metrics, wanted = workdir / 'metrics.jsonl', draw.randint(done + 1, min(disturbed.STEPS, done + 8))
      disturbed.wait_for(lambda: metrics.exists() and metrics.read_bytes().count(b'\n') >= wanted, process)
      time.sleep(draw.random() * 0.3)
    else:
      time.sleep(draw.random() * seconds)
    early = cpu_seconds(process.pid) < 0.5
    began = time.monotonic()
    code = disturbed.end(process, signal.SIGTERM)
    took = time.monotonic() - began
  steps, whole = len(disturbed.lines(workdir)), max(disturbed.whole_steps(workdir), default=0)
  told = f'exit {code} {took:.1f} s later, after step {steps}, saved {whole}'
  if code == 0:
    return None
  if code == -signal.SIGTERM and early:
    return told
  if code != 75 or steps != whole:
    raise AssertionError(told)
  return told


def cpu_seconds(pid: int) -> float:
  """That a process has used."""
  fields = pathlib.Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
  return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')


def stick(workdir: pathlib.Path, cache: pathlib.Path, draw: random.Random, kind: str) -> str:
  """A run that hangs is gone within 30 s."""
  marker, at = workdir.with_suffix('.marker'), draw.randrange(5, 15)
  through = (str(disturbed.ROOT / 'tests/rigs/faulty.py'), kind, str(at), str(marker))
  flags = ('--config.faults.stuck_seconds=8', '--config.faults.stuck_factor=1')
  with disturbed.start(workdir, cache, *flags, through=through) as process:
    disturbed.wait_for(marker.exists, process, 0.05)
    began = time.monotonic()
    try:
      code = process.wait(timeout=120)
    except subprocess.TimeoutExpired:
      process.kill()
      raise
    took = time.monotonic() - began
  stacks = [path.read_text() for path in workdir.glob('stuck-*.txt')]
  told = f'{kind} in step {at}: gone after {took:.1f} s, exit {code}, {len(stacks)} file of stacks'
  if took > 30 or code != (75 if kind == 'asleep' else -signal.SIGKILL) or 'faulty.py' not in ''.join(stacks):
    raise AssertionError(told)
  return told


def matrix(given: argparse.Namespace, folder: pathlib.Path) -> bool:
  """Runs every case; whether all ended the same."""
  cache, draw = folder / 'cache', random.Random(given.seed)
  expected = disturbed.run_to_the_end(folder / 'whole', cache)
  began = time.monotonic()
  assert disturbed.run_to_the_end(folder / 'again', cache) == expected, 'the same command gives the same run twice'
  seconds = time.monotonic() - began
  print(f'undisturbed: {expected}, {seconds:.1f} s', flush=True)
  counts = collections.Counter()
  good = True
  for kind, disturb, wanted in (('kill', kill, given.kills), ('term', stop, given.terms)):
    while good and counts[kind] < wanted:
      workdir = folder / f'{kind}{counts[kind]}'
      for _ in range(_EACH):
        told = disturb(workdir, cache, draw, seconds, counts[kind])
        if told is None:  # it ended before
          break
        counts[kind] += 1
        counts['inside a save'] += told.startswith('inside')
        print(f'{kind} {counts[kind]}: {told}', flush=True)
      good = disturbed.run_to_the_end(workdir, cache) == expected
      print('the same end' if good else f'FAILED: {workdir}', flush=True)
  for number in range(given.stuck):
    workdir = folder / f'stuck{number}'
    print(stick(workdir, cache, draw, ('asleep', 'locked')[number % 2]), flush=True)
    good = good and disturbed.run_to_the_end(workdir, cache) == expected
    print('the same end' if good else f'FAILED: {workdir}', flush=True)
  print(json.dumps(counts))
  damaged = damage.matrix(folder / 'whole', folder, given.flips, given.seed) if given.flips else {}
  print(json.dumps(damaged))
  return good and all(count[0] == count[1] for count in damaged.values())


if __name__ == '__main__':
  jax.config.update('jax_platforms', 'cpu')
  parser = argparse.ArgumentParser()
  for what in ('kills', 'terms', 'flips', 'stuck', 'seed'):
    parser.add_argument(f'--{what}', type=int, default=0)
  with tempfile.TemporaryDirectory() as scratch:
    sys.exit(0 if matrix(parser.parse_args(), pathlib.Path(scratch)) else 1)
