"""Keeps torch out of the commands, which do not use it: transformers takes seconds to import it where it is installed.

A program that uses score_jax as a library keeps its torch: only `cli.run` requests this.
"""

from collections.abc import Iterator
import contextlib
import sys

_requested = False


def request() -> None:
  """Makes this process read tokenizers without torch from here on."""
  global _requested
  _requested = True


@contextlib.contextmanager
def applied() -> Iterator[None]:
  """Hides torch from transformers, if that was requested and nobody has imported it yet.

  transformers remembers what it has seen once, so torch is not imported later either.
  """
  if not _requested or 'torch' in sys.modules:
    yield
    return
  sys.modules['torch'] = None
  try:
    yield
  finally:
    del sys.modules['torch']  # others look there for it
