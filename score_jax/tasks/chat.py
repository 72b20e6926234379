# SPDX-License-Identifier: Apache-2.0
"""Conversations as token ids: the chat template is rendered once per problem.

Between two attempts stands the same turn separator in every row: end-of-turn, the instruction's turn, the beginning of
the next answer. `turn_boundary.py` proves it, or refuses the template.
"""

import dataclasses
import json
import pathlib
from typing import Any

import numpy as np

from score_jax.core_types import Problem
from score_jax.errors import DataError
from score_jax.tasks import tokenizer as tokenizers
from score_jax.tasks import turn_boundary
from score_jax.tasks.turn_boundary import PromptTemplate


@dataclasses.dataclass(frozen=True)
class Chat:
  """A tokenizer, its chat template and what a rollout needs of them."""

  prompt_template: PromptTemplate  # the chat template, system prompt and examples before every question
  separators: tuple[tuple[int, ...], ...]  # [A - 1] ids between attempts; each begins with end_of_turn
  end_of_turn: int
  stops: tuple[int, ...]  # end_of_turn and the generation config's stop ids
  pad: int
  prompt_tokens: int  # P

  @property
  def tokenizer(self) -> Any:
    """Returns the HF tokenizer."""
    return self.prompt_template.tokenizer

  def check_vocabulary(self, vocab: int) -> None:
    """Refuses ids that a model has no embedding for: a gather would take another.

    Raises DataError: padding, or a token that stands between attempts, is such an id.
    """
    for name, ids in (('padding', (self.pad,)), *(('what stands between attempts', ids) for ids in self.separators)):
      if max(ids) >= vocab:
        raise DataError(
          f'{name} has token {max(ids)} ({self.tokenizer.convert_ids_to_tokens(max(ids))!r}), but the model has '
          f'{vocab} tokens; the tokenizer is of another model, or has tokens that were added to it alone'
        )

  def prompt_ids(self, problem: Problem) -> list[int]:
    """Returns the ids up to where the first attempt begins."""
    return self.prompt_template.ids(self.prompt_template.text([problem.question]))

  def prompts(self, problems: list[Problem]) -> tuple[np.ndarray, np.ndarray]:
    """Returns left-padded prompt_BP and start_B (i32), a row a problem; DataError if one is longer than P."""
    prompt_BP = np.full((len(problems), self.prompt_tokens), self.pad, np.int32)
    start_B = np.zeros(len(problems), np.int32)
    known: dict[str, list[int]] = {}
    for row, problem in enumerate(problems):
      ids = known.get(problem.question) or known.setdefault(problem.question, self.prompt_ids(problem))
      if len(ids) > self.prompt_tokens:
        raise DataError(
          f'problem {problem.id}: its prompt has {len(ids)} tokens, but config.sampling.prompt_tokens = '
          f'{self.prompt_tokens}; raise it'
        )
      start_B[row] = self.prompt_tokens - len(ids)
      prompt_BP[row, start_B[row] :] = ids
    return prompt_BP, start_B

  def texts(self, tokens_BL: np.ndarray, attempt_BL: np.ndarray, attempts: int) -> list[list[str]]:
    """Returns the text of each row's attempts, without special tokens."""
    # A stop need not be special to the tokenizer.
    text_BL = ~np.isin(tokens_BL, self.stops)
    ids = [
      row[is_text & (labels == attempt)].tolist()
      for row, labels, is_text in zip(tokens_BL, attempt_BL, text_BL, strict=True)
      for attempt in range(1, attempts + 1)
    ]
    flat = self.tokenizer.batch_decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return [flat[i : i + attempts] for i in range(0, len(flat), attempts)]


