"""What a run will need, found out before it is run: sizes, collectives, fits, the search, the checks of a machine."""

import dataclasses
import json
import math
import pathlib
import subprocess
import sys

from chips import chips
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from score_jax.errors import ConfigError
from score_jax.models import config_json, weights
from score_jax.models.shapes import SHAPES
from score_jax.parallel import mesh as meshes
from score_jax.planning import collectives, costs, machine_checks, programs, report, search
from score_jax.planning.collectives import Collectives
from score_jax.training import optim, specs
from score_jax.training import run as runs

DECODER = tiny.decoder_config('qwen2', width=32, kv_heads=4)
CHIP = costs.Chip('here', 'cpu', 1e12, 1e12, 1e12, 1e11, 0)


def plan_of(config, devices=8, decoder=DECODER):
  return request_of(config, devices, decoder).plan({})


def request_of(config, devices=8, decoder=DECODER, limit=1e12):
  rollout, chip = search.assumed_rollout(config, 5), dataclasses.replace(CHIP, usable=limit)
  return search.Request(config, decoder, rollout, jnp.dtype('float32'), tuple(jax.devices()[:devices]), chip)


def sharded_config(**changes):
  return tiny.run_config(**{'mesh.fsdp': 2, 'mesh.tensor': 2, 'batch.problems': 8} | changes)


# --- collectives


def test_collectives_are_counted_by_kind_with_what_they_yield():
  program = """
ENTRY %main (x: f32[8]) -> f32[8] {
  %a = bf16[2,500000]{1,0} all-gather(%x), dimensions={0}
  %b = (f32[10]{0}, f32[250000]{0}) all-gather-start(%y), dimensions={0}
  %c = (f32[250000]{0}, f32[250000]{0}) all-reduce(%p, %q), to_apply=%add
  %d = f32[8]{0} add(%e, %f)
}
"""
  assert collectives.read(program) == (
    Collectives(collectives.ALWAYS, 'all-gather', 2, 3_000_000),
    Collectives(collectives.ALWAYS, 'all-reduce', 1, 2_000_000),
  )


LOOPS = """
%thrice.cond (p: (s32[])) -> pred[] {
  %n = s32[]{:T(128)} constant(3)
  ROOT %lt = pred[] compare(%i, %n), direction=LT
}

%thrice (p: (s32[])) -> (s32[]) {
  %r = f32[10]{0} all-reduce(%x), to_apply=%add
  %f = f32[10]{0} fusion(%r), kind=kLoop, calls=%fused
}

%fused (p: f32[10]) -> f32[10] {
  ROOT %g = f32[20]{0} all-gather(%p), dimensions={0}
}

%until.cond (p: (s32[])) -> pred[] {
  ROOT %any = pred[] or(%a, %b)
}

%step (p: (s32[])) -> (s32[]) {
  %w = (s32[]) while(%p), condition=%thrice.cond, body=%thrice
}

%generation (p: (s32[])) -> (s32[]) {
  %w = (s32[]) while(%p), condition=%until.cond, body=%step
  %q = f32[5]{0} collective-permute(%x), source_target_pairs={{0,1}}
}

ENTRY %main (p: (s32[])) -> (s32[]) {
  %w = (s32[]) while(%p), condition=%thrice.cond, body=%thrice
  %v = (s32[]) while(%p), condition=%until.cond, body=%generation
}
"""


def test_loops_of_known_length_are_multiplied_and_others_told_apart():
  assert collectives.read(LOOPS) == (
    Collectives(collectives.ALWAYS, 'all-gather', 3, 3 * 80),
    Collectives(collectives.ALWAYS, 'all-reduce', 3, 3 * 40),
    Collectives(collectives.OUTER_PASS, 'collective-permute', 1, 20),
    Collectives(collectives.PASS, 'all-gather', 3, 3 * 80),
    Collectives(collectives.PASS, 'all-reduce', 3, 3 * 40),
  )


