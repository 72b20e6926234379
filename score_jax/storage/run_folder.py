# SPDX-License-Identifier: Apache-2.0
"""The run folder: what a run writes, and the refusal to write into another run's.

config.json      the configuration as run, the run's identity, its id for trackers, its chat template
metrics.jsonl    one line a step
rows/            conversations of evaluations and of some training steps (reporting/rows.py)
report.html      all of it, to look at
eval.json        base, final, and last where it is another, each greedy and sampled
checkpoints/     storage/checkpoints.py
damaged/         checkpoints that are
stuck-*.txt      what a run that hung was doing
offline/         sampled once, trained from: the base's first attempts, conversations
hf/              the final policy as an HF folder, with its model card
tensorboard/     of trackers, as wandb/ (reporting/trackers.py)

At an address these are in several places (stores.py).
"""

from collections.abc import Iterator
import contextlib
import hashlib
import json
import os
import pathlib
from typing import Any
import uuid

from absl import logging

import score_jax
from score_jax import files
from score_jax.errors import ConfigError
from score_jax.faults import lock, secrets
from score_jax.storage import integrity, stores
from score_jax.storage.stores import Parts

_OWN = ('config.json.partial', lock.NAME, 'starts')  # a kill before config.json leaves them


class RunFolder:
  """Paths and small files of one run.

  Attributes:
    store: the folder or address of --workdir.
    path: the local folder of the other paths, whose files end at `store.root`.
  """

  def __init__(self, workdir: str | os.PathLike):
    self.store = stores.store_of(workdir)
    self.path = self.store.local
    self.config = self.path / 'config.json'
    self.metrics = self.path / 'metrics.jsonl'
    self.eval = self.path / 'eval.json'
    self.offline = self.path / 'offline'
    self.hf = self.path / 'hf'
    self.rows = self.path / 'rows'
    self.report = self.path / 'report.html'
    self._waiting = ''  # lines that the disk has not taken

  def claim(self, config: dict[str, Any], identity: dict[str, Any], chat_template: str = '') -> str:
    """Takes the folder until the process ends, for a new run or one of the same identity (JSON).

    `chat_template` is noted for exports.

    Returns what the other hosts give to `store.join`.

    Raises:
      ConfigError: another run's folder, or a process at work in it. Nothing is changed.
    """
    identity = secrets.redacted_tree(json.loads(json.dumps(identity)))
    self._check_claim(identity)
    start = self.store.take()
    before = self._check_claim(identity)  # it may have been claimed meanwhile
    run_id = before.get('run_id') if before.get('identity') == identity else ''
    written = dict(
      version=score_jax.__version__,
      run_id=run_id or new_id(identity),
      config=secrets.redacted_tree(config),
      identity=identity,
      chat_template=chat_template,
    )
    files.write_json(self.config, written)
    self.store.write(self.store.root / 'config.json', self.config.read_bytes())
    return start

  def _check_claim(self, ours: dict[str, Any]) -> dict[str, Any]:
    """Returns the content of config.json, {} without one; raises as `claim`."""
    root = self.store.root
    for path in (self.path, *self.path.parents):
      if path.exists() and not path.is_dir():
        raise ConfigError(f'--workdir={path} is a file; name a folder')
      if path.is_symlink() and not path.exists():
        raise ConfigError(f'--workdir={path} is a link to what is not there; name a folder')
    names = self.store.names(root)
    if 'config.json' in names:
      written, begun = self.read_config(), self.has_begun()
      if begun and 'version' not in written:
        raise ConfigError(
          f'run folder {root} was begun by score_jax 0.1, whose fields have other names: go on with it by that '
          f'version, or begin another --workdir with --config.init_from={root}'
        )
      if begun and (theirs := written['identity']) != ours:
        raise ConfigError(
          f'run folder {root} belongs to another run: {"; ".join(differences(theirs, ours)[:5])}. '
          'Choose another --workdir, or repeat the command that began it'
        )
      return written
    if any(name not in _OWN for name in names) or integrity.sealed_steps(self.store):
      raise ConfigError(f'run folder {root} is not empty and holds no config.json; choose another --workdir')
    return {}

  def has_begun(self) -> bool:
    """Whether there is more to lose than a configuration."""
    results = (self.metrics, self.eval, self.offline)
    return any(path.exists() for path in results) or any(map(self.store.names, self.store.roots()))

  def read_config(self) -> dict[str, Any]:
    """Returns the content of config.json; ConfigError if this is not a run folder."""
    root = self.store.root
    try:
      content = json.loads(self.store.read(root / 'config.json'))
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
      raise ConfigError(f'{root} is not a run folder: config.json cannot be read ({error})') from error
    if not isinstance(content, dict) or not {'config', 'identity'} <= set(content):
      raise ConfigError(f'{root} is not a run folder: its config.json is not that of a run')
    return content

  def fetch(self) -> pathlib.Path:
    """Returns `path`, with the newest files of a run at an address."""
    steps = integrity.sealed_steps(self.store)
    if steps:
      self.store.restore(integrity.parts(self.store, steps[max(steps)]))
    self.store.fetch_results()
    return self.path

  def return_to(self, step: int, parts: Parts) -> None:
    """Makes the files agree with a step (0: the run begins), whose `parts` `publish` returned."""
    self.store.restore(parts)
    self.cut_metrics(step)
    _cut(self.rows / 'train.jsonl', step)

  def cut_metrics(self, step: int) -> None:
    """Drops the metrics of steps after `step`, and a half-written last line."""
    _cut(self.metrics, step)

  def publish(self, step: int) -> Parts:
    """Publishes all files; returns their parts, for the step's manifest.

    Raises:
      OSError: the disk or the store does not take them.
    """
    self.sync_metrics()  # no checkpoint may be newer
    return self.store.publish(step)

  def add_metrics(self, line: dict[str, Any]) -> None:
    """Appends a step's line, which waits for the next if the disk does not take it."""
    self._waiting += json.dumps(secrets.redacted_tree(line)) + '\n'
    try:
      self._write_waiting()
    except OSError as error:
      logging.warning('%s cannot be written (%s); the line waits', self.metrics, error.strerror)

  def sync_metrics(self) -> None:
    """Makes the lines so far durable; OSError if the disk fails."""
    self._write_waiting()
    if self.metrics.exists():
      files.fsync(self.metrics)

  def last_metrics(self) -> dict[str, Any]:
    """Returns the newest line; {} if there is none."""
    lines = self.metrics.read_text().splitlines() if self.metrics.exists() else []
    return json.loads(lines[-1]) if lines else {}

  def _write_waiting(self) -> None:
    if not self._waiting:
      return
    with self.metrics.open('ab', buffering=0) as file:
      size = file.tell()
      try:
        rest = self._waiting.encode()
        while rest:
          rest = rest[file.write(rest) :]
      except OSError:
        file.truncate(size)  # no half line before the next one
        raise
    self._waiting = ''

  def read_eval(self) -> dict[str, Any]:
    """Returns the content of eval.json; {} if there is none."""
    return json.loads(self.eval.read_text()) if self.eval.exists() else {}

  def write_eval(self, results: dict[str, Any]) -> None:
    files.write_json(self.eval, secrets.redacted_tree(results))


