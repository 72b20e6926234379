# SPDX-License-Identifier: Apache-2.0
"""`config.pretrain`, the fields of a base policy, with their checks."""

import dataclasses

from ml_collections import ConfigDict

from experiments.countdown_base.mixture import Mixture
from score_jax import config as configs
from score_jax.config import RunConfig
from score_jax.configs import common
from score_jax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class PretrainConfig:
  """Fields of a pretraining; the defaults are the bundled base's."""

  conversations: int = 500_000  # made once, then drawn from
  rows: int = 256  # conversations a step
  steps: int = 3600
  width: int = 64  # D
  layers: int = 4  # N
  heads: int = 4  # H = K
  ffn: int = 192  # F
  max_positions: int = 256  # most tokens of a conversation
  attempts: int = 2  # in a conversation
  # Other wordings of task.instruction, each as frequent as that.
  rewordings: tuple[str, ...] = ()
  init_scale: float = 0.05  # standard deviation of initial matrices
  mixture: Mixture = Mixture()
  sharpen_rounds: int = 0  # of training on the model's own first attempts (pretrain.py)
  sharpen_temperature: float = 0.3  # of those attempts
  sharpen_conversations: int = 200_000  # sampled in each round
  sharpen_rows: int = 4096  # of them at a time
  sharpen_steps: int = 1000  # in each round, of `rows` conversations
  sharpen_learning_rate: float = 1e-3  # peak, in each round
  sharpen_look_back: float = 0.1  # replaces mixture.look_back
  sharpen_wander: float = 0.08  # replaces mixture.wander
  sharpen_afresh: float = 0.0  # replaces mixture.afresh
  sharpen_attempts: int = 2  # replaces attempts: the most that may be asked of a policy

  def check(self, warmup_steps: int) -> None:
    """Raises ConfigError for a field out of bounds."""
    sizes = ('conversations', 'rows', 'steps', 'width', 'layers', 'heads', 'ffn')
    sizes += ('sharpen_conversations', 'sharpen_rows', 'sharpen_steps')
    least = dict.fromkeys(sizes, 1) | dict(attempts=2, sharpen_attempts=2, sharpen_rounds=0, sharpen_temperature=0)
    for name, bound in least.items():
      _require(getattr(self, name) >= bound, f'{name} = {getattr(self, name)} must be {bound} or more')
    _require(warmup_steps < self.steps, f'steps = {self.steps} must be above config.optim.warmup_steps: {warmup_steps}')
    _require(
      self.width % (2 * self.heads) == 0,
      f'heads = {self.heads} must divide config.pretrain.width = {self.width} into even widths',
    )
    mixture = self.mixture
    for prefix, *shares in (
      ('mixture.', mixture.look_back, mixture.wander, mixture.afresh),
      ('sharpen_', self.sharpen_look_back, self.sharpen_wander, self.sharpen_afresh),
    ):
      _require(
        min(shares) >= 0 and sum(shares) <= 1,
        f'{prefix}look_back = {shares[0]}, {prefix}wander = {shares[1]}, {prefix}afresh = {shares[2]} must be '
        '0 or more, and 1 at most together',
      )


def _require(condition: bool, message: str) -> None:
  if not condition:
    raise ConfigError(f'config.pretrain.{message}')


def defaults() -> ConfigDict:
  """Returns the fields of a run, and `config.pretrain`."""
  config = common.get_config()
  config.pretrain = ConfigDict(dataclasses.asdict(PretrainConfig()))
  config.model.remat = 'none'
  config.optim.schedule = 'cosine'
  config.optim.warmup_steps = 200
  config.optim.b2 = 0.99
  for stage in config.stages.values():
    stage.optim.warmup_steps = 0  # stages are not trained here
  return config


def from_config_dict(config: ConfigDict) -> tuple[RunConfig, PretrainConfig]:
  """Returns the checked fields of a run and of the pretraining. Raises ConfigError."""
  values = config.pretrain.to_dict()
  pretrain = PretrainConfig(**values | dict(mixture=Mixture(**values['mixture'])))
  run = configs.from_config_dict(ConfigDict({name: config[name] for name in config if name != 'pretrain'}))
  pretrain.check(run.optim.warmup_steps)
  return run, pretrain
