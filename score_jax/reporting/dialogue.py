# SPDX-License-Identifier: Apache-2.0
"""Attempts at questions that someone types: later ones are shown as the lines that they change."""

from collections.abc import Callable, Iterable, Iterator, Sequence
import difflib
import sys
from typing import TextIO

from score_jax.errors import UserError
from score_jax.reporting import plain_text

_COLOURS = {'+': '\x1b[32m', '-': '\x1b[31m'}  # of a terminal


def hold(attempts: Callable[[str], list[str]], instructions: Sequence[str], asked: Iterable[str]) -> None:
  """Prints the attempts at each question; one that is refused is told, and the next one may be shorter."""
  for question in asked:
    try:
      print('\n'.join(lines(attempts(question), instructions, coloured=sys.stdout.isatty())), flush=True)
    except UserError as error:
      print(f'error: {error}', file=sys.stderr, flush=True)


def questions(typed: TextIO) -> Iterator[str]:
  """Yields the lines that are not empty, up to the end; a terminal is given a prompt for each."""
  interactive = typed.isatty()
  while True:
    if interactive:
      print('question> ', end='', flush=True)
    line = typed.readline()
    if not line:
      return
    if line.strip():
      yield line.strip()


def lines(attempts: Sequence[str], instructions: Sequence[str], *, coloured: bool) -> list[str]:
  """Returns all attempts as lines; `instructions` stand between them."""
  told = ['', 'attempt 1', *changed_lines(attempts[0], attempts[0], coloured=coloured)]
  for number, (before, after) in enumerate(zip(attempts, attempts[1:], strict=False), 2):
    told += ['', f'[{instructions[number - 2]}]', '', f'attempt {number}' + (': the same' if after == before else '')]
    if after != before:
      told += changed_lines(before, after, coloured=coloured)
  return [*told, '']


def changed_lines(before: str, after: str, *, coloured: bool) -> list[str]:
  """Returns the lines of two texts: with '- ' those that are gone, with '+ ' new ones, with two spaces all others.

  What would steer a terminal is written out.
  """
  texts = (plain_text.sanitize(text, 0, keep='\n\t').split('\n') for text in (before, after))
  shown = [line for line in difflib.ndiff(*texts) if not line.startswith('?')]
  if not coloured:
    return shown
  return [f'{colour}{line}\x1b[0m' if (colour := _COLOURS.get(line[0])) else line for line in shown]
