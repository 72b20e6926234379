"""Keeps torch out of the commands, which do not use it: transformers takes seconds to import it where it is installed.

A program that uses score_jax as a library keeps its torch: only `cli.run` asks for this.
"""

from collections.abc import Iterator
import contextlib
import sys

_asked = False


def ask() -> None:
  """From here on this process reads tokenizers without torch."""
  global _asked
  _asked = True


@contextlib.contextmanager
def tokenizers_alone() -> Iterator[None]:
  """Within it transformers finds no torch, if that was asked for and nobody has imported it yet.

  What transformers has found once it remembers, so torch is not imported later either.
  """
  if not _asked or 'torch' in sys.modules:
    yield
    return
  sys.modules['torch'] = None
  try:
    yield
  finally:
    del sys.modules['torch']  # others look there for it
