"""A run that cannot fit says so before it begins; what follows from device and model; the rows of an evaluation."""

import collections
import contextlib
import dataclasses
import json
import logging
import math
import pathlib
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import score_jax
from score_jax.errors import ConfigError
from score_jax.models import decoder as decoders
from score_jax.models import weights
from score_jax.parallel import hosts, memory
from score_jax.planning import costs, fit, programs, report
from score_jax.storage import hf
from score_jax.training import evaluation, grading, specs
from score_jax.training import run as runs
from score_jax.training.methods import pairs

GIB = 1 << 30
COUNTDOWN = dict(vocab=71, width=64, layers=4, heads=4, kv_heads=4, head_width=16, ffn=192)
SMOLLM2 = dict(vocab=49152, width=576, layers=30, heads=9, kv_heads=3, head_width=64, ffn=1536)  # 135 million


# --- the memory of a machine


def machine(root: pathlib.Path, files: dict[str, str]) -> int:
  """The memory available where these files say what there is."""
  for name, content in ({'proc/meminfo': 'MemFree: 5 kB\nMemAvailable: 1000 kB\n'} | files).items():
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
  return memory.available(root)


def group(limit: str, used: int, droppable: int, folder: str) -> dict[str, str]:
  """A control group of version 2."""
  stat = f'anon 5\ninactive_file {droppable}\n'
  return {
    f'{folder}/memory.max': f'{limit}\n',
    f'{folder}/memory.current': f'{used}\n',
    f'{folder}/memory.stat': stat,
  }


def old_group(folder: str, **content: str) -> dict[str, str]:
  """A control group of version 1; `content` is that of its limit, usage and stat."""
  names = dict(limit='memory.limit_in_bytes', usage='memory.usage_in_bytes', stat='memory.stat')
  return {f'{folder}/{names[name]}': text + '\n' for name, text in content.items()}


def test_without_limits_it_is_what_the_kernel_calls_available(tmp_path):
  assert machine(tmp_path, {}) == 1_024_000


def test_a_control_group_leaves_its_limit_less_what_cannot_be_dropped(tmp_path):
  files = {'proc/self/cgroup': '0::/a/b\n'} | group('700000', 300000, 50000, 'sys/fs/cgroup/a/b')
  assert machine(tmp_path, files) == 700000 - 300000 + 50000


def test_the_tightest_group_above_counts_and_max_is_no_limit(tmp_path):
  files = {'proc/self/cgroup': '0::/a/b\n'} | group('max', 1, 0, 'sys/fs/cgroup/a/b')
  assert machine(tmp_path, files) == 1_024_000
  assert machine(tmp_path, group('600000', 100000, 0, 'sys/fs/cgroup/a')) == 500000


def test_a_container_may_see_its_own_group_at_the_top(tmp_path):
  files = {'proc/self/cgroup': '0::/host/path/unseen\n'} | group('400000', 100000, 0, 'sys/fs/cgroup')
  assert machine(tmp_path, files) == 300000


def test_groups_of_version_1_count_too(tmp_path):
  job = old_group('sys/fs/cgroup/memory/job', limit='500000', usage='200000', stat='total_inactive_file 1000')
  assert machine(tmp_path, job | {'proc/self/cgroup': '3:cpu,cpuacct:/job\n2:memory:/job\n'}) == 301000


def test_a_group_that_takes_more_than_its_limit_has_nothing_left(tmp_path):
  folder = 'sys/fs/cgroup/memory'
  files = {'proc/self/cgroup': '1:name=systemd:/x\n2:memory:/../..\n0::/\n'}
  assert machine(tmp_path, files | old_group(folder, limit='500000', usage='600000', stat='cache 3')) == 0
  assert machine(tmp_path, old_group(folder, limit='9223372036854771712')) == 1_024_000, 'no limit'
  assert machine(tmp_path, old_group(folder, limit='much')) == 1_024_000
  assert machine(tmp_path, old_group(folder, limit='7', stat='?')) == 1_024_000


