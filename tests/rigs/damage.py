"""Damage to the newest checkpoint of a finished run: every kind must be found before the step is used."""

from collections.abc import Callable
import os
import pathlib
import random
import shutil

from score_jax.storage import integrity, stores


def flip(path: pathlib.Path, draw: random.Random) -> None:
  """One random bit."""
  data = bytearray(path.read_bytes())
  bit = draw.randrange(8 * len(data))
  data[bit // 8] ^= 1 << bit % 8
  _replace(path, bytes(data))


def truncate(path: pathlib.Path) -> None:
  """The last byte; of an empty file nothing can be cut, so it gets one."""
  data = path.read_bytes()
  _replace(path, data[:-1] if data else b'\0')


def _replace(path: pathlib.Path, data: bytes) -> None:
  """Another file of that name: copies are links to the original."""
  path.unlink()
  path.write_bytes(data)


def is_noticed(whole: pathlib.Path, scratch: pathlib.Path, do: Callable[[pathlib.Path], None]) -> bool:
  """Whether damage done to a copy of a run's newest step is found, and the step before it is taken."""
  root = scratch / 'copy/checkpoints'
  shutil.rmtree(scratch / 'copy', ignore_errors=True)
  shutil.copytree(whole / 'checkpoints', root, copy_function=os.link)
  store = stores.store_of(scratch / 'copy')
  *before, newest = integrity.sealed_steps(store)
  do(root / str(newest))
  problem = integrity.problem(store, store.checkpoints / str(newest))
  integrity.put_aside_damage(store)
  return bool(problem) and list(integrity.sealed_steps(store)) == before


def matrix(whole: pathlib.Path, scratch: pathlib.Path, flips: int, seed: int = 0) -> dict[str, tuple[int, int]]:
  """kind -> (found, done): random flips in random files; each file cut, deleted; a file added; no manifest."""
  draw, newest = random.Random(seed), max(integrity.sealed_steps(stores.store_of(whole)))
  folder = whole / 'checkpoints' / str(newest)
  names = sorted(path.relative_to(folder) for path in folder.rglob('*') if path.is_file())
  full = [name for name in names if (folder / name).stat().st_size]
  kinds = {
    'flipped': [lambda at, name=name: flip(at / name, draw) for name in draw.choices(full, k=flips)],
    'truncated': [lambda at, name=name: truncate(at / name) for name in names],
    'deleted': [lambda at, name=name: (at / name).unlink() for name in names],
    'added': [lambda at: (at / 'params/extra').write_text('x'), lambda at: (at / 'extra').write_text('')],
  }
  return {kind: (sum(is_noticed(whole, scratch, do) for do in all_), len(all_)) for kind, all_ in kinds.items()}
