# SPDX-License-Identifier: Apache-2.0
"""Configurations: presets and files of fields, read, checked and built as frozen dataclasses."""

from score_jax.config.build import as_dict, from_config_dict, identity
from score_jax.config.fields import REMATS, FaultsConfig, OptimConfig, ReportConfig, RunConfig
from score_jax.config.load import load_config, set_field

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
