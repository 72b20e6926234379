# SPDX-License-Identifier: Apache-2.0
"""Parses what stands in brackets or environments, and products with it."""

import dataclasses
from fractions import Fraction

from score_jax.graders.math import budget
from score_jax.graders.math.parser import values, words
from score_jax.graders.math.parser.values import Node

_MATRICES = frozenset(('pmatrix', 'bmatrix', 'Bmatrix', 'matrix', 'vmatrix', 'array', 'smallmatrix'))
_NAMED_SETS = {'R': ('-inf', 'inf'), 'Z': None, 'N': None, 'Q': None, 'C': None}


def set_operation(kind: str, left, right):
  """Returns cup, cap or setminus of two sets; anything else is unreadable."""
  left, right = (
    values.Sequence('set', (one,))
    if isinstance(one, Node) and one.kind != 'sym' and not isinstance(other, Node)
    else one
    for one, other in ((left, right), (right, left))
  )
  kinds = (values.Interval, values.SetOperation, values.Sequence)
  ok = all(isinstance(x, kinds) or (isinstance(x, Node) and x.kind == 'sym') for x in (left, right))
  if not ok:
    raise budget.Unreadable
  return values.SetOperation(kind, left, right)


def negative(value):
  """Returns the negative of a scalar or matrix."""
  if isinstance(value, values.Matrix):
    return product(values.number(-1), value)
  if not isinstance(value, Node):
    raise budget.Unreadable
  return Node('neg', (value,))


def product(left, right):
  """Returns a product of scalars, or of a scalar and a matrix."""
  for scale, other in ((left, right), (right, left)):
    if isinstance(scale, Node) and isinstance(other, values.Matrix):
      return values.Matrix(tuple(tuple(Node('mul', (scale, entry)) for entry in row) for row in other.rows))
  if not (isinstance(left, Node) and isinstance(right, Node)):
    raise budget.Unreadable
  if left.kind == 'mul':
    return Node('mul', (*left.args, right))
  return Node('mul', (left, right))


