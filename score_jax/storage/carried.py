"""The small files of a run that go with its checkpoints where those are kept elsewhere than in the run folder.

Each step has them in an archive of its own, which its manifest covers: a run that lost its folder finds its metrics as
they were at that very step. In it are the files that a resume reads: config.json, metrics.jsonl, eval.json and the
samples of offline/ (whose policy may be gone by then). No resume reads rows/, but a report does: its
files come along while there are few megabytes of them, evaluations before those of training.
"""

from collections.abc import Iterator
import gzip
import io
import pathlib
import tarfile

from absl import logging
from etils import epath

from score_jax.storage import manifests
from score_jax.storage import repairs

NAME = 'run.tar.gz'
_MOST_ROWS = 64 << 20  # bytes of rows/; the archive is written anew with every step
_FOLDERS = ('offline', 'rows')
_FILES = ('config.json', 'metrics.jsonl', 'eval.json')


def gathered(folder: pathlib.Path, metrics: str) -> dict[str, bytes]:
  """Those files of a run folder, by their path inside.

  Args:
    folder: of the run.
    metrics: what metrics.jsonl is to hold: the lines up to the step.
  """
  paths = [folder / name for name in _FILES if name != 'metrics.jsonl']
  paths += [*folder.glob('offline/*.np[yz]'), *_few_rows(folder)]
  found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths if path.exists()}
  return found | {'metrics.jsonl': metrics.encode()}


def _few_rows(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  room = _MOST_ROWS
  for path in sorted([*folder.glob('rows/*.jsonl.gz'), *folder.glob('rows/*.jsonl')], key=lambda path: path.suffix):
    room -= path.stat().st_size
    if room < 0:
      logging.warning('%s no longer goes with the checkpoints: rows/ has over %d MB', path, _MOST_ROWS >> 20)
    else:
      yield path


def packed(files: dict[str, bytes]) -> bytes:
  """The archive; equal files give equal bytes."""
  whole = io.BytesIO()
  with (
    gzip.GzipFile('', 'wb', 4, whole, mtime=0) as zipped,
    tarfile.open(fileobj=zipped, mode='w', format=tarfile.PAX_FORMAT) as archive,
  ):
    for name, data in sorted(files.items()):
      about = tarfile.TarInfo(name)
      about.size = len(data)
      archive.addfile(about, io.BytesIO(data))
  return whole.getvalue()


def unpacked(data: bytes) -> dict[str, bytes]:
  """What `packed` was given; files of other names are left out."""
  with tarfile.open(fileobj=io.BytesIO(data), mode='r:gz') as archive:
    return {
      member.name: archive.extractfile(member).read()
      for member in archive
      if member.isreg() and _is_known(pathlib.PurePosixPath(member.name))
    }


def _is_known(name: pathlib.PurePosixPath) -> bool:
  inside = len(name.parts) == 2 and name.parts[0] in _FOLDERS and not name.name.startswith('.')
  return str(name) in _FILES or inside


def newest(root: epath.Path) -> tuple[int, dict[str, bytes]]:
  """The newest step whose archive is whole, and what is in it; (0, {}): there is none.

  Whether the rest of that step is whole is not asked. Should it not be, the run goes on from a step before it, and cuts
  the metrics to that: they begin the same.
  """
  for step in reversed(repairs.steps(root)):
    if (data := manifests.read(root / str(step), NAME)) is not None:
      return step, unpacked(data)
  return 0, {}
