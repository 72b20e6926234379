"""Configurations: every file builds, every mistake is one clear error."""

import pathlib
import subprocess
import sys
import types

import pytest
import tiny

from score_jax import config as configs
from score_jax.config import load
from score_jax.configs import common
from score_jax.errors import ConfigError
from score_jax.training import run as runs

ROOT = pathlib.Path(__file__).parent.parent
PRESETS = load.presets()


@pytest.mark.parametrize('name', PRESETS)
def test_every_preset_builds(name):
  assert configs.from_config_dict(load.load_config(name)).total_steps > 0


def test_stages_take_the_order_and_the_run_optimizer_unless_they_have_their_own():
  config = common.get_config()
  config.schedule = ('stage1', 'stage2', 'stage1')
  config.optim.learning_rate = 3e-4
  config.stages.stage2.optim.learning_rate = 1e-4
  config.stages.stage2.optim.warmup_steps = 0
  run = configs.from_config_dict(config)
  assert [(s.name, s.optim.learning_rate) for s in run.stage_runs] == [
    ('stage1', 3e-4),
    ('stage2', 1e-4),
    ('stage1', 3e-4),
  ]
  assert run.stage_runs[1].optim.warmup_steps == 0
  assert run.stage_runs[0].optim.warmup_steps == config.optim.warmup_steps


def test_integers_pass_for_floats_and_nothing_else_is_converted():
  assert isinstance(tiny.run_config(**{'optim.clip_norm': 1}).optim.clip_norm, float)
  config = common.get_config()
  with config.ignore_type():
    config.batch.samples = 4.0
  with pytest.raises(ConfigError, match=r'config.batch.samples = 4.0 must be of type int, not float'):
    configs.from_config_dict(config)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'mode': 'train'}, r"config.mode = 'train' is unknown; use one of score, supervised"),
    (
      {'stages.stage2.offline_shared': True},
      r'config.stages.stage2.offline_shared = True needs .*offline_first',
    ),
    ({'batch.samples': 1}, r'config.batch.samples = 1: the leave-one-out baseline needs at least 2'),
    ({'batch.micro_batches': 3}, r'config.batch.micro_batches = 3 must divide config.batch.problems = 4'),
    ({'sampling.attempt_tokens': (6, 0)}, r'config.sampling.attempt_tokens = \(6, 0\)'),
    ({'report.rows': -1}, r'config.report.rows = -1 must be 0 or more'),
    ({'sampling.decode_slots': -1}, r'config.sampling.decode_slots = -1 must be 0 or more'),
    ({'sampling.cache_dtype': 'int8'}, r"config.sampling.cache_dtype = 'int8' is unknown; use one of auto, float32"),
    (
      {'model.remat': 'some'},
      r"model.remat = 'some' is unknown; use one of auto, none, elementwise, dots, full",
    ),
    ({'model.logits_mb': -1.0}, r'config.model.logits_mb = -1.0 must be 0 or more'),
    ({'schedule': ()}, r'config.schedule is empty'),
    ({'schedule': ('stage3',)}, r"names 'stage3', which is not in config.stages \(stage1, stage2\)"),
    (
      {'stages.stage1.reward_weights': (1.0,)},
      r'config.stages.stage1.reward_weights = \(1.0,\) must have one value per attempt: 2',
    ),
    ({'stages.stage2.bonus': (1.0, 10.0)}, r'config.stages.stage2.bonus = \(1.0, 10.0\): the first must be 0'),
    ({'stages.stage2.kl_weights': (-0.1, 0.1)}, r'config.stages.stage2.kl_weights = .* must not be negative'),
    ({'stages.stage2.kl_target': (0.1,)}, r'config.stages.stage2.kl_target = \(0.1,\) must be \(\) or one value'),
    (
      {'stages.stage1.kl_weights': (0.0, 0.1), 'stages.stage1.kl_target': (0.1, 0.0)},
      r'needs a config.stages.stage1.kl_weights above 0',
    ),
    ({'faults.max_failed_saves': 0}, r'config.faults.max_failed_saves = 0 must be 1 or more'),
    ({'faults.grace_seconds': -1.0}, r'config.faults.grace_seconds = -1.0 must be 0 or more'),
    ({'stages.stage2.gamma': 1.5}, r'config.stages.stage2.gamma = 1.5 must lie in 0..1'),
    ({'stages.stage2.offline_wrong': -0.1}, r'config.stages.stage2.offline_wrong = -0.1 must lie in 0..1'),
    (
      {'stages.stage1.offline_wrong': 0.5},
      r'config.stages.stage1.offline_wrong = 0.5 needs config.stages.stage1.offline_shared = True',
    ),
    ({'stages.stage2.reference': 'best'}, r"config.stages.stage2.reference = 'best' is unknown"),
    ({'stages.stage1.steps': 0}, r'config.stages.stage1.steps = 0 must be 1 or more'),
    ({'optim.warmup_steps': 2}, r'warmup_steps = 2 must be below its steps = 2'),
    ({'loss.kl_form': 'k3'}, r"config.loss.kl_form = 'k3' is unknown; use one of k1_togo, k1"),
    ({'loss.kl_form': 'exact', 'loss.importance_cap': 2.0}, r'importance_cap = 2.0 weighs only the k1 forms'),
    ({'task.countdown.operations': '+%'}, r"config.task.countdown.operations = '\+%'"),
    ({'task.countdown.prompt': 'go'}, r"config.task.countdown.prompt = 'go': it must hold {numbers}"),
  ],
)
def test_contradictions_name_the_field_the_value_and_the_remedy(changes, message):
  with pytest.raises(ConfigError, match=message):
    tiny.run_config(**changes)


