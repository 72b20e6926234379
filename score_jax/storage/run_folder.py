"""The run folder: what a run writes, and the refusal to write into another run's.

config.json      the configuration as run, and the run's identity
metrics.jsonl    one line a step
rows/            conversations of evaluations and, some, of training steps (reporting/rows.py)
report.html      all of it, to look at
eval.json        base, final (and last, where it is not the final), each greedy and sampled
checkpoints/     storage/checkpoints.py; or elsewhere, with copies of some of these files (places.py, carried.py)
damaged/         checkpoints that were found damaged
stuck-*.txt      what a run that was ended for hanging was doing
offline/         what was sampled once and trained from: first attempts of the base, conversations for supervision
hf/              the final policy as an HF folder
"""

import hashlib
import json
import os
import pathlib
import time
from typing import Any

from absl import logging

from score_jax.errors import ConfigError
from score_jax.faults import lock
from score_jax.faults import secrets
from score_jax.storage import carried
from score_jax.storage import manifests
from score_jax.storage import repairs
from score_jax.storage.places import Place

_LOOKS = 30  # seconds until a host sees what another has written
_OWN = ('config.json.partial', lock.NAME)  # left by a kill before there was a config.json


class RunFolder:
  """Paths and small files of one run.

  Where its checkpoints are in a `place` elsewhere, the folder may be a new one, of a machine that took over: what it
  lacks is then in the newest step there, is read from there, and is written here once the run has claimed the folder.
  """

  def __init__(self, path: str | os.PathLike, place: Place | None = None):
    self.path = pathlib.Path(path)
    self.place = place
    self.config = self.path / 'config.json'
    self.metrics = self.path / 'metrics.jsonl'
    self.eval = self.path / 'eval.json'
    self.checkpoints = place.checkpoints if place else self.path / 'checkpoints'
    self.offline = self.path / 'offline'
    self.damaged = place.damaged if place else self.path / 'damaged'
    self.hf = self.path / 'hf'
    self._waiting: list[str] = []  # lines of metrics.jsonl that the disk has not taken
    self._carried: dict[str, bytes] = {}  # what the newest step of the place has of this run
    self._lacks = False  # the folder is without them
    self.rows = self.path / 'rows'
    self.report = self.path / 'report.html'

  def claim(self, config: dict[str, Any], identity: dict[str, Any]) -> None:
    """Takes the folder for this run, or goes on with it, and locks it until the process ends.

    Raises:
      ConfigError: it belongs to another run, and the message names the first fields that differ; or another process is
        at work in it. Nothing is changed.
    """
    identity = secrets.redacted_tree(json.loads(json.dumps(identity)))
    self._check_claim(identity)
    self.path.mkdir(parents=True, exist_ok=True)
    lock.take(self.path)
    if self.place:
      self.place.take()
      self.look()  # the owner before us may have saved another step
    self._check_claim(identity)  # it may have been claimed meanwhile
    if self._lacks:
      self._arrive()
    write_json(self.config, dict(config=secrets.redacted_tree(config), identity=identity))

  def look(self) -> None:
    """Looks what the place has of this run, and whether the folder lacks it."""
    step, self._carried = carried.newest(self.checkpoints)
    lines = self._metrics_to(step)
    self._lacks = bool(self._carried) and not (self.config.exists() and lines and json.loads(lines[-1])['step'] == step)

  def _arrive(self) -> None:
    """Writes what the folder lacks: first what makes it this run's, last what says that it lacks nothing any more."""
    order = {self.config.name: 0, self.metrics.name: 2}
    for name, data in sorted(self._carried.items(), key=lambda item: order.get(item[0], 1)):
      (self.path / name).parent.mkdir(exist_ok=True)
      write_bytes(self.path / name, data)
    logging.info('took %s from %s', ', '.join(self._carried), self.place)
    self._lacks = False

  def _check_claim(self, ours: dict[str, Any]) -> None:
    if self.path.exists() and not self.path.is_dir():
      raise ConfigError(f'--workdir={self.path} is a file; name a folder')
    if self._carried and (theirs := self._carried_config()['identity']) != ours:
      raise ConfigError(
        f'config.checkpoint.path = {str(self.place)!r} belongs to another run: '
        f'{"; ".join(differences(theirs, ours)[:5])}. Choose another path, or repeat the command that began it'
      )
    if self.config.exists():
      found = _as_config(self.config.read_bytes(), self.path)
      theirs = found['identity']
      self._check_moved(found['config'])
      if theirs != ours and self._has_begun_here():
        raise ConfigError(
          f'run folder {self.path} belongs to another run: {"; ".join(differences(theirs, ours)[:5])}. '
          'Choose another --workdir, or repeat the command that began it'
        )
    elif self.path.exists() and any(path.name not in _OWN for path in self.path.iterdir()):
      raise ConfigError(f'run folder {self.path} is not empty and holds no config.json; choose another --workdir')

  def sees(self, claimed: str) -> bool:
    """Whether the folder is the one that another host claimed, by a hash of what is in it; a network takes time."""
    for _ in range(_LOOKS):
      if self.path.is_dir() and hash_files(self.path, ('.json',)) == claimed:
        return True
      time.sleep(1)
    return False

  def _check_moved(self, config: dict[str, Any]) -> None:
    """A run whose checkpoints are looked for in the wrong place would begin again, and cut its metrics."""
    before, now = saved_at(config), str(self.place or '')
    if before != now and self.metrics.exists() and not repairs.steps(repairs.absolute(self.checkpoints)):
      raise ConfigError(
        f'config.checkpoint.path = {now!r}: there is no checkpoint, and the run in {self.path} has saved to '
        f'{before or self.path / "checkpoints"} before; name that, or begin in another --workdir'
      )

  def has_begun(self) -> bool:
    """Whether there is more to lose than the configuration of a run that stopped before its first result."""
    return self._lacks or self._has_begun_here()

  def _has_begun_here(self) -> bool:
    saved = not self.place and self.checkpoints.is_dir() and any(self.checkpoints.iterdir())
    return saved or self.metrics.exists() or self.eval.exists() or self.offline.exists()

  def read_config(self) -> dict[str, Any]:
    """config.json.

    Raises:
      ConfigError: there is none, so this is not a run folder.
    """
    if self._lacks:
      return self._carried_config()
    try:
      data = self.config.read_bytes()
    except OSError as error:
      raise ConfigError(f'{self.path} is not a run folder: {self.config.name} can not be read ({error})') from error
    return _as_config(data, self.path)

  def _carried_config(self) -> dict[str, Any]:
    return _as_config(self._carried.get(self.config.name, b''), self.checkpoints)

  def cut_metrics(self, step: int) -> None:
    """Drops the metrics of steps after `step`, which are about to be run again, and a half-written last line."""
    if self.metrics.exists():
      write_text(self.metrics, ''.join(line + '\n' for line in self._metrics_to(step)))

  def _metrics_to(self, step: int) -> list[str]:
    """The whole lines of steps up to `step`."""
    kept = []
    for line in self.metrics.read_text().splitlines() if self.metrics.exists() else []:
      try:
        if json.loads(line)['step'] <= step:
          kept.append(line)
      except ValueError:
        break
    return kept

  def small_files(self, step: int) -> dict[str, bytes]:
    """Those that go with the checkpoint of a step, by their path inside."""
    return carried.gathered(self.path, ''.join(line + '\n' for line in self._metrics_to(step)))

  def add_metrics(self, line: dict[str, Any]) -> None:
    """Appends a step's line. One that a full disk does not take waits for the next, or for `sync_metrics`."""
    self._waiting.append(json.dumps(secrets.redacted_tree(line)) + '\n')
    try:
      self._write_waiting()
    except OSError as error:
      logging.warning('%s can not be written (%s); the line waits', self.metrics, error.strerror)

  def sync_metrics(self) -> None:
    """Makes the lines so far durable: a checkpoint must not be newer than its metrics.

    Raises:
      OSError: the disk does not take them.
    """
    self._write_waiting()
    if self.metrics.exists():
      with self.metrics.open('rb') as file:
        os.fsync(file.fileno())

  def last_metrics(self) -> dict[str, Any]:
    """The newest line; {} before there is one."""
    lines = self.metrics.read_text().splitlines() if self.metrics.exists() else []
    return json.loads(lines[-1]) if lines else {}

  def _write_waiting(self) -> None:
    if not self._waiting:
      return
    with self.metrics.open('ab', buffering=0) as file:
      size = file.tell()
      try:
        rest = ''.join(self._waiting).encode()
        while rest:
          rest = rest[file.write(rest) :]
      except OSError:
        file.truncate(size)  # no half line before the next one
        raise
    self._waiting.clear()

  def read_eval(self) -> dict[str, Any]:
    """eval.json, or {} before there is one."""
    return json.loads(self.eval.read_text()) if self.eval.exists() else {}

  def write_eval(self, results: dict[str, Any]) -> None:
    """Replaces eval.json."""
    write_json(self.eval, secrets.redacted_tree(results))


