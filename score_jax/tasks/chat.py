"""Conversations as token ids: the chat template is rendered once per problem, and never over history.

Between two attempts stands the same text for every row: end-of-turn, the instruction's turn, and what opens the next
answer. `open_chat` renders it around a sentinel answer, proves that prompt + answer + that text is exactly what the
template itself would have written, and refuses templates for which it is not.
"""

import dataclasses
import json
import os
import pathlib
from typing import Any

from absl import logging
import numpy as np

from score_jax.errors import DataError
from score_jax.types import Problem

# Answers no template should touch; the second catches templates that delete reasoning from earlier turns.
_SENTINELS = ('7*12=84', '<think>7*12</think>84')


@dataclasses.dataclass(frozen=True)
class Chat:
  """A tokenizer, its template and everything that a rollout needs to know of them."""

  tokenizer: Any
  system: str
  preamble: str  # the system prompt, where the template has no such role: opens the first user turn
  feeds: tuple[tuple[int, ...], ...]  # [A - 1] ids between attempts; each begins with end_of_turn
  end_of_turn: int
  stops: tuple[int, ...]  # end_of_turn and the generation config's stop ids
  pad: int
  prompt_tokens: int  # P

  def prompt_ids(self, problem: Problem) -> list[int]:
    """Ids of the conversation up to where the first attempt begins."""
    text = render(self.tokenizer, _turns(self.system, [self.preamble + problem.question]))
    return self.tokenizer(text, add_special_tokens=False)['input_ids']

  def prompts(self, problems: list[Problem]) -> tuple[np.ndarray, np.ndarray]:
    """Left-padded prompt_BP (i32) and start_B (i32) of the problems, one row each.

    Raises:
      DataError: a prompt is longer than P.
    """
    prompt_BP = np.full((len(problems), self.prompt_tokens), self.pad, np.int32)
    start_B = np.zeros(len(problems), np.int32)
    known: dict[str, list[int]] = {}
    for row, problem in enumerate(problems):
      ids = known.get(problem.id) or known.setdefault(problem.id, self.prompt_ids(problem))
      if len(ids) > self.prompt_tokens:
        raise DataError(
          f'problem {problem.id}: its prompt has {len(ids)} tokens, but config.sampling.prompt_tokens = '
          f'{self.prompt_tokens}; raise it'
        )
      start_B[row] = self.prompt_tokens - len(ids)
      prompt_BP[row, start_B[row] :] = ids
    return prompt_BP, start_B

  def texts(self, tokens_BL: np.ndarray, attempt_BL: np.ndarray, attempts: int) -> list[list[str]]:
    """Text of each attempt of each row, without special tokens: what the verifier reads."""
    ids = [
      row[labels == attempt].tolist()
      for row, labels in zip(tokens_BL, attempt_BL, strict=True)
      for attempt in range(1, attempts + 1)
    ]
    flat = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
    return [flat[i : i + attempts] for i in range(0, len(flat), attempts)]


def load_tokenizer(folder: pathlib.Path, chat_template: str = '') -> Any:
  """The folder's HF tokenizer, with another chat template if one is named.

  Raises:
    DataError: it can't be read, or there is no chat template.
  """
  os.environ.setdefault('TRANSFORMERS_VERBOSITY', 'error')  # it announces that there is no torch, which is as intended
  import transformers  # seconds to import, and only the doors need it

  transformers.utils.logging.set_verbosity_error()
  try:
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise DataError(f'{folder}: its tokenizer can not be read: {_first_line(error)}') from error
  if chat_template:
    try:
      tokenizer.chat_template = pathlib.Path(chat_template).read_text()
    except (OSError, UnicodeDecodeError) as error:
      raise DataError(f'config.task.chat_template = {chat_template!r} can not be read: {error}') from error
  if not tokenizer.chat_template:
    raise DataError(f'{folder}: the tokenizer has no chat template; name one with config.task.chat_template')
  return tokenizer