def repeating(parser, mantissa: str) -> Node | None:
  """Reads the rest of 0.1\\overline{6}, 0.\\dot{3} or 0.333...; None if there is none."""
  token = parser.peek()
  whole, _, fixed = mantissa.partition('.')
  period = ''
  if token.kind == 'cmd' and token.text in ('overline', 'bar') or token.kind == 'cmd' and token.text == 'dot':
    parser.next()
    period = raw_group(parser)
  elif token.kind == 'op' and token.text == '(' and parser.peek(1).kind == 'num' and token.glued and fixed:
    return None
  elif token.text == 'dots':
    parser.next()
    for size in (1, 2, 3, 6):
      tail = fixed[-size:]
      if len(fixed) >= max(3, 2 * size) and fixed.endswith(tail * max(2, 3 // size)):
        period = tail
        break
  else:
    return None
  if not (period.isascii() and period.isdigit()) or len(period) > budget.DIGITS:
    raise budget.Unreadable
  start = Fraction(int((whole + fixed) or '0'), 10 ** len(fixed))
  return values.number(start + Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(fixed)))


def raw_group(parser) -> str:
  """Returns the text of the next group or token, blanks taken out."""
  if not parser.takes('{'):
    return parser.next().text or refuse()
  depth = 1
  parts = []
  while True:
    token = parser.next()
    if token.kind == 'end':
      raise budget.Unreadable
    depth += (token.text == '{') - (token.text == '}')
    if not depth:
      return ''.join(parts)
    parts.append(token.text)


def subscript(parser) -> str:
  """Returns '_1' for x_1 and x_{1}; '' without a subscript."""
  return '_' + raw_group(parser) if parser.takes('_') else ''


def listed(parser, *closings: str) -> list:
  """Reads values up to a closing bracket, which `parser.closed_by` keeps."""
  items = []
  while True:
    items.append(parser.deeper(parser.sets))
    while parser.peek().kind == 'word' and words.unit_name(parser.peek().text):
      parser.next()
    if parser.takes(',', ';'):
      continue
    if parser.peek().kind == 'sep':
      parser.next()
      continue
    if parser.takes(*closings):
      parser.closed_by = parser.tokens[parser.at - 1].text
      return items
    raise budget.Unreadable


def bracketed(parser):
  """Reads ( ), [ ], { }, \\{ \\} or | |: a group, tuple, interval, set or absolute value."""
  opening = parser.next().text
  bars, parser.bars = parser.bars, 0
  try:
    if opening == '|':
      parser.bars = 1
      value = parser.deeper(parser.sum)
      parser.bars = 0
      parser.expect('|')
      return Node('abs', (value,)) if isinstance(value, Node) else refuse()
    if opening == '{':
      items = listed(parser, '}')
      return items[0] if len(items) == 1 else values.Sequence('set', tuple(items))
    if opening == r'\{':
      return braces(parser)
    if opening in ('(', '['):
      items = listed(parser, ')', ']')
      return between(opening, items, parser.closed_by)
    raise budget.Unreadable
  finally:
    parser.bars = bars


def refuse():
  """Raises Unreadable, where an expression is wanted."""
  raise budget.Unreadable


def between(opening: str, items: list, closing: str):
  """Returns a group (x), a tuple (x, y), an interval [x, y) or a list [x, y, z]."""
  nodes = all(isinstance(item, Node) for item in items)
  square = opening == '[' or closing == ']'
  if len(items) == 1:
    if opening + closing not in ('()', '[]'):
      raise budget.Unreadable
    return items[0]
  if len(items) == 2 and nodes and (square or any(values.infinite(item) for item in items)):
    return values.Interval(items[0], items[1], opening == '[', closing == ']')
  if opening + closing not in ('()', '[]'):
    raise budget.Unreadable
  return values.Sequence('tuple', tuple(items))


def braces(parser):
  """Reads \\{1, 2\\}, or \\{x | condition\\}."""
  if parser.takes(r'\}'):
    return values.Sequence('set', ())
  depth = 0
  for ahead in range(len(parser.tokens) - parser.at):
    token = parser.peek(ahead)
    depth += (token.text in (r'\{', '(', '[', '{')) - (token.text in (r'\}', ')', ']', '}'))
    if depth < 0:
      break
    if not depth and token.text in ('|', ':') and ahead and parser.peek(ahead - 1).kind in ('sym', 'cmd'):
      return builder(parser, ahead)
  return values.Sequence('set', tuple(listed(parser, r'\}')))


def builder(parser, ahead: int):
  """Reads the condition of \\{x | condition\\}."""
  parser.at += ahead + 1
  end = parser.at
  depth = 0
  while depth >= 0 and end < len(parser.tokens):
    text = parser.tokens[end].text
    depth += (text in (r'\{', '(', '[', '{')) - (text in (r'\}', ')', ']', '}'))
    end += 1
  condition = parser.relation(parser.tokens[parser.at : end - 1], parser.depth + 1)
  parser.at = end
  if not isinstance(condition, values.Relation | values.Family) or depth >= 0:
    raise budget.Unreadable
  return dataclasses.replace(condition, bound=True) if isinstance(condition, values.Relation) else condition


def command(parser, name: str):
  """Reads environments, angle brackets and named sets; any other macro is unreadable."""
  if name == 'begin' and [parser.peek(ahead).text for ahead in range(3)] == ['{', 'vmatrix', '}']:
    return determinant(parser)
  if name == 'begin':
    return matrix(parser)
  if name == 'langle':
    return values.Sequence('tuple', tuple(listed(parser, 'rangle')))
  if name == 'emptyset':
    return values.Sequence('set', ())
  if name == 'bbR':
    return values.Interval(Node('neg', (values.const('inf'),)), values.const('inf'), False, False)
  if name.startswith('bb') and name[2:] in _NAMED_SETS:
    return values.symbol(name)
  if name in ('angle', 'triangle', 'overline'):
    parser.takes('{')
    letters = ''
    while parser.peek().kind == 'sym':
      letters += parser.next().text
    parser.takes('}')
    return values.symbol(f'{name} {letters}') if letters else refuse()
  raise budget.Unreadable


def determinant(parser) -> Node:
  """Reads a determinant from behind its \\begin."""
  rows = matrix(parser).rows
  if len(rows) != len(rows[0]):
    raise budget.Unreadable
  return Node('big', ('det', *(entry for row in rows for entry in row)))


def matrix(parser) -> values.Matrix:
  """Reads a matrix from behind its \\begin."""
  environment = raw_group(parser)
  if environment not in _MATRICES:
    raise budget.Unreadable
  if environment == 'array':
    raw_group(parser)
  rows = [[]]
  while not parser.takes('end'):
    rows[-1].append(parser.deeper(parser.sum))
    if not isinstance(rows[-1][-1], Node):
      raise budget.Unreadable
    if parser.takes(r'\\'):
      rows.append([])
    elif parser.peek().kind == 'sep':
      parser.next()
  if raw_group(parser) != environment:
    raise budget.Unreadable
  rows = [tuple(row) for row in rows if row]
  if not rows or len({len(row) for row in rows}) != 1:
    raise budget.Unreadable
  return values.Matrix(tuple(rows))
