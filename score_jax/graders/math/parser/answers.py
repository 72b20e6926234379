# SPDX-License-Identifier: Apache-2.0
"""Reads an answer's value: lists, relations, units, words; a scalar at the end of each branch."""

import dataclasses
import functools
import re

from score_jax.graders.math import budget
from score_jax.graders.math.parser import values, words
from score_jax.graders.math.parser.clean import clean
from score_jax.graders.math.parser.expressions import Parser
from score_jax.graders.math.parser.tokens import Token, tokenize
from score_jax.graders.math.parser.values import Node

_WHOLE_TEXT = re.compile(
  r'\\(?:text|mbox|textbf|textrm|textit|textnormal|mathrm|mathbf|hbox|operatorname)\*? ?\{([^{}]*)\}'
)
_INNER_TEXT = re.compile(r'\\(?:text|mbox|textrm|textbf|mathrm|textnormal) ?\{([^{}]*)\}')
_CLOCK = re.compile(r'([0-9]{1,2})(?::([0-9]{2}))?(?: ?([ap])\.? ?m\.?)?', re.IGNORECASE)
_BASED = re.compile(r'\(?(-?[0-9A-Z]{1,200}(?:\.[0-9A-Z]{1,200})?)\)? ?_ ?(?:\{ ?([0-9]{1,2}) ?\}|([0-9]{1,2}))')
_ARTICLES = re.compile(
  r'(?:(?:the|is|are|about|approximately|exactly|equals?|only|then|thus|so|answer)\b[ :]*)+', re.IGNORECASE
)
_REFUSED = re.compile(
  r'\b(?:not|wrong|incorrect|or|either|maybe|but|unless|if|no|neither|instead|except)\b|[0-9=<>]', re.IGNORECASE
)
_REFUSED_WORDS = re.compile(r'\b(?:not|wrong|incorrect|or|either|maybe|but|unless|if|neither|instead)\b', re.IGNORECASE)
_WORDS_ALONE = re.compile(r"[^\W\d_][\w .,'()-]*")
_FAMILY = re.compile(r'\\?\( ?([a-z]) ?\\in ?(?:\\mathbb ?\{? ?Z ?\}?|Z) ?\\?\)$')  # k pi (k in Z)
# Behind a value, in brackets: words (a unit), or the condition under which it holds.
_REMARK = re.compile(
  r'(.*[0-9a-zA-Z})]) *\( ?((?:\\text ?\{)?[a-zA-Z][a-zA-Z .-]+\}?'
  r'|[a-zA-Z] ?(?:[<>]|\\(?:[lg]eq?|neq?)(?![a-z])) ?-?[0-9]+) ?\)'
)
_CHOICE = re.compile(
  r'(?:\\(?:text|textbf|mathrm|mathbf) ?\{ ?)?(?:\(([A-J])\)|([A-J])[.):](?= )) ?\}?'
  r'(?![-a-zA-Z]| *(?:- |[+*/^_!%,;:&=<>|]|\\(?:pm|mp|cdot|times|div|le|ge|ne|approx)(?![a-z]))) *(\S.*)'
)
_LETTER = re.compile(r'(?<![\w\\])[A-J](?:\)|[.:] |\}|$)')  # another choice's
_MULTIPLIED = re.compile(rf'(?<!\bper )\b(?:{"|".join(words.MAGNITUDES)}) *$', re.IGNORECASE)
_WORD_LIMIT = 200  # characters of an answer in words


def read(text: str):
  """Returns the value of an answer. Raises Unreadable."""
  value = read_clean(clean(text))
  if isinstance(value, values.Scalar) and not value.unit and r'\$' in text:
    return values.Scalar(value.node, 'dollar', value.percent)
  return value


def read_clean(source: str, depth: int = 0):
  """Returns the value of a clean answer. Raises Unreadable."""
  if not source or len(source) > budget.ANSWER_CHARS or depth > 3:
    raise budget.Unreadable
  whole = _WHOLE_TEXT.fullmatch(source)
  if whole:
    return read_clean(clean(whole[1]), depth + 1)
  special = _special(source)
  if special is not None:
    return special
  try:
    return listed(tokenize(_FAMILY.sub(r', \1 \\in \\mathbb{Z}', source)))
  except budget.Unreadable:
    remark = _REMARK.fullmatch(source)
    if remark and not _REFUSED_WORDS.search(remark[2]):
      return read_clean(remark[1], depth + 1)
    return _in_words(source)


