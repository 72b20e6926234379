"""Speed of the compiled rollout on random weights of a published shape, beside the floor that memory sets.

No token of a random model is a stop here, so every row takes its whole budget and every step is a full one.
"""

import dataclasses
import functools
import statistics
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_jax.benchmarks import machine
from score_jax.models import config_json
from score_jax.models import decode_attention
from score_jax.models import decoder
from score_jax.models import weights
from score_jax.models.families import DecoderConfig
from score_jax.models.shapes import SHAPES
from score_jax.parallel import mesh as meshes
from score_jax.sampling import rollout as rollouts
from score_jax.sampling.rollout import RolloutSpec

_NO_STOP = -1  # an id that is never sampled


@dataclasses.dataclass(frozen=True)
class Setting:
  """What is rolled out."""

  shape: str
  rows: int  # B
  prompt: int  # tokens of every prompt
  budgets: tuple[int, ...]  # sampled tokens of each attempt
  instruction: int  # tokens fed between attempts
  dtype: str
  mesh: tuple[int, int, int]
  repeats: int


def measure(setting: Setting) -> dict[str, Any]:
  """One line of results; times are medians over `repeats` whole rollouts, host work included."""
  config = config_json.from_hf(SHAPES[setting.shape], setting.shape)
  dtype, mesh = jnp.dtype(setting.dtype), meshes.make_mesh(*setting.mesh)
  params = jax.jit(lambda p: decoder.for_decoding(p, config, together=True))(random_params(config, dtype))
  feed = tuple(range(setting.instruction))
  spec = RolloutSpec(
    budgets=setting.budgets,
    feeds=(feed,) * (len(setting.budgets) - 1),
    end_of_turn=_NO_STOP,
    stops=(_NO_STOP,),
    pad=0,
    kernel=jax.default_backend() == 'gpu' and decode_attention.fits(config, dtype),
  )
  rng = np.random.default_rng(0)
  prompt_BP = jnp.asarray(rng.integers(0, config.vocab, (setting.rows, setting.prompt)), jnp.int32)
  start_B, row_B = jnp.zeros((setting.rows,), jnp.int32), jnp.arange(setting.rows, dtype=jnp.int32)
  forced = rollouts.no_forced(setting.rows, spec)

  def run() -> Any:
    return rollouts.rollout(
      params, prompt_BP, start_B, row_B, jax.random.key(0), forced, config=config, spec=spec, dtype=dtype, mesh=mesh
    )

  compile_seconds = machine.first_call(run)
  seconds = statistics.median(machine.timed(run, setting.repeats))
  steps = spec.growth
  sampled = setting.rows * sum(setting.budgets)
  floor = _bytes_per_step(config, setting, steps, dtype) / machine.copy_rate()
  return dict(
    bench='rollout',
    **dataclasses.asdict(setting),
    device=jax.devices()[0].device_kind,
    seconds=round(seconds, 4),
    tokens_per_second=round(sampled / seconds),
    ms_per_step=round(1000 * seconds / steps, 4),
    floor_ms_per_step=round(1000 * floor, 4),
    of_floor=round(floor * steps / seconds, 3),
    compile_seconds=round(compile_seconds, 1),
    peak_mb=machine.peak_mb(),
  )


def random_params(config: DecoderConfig, dtype: Any, shardings: Any = None) -> dict[str, Any]:
  """Random weights, drawn on the devices in their dtype and layout."""
  table = weights.weight_table(config)

  @functools.partial(jax.jit, out_shardings=shardings)
  def draw(key: jax.Array) -> dict[str, Any]:
    keys = iter(jax.random.split(key, len(table.weights)))
    return table.tree(lambda w: (0.02 * jax.random.normal(next(keys), w.shape(table.sizes), jnp.float32)).astype(dtype))

  return draw(jax.random.key(0))


def _bytes_per_step(config: DecoderConfig, setting: Setting, steps: int, dtype: Any) -> float:
  """Weights once, and the live cache of every row, on average over the steps; nothing else has to move."""
  table = weights.weight_table(config)
  weight_bytes = table.parameters() * dtype.itemsize
  per_token = 2 * config.layers * config.kv_heads * config.head_width * dtype.itemsize
  return weight_bytes + setting.rows * (setting.prompt + steps / 2) * per_token
