"""Rendering conversations, and the proof that what stands between two attempts is what the template would write.

The template is rendered with sentinel answers. The text before an answer must stay as it was when turns follow, and so
must the answer; the ids of the whole text must begin with the ids of the text up to the answer's end. Then whatever
follows is the feed. Nothing is ever tokenized as a fragment, where a tokenizer may treat its first character otherwise.
"""

import dataclasses
import datetime
from typing import Any

from absl import logging

from score_jax.errors import DataError

# Answers no template should touch; the second catches templates that delete reasoning from earlier turns. None begins
# or ends with white space: templates that trim history do no harm, because no answer is ever rendered.
_SENTINELS = ('7*12=84', '<think>7*12</think>84')
_QUESTION, _SYSTEM = 'question', 'System prompt.'
_REMEDY = "config.task.chat_template='bundled:chatml' or a .jinja file"
_DIRECTIVES = 'aAbBcdDefFGHIjmMpSTuUVwWxXyYzZ'  # of strftime


@dataclasses.dataclass(frozen=True)
class Opening:
  """A tokenizer with its template, and all that stands before the first question."""

  tokenizer: Any
  system: str  # the system turn, or ''
  preamble: str  # the system prompt, where the template has no such role: opens the first user turn
  examples: tuple[dict[str, str], ...]  # messages of worked examples, user and assistant in turn
  date: str  # what the template is told for today, YYYY-MM-DD

  def text(self, users: list[str], answers: tuple[str, ...] = (), answering: bool = True) -> str:
    """The conversation up to where the next answer begins; with `answering` off, to the end of the last answer."""
    messages = [*self.examples]
    for i, user in enumerate(users):
      messages.append(dict(role='user', content=user))
      if i < len(answers):
        messages.append(dict(role='assistant', content=answers[i]))
    messages[0] = messages[0] | dict(content=self.preamble + messages[0]['content'])
    turn = [dict(role='system', content=self.system)] if self.system else []
    return render(self.tokenizer, turn + messages, answering, self.date)

  def ids(self, text: str) -> list[int]:
    """Token ids of a rendered text; it holds its special tokens already."""
    try:
      return self.tokenizer(text, add_special_tokens=False)['input_ids']
    except Exception as error:  # the tokenizer's file is a program's input
      raise DataError(
        f'tokenizer: can not encode {text[:60]!r}: {first_line(error)}; restore tokenizer.json'
      ) from error


def open_with(tokenizer: Any, system: str, examples: tuple[dict[str, str], ...], date: str) -> Opening:
  """The opening with the system prompt in its place: a turn of its own, or the beginning of the first user turn.

  Raises:
    DataError: the date is not one, or the template can't be rendered.
  """
  plain = Opening(tokenizer, '', '', examples, date)
  plain.text([_QUESTION])  # what is wrong with the template itself shows without a system turn
  if not system:
    return plain
  if _keeps_system(plain):
    return dataclasses.replace(plain, system=system)
  logging.warning('the chat template has no system role; the system prompt joins the first user turn')
  return dataclasses.replace(plain, preamble=system + '\n\n')


def feeds_of(opening: Opening, instructions: tuple[str, ...]) -> tuple[tuple[int, ...], ...]:
  """[A - 1] ids between attempts, each proved with all earlier answers in place.

  Raises:
    DataError: the template rewrites history, or its text can't be told apart from answers as tokens.
  """
  return tuple(_feed(opening, instructions[: i + 1]) for i in range(len(instructions)))


def end_of_turn(opening: Opening, feeds: tuple[tuple[int, ...], ...]) -> int:
  """The one special token that ends an answer, be it the last or not.

  Raises:
    DataError: there is no such token.
  """
  before = opening.text([_QUESTION])
  after = opening.text([_QUESTION], _SENTINELS[:1], answering=False)
  glue = _glue(before, _SENTINELS[0], after)
  if glue:
    logging.info('the chat template writes %r before an answer; it is for the model to generate', glue)
  endings = [_rest(opening, before, _SENTINELS[0], after), *feeds]
  if not endings[0]:
    raise DataError(f'chat template writes no end of turn after {after[-40:]!r}; use {_REMEDY}')
  tokenizer = opening.tokenizer
  special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
  for ending in endings:
    if ending[:1] != endings[0][:1] or ending[0] not in special:
      raise DataError(
        f'chat template: an answer must end in one special token, but {tokenizer.decode(ending)[:40]!r} follows it, '
        f'whose first token is {tokenizer.convert_ids_to_tokens(ending[0])!r}; use a template with a special token of '
        'this tokenizer (config.task.chat_template)'
      )
  return endings[0][0]


