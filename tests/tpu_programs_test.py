"""What the TPU's compiler makes of a run's programs, small enough to be compiled in a minute without a TPU.

Skipped where libtpu is neither installed (`pip install 'jax[tpu]'`, the extra `tpu`) nor in the folder
LIBTPU, where launch/test.sh puts it.
"""

from collections import Counter
import functools
import importlib.machinery
import json
import math
import os
import re
import sys

import jax
import jax.numpy as jnp
import pytest
import tiny

from benchmarks import pod_steps
from benchmarks.setting import Setting
from score_jax.errors import ConfigError
from score_jax.models import attention
from score_jax.parallel import compile_options
from score_jax.planning import collectives, costs, programs, search, traffic

# Letters of `core_types.py`; sizes are told apart by their numbers, which no two arrays that are looked for share.
B, P, BUDGET, FEED, V = 16, 128, 60, 8, 4096
L = P + 2 * BUDGET + FEED
SHARDS, TENSOR = 2, 2
_ARRAY = re.compile(r'\b(pred|[sufbc]+\d+\w*)\[([\d,]+)\]')

_SEARCHED = [*sys.path, *filter(None, [os.environ.get('LIBTPU')])]

pytestmark = pytest.mark.skipif(
  importlib.machinery.PathFinder.find_spec('libtpu', _SEARCHED) is None,
  reason="libtpu, the TPU's compiler, is not installed: pip install 'jax[tpu]'",
)


@pytest.fixture(scope='module', autouse=True)
def compiler():
  jax.devices()  # before JAX can see a libtpu: it would look for its TPUs
  # A run in float32 leaves a precision behind that kernels of 16 bits do not have.
  with pytest.MonkeyPatch.context() as patch, jax.default_matmul_precision('default'):
    patch.setattr(sys, 'path', _SEARCHED)
    # A program of a topology can't be read back from JAX's cache without its devices.
    jax.config.update('jax_enable_compilation_cache', False)
    yield
    jax.config.update('jax_enable_compilation_cache', True)


def plan_of(config, decoder, topology='v5e:2x2', **settings):
  devices, rollout = programs.topology_devices(topology, **settings), search.assumed_rollout(config, FEED)
  request = search.Request(config, decoder, rollout, jnp.dtype('bfloat16'), devices, costs.chip_of('v5e:2x2'))
  return request.plan({})


@pytest.fixture(scope='module')
def plan():
  decoder = tiny.decoder_config(
    'llama', vocab=V, width=512, layers=2, heads=4, kv_heads=2, head_width=128, ffn=1024, max_positions=1024
  )
  changes = {
    'mesh.data': 1,
    'mesh.fsdp': SHARDS,
    'mesh.tensor': TENSOR,
    'batch.problems': B // 4,
    'batch.samples': 4,
    'sampling.prompt_tokens': P,
    'sampling.attempt_tokens': (BUDGET, BUDGET),
    'model.remat': 'full',
    'model.logits_mb': 1.0,
    'loss.attempt_gradient_norms': False,
  }
  config = tiny.run_config(**changes)
  return plan_of(config, decoder)


@pytest.fixture(scope='module')
def compiled(plan):
  """`compiled(name)`: a program and its text, compiled when it is first asked for."""
  return functools.cache(lambda name: programs.compiled(plan, name))


def arrays(text):
  """(dtype, shape) of everything that a program's text computes or is given."""
  return {(kind, tuple(map(int, shape.split(',')))) for kind, shape in _ARRAY.findall(text)}


def extents(shape):
  """The axes of a shape, whatever their order and without those of 1."""
  return sorted(extent for extent in shape if extent > 1)


