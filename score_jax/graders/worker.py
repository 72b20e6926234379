# SPDX-License-Identifier: Apache-2.0
"""A grader process, which pool.py starts, feeds and replaces: `python -m score_jax.graders.worker NAME SPEC`.

It reads {reference, text} from standard input and answers {verdict, answer, seconds, last}. It ends with its input, so
it never outlives the run. An answer's cost is this process's own CPU time.
"""

import contextlib
import dataclasses
import json
import os
import resource
import signal
import sys
import time

from score_jax.core_types import Graded, Verdict
from score_jax.errors import UserError
from score_jax.graders import messages, registry, user_file
from score_jax.graders.registry import Grade, GradingSpec
from score_jax.graders.reward_function import RewardError

_ANSWERS = 20_000  # before a process is replaced
_SLACK = 2  # seconds between the limit that is caught and the one that kills


class _OverLimit(BaseException):
  """The answer has used up its CPU time. It is no Exception: no grader catches it."""


def main(name: str, spec: GradingSpec) -> None:
  """Grades until the input ends."""
  items, answers = _own_pipes()
  own_process, memory = os.getpid(), spec.memory_mb * 2**20
  resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the run's to handle
  signal.signal(signal.SIGPROF, _over_limit)
  try:
    content = messages.receive_json(items)['file'].encode('latin-1') if user_file.is_user_function(name) else None
    loaded = registry.entry(name, content).load(spec)
  except UserError as error:
    messages.send_json(answers, dict(error=str(error), exit_code=error.exit_code))
    return
  messages.send_json(answers, dict(description=loaded.description))
  os.dup2(sys.stdout.fileno(), sys.stderr.fileno())  # from now on, errors are about a model's text
  with contextlib.suppress(messages.Closed):
    for count in range(1, _ANSWERS + 1):
      item = messages.receive_json(items)
      try:
        try:
          graded, whole = _bounded(loaded.grade, spec, item['reference'], item['text'])
        finally:
          if os.getpid() != own_process:  # a function has forked, and both come back: one answers
            os._exit(0)
      except UserError as error:  # a bad reference, in data that nobody has read before
        messages.send_json(answers, dict(error=str(error), exit_code=error.exit_code))
        continue
      except RewardError as error:  # the user's function failed; it may ask a service, so the run tries once more
        messages.send_json(answers, dict(raised=str(error), sound=True))
        continue
      except Exception as error:  # a fault of the grader or of this host; the run tries once more
        messages.send_json(answers, dict(raised=f'raised {type(error).__name__}: {error}'[:500], sound=False))
        return
      last = not whole or count == _ANSWERS
      messages.send_json(answers, dataclasses.asdict(graded) | dict(last=last))
      if last:
        return


def _own_pipes() -> tuple[int, int]:
  """Keeps input and output for items and answers alone; what a function reads is empty, what it prints is lost."""
  pipes = os.dup(sys.stdin.fileno()), os.dup(sys.stdout.fileno())
  nowhere = os.open(os.devnull, os.O_RDWR)
  for stream in (sys.stdin, sys.stdout):
    os.dup2(nowhere, stream.fileno())
  return pipes


def _over_limit(signum: int, frame: object) -> None:
  raise _OverLimit


def _bounded(grade: Grade, spec: GradingSpec, reference: dict, text: str) -> tuple[Graded, bool]:
  """Returns a verdict, and whether this process is still sound."""
  begun = time.process_time()
  # Code outside of the interpreter ignores the first limit; the second ends the process.
  hard = int(begun + spec.cpu_seconds + _SLACK) + 1
  resource.setrlimit(resource.RLIMIT_CPU, (hard, resource.getrlimit(resource.RLIMIT_CPU)[1]))
  signal.setitimer(signal.ITIMER_PROF, spec.cpu_seconds)
  try:
    graded, whole = grade(reference, text), True
  except (_OverLimit, MemoryError):
    graded, whole = Graded(Verdict.TIMEOUT), False
  finally:
    signal.setitimer(signal.ITIMER_PROF, 0)
  # The grader of programs knows its own processes' time.
  seconds = graded.seconds or time.process_time() - begun
  return dataclasses.replace(graded, seconds=round(seconds, 6)), whole


if __name__ == '__main__':
  main(sys.argv[1], GradingSpec(**json.loads(sys.argv[2])))