UNROLLED = """
%cond (p: (f32[], u32[])) -> pred[] {
  %n = u32[]{:T(128)} constant(7)
  %i = u32[]{:T(128)} get-tuple-element(%p), index=1
  ROOT %lt = pred[]{:T(512)} compare(%i, %n), direction=LT, metadata={op_name="a(b)"}
}

%twice (p: (f32[], u32[])) -> (f32[], u32[]) {
  %j = u32[]{:T(128)} get-tuple-element(%p), index=1
  %two = u32[]{:T(128)} constant(2)
  %raised = u32[]{:T(128)} add(%j, %two), metadata={op_name="a(b)"}
  %copied = u32[]{:T(128)} copy(%raised)
  %a = (f32[8]{0}, f32[8]{0}, u32[], u32[]) collective-permute-start(%x), source_target_pairs={{0,1}}
  ROOT %t = (f32[]{:T(128)}, u32[]{:T(128)}) tuple(%f, /*index=1*/%copied)
}

ENTRY %main (p: (f32[], u32[])) -> (f32[], u32[]) {
  ROOT %w = (f32[], u32[]) while(%p), condition=%cond, body=%twice
}
"""


def test_a_loop_that_the_compiler_unrolled_runs_less_often():
  # 0, 2, 4, 6: below 7 four times.
  assert collectives.read(UNROLLED) == (Collectives(collectives.ALWAYS, 'collective-permute', 4, 4 * 32),)


def test_a_compiled_loop_of_layers_is_counted_as_often_as_it_runs():
  # Of the CPU's compiler, which says how often in its own words.
  mesh = meshes.make_mesh(1, 8, 1)
  rows, whole = meshes.rows(mesh), meshes.replicated(mesh)

  def five_sums(x):
    def body(total, _):
      return total * jax.lax.with_sharding_constraint(x * total, rows).sum(), None

    return jax.lax.scan(body, jnp.float32(1), None, length=5)[0]

  shape = jax.ShapeDtypeStruct((8,), jnp.float32, sharding=rows)
  text = jax.jit(five_sums, out_shardings=whole).lower(shape).compile().as_text()
  assert sum(sent.count for sent in collectives.read(text)) == 5


# --- chips


@pytest.mark.parametrize(
  ('topology', 'kind'), [('v5e:4x4', 'TPU v5 lite'), ('v5p:4x4x8', 'TPU v5'), ('tpu7x:2x2x1', 'TPU7x')]
)
def test_a_topology_has_its_chip(topology, kind):
  assert costs.chip_of(topology).kind == kind


@pytest.mark.parametrize('topology', ['v5e', 'v5e:16', 'h100:2x2', 'v5e:4x4x4x4'])
def test_what_is_no_topology_is_refused_with_the_names_that_are(topology):
  with pytest.raises(ConfigError, match=r'v4, v5e, v5p, v6e, tpu7x.*like v5e:4x4'):
    costs.chip_of(topology)


# --- memory


@pytest.mark.parametrize('lora', [0, 4])
def test_sizes_are_those_of_the_arrays_of_a_run(lora):
  config = sharded_config(**{'lora.rank': lora})
  plan = plan_of(config)
  base = runs.put_params(plan.mesh, weights.weight_table(DECODER), tiny.random_params(DECODER), jnp.float32)
  trained = plan.trained
  params = runs.put_params(plan.mesh, trained, trained.initial(jax.random.key(0)), jnp.float32)
  moments = runs.fresh_moments(params, optim.make_optimizer(plan.optim, trained), plan.mesh, trained)

  def held(tree):
    return sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(tree) if x.ndim)

  sizes = costs.sizes(plan)
  assert sizes.parameters == held(params)
  assert sizes.moments == held(moments)
  assert sizes.base == held(base)
  assert sizes.policy == costs.on_device(programs.sampling_policy(plan))


def test_what_is_held_beside_a_program_is_all_that_it_is_not_given():
  # Bytes of the whole model: trained parameters 4 each, their moments 8, base and copies 4 (f32 compute).
  plan = plan_of(tiny.run_config(), devices=1)
  n = weights.weight_table(DECODER).parameters()
  assert costs.beside(plan, 'layout') == (8 + 4) * n
  assert costs.beside(plan, 'rollout') == (4 + 8 + 4) * n
  assert costs.beside(plan, 'reference') == (4 + 8) * n
  assert costs.beside(plan, 'update') == 4 * n
  assert costs.beside(dataclasses.replace(plan, references=1), 'update') == (4 + 4) * n


@pytest.mark.slow
def test_arguments_of_the_compiled_programs_are_what_was_added_up():
  plan = plan_of(sharded_config())
  sizes = costs.sizes(plan)
  for name, arguments in dict(
    layout=sizes.parameters, rollout=sizes.policy, reference=sizes.base, update=sizes.parameters + sizes.moments
  ).items():
    program, text = programs.compiled(plan, name)
    small = 20 * plan.rows * plan.length  # the batch
    assert arguments <= program.arguments <= arguments + small, name
    assert not program.refused and text
    assert program.peak == program.arguments + program.results + program.temporary
  assert program.sent, 'an update over several devices sends gradients'
  slots = plan_of(sharded_config(**{'sampling.decode_slots': 1}))
  assert programs.compiled(slots, 'update')[0] is program, 'it is compiled once'


