"""Configurations: what a config file says, checked, as frozen dataclasses."""

from score_jax.config.build import as_dict
from score_jax.config.build import from_config_dict
from score_jax.config.build import identity
from score_jax.config.fields import REMATS
from score_jax.config.fields import FaultsConfig
from score_jax.config.fields import OptimConfig
from score_jax.config.fields import ReportConfig
from score_jax.config.fields import RunConfig

__all__ = (
  'as_dict',
  'from_config_dict',
  'identity',
  'REMATS',
  'FaultsConfig',
  'OptimConfig',
  'ReportConfig',
  'RunConfig',
)