def render(tokenizer: Any, messages: list[dict[str, str]], answering: bool, date: str) -> str:
  """The template's text for a list of messages, up to where the next answer begins.

  Raises:
    DataError: the template refuses the messages or fails, or the date is not YYYY-MM-DD.
  """
  template = _dated(tokenizer.chat_template, _day(date))
  try:
    return tokenizer.apply_chat_template(
      messages, chat_template=template, tokenize=False, add_generation_prompt=answering
    )
  except Exception as error:  # a template is a program: it may raise anything
    raise DataError(f'chat template: {type(error).__name__}: {first_line(error)}; use {_REMEDY}') from error


def first_line(error: BaseException) -> str:
  """An error's message, cut to one line."""
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
  """The template with a clock of its own, which stands still: a run resumed tomorrow must see the same prompts.

  transformers gives templates a function strftime_now and makes text of any other, so it is hidden by a macro.
  """
  if 'strftime_now' not in template:
    return template
  directives = [f'%{letter}' for letter in _DIRECTIVES] + [f'%-{letter}' for letter in 'dmyHIMSj']
  replaced = ''.join(f'|replace({it!r}, {day.strftime(it)!r})' for it in directives)
  # The renderer drops the newline after a block, so the template itself begins a line as it did before.
  return '{% macro strftime_now(format) %}{{ format' + replaced + ' }}{% endmacro %}\n' + template


def _keeps_system(opening: Opening) -> bool:
  """Whether the template has a system turn, and leaves it where it is as the conversation grows."""
  opening = dataclasses.replace(opening, system=_SYSTEM)
  try:
    short = opening.text([_QUESTION])
    long = opening.text([_QUESTION, _QUESTION], _SENTINELS[:1])
  except DataError as error:
    logging.info('the chat template refuses a system turn: %s', first_line(error))
    return False
  before, there, _ = short.partition(_SYSTEM)
  return bool(there) and long.startswith(before + there)


def _feed(opening: Opening, instructions: tuple[str, ...]) -> tuple[int, ...]:
  """Ids between the last of len(instructions) answers and the next one, the same after every sentinel."""
  users = [_QUESTION, *instructions]
  found = []
  for sentinel in _SENTINELS:
    answers = (sentinel,) * len(instructions)
    before = opening.text(users[:-1], answers[:-1])
    found.append(_rest(opening, before, sentinel, opening.text(users, answers)))
  if found[0] != found[1]:
    first, second = (opening.tokenizer.decode(ids) for ids in found)
    raise DataError(
      f'chat template: what follows an answer depends on it: {_difference(first, second, ("is", "or"))}; use {_REMEDY}'
    )
  return found[0]


def _glue(before: str, answer: str, after: str) -> str:
  """White space between a prompt and its answer, which are proved to stand in `after` as they were."""
  glue, there, _ = after[len(before) :].partition(answer)
  if not after.startswith(before) or not there or glue.strip():
    raise DataError(
      f'chat template rewrites history: as turns follow, {_difference(before + answer, after)}; use a template that '
      f'keeps prompts and answers as they were: {_REMEDY}'
    )
  return glue


def _rest(opening: Opening, before: str, answer: str, after: str) -> tuple[int, ...]:
  """Ids of what `after` has beyond `before`, glue and the answer; the ids of these are proved not to depend on it."""
  said = before + _glue(before, answer, after) + answer
  whole = opening.ids(after)
  for text, what in ((before, 'a prompt'), (said, 'an answer')):
    ids = opening.ids(text)
    if whole[: len(ids)] != ids:
      alone, within = (opening.tokenizer.convert_ids_to_tokens(some)[-4:] for some in (ids, whole[: len(ids)]))
      raise DataError(
        f'chat template: the tokens of {what} depend on what follows it: {alone} became {within}; use a template with '
        f'special tokens around answers: {_REMEDY}'
      )
  return tuple(whole[len(ids) :])


def _difference(expected: str, found: str, words: tuple[str, str] = ('', 'became')) -> str:
  """Where two texts part, in words: about 40 characters of each."""
  at = next(
    (i for i, (a, b) in enumerate(zip(expected, found, strict=False)) if a != b), min(len(expected), len(found))
  )
  around = slice(max(0, at - 12), at + 28)
  return f'{words[0]} {expected[around]!r} {words[1]} {found[around]!r}'.strip()
