# SPDX-License-Identifier: Apache-2.0
"""Tokens and keys never reach a log, a traceback or a file of a run.

Hidden are values of environment variables with names of secrets, and texts like the usual services' keys.
"""

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
_SHORTEST = 8  # characters of a value: shorter ones (`1`, `true`) are ordinary words
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
  # 40 hexadecimal digits may be a commit: a key is named beside them.
  r'|(?i:(?<=wandb)|(?<=key)|(?<=token))[\s\'"=:_-]{0,6}[0-9a-f]{40}\b',
  re.DOTALL,
)


def redacted(text: str) -> str:
  """Returns the text without secrets; a path is no secret."""
  named = {value for name, value in os.environ.items() if _SECRET_NAMES.search(name)}
  for value in sorted(named, key=len, reverse=True):
    if len(value) >= _SHORTEST and not os.path.exists(value):
      text = text.replace(value, HIDDEN)
  return _FORMS.sub(HIDDEN, text)


def redacted_tree(value: Any) -> Any:
  """Returns a JSON tree without secrets in strings and names."""
  if isinstance(value, str):
    return redacted(value)
  if isinstance(value, dict):
    return {redacted_tree(name): redacted_tree(item) for name, item in value.items()}
  return [redacted_tree(item) for item in value] if isinstance(value, list | tuple) else value


def guard() -> None:
  """Redacts what log handlers write, tracebacks of all threads, and what is printed."""
  loggers = [logging.getLogger(), *logging.Logger.manager.loggerDict.values()]
  for handler in {handler for logger in loggers for handler in getattr(logger, 'handlers', ())}:
    handler.addFilter(_hide)  # which a handler has once
  sys.stdout, sys.stderr = (x if isinstance(x, _Stream) else _Stream(x) for x in (sys.stdout, sys.stderr))
  sys.excepthook = _show
  threading.excepthook = sys.unraisablehook = lambda arguments: _show(*arguments[:3])


class _Stream:
  """A text stream that hides secrets in each text written."""

  def __init__(self, stream: Any):
    self._stream = stream

  def write(self, text: str) -> int:
    self._stream.write(redacted(text))
    return len(text)

  def __getattr__(self, name: str) -> Any:
    return getattr(self._stream, name)


def _hide(record: logging.LogRecord) -> bool:
  """Hides secrets of the finished message and traceback."""
  record.msg, record.args = redacted(record.getMessage()), None
  if record.exc_info:
    record.exc_text = redacted(''.join(traceback.format_exception(*record.exc_info)).rstrip())
    record.exc_info = None
  return True


def _show(kind: type[BaseException], error: BaseException | None, trace: Any) -> None:
  if kind is not SystemExit:  # of a thread
    text = ''.join(traceback.format_exception(kind, error, trace))
    print(redacted(text), end='', file=sys.stderr, flush=True)