def test_unknown_and_missing_fields_are_named():
  config = common.get_config()
  config.batch.unlock()
  config.batch.size = 3
  with pytest.raises(ConfigError, match='config.batch.size is not a field; config.batch has micro_batches'):
    configs.from_config_dict(config)
  config = common.get_config()
  config.unlock()
  del config.optim.b1
  with pytest.raises(ConfigError, match='config.optim.b1 is missing'):
    configs.from_config_dict(config)


def test_identity_leaves_out_length_folders_and_intervals():
  base = configs.identity(tiny.run_config())
  same = tiny.run_config(
    **{
      'max_steps': 3,
      'eval.problems': 9,
      'mesh.fsdp': 2,
      'checkpoint.keep': 5,
      'optim.max_rejected_in_a_row': 9,
    },
    **{'faults.kl_limit': 9.0, 'faults.grace_seconds': 1.0, 'faults.forget_best': True},
    **{'report.rows': 0, 'report.stop_on': ('copies',)},
    **{'task.unreadable_golds': 0.5, 'task.jsonl.solution': 'code'},
    **{'sampling.decode_slots': 2, 'batch.pack': True, 'model.remat': 'full', 'compile_cache': ''},
  )
  assert configs.identity(same) == base
  for field, value in {
    'seed': 1,
    'optim.b1': 0.8,
    'sampling.cache_dtype': 'bfloat16',
    'stages.stage2.gamma': 0.5,
    'stages.stage1.kl_target': (0.1, 0.0),
    'task.instruction': 'Again.',
  }.items():
    assert configs.identity(tiny.run_config(**{field: value})) != base, field


