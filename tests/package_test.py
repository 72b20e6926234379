"""The package as it is installed: a wheel, an empty folder, a stranger's files around it."""

import ast
from importlib import metadata
import os
import pathlib
import re
import subprocess
import sys
import tomllib
import zipfile

import pytest

from score_jax.config import load

ROOT = pathlib.Path(__file__).parent.parent
TINY = ('max_steps=2', 'batch.problems=4', 'batch.samples=2', 'eval.problems=8', 'loss.attempt_gradient_norms=False')
MINE = """
from score_jax.configs import common

def get_config():
  config = common.get_config()
  config.seed = 3
  return config
"""


@pytest.fixture(scope='module')
def site(tmp_path_factory):
  """A folder with the wheel's content, and nothing of the checkout."""
  built = tmp_path_factory.mktemp('wheel')
  pip = [sys.executable, '-m', 'pip', '--disable-pip-version-check', '--quiet']
  build = [*pip, 'wheel', '--no-deps', '--no-build-isolation', f'--wheel-dir={built}', str(ROOT)]
  subprocess.run(build, check=True, capture_output=True, text=True, cwd=built)
  folder = tmp_path_factory.mktemp('site')
  with zipfile.ZipFile(next(built.glob('*.whl'))) as wheel:
    wheel.extractall(folder)
  return folder


@pytest.fixture
def elsewhere(tmp_path, site):
  """Runs Python in an empty folder, with the wheel and another package named `configs` before everything else."""
  strange = tmp_path / 'strange'
  (strange / 'configs').mkdir(parents=True)
  (strange / 'configs/__init__.py').write_text('raise RuntimeError("the wrong configs")\n')
  folder = tmp_path / 'empty'
  folder.mkdir()

  def run(*arguments, check=True):
    environment = os.environ | {'PYTHONPATH': f'{strange}{os.pathsep}{site}', 'JAX_PLATFORMS': 'cpu'}
    return subprocess.run(
      [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=check
    )

  run.folder = folder
  return run


def test_a_wheel_has_the_presets_the_assets_and_the_types(site):
  for name in ('py.typed', 'assets/renamed.json', 'assets/countdown_base/model.safetensors', 'assets/report/page.html'):
    assert (site / 'score_jax' / name).is_file(), name
  presets = {load.config_file(name).stem for name in load.presets()}
  assert {path.stem for path in (site / 'score_jax/configs').glob('*.py')} >= {'common', *presets}
  tops = {path.name for path in site.iterdir() if not path.name.endswith('.dist-info')}
  assert tops == {'score_jax'}, 'experiments, benchmarks, examples and tests stay in the checkout'
  entry = next(site.glob('*.dist-info')) / 'entry_points.txt'
  assert 'score-jax = score_jax.cli:main' in entry.read_text()


def test_every_module_of_the_wheel_is_the_wheels(elsewhere, site):
  code = 'import score_jax, score_jax.configs.quickstart as q; print(score_jax.__file__); print(q.__file__)'
  for line in elsewhere('-c', code).stdout.split():
    assert pathlib.Path(line).is_relative_to(site)


def test_the_console_command_lists_its_commands_and_names_what_is_missing(elsewhere):
  console = ('-c', 'from score_jax import cli; cli.main()')
  assert 'score-jax train' in elsewhere(*console, '--help').stdout
  refused = elsewhere(*console, 'trian', check=False)
  assert (refused.returncode, 'use one of train, evaluate' in refused.stderr) == (78, True)
  moved = elsewhere(*console, 'suite', check=False)
  assert (moved.returncode, 'python -m experiments.main' in moved.stderr) == (78, True)


@pytest.mark.slow
def test_a_stranger_trains_from_the_wheel(elsewhere):
  flags = [f'--config.{field}' for field in TINY]
  elsewhere('-c', 'from score_jax import cli; cli.main()', 'train', '--config=quickstart', *flags)
  assert (elsewhere.folder / 'runs/quickstart/hf/model.safetensors').is_file()
  (elsewhere.folder / 'mine.py').write_text(MINE)
  elsewhere('-m', 'score_jax.main', '--config=mine.py', *flags)
  assert (elsewhere.folder / 'runs/mine/eval.json').is_file()
  overrides = ', '.join(f"'{field.partition('=')[0]}': {field.partition('=')[2]}" for field in TINY)
  elsewhere('-c', f"import score_jax; score_jax.train('quickstart', workdir='api', **{{{overrides}}})")
  assert (elsewhere.folder / 'api/hf/model.safetensors').read_bytes() == (
    elsewhere.folder / 'runs/quickstart/hf/model.safetensors'
  ).read_bytes()


def imported_packages() -> set[str]:
  """Top-level names that the package imports, at the top of a file or inside functions."""
  names = set()
  for path in (ROOT / 'score_jax').rglob('*.py'):
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.Import):
        names |= {alias.name.split('.')[0] for alias in node.names}
      elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        names.add(node.module.split('.')[0])
  return names - set(sys.stdlib_module_names) - {'score_jax'}


def test_what_is_imported_is_declared_and_nothing_else():
  project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
  optional = [line for name, lines in project['optional-dependencies'].items() if name != 'test' for line in lines]
  declared = {canonical(line) for line in project['dependencies']}
  distributions = metadata.packages_distributions()
  imported = {
    canonical(distributions[name][0]) if name in distributions else canonical(name) for name in imported_packages()
  }
  assert imported - {canonical(line) for line in optional} <= declared
  indirect = {'importlib-resources', 'jinja2', 'protobuf'}  # three packages need them and do not say so
  assert declared - indirect <= imported


def canonical(requirement: str) -> str:
  return re.split(r'[^\w-]', requirement.replace('_', '-').lower())[0]


@pytest.mark.parametrize('command', [('score_jax/main.py',), ('-m', 'score_jax.main')])
def test_help_lists_the_flags_from_a_bare_checkout(command):
  shown = subprocess.run([sys.executable, *command, '--help'], cwd=ROOT, capture_output=True, text=True, check=False)
  for flag in ('--config:', '--workdir:', '--distributed:', '--profile:'):
    assert flag in shown.stdout, shown.stderr[-500:]


@pytest.mark.parametrize('name', ['bench', 'suite', 'supervise'])
def test_commands_of_version_0_1_name_their_successors(name):
  ended = subprocess.run(
    [sys.executable, '-m', f'score_jax.{name}', '--shape=x'], cwd=ROOT, capture_output=True, text=True, check=False
  )
  assert ended.returncode == 78
  assert ended.stderr.startswith(f'error: {name} is no part of the package any more; use ')
