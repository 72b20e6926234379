# SPDX-License-Identifier: Apache-2.0
"""Rendered conversations, and the proof of the ids between two attempts.

Templates are rendered with sentinel answers. As turns follow, text and ids up to an answer's end must stay; what
follows is the separator. No fragment is tokenized alone.
"""

import dataclasses
import datetime
import os
from typing import Any

from absl import logging

from score_jax.errors import DataError

Ids = tuple[int, ...]
Messages = tuple[dict[str, str], ...]  # of worked examples, user and assistant in turn

# Answers no template should touch; some delete reasoning. To trim them does no harm.
_SENTINELS = ('7*12=84', '<think>7*12</think>84')
_QUESTION, _SYSTEM = 'question', 'System prompt.'
_REMEDY = "config.task.chat_template='bundled:chatml' or a .jinja file"
_DIRECTIVES = 'aAbBcdDefFGHIjmMpSTuUVwWxXyYzZ'  # of strftime


@dataclasses.dataclass(frozen=True)
class PromptTemplate:
  """A tokenizer with its chat template, and the turns before the first question."""

  tokenizer: Any
  system: str  # the system turn, or ''
  preamble: str  # the system prompt in the first user turn, where there is no such role
  examples: Messages
  date: str  # the template's today, YYYY-MM-DD

  def text(self, users: list[str], answers: tuple[str, ...] = (), answering: bool = True) -> str:
    """Returns the text up to the next answer; not `answering`, to the last one's end."""
    return render(self.tokenizer, self.messages(users, answers), answering, self.date)

  def messages(self, users: list[str], answers: tuple[str, ...] = ()) -> list[dict[str, str]]:
    """Returns all turns, with the system's and the examples'."""
    messages = [*self.examples]
    for i, user in enumerate(users):
      messages.append(dict(role='user', content=user))
      if i < len(answers):
        messages.append(dict(role='assistant', content=answers[i]))
    messages[0] = messages[0] | dict(content=self.preamble + messages[0]['content'])
    turn = [dict(role='system', content=self.system)] if self.system else []
    return turn + messages

  def ids(self, text: str) -> list[int]:
    """Returns the ids of a rendered text, special tokens included."""
    try:
      return self.tokenizer(text, add_special_tokens=False)['input_ids']
    except Exception as error:  # the file may be broken in any way
      reason = f'cannot encode {text[:60]!r}: {first_line(error)}'
      raise DataError(f'tokenizer: {reason}; restore tokenizer.json') from error


def prompt_template(tokenizer: Any, system: str, examples: Messages, date: str) -> PromptTemplate:
  """Puts the system prompt in a turn, or in the first user's; raises as `render` does."""
  plain = PromptTemplate(tokenizer, '', '', examples, date)
  plain.text([_QUESTION])  # the template's own faults show without a system turn
  if not system:
    return plain
  if _keeps_system(plain):
    return dataclasses.replace(plain, system=system)
  logging.warning('the chat template has no system role; the system prompt joins the first user turn')
  return dataclasses.replace(plain, preamble=system + '\n\n')


def separators_of(template: PromptTemplate, instructions: tuple[str, ...]) -> tuple[Ids, ...]:
  """Returns the ids between attempts [A - 1], each proved with all earlier answers.

  Raises DataError: the template rewrites history, or its tokens depend on answers.
  """
  return tuple(_separator(template, instructions[: i + 1]) for i in range(len(instructions)))


def end_of_turn(template: PromptTemplate, separators: tuple[Ids, ...]) -> int:
  """Returns the special token that ends an answer; DataError if there is none."""
  before = template.text([_QUESTION])
  after = template.text([_QUESTION], _SENTINELS[:1], answering=False)
  space = _space_between(before, _SENTINELS[0], after)
  if space:
    logging.info('the chat template writes %r before an answer, which the model has to generate', space)
  endings = [_ids_after(template, before, _SENTINELS[0], after), *separators]
  if not endings[0]:
    raise DataError(f'chat template writes no end of turn after {after[-40:]!r}; use {_REMEDY}')
  tokenizer = template.tokenizer
  special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
  for ending in endings:
    if ending[:1] != endings[0][:1] or ending[0] not in special:
      text, token = tokenizer.decode(ending)[:40], tokenizer.convert_ids_to_tokens(ending[0])
      raise DataError(
        f'chat template: an answer must end in one special token, but {text!r} follows, which begins with {token!r}; '
        'use a config.task.chat_template with a special token of this tokenizer'
      )
  return endings[0][0]


