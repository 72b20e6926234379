# SPDX-License-Identifier: Apache-2.0
"""Reasoning that a model writes before its answer, as Qwen3 and DeepSeek-R1 mark it. It counts for no verdict."""

_OPENS, _CLOSES = '<think>', '</think>'


def answer(text: str) -> str:
  """Returns what follows the reasoning; '' if it has no end."""
  end = text.rfind(_CLOSES)
  if text.rfind(_OPENS) > end:
    return ''
  return text if end < 0 else text[end + len(_CLOSES) :]
