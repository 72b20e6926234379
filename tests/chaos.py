"""The full matrix of disturbances: `PYTHONPATH=.:tests python -m chaos --kills=50 --terms=20 --flips=200 --stuck=2`.

Each disturbed run must end exactly as one that nobody disturbed (`disturbed.fingerprint`). A subset is in the tests
(`chaos_test.py`). 50 kills and 20 stops take about half an hour on two cores. Exit code 1 if any case failed.
"""

import argparse
import json
import pathlib
import random
import signal
import sys
import tempfile
import time

import damage
import disturbed
import jax


def kill(workdir: pathlib.Path, cache: pathlib.Path, draw: random.Random, seconds: float, in_save: bool) -> str:
  """SIGKILL at a random moment of a run's `seconds`, or at one inside a save; says where it was."""
  with disturbed.start(workdir, cache) as process:
    if in_save:
      step = draw.choice(disturbed.SAVED)
      disturbed.wait_for(lambda: any((workdir / 'checkpoints').glob(f'{step}[.]*')), process)
      time.sleep(draw.random() * 0.15)
    else:
      time.sleep(draw.random() * seconds)
    disturbed.end(process)
  where = 'inside a save' if disturbed.in_a_save(workdir) else 'outside a save'
  return f'{where}, after step {len(disturbed.lines(workdir))}'


def stop(workdir: pathlib.Path, cache: pathlib.Path, draw: random.Random, seconds: float) -> str:
  """SIGTERM at a random moment: exit code 75, and the newest checkpoint is that of the newest step."""
  with disturbed.start(workdir, cache) as process:
    time.sleep(draw.random() * seconds)
    code = disturbed.end(process, signal.SIGTERM)
  steps, whole = len(disturbed.lines(workdir)), disturbed.whole_steps(workdir)
  said = f'exit {code} after step {steps}, saved {max(whole, default=0)}'
  if code not in (75, 0):
    raise AssertionError(said)
  if steps != max(whole, default=0):
    raise AssertionError(f'not all is saved: {said}')
  return said


def stick(workdir: pathlib.Path, cache: pathlib.Path, draw: random.Random, kind: str) -> str:
  """A run that hangs is gone within 30 s."""
  marker, at = workdir.with_suffix('.marker'), draw.randrange(5, 15)
  through = (str(disturbed.ROOT / 'tests/hang.py'), kind, str(at), str(marker))
  flags = ('--config.faults.stuck_seconds=8', '--config.faults.stuck_factor=1')
  with disturbed.start(workdir, cache, *flags, through=through) as process:
    disturbed.wait_for(marker.exists, process, 0.05)
    began = time.monotonic()
    code = process.wait(timeout=120)
    took = time.monotonic() - began
  stacks = [path.read_text() for path in workdir.glob('stuck-*.txt')]
  said = f'{kind} in step {at}: gone after {took:.1f} s, exit {code}, {len(stacks)} file of stacks'
  if took > 30 or code != (75 if kind == 'asleep' else -signal.SIGKILL) or 'hang.py' not in ''.join(stacks):
    raise AssertionError(said)
  return said


def matrix(given: argparse.Namespace, folder: pathlib.Path) -> bool:
  """Runs every case; whether all ended the same."""
  cache, draw = folder / 'cache', random.Random(given.seed)
  expected = disturbed.run_to_the_end(folder / 'whole', cache)
  began = time.monotonic()
  assert disturbed.run_to_the_end(folder / 'again', cache) == expected, 'the same command gives the same run twice'
  seconds = time.monotonic() - began
  print(f'undisturbed: {expected}, {seconds:.1f} s', flush=True)
  cases = [
    *((f'kill {i}', lambda w, i=i: kill(w, cache, draw, seconds, i % 2 == 0)) for i in range(given.kills)),
    *((f'term {i}', lambda w: stop(w, cache, draw, seconds)) for i in range(given.terms)),
    *((f'stuck {i}', lambda w, i=i: stick(w, cache, draw, ('asleep', 'locked')[i % 2])) for i in range(given.stuck)),
  ]
  good = 0
  for name, case in cases:
    workdir = folder / name.replace(' ', '')
    try:
      said = case(workdir)
      found = disturbed.run_to_the_end(workdir, cache)
      same = found == expected
    except AssertionError as error:
      said, same = str(error), False
    good += same
    print(f'{name}: {said}: {"same end" if same else "FAILED"}', flush=True)
  print(f'{good} of {len(cases)} disturbed runs ended the same')
  damaged = damage.matrix(folder / 'whole', folder, given.flips, given.seed) if given.flips else {}
  print(json.dumps(damaged))
  return good == len(cases) and all(count[0] == count[1] for count in damaged.values())


if __name__ == '__main__':
  jax.config.update('jax_platforms', 'cpu')
  parser = argparse.ArgumentParser()
  for what in ('kills', 'terms', 'flips', 'stuck', 'seed'):
    parser.add_argument(f'--{what}', type=int, default=0)
  with tempfile.TemporaryDirectory() as scratch:
    sys.exit(0 if matrix(parser.parse_args(), pathlib.Path(scratch)) else 1)
