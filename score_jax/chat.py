# SPDX-License-Identifier: Apache-2.0
"""Asks a model, and asks again: `python -m score_jax.chat --model=DIR --config=PRESET [--question=TEXT]`.

Questions are lines of the standard input. Each gets all attempts of the preset, the later ones as what they change.
"""

from collections.abc import Iterator
import difflib
import sys
from typing import TYPE_CHECKING

from absl import flags

from score_jax import cli
from score_jax.errors import UserError

if TYPE_CHECKING:
  from score_jax.api import Conversation

_CONFIG = cli.define_config()
_MODEL = flags.DEFINE_string('model', '', 'an HF folder or hub id; default: config.model.path')
_QUESTION = flags.DEFINE_string('question', '', 'one question, instead of the lines of the standard input')
_ATTEMPTS = flags.DEFINE_integer('attempts', 0, 'more repeat the last instruction and budget; 0: as configured')
_TEMPERATURE = flags.DEFINE_float('temperature', 0.0, 'of what is sampled; 0: greedy', lower_bound=0.0)
_INSTRUCTION = flags.DEFINE_string(
  'instruction', '', 'self_refine, paper_math, paper_code, or a text; default: config.task.instruction'
)
_COLOURS = {'+': '\x1b[32m', '-': '\x1b[31m'}  # of a terminal


def main() -> None:
  from score_jax import api

  conversation = api.open_conversation(
    _CONFIG.value,
    model=_MODEL.value or None,
    attempts=_ATTEMPTS.value,
    instruction=_INSTRUCTION.value,
    temperature=_TEMPERATURE.value,
  )
  if _QUESTION.value:
    _tell(conversation, _QUESTION.value)
    return
  for question in _questions():
    try:
      _tell(conversation, question)
    except UserError as error:  # of this question; the next may be shorter
      print(f'error: {error}', file=sys.stderr, flush=True)


def _questions() -> Iterator[str]:
  """Yields lines that are not empty, up to the end of the input."""
  interactive = sys.stdin.isatty()
  while True:
    if interactive:
      print('question> ', end='', flush=True)
    line = sys.stdin.readline()
    if not line:
      return
    if line.strip():
      yield line.strip()


def _tell(conversation: 'Conversation', question: str) -> None:
  attempts = conversation.attempts(question)
  for number, text in enumerate(attempts, 1):
    before = attempts[number - 2] if number > 1 else text
    if number > 1:
      print(f'\n[{conversation.instructions[number - 2]}]')
    print(f'\nattempt {number}' + (': the same' if number > 1 and text == before else ''))
    if number == 1 or text != before:
      print('\n'.join(changed_lines(before, text, coloured=sys.stdout.isatty())), flush=True)
  print(flush=True)


def changed_lines(before: str, after: str, *, coloured: bool) -> list[str]:
  """Returns the lines of two texts: with '- ' those that are gone, with '+ ' new ones, with two spaces all others.

  What would steer a terminal is written out.
  """
  from score_jax.reporting import plain_text

  texts = (plain_text.sanitize(text, 0, keep='\n\t').split('\n') for text in (before, after))
  lines = [line for line in difflib.ndiff(*texts) if not line.startswith('?')]
  if not coloured:
    return lines
  return [f'{colour}{line}\x1b[0m' if (colour := _COLOURS.get(line[0])) else line for line in lines]


if __name__ == '__main__':
  cli.run(main)