def test_the_smallest_device_of_any_host_counts(monkeypatch):
  class Device:
    platform = 'gpu'

    def __init__(self, *stats):
      self.memory_stats = lambda: stats[0] if stats else None

  assert memory.least([Device(dict(bytes_limit=24)), Device(dict(bytes_limit=12)), Device(), Device({})]) == 12
  monkeypatch.setattr(hosts, 'combined', lambda what, value, of: of([value, 7.0]))
  assert memory.least([Device(dict(bytes_limit=24))]) == 7
  assert memory.least([Device()]) == 7


@pytest.mark.parametrize(('usable', 'there'), [(2 * GIB, ', 2.00 there'), (math.inf, ', which does not tell what')])
def test_what_is_foreseen_is_told_beside_what_is_there(usable, there):
  asked = types.SimpleNamespace(peak=GIB, worst='update')
  answer = types.SimpleNamespace(asked=asked, request=types.SimpleNamespace(chip=types.SimpleNamespace(usable=usable)))
  assert report.foreseen(answer).startswith('1.00 GiB of a device at most (update)' + there)


# --- what follows from device and model


def settled(shape, platform='cpu', memory=0.0, rows=16, length=180, **changes):
  config = tiny.run_config(**{'batch.problems': rows // 2, 'batch.samples': 2} | changes)
  decoder = tiny.decoder_config('qwen2', **shape)
  config = specs.settled(config, decoder, jnp.dtype('float32'), platform=platform, length=length, memory=memory)
  return config.model.remat, config.model.logits_mb, config.loss.attempt_gradient_norms


def test_the_quickstart_keeps_the_settings_that_its_results_are_of():
  # One chunk of logits, as with any larger number: 512 rows of 56 tokens and 71 ids are 8.1 MB.
  assert settled(COUNTDOWN, rows=512, length=56) == ('none', 64.0, True)


def test_a_larger_model_on_a_cpu_keeps_products_alone_and_logits_the_norm_of_the_whole():
  assert settled(SMOLLM2) == ('elementwise', 64.0, False)
  # 256 rows of the vocabulary of Qwen2.5: 155.58 MB.
  assert settled(SMOLLM2 | dict(vocab=151936))[1] == 156.0
  assert settled(SMOLLM2, rows=2, length=90)[0] == 'none', 'it takes 0.3 GiB'


@pytest.mark.parametrize(('gib', 'megabytes'), [(60, 1024), (30.75, 512), (15.75, 256), (6, 128), (1, 32), (142, 1024)])
def test_an_accelerator_has_logits_by_its_memory(gib, megabytes):
  assert settled(SMOLLM2, 'gpu', memory=gib * GIB) == ('none', megabytes, False)


def test_what_is_set_stays():
  own = {'model.remat': 'full', 'model.logits_mb': 7.0, 'loss.attempt_gradient_norms': True}
  assert settled(SMOLLM2, **own) == ('full', 7.0, True)
  own['loss.attempt_gradient_norms'] = False
  assert settled(COUNTDOWN, **own) == ('full', 7.0, False)


def test_each_remat_keeps_less_than_the_one_before():
  sizes = dict(tensor=1, itemsize=4, plain=True)
  config = tiny.decoder_config(**SMOLLM2)
  kept = [decoders.kept(config, remat, 180, **sizes) for remat in decoders.REMATS]
  assert kept == sorted(kept, reverse=True) and len(set(kept)) == len(kept)


def test_a_run_records_what_was_settled(hf_folder, tmp_path):
  config = tiny.run_config(**{'model.path': str(hf_folder)})
  opened = runs.open_run(config, str(tmp_path / 'run'))
  opened.grader.close()
  assert opened.config.model.remat == 'none' and opened.config.loss.attempt_gradient_norms is True
  written = json.loads((tmp_path / 'run/config.json').read_text())
  assert written['config']['model']['logits_mb'] == opened.config.model.logits_mb == 64.0
  assert written['identity']['loss']['attempt_gradient_norms'] is True


# --- refusals


def test_a_run_that_cannot_fit_is_refused_in_a_line_with_nothing_loaded_or_written(hf_folder, tmp_path, monkeypatch):
  monkeypatch.setattr(memory, 'of_device', lambda device: 8 * 300e3)  # of 8 devices
  monkeypatch.setattr(hf, 'read_params', lambda *_: pytest.fail('weights were loaded'))
  many = {'batch.problems': 64, 'mesh.fsdp': 8, 'mesh.data': 1}
  with pytest.raises(ConfigError) as refusal:
    score_jax.train(tiny.config_dict(**many), model=hf_folder, workdir=tmp_path / 'run')
  assert refusal.value.exit_code == 78
  line = str(refusal.value)
  assert re.match(r'It does not fit: update takes \d\.\d\d GiB of 0\.00\. ', line) and '\n' not in line
  assert '--config.' in line
  assert not (tmp_path / 'run').exists()


def test_a_model_whose_arrays_are_too_large_is_refused_before_anything_is_compiled(hf_folder, tmp_path, monkeypatch):
  monkeypatch.setattr(memory, 'of_device', lambda device: 8e3)
  monkeypatch.setattr(programs, 'compiled', lambda *_, **__: pytest.fail('it was compiled'))
  with pytest.raises(ConfigError, match=r'nothing was compiled.*or adapters \(--config.lora.rank=16\)'):
    score_jax.train(tiny.config_dict(), model=hf_folder, workdir=tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


def test_a_run_that_is_too_large_for_the_machine_it_goes_on_on_stays_as_it_was(hf_folder, tmp_path, monkeypatch):
  config, workdir = tiny.run_config(**{'model.path': str(hf_folder)}), tmp_path / 'run'
  runs.open_run(config, str(workdir)).grader.close()
  before = {path: path.read_bytes() for path in workdir.rglob('*') if path.is_file()}
  monkeypatch.setattr(memory, 'of_device', lambda device: 8e3)
  with pytest.raises(ConfigError, match='It does not fit'):
    runs.open_run(config, str(workdir), fit.check_run)
  assert {path: path.read_bytes() for path in workdir.rglob('*') if path.is_file()} == before
  # A larger or smaller machine, or what it proposes for the update, is no other run.
  monkeypatch.undo()
  for changes in ({'model.remat': 'full', 'model.logits_mb': 32.0}, {'sampling.decode_slots': 1, 'mesh.fsdp': 2}):
    config = tiny.run_config(**{'model.path': str(hf_folder)} | changes)
    runs.open_run(config, str(workdir)).grader.close()


def test_an_evaluation_that_cannot_fit_is_refused(hf_folder, monkeypatch):
  monkeypatch.setattr(memory, 'of_device', lambda device: 8e3)
  monkeypatch.setattr(hf, 'read_params', lambda *_: pytest.fail('weights were loaded'))
  with pytest.raises(ConfigError, match=r'It does not fit: the weights take .* Take more devices$'):
    score_jax.evaluate(tiny.config_dict(), model=hf_folder)


def test_a_check_that_is_not_wanted_is_not_made(monkeypatch):
  monkeypatch.setattr(memory, 'of_device', lambda device: pytest.fail('memory was looked at'))
  config = tiny.run_config(**{'faults.check_memory': False})
  fit.check_run(config, None)
  fit.check_evaluation(config, None, 8, [0.0])


def test_an_evaluation_is_two_programs_and_holds_its_policy_alone(hf_folder):
  config = tiny.run_config(**{'model.path': str(hf_folder)})
  sampler = runs.open_sampler(config, hf_folder, tiny.one_device_mesh())
  request = dataclasses.replace(fit.request_here(config, sampler), mode='evaluate', rows=8)
  request = dataclasses.replace(request, devices=tuple(jax.devices()[:1]))
  plan = request.plan({})
  assert [costs.beside(plan, name) for name in plan.names] == [0, 0]
  size = weights.weight_table(sampler.config).parameters() * 4
  layout, rollout = (programs.compiled(plan, name, read=False)[0] for name in plan.names)
  assert (layout.arguments, layout.results) == (pytest.approx(size, rel=0.01), pytest.approx(size, rel=0.01))
  assert size < rollout.arguments < 1.2 * size and not rollout.sent


# --- what the check costs


@pytest.mark.parametrize(
  'changes',
  [
    {},
    pytest.param({'mode': 'supervised', 'selection.problems': 8}, marks=pytest.mark.slow),
    pytest.param({'lora.rank': 2}, marks=pytest.mark.slow),
  ],
)
def test_a_run_finds_compiled_what_the_check_compiled(changes, hf_folder, tmp_path, monkeypatch):
  compiled = collections.Counter()

  class Count(logging.Handler):
    def emit(self, record):
      if match := re.match(r'Finished XLA compilation of jit\((\w+)\)', record.getMessage()):
        compiled[match[1]] += 1

  logger, count = logging.getLogger('jax._src.dispatch'), Count()
  # A random model has none.
  monkeypatch.setitem(pairs.DATASETS, 'star', lambda right_N2, *_: np.array([[0, 0, 1], [1, 1, 1]]))
  settings = {'max_steps': 1, 'eval.problems': 8, 'supervised.problems': 8, 'supervised.iterations': 1}
  fields = tiny.config_dict(**settings | changes)
  for name in ('dispatch', 'interpreters.pxla', 'compiler'):
    monkeypatch.setattr(logging.getLogger(f'jax._src.{name}'), 'propagate', False)
  logger.addHandler(count)
  jax.clear_caches()
  programs._compiled.cache_clear()
  try:
    with jax.log_compiles():
      score_jax.train(fields, model=hf_folder, workdir=tmp_path / 'run')
  finally:
    logger.removeHandler(count)
  update = 'supervised_update' if 'mode' in changes else 'update'
  assert compiled[update] == 1
  assert compiled['reference_logps'] == ('mode' not in changes)
  assert compiled['laid_out'] == 1
  assert compiled['conversations'] == 2, 'greedy and sampled conversations of 8 rows'


# --- rows of an evaluation


def mesh_of(platform: str, shards: int = 1):
  device = type('Device', (), dict(platform=platform))
  devices = type('Devices', (), dict(flat=[device]))
  return type('Mesh', (), dict(shape=dict(data=shards, fsdp=1, tensor=1), devices=devices))


@pytest.mark.parametrize(
  ('problems', 'most', 'shards', 'rows'),
  [(14, 128, 1, 14), (14, 128, 4, 16), (128, 128, 1, 128), (130, 128, 1, 65), (2048, 512, 1, 512), (1, 8, 8, 8)],
)
def test_rows_are_as_many_as_the_problems_of_few_even_calls(problems, most, shards, rows):
  assert evaluation.rows_at_a_time(problems, most, mesh_of('cpu', shards)) == rows


def test_a_compiled_program_is_used_where_another_would_cost_more():
  cpu, gpu = mesh_of('cpu'), mesh_of('gpu')
  assert evaluation.rows_at_a_time(14, 128, cpu, 128) == 14
  assert evaluation.rows_at_a_time(64, 128, cpu, 128) == 128
  assert evaluation.rows_at_a_time(14, 128, gpu, 128) == 128
  assert evaluation.rows_at_a_time(14, 128, gpu) == 14


@pytest.mark.slow
def test_conversations_do_not_depend_on_the_rows_at_a_time(hf_folder):
  config = tiny.run_config(**{'model.path': str(hf_folder), 'eval.problems': 6})
  task = evaluation.tasks.open_task(config.task)
  problems = evaluation.tasks.heldout_problems(task, 6, config.eval.seed)
  mesh = tiny.one_device_mesh()
  sampler = runs.open_sampler(config, hf_folder, mesh)
  params = sampler.layout(hf.read_params(hf_folder, sampler.config, mesh, sampler.dtype))
  with contextlib.closing(grading.open_grader(config, task)) as grader:
    for temperature in (0.0, 1.0):
      spec = sampler.spec(temperature)
      one, *others = (
        evaluation.conversations(sampler, grader, params, problems, spec, 1, rows, decoding='x', samples=2)
        for rows in (6, 1, 4, 16)
      )
      texts = [[[a.text for a in row.attempts] for row in kept] for kept in (one, *others)]
      assert len(texts[0]) == 12 and all(other == texts[0] for other in texts[1:])
      assert all([row.id for row in kept] == [p.id for p in problems] * 2 for kept in (one, *others))
