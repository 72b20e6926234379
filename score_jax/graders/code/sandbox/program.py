# SPDX-License-Identifier: Apache-2.0
"""The program's side: compiles the program, runs it, answers calls. Nothing here is trusted.

A program that patches this file changes its answers and nothing else: there is no expected value, no verdict and no
descriptor but the one on which calls arrive.
"""

import builtins
import itertools
import random
import sys
import types

from score_jax.graders import messages
from score_jax.graders.code.sandbox import codec, reading
from score_jax.graders.code.sandbox.codec import Ref

NAME = 'program'  # the module's name: blocks under `if __name__ == '__main__'` do not run
_MESSAGE = 200  # characters of an exception's text
# What the judge asks for beside calls, under keys that are no names of Python.
_OPERATIONS = {
  codec.ITERATE: iter,
  codec.TAKE: lambda iterator, most: list(itertools.islice(iterator, most)),
  codec.GET: getattr,
  codec.SET: setattr,
}


def main(fd: int, output_bytes: int) -> None:
  """Serves one job; returns when the judge is gone."""
  job = codec.loads(messages.receive(fd))
  random.seed(job['seed'])
  module = types.ModuleType(NAME)
  module.__dict__['__builtins__'] = builtins
  sys.modules[NAME] = module
  kept: list[object] = []
  answer = _attempt(lambda: _load(module.__dict__, job))
  while True:
    messages.send(fd, _encode(answer, kept, output_bytes))
    try:
      request = messages.receive(fd)
    except messages.Closed:
      return
    answer = _attempt(lambda request=request: _call(module.__dict__, kept, request))


def _load(namespace: dict, job: dict) -> None:
  for source in job['before']:
    exec(compile(source, '<setup>', 'exec', dont_inherit=True), namespace)
  tree = reading.choose(job['programs'], job['names'])
  reading.run(reading.with_helpers(tree, job['others'], {*namespace}), job['names'], namespace)
  for source in job['after']:
    exec(compile(source, '<setup>', 'exec', dont_inherit=True), namespace)


def _call(namespace: dict, kept: list[object], request: bytes) -> object:
  def revive(ref: Ref, copy: object = None) -> object:
    if type(ref.key) is int:
      return kept[ref.key]
    if ref.key in _OPERATIONS:
      return _OPERATIONS[ref.key]
    if ref.key in namespace:
      return namespace[ref.key]
    raise NameError(f'name {ref.key!r} is not defined')

  target, arguments, named = codec.loads(request, revive)
  return target(*arguments, **named)


def _attempt(action) -> tuple:
  """Returns ('value', result) or ('raised', the exception's name, its text)."""
  try:
    return ('value', action())
  except BaseException as error:
    try:
      return ('raised', str(type(error).__name__), str(str(error)[:_MESSAGE]))
    except BaseException:
      return ('raised', 'Exception', '')


def _encode(answer: tuple, kept: list[object], limit: int) -> bytes:
  def refer(value: object) -> Ref:
    kept.append(value)
    return Ref(len(kept) - 1)

  try:
    return codec.dumps(answer, limit, refer)
  except BaseException as error:
    text = str(error) if type(error) is codec.CodecError else type(error).__name__
    return codec.dumps(('refused', text), limit)
