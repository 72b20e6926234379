"""A run with a fault of its own: `python tests/rigs/faulty.py KIND STEP MARKER FLAGS...`.

asleep  a Python call that does not return, as STEP is prepared
locked  code that holds the interpreter's lock and does not return
nan     log-probabilities that are not numbers, from STEP on

The first two happen once: not if MARKER exists, which they make.
"""

import pathlib
import re
import runpy
import sys
import time


def main(kind: str, at: int, marker: pathlib.Path) -> None:
  from score_jax.training.methods import score

  step_inputs, update = score.step_inputs, score.update

  def hanging(run, context, step):
    if step == at and not marker.exists():
      marker.touch()
      if kind == 'asleep':
        time.sleep(1000)
      else:
        re.match('(a+)+$', 60 * 'a' + 'b')
    return step_inputs(run, context, step)

  def poisoned(state, frozen, reference, batch, *args, **kwargs):
    if int(state.step) >= at:
      batch = batch.replace(sampler_logp=batch.sampler_logp + float('nan'))
    return update(state, frozen, reference, batch, *args, **kwargs)

  if kind == 'nan':
    score.update = poisoned
  else:
    score.step_inputs = hanging


if __name__ == '__main__':
  main(sys.argv[1], int(sys.argv[2]), pathlib.Path(sys.argv[3]))
  sys.argv[1:] = sys.argv[4:]
  runpy.run_module('score_jax.main', run_name='__main__')