def test_a_setting_that_changes_the_decode_slots_alone_shares_all_but_its_rollout():
  plan, slots = (plan_of(sharded_config(**{'sampling.decode_slots': n})) for n in (0, 1))
  assert [name for name in programs.NAMES if plan.deciding(name) != slots.deciding(name)] == ['rollout']


def test_a_cache_is_two_numbers_a_layer_slot_and_head():
  plan = plan_of(sharded_config(**{'sampling.decode_slots': 4}))
  rows, slots, heads = 4, 9 + 6 + 6 + 5, DECODER.kv_heads // 2
  assert costs.sizes(plan).cache == 2 * DECODER.layers * rows * slots * heads * DECODER.head_width * 4


# --- least times


def test_the_least_time_is_that_of_the_slower_of_computing_and_moving():
  assert CHIP.seconds(flops=2e12, moved=1e11) == 2
  assert CHIP.seconds(flops=1e12, moved=5e11) == 5


def test_a_rollout_reads_the_weights_at_every_step_and_the_live_cache():
  plan = plan_of(tiny.run_config(), devices=1)
  sizes, growth, rows = costs.sizes(plan), 6 + 6 + 5, plan.rows
  live = (9 + growth / 2) / (9 + growth)
  flops, moved = costs.work(plan)['rollout']
  assert moved == pytest.approx(growth * (sizes.policy + live * sizes.cache))
  assert flops >= 2 * weights.weight_table(DECODER).parameters() * rows * (9 + growth)


# --- a sampling mesh


def pod_request(model='qwen2.5-1.5b', **changes):
  """512 conversations on 256 chips, two a chip."""
  pod = {'mesh.data': 1, 'mesh.fsdp': 256, 'batch.problems': 128, 'batch.samples': 4}
  lengths = {'sampling.prompt_tokens': 512, 'sampling.attempt_tokens': (1024, 1024)}
  config = tiny.run_config(**pod | lengths | changes)
  decoder, rollout = config_json.from_hf(SHAPES[model], model), search.assumed_rollout(config, 64)
  return search.Request(config, decoder, rollout, jnp.dtype('bfloat16'), tuple(chips(16, 16)), costs.CHIPS['v5e'])


def as_it_is(request):
  """The setting asked for, as if it had been compiled."""
  return search.Setting({}, search.estimated(request, {}), plan=request.plan({}), programs=[])


@pytest.mark.parametrize('model', ['qwen2.5-1.5b', 'gemma-2-2b'])
def test_where_few_rows_lie_on_a_chip_a_sampling_mesh_is_proposed(model):
  request = pod_request(model)
  best = search.faster(request, as_it_is(request))
  assert best.floor < 0.6 * best.asked
  assert request.flags(best.changes) == ['--config.sampling.mesh.tensor=4']
  plan = request.plan(best.changes)
  assert dict(plan.sampling_mesh.shape) == dict(data=64, fsdp=1, tensor=4) and plan.mesh == request.plan({}).mesh
  assert (plan.local_rows, plan.sampled_rows, plan.decode_slots) == (2, 8, 8)
  answer = search.Answer(request, as_it_is(request), '', faster=best)
  assert report.text(answer).endswith('without what its collectives take: --config.sampling.mesh.tensor=4')
  assert json.loads(json.dumps(report.as_data(answer)))['faster']['rollout_floor'] == best.floor


def test_where_many_rows_lie_on_a_chip_none_is_proposed():
  # 128 rows a chip: computing, not reading the weights, takes the time, and is shared either way.
  request = pod_request(**{'batch.problems': 8192})
  assert search.faster(request, as_it_is(request)) is None


def test_no_group_over_several_hosts_is_proposed():
  request = pod_request('gemma-2-2b', **{'sampling.mesh.tensor': 4})
  assert search.faster(request, as_it_is(request)) is None, '8 would read less, but has two hosts'


