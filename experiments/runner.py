# SPDX-License-Identifier: Apache-2.0
"""Runs jobs as processes, several at once; what is stopped is resumed by the same command.

A job is done when its command has ended with 0 and its outputs are there. When one fails, all go on but those that
need it.
"""

import collections
from collections.abc import Callable, Sequence
import dataclasses
import json
import pathlib
import shutil
import signal
import subprocess
import time
from typing import Any

from experiments.plan import Job
from score_jax import files
from score_jax.errors import ConfigError
from score_jax.faults import signals

_AGAIN = 75
_LOOK = 0.1  # seconds between looks at the processes
_GRACE = 180.0  # seconds to save in when asked to stop
_TRIES = 3  # of a job that was hindered from outside


@dataclasses.dataclass
class _Active:
  job: Job
  process: subprocess.Popen
  begun: float
  gpu: str  # the only one that it sees; '': all


@dataclasses.dataclass(frozen=True)
class Outcome:
  """Names of jobs, by how they ended."""

  done: tuple[str, ...]
  failed: tuple[str, ...]
  blocked: tuple[str, ...]  # they need one that failed
  left: tuple[str, ...]  # not begun, or stopped


class Records:
  """Records of jobs that have begun: WORK/jobs/NAME.json, beside NAME.log."""

  def __init__(self, work: pathlib.Path):
    self._folder = work / 'jobs'

  def path(self, job: str, ending: str) -> pathlib.Path:
    return self._folder / f'{job.replace("/", "-")}.{ending}'

  def read(self, job: str) -> dict[str, Any]:
    """Returns a job's record; {} if it has not begun."""
    path = self.path(job, 'json')
    return json.loads(path.read_text()) if path.exists() else {}

  def write(self, job: str, record: dict[str, Any]) -> None:
    self._folder.mkdir(parents=True, exist_ok=True)
    files.write_json(self.path(job, 'json'), record)


def is_done(job: Job, records: Records) -> bool:
  """Returns whether a job has ended well, with its outputs.

  Raises:
    ConfigError: another command began it.
  """
  record = records.read(job.name)
  if record and record['command'] != list(job.command)[1:]:
    theirs, ours = set(record['command']), set(job.command[1:])
    before, now = (' '.join(sorted(more)) or 'less' for more in (theirs - ours, ours - theirs))
    raise ConfigError(
      f'job {job.name} in {job.folder} was begun with {before}, and the suite now has {now}; undo that, choose '
      f'another --out, or delete that folder and {records.path(job.name, "json")}'
    )
  return bool(record.get('done')) and all((job.folder / name).exists() for name in job.outputs)


def run(
  jobs: Sequence[Job],
  work: pathlib.Path,
  *,
  at_once: int,
  seconds: float,
  environment: dict[str, str],
  gpus: Sequence[str] = (),
  say: Callable[[str], None],
) -> Outcome:
  """Runs what is not done yet.

  Args:
    jobs: each after those it needs.
    work: folder of records and logs.
    at_once: processes.
    seconds: until all are asked to stop; 0: never.
    environment: of the processes.
    gpus: numbers of the devices, of which each job gets one; (): all.
    say: called with a line at each event.
  """
  records, tries = Records(work), collections.Counter()
  done, failed = {job.name for job in jobs if is_done(job, records)}, set()
  active: list[_Active] = []
  until = time.monotonic() + seconds if seconds else float('inf')
  with signals.deferred(_GRACE, lambda: _kill(active)):
    while not signals.requested() and time.monotonic() < until:
      begun = done | failed | {one.job.name for one in active}
      ready = [job for job in jobs if job.name not in begun and set(job.needs) <= done]
      for job in ready[: at_once - len(active)]:
        gpu = min(gpus, key=lambda gpu: sum(one.gpu == gpu for one in active), default='')
        active.append(_start(job, records, environment, gpu))
        say(f'{job.name} begins')
      if not active:
        break
      time.sleep(_LOOK)
      for one in [one for one in active if one.process.poll() is not None]:
        active.remove(one)
        name, code = one.job.name, _ended(one, records)
        tries[name] += 1
        if code == 0 and is_done(one.job, records):
          done.add(name)
          say(f'{name} is done ({records.read(name)["seconds"]:.0f} s); {len(done)} of {len(jobs)}')
        elif code != _AGAIN or tries[name] >= _TRIES:
          failed.add(name)
          reason = f'exit code {code}' if code else 'its outputs are missing'
          say(f'{name} failed ({reason}): {_last_line(records.path(name, "log"))}')
    _stop(active)
    for one in active:
      _ended(one, records)
      say(f'{one.job.name} was stopped')
  return _outcome(jobs, done, failed)


def _outcome(jobs: Sequence[Job], done: set[str], failed: set[str]) -> Outcome:
  kinds: dict[str, list[str]] = dict(done=[], failed=[], blocked=[], left=[])
  for job in jobs:
    ended = 'done' if job.name in done else 'failed' if job.name in failed else ''
    blocked = set(job.needs) & {*kinds['failed'], *kinds['blocked']}
    kinds[ended or ('blocked' if blocked else 'left')].append(job.name)
  return Outcome(**{kind: tuple(names) for kind, names in kinds.items()})


def _start(job: Job, records: Records, environment: dict[str, str], gpu: str) -> _Active:
  if job.fresh and job.folder.exists():
    shutil.rmtree(job.folder)
  job.folder.parent.mkdir(parents=True, exist_ok=True)
  record = dict(seconds=0.0, pieces=0) | records.read(job.name)
  record |= dict(command=list(job.command)[1:], done=False, pieces=record['pieces'] + 1)
  records.write(job.name, record)
  with records.path(job.name, 'log').open('ab') as log:
    # In another process group: Ctrl-C comes to the suite alone, which passes it on.
    process = subprocess.Popen(
      job.command,
      stdout=log,
      stderr=log,
      stdin=subprocess.DEVNULL,
      env=environment | (dict(CUDA_VISIBLE_DEVICES=gpu) if gpu else {}),
      process_group=0,
    )
  return _Active(job, process, time.monotonic(), gpu)


def _ended(one: _Active, records: Records) -> int:
  """Records the end of a process; returns its exit code, 75 after a signal."""
  code = one.process.returncode
  record = records.read(one.job.name)
  seconds = round(record['seconds'] + time.monotonic() - one.begun, 1)
  records.write(one.job.name, record | dict(seconds=seconds, done=code == 0))
  return _AGAIN if code < 0 else code


def _stop(active: Sequence[_Active]) -> None:
  for one in active:
    one.process.send_signal(signal.SIGTERM)
  until = time.monotonic() + _GRACE
  while any(one.process.poll() is None for one in active) and time.monotonic() < until:
    time.sleep(_LOOK)
  _kill(active)
  for one in active:
    one.process.wait()


def _kill(active: Sequence[_Active]) -> None:
  for one in active:
    if one.process.poll() is None:
      one.process.kill()


def _last_line(log: pathlib.Path) -> str:
  lines = [line for line in log.read_text(errors='replace').splitlines() if line.strip()]
  return f'{lines[-1].strip()[:300]} (the rest: {log})' if lines else f'its log is empty ({log})'


def environment(at_once: int, inherited: dict[str, str]) -> dict[str, str]:
  """Returns the environment of jobs that share a device's memory. What is set stays."""
  if at_once == 1:
    return dict(inherited)
  share = f'{0.9 / at_once:.3f}'
  return {'XLA_PYTHON_CLIENT_PREALLOCATE': 'false', 'XLA_PYTHON_CLIENT_MEM_FRACTION': share, **inherited}
