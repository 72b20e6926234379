"""Imports go one way: a room imports only from itself and from rooms of lower rank."""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parent.parent / 'score_jax'
RANKS = {
  'errors': 0, 'core_types': 0, 'states': 0,
  'faults': 1, 'files': 1, 'algorithm': 1, 'models': 1, 'graders': 1,
  'tasks': 2, 'parallel': 2,
  'config': 3, 'sampling': 3,
  'storage': 4, 'reporting': 4,
  'training': 5,
  'cli': 6, 'planning': 6,
  'main': 7, 'evaluate': 7, 'export': 7, 'doctor': 7,
  'inspect': 7, 'grade': 7, 'supervise': 7, 'report': 7,
}  # fmt: skip


def room(module: str) -> str:
  """'score_jax.tasks.chat' -> 'tasks'."""
  return module.split('.')[1]


def imports(path: pathlib.Path) -> set[str]:
  """Modules of the package that a file imports, at its top or inside functions."""
  found = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.ImportFrom) and node.module and node.module.split('.')[0] == 'score_jax':
      found |= {f'{node.module}.{alias.name}' for alias in node.names}
    elif isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names if alias.name.startswith('score_jax.')}
  return found


@pytest.mark.parametrize('path', sorted(PACKAGE.rglob('*.py')), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down(path):
  here = path.relative_to(PACKAGE).parts[0].removesuffix('.py')
  if here == '__init__':
    assert not imports(path)
    return
  for module in imports(path):
    there = room(module)
    assert there == here or RANKS[there] < RANKS[here], f'{here} must not import {module}'


def test_the_algorithm_sees_neither_configuration_nor_models():
  for path in (PACKAGE / 'algorithm').glob('*.py'):
    assert {room(module) for module in imports(path)} <= {'algorithm', 'states', 'types'}
