"""What a decode step moves, by hand: of a small program's text, and of rows' lengths."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from score_jax.planning import costs, decoding, search, traffic

# A loop of: a product with a weight, whose result stays in the core; fusions that update one slot of a cache and read
# some rows of a table; a kernel; a whole cache that is copied out of the core.
PROGRAM = """HloModule a

%update (p0: bf16[64,256,128], p1: bf16[64,1,128], p2: s32[]) -> bf16[64,256,128] {
  %p0 = bf16[64,256,128]{2,1,0:T(8,128)(2,1)} parameter(0)
  %p1 = bf16[64,1,128]{2,1,0:T(8,128)(2,1)S(1)} parameter(1)
  %p2 = s32[]{:T(128)} parameter(2)
  ROOT %dus = bf16[64,256,128]{2,1,0:T(8,128)(2,1)} dynamic-update-slice(%p0, %p1, %p2, %p2, %p2)
}

%look_up (p0: bf16[4096,512], p1: s32[64]) -> bf16[64,512] {
  %p0 = bf16[4096,512]{1,0:T(8,128)(2,1)} parameter(0)
  %p1 = s32[64]{0:T(128)S(1)} parameter(1)
  ROOT %gather = bf16[64,512]{1,0:T(8,128)(2,1)S(1)} gather(%p0, %p1), offset_dims={1}
}

%cond (s: (s32[])) -> pred[] {
  %s = (s32[]{:T(128)}) parameter(0)
  ROOT %test = pred[]{:T(128)} custom-call(%s), custom_call_target="open"
}

%body (s: (s32[])) -> (s32[]) {
  %s = (s32[]{:T(128)}) parameter(0)
  %w = bf16[512,1000]{1,0:T(8,128)(2,1)} get-tuple-element(%s), index=1
  %x = bf16[64,512]{1,0:T(8,128)(2,1)S(1)} get-tuple-element(%s), index=2
  %cache = bf16[64,256,128]{2,1,0:T(8,128)(2,1)} get-tuple-element(%s), index=3
  %new = bf16[64,1,128]{2,1,0:T(8,128)(2,1)S(1)} get-tuple-element(%s), index=4
  %table = bf16[4096,512]{1,0:T(8,128)(2,1)} get-tuple-element(%s), index=5
  %ids = s32[64]{0:T(128)S(1)} get-tuple-element(%s), index=6
  %t = s32[]{:T(128)S(1)} get-tuple-element(%s), index=7
  %near = bf16[64,256,128]{2,1,0:T(8,128)(2,1)S(1)} get-tuple-element(%s), index=8
  %product = f32[64,1000]{1,0:T(8,128)S(1)} dot(%x, %w), lhs_contracting_dims={1}
  %updated = bf16[64,256,128]{2,1,0:T(8,128)(2,1)} fusion(%cache, %new, %t), kind=kLoop, calls=%update
  %rows = bf16[64,512]{1,0:T(8,128)(2,1)S(1)} fusion(%table, %ids), kind=kLoop, calls=%look_up
  %kernel = bf16[64,256,128]{2,1,0:T(8,128)(2,1)} custom-call(%updated), custom_call_target="tpu_custom_call"
  %out = (bf16[64,256,128]{2,1,0:T(8,128)(2,1)}, bf16[64,256,128]{2,1,0:S(1)}, u32[]{:S(2)}) copy-start(%near)
  ROOT %next = (s32[]{:T(128)}) tuple(%t)
}

%admits (s: (s32[])) -> (s32[]) {
  %s = (s32[]{:T(128)}) parameter(0)
  %table = bf16[4096,512]{1,0:T(8,128)(2,1)} get-tuple-element(%s), index=1
LINES
  ROOT %inner = (s32[]{:T(128)}) while(%s), condition=%cond, body=%body
}