def test_plans_that_differ_in_the_sampling_mesh_share_the_update():
  request = pod_request()
  plain, own = request.plan({}), request.plan({'sampling.mesh.tensor': 4})
  differ = [name for name in programs.NAMES if plain.deciding(name) != own.deciding(name)]
  assert differ == ['layout', 'rollout']
  assert costs.sizes(own).held == costs.sizes(plain).held
  assert costs.sizes(own).policy < 0.3 * costs.sizes(plain).policy
  # Two key/value heads on four chips: each has the whole cache of four times the rows.
  assert costs.sizes(own).cache == 4 * costs.sizes(plain).cache
  told = 'the whole of 2 key/value heads on each of 4 chips, which do not divide them'
  settings = [search.Setting({}, {'rollout': 0.0}, plan=each, programs=[]) for each in (plain, own)]
  tables = [report.text(search.Answer(request, setting, '')) for setting in settings]
  assert [told in table for table in tables] == [False, True]
  assert 'mesh data 1 x fsdp 256 x tensor 1, of rollouts data 64 x fsdp 1 x tensor 4; 512 conv' in tables[1]


# --- settings and search


def test_flags_say_what_changed_and_nothing_else():
  request = request_of(tiny.run_config())
  changes = {'model.remat': 'full', 'model.logits_mb': 48.0, 'batch.pack': True, 'mesh.fsdp': 4, 'mesh.tensor': 1}
  assert request.flags(changes) == [
    '--config.model.remat=full',
    '--config.model.logits_mb=48.0',
    '--config.batch.pack=True',
    '--config.mesh.fsdp=4',
  ]
  config = search.changed(request.config, changes)
  assert (config.mesh.fsdp, config.batch.pack, config.model.remat, config.model.logits_mb) == (4, True, 'full', 48.0)
  with pytest.raises(TypeError, match='slots'):
    search.changed(config, {'batch.slots': 3})


def test_a_packed_update_is_compiled_for_full_streams():
  plan = plan_of(tiny.run_config(**{'batch.pack': True}), devices=2)
  assert plan.update.packed_length >= plan.rows // 2 * plan.length
  assert not plan_of(tiny.run_config(), devices=2).update.packed_length


def test_the_search_changes_nothing_where_all_fits():
  config = sharded_config()
  request = request_of(config)
  nearest = search.nearest(request)
  changes = nearest.changes
  assert nearest.cost == 0 and request.flags(changes) == []
  assert search.changed(request.settled, changes) == request.settled


def test_the_search_proposes_the_nearest_that_is_estimated_to_fit():
  config = sharded_config()
  limit = 0.99 * max(search.estimated(request_of(config), {}).values())
  request = request_of(config, limit=limit)
  nearest = search.nearest(request)
  assert nearest.cost > 0 and request.flags(nearest.changes)
  assert nearest.peaks == search.estimated(request, nearest.changes) and nearest.peak <= limit


def test_the_search_cuts_a_batch_that_the_mesh_cannot_share_out_otherwise():
  config = sharded_config(**{'batch.pack': True, 'batch.micro_batches': 4})  # 8 problems, 4 devices for rows, 4 parts
  with pytest.raises(ConfigError, match='to be a multiple of 4 devices'):
    plan_of(config)
  request = request_of(config)
  assert request.flags(search.nearest(request).changes) == ['--config.batch.micro_batches=2']


def test_the_search_gives_up_its_margin_before_it_gives_up():
  config = tiny.run_config(**{'batch.problems': 1, 'model.remat': 'full', 'model.logits_mb': 1.0})
  peak = max(search.estimated(request_of(config, devices=1), {}).values())
  request = request_of(config, devices=1, limit=1.01 * peak)
  assert request.flags(search.nearest(request).changes) == []


def test_of_settings_that_fill_the_margin_the_one_that_takes_the_least_is_chosen():
  config = tiny.run_config(**{'batch.problems': 2, 'model.remat': 'dots', 'model.logits_mb': 1.0})
  request, parts = request_of(config, devices=1), {'batch.micro_batches': 2}
  nearer, least = (
    max(search.estimated(request, changes).values()) for changes in (parts, parts | {'model.remat': 'full'})
  )
  request = request_of(config, devices=1, limit=nearer)
  assert 0.97 * nearer < least < nearer, 'both fit, but for the margin'
  nearest = search.nearest(request)
  assert nearest.peak == least
  assert request.flags(nearest.changes)[:2] == ['--config.batch.micro_batches=2', '--config.model.remat=full']