def render(tokenizer: Any, messages: list[dict[str, str]], answering: bool, date: str) -> str:
  """Returns the messages' text, with the beginning of an answer if `answering`.

  Raises DataError: the template fails, or the date is not YYYY-MM-DD.
  """
  template = _dated(tokenizer.chat_template, _day(date))
  try:
    return tokenizer.apply_chat_template(
      messages, chat_template=template, tokenize=False, add_generation_prompt=answering
    )
  except Exception as error:  # a template is a program: it may raise anything
    raise DataError(f'chat template: {type(error).__name__}: {first_line(error)}; use {_REMEDY}') from error


def first_line(error: BaseException) -> str:
  return str(error).strip().split('\n')[0]


def _day(date: str) -> datetime.datetime:
  try:
    day = datetime.datetime.strptime(date, '%Y-%m-%d')
    if day.date().isoformat() == date:
      return day
  except (TypeError, ValueError):
    pass
  raise DataError(f'config.task.date = {date!r} is not a date; write it as YYYY-MM-DD')


def _dated(template: str, day: datetime.datetime) -> str:
  """Makes strftime_now a macro of one day: a resumed run sees the same prompts."""
  if 'strftime_now' not in template:
    return template
  directives = [f'%{letter}' for letter in _DIRECTIVES] + [f'%-{letter}' for letter in 'dmyHIMSj']
  replaced = ''.join(f'|replace({it!r}, {day.strftime(it)!r})' for it in directives)
  # The renderer drops the newline after a block, so the template still begins a line.
  return '{% macro strftime_now(format) %}{{ format' + replaced + ' }}{% endmacro %}\n' + template


def _keeps_system(template: PromptTemplate) -> bool:
  template = dataclasses.replace(template, system=_SYSTEM)
  try:
    short = template.text([_QUESTION])
    long = template.text([_QUESTION, _QUESTION], _SENTINELS[:1])
  except DataError as error:
    logging.info('the chat template refuses a system turn: %s', first_line(error))
    return False
  before, there, _ = short.partition(_SYSTEM)
  return bool(there) and long.startswith(before + there)


def _separator(template: PromptTemplate, instructions: tuple[str, ...]) -> Ids:
  users = [_QUESTION, *instructions]
  separators = []
  for sentinel in _SENTINELS:
    answers = (sentinel,) * len(instructions)
    before = template.text(users[:-1], answers[:-1])
    separators.append(_ids_after(template, before, sentinel, template.text(users, answers)))
  if separators[0] != separators[1]:
    first, second = (template.tokenizer.decode(ids) for ids in separators)
    difference = _difference(first, second, ('is', 'or'))
    raise DataError(f'chat template: what follows an answer depends on it: {difference}; use {_REMEDY}')
  return separators[0]


def _space_between(before: str, answer: str, after: str) -> str:
  """Returns the white space between prompt and answer in `after`."""
  space, there, _ = after[len(before) :].partition(answer)
  if not after.startswith(before) or not there or space.strip():
    difference = _difference(before + answer, after)
    raise DataError(
      f'chat template rewrites history: as turns follow, {difference}; '
      f'use a template that keeps prompts and answers: {_REMEDY}'
    )
  return space


def _ids_after(template: PromptTemplate, before: str, answer: str, after: str) -> Ids:
  """Returns the ids of `after` behind the answer, proved apart from those before."""
  answered = before + _space_between(before, answer, after) + answer
  whole = template.ids(after)
  for text, what in ((before, 'a prompt'), (answered, 'an answer')):
    ids = template.ids(text)
    if whole[: len(ids)] != ids:
      alone, within = (template.tokenizer.convert_ids_to_tokens(some)[-4:] for some in (ids, whole[: len(ids)]))
      raise DataError(
        f'chat template: the tokens of {what} depend on what follows: {alone} became {within}; '
        f'use a template with special tokens around answers: {_REMEDY}'
      )
  return tuple(whole[len(ids) :])


def _difference(expected: str, actual: str, words: tuple[str, str] = ('', 'became')) -> str:
  """Shows about 40 characters of each from where two texts part."""
  at = len(os.path.commonprefix([expected, actual]))
  around = slice(max(0, at - 12), at + 28)
  return f'{words[0]} {expected[around]!r} {words[1]} {actual[around]!r}'.strip()
