# SPDX-License-Identifier: Apache-2.0
"""Which steps a tracker's files hold: what a killed client has written, not what it was given.

A record that was cut off ends its file.
"""

from collections.abc import Iterator
import pathlib
import struct
from typing import Any

# A .wandb file is a log of LevelDB's: a header, then blocks of 32 KiB. A record never crosses a block; its parts do.
_WANDB_HEADER = 7  # bytes: b':W&B', a number, a version
_BLOCK = 2**15
_PART = struct.Struct('<IHB')  # checksum, length, kind
_WHOLE, _LAST = 1, 4  # kinds that end a record; 0 is padding


def wandb_records(path: pathlib.Path) -> Iterator[bytes]:
  """Yields the records of a .wandb file, each a `wandb_internal_pb2.Record`."""
  content, position, record = path.read_bytes(), _WANDB_HEADER, b''
  while position + _PART.size <= len(content):
    if _BLOCK - position % _BLOCK < _PART.size:
      position += _BLOCK - position % _BLOCK
      continue
    _, length, kind = _PART.unpack_from(content, position)
    position += _PART.size
    if not kind or position + length > len(content):
      return
    record += content[position : position + length]
    position += length
    if kind in (_WHOLE, _LAST):
      yield record
      record = b''


def wandb(folder: pathlib.Path, id: str) -> list[int]:
  """Returns the steps in all offline files of a run, below `folder`/wandb, in the order of their files."""
  from wandb.proto import wandb_internal_pb2

  steps = []
  for path in sorted(folder.glob(f'wandb/offline-run-*/run-{id}.wandb')):
    for content in wandb_records(path):
      record = wandb_internal_pb2.Record.FromString(content)
      if record.WhichOneof('record_type') == 'history':
        steps.append(record.history.step.num)
  return steps


def tensorboard_events(path: pathlib.Path) -> Iterator[Any]:
  """Yields the events of a file that have a summary."""
  from tensorboardX.proto import event_pb2

  # An entry is its length, a checksum of that, the event, a checksum of that.
  content, position = path.read_bytes(), 0
  while position + 12 <= len(content):
    (length,) = struct.unpack_from('<Q', content, position)
    position += 12
    if position + length + 4 > len(content):
      return
    event = event_pb2.Event.FromString(content[position : position + length])
    position += length + 4
    if event.HasField('summary'):
      yield event


def tensorboard(folder: pathlib.Path) -> list[int]:
  """Returns the steps in all event files of a folder, in the order of their files."""
  paths = sorted(folder.glob('events.out.tfevents.*'))
  return [event.step for path in paths for event in tensorboard_events(path)]
