# SPDX-License-Identifier: Apache-2.0
"""score_jax: train language models to correct themselves (SCoRe, arXiv 2409.12917) in JAX.

The names below are public. Each is imported when it is first used: the graders need no jax.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = '0.2.0.dev0'

if TYPE_CHECKING:
  from score_jax.algorithm import losses, rewards
  from score_jax.api import Conversation, Evaluation, Run, evaluate, open_conversation, train
  from score_jax.config.load import load_config
  from score_jax.core_types import Graded, Problem, Stage, Verdict
  from score_jax.tasks import Task
  from score_jax.training.hooks import Hook

__all__ = (
  'Conversation',
  'Evaluation',
  'Graded',
  'Hook',
  'Problem',
  'Run',
  'Stage',
  'Task',
  'Verdict',
  'evaluate',
  'load_config',
  'losses',
  'open_conversation',
  'rewards',
  'train',
)

_MODULES = {
  'api': ('Conversation', 'Evaluation', 'Run', 'evaluate', 'open_conversation', 'train'),
  'config.load': ('load_config',),
  'core_types': ('Graded', 'Problem', 'Stage', 'Verdict'),
  'tasks': ('Task',),
  'training.hooks': ('Hook',),
}


def __getattr__(name: str) -> Any:
  if name in ('losses', 'rewards'):
    return importlib.import_module(f'{__name__}.algorithm.{name}')
  for module, names in _MODULES.items():
    if name in names:
      return getattr(importlib.import_module(f'{__name__}.{module}'), name)
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__})
