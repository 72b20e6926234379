# SPDX-License-Identifier: Apache-2.0
"""The host's side of a rollout: problems in, conversations and their texts out."""

import dataclasses
import enum
import functools
from typing import Any

from flax import traverse_util
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np

from score_jax.core_types import Problem
from score_jax.errors import DataError
from score_jax.models import decode_attention, decoder
from score_jax.models import lora as loras
from score_jax.models.families import DecoderConfig
from score_jax.models.lora import Lora
from score_jax.parallel import mesh as meshes
from score_jax.sampling.rollout import RolloutSpec, no_forced, rollout
from score_jax.states import Rollout
from score_jax.tasks.chat import Chat


class Stream(enum.IntEnum):
  """Independent streams of randomness of one seed."""

  TRAIN = 0
  EVALUATION = 1
  OFFLINE = 2
  ADAPTERS = 3
  COLLECT = 4


def stream_key(seed: int, stream: Stream, step: int) -> jax.Array:
  """Returns the key of a rollout, into which rows fold their global number."""
  return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), int(stream)), step)


@dataclasses.dataclass(frozen=True)
class Sampler:
  """Everything about sampling that stays the same during a run."""

  mesh: Mesh
  config: DecoderConfig
  chat: Chat
  budgets: tuple[int, ...]  # [A] tokens
  dtype: Any  # compute dtype
  lora: Lora = loras.NONE
  decode_slots: int = 0  # rows decoded at a time on each device; 0: all
  cache_dtype: str = 'auto'  # of cached keys and values; 'auto': the compute dtype

  def spec(self, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> RolloutSpec:
    """Returns the compiled-in settings of a rollout."""
    ids = {name: getattr(self.chat, name) for name in ('separators', 'end_of_turn', 'stops', 'pad')}
    own = {name: getattr(self, name) for name in ('budgets', 'decode_slots', 'cache_dtype')}
    chosen = dict(temperature=temperature, top_k=top_k, top_p=top_p)
    return RolloutSpec(**ids, **own, **chosen, kernel=self._has_kernel)

  @property
  def _has_kernel(self) -> bool:
    on_whole_heads = self.mesh.shape['tensor'] == 1 and self.mesh.devices.flat[0].platform == 'gpu'
    own_dtype = self.cache_dtype in ('auto', jnp.dtype(self.dtype).name)
    return on_whole_heads and own_dtype and decode_attention.fits(self.config, jnp.dtype(self.dtype))

  def layout(self, params: Any) -> Any:
    """Returns the sampling layout of a tree: a copy in the compute dtype, a tuple of layers."""
    return laid_out(params, config=self.config, dtype=jnp.dtype(self.dtype), mesh=self.mesh, lora=self.lora)

  def encoded(self, problems: list[Problem]) -> tuple[np.ndarray, np.ndarray]:
    """Returns prompt_BP and start_B, a row a problem; DataError if a token is not the model's."""
    prompt_BP, start_B = self.chat.prompts(problems)
    if prompt_BP.max() >= self.config.vocab:
      raise DataError(
        f'a prompt has token {prompt_BP.max()}, but the model has {self.config.vocab} tokens; the tokenizer is of '
        'another model'
      )
    return prompt_BP, start_B

  def sample(
    self,
    params: Any,
    prompts: tuple[np.ndarray, np.ndarray],
    key: jax.Array,
    spec: RolloutSpec,
    *,
    first_row: int = 0,
    forced: np.ndarray | None = None,
  ) -> Rollout:
    """Samples one conversation per prompt; returns all hosts' rows, on the devices.

    Args:
      params: from `layout`.
      prompts: from `encoded`; of several hosts, each gives its own rows (`meshes.local_rows`).
      key: from `stream_key`.
      spec: from `spec`.
      first_row: global number of the first row.
      forced: i32 [B, F] first attempts given from outside; -1 where the token is sampled.
    """
    prompt_BP, start_B = prompts
    row_B = first_row + meshes.local_rows(self.mesh, meshes.all_rows(self.mesh, len(start_B)))
    if forced is None:
      forced = no_forced(len(start_B), spec)
    *rows, forced_BF = meshes.put_rows(self.mesh, (prompt_BP, start_B, row_B, forced))
    program = dict(config=self.config, spec=spec, dtype=jnp.dtype(self.dtype), mesh=self.mesh)
    return rollout(params, *rows, key, forced_BF, **program)

  def texts(self, rollout_: Rollout) -> list[list[str]]:
    """Returns the text [B][A] of each attempt of this host's rows."""
    tokens_BL, attempt_BL, stop_BA = meshes.fetch_rows((rollout_.tokens, rollout_.attempt, rollout_.stop))
    return self.chat.texts(tokens_BL, attempt_BL, stop_BA.shape[1])


@functools.partial(jax.jit, static_argnames=('config', 'dtype', 'mesh', 'lora'))
def laid_out(params: Any, *, config: DecoderConfig, dtype: Any, mesh: Mesh, lora: Lora = loras.NONE) -> Any:
  """Compiles `Sampler.layout` of a tree in the training layout."""
  table = loras.policy_table(config, lora)
  wanted = traverse_util.flatten_dict(meshes.params(mesh, table, meshes.SAMPLING_RULES))
  leaves = {
    path: jax.lax.with_sharding_constraint(leaf.astype(dtype), wanted[path])
    for path, leaf in traverse_util.flatten_dict(params).items()
  }
  together = mesh.shape['tensor'] == 1
  return decoder.for_decoding(traverse_util.unflatten_dict(leaves), config, together=together)