def saved_at(config: dict[str, Any]) -> str:
  """config.checkpoint.path of a config.json, '' if it has none."""
  path = config.get('checkpoint', {}).get('path', '')
  return str(Place(path)) if path else ''


def _as_config(data: bytes, where: os.PathLike | str) -> dict[str, Any]:
  try:
    found = json.loads(data)
  except ValueError as error:
    raise ConfigError(f'{where} is not a run folder: config.json can not be read ({error})') from error
  if not isinstance(found, dict) or not {'config', 'identity'} <= set(found):
    raise ConfigError(f'{where} is not a run folder: its config.json is not that of a run')
  return found


def differences(theirs: Any, ours: Any, where: str = '') -> list[str]:
  """What differs between two JSON trees, as 'path: theirs there, ours here'."""
  if isinstance(theirs, dict) and isinstance(ours, dict):
    found = []
    for name in sorted(set(theirs) | set(ours)):
      path = f'{where}.{name}' if where else name
      if name not in theirs or name not in ours:
        found.append(f'{path} is {"unknown there" if name not in theirs else "unknown here"}')
      else:
        found += differences(theirs[name], ours[name], path)
    return found
  if isinstance(theirs, list) and isinstance(ours, list) and len(theirs) == len(ours):
    return [d for i, (a, b) in enumerate(zip(theirs, ours, strict=True)) for d in differences(a, b, f'{where}[{i}]')]
  return [] if theirs == ours else [f'{where} was {theirs!r}, is now {ours!r}']


def hash_files(folder: pathlib.Path, suffixes: tuple[str, ...], deep: bool = False) -> str:
  """sha256 over names and contents of the folder's files with these suffixes; `deep`: and of folders within it."""
  total = hashlib.sha256()
  for path in sorted(folder.rglob('*') if deep else folder.iterdir()):
    if path.is_file() and path.suffix in suffixes:
      with path.open('rb') as file:
        total.update(f'{path.name}:{hashlib.file_digest(file, "sha256").hexdigest()};'.encode())
  return total.hexdigest()


def write_json(path: pathlib.Path, value: Any) -> None:
  write_text(path, json.dumps(value, indent=2) + '\n')


def write_text(path: pathlib.Path, text: str) -> None:
  """Writes a file whole or not at all: a reader finds the old text or the new one."""
  write_bytes(path, text.encode())


def write_bytes(path: pathlib.Path, content: bytes) -> None:
  """As `write_text`."""
  partial = path.with_name(path.name + '.partial')
  with partial.open('wb') as file:
    file.write(content)
    file.flush()
    os.fsync(file.fileno())
  partial.replace(path)
  manifests.fsync(path.parent)
