# SPDX-License-Identifier: Apache-2.0
"""Cuts clean LaTeX or plain notation into tokens."""

import re
from typing import NamedTuple

from score_jax.graders.math import budget
from score_jax.graders.math.parser import words


class Token(NamedTuple):
  """A piece of an answer. `kind` is num, sym, cmd, word, rel, sep or op."""

  kind: str
  text: str
  glued: bool  # no blank before it


RELATIONS = {
  '=': '=', '<': '<', '>': '>', '<=': '<=', '>=': '>=', '!=': '!=', '==': '=', r'\le': '<=', r'\leq': '<=',
  r'\leqslant': '<=', r'\geqslant': '>=', r'\ge': '>=', r'\geq': '>=', r'\lt': '<', r'\gt': '>', r'\ne': '!=',
  r'\neq': '!=', r'\approx': '~', r'\in': 'in', r'\equiv': 'equiv', r'\to': 'to', r'\rightarrow': 'to', r'\sim': '~',
  r'\Rightarrow': '=>', r'\implies': '=>', r'\notin': 'notin', r'\subset': 'subset', r'\subseteq': 'subset',
  r'\cong': '~', r'\simeq': '~', r'\perp': 'perp', r'\parallel': 'parallel', '=>': '=>', '->': 'to',
}  # fmt: skip
_TEXT = r'\\(?:text|mbox|textbf|textrm|textit|textnormal|textsf|texttt|mathrm|mathbf|mathit|mathsf|mathcal|hbox|operatorname\*?|emph|vec|hat|mathbb|overrightarrow|bar|tilde)'  # noqa: E501
_TOKEN = re.compile(
  r'(?P<text>(?P<macro>' + _TEXT + r') ?\{(?P<inside>[^{}]*)\})'
  r'|(?P<num>[0-9]{1,3}(?:,[0-9]{3})+(?![0-9,])(?:\.[0-9]+)?|(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+(?![0-9a-zA-Z.]))?)'
  r'|(?P<rel><=|>=|!=|==|=>|->|[=<>]|\\(?:leqslant|geqslant|leq|geq|le|ge|lt|gt|neq|ne|approx|in|equiv|to|rightarrow|sim'
  r'|Rightarrow|implies|notin|subseteq|subset|cong|simeq|perp|parallel)(?![a-zA-Z]))'
  r'|(?P<row>\\\\)|(?P<cmd>\\[a-zA-Z]+)|(?P<esc>\\[{}|_#&])|(?P<letters>[a-zA-Z]+)|(?P<op>\*\*|\.{3,}|[-+*/^_(){}\[\]|!,;:%&\'?~])'
)
_BOLD = {r'\mathbf', r'\vec', r'\hat', r'\overrightarrow'}
_SYNONYMS = {
  'dfrac': 'frac', 'tfrac': 'frac', 'cfrac': 'frac', 'dbinom': 'binom', 'tbinom': 'binom', 'ldots': 'dots',
  'cdots': 'dots', 'dotsc': 'dots', 'dotsb': 'dots', 'lvert': '|', 'rvert': '|', 'vert': '|', 'mid': '|', 'land': 'and',
  'wedge': 'and', 'lor': 'or', 'vee': 'or', 'ast': '*', 'div': '/', 'lbrace': r'\{', 'rbrace': r'\}', 'lbrack': '[',
  'rbrack': ']', 'colon': ':', 'varnothing': 'emptyset', 'bigcup': 'cup', 'backslash': 'setminus', 'Vert': '|',
  'exponentialE': 'e', 'imaginaryI': 'i', 'textdegree': 'degree', 'arccotan': 'arccot', 'tg': 'tan', 'ctg': 'cot',
  'arctg': 'arctan', 'varepsilon': 'epsilon', 'vartheta': 'theta', 'varphi': 'phi', 'prime': "'", 'sqr': 'sqrt',
  'oslash': 'emptyset',
}  # fmt: skip
_AS_OP = {'|', '*', '/', '[', ']', ':', "'", r'\{', r'\}'}


def tokenize(text: str) -> list[Token]:
  """Returns the tokens of a clean answer. Raises Unreadable."""
  tokens = []
  position = 0
  depth = 0
  while position < len(text):
    if text[position] == ' ':
      position += 1
      continue
    match = _TOKEN.match(text, position)
    if not match or len(tokens) > budget.TOKENS:
      raise budget.Unreadable
    glued = position > 0 and text[position - 1] != ' '
    if match['num'] and ',' in match['num'] and depth:  # inside brackets a comma separates
      match = re.compile(r'(?P<num>[0-9]+)').match(text, position)
    if match[0] in ('(', '[', r'\{'):
      depth += 1
    elif match[0] in (')', ']', r'\}'):
      depth -= 1
    tokens += _tokens_of(match, glued)
    position = match.end()
  return tokens


def _tokens_of(match: re.Match, glued: bool) -> list[Token]:
  kind = match.lastgroup
  if kind == 'num':
    if len(match[0]) > budget.DIGITS:
      raise budget.Unreadable
    return [Token('num', match[0].replace(',', ''), glued)]
  if kind == 'rel':
    return [Token('rel', RELATIONS[match[0]], glued)]
  if kind == 'row':
    return [Token('op', r'\\', glued)]
  if kind == 'esc':
    return [Token('op', {r'\|': '|', r'\&': '&'}.get(match[0], match[0]), glued)]
  if kind == 'cmd':
    return [_command(match[0][1:], glued)]
  if kind == 'letters':
    return letters(match[0], glued)
  if kind == 'op':
    text = {'**': '^', '~': ' '}.get(match[0], 'dots' if match[0].startswith('...') else match[0])
    return [Token('sep' if text == '&' else 'op', text, glued)]
  return _text(match['macro'], match['inside'], glued)


def _command(name: str, glued: bool) -> Token:
  name = _SYNONYMS.get(name, name)
  if name in ('and', 'or'):
    return Token('sep', name, glued)
  return Token('op' if name in _AS_OP else 'cmd', name, glued)


def _text(macro: str, inside: str, glued: bool) -> list[Token]:
  inside = inside.strip()
  if not inside:
    return []
  if macro == r'\mathbb':
    return [Token('cmd', 'bb' + inside, glued)]
  if len(inside) == 1 and inside.isalpha():
    return [Token('sym', 'vec ' + inside if macro in _BOLD else inside, glued)]
  if inside.lower() in words.SEPARATORS:
    return [Token('sep', inside.lower(), glued)]
  if inside in words.FUNCTIONS and inside not in words.UNITS:
    return [Token('cmd', inside, glued)]
  if inside.isdigit() and len(inside) <= budget.DIGITS:
    return [Token('num', inside, glued)]
  return [Token('word', inside, False)]


def letters(run: str, glued: bool) -> list[Token]:
  """Reads a known name, a word (4 letters and more, or a unit), or one symbol a letter."""
  lower = run.lower()
  if lower in words.SEPARATORS:
    return [Token('sep', lower, glued)]
  if run in words.PLAIN and len(run) > 1:
    return [Token('cmd', words.PLAIN[run], glued)]
  if lower in ('infinity', 'percent', 'degrees'):
    return [Token('cmd', words.PLAIN[lower], glued)]
  unit = lower in words.UNITS and lower not in words.AMBIGUOUS
  if len(run) >= 4 or unit or lower in words.WORDS or lower in words.FILLERS - {'a'}:
    return [Token('word', run, glued)]
  if run.startswith('pi') and len(run) == 3:
    return [Token('cmd', 'pi', glued), Token('sym', run[2], True)]
  return [Token('sym', letter, glued or index > 0) for index, letter in enumerate(run)]