def test_the_cache_is_in_16_bits_and_nowhere_copied_to_32(plan, compiled):
  heads = plan.decoder.kv_heads // TENSOR
  cache = extents((B // SHARDS, L, heads, plan.decoder.head_width))
  kinds = {kind for kind, shape in arrays(compiled('rollout')[1]) if extents(shape) == cache}
  assert kinds == {'bf16'}


def test_no_decode_step_gathers_the_model(plan, compiled):
  program, _ = compiled('rollout')
  step = {sent.kind: sent for sent in program.sent if sent.scope == collectives.PASS}
  assert 'all-reduce' in step, 'tensor-parallel devices add up what they hold parts of'
  layer = costs.sizes(plan).policy / (plan.decoder.layers + 2)
  assert sum(sent.bytes for sent in step.values()) < layer / 4
  # Nor are weights gathered before the steps: they come in the sampler's own layout.
  assert sum(sent.bytes for sent in program.sent if sent.kind == 'all-gather') < layer / 4


def test_a_decode_step_reads_the_cache_in_the_kernel_alone(plan, compiled):
  """Nor is the cache copied out of the core's memory, nor are logits gathered."""
  program, text = compiled('rollout')
  moved, kernels = traffic.decode_step(text)
  assert kernels == plan.decoder.layers and plan.rollout.kernel == 'mosaic'
  heads, width = attention.cached_heads(plan.decoder, plan.rollout.kernel)
  cache = extents((B // SHARDS, heads // TENSOR, L, width))
  shapes = [shape for one in moved for shape in one.shapes]
  assert cache not in [extents(shape) for shape in shapes]
  assert max(math.prod(shape) for shape in shapes) <= V // TENSOR * plan.decoder.width, 'the head is the largest'
  rows = B // SHARDS
  gathered = re.findall(rf'f32\[{rows},{V}\]', text)
  assert not gathered, 'logits stay where the vocabulary lies'
  assert not re.findall(rf'f32\[{plan.decoder.width}\]\S* convert\(', text), "norms' scales come in f32"
  # So small a model stays in the core's memory.
  assert 0 < program.step_bytes < 1.25 * costs.sizes(plan).policy


@pytest.mark.slow
def test_a_cache_whose_heads_the_tensor_axis_does_not_divide_is_whole_on_every_chip():
  """Else two heads lie over halves of four chips, and every step gathers them."""
  decoder = tiny.decoder_config(
    'llama', vocab=V, width=512, layers=2, heads=4, kv_heads=2, head_width=128, ffn=1024, max_positions=1024
  )
  changes = {'mesh.data': 1, 'mesh.tensor': 4, 'batch.problems': 4, 'batch.samples': 4}
  changes |= {'sampling.prompt_tokens': P, 'sampling.attempt_tokens': (BUDGET, BUDGET)}
  plan = plan_of(tiny.run_config(**changes), decoder)
  program, text = programs.compiled(plan, 'rollout')
  heads, width = attention.cached_heads(decoder, 'mosaic')
  cache = extents((B, heads, -(-L // 128) * 128, width))
  moved, _ = traffic.decode_step(text)
  assert cache not in [extents(shape) for one in moved for shape in one.shapes]
  assert not [one for one in program.sent if one.scope == collectives.PASS and one.bytes > math.prod(cache)]


def among_groups(text):
  """Yields, for each collective, how many devices a group of it has and the numbers that it yields on each."""
  for kind, listed in re.findall(r' = (.*?) (?:all|reduce|collective)-[\w\-]+\(.*?replica_groups=(\S+)', text):
    size = re.match(r'\[\d+,(\d+)\]', listed)
    count = int(size[1]) if size else len(re.match(r'\{\{([\d,]+)', listed)[1].split(','))
    yield count, sum(math.prod(shape) for _, shape in arrays(kind)) or 1


@pytest.mark.slow
def test_on_256_chips_a_decode_step_talks_within_groups_of_the_sampling_mesh_alone():
  decoder = tiny.decoder_config(
    'llama', vocab=V, width=512, layers=2, heads=8, kv_heads=4, head_width=128, ffn=1024, max_positions=1024
  )
  changes = {'mesh.data': 1, 'mesh.fsdp': 256, 'sampling.mesh.tensor': 4, 'batch.problems': 128, 'batch.samples': 4}
  changes |= {'sampling.prompt_tokens': P, 'sampling.attempt_tokens': (BUDGET, BUDGET)}
  plan = plan_of(tiny.run_config(**changes), decoder, 'v5e:16x16')
  program, text = programs.compiled(plan, 'rollout')
  assert {one.kind for one in program.sent if one.scope == collectives.PASS} <= {'all-reduce', 'all-gather'}
  sizes = Counter()
  for devices, numbers in among_groups(text):
    sizes[devices] = max(sizes[devices], numbers)
  assert set(sizes) == {4, 64} and sizes[4] > 1
  assert sizes[64] == 1, 'all groups agree on one flag, whether any goes on'


@pytest.mark.slow
def test_programs_of_two_slices_are_compiled_and_only_copies_lie_on_both():
  decoder = tiny.decoder_config(
    'llama', vocab=V, width=512, layers=2, heads=4, kv_heads=2, head_width=128, ffn=1024, max_positions=1024
  )
  changes = {'mesh.data': 2, 'mesh.fsdp': 4, 'sampling.mesh.tensor': 2, 'batch.problems': 4, 'batch.samples': 4}
  changes |= {'sampling.prompt_tokens': P, 'sampling.attempt_tokens': (BUDGET, BUDGET), 'model.remat': 'full'}
  config = tiny.run_config(**changes)
  plan = plan_of(config, decoder, num_slices=2)
  assert [{device.slice_index for device in copy.flat} for copy in plan.mesh.devices] == [{0}, {1}]
  for name in ('layout', 'rollout', 'update'):
    program, text = programs.compiled(plan, name)
    assert not program.refused and text, name
  request = search.topology_request(config, 'v5e:2x2x2slices', 'qwen2.5-0.5b', 64)
  assert len(request.devices) == 8
  with pytest.raises(ConfigError, match='fsdp or tensor would lie over several of 2 slices'):
    request.plan({'mesh.data': 1, 'mesh.fsdp': 8})


def test_a_pods_step_is_modelled_by_bytes_and_flops(capsys):
  sizes = dict(problems=32, samples=4, prompt=256, attempts=(512, 512), steps=1)
  pod_steps.measure(Setting(topologies=('v5e:4x4',), shapes=('qwen2.5-0.5b',), **sizes))
  (line,) = map(json.loads, capsys.readouterr().out.splitlines())
  assert (line['hosts'], line['agreeing'].keys()) == (4, {'step', 'save'})
  *parts, whole = (line['programs'][name] for name in ('layout', 'rollout', 'reference', 'update', 'all'))
  assert sum(parts) == pytest.approx(whole, abs=0.01)
  # 494 million parameters, 128 conversations of 1,344 tokens, a forward pass by 16 chips of 197 TFLOP/s, and attention.
  products = 2 * 494e6 * 128 * 1344 / 16 / 197e12
  assert products < parts[2] < 1.2 * products and parts[3] == pytest.approx(3 * parts[2], rel=0.02)
  # 1,088 steps read the weights, cut over the chips that share a model, at 819 GB/s, and the caches of their rows.
  weights_alone = 1088 * 2 * 494e6 / line['sampling_tensor'] / 819e9
  assert weights_alone < parts[1] < 3 * weights_alone


@pytest.mark.slow
@pytest.mark.parametrize('name', ['reference', 'update'])
def test_logits_never_exist_for_the_whole_sequence(plan, compiled, name):
  program, text = compiled(name)
  assert not program.refused
  everything = B // SHARDS * L * V // TENSOR
  shapes = [shape for _, shape in arrays(text)]
  assert max(map(math.prod, shapes)) < everything
  of_the_vocabulary = [shape for shape in shapes if {V, V // TENSOR} & set(shape)]
  assert max(map(math.prod, of_the_vocabulary)) < everything / 2


@pytest.mark.slow
@pytest.mark.parametrize(('name', 'times'), [('reference', 16), ('update', 32)])
def test_the_head_is_not_sent_for_every_chunk_of_logits(plan, compiled, name, times):
  # 37 chunks, forward and (update) backward: 78 gatherings of the head, and as many sums of its gradient.
  head = V * plan.decoder.width // TENSOR * plan.dtype.itemsize
  sent = Counter()
  for one in compiled(name)[0].sent:
    sent[one.kind] += one.bytes
  assert 0 < sent['all-gather'] + sent['collective-permute'] < times * head
  assert 0 < sent['all-reduce'] + sent['reduce-scatter'] < times * head


@pytest.mark.parametrize(('topology', 'kind', 'devices'), [('v5e:4x4', 'TPU v5 lite', 16), ('tpu7x:2x2x1', 'TPU7x', 8)])
def test_a_topology_has_the_devices_of_its_chip(topology, kind, devices):
  chip, here = costs.chip_of(topology), programs.topology_devices(topology)
  assert len(here) == devices and {device.device_kind for device in here} == {kind} == {chip.kind}


def test_options_are_those_that_the_compiler_knows(plan):
  device = plan.mesh.devices.flat[0]
  assert compile_options.of_rollouts(plan.mesh) == compile_options.OF_ROLLOUTS['TPU v5 lite']
  assert not compile_options.is_known(device, 'xla_no_option_of_this_name', 1)


def test_a_program_that_is_too_large_is_told_its_excess():
  decoder = tiny.decoder_config('llama', vocab=2**22, width=1024, layers=1, heads=8, kv_heads=8, head_width=128)
  program, text = programs.compiled(plan_of(tiny.run_config(), decoder), 'layout')
  assert program.refused and not text
  # Embedding and head, 2^32 numbers each, in f32 and again in bf16; a v5e has 15.75 GiB.
  assert program.peak > 2**34


@pytest.mark.slow
def test_what_the_compiler_takes_is_what_was_added_up(plan, compiled):
  sizes = costs.sizes(plan)
  program, _ = compiled('update')
  assert sizes.parameters + sizes.moments <= program.arguments < 1.02 * (sizes.parameters + sizes.moments) + 1e6
  assert program.temporary < 40 * sizes.parameters
