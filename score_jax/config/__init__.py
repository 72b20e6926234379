# SPDX-License-Identifier: Apache-2.0
"""Configurations: presets and files of fields, read, checked and built as frozen dataclasses."""

from score_jax.config.build import as_dict
from score_jax.config.build import from_config_dict
from score_jax.config.build import identity
from score_jax.config.fields import REMATS
from score_jax.config.fields import FaultsConfig
from score_jax.config.fields import OptimConfig
from score_jax.config.fields import ReportConfig
from score_jax.config.fields import RunConfig
from score_jax.config.load import load_config
from score_jax.config.load import set_field

__all__ = (
  'as_dict',
  'from_config_dict',
  'identity',
  'load_config',
  'set_field',
  'REMATS',
  'FaultsConfig',
  'OptimConfig',
  'ReportConfig',
  'RunConfig',
)
