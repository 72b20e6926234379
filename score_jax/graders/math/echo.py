# SPDX-License-Identifier: Apache-2.0
"""Tells whether an answer repeats a formula of its question, compared as parsed trees: no respelling hides it.

Brackets, names (`x = ...`), units, the order of sums and products, `+ 0` and `\\cdot 1` are nothing. Whole formulas of
the question count, and the sides of their relations, not parts of them: a number that merely stands there may be the
answer.
"""

from collections import Counter
from fractions import Fraction
import functools
import re

from score_jax.graders.math import budget
from score_jax.graders.math.algebra.equality import Scalars
from score_jax.graders.math.extract import FORMULA, inside
from score_jax.graders.math.parser import values
from score_jax.graders.math.parser.answers import read
from score_jax.graders.math.parser.values import Node

_DRAWING = re.compile(r'\[asy\].*?(?:\[/asy\]|\Z)', re.DOTALL)
_PLAIN_WORK = re.compile(r'(?<![\w\\.$])[-(]*[0-9][0-9 .()+*/^!-]*[0-9)!](?![\w\\$])')
_FORMULAS = 60  # of a question that are looked at
_OTHER_FORM = re.compile(
  r'\b(?:simplif|reduc|lowest|express|convert|rewrit|write|common fraction|mixed number|decimal|rationali)',
  re.IGNORECASE,
)
_REPEATING = re.compile(r'\\(?:overline|bar|dot|[lc]?dots)(?![a-z])|\.\.\.')
_ATOMS = frozenset(('num', 'sym', 'const', 'apply'))
_NOTHING = {'add': Fraction(0), 'mul': Fraction(1)}


def echoes(comparison, wanted, given, answer: str) -> bool:
  """Returns True if an answer that is equal to the reference is a formula of the question, and the reference is not.

  Behind `F \\approx`, with a formula F, the value counts only if it is the reference by itself.

  Args:
    comparison: of this grading, which holds the problem's text.
    wanted: the reference's value.
    given: the answer's value.
    answer: the answer's text.
  """
  known = formulas(comparison.question)
  written = repeats(answer) or _OTHER_FORM.search(comparison.question) is not None
  theirs = shapes(wanted)

  def repeated(ours: tuple) -> bool:
    return bool(ours) and not any(one in theirs for one in ours) and all(map(known_or_wrapped, ours))

  def known_or_wrapped(ours: Node) -> bool:
    stated = [one for one in known if written or not plain(one)]
    return ours in stated or any(wraps(comparison.scalars, ours, one) for one in stated)

  if not isinstance(given, values.Relation):
    return repeated(shapes(given))
  if repeated(shapes(given)):
    return True
  if isinstance(wanted, values.Relation) or not repeated(shapes(exact_end(given))):
    return False
  rounded = given.parts[-1]
  return '~' not in given.ops or repeated(shapes(rounded)) or not comparison.same(wanted, rounded)


def exact_end(chain: values.Relation):
  """Returns the last part before an approximation; the first of `3 = x`."""
  exact = chain.parts[: chain.ops.index('~') + 1] if '~' in chain.ops else chain.parts
  return chain.parts[0] if _named(exact[-1]) and not _named(chain.parts[0]) else exact[-1]


def wraps(scalars: Scalars, whole: Node, formula: Node) -> bool:
  """Returns True for what leaves a formula's value as it is: its square's root, 2F/2, F + y - y."""
  if whole.kind == 'relation' or formula.kind in (*_ATOMS, 'relation'):
    return False
  if not (holds(whole, formula) or holds(whole, shape(Node('neg', (formula,))))):
    return False
  try:
    return scalars.equal(whole, formula)
  except budget.Unreadable:
    return False


def holds(node: Node, formula: Node) -> bool:
  """Returns True if a formula is part of a tree, or some terms of a sum, some factors of a product."""
  if node == formula:
    return True
  if node.kind == formula.kind and node.kind in _NOTHING and not Counter(formula.args) - Counter(node.args):
    return True
  return any(isinstance(arg, Node) and holds(arg, formula) for arg in node.args)


def repeats(answer: str) -> bool:
  """Returns True for a decimal with a period: 0.\\overline{5}, 3.283283...."""
  return _REPEATING.search(answer) is not None


@functools.lru_cache(maxsize=512)
def formulas(question: str) -> frozenset:
  """Returns the shapes of a question's formulas, and of the arithmetic in its prose."""
  text = _DRAWING.sub(' ', question[: 20 * budget.ANSWER_CHARS])
  spans = [inside(match) for match in FORMULA.finditer(text)]
  spans += [match[0] for match in _PLAIN_WORK.finditer(FORMULA.sub(' ', text))]
  known = set()
  for span in spans[:_FORMULAS]:
    try:
      value = read(span)
    except (budget.Unreadable, budget.Exhausted):
      continue
    known |= set(shapes(value))
    if isinstance(value, values.Relation):
      known |= {shape for part in value.parts for shape in shapes(part)}
  return frozenset(known)


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
    if chain and (len(value.parts) > 2 or not scalars or _named(value.parts[0]) or _named(value.parts[1])):
      return shapes(exact_end(value))
    if scalars:
      return (Node('relation', (*value.ops, *(shape(part.node) for part in value.parts))),)
  return ()


def _named(part) -> bool:
  return isinstance(part, values.Scalar) and part.node.kind in ('sym', 'apply')


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
  return one.kind in _ATOMS
