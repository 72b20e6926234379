# SPDX-License-Identifier: Apache-2.0
"""The grader of programs: runs unit tests in a sandbox on the program in a text.

    from score_jax.graders import code

    with code.CodeGrader() as grader:
      grader.grade({'setup': '', 'tests': ['assert add(2, 3) == 5']}, 'def add(a, b):\\n  return a + b').verdict

extract.py     which part of a text is the program         grader.py   from a text to a verdict
unit_tests.py  what the tests of a problem need and check  sandbox/    processes that hold untrusted programs

Names are loaded when first used: the sandbox's own processes import this package, too.
"""

import importlib

_NAMES = {'CodeGrader': 'grader', 'layers': 'grader', 'Limits': 'sandbox.limits'}
__all__ = list(_NAMES)


def __getattr__(name: str) -> object:
  if name not in _NAMES:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return getattr(importlib.import_module(f'{__name__}.{_NAMES[name]}'), name)
