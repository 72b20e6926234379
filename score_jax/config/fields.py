# SPDX-License-Identifier: Apache-2.0
"""The fields of a configuration, as frozen dataclasses.

`configs/common.py` documents every field, once, with its unit and default; nothing here has a default of its own.
"""

import ast
import dataclasses
from typing import Any

from score_jax.core_types import Stage
from score_jax.graders.registry import GradingSpec
from score_jax.models.lora import Lora
from score_jax.tasks.countdown import CountdownSpec
from score_jax.tasks.jsonl import JsonlSpec
from score_jax.tasks.mbpp import MbppSpec
from score_jax.tasks.problems import DataSpec

MODES = ('score', 'supervised')
DATASETS = ('star', 'sft')  # names of training.methods.pairs.DATASETS
DTYPES = ('auto', 'float32', 'bfloat16')
CACHE_DTYPES = ('auto', 'float32', 'bfloat16', 'float8_e4m3fn')
LONG_PROMPTS = ('error', 'drop')
REWARD_FORMATS = ('text', 'messages')
REMATS = ('none', 'elementwise', 'dots', 'full')  # names of models.decoder.REMATS; each keeps less than the one before


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  path: str
  dtype: str
  remat: str
  logits_mb: float


@dataclasses.dataclass(frozen=True)
class TaskConfig:
  name: str
  evaluate: str
  data: DataSpec
  prompt: str
  long_prompts: str
  system: str
  instruction: str
  chat_template: str
  template_kwargs: str
  examples: str
  date: str
  reward: str
  rewards: str
  unreadable_golds: float
  correct_at: float
  reward_format: str
  countdown: CountdownSpec
  mbpp: MbppSpec
  jsonl: JsonlSpec

  @property
  def reward_weights(self) -> dict[str, float]:
    """Returns the weight of each reward, by name; {}: the task's own verifier decides alone."""
    return ast.literal_eval(self.rewards) if self.rewards else {self.reward: 1.0} if self.reward else {}

  @property
  def template_settings(self) -> dict[str, Any]:
    """Returns what the chat template reads beside the messages, by name."""
    return ast.literal_eval(self.template_kwargs) if self.template_kwargs else {}


@dataclasses.dataclass(frozen=True)
class BatchConfig:
  problems: int
  samples: int
  micro_batches: int
  pack: bool


@dataclasses.dataclass(frozen=True)
class SamplingMeshConfig:
  data: int
  tensor: int


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
  prompt_tokens: int
  attempt_tokens: tuple[int, ...]
  mesh: SamplingMeshConfig
  decode_slots: int
  drafts: float
  longest_draft: int
  cache_dtype: str


@dataclasses.dataclass(frozen=True)
class LossConfig:
  kl_form: str
  importance_cap: float
  attempt_gradient_norms: bool | None


@dataclasses.dataclass(frozen=True)
class OptimConfig:
  learning_rate: float
  schedule: str
  warmup_steps: int
  b1: float
  b2: float
  eps: float
  weight_decay: float
  clip_norm: float
  max_rejected_in_a_row: int


@dataclasses.dataclass(frozen=True)
class EvalConfig:
  problems: int
  seed: int
  every: int


@dataclasses.dataclass(frozen=True)
class ReportConfig:
  rows: int
  every: int
  kl_alarm: float
  stop_on: tuple[str, ...]
  tensorboard: bool
  wandb: str
  wandb_entity: str
  trackio: str
  group: str
  tags: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
  every: int
  keep: int
  best_window: int


@dataclasses.dataclass(frozen=True)
class SelectionConfig:
  problems: int
  reward_weights: tuple[float, ...]
  bonus: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class FaultsConfig:
  grace_seconds: float
  max_failed_saves: int
  check_memory: bool
  forget_best: bool
  stuck_factor: float
  stuck_seconds: float
  stuck_first_seconds: float
  max_rejected: float
  kl_limit: float
  mismatch_stop: float


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  data: int
  fsdp: int
  tensor: int


@dataclasses.dataclass(frozen=True)
class HostsConfig:
  init_seconds: int
  heartbeat_seconds: int
  barrier_seconds: int


@dataclasses.dataclass(frozen=True)
class SupervisedConfig:
  dataset: str
  plus: bool
  iterations: int
  steps: int
  problems: int
  samples: int
  loss_on: tuple[bool, ...]


@dataclasses.dataclass(frozen=True)
class RunConfig:
  """A whole run. `stage_runs` is the run's list of stages, in the order in which they are trained."""

  mode: str
  seed: int
  max_steps: int
  init_from: str
  compile_cache: str
  model: ModelConfig
  lora: Lora
  task: TaskConfig
  grading: GradingSpec
  batch: BatchConfig
  sampling: SamplingConfig
  stage_runs: tuple[Stage, ...]
  offline_pool: int
  loss: LossConfig
  optim: OptimConfig
  eval: EvalConfig
  report: ReportConfig
  checkpoint: CheckpointConfig
  selection: SelectionConfig
  faults: FaultsConfig
  mesh: MeshConfig
  hosts: HostsConfig
  supervised: SupervisedConfig

  @property
  def attempts(self) -> int:
    """A."""
    return len(self.sampling.attempt_tokens)

  @property
  def rows(self) -> int:
    """B of a training step."""
    return self.batch.problems * self.batch.samples

  @property
  def total_steps(self) -> int:
    """Of all stage_runs, before `max_steps`."""
    return sum(stage.steps for stage in self.stage_runs)
