# SPDX-License-Identifier: Apache-2.0
"""Reads a program that may run on behind the wanted function, or may be cut there.

Base models write on until their budget ends: the next function, prose, imports, an example, a string without an end.
The stop strings of HumanEval (Chen et al., arXiv 2107.03374, section 3.2) and MBPP end a text before the next statement
at the margin. This reads as much as stands before the first error instead, so that helpers behind the function count.
"""

import ast
from collections.abc import Iterable, Sequence
import types

from score_jax.graders.code import names as python_names

FILE = '<program>'
_MOST_CUTS = 8  # CPython names one error, rarely the first
_FUTURE = 0x1FE0000  # bits of co_flags that `from __future__ import` sets, Include/cpython/code.h


def choose(programs: Sequence[str], names: Sequence[str]) -> ast.Module:
  """Returns the first program that compiles and binds one of the names.

  If there is none: the first whose part before an error does; or the first that compiles.

  Raises:
    SyntaxError, ValueError: that of the first program, where nothing compiles.
  """
  compiled, failure = [], None
  for source in programs:
    try:
      tree = _parsed(source)
    except (SyntaxError, ValueError) as error:  # ValueError: a null byte, a lone surrogate
      failure = failure or error
      continue
    if _last_binding(tree, names):
      return tree
    compiled.append(tree)
  for source in programs:
    tree = _before_error(source)
    if tree and _complete(tree, names):
      return tree
  if compiled:
    return compiled[0]
  raise failure


def with_helpers(tree: ast.Module, others: Iterable[str], given: set[str]) -> ast.Module:
  """Adds what the program lacks and other blocks of the text bind, at its beginning.

  Args:
    tree: the program.
    others: the other blocks.
    given: names that are there without it.
  """
  statements = [statement for source in others for statement in _statements(source)]
  known = given | python_names.BUILTINS | python_names.bound(tree)
  added: list[ast.stmt] = []
  missing = python_names.free(tree) - known
  while statements and missing:
    wanted = next((s for s in reversed(statements) if python_names.bound(s) & missing), None)
    if wanted is None:
      break
    added.insert(0, wanted)
    known |= python_names.bound(wanted)
    missing = (missing | python_names.free(wanted)) - known
  start = next((i for i, node in enumerate(tree.body) if not _leads(node)), len(tree.body))
  return ast.Module([*tree.body[:start], *added, *tree.body[start:]], []) if added else tree


def run(tree: ast.Module, names: Sequence[str], namespace: dict) -> None:
  """Runs the program; what follows the wanted names may fail. Raises what the part before raises."""
  head, rest = _parts(tree, names)
  exec(head, namespace)
  for module in rest:
    try:
      exec(compile(module, FILE, 'exec', flags=head.co_flags & _FUTURE, dont_inherit=True), namespace)
    except Exception:  # an import that is not there, an example that fails; but not SystemExit
      continue


def _parts(tree: ast.Module, names: Sequence[str]) -> tuple[types.CodeType, list[ast.Module]]:
  """Returns the program to the last statement that binds one of the names, and each statement behind it."""
  end = _last_binding(tree, names) or len(tree.body)
  head = compile(ast.Module(tree.body[:end], []), FILE, 'exec', dont_inherit=True)
  return head, [ast.Module([statement], []) for statement in tree.body[end:]]


def _parsed(source: str) -> ast.Module:
  """Raises SyntaxError or ValueError: it does not compile."""
  tree = ast.parse(source, FILE)
  compile(tree, FILE, 'exec', dont_inherit=True)
  return tree


def _before_error(source: str) -> ast.Module | None:
  """Returns what stands before the statement with the first error, if that compiles."""
  for _ in range(_MOST_CUTS):
    try:
      return _parsed(source)
    except ValueError:
      return None
    except SyntaxError as error:
      lines = source.split('\n')
      last = min(error.lineno or len(lines), len(lines))
      end = next((i for i in reversed(range(last)) if _starts(lines[i])), 0)
      source = '\n'.join(lines[:end]) + '\n'
  return None


def _starts(line: str) -> bool:
  """Returns whether a statement at the margin may start here."""
  return bool(line[:1].strip()) and line[0] not in ')]}#'


def _last_binding(tree: ast.Module, names: Sequence[str]) -> int:
  """Returns the number of statements up to the last one that binds one of the names; 0: none does."""
  wanted = set(names)
  return next((i for i in range(len(tree.body), 0, -1) if wanted & python_names.bound(tree.body[i - 1])), 0)


def _complete(tree: ast.Module, names: Sequence[str]) -> bool:
  """Returns whether it binds one of the names, to more than a docstring."""
  end = _last_binding(tree, names)
  body = getattr(tree.body[end - 1], 'body', None) if end else []
  return bool(end) and (body is None or len(body) > 1 or not _docstring(body[0]))


def _docstring(node: ast.stmt) -> bool:
  return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _leads(node: ast.stmt) -> bool:
  """Returns whether nothing may stand before it."""
  return _docstring(node) or isinstance(node, ast.ImportFrom) and node.module == '__future__'


def _statements(source: str) -> list[ast.stmt]:
  try:
    return ast.parse(source).body
  except (SyntaxError, ValueError):
    return []
