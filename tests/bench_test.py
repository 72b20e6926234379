"""What the benchmarks count, by hand; what a trace says."""

import dataclasses
import json
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from benchmarks import compiling, drafting, hashing, rollouts
from benchmarks.setting import Setting
import score_jax
from score_jax.errors import ConfigError
from score_jax.models import weights
from score_jax.planning import costs
from score_jax.reporting import profile


def test_the_ideal_schedule_gives_a_free_slot_the_next_row_at_once():
  # Two decode slots: 5 then 1 (until 6), 3 then 4 (until 7): 13 useful of 14 decode slot-steps.
  assert rollouts.useful_share(np.array([5, 3, 4, 1]), 2) == pytest.approx(13 / 14)
  assert rollouts.useful_share(np.array([2, 2, 2, 2]), 4) == 1


@pytest.mark.parametrize('tied', [True, False])
def test_flops_of_an_update_count_products_and_the_causal_half_of_attention(tied):
  config = tiny.decoder_config('llama', tied=tied)
  everything = weights.weight_table(config).parameters()
  looked_up = 0 if tied else config.vocab * config.width
  attention = 6 * config.layers * config.heads * config.head_width * (3**2 + 5**2)
  assert costs.update_flops(config, np.array([3, 5])) == 6 * (everything - looked_up) * 8 + attention


def test_idle_time_is_what_no_interval_covers():
  assert profile.covered([(0, 4), (2, 6), (10, 11), (3, 5)]) == (7, 11)


def test_programs_that_are_compiled_once_are_kept_and_failures_compiled_again(monkeypatch, tmp_path, capsys):
  """One failure is a line, the next rows follow, and the call ends with an error."""
  broken, asked = ['v6e:4x4'], []

  def outcome(setting, key):
    asked.append(key['topology'])
    if key['topology'] in broken:
      raise ValueError('of the\ncompiler')
    step = dict(moved=3e9, floor=2e9)
    return compiling._Outcome(slots=8, seconds=1.0, peak=2**30, kernel='mosaic', steps=dict(middle=step))

  monkeypatch.setattr(compiling, '_outcome', outcome)
  monkeypatch.setattr(compiling.importlib.metadata, 'version', lambda name: '1')
  setting = Setting(shapes=('tiny',), tensors=(1,), topologies=('v6e:4x4', 'v5e:4x4'), results=str(tmp_path / 'rows'))
  with pytest.raises(ConfigError, match='1 of 2 programs'):
    compiling.measure(setting)
  written = [json.loads(line) for line in (tmp_path / 'rows').read_text().splitlines()]
  assert [bool(row['failure']) for row in written] == [True, False]
  lines = capsys.readouterr().out.splitlines()
  assert '| 3.00, 1.50 |' in lines[3] and lines[4] == 'tiny, v6e:4x4, tensor 1: ValueError: of the compiler'
  broken.clear()
  assert len(compiling.measure(setting)) == 2
  assert asked == ['v6e:4x4', 'v5e:4x4', 'v6e:4x4'], 'what is in the file is not compiled again'


def test_the_bandwidth_of_a_device_is_known_by_its_kind():
  assert costs.bandwidth_of('NVIDIA H200') == 4.8e12 and costs.bandwidth_of('TPU v5 lite') == 819e9
  assert costs.bandwidth_of('cpu') is None


@pytest.mark.slow
def test_hosts_as_processes_hash_a_part_each(tmp_path):
  for number in range(4):
    (tmp_path / f'{number}.safetensors').write_bytes(bytes(1_000_000))
  counts = (1, min(2, len(os.sched_getaffinity(0))))
  by_hosts = hashing.measure(Setting(folder=str(tmp_path), hosts=counts))['by_hosts']
  assert by_hosts[str(counts[-1])]['megabytes'] == [4.0 / counts[-1]] * counts[-1]
  with pytest.raises(ConfigError, match='each host takes one'):
    hashing.measure(Setting(folder=str(tmp_path), hosts=(10_000,)))
  with pytest.raises(ConfigError, match='must be a folder of .safetensors'):
    hashing.measure(Setting(folder=str(tmp_path.parent)))


@pytest.mark.slow
def test_a_tracer_traces_the_steps_after_those_that_compile(tmp_path, capsys):
  tracer = profile.Tracer(tmp_path, 1)
  for step in range(4):
    with tracer.step():
      jax.block_until_ready(jnp.ones(3) + step)
    assert bool(list(tmp_path.rglob('*.xplane.pb'))) == (step >= 2)
  assert 'traced 1 steps' in capsys.readouterr().out
  assert profile.summary(tmp_path)['idle'] is None  # a CPU is no device of its own in a trace


@pytest.mark.slow
def test_guessing_is_timed_over_draws_and_compared_with_plain_decoding():
  """Of the bundled base, f32 on a CPU: the same conversations in fewer steps."""
  folder = pathlib.Path(score_jax.__file__).parent / 'assets' / 'countdown_base'
  setting = Setting(folder=str(folder), preset='quickstart', dtype='float32', rows=16, draws=2, repeats=1)
  plain, guessing = drafting.measure(dataclasses.replace(setting, drafts=(0.0, 1.0), keep_slots=True))[
    'drafts'
  ].values()
  assert plain['tokens'] == guessing['tokens'] and plain['differences'] == guessing['differences'] == []
  assert plain['tokens_per_step'] == [1, 1] and guessing['tokens_per_step'][1] > 1
  assert guessing['seconds'] == pytest.approx(guessing['first_attempts_seconds'] + guessing['others_seconds'], abs=2e-4)
