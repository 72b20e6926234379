# SPDX-License-Identifier: Apache-2.0
"""How the seconds that hosts spend on agreeing grow with hosts: real exchanges on a stand-in of the service.

A step has those of training: the length of packed streams, the step's record, the conversations that are kept, alarms,
whether to stop. A save has those of `Checkpoints`, and hashes small files that stand for each host's shards.
"""

import contextlib
import pathlib
import tempfile
import threading
from typing import Any
from unittest import mock

from benchmarks import coordination
from benchmarks.setting import Setting
from score_jax.core_types import Stop, Verdict
from score_jax.parallel import hosts
from score_jax.reporting import rows
from score_jax.states import TrainState
from score_jax.storage import checkpoints as saves
from score_jax.storage import stores
from score_jax.storage.progress import Progress
from score_jax.training import hooks

FIELDS = ('hosts', 'steps')
_KEPT = 16  # config.report.rows
_ANSWER = 'a step of an answer, and the next. ' * 36  # characters of 300 tokens
_FILES = 2  # that a host writes
_STATE = TrainState(step=0, params=0, opt_state=0, rejected=0, rejected_in_a_row=0)


def measure(setting: Setting) -> dict[str, Any]:
  """Returns seconds by the model, messages of host 0, and bytes of all, for a step and for a save, by hosts."""
  return dict(by_hosts={str(count): figures(count, setting.steps) for count in setting.hosts})


def figures(count: int, steps: int) -> dict[str, Any]:
  plain, saving = _figures(count, steps, save=False), _figures(count, steps, save=True)
  return dict(step=plain, save={name: round(saving[name] - plain[name], 4) for name in plain})


def _figures(count: int, steps: int, save: bool) -> dict[str, float]:
  """Returns figures a step."""
  written = threading.Barrier(count)
  with tempfile.TemporaryDirectory() as folder, mock.patch.object(saves, '_open_orbax', lambda: _Orbax(written)):
    _, clients = coordination.run(count, lambda: _train(pathlib.Path(folder), steps, save))
  totals = dict(
    seconds=max(client.clock for client in clients),
    messages_of_host_0=clients[0].messages,
    megabytes_of_all=sum(client.bytes for client in clients) / 1e6,
  )
  return {name: round(figure / steps, 4) for name, figure in totals.items()}


def _train(folder: pathlib.Path, steps: int, save: bool) -> None:
  """A host's steps, without their work."""
  store = stores.store_of(folder)
  opened = saves.Checkpoints(store, keep=2) if save else contextlib.nullcontext()
  with opened as checkpoints:
    for step in range(1, steps + 1):
      _step(step)
      if checkpoints:
        checkpoints.save(_STATE, Progress(step=step), ())
        checkpoints.wait()


def _step(step: int) -> None:
  hosts.combined('the length of streams', 16384, max)
  hosts.agree(f'step {step}', dict(record={f'figure {i}': [step / 7, i / 3] for i in range(40)}))
  ours = range(hosts.index(), _KEPT, hosts.count())
  rows.from_all_hosts(f'rows of step {step}', list(ours), [_row(number, step) for number in ours])
  hosts.from_main(f'alarms of step {step}', lambda: '')
  hooks.requested(step)


def _row(number: int, step: int) -> rows.Row:
  attempt = rows.Attempt(_ANSWER, '12', Verdict.CORRECT, Stop.END_OF_TURN, tokens=300, logp=-80.0)
  return rows.Row(f'problem/{number}', _ANSWER[:300], {}, (attempt, attempt), 0.0, 'training', number, step, 'stage1')


class _Orbax:
  """Writes the files of a host's shards, which are small here."""

  def __init__(self, written: threading.Barrier):
    self._written = written

  def save(self, folder: Any, args: Any) -> None:
    own = pathlib.Path(folder) / f'params/ocdbt.process_{hosts.index()}/d'
    own.mkdir(parents=True)
    for number in range(_FILES):
      (own / str(number)).write_bytes(b'%d' % number)

  def wait_until_finished(self) -> None:
    self._written.wait()  # for all, as Orbax does by a barrier of its own

  def close(self) -> None:
    pass
