"""What the benchmarks count, by hand; what a trace says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from benchmarks import rollouts
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


@pytest.mark.slow
def test_a_tracer_traces_the_steps_after_those_that_compile(tmp_path, capsys):
  tracer = profile.Tracer(tmp_path, 1)
  for step in range(4):
    with tracer.step():
      jax.block_until_ready(jnp.ones(3) + step)
    assert bool(list(tmp_path.rglob('*.xplane.pb'))) == (step >= 2)
  assert 'traced 1 steps' in capsys.readouterr().out
  assert profile.summary(tmp_path)['idle'] is None  # a CPU is no device of its own in a trace