def test_where_nothing_fits_the_search_names_what_comes_nearest():
  nearest = search.nearest(request_of(sharded_config(), limit=1000))
  assert nearest.peak > 1000


def test_where_the_batch_suits_no_mesh_the_search_names_nothing():
  assert search.nearest(request_of(tiny.run_config(**{'batch.problems': 1, 'batch.samples': 3}))) is None


@pytest.fixture
def compiles(monkeypatch):
  """Instead of the compiler: programs that take twice the temporary memory estimated; what was compiled."""
  calls = []

  def compiled(plan, name, read=True):
    calls.append((name, plan))
    held, guess = costs.estimated(plan, name)
    known = held - costs.beside(plan, name)
    sent = (Collectives(collectives.ALWAYS, 'all-reduce', 2, 10**9),)
    return programs.Program(name, 2.0, 1.0, known, 0, 2 * guess, known + 2 * guess, sent), ''

  monkeypatch.setattr(programs, 'compiled', compiled)
  return calls


def test_an_answer_is_a_setting_that_was_compiled_and_fits(compiles):
  config = tiny.run_config(**{'batch.problems': 16})
  answer = search.answer(request_of(config, devices=4), 3)
  assert answer.fits and len(compiles) == 4 and 'It fits.' in report.text(answer)

  usable = 0.8 * answer.asked.peak
  answer = search.answer(request_of(config, devices=4, limit=usable), 5)
  assert not answer.fits
  assert list(answer.proposed.peaks) == list(programs.NAMES) and max(answer.proposed.peaks.values()) <= usable
  flags = answer.request.flags(answer.proposed.changes)
  text = report.text(answer)
  assert flags and all(flag in text for flag in flags)
  assert 'TOO MUCH' in text and 'update, in all: 2 all-reduce (1,000.0)' in text
  data = json.loads(json.dumps(report.as_data(answer)))
  assert data['fits'] is False and data['proposed']['fits'] is True and data['proposed']['flags'] == flags
  rows = data['proposed']['programs']
  assert list(rows) == list(programs.NAMES)
  assert all(math.isfinite(row['floor']['seconds']) and row['seconds'] == 2 for row in rows.values())
  assert rows['update']['with_what_is_held'] == answer.proposed.peaks['update'] and rows['update']['fits']


def test_a_table_says_what_is_compiled(compiles):
  config = sharded_config(
    **{'batch.pack': True, 'batch.micro_batches': 2, 'model.remat': 'dots', 'model.logits_mb': 4.0}
  )
  text = report.text(search.answer(request_of(config), 0))
  attempts = ' + '.join(map(str, config.sampling.attempt_tokens))
  assert text.startswith(
    f'mesh data 2 x fsdp 2 x tensor 2; {config.rows} conversations of {config.sampling.prompt_tokens} + {attempts} '
    f'tokens and 5 between them, {config.rows // 4} per 2 chips, {config.rows // 4} at a time; '
    'update in 2 parts, packed, remat dots, logits 4 MB, attention plain'
  )
  assert 'held beside' in text and all(line.split()[1:3] == ['2', 's'] for line in text.splitlines()[5:9])


def test_a_model_that_is_too_large_for_its_arrays_alone_is_not_compiled(compiles):
  answer = search.answer(request_of(tiny.run_config(), limit=1000), 3)
  assert not compiles and not answer.fits and answer.nearest
  assert 'nothing was compiled' in report.text(answer) and 'Take more devices' in report.text(answer)
  data, nearest = json.loads(json.dumps(report.as_data(answer)))['nearest'], answer.nearest
  least = sum(CHIP.seconds(*work) for work in costs.work(answer.request.plan(nearest.changes)).values())
  flags = answer.request.flags(nearest.changes)
  assert data == dict(flags=flags, bytes=nearest.peak, program=nearest.worst, floor=least)
  needs = f'{nearest.peak / costs.GIB:.1f} GiB of each: {" ".join(data["flags"])}'
  assert data['flags'] and needs in report.text(answer)


def test_collectives_take_what_they_yield_over_one_direction_of_the_links():
  plan = plan_of(sharded_config())  # 4 + 4 rows of 8 devices: 4 for rows, 17 tokens grow
  chip = dataclasses.replace(CHIP, interconnect=2e9)
  sent = (
    Collectives(collectives.ALWAYS, 'all-reduce', 1, 3 * 10**9),
    Collectives(collectives.PASS, 'all-reduce', 1, 10**9),
    Collectives(collectives.OUTER_PASS, 'all-gather', 1, 10**12),
  )
  program = programs.Program('rollout', 0, 0, 0, 0, 0, 0, sent)
  assert costs.link_seconds(plan, program, chip) == 3 + 17


