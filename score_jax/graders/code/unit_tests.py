# SPDX-License-Identifier: Apache-2.0
"""Reads references of coding problems: which names the program must define, and which the tests.

A name in a test means, in this order: what the test binds; what the reference's source defines, run on the judge's
side; a built-in; a module of the standard library, used for its attributes alone; otherwise the program's.
"""

import ast
import dataclasses
import functools
import hashlib
import json
import sys

from score_jax.errors import DataError
from score_jax.graders.code.names import BUILTINS, bound, free

_CHECK = 'check'  # the function that a HumanEval test defines


@dataclasses.dataclass(frozen=True)
class UnitTests:
  """A reference that has been read."""

  names: tuple[str, ...]  # what the program is expected to define
  prompt: str  # what the program may complete
  before: tuple[str, ...]  # code to run before the program
  after: tuple[str, ...]  # and after it
  tests: dict  # for judge.py
  seed: int  # of the program


def read(reference: dict) -> UnitTests:
  """Reads {'setup', 'tests'} with or without 'challenge' (MBPP), or {'prompt', 'entry_point', 'test'} (HumanEval).

  Raises:
    DataError: it is neither.
  """
  try:
    return _read(json.dumps(reference, sort_keys=True))
  except (KeyError, TypeError, ValueError, AttributeError, SyntaxError) as error:
    raise DataError(
      f'reference {str(reference)[:200]!r}: {type(error).__name__} {error}; expected setup and tests (MBPP), '
      'or prompt, entry_point and test (HumanEval), all of them Python'
    ) from None


@functools.lru_cache(maxsize=4096)
def _read(text: str) -> UnitTests:
  reference = json.loads(text)
  digest = hashlib.sha256(text.encode()).digest()
  seeds = int.from_bytes(digest[:4], 'big'), int.from_bytes(digest[4:8], 'big')
  if 'test' in reference:
    return _function(reference['prompt'], reference['entry_point'], reference['test'], seeds)
  tests = [*reference['tests'], *reference.get('challenge', ())]
  if not tests or not all(type(test) is str for test in tests):
    raise ValueError('there are no tests')
  return _asserts(reference.get('setup') or '', tests, seeds)


def _function(prompt: str, entry: str, test: str, seeds: tuple[int, int]) -> UnitTests:
  tree = ast.parse(prompt)
  if entry not in bound(tree):
    raise ValueError(f'the prompt does not define {entry}')
  header = ast.unparse(ast.Module([node for node in tree.body if getattr(node, 'name', None) != entry], []))
  if _CHECK not in bound(ast.parse(test)):
    raise ValueError(f'the test does not define {_CHECK}')
  return UnitTests((entry,), prompt, (header,), (), _tests(header, [test], seeds[0], entry), seeds[1])


def _asserts(setup: str, tests: list[str], seeds: tuple[int, int]) -> UnitTests:
  setup = setup.replace('\r\n', '\n')
  work = _tests(setup, [test.strip() for test in tests], seeds[0])
  tree = ast.parse(setup)
  closed = not free(tree) - BUILTINS
  before, after = ((setup,), ()) if closed else ((), (setup,))
  given = bound(tree)
  names = tuple(name for name in work['remote'] if name not in given)
  return UnitTests(names, '', before, after, work, seeds[1])


def _tests(setup: str, tests: list[str], seed: int, entry: str | None = None) -> dict:
  """Makes the judge's part; `entry` is what a check() is called with."""
  trusted = _trusted(ast.parse(setup))
  trees = [ast.parse(test) for test in tests]
  known = bound(trusted) | {name for tree in trees for name in bound(tree)}
  others = {name for tree in trees for name in free(tree)} - known - BUILTINS
  modules = {name for name in others if name in sys.stdlib_module_names and _only_attributes(trees, name)}
  remote = others - modules
  if not remote and entry is None:  # then a program is asked for that redefines a built-in
    remote = {_called(tree) for tree in trees}
  return {
    'tests': tests,
    'trusted': ast.unparse(trusted),
    'modules': sorted(modules),
    'remote': sorted({*remote, entry} - {_CHECK} if entry else remote),
    'classes': sorted(name for name in remote if name[:1].isupper()),  # by PEP 8; only of these are attributes read
    'check': _CHECK if entry else '',
    'entry': entry or '',
    'seed': seed,
  }


def _trusted(tree: ast.Module) -> ast.Module:
  """Keeps imports, constants, and functions that need nothing else."""
  kept = []
  for node in tree.body:
    plain = isinstance(node, ast.Assign) and _literal(node.value) and all(isinstance(t, ast.Name) for t in node.targets)
    if isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef) or plain:
      kept.append(node)
  while True:
    known = BUILTINS.union(*(bound(node) for node in kept))
    closed = [node for node in kept if not free(node) - known]
    if len(closed) == len(kept):
      return ast.Module(kept, [])
    kept = closed


def _literal(node: ast.expr) -> bool:
  try:
    ast.literal_eval(node)
  except ValueError:
    return False
  return True


def _only_attributes(trees: list[ast.Module], name: str) -> bool:
  """Returns whether `name` is only used as in `name.attribute`."""
  nodes = [node for tree in trees for node in ast.walk(tree)]
  bases = {id(node.value) for node in nodes if isinstance(node, ast.Attribute)}
  return all(id(node) in bases for node in nodes if isinstance(node, ast.Name) and node.id == name)


def _called(tree: ast.Module) -> str:
  """Returns the name of the outermost call on an assert's left side."""
  test = tree.body[-1].test
  call = test.left if isinstance(test, ast.Compare) else test
  return call.func.id