def open_chat(
  folder: pathlib.Path,
  tokenizer: Any,
  *,
  system: str,
  examples: tuple[dict[str, str], ...],
  instructions: tuple[str, ...],
  prompt_tokens: int,
  date: str,
) -> Chat:
  """Works out and proves the turn separators between attempts.

  Args:
    folder: the HF folder, for its generation_config.json.
    tokenizer: from `tokenizer.load_tokenizer`.
    system: system prompt, or ''.
    examples: from `read_examples`; before every question.
    instructions: [A - 1] the user turns before further attempts.
    prompt_tokens: P.
    date: YYYY-MM-DD, for templates that write today's.

  Raises:
    DataError: the template, its end-of-turn or its words do not serve, or the date is not one.
  """
  template = turn_boundary.prompt_template(tokenizer, system, tuple(examples), date)
  separators = turn_boundary.separators_of(template, instructions)
  end_of_turn = turn_boundary.end_of_turn(template, separators)
  _check_known(tokenizer, separators)
  stops = {end_of_turn, *_generation_stops(folder)}
  pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else end_of_turn
  return Chat(template, separators, end_of_turn, tuple(sorted(stops)), pad, prompt_tokens)


def _check_known(tokenizer: Any, separators: tuple[tuple[int, ...], ...]) -> None:
  unknown = tokenizer.unk_token_id
  if unknown in (None, tokenizer.eos_token_id, tokenizer.bos_token_id):  # some tokenizers name one that cannot occur
    return
  for separator in separators:
    if unknown in separator:
      raise DataError(
        'chat template: the tokenizer does not know what stands between attempts, '
        f'{tokenizer.decode(separator)[:200]!r}; '
        'use config.task.chat_template and config.task.instruction in words that it has'
      )


def read_examples(path: str) -> tuple[dict[str, str], ...]:
  """Returns the messages of a JSONL file of worked examples, for `open_chat`.

  A row is {"messages": [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}, ...]}.

  Raises:
    DataError: the file cannot be read, or a row is not such a conversation.
  """
  file = f'config.task.examples = {path!r}'
  try:
    lines = pathlib.Path(path).read_text(encoding='utf-8').split('\n')
  except (OSError, UnicodeDecodeError) as error:
    raise DataError(f'{file} cannot be read: {turn_boundary.first_line(error)}') from error
  rows = [_example(line, f'{file}, row {n}') for n, line in enumerate(lines, 1) if line.strip()]
  if not rows:
    raise DataError(f"{file} has no rows; write examples into it, or set it to ''")
  return tuple(message for row in rows for message in row)


def _example(line: str, row: str) -> list[dict[str, str]]:
  try:
    messages = json.loads(line)['messages']
  except (ValueError, KeyError, TypeError, RecursionError) as error:
    reason = turn_boundary.first_line(error)
    raise DataError(f'{row}: is not an object with "messages": {reason}; fix or drop it') from error
  if not isinstance(messages, list) or not messages or len(messages) % 2:
    raise DataError(f'{row}: messages must be a list of questions and answers in turn; fix or drop it')
  for i, message in enumerate(messages):
    role = ('user', 'assistant')[i % 2]
    if not isinstance(message, dict) or message.get('role') != role or set(message) != {'role', 'content'}:
      raise DataError(
        f'{row}: messages[{i}] = {str(message)[:60]!r} must have role {role!r} and content, and nothing else (the '
        'system prompt is config.task.system)'
      )
    if not isinstance(message['content'], str) or not message['content'].strip():
      raise DataError(f'{row}: messages[{i}].content = {str(message["content"])[:60]!r} is no text; write some')
  return messages


def _generation_stops(folder: pathlib.Path) -> list[int]:
  path = folder / 'generation_config.json'
  eos = tokenizers.read_settings(path).get('eos_token_id')
  ids = [] if eos is None else eos if isinstance(eos, list) else [eos]
  if not all(type(id_) is int and 0 <= id_ < 2**31 for id_ in ids):
    raise DataError(
      f'{path}: eos_token_id = {str(eos)[:60]!r} is neither a token id nor a list of them; fix or drop it'
    )
  return ids