# --- checks of a machine


def lines(config, tmp_path, dry_run=False):
  checks = machine_checks.run_checks(config, str(tmp_path / 'run'), tries=0, dry_run=dry_run)
  return {check.name: check for check in checks}


@pytest.mark.slow
def test_every_check_of_a_good_run_is_ok_and_two_steps_leave_nothing(hf_folder, tmp_path):
  config = tiny.run_config(**{'model.path': str(hf_folder)})
  results = lines(config, tmp_path, dry_run=True)
  assert list(results) == ['versions', 'devices', 'data', 'grading', 'model', 'memory', 'disk', 'dry run']
  assert all(check.ok and not check.skipped for check in results.values()), [check.line for check in results.values()]
  assert results['dry run'].message.startswith('2 steps')
  assert list(tmp_path.iterdir()) == []


def test_a_check_that_fails_says_why_and_the_others_are_made(hf_folder, tmp_path):
  broken = tiny.run_config(**{'model.path': str(tmp_path / 'none'), 'eval.problems': 0})
  results = lines(broken, tmp_path, dry_run=True)
  assert {name for name, check in results.items() if not check.ok} == {'data', 'model', 'memory', 'disk'}
  assert 'config.eval.problems = 0' in results['data'].line and 'FAILED' in results['data'].line
  assert 'no config.json' in results['model'].message
  assert results['dry run'].skipped and 'data, model' in results['dry run'].message


def test_a_mesh_that_does_not_suit_the_devices_is_a_failed_check(hf_folder, tmp_path):
  config = tiny.run_config(**{'model.path': str(hf_folder), 'mesh.fsdp': 3})
  assert 'there are 8 devices' in lines(config, tmp_path)['devices'].line


def test_too_little_disk_is_told(hf_folder, tmp_path, monkeypatch):
  monkeypatch.setattr(machine_checks, '_memory', lambda config, tries: '')  # takes long
  monkeypatch.setattr(machine_checks.shutil, 'disk_usage', lambda folder: type('Usage', (), dict(free=1000)))
  disk = lines(tiny.run_config(**{'model.path': str(hf_folder)}), tmp_path)['disk']
  assert not disk.ok and 'make room' in disk.message


@pytest.mark.slow
def test_the_doctor_refuses_a_topology_that_is_none_with_exit_code_78():
  root = pathlib.Path(__file__).parent.parent
  command = [sys.executable, '-m', 'score_jax.doctor', '--config=configs/quickstart.py', '--topology=v9:2x2']
  done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
  assert done.returncode == 78 and '--topology=v9:2x2 is no TPU topology' in done.stderr


def test_a_rollout_without_a_tokenizer_is_a_runs_but_for_its_ids(hf_folder):
  changes = {'drafts': 1.5, 'longest_draft': 3, 'decode_slots': 8, 'cache_dtype': 'float32'}
  config = tiny.run_config(
    **{'model.path': str(hf_folder)} | {f'sampling.{name}': value for name, value in changes.items()}
  )
  sampler = runs.open_sampler(config, hf_folder, meshes.make_mesh(1, 1, 1, jax.devices()[:1]))
  of_a_run, assumed = sampler.spec(), search.assumed_rollout(config, 5)
  ids = {name: getattr(of_a_run, name) for name in ('separators', 'end_of_turn', 'stops', 'pad')}
  assert dataclasses.replace(assumed, **ids) == of_a_run


def test_the_spec_of_a_configuration_is_that_of_a_run_opened_from_it(hf_folder, tmp_path):
  config = tiny.run_config(**{'model.path': str(hf_folder)})
  opened = runs.open_run(config, str(tmp_path / 'run'))
  devices, sampler = tuple(jax.devices()), opened.sampler
  plan = search.Request(config, opened.decoder, sampler.spec(), sampler.dtype, devices, CHIP).plan({})
  assert plan.update == opened.update_spec and plan.rollout == opened.sampler.spec()
  state = specs.abstract_state_of(opened.mesh, opened.trained, opened.optimizer)
  assert jax.tree.map(lambda x: x.sharding, state) == jax.tree.map(lambda x: x.sharding, runs.initial_state(opened))
  assert np.dtype(plan.dtype) == opened.sampler.dtype