def _special(source: str):
  """Returns a time of day or a numeral in a base; else None."""
  based = _BASED.fullmatch(_INNER_TEXT.sub(r'\1', source))
  if based:
    base = int(based[2] or based[3])
    if 2 <= base <= 36 and all(int(digit, 36) < base for digit in re.sub('[-.]', '', based[1])):
      return values.Based(re.sub('^(-?)0+(?=[0-9A-Z])', r'\1', based[1]), base)
  clock = _CLOCK.fullmatch(re.sub(' +', ' ', _INNER_TEXT.sub(r' \1', source)).strip())
  if clock and (clock[2] or clock[3]) and int(clock[1]) <= 24 and int(clock[2] or 0) < 60:
    return values.Clock(int(clock[1]), int(clock[2] or 0), (clock[3] or '').lower())
  return None


def choice(text: str) -> values.Choice | None:
  """Returns letter and value of `(E) 12`, `\\textbf{(E)}\\ 12`, `E. 12`; else None."""
  match = _CHOICE.fullmatch(clean(text))
  if not match or _LETTER.search(match[3]) or _REFUSED_WORDS.search(match[3]):
    return None
  try:
    value = read_clean(match[3], 1)
  except budget.Unreadable:
    return None
  hedge = isinstance(value, values.Sequence) and value.kind == 'list'
  return None if hedge else values.Choice(match[1] or match[2], value)


def _in_words(source: str) -> values.Text:
  flat = re.sub(' +', ' ', _INNER_TEXT.sub(r' \1 ', source)).strip()
  if (
    not _WORDS_ALONE.fullmatch(flat)
    or len(flat) > _WORD_LIMIT
    or not (re.search('[a-zA-Z]{2}', flat) or not re.search('[a-zA-Z0-9]', flat))
  ):
    raise budget.Unreadable
  return values.Text(words.plain_text(flat))


def split(tokens: list[Token], *, kinds: tuple = (), texts: tuple = ()) -> tuple[list[list[Token]], list[Token]]:
  """Cuts at separators outside of brackets: the pieces, and the separators."""
  pieces, separators = [[]], []
  depth = 0
  for token in tokens:
    depth += token.text in ('(', '[', '{', r'\{', 'langle', 'begin')
    depth -= token.text in (')', ']', '}', r'\}', 'rangle', 'end')
    if not depth and (token.kind in kinds or (token.kind == 'op' and token.text in texts)):
      pieces.append([])
      separators.append(token)
    else:
      pieces[-1].append(token)
  return pieces, separators


def listed(tokens: list[Token]):
  """Reads items separated by ; or , and or. A list within a list is a tuple: p=5,q=2; p=7,q=2."""
  outer = [piece for piece in split(tokens, texts=(';',))[0] if piece]
  if len(outer) > 1:
    rows = [listed(piece) for piece in outer]
    sizes = {len(row.items) if isinstance(row, values.Sequence) and row.kind == 'list' else 1 for row in rows}
    if len(sizes) == 1 and sizes != {1} and not any(isinstance(x, values.Relation) for row in rows for x in row.items):
      return values.Sequence('list', tuple(values.Sequence('tuple', row.items) for row in rows))  # 1,2; 3,4
    return values.Sequence('list', tuple(x for row in rows for x in _row(row)))
  pieces, separators = split(tokens, kinds=('sep',), texts=(',',))
  if any(sign.kind == 'sep' and not pieces[index + 1] for index, sign in enumerate(separators)):
    raise budget.Unreadable  # '5 or'
  if any(
    not pieces[index + 1] and sign.text == ',' == separators[index + 1].text
    for index, sign in enumerate(separators[:-1])
  ):
    raise budget.Unreadable  # '1,,2'
  pieces = [piece for piece in pieces if piece]
  family = _whole_number(pieces[-1]) if len(pieces) > 1 else ''
  if family:
    return values.Family(_pieces(pieces[:-1], separators[:-1]), family)
  return _pieces(pieces, separators)


def _whole_number(tokens: list[Token]) -> str:
  """Returns the letter of `k \\in \\mathbb{Z}`, '' for anything else."""
  texts = [token.text for token in tokens]
  letter = len(texts) == 3 and tokens[0].kind == 'sym' and texts[1:] in (['in', 'bbZ'], ['in', 'Z'])
  return texts[0] if letter else ''


def _pieces(pieces: list[list[Token]], separators: list[Token]):
  """Reads the items of one list."""
  if len(pieces) == 1:
    return item(pieces[0])
  if not pieces:
    raise budget.Unreadable
  items = []
  for piece in pieces:
    value = item(piece)
    items += value.items if isinstance(value, values.Sequence) and value.kind == 'list' else [value]
  joined = {separator.text for separator in separators}
  if all(is_region(value) for value in items) and ('or' in joined or joined == {'and'}):
    return functools.reduce(functools.partial(values.SetOperation, 'cup' if 'or' in joined else 'cap'), items)
  return values.Sequence('list', _systems(items))