def new_id(identity: dict[str, Any]) -> str:
  """Returns a run's id for trackers: its first half says what runs of one identity share, its second is drawn."""
  shared = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
  return f'{shared[:8]}-{uuid.uuid4().hex[:8]}'


def _cut(path: pathlib.Path, step: int) -> None:
  """Cuts JSON lines before the first that is of a later step, or not whole."""
  if not path.exists():
    return
  size = 0
  with path.open('rb+') as file:
    with contextlib.suppress(ValueError, KeyError, TypeError):
      for line in file:
        if not line.endswith(b'\n') or json.loads(line)['step'] > step:
          break
        size += len(line)
    file.truncate(size)
    os.fsync(file.fileno())


def differences(theirs: Any, ours: Any) -> list[str]:
  """Compares two JSON trees: 'path was THEIRS, is now OURS'."""
  then, now = dict(_leaves(theirs)), dict(_leaves(ours))
  return [
    f'{path} was {_shown(then, path)}, is now {_shown(now, path)}'
    for path in sorted(then | now)
    if path not in then or path not in now or then[path] != now[path]
  ]


def _shown(leaves: dict[str, Any], path: str) -> str:
  return repr(leaves[path]) if path in leaves else 'not set'


def _leaves(tree: Any, path: str = '') -> Iterator[tuple[str, Any]]:
  children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
  if not children or not tree:
    yield path, tree
  for name, child in children:
    yield from _leaves(child, f'{path}.{name}'.strip('.'))
