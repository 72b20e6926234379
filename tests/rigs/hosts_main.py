"""Runs score_jax.main as one of several CPU processes, each of which keeps its compiled programs for later runs.

JAX lets process 0 alone write to the cache, and on CPU the others don't find what it wrote (the keys differ).
"""

import runpy

from jax._src import compiler, distributed

_write = compiler._cache_write


def _as_process_0(*args):
  state = distributed.global_state
  number, state.process_id = state.process_id, 0
  try:
    _write(*args)
  finally:
    state.process_id = number


compiler._cache_write = _as_process_0
runpy.run_module('score_jax.main', run_name='__main__', alter_sys=True)