def command(*arguments: str, module: str = 'score_jax.main') -> subprocess.CompletedProcess:
  return subprocess.run(
    [sys.executable, '-m', module, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
  )


def test_of_a_flag_given_twice_the_last_counts_tuples_too():
  flags = [
    "--config.task.data.heldout=('a',)",
    "--config.task.data.heldout=('b','c')",
    '--config.seed=1',
    '--config.seed=2',
  ]
  show = 'print(config.value.task.data.heldout, config.value.seed)'
  code = f'from score_jax import cli; config = cli.define_config(); cli.run(lambda: {show})'
  command = [sys.executable, '-c', code, '--config=quickstart', *flags]
  ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
  assert ran.stdout.strip() == "('b', 'c') 2", ran.stderr


@pytest.mark.parametrize('is_command', [True, pytest.param(False, marks=pytest.mark.slow)])
def test_commands_read_tokenizers_without_torch_and_others_keep_theirs(is_command, tmp_path):
  code = f"""
import pathlib, sys
from score_jax import cli
from score_jax.tasks.tokenizer import load_tokenizer

def main(folder):
  load_tokenizer(pathlib.Path('score_jax/assets/countdown_base')).save_pretrained(folder)
  print('torch' in sys.modules)
  import torch
  print(torch.__name__)

cli.run(main, arguments=('FOLDER',)) if {is_command} else main(sys.argv[1])
"""
  ended = subprocess.run(
    [sys.executable, '-c', code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
  )
  assert ended.stdout.split() == [str(not is_command), 'torch']


@pytest.mark.parametrize(
  ('arguments', 'code', 'message'),
  [
    ([], 78, 'no --config=NAME given'),
    (['--config=quickstart', '--config.batch.sample=2'], 78, 'config.batch.sample is not a field'),
    (['--config=quickstart', '--config.learning_rate=1'], 78, 'there is config.optim.learning_rate, config.stages.s'),
    (['--config=quickstart', '--config.task.data.train=a.jsonl'], 78, "'countdown' reads no files: use gsm8k, math"),
    (['--config=quickstart', '--config.batch.samples=two'], 78, '--config.batch.samples=two'),
    (['--config=configs/quickstart.py', '--workdr=x'], 78, "Unknown command line flag 'workdr'"),
    (['--config', 'quickstart', '--config.model.path=nowhere'], 65, "model folder 'nowhere'"),
  ],
)
def test_a_command_prints_one_line_and_exits_with_its_code(arguments, code, message, tmp_path):
  done = command(*arguments, f'--workdir={tmp_path / "run"}')
  assert done.returncode == code
  lines = [line for line in done.stderr.splitlines() if line]
  assert len(lines) == 1 and lines[0].startswith('error: ') and message in lines[0]
  assert not (tmp_path / 'run').exists()


def test_an_address_of_another_store_is_refused():
  done = command('--config=configs/quickstart.py', '--workdir=s3://bucket/run')
  assert (done.returncode, 'an address must be gs://BUCKET/NAME' in done.stderr) == (78, True)
  assert not (ROOT / 's3:').exists()


@pytest.mark.parametrize(
  ('platform', 'capability', 'has'),
  [('cpu', None, False), ('tpu', None, True), ('gpu', '7.5', False), ('gpu', '8.0', True), ('gpu', '10.0', True)],
)
def test_bfloat16_is_for_devices_that_multiply_it(platform, capability, has):
  device = types.SimpleNamespace(platform=platform)
  if capability:
    device.compute_capability = capability
  assert runs.has_bfloat16(device) is has
  if platform == 'gpu':  # another maker's has no such number
    assert runs.has_bfloat16(types.SimpleNamespace(platform=platform, compute_capability='gfx942'))


@pytest.mark.parametrize('flag', ['--output=/sys/kernel/result.json', '--workdir=/sys/kernel/results/first'])
def test_evaluate_tries_the_disk_before_it_works(flag):
  evaluated = command('--config=quickstart', flag, '--model=none', module='score_jax.evaluate')
  assert evaluated.returncode == 78 and '/sys/kernel' in evaluated.stderr and 'none' not in evaluated.stderr


def test_export_and_evaluate_refuse_to_overwrite(tmp_path, hf_folder):
  (tmp_path / 'result.json').write_text('kept')
  evaluated = command(
    '--config=configs/quickstart.py', f'--output={tmp_path / "result.json"}', module='score_jax.evaluate'
  )
  assert (evaluated.returncode, 'exists already' in evaluated.stderr) == (78, True)
  assert (tmp_path / 'result.json').read_text() == 'kept'
  exported = command(f'--run={tmp_path}', f'--out={tmp_path}', module='score_jax.export')
  assert (exported.returncode, 'is not a run folder' in exported.stderr) == (78, True)


@pytest.mark.parametrize(
  ('setting', 'backend', 'environment', 'folder'),
  [
    ('auto', 'gpu', {'XDG_CACHE_HOME': '/somewhere'}, '/somewhere/score_jax'),
    ('auto', 'cpu', {}, None),
    ('', 'tpu', {}, None),
    ('/mine', 'cpu', {}, '/mine'),
    ('/mine', 'tpu', {'JAX_COMPILATION_CACHE_DIR': '/theirs'}, None),
  ],
)
def test_compiled_programs_are_kept_where_the_configuration_says(setting, backend, environment, folder):
  assert runs.compile_cache(setting, backend, environment) == folder