def open_chat(
  folder: pathlib.Path, tokenizer: Any, *, system: str, instructions: tuple[str, ...], prompt_tokens: int
) -> Chat:
  """Works out and proves the seam between attempts.

  Args:
    folder: the HF folder, for its generation_config.json.
    tokenizer: from `load_tokenizer`.
    system: system prompt, or ''.
    instructions: [A - 1] the user turn before each further attempt.
    prompt_tokens: P.

  Raises:
    DataError: the template rewrites history, or its end-of-turn is not one token.
  """
  system, preamble = _placed_system(tokenizer, system)
  suffixes = [_seam(tokenizer, system, instructions[: i + 1]) for i in range(len(instructions))]
  feeds = tuple(tuple(tokenizer(suffix, add_special_tokens=False)['input_ids']) for suffix in suffixes)
  ending = _ending(tokenizer, system)
  end_of_turn = tokenizer(ending, add_special_tokens=False)['input_ids'][0]
  for feed, suffix in zip(feeds, suffixes, strict=True):
    if feed[0] != end_of_turn or end_of_turn not in tokenizer.all_special_ids + list(tokenizer.added_tokens_decoder):
      raise DataError(
        f'chat template: an answer must end in one special token, but {suffix[:40]!r} follows it, whose first '
        f'token is {tokenizer.convert_ids_to_tokens(feed[0])!r}'
      )
  stops = {end_of_turn, *_generation_stops(folder)}
  pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else end_of_turn
  return Chat(tokenizer, system, preamble, feeds, end_of_turn, tuple(sorted(stops)), pad, prompt_tokens)


def render(tokenizer: Any, messages: list[dict[str, str]], answering: bool = True) -> str:
  """The template's text for a list of messages, up to where the next answer begins."""
  import jinja2

  try:
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=answering)
  except jinja2.TemplateError as error:
    raise DataError(f'chat template: {type(error).__name__}: {_first_line(error)}') from error


def _turns(system: str, users: list[str], answers: tuple[str, ...] = ()) -> list[dict[str, str]]:
  """Messages: system, then users and answers in turn."""
  messages = [dict(role='system', content=system)] if system else []
  for i, user in enumerate(users):
    messages.append(dict(role='user', content=user))
    if i < len(answers):
      messages.append(dict(role='assistant', content=answers[i]))
  return messages


def _placed_system(tokenizer: Any, system: str) -> tuple[str, str]:
  """(system turn, preamble of the first user turn): one of them is the system prompt."""
  if not system:
    return '', ''
  try:
    if system.strip() in render(tokenizer, _turns(system, ['question'])):  # some templates trim it
      return system, ''
  except DataError as error:
    logging.info('the chat template refuses a system turn: %s', _first_line(error))
  logging.warning('the chat template has no system role; the system prompt joins the first user turn')
  return '', system + '\n\n'


def _seam(tokenizer: Any, system: str, instructions: tuple[str, ...]) -> str:
  """The text between the last of len(instructions) answers and the next one, proved on sentinels."""
  users = ['question', *instructions]
  seams = []
  for sentinel in _SENTINELS:
    answers = (sentinel,) * len(instructions)
    before = render(tokenizer, _turns(system, users[:-1], answers[:-1]))
    after = render(tokenizer, _turns(system, users, answers))
    if not after.startswith(before + sentinel):
      raise DataError(
        'chat template rewrites history: after a further turn, '
        f'{_difference(before + sentinel, after)}; use a template that keeps answers as they were '
        '(config.task.chat_template)'
      )
    seams.append(after[len(before + sentinel) :])
  if seams[0] != seams[1]:
    raise DataError(f'chat template: what follows an answer depends on it: {seams[0]!r} or {seams[1]!r}')
  whole = tokenizer(after, add_special_tokens=False)['input_ids']
  parts = [tokenizer(text, add_special_tokens=False)['input_ids'] for text in (before + sentinel, seams[1])]
  if whole != parts[0] + parts[1]:
    raise DataError(f'chat template: {seams[1]!r} is not tokenized apart from the answer before it')
  return seams[0]


def _ending(tokenizer: Any, system: str) -> str:
  """What the template writes after a last answer; its first token is the end of a turn."""
  before = render(tokenizer, _turns(system, ['question']))
  after = render(tokenizer, _turns(system, ['question'], _SENTINELS[:1]), answering=False)
  if not after.startswith(before + _SENTINELS[0]) or len(after) == len(before + _SENTINELS[0]):
    raise DataError(f'chat template writes no end of turn: {_difference(before + _SENTINELS[0], after)}')
  return after[len(before + _SENTINELS[0]) :]


def _difference(expected: str, found: str) -> str:
  """Where two texts part, in words."""
  at = next(
    (i for i, (a, b) in enumerate(zip(expected, found, strict=False)) if a != b), min(len(expected), len(found))
  )
  return f'{expected[at : at + 40]!r} became {found[at : at + 40]!r}'


def _generation_stops(folder: pathlib.Path) -> list[int]:
  """eos ids of generation_config.json, if it has any."""
  path = folder / 'generation_config.json'
  if not path.exists():
    return []
  try:
    eos = json.loads(path.read_text()).get('eos_token_id')
  except ValueError as error:
    raise DataError(f'{path}: not JSON: {error}') from error
  return [] if eos is None else [eos] if isinstance(eos, int) else list(eos)


def _first_line(error: Exception) -> str:
  return str(error).strip().split('\n')[0]
