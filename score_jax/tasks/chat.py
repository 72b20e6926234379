"""Conversations as token ids: the chat template is rendered once per problem, and never over history.

Between two attempts stands the same text for every row: end-of-turn, the instruction's turn, and what opens the next
answer. `open_chat` has it worked out and proved by `seam.py`, and refuses templates for which the proof fails.
"""

import dataclasses
import json
import pathlib
from typing import Any

import numpy as np

from score_jax.core_types import Problem
from score_jax.errors import DataError
from score_jax.tasks import seam
from score_jax.tasks import tokenizer_files
from score_jax.tasks.seam import Opening


@dataclasses.dataclass(frozen=True)
class Chat:
  """A tokenizer, its template and everything that a rollout needs to know of them."""

  opening: Opening  # the template, and what stands before every question: system prompt and examples
  feeds: tuple[tuple[int, ...], ...]  # [A - 1] ids between attempts; each begins with end_of_turn
  end_of_turn: int
  stops: tuple[int, ...]  # end_of_turn and the generation config's stop ids
  pad: int
  prompt_tokens: int  # P

  @property
  def tokenizer(self) -> Any:
    """The HF tokenizer."""
    return self.opening.tokenizer

  @property
  def examples(self) -> tuple[dict[str, str], ...]:
    """Messages that stand before every question."""
    return self.opening.examples

  def check_vocabulary(self, vocab: int) -> None:
    """Refuses token ids that a model of `vocab` tokens has no embedding for: a gather would take another one silently.

    Raises:
      DataError: padding, or a token that stands between attempts, is such an id.
    """
    for name, ids in (('padding', (self.pad,)), *(('what stands between attempts', feed) for feed in self.feeds)):
      if max(ids) >= vocab:
        raise DataError(
          f'{name} has token {max(ids)} ({self.tokenizer.convert_ids_to_tokens(max(ids))!r}), but the model has '
          f'{vocab} tokens; the tokenizer is of another model, or has tokens that were added to it alone'
        )

  def prompt_ids(self, problem: Problem) -> list[int]:
    """Ids of the conversation up to where the first attempt begins."""
    return self.opening.ids(self.opening.text([problem.question]))

  def prompts(self, problems: list[Problem]) -> tuple[np.ndarray, np.ndarray]:
    """Left-padded prompt_BP (i32) and start_B (i32) of the problems, one row each.

    Raises:
      DataError: a prompt is longer than P.
    """
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
    """Text of each attempt of each row, without stops and other special tokens: what the verifier reads."""
    # A stop need not be special to the tokenizer: some vocabularies hold it as an ordinary symbol.
    said_BL = ~np.isin(tokens_BL, self.stops)
    ids = [
      row[said & (labels == attempt)].tolist()
      for row, labels, said in zip(tokens_BL, attempt_BL, said_BL, strict=True)
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
  """Works out and proves the seam between attempts.

  Args:
    folder: the HF folder, for its generation_config.json.
    tokenizer: from `tokenizer.load_tokenizer`.
    system: system prompt, or ''.
    examples: from `read_examples`; stand between the system prompt and every question.
    instructions: [A - 1] the user turn before each further attempt.
    prompt_tokens: P.
    date: YYYY-MM-DD, for templates that write today's.

  Raises:
    DataError: the template rewrites history, its end-of-turn is not one token, its words are none of the tokenizer's,
      or the date is not one.
  """
  opening = seam.open_with(tokenizer, system, tuple(examples), date)
  feeds = seam.feeds_of(opening, instructions)
  end_of_turn = seam.end_of_turn(opening, feeds)
  _check_known(tokenizer, feeds)
  stops = {end_of_turn, *_generation_stops(folder)}
  pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else end_of_turn
  return Chat(opening, feeds, end_of_turn, tuple(sorted(stops)), pad, prompt_tokens)


def _check_known(tokenizer: Any, feeds: tuple[tuple[int, ...], ...]) -> None:
  """Refuses a template or an instruction that reaches the model as unknown tokens."""
  unknown = tokenizer.unk_token_id
  if unknown in (None, tokenizer.eos_token_id, tokenizer.bos_token_id):  # some tokenizers name one that can't occur
    return
  for feed in feeds:
    if unknown in feed:
      raise DataError(
        f'chat template: the tokenizer does not know what stands between attempts, {tokenizer.decode(feed)[:200]!r}; '
        'use config.task.chat_template and config.task.instruction in words that it has'
      )


def read_examples(path: str) -> tuple[dict[str, str], ...]:
  """Messages of a JSONL file of worked examples, all rows in turn, for `open_chat`.

  A row is {"messages": [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}, ...]}.

  Raises:
    DataError: the file can't be read, or a row is not such a conversation.
  """
  file = f'config.task.examples = {path!r}'
  try:
    lines = pathlib.Path(path).read_text(encoding='utf-8').split('\n')
  except (OSError, UnicodeDecodeError) as error:
    raise DataError(f'{file} can not be read: {seam.first_line(error)}') from error
  rows = [_example(line, f'{file}, row {n}') for n, line in enumerate(lines, 1) if line.strip()]
  if not rows:
    raise DataError(f"{file} has no rows; write examples into it, or set it to ''")
  return tuple(message for row in rows for message in row)


def _example(line: str, row: str) -> list[dict[str, str]]:
  """One row's messages; `row` names it in errors."""
  try:
    messages = json.loads(line)['messages']
  except (ValueError, KeyError, TypeError, RecursionError) as error:
    raise DataError(f'{row}: is not an object with "messages": {seam.first_line(error)}; mend or drop it') from error
  if not isinstance(messages, list) or not messages or len(messages) % 2:
    raise DataError(f'{row}: messages must be a list of questions and answers in turn; mend or drop it')
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
  """eos ids of generation_config.json, if it has any."""
  path = folder / 'generation_config.json'
  eos = tokenizer_files.read_settings(path).get('eos_token_id')
  ids = [] if eos is None else eos if isinstance(eos, list) else [eos]
  if not all(type(id_) is int and 0 <= id_ < 2**31 for id_ in ids):
    raise DataError(
      f'{path}: eos_token_id = {str(eos)[:60]!r} is neither a token id nor a list of them; mend or drop it'
    )
  return ids
