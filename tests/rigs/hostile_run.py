"""Grades the hostile programs and looks for what they left: `python tests/rigs/hostile_run.py LAYERS SECONDS GRADERS`.

Prints JSON: the layers that held, a row (name, verdict, allowed verdicts, seconds, reason) for each program, and what
was left behind. It needs the standard library alone, so that any interpreter and any user can run it.
"""

import concurrent.futures
import contextlib
import json
import os
import pathlib
import queue
import shutil
import socket
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from hostile_answers import PROGRAMS  # noqa: E402
from hostile_programs import REFERENCE  # noqa: E402

from score_jax.graders.code import CodeGrader  # noqa: E402
from score_jax.graders.code.sandbox.limits import Limits  # noqa: E402


class Host:
  """What the programs attack: a secret, a folder, sockets; and what became of them."""

  def __init__(self, folder: str):
    self.folder = pathlib.Path(folder)
    self.folder.chmod(0o777)
    self.secret = self.folder / 'secret'
    self.secret.write_text('canary')
    self.secret.chmod(0o644)
    (self.folder / 'planted.py').touch()
    os.environ['HF_TOKEN'] = 'canary'
    self.tcp = socket.create_server(('127.0.0.1', 0))
    self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    self.udp.bind(('127.0.0.1', 0))
    self.abstract = socket.socket(socket.AF_UNIX)
    self.abstract.bind(f'\0hostile-{os.getpid()}')
    self.abstract.listen()
    self.sockets = (self.tcp, self.udp, self.abstract)
    self.before = self._traces()

  def aim(self, source: str) -> str:
    """Returns the program with the names of what it attacks filled in."""
    names = {
      '$SECRET': str(self.secret),
      '$FOLDER': str(self.folder),
      '$TCP': str(self.tcp.getsockname()[1]),
      '$UDP': str(self.udp.getsockname()[1]),
      '$ABSTRACT': f'hostile-{os.getpid()}',
    }
    for name, value in names.items():
      source = source.replace(name, value)
    return source

  def _traces(self) -> dict[str, object]:
    return {
      'folder': sorted(os.listdir(self.folder)),
      'secret': [self.secret.read_text(), self.secret.stat().st_mode],
      'shared memory': sorted(name for name in os.listdir('/dev/shm') if 'owned' in name or name.startswith('psm_')),
      'descriptors': len(os.listdir('/proc/self/fd')),
    }

  def left(self) -> dict[str, object]:
    """Returns what differs from the beginning, who called, and which processes of the graders live."""
    left = {name: what for name, what in self._traces().items() if what != self.before[name]}
    for name, listening in zip(('tcp', 'udp', 'abstract'), self.sockets, strict=True):
      listening.setblocking(False)
      with contextlib.suppress(BlockingIOError):
        left[name] = repr(listening.recv(1) if name == 'udp' else listening.accept())
    processes = processes_of(os.getpid())
    return left | ({'processes': processes} if processes else {})


def processes_of(client: int) -> list[str]:
  """Returns the processes whose command line is that of a zygote of `client`: zygotes, and whatever they forked."""
  processes = []
  for entry in pathlib.Path('/proc').iterdir():
    with contextlib.suppress(OSError, ValueError):
      words = (entry / 'cmdline').read_text().split('\0')
      if entry.name.isdigit() and str(client) in words and any('import zygote' in word for word in words):
        processes.append(entry.name)
  return processes


def grade_all(use: tuple[str, ...], seconds: float, graders: int) -> dict[str, object]:
  """Grades every program, on several graders at once."""
  folder = tempfile.mkdtemp()
  host = Host(folder)
  waiting, rows = queue.SimpleQueue(), []
  for hostile in PROGRAMS:
    waiting.put(hostile)

  def work(grader: CodeGrader) -> None:
    with contextlib.suppress(queue.Empty):
      while True:
        hostile = waiting.get_nowait()
        start = time.monotonic()
        graded = grader.grade(REFERENCE, host.aim(hostile.source))
        spent = time.monotonic() - start
        rows.append((hostile.name, graded.verdict.name, hostile.verdicts, spent, graded.answer))

  limits = Limits(seconds=seconds, wall_seconds=max(20, 20 * seconds), memory_mb=200)
  with contextlib.ExitStack() as stack:
    workers = [stack.enter_context(CodeGrader(limits, use=use)) for _ in range(graders)]
    layers = str(workers[0].layers)
    with concurrent.futures.ThreadPoolExecutor(graders) as pool:
      list(pool.map(work, workers))
  left = host.left()
  for listening in host.sockets:
    listening.close()
  shutil.rmtree(folder)
  return {'layers': layers, 'rows': rows, 'left': left}


if __name__ == '__main__':
  json.dump(grade_all(tuple(sys.argv[1].split(',')), float(sys.argv[2]), int(sys.argv[3])), sys.stdout)
