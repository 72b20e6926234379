"""A run that hangs once: `python tests/hang.py KIND STEP MARKER FLAGS...`.

KIND is `asleep` (a Python call that does not return), or `locked` (C code that holds the interpreter's lock). It hangs
as it prepares STEP, unless MARKER exists, which it makes.
"""

import ctypes
import pathlib
import runpy
import sys
import time


def main(kind: str, at: int, marker: pathlib.Path) -> None:
  from score_jax.training import loop

  work_of = loop.work_of

  def hanging(run, data, step):
    if step == at and not marker.exists():
      marker.touch()
      if kind == 'asleep':
        time.sleep(1000)
      else:
        ctypes.PyDLL(None).sleep(1000)  # PyDLL keeps the lock
    return work_of(run, data, step)

  loop.work_of = hanging


if __name__ == '__main__':
  main(sys.argv[1], int(sys.argv[2]), pathlib.Path(sys.argv[3]))
  sys.argv[1:] = sys.argv[4:]
  runpy.run_module('score_jax.main', run_name='__main__')