ENTRY %main (s: (s32[])) -> (s32[]) {
  %s = (s32[]{:T(128)}) parameter(0)
  ROOT %loop = (s32[]{:T(128)}) while(%s), condition=%cond, body=%admits
}
"""


def test_what_operations_move_is_counted_by_hand():
  larger = '\n'.join(f'  %copy.{i} = bf16[4096,512]{{1,0:T(8,128)(2,1)}} copy(%table)' for i in range(40))
  moved, kernels = traffic.decode_step(PROGRAM.replace('LINES', larger))
  assert kernels == 1
  assert {one.name: one.bytes for one in moved} == dict(
    product=512 * 1024 * 2,  # 1,000 columns lie in eight tiles of 128
    updated=2 * 64 * 8 * 128 * 2,  # the slot, in a tile of 8, read and written
    rows=64 * 512 * 2,
    out=64 * 256 * 128 * 2,  # the core's side is not counted
  )


@pytest.mark.parametrize(('window', 'tensor'), [(0, 1), (0, 2), (64, 1)])
def test_a_steps_cache_is_counted_by_hand(window, tensor):
  decoder = tiny.decoder_config('llama', heads=4, kv_heads=4, head_width=128, max_positions=2048, layers=3)
  kinds = tuple(dataclasses.replace(kind, window=window) for kind in decoder.kinds)
  decoder = dataclasses.replace(decoder, kinds=kinds)
  config = tiny.run_config(**{'mesh.data': 1, 'mesh.tensor': tensor, 'batch.problems': 1, 'batch.samples': 2})
  chip, devices = costs.chip_of('v5e:2x2'), tuple(jax.devices()[:tensor])
  asked = search.Request(config, decoder, search.assumed_rollout(config, 4), jnp.dtype('bfloat16'), devices, chip)
  plan = asked.plan({})
  plan = dataclasses.replace(plan, prompt=512, rollout=dataclasses.replace(plan.rollout, kernel='mosaic'))
  # Two rows: one goes on for two steps, one for one. Newest slots before the new one: 511 and 512.
  step = decoding.step(plan, 1000, (np.array([300, 10]), np.array([2, 1])))
  a_slot = 2 * (4 // tensor) * 128 * 2 * 3  # keys and values, heads, width, bytes, layers
  tiles = 2 * 2 * 16  # a step: two rows, read and written
  if window:  # 63 and 10 cached are seen of one block; then 63 of the next, which has one, and the one before
    blocks, live = [1 + 1, 2], [64 + 11, 64]
  else:  # 300: slots 212 to 511 of three blocks; 10: one block; then 301 of four
    blocks, live = [3 + 1, 4], [301 + 11, 302]
  assert step.moved == 1000 + a_slot * (128 * sum(blocks) / 2 + tiles)
  assert step.floor == costs.read_in_a_step(plan) + a_slot * sum(live) / 2

  # A step alone: the second, where one row is done and sees what it is fed.
  second = decoding.step(plan, 1000, (np.array([300, 10]), np.array([2, 1])), times=[1])
  assert second.moved == 1000 + a_slot * (128 * blocks[1] + tiles)
  assert second.floor == costs.read_in_a_step(plan) + a_slot * live[1]


@pytest.mark.parametrize(('kernel', 'slots'), [('triton', [301 + 11, 302 + 1]), ('', [2 * (528 + 1)] * 2)])
def test_a_steps_cache_is_counted_for_every_kernel(kernel, slots):
  decoder = tiny.decoder_config('llama', vocab=100, max_positions=2048, layers=3)
  config = tiny.run_config(**{'mesh.data': 1, 'batch.problems': 1, 'batch.samples': 2})
  chip, devices = costs.chip_of('v5e:2x2'), tuple(jax.devices()[:1])
  rollout = dataclasses.replace(search.assumed_rollout(config, 4), kernel=kernel)
  asked = search.Request(config, decoder, rollout, jnp.dtype('bfloat16'), devices, chip)
  plan = dataclasses.replace(asked.plan({}), prompt=512, rollout=rollout)
  step = decoding.step(plan, 0, (np.array([300, 10]), np.array([2, 1])))
  a_slot = 2 * decoder.kv_heads * decoder.head_width * 2 * 3  # keys and values, heads, width, bytes, layers
  assert plan.length == 528 and step.moved == a_slot * sum(slots) / 2
  # Two rows' logits: written once, read twice.
  assert decoding.assumed_outside(plan) == costs.read_in_a_step(plan) + 3 * 2 * 100 * 4
  # The embedding is looked up, the head is read.
  assert not decoder.tied and costs.sizes(plan).policy - costs.read_in_a_step(plan) == 100 * decoder.width * 2


def test_lengths_are_within_budgets():
  config = tiny.run_config(**{'batch.problems': 64, 'batch.samples': 8})
  decoder, chip = tiny.decoder_config('llama'), costs.chip_of('v5e:2x2')
  devices = tuple(jax.devices()[:1])
  asked = search.Request(config, decoder, search.assumed_rollout(config, 4), jnp.dtype('bfloat16'), devices, chip)
  spec = dataclasses.replace(asked.rollout, budgets=(1024, 1024))
  plan = dataclasses.replace(asked.plan({}), prompt=512, rollout=spec)
  prompt_B, grown_B = decoding.real_lengths(plan)
  assert prompt_B.min() >= 64 and prompt_B.max() <= 256 and grown_B.max() <= 2 * 1024 + 4
  assert 520 < grown_B.mean() < 640  # two answers of 300, cut at 1,024, and 4 ids between
