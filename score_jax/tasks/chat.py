# SPDX-License-Identifier: Apache-2.0
"""Conversations as token ids: the chat template is rendered once per problem.

Between two attempts every row has the same turn separator, as `turn_boundary.py` proves.
"""

from collections.abc import Sequence
import dataclasses
import json
import pathlib
from typing import Any

import numpy as np

from score_jax.core_types import Problem
from score_jax.errors import DataError
from score_jax.tasks import tokenizer as tokenizers
from score_jax.tasks import turn_boundary
from score_jax.tasks.turn_boundary import Ids, Messages, PromptTemplate


@dataclasses.dataclass(frozen=True)
class Chat:
  """What a rollout needs of a tokenizer and its chat template."""

  prompt_template: PromptTemplate
  separators: tuple[Ids, ...]  # [A - 1] ids between attempts, from end_of_turn on
  end_of_turn: int
  stops: Ids  # end_of_turn, and where transformers stops
  pad: int
  prompt_tokens: int  # P
  instructions: tuple[str, ...] = ()  # [A - 1] user turns before further attempts

  @property
  def tokenizer(self) -> Any:
    return self.prompt_template.tokenizer

  def check_vocabulary(self, vocab: int) -> None:
    """Raises DataError if a model lacks an embedding that a gather would replace by another."""
    between = [('what stands between attempts', ids) for ids in self.separators]
    for name, ids in [('padding', (self.pad,)), *between]:
      highest = max(ids)
      if highest >= vocab:
        token = self.tokenizer.convert_ids_to_tokens(highest)
        raise DataError(
          f'{name} has token {highest} ({token!r}), but the model has {vocab} tokens; '
          "use the model's tokenizer, without tokens that were added to it alone"
        )

  def prompt_ids(self, problem: Problem) -> list[int]:
    return self.prompt_template.ids(self.prompt_template.text([problem.question]))

  def messages(self, problem: Problem, answers: Sequence[str]) -> list[dict[str, str]]:
    """Returns the turns before the attempt that follows these answers."""
    users = [problem.question, *self.instructions[: len(answers)]]
    return self.prompt_template.messages(users, tuple(answers))

  def text(self, problem: Problem, answers: Sequence[str]) -> str:
    """Returns these turns as the template writes them."""
    users = [problem.question, *self.instructions[: len(answers)]]
    return self.prompt_template.text(users, tuple(answers))

  def prompts(self, problems: list[Problem]) -> tuple[np.ndarray, np.ndarray]:
    """Returns left-padded prompt_BP and start_B (i32); DataError if one is longer than P."""
    prompt_BP = np.full((len(problems), self.prompt_tokens), self.pad, np.int32)
    start_B = np.zeros(len(problems), np.int32)
    known: dict[str, list[int]] = {}
    for row, problem in enumerate(problems):
      ids = known.get(problem.question) or known.setdefault(problem.question, self.prompt_ids(problem))
      if len(ids) > self.prompt_tokens:
        raise DataError(
          f'problem {problem.id}: its prompt has {len(ids)} tokens; '
          f'raise config.sampling.prompt_tokens = {self.prompt_tokens}'
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
  examples: Messages,
  instructions: tuple[str, ...],
  prompt_tokens: int,
  date: str,
) -> Chat:
  """Works out and proves the turn separators between attempts.

  `folder` may have a generation_config.json, config.json. `examples` (`read_examples`) stand before every question,
  `instructions` [A - 1] before further attempts. Templates may write the `date`, YYYY-MM-DD.

  Raises DataError: the template, its end-of-turn, its words or the date do not serve.
  """
  template = turn_boundary.prompt_template(tokenizer, system, tuple(examples), date)
  separators = turn_boundary.separators_of(template, instructions)
  end_of_turn = turn_boundary.end_of_turn(template, separators)
  _check_known(tokenizer, separators)
  stops = {end_of_turn, *_generation_stops(folder, tokenizer)}
  pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else end_of_turn
  return Chat(template, separators, end_of_turn, tuple(sorted(stops)), pad, prompt_tokens, tuple(instructions))


def _check_known(tokenizer: Any, separators: tuple[Ids, ...]) -> None:
  unknown = tokenizer.unk_token_id
  if unknown in (None, tokenizer.eos_token_id, tokenizer.bos_token_id):  # it cannot occur
    return
  for separator in separators:
    if unknown in separator:
      text = tokenizer.decode(separator)[:200]
      raise DataError(
        f'chat template: the tokenizer does not know what stands between attempts, {text!r}; '
        'use config.task.chat_template and config.task.instruction in words that it has'
      )


def read_examples(path: str) -> Messages:
  """Returns the messages of a JSONL file of worked examples; DataError if it is no such file.

  A row is {"messages": [{"role": "user", "content": ...}, {"role": "assistant", ...}, ...]}.
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
        f'{row}: messages[{i}] = {str(message)[:60]!r} must have role {role!r} and content, nothing else '
        '(the system prompt is config.task.system)'
      )
    content = message['content']
    if not isinstance(content, str) or not content.strip():
      raise DataError(f'{row}: messages[{i}].content = {str(content)[:60]!r} is no text; write some')
  return messages


def _generation_stops(folder: pathlib.Path, tokenizer: Any) -> set[int]:
  """Returns where transformers stops, and the tokenizer's own end."""
  ids = _stop_ids(folder / 'generation_config.json') or _stop_ids(folder / 'config.json')
  return {*ids, tokenizer.eos_token_id} - {None}


def _stop_ids(path: pathlib.Path) -> list[int]:
  settings = tokenizers.read_settings(path)
  eos, inner = settings.get('eos_token_id'), settings.get('text_config')
  if eos is None and isinstance(inner, dict):  # of a larger model
    eos = inner.get('eos_token_id')
  ids = [] if eos is None else eos if isinstance(eos, list) else [eos]
  if not all(type(id_) is int and 0 <= id_ < 2**31 for id_ in ids):
    raise DataError(
      f'{path}: eos_token_id = {str(eos)[:60]!r} is neither a token id nor a list of them; fix or drop it'
    )
  return ids
