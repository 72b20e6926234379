# SPDX-License-Identifier: Apache-2.0
"""Forks a judge and a program for every job, out of an interpreter in which no job has ever run.

It has nothing but a socket to its client: no environment, no files, its own session. Modules that programs import are
imported here; afterwards nothing needs a file. It never reads a test or a program, so a forked process finds no trace
of earlier ones. It reports which layers hold. Then, again and again, it sends two pids and the judge's socket, waits
for a byte (the job is over), and sends how the processes ended.
"""

import contextlib
import gc
import importlib
import json
import os
import signal
import socket
import struct
import sys
import traceback
import warnings

from score_jax.graders import messages
from score_jax.graders.code.sandbox import judge, kernel, layers, program
from score_jax.graders.code.sandbox.limits import Limits

PIDS = struct.Struct('!ii')
# What a program may import, and nothing else, so that every host gives the same verdict.
MODULES = """
abc argparse array ast base64 binascii bisect bz2 calendar cmath codecs collections collections.abc colorsys
contextlib contextvars copy copyreg csv ctypes dataclasses datetime decimal difflib dis doctest enum errno fnmatch
fractions functools gc getopt glob graphlib hashlib heapq hmac html importlib.util inspect io ipaddress itertools json
keyword linecache locale logging lzma marshal math mmap numbers operator os os.path pathlib pickle platform pprint
queue random re reprlib resource sched secrets select shlex shutil signal socket stat statistics string struct
subprocess sys tempfile textwrap threading time timeit token tokenize traceback types typing unicodedata unittest
urllib.parse uuid warnings weakref zlib _strptime encodings.ascii encodings.base64_codec encodings.cp1252
encodings.cp437 encodings.hex_codec encodings.latin_1 encodings.punycode encodings.raw_unicode_escape encodings.rot_13
encodings.unicode_escape encodings.utf_16 encodings.utf_16_be encodings.utf_16_le encodings.utf_32 encodings.utf_32_be
encodings.utf_32_le encodings.utf_8_sig
""".split()  # noqa: SIM905


def main() -> None:
  """Serves jobs. Arguments: the control socket, the client's pid, limits and layers as JSON."""
  control = socket.socket(fileno=int(sys.argv[1]))
  try:
    limits, armour, held = _prepare(int(sys.argv[2]), json.loads(sys.argv[3]))
  except BaseException:
    messages.send_json(control.fileno(), {'error': traceback.format_exc()})
    raise
  messages.send_json(control.fileno(), vars(held))
  for fd in (0, 1, 2):
    os.dup2(os.open(os.devnull, os.O_RDWR), fd)
  with contextlib.suppress(EOFError, OSError, messages.Closed):
    while True:
      _serve(control, limits, armour)


def _prepare(client: int, settings: dict) -> tuple[Limits, layers.Armour, layers.Layers]:
  os.environ.clear()
  os.chdir('/')
  warnings.simplefilter('ignore')
  if kernel.LINUX:
    kernel.prctl(kernel.CHILD_SUBREAPER, 1)  # orphans become the zygote's, who ends them
    with contextlib.suppress(OSError), open('/proc/self/oom_score_adj', 'w') as file:
      file.write('1000')  # without memory, the kernel ends these first
  sys.modules['_hashlib'] = None  # without OpenSSL's 4 MB in every fork
  for name in MODULES:
    importlib.import_module(name)
  limits, use = Limits(**settings['limits']), tuple(settings['use'])
  held = layers.probe(limits, use)
  armour = layers.Armour(limits, use)
  armour.wear()
  if kernel.LINUX and os.getppid() != client:
    raise SystemExit(1)
  sys.path.clear()
  sys.path_importer_cache.clear()
  sys.argv = ['']
  gc.collect()
  gc.disable()
  gc.freeze()  # or a collection in a child would copy every page
  return limits, armour, held


def _serve(control: socket.socket, limits: Limits, armour: layers.Armour) -> None:
  client_end, judge_end = socket.socketpair()
  calling, answering = socket.socketpair()
  judging = _fork(armour, (judge_end, calling), lambda: judge.main(3, 4))
  running = _fork(armour, (answering,), lambda: program.main(3, limits.output_bytes))
  socket.send_fds(control, [PIDS.pack(judging, running)], [client_end.fileno()])
  for end in (client_end, judge_end, calling, answering):
    end.close()
  over = control.recv(1)
  for pid in (running, judging):
    os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(OSError):
      os.killpg(pid, signal.SIGKILL)
  judged, ran = os.waitpid(judging, 0)[1], os.wait4(running, 0)
  _end_strays()
  if not over:
    raise EOFError
  messages.send_json(control.fileno(), [judged, ran[1], ran[2].ru_utime + ran[2].ru_stime])


def _fork(armour: layers.Armour, keep: tuple[socket.socket, ...], serve) -> int:
  pid = os.fork()
  if pid:
    return pid
  try:
    gc.enable()
    armour.put_on(tuple(end.fileno() for end in keep))
    serve()
  finally:
    os._exit(1)


def _end_strays() -> None:
  """Ends what a program left behind where layers are missing."""
  with contextlib.suppress(ChildProcessError):
    while True:
      if os.waitpid(-1, os.WNOHANG)[0]:
        continue
      with open(f'/proc/self/task/{os.getpid()}/children') as file:
        for pid in file.read().split():
          os.kill(int(pid), signal.SIGKILL)


if __name__ == '__main__':
  main()
