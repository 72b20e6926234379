# SPDX-License-Identifier: Apache-2.0
"""First attempts of another model, given to this one to correct."""

from collections.abc import Sequence
import pathlib
from typing import Any

import numpy as np

from score_jax.core_types import Problem
from score_jax.errors import DataError
from score_jax.reporting import rows
from score_jax.tasks.chat import Chat


def read(path: pathlib.Path, problems: Sequence[Problem], chat: Chat, budget: int) -> dict[str, np.ndarray]:
  """Token ids [budget] of each problem's first attempt and its end-of-turn, then -1.

  The file has rows {"id", "text"} or those of an evaluation; a problem's first row counts.

  Raises:
    DataError: an attempt is missing, too long or holds special tokens.
  """
  texts: dict[str, str] = {}
  for row in rows.read_json(path):
    try:
      text = row['text'] if 'text' in row else row['attempts'][0]['text']
      if not isinstance(row['id'], str) or not isinstance(text, str):
        raise TypeError
    except (KeyError, TypeError, IndexError) as error:
      raise DataError(f'{path}: a row must have "id" and "text", or be one of an evaluation') from error
    texts.setdefault(row['id'], text)
  missing = [problem.id for problem in problems if problem.id not in texts]
  if missing:
    raise DataError(
      f'{path}: no first attempt for {len(missing)} of {len(problems)} problems, such as {missing[0]!r}; '
      'sample them with the same config.eval.problems and config.eval.seed'
    )
  return {problem.id: _ids(texts[problem.id], f'{path}, {problem.id}', chat, budget) for problem in problems}


def _ids(text: str, where: str, chat: Chat, budget: int) -> np.ndarray:
  ids = chat.prompt_template.ids(text)
  tokenizer: Any = chat.tokenizer
  special = {*chat.stops, *tokenizer.all_special_ids}
  if special & set(ids):
    token = tokenizer.convert_ids_to_tokens(next(id_ for id_ in ids if id_ in special))
    raise DataError(f'{where}: the text holds {token!r}, which would end the attempt or its turn; drop it')
  if len(ids) > budget:
    raise DataError(f'{where}: {len(ids)} tokens, more than config.sampling.attempt_tokens[0] = {budget}; raise it')
  padded = np.full(budget, -1, np.int32)
  padded[: len(ids) + 1] = [*ids, chat.end_of_turn][:budget]
  return padded
