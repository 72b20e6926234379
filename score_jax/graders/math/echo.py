# SPDX-License-Identifier: Apache-2.0
"""Tells whether an answer repeats a formula of its question, compared as parsed trees: no respelling hides it.

Brackets, names (`x = ...`), units, the order of sums and products, `+ 0` and `\\cdot 1` are nothing. Whole formulas of
the question count, and the sides of their relations, not parts of them: a number that merely stands there may be the
answer.
"""

from fractions import Fraction
import functools
import re

from score_jax.graders.math import budget
from score_jax.graders.math.parser import values
from score_jax.graders.math.parser.answers import read
from score_jax.graders.math.parser.values import Node

_FORMULA = re.compile(
  r'\$\$(.{1,600}?)\$\$|(?<!\\)\$((?:[^$\\]|\\.){1,600}?)\$|\\\((.{1,600}?)\\\)|\\\[(.{1,600}?)\\\]', re.DOTALL
)
_DRAWING = re.compile(r'\[asy\].*?(?:\[/asy\]|\Z)', re.DOTALL)
_PLAIN_WORK = re.compile(r'(?<![\w\\.$])[-(]*[0-9][0-9 .()+*/^!-]*[0-9)!](?![\w\\$])')
_FORMULAS = 60  # of a question that are looked at
_OTHER_FORM = re.compile(
  r'\b(?:simplif|reduc|lowest|express|convert|rewrit|write|common fraction|mixed number|decimal|rationali)',
  re.IGNORECASE,
)
_REPEATING = re.compile(r'\\(?:overline|bar|dot|[lc]?dots)(?![a-z])|\.\.\.')
_NOTHING = {'add': Fraction(0), 'mul': Fraction(1)}


def echoes(question: str, wanted, given, answer: str) -> bool:
  """Returns True if an answer is a formula of the question, and the reference is not.

  Args:
    question: the problem's text.
    wanted: the reference's value, or None.
    given: the answer's value.
    answer: the answer's text.
  """
  ours, theirs = shapes(given), shapes(wanted)
  if not ours or set(ours) <= set(theirs):
    return False
  if isinstance(given, values.Relation) and not isinstance(wanted, values.Relation) and repeats_end(given, question):
    return True
  asked = _OTHER_FORM.search(question) is not None
  known = formulas(question)
  return all(shape in known and (asked or not plain(shape) or repeats(answer)) for shape in ours)


def repeats_end(given: values.Relation, question: str) -> bool:
  """Returns True for an equation of the question, or `F = F` and `F \\approx F` with a formula F of it."""
  if not set(given.ops) <= {'=', '~'}:
    return False
  known = formulas(question)
  head = given.parts[0]
  named = isinstance(head, values.Scalar) and _is_letter(head.node)
  exact = given.ops.index('~') if '~' in given.ops else len(given.ops)
  ends = shapes(given.parts[exact])
  return (not named and given in known) or (bool(ends) and all(end in known and not plain(end) for end in ends))


def repeats(answer: str) -> bool:
  """Returns True for a decimal with a period: 0.\\overline{5}, 3.283283...."""
  return _REPEATING.search(answer) is not None


@functools.lru_cache(maxsize=512)
def formulas(question: str) -> frozenset:
  """Returns the shapes of a question's formulas, and of the arithmetic in its prose."""
  text = _DRAWING.sub(' ', question[: 20 * budget.ANSWER_CHARS])
  spans = [next(group for group in match.groups() if group is not None) for match in _FORMULA.finditer(text)]
  spans += [match[0] for match in _PLAIN_WORK.finditer(_FORMULA.sub(' ', text))]
  found = set()
  for span in spans[:_FORMULAS]:
    try:
      value = read(span)
    except (budget.Unreadable, budget.Exhausted):
      continue
    found |= set(shapes(value))
    if isinstance(value, values.Relation):
      found.add(value)
      found |= {shape for part in value.parts for shape in shapes(part)}
  return frozenset(found)


def shapes(value) -> tuple:
  """Returns what a value is without brackets, name and unit: one shape, or one an entry of a list. () for others."""
  if isinstance(value, values.Scalar):
    return (shape(value.node),)
  if isinstance(value, values.Sequence) and value.kind != 'tuple':
    return tuple(one for item in value.items for one in shapes(item))
  if isinstance(value, values.SetOperation):
    return shapes(value.left) + shapes(value.right)
  if isinstance(value, values.Relation):
    scalars = all(isinstance(part, values.Scalar) for part in value.parts)
    chain = set(value.ops) <= {'=', '~'}
    if chain and (len(value.parts) > 2 or not scalars or _is_letter(value.parts[0].node)):
      exact = value.ops.index('~') if '~' in value.ops else len(value.ops)
      return shapes(value.parts[exact])
    if scalars:
      return (Node('relation', (*value.ops, *(shape(part.node) for part in value.parts))),)
  return ()


def _is_letter(node: Node) -> bool:
  return node.kind in ('sym', 'apply')


def shape(node: Node) -> Node:
  """Returns a tree with sums and products flat and in order, without + 0, times 1 and over 1."""
  args = [shape(arg) if isinstance(arg, Node) else arg for arg in node.args]
  if node.kind == 'neg':
    [inner] = args
    if inner.kind == 'neg':
      return inner.args[0]
    if inner.kind == 'num':
      return values.number(-inner.args[0])
    if inner.kind == 'add':
      return shape(Node('add', tuple(Node('neg', (arg,)) for arg in inner.args)))
    return Node('neg', (inner,))
  if node.kind == 'num':
    return values.number(args[0])
  if node.kind in _NOTHING:
    flat = [part for arg in args for part in (arg.args if arg.kind == node.kind else (arg,))]
    kept = [arg for arg in flat if arg != values.number(_NOTHING[node.kind])]
    if len(kept) < 2:
      return kept[0] if kept else values.number(_NOTHING[node.kind])
    return Node(node.kind, tuple(sorted(kept, key=repr)))
  if node.kind in ('div', 'pow') and args[1] == values.number(1):
    return args[0]
  return Node(node.kind, tuple(args))


def plain(one: Node) -> bool:
  """Returns True for a number, a fraction of whole numbers, a letter: nothing that is left to do."""
  if one.kind == 'neg':
    return plain(one.args[0])
  if one.kind == 'div':
    numbers = [arg.args[0] for arg in one.args if arg.kind == 'num' and arg.args[0].denominator == 1]
    return len(numbers) == 2 and numbers[1] != 0 and (numbers[0] / numbers[1]).denominator > 1
  return one.kind in ('num', 'sym', 'const', 'apply')
