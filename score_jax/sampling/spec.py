# SPDX-License-Identifier: Apache-2.0
"""The settings of a rollout, which are compiled in."""

import dataclasses
import itertools

import jax.numpy as jnp
from jax.sharding import Mesh

from score_jax.models import decode_attention, flash
from score_jax.models.families import DecoderConfig

_GROWTHS = 4  # of a TPU's cache, which is read whole where no kernel serves; more take longer to compile
GPU_PARTS = (2, 8)  # of a GPU's decode slots, where a step of fewer rows takes less time; each is compiled
_FEWEST = 32  # decode slots that a part has
_PROMPTS = 32  # that a GPU prefills at a time


@dataclasses.dataclass(frozen=True)
class Phase:
  """A part of the decoding of rows none of which waits for a slot."""

  cache: int  # slots of a row
  slots: int  # B
  left: int  # rows; once no more go on, the next phase begins


@dataclasses.dataclass(frozen=True)
class RolloutSpec:
  """The settings of a rollout; hashable."""

  budgets: tuple[int, ...]  # [A] tokens of an attempt, its stop included
  separators: tuple[tuple[int, ...], ...]  # [A - 1] end-of-turn and what follows
  end_of_turn: int
  stops: tuple[int, ...]  # ids, `end_of_turn` among them
  pad: int
  temperature: float = 1.0
  decode_slots: int = 0  # rows decoded at a time on each device; 0: all
  drafts: float = 0.0  # tokens that a step guesses a row, the mean over a device's rows
  longest_draft: int = 8  # tokens that it guesses of one row
  cache_dtype: str = 'auto'  # of cached keys and values; 'auto': the compute dtype
  kernel: str = ''  # of `decode_attention.BLOCKS`
  prefill: str = 'plain'  # of `flash.KINDS`: how prompts attend
  growths: int = 1  # steps in which the cache comes to its size, where every row has a slot
  parts: tuple[int, ...] = ()  # n: a rollout ends on one of n parts of its decode slots, once no more rows go on
  prompts: int = 0  # that are prefilled at a time, each once for all rows that begin with it; 0: every row's at once

  @property
  def attempts(self) -> int:
    return len(self.budgets)

  @property
  def growth(self) -> int:
    """The most tokens that a conversation adds to its prompt: L - P."""
    return sum(self.budgets) + sum(len(separator) for separator in self.separators)

  @property
  def guesses(self) -> int:
    """The most tokens that a step guesses of a row: G."""
    return self.longest_draft if self.drafts else 0

  def step_tokens(self, rows: int) -> int:
    """Returns how many tokens a step computes of rows that are decoded together."""
    return min(rows + round(rows * self.drafts), rows * (1 + self.guesses))


def suited(spec: RolloutSpec, config: DecoderConfig, dtype, mesh: Mesh) -> RolloutSpec:
  """Returns the settings with what a model's rollouts on a mesh are decoded by."""
  kernel = decode_attention.best(config, dtype, cache_dtype(spec, dtype), mesh)
  platform = mesh.devices.flat[0].platform
  if platform == 'gpu':
    prefill = flash.best(config, dtype, mesh).kind if kernel else 'plain'
    return dataclasses.replace(spec, kernel=kernel, prefill=prefill, parts=GPU_PARTS, prompts=_PROMPTS)
  return dataclasses.replace(spec, kernel=kernel, growths=_GROWTHS if platform == 'tpu' and not kernel else 1)


def cache_dtype(spec: RolloutSpec, dtype) -> jnp.dtype:
  return jnp.dtype(dtype if spec.cache_dtype == 'auto' else spec.cache_dtype)


def cache_sizes(spec: RolloutSpec, prompt: int, *, together: bool) -> list[int]:
  """Returns the slots that the cache has one after another; it grows where all rows go on `together`."""
  block = decode_attention.BLOCKS[spec.kernel]  # of which a cache has whole ones
  growths = spec.growths if together and not spec.kernel else 1
  ends = [prompt + -(-spec.growth * (i + 1) // growths) + spec.guesses for i in range(growths)]
  return [-(-end // block) * block for end in ends]


def phases(spec: RolloutSpec, prompt: int, rows: int, *, together: bool) -> list[Phase]:
  """Returns the phases of as many rows, none of which waits: the cache grows, then decode slots become fewer."""
  sizes = cache_sizes(spec, prompt, together=together)
  growing = [Phase(size, rows, 0) for size in sizes[:-1]]
  return growing + [Phase(sizes[-1], slots, left) for slots, left in fewer_slots(rows, spec.parts)]


def fewer_slots(rows: int, parts: tuple[int, ...]) -> list[tuple[int, int]]:
  """Returns pairs: decode slots, and how many rows are left when they become fewer, which have one each then."""
  slots = [rows, *(rows // n for n in parts if rows % n == 0 and rows // n >= _FEWEST)]
  return list(itertools.pairwise([*slots, 0]))
