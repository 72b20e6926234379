"""Starts a run again when it was stopped: `python -m score_jax.supervise --restarts=5 -- python -m score_jax.main ...`.

After exit code 75, or death by a signal, the command is run again, later and later while it makes no progress. Progress
is a newer whole checkpoint, or a further step in metrics.jsonl, in the --workdir of the command. Other exit codes end
it: they would come again. Its own exit code is the command's; 69 after --restarts restarts without progress; 75 if it
was stopped itself. docs/faults.md has the table.
"""

import argparse
import json
import pathlib
import random
import signal
import subprocess
import sys
import time

from score_jax.errors import EXIT_CODES
from score_jax.faults import secrets

_AGAIN, _GAVE_UP = 75, 69
_LONGEST_WAIT = 600.0  # seconds
_SHELL = 128  # above it: a shell's way to say that a signal ended what it ran
_PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Supervisor:
  """Runs one command until it ends for good."""

  def __init__(self, command: list[str], restarts: int, backoff: float):
    self._command, self._restarts, self._backoff = command, restarts, backoff
    self._workdir = workdir_of(command)
    self._child: subprocess.Popen | None = None
    self._stopped: int | None = None  # the signal that asked us to end

  def run(self) -> int:
    """The exit code."""
    for number in _PASSED_ON:
      signal.signal(number, self._pass_on)
    best, without = progress(self._workdir), 0
    while True:
      code = self._once()
      if self._stopped is not None:
        return code if 0 <= code <= _SHELL else _AGAIN
      if 0 <= code <= _SHELL and code != _AGAIN:
        return code
      reached = progress(self._workdir)
      without = 0 if any(now > before for now, before in zip(reached, best, strict=True)) else without + 1
      best = tuple(map(max, reached, best))
      how = f'signal {-code}' if code < 0 else f'exit code {code}'
      if without > self._restarts:
        _say(f'gave up: {without} times without progress (last: {how})')
        return _GAVE_UP
      if not self._wait(self._delay(without), how):
        return _AGAIN

  def _once(self) -> int:
    # A group of its own: Ctrl-C comes here alone, and is passed on once.
    self._child = subprocess.Popen(self._command, process_group=0)
    if self._stopped is not None:  # it came while the command was being started
      self._child.send_signal(self._stopped)
    code = self._child.wait()
    self._child = None
    return code

  def _delay(self, without: int) -> float:
    """Seconds: doubled with every restart without progress, and a random half of it, so that hosts don't meet."""
    return min(_LONGEST_WAIT, self._backoff * 2 ** max(0, without - 1)) * random.uniform(0.5, 1.0)

  def _wait(self, seconds: float, how: str) -> bool:
    """False: a signal came meanwhile."""
    _say(f'{how}; again in {seconds:.1f} s')
    until = time.monotonic() + seconds
    while self._stopped is None and time.monotonic() < until:
      time.sleep(min(0.1, max(0.0, until - time.monotonic())))
    return self._stopped is None

  def _pass_on(self, number: int, frame: object) -> None:
    del frame
    if number in _ENDING:
      self._stopped = number
    if (child := self._child) is not None and child.poll() is None:
      child.send_signal(number)


def workdir_of(command: list[str]) -> pathlib.Path | None:
  """The run folder of a command, as main.py has it."""
  given = {}
  for word, after in zip(command, [*command[1:], ''], strict=True):
    for name in ('workdir', 'config'):
      if word in (f'--{name}', f'-{name}'):
        given[name] = after
      elif word.startswith((f'--{name}=', f'-{name}=')):
        given[name] = word.partition('=')[2]
  if given.get('workdir'):
    return pathlib.Path(given['workdir'])
  return pathlib.Path('runs') / pathlib.Path(given['config']).stem if given.get('config') else None


def progress(workdir: pathlib.Path | None) -> tuple[int, int]:
  """(newest whole checkpoint, last step of metrics.jsonl); 0 where there is none."""
  if workdir is None:
    return 0, 0
  whole = [int(path.parent.name) for path in workdir.glob('checkpoints/[0-9]*/manifest.json')]
  step = 0
  try:
    lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  except OSError:
    lines = []
  for line in lines[-2:]:  # the last may be half a line
    try:
      step = max(step, int(json.loads(line)['step']))
    except (ValueError, KeyError, TypeError):
      continue
  return max(whole, default=0), step


def _say(text: str) -> None:
  print(f'supervise: {secrets.redacted(text)}', file=sys.stderr, flush=True)


def main(arguments: list[str]) -> int:
  codes = '; '.join(f'{code} {what}' for code, what in EXIT_CODES.items())
  parser = argparse.ArgumentParser(prog='score_jax.supervise', description=__doc__.split('\n')[0], epilog=codes)
  parser.add_argument('--restarts', type=int, required=True, help='restarts without progress before it gives up')
  parser.add_argument('--backoff', type=float, default=5.0, help='seconds before the first restart')
  parser.add_argument('command', nargs=argparse.REMAINDER, help='-- COMMAND ...')
  try:
    given = parser.parse_args(arguments)
  except SystemExit as error:
    return 78 if error.code else 0
  command = given.command[1:] if given.command[:1] == ['--'] else given.command
  if not command or given.restarts < 0 or given.backoff < 0:
    print('error: give --restarts=M (0 or more), --backoff=SECONDS and, after --, a command', file=sys.stderr)
    return 78
  try:
    return Supervisor(command, given.restarts, given.backoff).run()
  except OSError as error:
    print(f'error: {secrets.redacted(f"{command[0]} can not be started: {error.strerror}")}', file=sys.stderr)
    return 78


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