def _systems(items: list) -> tuple:
  """Makes tuples of solutions that name the same unknowns again: p = 5, q = 2, p = 7, q = 2."""
  if not all(isinstance(one, values.Relation) and one.ops == ('=',) for one in items):
    return tuple(items)
  names = [one.parts[0] for one in items]
  period = len(set(map(repr, names)))
  if period < 2 or len(names) < 2 * period or any(names[i] != names[i % period] for i in range(len(names))):
    return tuple(items)
  if len(names) % period:
    return tuple(items)
  ends = [one.parts[1] for one in items]
  return tuple(values.Sequence('tuple', tuple(ends[i : i + period])) for i in range(0, len(ends), period))


def is_region(value) -> bool:
  """Returns True for an interval, a set made of intervals, or an inequality."""
  if isinstance(value, values.Relation):
    return not {'=', '~'} & set(value.ops)
  return isinstance(value, values.Interval | values.SetOperation)


def _row(row) -> tuple:
  if not (isinstance(row, values.Sequence) and row.kind == 'list'):
    return (row,)
  if all(isinstance(x, values.Relation) and set(x.ops) == {'='} for x in row.items):
    return (values.Sequence('tuple', tuple(x.parts[-1] for x in row.items)),)
  return row.items


def item(tokens: list[Token], depth: int = 0):
  """Reads one value, or parts joined by relation signs."""
  pieces, signs = split(tokens, kinds=('rel',))
  if signs and not pieces[0] and signs[0].text in '=~':  # '= 5'
    pieces, signs = pieces[1:], signs[1:]
  if not signs:
    return value(pieces[0], depth)
  if not all(pieces):
    raise budget.Unreadable
  parts = [_named(piece, depth) for piece in pieces[:-1]] + [value(pieces[-1], depth)]
  last = parts[-1]
  if isinstance(last, values.Sequence) and last.kind == 'list' and len(parts) == 2 and signs[0].text == '=':
    return values.Sequence('list', tuple(values.Relation((parts[0], x), ('=',)) for x in last.items))  # x = 1 \\pm 2
  if signs[-1].text == 'in' and isinstance(last, values.Sequence) and last.kind == 'tuple' and len(last.items) == 2:
    low, high = last.items
    if isinstance(low, values.Scalar) and isinstance(high, values.Scalar):
      parts[-1] = values.Interval(low.node, high.node, False, False)
  return values.Relation(tuple(parts), tuple(sign.text for sign in signs))


def _named(tokens: list[Token], depth: int):
  try:
    return value(tokens, depth)
  except budget.Unreadable:
    if _REFUSED_WORDS.search(' '.join(token.text for token in tokens)):
      raise
    if all(token.kind in ('word', 'sym') for token in tokens) and any(token.kind == 'word' for token in tokens):
      return values.Text(words.plain_text(' '.join(token.text for token in tokens)))
    return values.Unread(' '.join(token.text for token in tokens))


def value(tokens: list[Token], depth: int = 0):
  """Reads one value with its unit."""
  while tokens and tokens[0].kind == 'word' and len(tokens) > 1:
    if not _ARTICLES.fullmatch(tokens[0].text.strip()):
      break
    tokens = tokens[1:]
  terms = split(tokens, texts=(':',))[0]
  if len(terms) > 1:
    return values.Ratio(tuple(_ratio_term(term, depth) for term in terms))
  if not tokens:
    raise budget.Unreadable
  if tokens[0].kind == 'word' or _spelled(tokens):
    return _text_of(tokens)
  parser = Parser(tokens, _condition, depth)
  result = parser.sets()
  rest = tokens[parser.at :]
  magnitude, rest = _magnitude(rest)
  side = words.side_of(' '.join(token.text for token in rest))
  unit = _unit(rest)
  if len(tokens) > parser.at and not unit and not (isinstance(result, Node) and values.numeral_like(result)):
    raise budget.Unreadable  # no known unit after what is no number
  if magnitude and not isinstance(result, Node):
    raise budget.Unreadable
  lifted = lift(_multiplied(result, magnitude), unit)
  if (magnitude or side) and isinstance(lifted, values.Scalar):
    return dataclasses.replace(lifted, magnitude=magnitude, side=side)
  return lifted


def _magnitude(tokens: list[Token]) -> tuple[str, list[Token]]:
  """Splits a word of magnitude off the front."""
  if not tokens or tokens[0].kind != 'word':
    return '', tokens
  first, _, rest = tokens[0].text.strip().partition(' ')
  if first.lower() not in words.MAGNITUDES:
    return '', tokens
  return first.lower(), [tokens[0]._replace(text=rest), *tokens[1:]] if rest else tokens[1:]


