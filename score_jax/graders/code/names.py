# SPDX-License-Identifier: Apache-2.0
"""The names that Python source reads and binds."""

import ast
import builtins

BUILTINS = frozenset(dir(builtins))


def bound(tree: ast.AST) -> set[str]:
  """Returns the names that statements outside of functions and classes give a value."""
  names, waiting = set(), [tree]
  while waiting:
    node = waiting.pop()
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
      names.add(node.name)
      continue
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
      names.add(node.id)
    elif isinstance(node, ast.alias):
      names.add((node.asname or node.name).split('.')[0])
    waiting += ast.iter_child_nodes(node)
  return names


def free(tree: ast.AST) -> set[str]:
  """Returns the names that are read and given no value, in any scope."""
  read, given = set(), set()
  for node in ast.walk(tree):
    if isinstance(node, ast.Name):
      (read if isinstance(node.ctx, ast.Load) else given).add(node.id)
    elif isinstance(node, ast.arg):
      given.add(node.arg)
    elif isinstance(node, ast.alias):
      given.add((node.asname or node.name).split('.')[0])
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.ExceptHandler):
      given.add(node.name)
  return read - given
