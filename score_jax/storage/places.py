"""Where a run's checkpoints are, if that is not its own folder (config.checkpoint.path), and who may write there.

PLACE/checkpoints/   the steps, each with the run's small files (carried.py)
PLACE/damaged/       steps that were found damaged
PLACE/owner.json     the process that writes there
PLACE/hf/, ...       copies of what the run has made, once it has ended
"""

import contextlib
import json
import os
import pathlib
import sys
import time
from typing import Any
import uuid

from score_jax.errors import TakenOverError
from score_jax.errors import TryAgainError
from score_jax.faults import lock
from score_jax.storage import addresses
from score_jax.storage import repairs

_RESULTS = ('config.json', 'metrics.jsonl', 'eval.json', 'report.html')


class Place:
  """A folder, or an address of an object store, that a run's checkpoints are kept in."""

  def __init__(self, path: str):
    self.root = repairs.absolute(path)
    self.checkpoints = self.root / 'checkpoints'
    self.damaged = self.root / 'damaged'
    self._token = ''

  def __str__(self) -> str:
    return os.fspath(self.root)

  @property
  def is_address(self) -> bool:
    return addresses.is_address(self.root)

  def probe(self) -> None:
    """Whether it can be read.

    Raises:
      ConfigError: a package is missing, or the store lets nobody in.
      StoreError: it does not answer.
    """
    if self.is_address:
      addresses.probe(self.root)

  def take(self) -> None:
    """Makes this process the owner. Whoever was it before stops at its next save: the newest wins.

    A machine that was taken away can't give back what it owned, and nothing here tells it from one that still runs.
    """
    if before := self._owner():
      ours = lock.ourselves()
      if before.get('host') != ours['host'] or lock.is_alive(before.get('pid')):
        print(
          f'warning: {self} was in use by process {before.get("pid")} on {before.get("host")} since '
          f'{before.get("since")}; if that still runs, it stops at its next save',
          file=sys.stderr,
          flush=True,
        )
    self._token = uuid.uuid4().hex
    about = lock.ourselves() | dict(since=time.strftime('%Y-%m-%dT%H:%M:%S%z'), token=self._token)
    with addresses.errors(self.root):
      if not self.is_address:
        self.root.mkdir(parents=True, exist_ok=True)
      # Old steps are deleted: whether that is allowed is known before anything is worth deleting.
      tried = self.root / f'{self._token}.tried'
      tried.write_text('')
      tried.unlink()
      (self.root / 'owner.json').write_text(json.dumps(about) + '\n')

  def check(self) -> None:
    """Whether this process is still the owner: before anything is written or deleted.

    Raises:
      TakenOverError: another process has taken the place since.
      TryAgainError: owner.json is gone, and with it what keeps two processes apart.
    """
    if not self._token:
      return
    if not (owner := self._owner()):
      raise TryAgainError(
        f'{self.root / "owner.json"} is gone or unreadable: somebody cleared it away, and nothing keeps two runs apart '
        'there. Run the same command again, which writes it anew'
      )
    if owner.get('token') != self._token:
      raise TakenOverError(
        f'config.checkpoint.path = {str(self)!r} was taken over by process {owner.get("pid", "?")} on '
        f'{owner.get("host", "?")} at {owner.get("since", "?")}, which goes on with the run; this one stops. Nothing '
        'that was saved is lost'
      )

  def _owner(self) -> dict[str, Any]:
    """What is known of the owner; {}: there is none."""
    try:
      with addresses.errors(self.root):
        found = json.loads((self.root / 'owner.json').read_text())
    except (FileNotFoundError, ValueError):
      return {}
    return found if isinstance(found, dict) else {}

  def publish(self, folder: pathlib.Path) -> None:
    """Copies there what a run has made. A model's config.json comes last: without it hf/ is not a model yet."""
    self.check()
    with contextlib.suppress(FileNotFoundError), addresses.errors(self.root):
      (self.root / 'hf' / 'config.json').unlink()  # of another policy, if these are not the first results
    paths = [folder / name for name in _RESULTS] + sorted(folder.glob('rows/*.jsonl*'))
    paths += sorted((folder / 'hf').iterdir(), key=lambda path: (path.name == 'config.json', path.name))
    for path in paths:
      if path.is_file():
        addresses.upload(path, self.root / path.relative_to(folder).as_posix())
