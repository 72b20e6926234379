# SPDX-License-Identifier: Apache-2.0
"""score_jax: train language models to correct themselves (SCoRe, arXiv 2409.12917) in JAX.

The names below are the public ones. Each is imported when it is first used, so that `import score_jax` is quick and the
graders can be used without jax.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = '0.2.0.dev0'

if TYPE_CHECKING:
  from score_jax.algorithm import losses, rewards
  from score_jax.api import Evaluation, Run, evaluate, train
  from score_jax.config.load import load_config
  from score_jax.core_types import Graded, Problem, Stage, Verdict
  from score_jax.tasks import Task
  from score_jax.training.hooks import Hook

__all__ = (
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
  'rewards',
  'train',
)

_MODULES = {
  'algorithm': ('losses', 'rewards'),
  'api': ('Evaluation', 'Run', 'evaluate', 'train'),
  'config.load': ('load_config',),
  'core_types': ('Graded', 'Problem', 'Stage', 'Verdict'),
  'tasks': ('Task',),
  'training.hooks': ('Hook',),
}


def __getattr__(name: str) -> Any:
  for module, names in _MODULES.items():
    if name in names:
      imported = importlib.import_module(f'{__name__}.{module}')
      return (
        importlib.import_module(f'{imported.__name__}.{name}') if module == 'algorithm' else getattr(imported, name)
      )
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__})
