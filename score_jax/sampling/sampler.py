# SPDX-License-Identifier: Apache-2.0
"""The host's side of a rollout."""

from collections.abc import Sequence
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
from score_jax.models import decoder
from score_jax.models import lora as loras
from score_jax.models.families import DecoderConfig
from score_jax.models.lora import Lora
from score_jax.parallel import mesh as meshes
from score_jax.sampling.rollout import no_forced, rollout
from score_jax.sampling.spec import RolloutSpec, suited
from score_jax.states import Rollout
from score_jax.tasks.chat import Chat

_AT_A_TIME = 1024  # problems


class Stream(enum.IntEnum):
  """Independent randomness of one seed."""

  TRAIN = 0
  EVALUATION = 1
  OFFLINE = 2
  ADAPTERS = 3
  COLLECT = 4


def stream_key(seed: int, stream: Stream, step: int) -> jax.Array:
  """Returns the key of a rollout."""
  return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), int(stream)), step)


@dataclasses.dataclass(frozen=True)
class Sampler:
  """What sampling needs beside parameters."""

  mesh: Mesh  # of rollouts
  config: DecoderConfig
  chat: Chat
  budgets: tuple[int, ...]  # [A] tokens
  dtype: Any  # compute dtype
  lora: Lora = loras.NONE
  decode_slots: int = 0  # as in `RolloutSpec`
  drafts: float = 0.0
  longest_draft: int = 8
  cache_dtype: str = 'auto'

  def spec(self, temperature: float = 1.0) -> RolloutSpec:
    """Returns the compiled-in settings of a rollout."""
    spec = RolloutSpec(
      budgets=self.budgets,
      separators=self.chat.separators,
      end_of_turn=self.chat.end_of_turn,
      stops=self.chat.stops,
      pad=self.chat.pad,
      temperature=temperature,
      decode_slots=self.decode_slots,
      drafts=self.drafts,
      longest_draft=self.longest_draft,
      cache_dtype=self.cache_dtype,
    )
    return suited(spec, self.config, jnp.dtype(self.dtype), self.mesh)

  def layout(self, params: Any) -> Any:
    """Copies a tree, of any mesh over the same devices in the same order, into the sampling layout and dtype."""
    return laid_out(params, config=self.config, dtype=jnp.dtype(self.dtype), mesh=self.mesh, lora=self.lora)

  def encoded(self, problems: Sequence[Problem]) -> tuple[np.ndarray, np.ndarray]:
    """Returns prompt_BP and start_B; DataError: a prompt is too long, or has a token that is not the model's."""
    prompt_BP, start_B = self.chat.prompts(problems)
    if (token := prompt_BP.max()) >= self.config.vocab:
      problem, text = problems[prompt_BP.max(axis=1).argmax()], self.chat.tokenizer.convert_ids_to_tokens(int(token))
      raise DataError(
        f'problem {problem.id}: its prompt has token {token} ({text!r}), but the model has {self.config.vocab} tokens; '
        'use its own tokenizer'
      )
    return prompt_BP, start_B

  def check(self, problems: Sequence[Problem]) -> None:
    """Encodes all, and so raises as `encoded` does."""
    for first in range(0, len(problems), _AT_A_TIME):
      self.encoded(problems[first : first + _AT_A_TIME])

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
    """Samples a conversation per prompt of this host; returns all hosts' rows, on the devices.

    `params` are from `layout`, `prompts` from `encoded`; `first_row` is a global number, `forced` as in `rollout`.
    """
    prompt_BP, start_B = prompts
    row_B = first_row + meshes.local_rows(self.mesh, meshes.all_rows(self.mesh, len(start_B)))
    if forced is None:
      forced = no_forced(len(start_B), spec)
    *rows, forced_BF = meshes.put_rows(self.mesh, (prompt_BP, start_B, row_B, forced))
    program = dict(config=self.config, spec=spec, dtype=jnp.dtype(self.dtype), mesh=self.mesh)
    return rollout(params, *rows, key, forced_BF, **program)

  def texts(self, rollout_: Rollout) -> list[list[str]]:
    """Returns texts [B][A] of this host's rows."""
    tokens_BL, attempt_BL, stop_BA = meshes.fetch_rows((rollout_.tokens, rollout_.attempt, rollout_.stop))
    return self.chat.texts(tokens_BL, attempt_BL, stop_BA.shape[1])


@functools.partial(jax.jit, static_argnames=('config', 'dtype', 'mesh', 'lora'))
def laid_out(params: Any, *, config: DecoderConfig, dtype: Any, mesh: Mesh, lora: Lora = loras.NONE) -> Any:
  """The program of `Sampler.layout`; `mesh` is that of rollouts."""
  table = loras.policy_table(config, lora)
  wanted = traverse_util.flatten_dict(meshes.params(mesh, table, meshes.SAMPLING_RULES))
  leaves = {
    path: jax.lax.with_sharding_constraint(leaf.astype(dtype), wanted[path])
    for path, leaf in traverse_util.flatten_dict(params).items()
  }
  return decoder.for_decoding(traverse_util.unflatten_dict(leaves), config, **decoding_options(mesh))


def decoding_options(mesh: Mesh) -> dict[str, Any]:
  """Returns the options of `decoder.for_decoding` on a mesh."""
  # GPUs cast norms' scales within their kernels.
  norms_dtype = jnp.float32 if mesh.devices.flat[0].platform == 'tpu' else None
  return dict(together=mesh.shape['tensor'] == 1, norms_dtype=norms_dtype)
