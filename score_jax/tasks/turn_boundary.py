# SPDX-License-Identifier: Apache-2.0
"""Rendered conversations, and the proof of the ids between two attempts.

Templates are rendered with sentinel answers. As turns follow, text and ids up to an answer's end must stay; what
follows is the separator. No fragment is tokenized alone.
"""

from collections.abc import Mapping
import dataclasses
import datetime
import difflib
import os
import re
from typing import Any

from absl import logging
import jinja2
from jinja2 import meta

from score_jax.errors import DataError

Ids = tuple[int, ...]
Messages = tuple[dict[str, str], ...]  # of worked examples, user and assistant in turn

# Answers no template should touch; some delete reasoning. To trim them does no harm.
_SENTINELS = ('7*12=84', '<think>7*12</think>84')
_THOUGHTLESS = 'The sum\n\n is 7*12 =  84: é.'
_QUESTION, _SYSTEM = 'question', 'System prompt.'
_GENERATION = re.compile(r'{%[-+]?\s*(end)?generation\s*[-+]?%}')  # a tag of transformers' own
_OPENING = re.compile(r'<think>\s*(</think>\s*)?$')  # of an answer, in a prompt
_DIRECTIVES = 'aAbBcdDefFGHIjmMpSTuUVwWxXyYzZ'  # of strftime
_GIVEN = ('messages', 'tools', 'documents', 'add_generation_prompt', 'strftime_now')  # by transformers


class TemplateError(DataError):
  """A chat template does not serve; another one may."""


class HistoryError(TemplateError):
  """A chat template changes earlier prompts or answers as turns follow."""


@dataclasses.dataclass(frozen=True)
class Template:
  """A chat template as a run renders it.

  Attributes:
    text: jinja.
    date: its today, YYYY-MM-DD.
    settings: variables that it reads, such as enable_thinking, by name.
  """

  tokenizer: Any
  text: str
  date: str
  settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  @property
  def with_settings(self) -> str:
    """Returns the text that needs no settings: they are its defaults, and whoever renders it may give others."""
    # The renderer drops the newline after a block, so the template still begins a line.
    defaults = '{%% if %s is not defined %%}{%% set %s = %r %%}{%% endif %%}\n'
    return ''.join(defaults % (name, name, value) for name, value in self.settings.items()) + self.text

  def check_settings(self) -> None:
    """Raises DataError: the template does not read one, or transformers sets it."""
    for name in self.settings:
      field = f'config.task.template_kwargs = {dict(self.settings)}'
      if name in (*_GIVEN, *self.tokenizer.special_tokens_map):
        raise DataError(f'{field}: {name!r} is set for every template; remove it')
      read = self._read()
      if name not in read:
        near = difflib.get_close_matches(name, read, 1)
        remedy = f'did you mean {near[0]!r}?' if near else 'remove it, or use a config.task.chat_template that does'
        raise DataError(f'{field}: the chat template does not read {name!r}; {remedy}')

  def _read(self) -> set[str]:
    """Returns the variables that the template takes from outside, but for what transformers sets."""
    environment = jinja2.Environment(extensions=['jinja2.ext.loopcontrols'])
    try:
      parsed = environment.parse(_GENERATION.sub('', self.text))
    except jinja2.TemplateError as error:
      raise TemplateError(f'chat template: {type(error).__name__}: {first_line(error)}') from error
    return meta.find_undeclared_variables(parsed) - {*environment.globals, *_GIVEN, 'raise_exception', 'loop'}

  def render(self, messages: list[dict[str, str]], answering: bool) -> str:
    """Returns the messages' text, with the beginning of an answer if `answering`.

    Raises TemplateError: the template fails; DataError: the date is not YYYY-MM-DD.
    """
    template = _dated(self.with_settings, _day(self.date))
    try:
      return self.tokenizer.apply_chat_template(
        messages, chat_template=template, tokenize=False, add_generation_prompt=answering
      )
    except Exception as error:  # a template is a program: it may raise anything
      raise TemplateError(f'chat template: {type(error).__name__}: {first_line(error)}') from error


@dataclasses.dataclass(frozen=True)
class PromptTemplate:
  """A chat template, and the turns before the first question."""

  template: Template
  system: str  # the system turn, or ''
  preamble: str  # the system prompt in the first user turn, where there is no such role
  examples: Messages

  @property
  def tokenizer(self) -> Any:
    return self.template.tokenizer

  def text(self, users: list[str], answers: tuple[str, ...] = (), answering: bool = True) -> str:
    """Returns the text up to the next answer; not `answering`, to the last one's end."""
    return self.template.render(self.messages(users, answers), answering)

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


def prompt_template(template: Template, system: str, examples: Messages) -> PromptTemplate:
  """Puts the system prompt in a turn, or in the first user's; raises as `render` does."""
  plain = PromptTemplate(template, '', '', examples)
  plain.text([_QUESTION])  # the template's own faults show without a system turn
  if not system:
    return plain
  if _keeps_system(plain):
    return dataclasses.replace(plain, system=system)
  logging.warning('the chat template has no system role; the system prompt joins the first user turn')
  return dataclasses.replace(plain, preamble=system + '\n\n')


