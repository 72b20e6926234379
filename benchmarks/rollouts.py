# SPDX-License-Identifier: Apache-2.0
"""Speed of the compiled rollout on random weights, beside the floor that memory sets.

A row takes its whole budget, or stops where it is told to: a random model does not. Whole budgets are given two
predictions: the floor, at the copy rate of this run, and all that the planner's model says is moved, at the published
bandwidth. Milliseconds of a step are those of the whole call, prefill included.
"""

import functools
import heapq
import statistics
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import machine
from benchmarks.setting import Setting
from score_jax.config import from_config_dict, load_config
from score_jax.errors import ConfigError
from score_jax.models import config_json, decoder, weights
from score_jax.models import lora as loras
from score_jax.models.families import DecoderConfig
from score_jax.models.shapes import SHAPES
from score_jax.parallel import mesh as meshes
from score_jax.planning import costs, decoding, programs
from score_jax.sampling import rollout as rollouts
from score_jax.sampling import sampler
from score_jax.sampling.spec import RolloutSpec, suited

_NO_STOP = -1  # an id that is never sampled
FIELDS = (
  *('shape', 'rows', 'decode_slots', 'drafts', 'prompt', 'attempts', 'instruction', 'mean_length'),
  *('dtype', 'mesh', 'repeats'),
)


def measure(setting: Setting) -> dict[str, Any]:
  """Measures a rollout; times are medians over `repeats`, host work included.

  Raises:
    ConfigError: lengths are ragged and there are several attempts.
  """
  if setting.mean_length and len(setting.attempts) > 1:
    raise ConfigError('--mean_length goes with one attempt: --attempts=1024')
  config = config_json.from_hf(SHAPES[setting.shape], setting.shape)
  dtype, mesh = jnp.dtype(setting.dtype), meshes.make_mesh(*setting.mesh)
  layout = functools.partial(decoder.for_decoding, config=config, **sampler.decoding_options(mesh))
  params = jax.jit(layout, out_shardings=meshes.replicated(mesh))(random_params(config, dtype))
  stop = config.vocab - 1 if setting.mean_length else _NO_STOP
  spec = RolloutSpec(
    budgets=setting.attempts,
    separators=(tuple(range(setting.instruction)),) * (len(setting.attempts) - 1),
    end_of_turn=stop,
    stops=(stop,),
    pad=0,
    decode_slots=setting.decode_slots,
    drafts=setting.drafts[0],
    longest_draft=setting.longest_draft,
  )
  spec = suited(spec, config, dtype, mesh)
  rng = np.random.default_rng(0)
  prompt_BP = rng.integers(0, config.vocab, (setting.rows, setting.prompt)).astype(np.int32)
  start_B, row_B = np.zeros(setting.rows, np.int32), np.arange(setting.rows, dtype=np.int32)

  def seconds_of(forced: Any) -> tuple[float, float]:
    inputs = meshes.put_rows(mesh, (prompt_BP, start_B, row_B, np.asarray(forced)))

    def run() -> Any:
      prompt, start, row, forced = inputs
      return rollouts.rollout(
        params, prompt, start, row, jax.random.key(0), forced, config=config, spec=spec, dtype=dtype, mesh=mesh
      )

    first, others = machine.timed(run, setting.repeats)
    return first, statistics.median(others)

  nothing_forced = rollouts.no_forced(setting.rows, spec)
  if setting.mean_length:
    results = _ragged(setting, spec, stop, seconds_of, nothing_forced)
  else:
    compile_seconds, seconds = seconds_of(nothing_forced)
    model = config, loras.NONE, from_config_dict(load_config('score')).optim, mesh, mesh, dtype
    plan = programs.Plan(*model, spec, update=None, prompt=setting.prompt, rows=setting.rows)
    results = _full(plan, seconds) | dict(compile_seconds=round(compile_seconds, 1))
  return dict(
    device=jax.devices()[0].device_kind,
    devices=mesh.size,
    **results,
    peak_mb=machine.peak_mb(),
  )


def _full(plan: programs.Plan, seconds: float) -> dict[str, Any]:
  """Returns rates of rows that use whole budgets, and what a step should take by the bytes that it moves."""
  steps = plan.rollout.growth * -(-plan.sampled_rows // plan.decode_slots)
  step = decoding.step(plan, decoding.assumed_outside(plan), decoding.whole_budgets(plan))
  floor = step.floor / machine.copy_rate()
  bandwidth = costs.bandwidth_of(jax.devices()[0].device_kind)
  predicted = step.moved / bandwidth if bandwidth else None
  return dict(
    attention=plan.rollout.kernel or 'plain',
    seconds=round(seconds, 4),
    tokens_per_second=round(plan.rows * sum(plan.rollout.budgets) / seconds),
    ms_per_step=round(1000 * seconds / steps, 4),
    bytes_per_step=round(step.moved),
    predicted_ms_per_step=predicted and round(1000 * predicted, 4),
    of_predicted=predicted and round(predicted * steps / seconds, 3),
    floor_bytes_per_step=round(step.floor),
    floor_ms_per_step=round(1000 * floor, 4),
    of_floor=round(floor * steps / seconds, 3),
  )


def _ragged(setting: Setting, spec: RolloutSpec, stop: int, seconds_of: Any, nothing_forced: Any) -> dict[str, Any]:
  """Measures rows of geometric lengths, and rows of their mean length."""
  draws = np.random.default_rng(0).geometric(1 / setting.mean_length, setting.rows)
  length_B = np.clip(draws, 1, setting.attempts[0])
  equal_B = np.full(setting.rows, round(length_B.mean()))

  def stopping(length_B: np.ndarray) -> np.ndarray:
    forced = np.array(nothing_forced)
    cut_B = length_B < setting.attempts[0]
    forced[cut_B, length_B[cut_B] - 1] = stop
    return forced

  compile_seconds, equal = seconds_of(stopping(equal_B))
  _, ragged = seconds_of(stopping(length_B))
  equal_rate, rate = equal_B.sum() / equal, length_B.sum() / ragged
  ideal = useful_share(length_B, setting.decode_slots or setting.rows)
  return dict(
    seconds=round(ragged, 4),
    tokens_per_second=round(rate),
    equal_tokens_per_second=round(equal_rate),
    of_equal=round(rate / equal_rate, 3),
    ideal_of_equal=round(ideal, 3),
    of_ideal=round(rate / equal_rate / ideal, 3),
    compile_seconds=round(compile_seconds, 1),
  )


def useful_share(length_B: np.ndarray, decode_slots: int) -> float:
  """Returns the share of slot-steps that sample, if a free slot takes the next row at no cost."""
  free_at = [0] * decode_slots
  for length in length_B:
    heapq.heappush(free_at, heapq.heappop(free_at) + int(length))
  return float(length_B.sum() / (decode_slots * max(free_at)))


def random_params(config: DecoderConfig, dtype: Any, shardings: Any = None) -> dict[str, Any]:
  """Draws random weights on the devices, in their dtype and layout."""
  table = weights.weight_table(config)

  @functools.partial(jax.jit, out_shardings=shardings)
  def draw(key: jax.Array) -> dict[str, Any]:
    keys = iter(jax.random.split(key, len(table.weights)))
    return table.tree(lambda w: (0.02 * jax.random.normal(next(keys), w.shape(table.sizes), jnp.float32)).astype(dtype))

  return draw(jax.random.key(0))
