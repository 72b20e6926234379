# SPDX-License-Identifier: Apache-2.0
"""Conversations as token ids: the chat template is rendered once per problem.

Between two attempts every row has the same turn separator, as `turn_boundary.py` proves.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import functools
import json
import pathlib
from typing import Any

from absl import logging
import numpy as np

from score_jax.core_types import Problem, is_unicode
from score_jax.errors import DataError
from score_jax.tasks import templates, turn_boundary
from score_jax.tasks import tokenizer as tokenizers
from score_jax.tasks.turn_boundary import Ids, Messages, PromptTemplate, Template, TemplateError


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

  @property
  def template(self) -> str:
    """The template as it is trained with, which needs no settings."""
    return self.prompt_template.template.with_settings

  @functools.cached_property
  def special_tokens(self) -> tuple[str, ...]:
    """Tokens that a text must not hold: the model would read them as turns, not as text."""
    added = self.tokenizer.added_tokens_decoder.values()
    special = {token.content for token in added if token.special}
    end = self.tokenizer.convert_ids_to_tokens(self.end_of_turn)
    return tuple(sorted({*special, *self.tokenizer.all_special_tokens, end}))

  def check_text(self, field: str, text: str) -> None:
    """Raises DataError: a text of the configuration holds a special token."""
    for token in self.special_tokens:
      if token in text:
        raise DataError(
          f'{field} = {text[:60]!r} has {token!r}, a special token of the tokenizer, which the model would read as '
          'such and not as text; write it otherwise'
        )

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

  def prompts(self, problems: Sequence[Problem]) -> tuple[np.ndarray, np.ndarray]:
    """Returns left-padded prompt_BP and start_B (i32); DataError if one is longer than P."""
    prompt_BP = np.full((len(problems), self.prompt_tokens), self.pad, np.int32)
    start_B = np.zeros(len(problems), np.int32)
    known: dict[str, list[int]] = {}
    for row, problem in enumerate(problems):
      ids = known.get(problem.question) or known.setdefault(problem.question, self.prompt_ids(problem))
      if len(ids) > self.prompt_tokens:
        raise DataError(
          f'problem {problem.id}: its prompt has {len(ids)} tokens; '
          f'raise config.sampling.prompt_tokens = {self.prompt_tokens}, or leave such training prompts out by '
          f"config.task.long_prompts = 'drop'; it begins {problem.question[:60]!r}"
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
  template_kwargs: Mapping[str, Any] | None = None,
) -> Chat:
  """Works out and proves the turn separators between attempts.

  A template that strips earlier thoughts is replaced by the bundled one that writes the same turns, if there is one.

  Args:
    folder: may have a generation_config.json, config.json.
    examples: of `read_examples`; they stand before every question.
    instructions: [A - 1], before further attempts.
    date: that templates may write, YYYY-MM-DD.
    template_kwargs: what the template reads beside the messages.

  Raises DataError: the template, its end-of-turn, its variables, the words or the date do not serve.
  """

  def prove(template: Template) -> Chat:
    if not template.text:
      raise TemplateError(f'{folder}: there is no chat template')
    template.check_settings()
    templates.check_markers(template)
    prompt_template = turn_boundary.prompt_template(template, system, tuple(examples))
    separators = turn_boundary.separators_of(prompt_template, instructions)
    end_of_turn = turn_boundary.end_of_turn(prompt_template, separators)
    _check_known(tokenizer, separators)
    stops = {end_of_turn, *_generation_stops(folder, tokenizer)}
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else end_of_turn
    return Chat(prompt_template, separators, end_of_turn, tuple(sorted(stops)), pad, prompt_tokens, tuple(instructions))

  template = Template(tokenizer, tokenizer.chat_template or '', date, dict(template_kwargs or {}))
  chat = _proved(template, prove)
  _tell_stop_strings(folder / 'generation_config.json')
  chat.check_text('config.task.system', system)
  for instruction in instructions:
    chat.check_text('config.task.instruction', instruction)
  for message in examples:
    chat.check_text(f'config.task.examples: {message["role"]}', message['content'])
  return chat


def _proved(template: Template, prove: Callable[[Template], Chat]) -> Chat:
  """Proves the template, or the bundled one that writes the same turns and keeps thoughts in them.

  Raises TemplateError: neither passes; the message names a bundled one that does, if any.
  """
  try:
    return prove(template)
  except TemplateError as error:
    passing = dict(_passing(template, prove))
    for name, chat in passing.items() if isinstance(error, turn_boundary.HistoryError) else ():
      if turn_boundary.keeps_what_other_strips(chat.prompt_template.template, template):
        logging.warning('%s; it is replaced by %s, which writes the same turns and keeps thoughts', error, name)
        return chat
    plain = not template.text and 'bundled:plain' in passing
    best = 'bundled:plain' if plain else min(passing, default='')
    serves = f"config.task.chat_template='{best}' or" if best else 'as config.task.chat_template'
    raise TemplateError(f'{error}; use {serves} a .jinja file (docs/prompts.md)') from error


def _passing(template: Template, prove: Callable[[Template], Chat]) -> Iterator[tuple[str, Chat]]:
  """Yields the bundled templates that pass, by name."""
  for name in templates.bundled():
    with contextlib.suppress(DataError):
      yield name, prove(dataclasses.replace(template, text=templates.named(name)))


def _check_known(tokenizer: Any, separators: tuple[Ids, ...]) -> None:
  unknown = tokenizer.unk_token_id
  if unknown in (None, tokenizer.eos_token_id, tokenizer.bos_token_id):  # it cannot occur
    return
  for separator in separators:
    if unknown in separator:
      text = tokenizer.decode(separator)[:200]
      raise TemplateError(
        f'chat template: the tokenizer does not know what stands between attempts, {text!r}: '
        'choose words that it has for config.task.instruction, or another template'
      )


def read_examples(path: str) -> Messages:
  """Returns the messages of a JSONL file of worked examples; DataError if it is no such file.

  A row is {"messages": [{"role": "user", "content": ...}, {"role": "assistant", ...}, ...]}.
  """
  file = f'config.task.examples = {path!r}'
  try:
    lines = pathlib.Path(path).read_text(encoding='utf-8').split('\n')
  except (OSError, ValueError) as error:
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
    if not is_unicode(content):
      raise DataError(
        f'{row}: messages[{i}].content = {ascii(content):.80} holds half a surrogate pair; fix or drop it'
      )
  return messages


def _generation_stops(folder: pathlib.Path, tokenizer: Any) -> set[int]:
  """Returns where transformers stops, and the tokenizer's own end."""
  ids = _stop_ids(folder / 'generation_config.json') or _stop_ids(folder / 'config.json')
  return {*ids, tokenizer.eos_token_id} - {None}


def _tell_stop_strings(path: pathlib.Path) -> None:
  if strings := tokenizers.read_settings(path).get('stop_strings'):
    remedy = 'attempts end at the ids of eos_token_id and at their budgets (docs/tasks.md, where an attempt ends)'
    logging.warning('%s: stop_strings = %.80r end no attempt: %s', path, strings, remedy)


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
