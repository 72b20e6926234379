"""Runs jobs as processes, several at once, in pieces: what is stopped goes on with the same command.

A job is done when its command has ended with 0 and its outputs are there; a record beside its log says so, with the
command and the seconds it took. A job that fails is named, and the others go on, but for those that need it.
"""

from collections.abc import Callable
from collections.abc import Sequence
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
_LOOK = 0.1  # seconds between two looks at the processes
_GRACE = 180.0  # seconds that jobs have to save when they are asked to stop
_TRIES = 3  # of a job that was hindered from outside without being asked to stop


@dataclasses.dataclass
class _Active:
  """A job under way."""

  job: Job
  process: subprocess.Popen
  begun: float
  gpu: str  # that it sees alone; '': whatever there is


@dataclasses.dataclass(frozen=True)
class Outcome:
  """Names of jobs."""

  done: tuple[str, ...]
  failed: tuple[str, ...]
  blocked: tuple[str, ...]  # they need one that failed
  left: tuple[str, ...]  # to be gone on with


class Records:
  """What is known of jobs that have begun, and their logs: WORK/jobs/NAME.json and NAME.log."""

  def __init__(self, work: pathlib.Path):
    self._folder = work / 'jobs'

  def path(self, job: str, ending: str) -> pathlib.Path:
    return self._folder / f'{job.replace("/", "-")}.{ending}'

  def read(self, job: str) -> dict[str, Any]:
    """{} of a job that has not begun."""
    path = self.path(job, 'json')
    return json.loads(path.read_text()) if path.exists() else {}

  def write(self, job: str, record: dict[str, Any]) -> None:
    self._folder.mkdir(parents=True, exist_ok=True)
    files.write_json(self.path(job, 'json'), record)


def is_done(job: Job, records: Records) -> bool:
  """Whether a job has ended well and its outputs are whole.

  Raises:
    ConfigError: it was begun by another command.
  """
  record = records.read(job.name)
  if record and record['command'] != list(job.command)[1:]:
    theirs, ours = set(record['command']), set(job.command[1:])
    raise ConfigError(
      f'job {job.name} in {job.folder} was begun with {" ".join(sorted(theirs - ours)) or "less"}, and the suite now '
      f'has {" ".join(sorted(ours - theirs)) or "less"}; undo that, choose another --out, or delete that folder and '
      f'{records.path(job.name, "json")}'
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
    seconds: after which all are asked to stop; 0: never.
    environment: of the processes.
    gpus: numbers of the devices that jobs are spread over, each job on one; (): every job sees all.
    say: called with a line at each event.
  """
  records = Records(work)
  done = {job.name for job in jobs if is_done(job, records)}
  failed: set[str] = set()
  tries: dict[str, int] = {}
  active: list[_Active] = []
  until = time.monotonic() + seconds if seconds else float('inf')

  def ready() -> list[Job]:
    busy = {one.job.name for one in active}
    return [job for job in jobs if job.name not in done | failed | busy and set(job.needs) <= done]

  def stopping() -> bool:
    return signals.requested() or time.monotonic() >= until

  with signals.deferred(_GRACE, lambda: _kill(active)):
    while not stopping():
      for job in ready()[: at_once - len(active)]:
        active.append(_start(job, records, environment, _idlest(gpus, active)))
        say(f'{job.name} begins')
      if not active:
        break
      time.sleep(_LOOK)
      for one in [one for one in active if one.process.poll() is not None]:
        active.remove(one)
        name, code = one.job.name, _ended(one, records)
        if code == 0 and is_done(one.job, records):
          done.add(name)
          say(f'{name} is done ({records.read(name)["seconds"]:.0f} s); {len(done)} of {len(jobs)}')
          continue
        tries[name] = tries.get(name, 0) + 1
        if code != _AGAIN or tries[name] >= _TRIES:
          failed.add(name)
          say(
            f'{name} failed ({"its outputs are missing" if code == 0 else f"exit code {code}"}): '
            f'{_last_line(records.path(name, "log"))}'
          )
    for one in active:
      one.process.send_signal(signal.SIGTERM)
    _wait(active, time.monotonic() + _GRACE)
    for one in active:
      _ended(one, records)
      say(f'{one.job.name} was stopped')
  blocked = _blocked(jobs, failed)
  left = tuple(job.name for job in jobs if job.name not in done | failed | blocked)
  order = {job.name: i for i, job in enumerate(jobs)}
  return Outcome(*(tuple(sorted(names, key=order.get)) for names in (done, failed, blocked)), left)


def _blocked(jobs: Sequence[Job], failed: set[str]) -> set[str]:
  """Jobs that need a failed one, or one that does."""
  found: set[str] = set()
  for job in jobs:
    if set(job.needs) & (failed | found):
      found.add(job.name)
  return found - failed


def _idlest(gpus: Sequence[str], active: Sequence[_Active]) -> str:
  return min(gpus, key=lambda gpu: sum(one.gpu == gpu for one in active), default='')


def _start(job: Job, records: Records, environment: dict[str, str], gpu: str) -> _Active:
  if job.fresh and job.folder.exists():
    shutil.rmtree(job.folder)
  job.folder.parent.mkdir(parents=True, exist_ok=True)
  record = records.read(job.name)
  pieces = record.get('pieces', 0) + 1
  records.write(
    job.name, dict(command=list(job.command)[1:], done=False, seconds=record.get('seconds', 0.0), pieces=pieces)
  )
  with records.path(job.name, 'log').open('ab') as log:
    # A group of its own: Ctrl-C comes to the suite alone, which passes it on once.
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
  """Notes how a process has ended; its exit code, 75 for a signal's."""
  code = one.process.returncode
  record = records.read(one.job.name)
  record['seconds'] = round(record['seconds'] + time.monotonic() - one.begun, 1)
  record['done'] = code == 0
  records.write(one.job.name, record)
  return _AGAIN if code < 0 else code


def _wait(active: Sequence[_Active], until: float) -> None:
  """For processes that were asked to stop; kills those that don't."""
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
  lines = [line for line in log.read_text(errors='replace').replace('\r', '\n').splitlines() if line.strip()]
  return f'{lines[-1].strip()[:300]} (the rest: {log})' if lines else f'it said nothing ({log})'


def environment(at_once: int, inherited: dict[str, str]) -> dict[str, str]:
  """Of jobs that share a device: none takes all of its memory. What the caller has set stays."""
  if at_once == 1:
    return dict(inherited)
  share = f'{0.9 / at_once:.3f}'
  return {'XLA_PYTHON_CLIENT_PREALLOCATE': 'false', 'XLA_PYTHON_CLIENT_MEM_FRACTION': share, **inherited}
