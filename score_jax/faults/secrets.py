"""Tokens and keys never reach a log, a traceback or a file of a run.

What is hidden: values of environment variables whose names say that they are secret, and texts of the forms that the
usual services give their keys. Both wherever they stand in a text.
"""

from collections.abc import Mapping
import logging
import os
import re
import sys
import threading
import traceback
from typing import Any

HIDDEN = '[hidden]'
_SECRET_NAMES = re.compile(
  r'(^|_)(api_?key|access_?key|auth|credentials?|key|pass|passwd|password|pat|private|secret|token)s?(_|$)'
  r'|(token|secret|password|apikey)$',
  re.IGNORECASE,
)
_SHORTEST = 8  # characters of a value: shorter ones (`1`, `true`, a user's name) would black out ordinary words
_FORMS = re.compile(
  r'\bhf_[A-Za-z0-9]{16,}'  # Hugging Face
  r'|\bya29\.[\w.-]{16,}'  # Google access tokens
  r'|\bAIza[\w-]{35}'  # Google API keys
  r'|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b'  # AWS
  r'|\bgh[pousr]_[A-Za-z0-9]{30,}'  # GitHub
  r'|\bsk-[\w-]{20,}'
  r'|(?<=upload_id=)[\w-]+'  # of an upload to Google under way: who has it may write
  r'|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)'
  r'|(?<=://)[^/\s:@]*:[^/\s@]+(?=@)'  # user:password of an address
  # 40 hexadecimal digits are a commit too: a key only where its name stands beside it.
  r'|(?i:(?<=wandb)|(?<=key)|(?<=token))[\s\'"=:_-]{0,6}[0-9a-f]{40}\b',
  re.DOTALL,
)


def values(environment: Mapping[str, str]) -> list[str]:
  """Values of variables with secret names, longest first. A path says where a secret lies, not what it is."""
  hidden = {
    value
    for name, value in environment.items()
    if _SECRET_NAMES.search(name) and len(value) >= _SHORTEST and not os.path.exists(value)
  }
  return sorted(hidden, key=len, reverse=True)


def redacted(text: str) -> str:
  """The text without secrets."""
  for value in values(os.environ):
    text = text.replace(value, HIDDEN)
  return _FORMS.sub(HIDDEN, text)


def redacted_tree(value: Any) -> Any:
  """A JSON tree without secrets, in its strings and in its names."""
  if isinstance(value, str):
    return redacted(value)
  if isinstance(value, dict):
    return {redacted_tree(name): redacted_tree(item) for name, item in value.items()}
  if isinstance(value, (list, tuple)):
    return [redacted_tree(item) for item in value]
  return value


class _Filter(logging.Filter):
  """Works on the finished message and traceback, so that a secret in an argument is seen."""

  def filter(self, record: logging.LogRecord) -> bool:
    record.msg, record.args = redacted(record.getMessage()), None
    if record.exc_info:
      record.exc_text = redacted(''.join(traceback.format_exception(*record.exc_info)).rstrip())
      record.exc_info = None
    return True


_FILTER = _Filter()


class _Stream:
  """A text stream that hides secrets in what is written to it at a time."""

  def __init__(self, stream: Any):
    self._stream = stream

  def write(self, text: str) -> int:
    """As of a text stream."""
    self._stream.write(redacted(text))
    return len(text)

  def __getattr__(self, name: str) -> Any:
    return getattr(self._stream, name)


def guard() -> None:
  """Stands before every log handler there is, tracebacks of all threads, and what is printed. Called by the cli."""
  loggers = [logging.getLogger(), *logging.Logger.manager.loggerDict.values()]
  for handler in {handler for logger in loggers for handler in getattr(logger, 'handlers', ())}:
    handler.addFilter(_FILTER)  # which a handler has once
  sys.stdout, sys.stderr = (x if isinstance(x, _Stream) else _Stream(x) for x in (sys.stdout, sys.stderr))
  sys.excepthook = lambda *error: _show(*error)
  threading.excepthook = lambda args: _show(args.exc_type, args.exc_value, args.exc_traceback)
  sys.unraisablehook = lambda args: _show(args.exc_type, args.exc_value, args.exc_traceback)


def _show(kind: type[BaseException], error: BaseException | None, trace: Any) -> None:
  if kind is SystemExit:  # of a thread
    return
  print(redacted(''.join(traceback.format_exception(kind, error, trace))), end='', file=sys.stderr, flush=True)
