"""Imports go one way: a package imports only from itself and from packages of a lower layer."""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parent.parent / 'score_jax'
LAYERS = {
  'errors': 0, 'core_types': 0, 'states': 0,
  'faults': 1, 'files': 1, 'hub': 1, 'algorithm': 1, 'models': 1, 'graders': 1,
  'tasks': 2, 'parallel': 2,
  'config': 3, 'sampling': 3,
  'storage': 4, 'reporting': 4,
  'training': 5,
  'cli': 6, 'planning': 6,
  'api': 7,
  'main': 8, 'evaluate': 8, 'export': 8, 'doctor': 8, 'inspect': 8, 'grade': 8, 'report': 8, 'chat': 8,
  'bench': 8, 'suite': 8, 'supervise': 8,
}  # fmt: skip


def package(module: str) -> str:
  """'score_jax.tasks.chat' -> 'tasks'."""
  return module.split('.')[1]


def imports(path: pathlib.Path) -> set[str]:
  """Modules of the package that a file imports, at its top or inside functions."""
  names = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.ImportFrom) and node.module and node.module.split('.')[0] == 'score_jax':
      names |= {f'{node.module}.{alias.name}' for alias in node.names}
    elif isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names if alias.name.startswith('score_jax.')}
  return names


@pytest.mark.parametrize('path', sorted(PACKAGE.rglob('*.py')), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down(path):
  here = path.relative_to(PACKAGE).parts[0].removesuffix('.py')
  if here in ('__init__', 'configs'):  # names of other packages, imported when they are first used; presets
    return
  for module in imports(path):
    there = package(module)
    assert there == here or LAYERS[there] < LAYERS[here], f'{here} must not import {module}'


def test_the_algorithm_sees_neither_configuration_nor_models():
  for path in (PACKAGE / 'algorithm').glob('*.py'):
    assert {package(module) for module in imports(path)} <= {'algorithm', 'states', 'core_types'}