def _multiplied(result, magnitude: str):
  if not magnitude:
    return result
  factor = words.MAGNITUDES[magnitude]
  if result.kind == 'num':
    return values.number(result.args[0] * factor, result.args[1])
  return Node('mul', (result, values.number(factor)))


def _condition(tokens: list[Token], depth: int):
  """Reads what stands behind the bar of a set."""
  pieces = split(tokens, texts=(',',))[0]
  family = _whole_number(pieces[-1]) if len(pieces) == 2 else ''
  return values.Family(item(pieces[0], depth), family) if family else item(tokens, depth)


def _ratio_term(tokens: list[Token], depth: int) -> Node:
  term = value(tokens, depth)
  if not isinstance(term, values.Scalar):
    raise budget.Unreadable
  return term.node


def _spelled(tokens: list[Token]) -> bool:
  """Returns True for three capitals and more, which are a word: ACF."""
  return len(tokens) >= 3 and all(t.kind == 'sym' and len(t.text) == 1 and t.text.isupper() for t in tokens)


def _text_of(tokens: list[Token]) -> values.Text:
  if any(token.kind not in ('word', 'sym', 'num', 'sep') and token.text not in "-'.()" for token in tokens):
    raise budget.Unreadable
  joined = ''.join(token.text if token.glued else ' ' + token.text for token in tokens)
  return values.Text(words.plain_text(joined))


def _unit(tokens: list[Token]) -> str:
  """Reads a unit, or words without meaning for a number. Raises Unreadable."""
  if not tokens:
    return ''
  if tokens[0].kind != 'word' or (tokens[0].glued and tokens[0].text.isalpha() and not words.unit_name(tokens[0].text)):
    raise budget.Unreadable  # 8nfty; a word of \\text{} starts with a blank or is a unit
  if any(
    token.kind not in ('word', 'sym') and token.text not in ('^', '/', '2', '3', '{', '}', '.') for token in tokens
  ):
    raise budget.Unreadable
  joined = ' '.join(token.text for token in tokens).replace('^ { ', '^').replace('^ ', '^')
  letters = re.sub(r'\^[23]', '', joined)
  if _REFUSED.search(letters) or len(letters.split()) > 8 or _MULTIPLIED.search(letters):
    raise budget.Unreadable  # '8 feet dozen'
  percent = letters.strip().lower() in ('percent', 'pct', 'percentage', 'per cent')
  return '%' if percent else words.unit_name(joined)


def lift(result, unit: str = ''):
  """Makes scalars of nodes, with their unit; \\pm becomes a list of two."""
  if isinstance(result, Node):
    if holds(result, 'pm'):
      return values.Sequence('list', tuple(_scalar(signed(result, sign), unit) for sign in (1, -1)))
    return _scalar(result, unit)
  if isinstance(result, values.Sequence):
    items = []
    for entry in result.items:
      lifted = lift(entry)
      both = isinstance(lifted, values.Sequence) and lifted.kind == 'list'
      if both and result.kind == 'tuple':
        raise budget.Unreadable
      items += lifted.items if both else [lifted]
    return values.Sequence(result.kind, tuple(items))
  if isinstance(result, values.SetOperation):
    return values.SetOperation(result.kind, lift(result.left), lift(result.right))
  nodes = []
  if isinstance(result, values.Interval):
    nodes = [result.low, result.high]
  elif isinstance(result, values.Matrix):
    nodes = [node for row in result.rows for node in row]
  if any(holds(node, 'pm') for node in nodes):
    raise budget.Unreadable
  return result


def _scalar(node: Node, unit: str) -> values.Scalar:
  """Takes a unit that was read as an operation (degrees, percent) off the top."""
  negative = node.kind == 'neg'
  inner = node.args[0] if negative else node
  if inner.kind in ('deg', 'percent'):
    bare = Node('neg', inner.args) if negative else inner.args[0]
    return values.Scalar(bare, 'degree' if inner.kind == 'deg' else '', inner.kind == 'percent')
  return values.Scalar(node, '' if unit == '%' else unit, unit == '%')


def holds(node: Node, *kinds: str) -> bool:
  """Returns True if an operation of one of these kinds is in the tree."""
  return node.kind in kinds or any(isinstance(arg, Node) and holds(arg, *kinds) for arg in node.args)


def signed(node: Node, sign: int) -> Node:
  """Returns the tree with every \\pm resolved to one sign."""
  args = tuple(signed(arg, sign) if isinstance(arg, Node) else arg for arg in node.args)
  if node.kind != 'pm':
    return Node(node.kind, args)
  return args[1] if args[0] * sign > 0 else Node('neg', (args[1],))