def separators_of(template: PromptTemplate, instructions: tuple[str, ...]) -> tuple[Ids, ...]:
  """Returns the ids between attempts [A - 1], each proved with all earlier answers.

  Raises TemplateError: the template rewrites history, or its tokens depend on answers.
  """
  return tuple(_separator(template, instructions[: i + 1]) for i in range(len(instructions)))


def end_of_turn(template: PromptTemplate, separators: tuple[Ids, ...]) -> int:
  """Returns the special token that ends an answer; TemplateError if there is none."""
  before = template.text([_QUESTION])
  after = template.text([_QUESTION], _SENTINELS[:1], answering=False)
  space = _space_between(before, _SENTINELS[0], after)
  if space:
    logging.info('the chat template writes %r before an answer, which the model has to generate', space)
  endings = [_ids_after(template, before, _SENTINELS[0], after), *separators]
  if not endings[0]:
    raise TemplateError(f'chat template writes no end of turn after {after[-40:]!r}')
  tokenizer = template.tokenizer
  special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
  for ending in endings:
    if ending[:1] != endings[0][:1] or ending[0] not in special:
      text, token = tokenizer.decode(ending)[:40], tokenizer.convert_ids_to_tokens(ending[0])
      raise TemplateError(
        f'chat template: an answer must end in one special token, but {text!r} follows, which begins with {token!r}'
      )
  return endings[0][0]


def keeps_what_other_strips(kept: Template, other: Template) -> bool:
  """Whether two templates write the same prompts and turns, but for thoughts in earlier answers.

  Compared with and without a system turn, thinking or not.
  """
  modes: tuple[dict[str, Any], ...] = ({}, {'enable_thinking': False}, {'enable_thinking': True})
  return all(
    _turns(dataclasses.replace(kept, settings={**kept.settings, **mode}), system)
    == _turns(dataclasses.replace(other, settings={**other.settings, **mode}), system)
    for mode in modes
    for system in ('', _SYSTEM)
  )


def _turns(template: Template, system: str) -> tuple[str, str] | None:
  """Returns the first prompt, and what stands between an answer and the next.

  None: the template refuses the turns, or changes answers without thoughts or what stands around them.
  """
  question, answer = dict(role='user', content=_QUESTION), dict(role='assistant', content=_THOUGHTLESS)
  first = [dict(role='system', content=system)] * bool(system) + [question]
  try:
    prompt = template.render(first, True)
    parts = template.render([*first, answer, question, answer, question], True).split(_THOUGHTLESS)
  except TemplateError:
    return None
  openings = [_OPENING.sub('', text) for text in (prompt, *parts)]
  same = len(parts) == 3 and openings[0] == openings[1] and openings[2] == openings[3]
  return (prompt, parts[2]) if same else None


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
  return '{% macro strftime_now(format) %}{{ format' + replaced + ' }}{% endmacro %}\n' + template


def _keeps_system(template: PromptTemplate) -> bool:
  template = dataclasses.replace(template, system=_SYSTEM)
  try:
    short = template.text([_QUESTION])
    long = template.text([_QUESTION, _QUESTION], _SENTINELS[:1])
  except TemplateError as error:
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
    raise TemplateError(f'chat template: what follows an answer depends on it: {difference}')
  return separators[0]


def _space_between(before: str, answer: str, after: str) -> str:
  """Returns the white space between prompt and answer in `after`."""
  space, there, _ = after[len(before) :].partition(answer)
  if not after.startswith(before) or not there or space.strip():
    difference = _difference(before + answer, after)
    raise HistoryError(f'chat template rewrites history: as turns follow, {difference}')
  return space


def _ids_after(template: PromptTemplate, before: str, answer: str, after: str) -> Ids:
  """Returns the ids of `after` behind the answer, proved apart from those before."""
  answered = before + _space_between(before, answer, after) + answer
  whole = template.ids(after)
  for text, what in ((before, 'a prompt'), (answered, 'an answer')):
    ids = template.ids(text)
    if whole[: len(ids)] != ids:
      alone, within = (template.tokenizer.convert_ids_to_tokens(some)[-4:] for some in (ids, whole[: len(ids)]))
      raise TemplateError(f'chat template: the tokens of {what} depend on what follows: {alone} became {within}')
  return tuple(whole[len(ids) :])


def _difference(expected: str, actual: str, words: tuple[str, str] = ('', 'became')) -> str:
  """Shows about 40 characters of each from where two texts part."""
  at = len(os.path.commonprefix([expected, actual]))
  around = slice(max(0, at - 12), at + 28)
  return f'{words[0]} {expected[around]!r} {words[1]} {actual[around]!r}'.strip()
