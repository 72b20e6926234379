"""What fits the accelerators of Colab and Kaggle: presets, and the doctor's cells, some of which are made again."""

import importlib.machinery
import os
import pathlib
import subprocess
import sys

import pytest

from experiments import what_fits
from score_jax.config import from_config_dict, load_config
from score_jax.configs import accelerators
from score_jax.errors import ConfigError
from score_jax.planning import costs, search

BASE = 'gsm8k_qwen25_coder_0p5b'
LIBTPU = [*sys.path, *filter(None, [os.environ.get('LIBTPU')])]


@pytest.fixture(autouse=True)
def root(monkeypatch):
  monkeypatch.chdir(pathlib.Path(__file__).parent.parent)


def test_an_accelerator_changes_what_it_names_and_nothing_else():
  base = load_config(BASE)
  for name, accelerator in accelerators.ACCELERATORS.items():
    config = load_config(f'gsm8k_{name}')
    for field, value in accelerator.fields.items():
      section, _, last = field.rpartition('.')
      assert config[section][last] == value
      config[section][last] = base[section][last]
    assert config.to_json() == base.to_json()
    assert {field.split('.')[0] for field in accelerator.fields} <= {'batch', 'model', 'sampling'}


@pytest.mark.parametrize('topology', ['t4:0', 't4', 't4:2x2', 'a100:1'])
def test_what_is_no_number_of_known_gpus_is_refused(topology):
  with pytest.raises(ConfigError, match=r'or one of t4, l4 and how many, like t4:1'):
    costs.chip_of(topology)


def test_a_t4_computes_in_float32_without_kernels_and_an_l4_with_them():
  plans = {}
  for name in ('t4', 'l4'):
    config = from_config_dict(load_config(f'gsm8k_{name}'))
    plans[name] = search.topology_request(config, f'{name}:1', 'qwen2.5-0.5b', 64).plan({})
  told = {name: (plan.dtype.name, plan.update.attention.kind, plan.rollout.kernel) for name, plan in plans.items()}
  assert told == dict(t4=('float32', 'plain', ''), l4=('bfloat16', 'cudnn', 'triton'))


def test_two_gpus_have_half_of_the_rows_each():
  config = from_config_dict(load_config('gsm8k_t4', {'batch.micro_batches': 16}))
  request = search.topology_request(config, 't4:2', 'qwen2.5-0.5b', 64)
  assert (request.plan({}).local_rows, search.answer(request, 3).fits) == (config.rows // 2, True)


def test_a_cell_is_what_the_doctor_answers_again():
  model = 'qwen2.5-coder-1.5b, adapters'
  assert what_fits.cell('l4', model) == what_fits.recorded()['l4']['cells'][model]


def test_the_table_of_the_page_is_of_what_is_recorded():
  page, results = what_fits.PAGE.read_text(), what_fits.recorded()
  assert list(results) == list(accelerators.ACCELERATORS)
  assert what_fits.with_table(page, what_fits.table(results)) == page
  for name, one in results.items():
    assert list(one['cells']) == list(what_fits.MODELS)
    first = one['cells'][next(iter(what_fits.MODELS))]
    assert first['fits'] and not first['flags'], f'gsm8k_{name} fits as it stands'
    assert first['estimated'] == (name in costs.GPUS)


@pytest.mark.slow
@pytest.mark.skipif(importlib.machinery.PathFinder.find_spec('libtpu', LIBTPU) is None, reason='needs libtpu')
@pytest.mark.parametrize('name', ['v5e_1', 'v6e_1'])
def test_a_program_of_one_chip_is_what_was_compiled(name):
  """The reference of a preset; its rollout and update take minutes."""
  model = next(iter(what_fits.MODELS))
  code = (
    'import jax; jax.config.update("jax_platforms", "cpu"); jax.config.update("jax_enable_compilation_cache", False)\n'
    'from score_jax.config import from_config_dict, load_config\n'
    'from score_jax.planning import costs, programs, search\n'
    f'config = from_config_dict(load_config("gsm8k_{name}"))\n'
    f'topology = "{accelerators.ACCELERATORS[name].topology}"\n'
    'plan = search.topology_request(config, topology, "qwen2.5-0.5b", 64).plan({})\n'
    'print(programs.compiled(plan, "reference")[0].peak + costs.beside(plan, "reference"))\n'
  )
  environment = os.environ | dict(PYTHONPATH=os.pathsep.join(['.', os.environ.get('LIBTPU', '.')]))
  done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True, env=environment)
  assert int(done.stdout) == what_fits.recorded()[name]['cells'][model]['peaks']['reference']
