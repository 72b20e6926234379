# SPDX-License-Identifier: Apache-2.0
"""Decides whether two values are the same answer, by type. docs/math.md has the disputed cases."""

import dataclasses
from fractions import Fraction
import re

from score_jax.graders.math.algebra.equality import Scalars
from score_jax.graders.math.budget import Unreadable
from score_jax.graders.math.compare import families, relations, vectors
from score_jax.graders.math.compare.real_sets import same_set
from score_jax.graders.math.compare.unfinished import undone
from score_jax.graders.math.parser import values, words
from score_jax.graders.math.parser.answers import is_region
from score_jax.graders.math.parser.values import Node

_CONSTANTS = tuple(values.symbol(letter) for letter in 'CcKk')
_UNORDERED = ('list', 'set')


@dataclasses.dataclass
class Comparison:
  """One grading's comparisons. The question says whether a percentage, a base, millions are asked for."""

  scalars: Scalars
  question: str = ''

  @property
  def percents(self) -> bool:
    return '%' in self.question or self.asks('percent')

  @property
  def bases(self) -> bool:
    return re.search(r'\bbase\b', self.question, re.IGNORECASE) is not None

  def asks(self, word: str) -> bool:
    return word in self.question.lower()

  def same(self, gold, answer) -> bool:
    """Compares two values of any type. Raises Unreadable if one has none (1/0)."""
    if isinstance(gold, values.Family) or isinstance(answer, values.Family):
      return families.same(self, gold, answer)
    if isinstance(gold, values.Relation) or isinstance(answer, values.Relation):
      return relations.same(self, gold, answer)
    if is_region(gold) or is_region(answer):
      return self.same_region(gold, answer)
    gold, answer = _alone(gold), _alone(answer)
    if isinstance(gold, values.Scalar | values.Text) and _is_list(answer) and _same_letters(gold, answer):
      return True
    if isinstance(gold, values.Scalar) and _is_list(answer) and answer.items:
      return all(self.same(gold, item) for item in answer.items)  # 1/2 or 0.5
    rule = _RULES.get((type(gold), type(answer)))
    return rule is not None and rule(self, gold, answer)

  def same_region(self, gold, answer) -> bool:
    try:
      return same_set(self.scalars, gold, answer)
    except Unreadable:
      pass
    if type(gold) is not type(answer):
      return False
    if isinstance(gold, values.Interval):
      closed = (gold.low_closed, gold.high_closed) == (answer.low_closed, answer.high_closed)
      return closed and self.equal(gold.low, answer.low) and self.equal(gold.high, answer.high)
    if isinstance(gold, values.SetOperation):
      return gold.kind == answer.kind and self.same(gold.left, answer.left) and self.same(gold.right, answer.right)
    return False

  def equal(self, gold: Node, answer: Node) -> bool:
    """Returns True if both are equal, and the answer worked out as far; long decimals may be rounded."""
    scalars = self.scalars
    if scalars.equal(gold, answer):
      return not scalars.constant(gold) or undone(scalars, answer) <= undone(scalars, gold)
    return scalars.rounds_to(gold, answer) or scalars.rounds_to(answer, gold)

  def same_scalar(self, gold: values.Scalar, answer: values.Scalar) -> bool:
    if gold.unit and answer.unit and gold.unit != answer.unit:
      return False
    if (gold.percent and answer.unit) or (gold.unit and answer.percent):
      return False
    if gold.side and answer.side and gold.side != answer.side:
      return False
    if answer.magnitude and not gold.magnitude and self.asks(answer.magnitude):
      share = Node('div', (answer.node, values.number(words.MAGNITUDES[answer.magnitude])))
      if self.equal(gold.node, share):
        return True
    if gold.percent != answer.percent:
      return self.percent_and_number(gold, answer)
    if self.equal(gold.node, answer.node) or self.same_but_constant(gold.node, answer.node):
      return True
    if vectors.components(self.scalars, gold.node):
      return self.same_vector(gold, vectors.components(self.scalars, vectors.with_unit_vectors(answer.node)))
    if (gold.unit == 'degree') != (answer.unit == 'degree'):
      nodes = [Node('deg', (one.node,)) if one.unit == 'degree' else one.node for one in (gold, answer)]
      return 'pi' in self.scalars.form(nodes[gold.unit == 'degree']).generators() and self.equal(*nodes)
    return False

  def same_but_constant(self, gold: Node, answer: Node) -> bool:
    """Takes any letter for the constant of integration: x^2 + K for x^2 + C."""
    if gold.kind != 'add' or answer.kind != 'add' or values.symbol('C') not in gold.args:
      return False
    [letter, *others] = [term for term in answer.args if term in _CONSTANTS] or [None]
    if letter is None or others:
      return False
    rest = [
      Node('add', tuple(term for term in node.args if term != one))
      for node, one in ((gold, values.symbol('C')), (answer, letter))
    ]
    used = values.symbols(rest[0]) | values.symbols(rest[1])
    return not used & {'C', letter.args[0]} and self.equal(*rest)

  def same_vector(self, gold: values.Scalar, entries: tuple | values.Sequence) -> bool:
    """Compares a sum of unit vectors with a tuple of coordinates."""
    wanted = vectors.components(self.scalars, gold.node)
    given = entries.items if isinstance(entries, values.Sequence) and entries.kind == 'tuple' else entries
    if not wanted or not isinstance(given, tuple) or len(given) > 3:
      return False
    given = (*given, *[values.Scalar(values.number(0))] * (3 - len(given)))
    return self.in_order(list(wanted), list(given))

  def percent_and_number(self, gold: values.Scalar, answer: values.Scalar) -> bool:
    """Takes 28% for 0.28, and 28 for 28% where reference or question says percent."""
    if (gold.percent or self.percents) and self.equal(gold.node, answer.node):
      return True
    nodes = [Node('percent', (one.node,)) if one.percent else one.node for one in (gold, answer)]
    return self.equal(*nodes)

  def same_sequence(self, gold: values.Sequence, answer: values.Sequence) -> bool:
    golds, answers = list(gold.items), list(answer.items)
    if gold.kind in _UNORDERED and answer.kind in _UNORDERED:
      golds, answers, ordered = relations.named_items(golds, answers)
      return self.in_order(golds, answers) if ordered else self.matched(golds, answers)
    if gold.kind == answer.kind == 'tuple':
      return self.in_order(golds, answers)
    if 'set' in (gold.kind, answer.kind):
      return False
    golds, answers, ordered = relations.named_items(golds, answers)
    ordered = ordered or relations.named_items(answers, golds)[2] or len(golds) >= 3
    return ordered and self.in_order(golds, answers)

  def in_order(self, golds: list, answers: list) -> bool:
    return len(golds) == len(answers) and all(self.same(g, a) for g, a in zip(golds, answers, strict=True))

  def matched(self, golds: list, answers: list) -> bool:
    """Matches in any order; an answer may be repeated, but none of the reference may be missing."""
    if len(answers) < len(golds):
      return False
    left = list(golds)
    extra = []
    for answer in answers:
      for index, gold in enumerate(left):
        self.scalars.ring.budget.spend(4)
        if self.same(gold, answer):
          del left[index]
          break
      else:
        extra.append(answer)
    return not left and all(any(self.same(gold, answer) for gold in golds) for answer in extra)

  def same_matrix(self, gold: values.Matrix, answer: values.Matrix) -> bool:
    if [len(row) for row in gold.rows] != [len(row) for row in answer.rows]:
      return False
    pairs = [pair for rows in zip(gold.rows, answer.rows, strict=True) for pair in zip(*rows, strict=True)]
    # Entries may hold the product with a scalar that stands before the matrix.
    return all(self.scalars.equal(*pair) or self.equal(*pair) for pair in pairs)

  def vector(self, gold, answer) -> bool:
    """Compares a column or row with a tuple."""
    matrix, other = (gold, answer) if isinstance(gold, values.Matrix) else (answer, gold)
    if 1 not in (len(matrix.rows), len(matrix.rows[0])) or other.kind != 'tuple':
      return False
    entries = values.Sequence('tuple', tuple(values.Scalar(node) for row in matrix.rows for node in row))
    return self.same(entries, other) if isinstance(gold, values.Matrix) else self.same(other, entries)

  def same_ratio(self, gold: values.Ratio, answer: values.Ratio) -> bool:
    """Compares by a:b = c:d if ad = bc, and nothing is zero on one side alone."""
    if len(gold.items) != len(answer.items):
      return False
    first = [self.scalars.form(one.items[0]) for one in (gold, answer)]
    ring = self.scalars.ring
    for g, a in zip(gold.items[1:], answer.items[1:], strict=True):
      crossed = ring.multiply(first[0], self.scalars.form(a)), ring.multiply(first[1], self.scalars.form(g))
      if not self.scalars.zero(self.scalars.difference(*crossed)):
        return False
    return bool(first[0].num and first[1].num)

  def ratio_as_quotient(self, gold: values.Ratio, answer: values.Scalar) -> bool:
    if len(gold.items) != 2 or answer.percent:
      return False
    return self.equal(Node('div', gold.items), answer.node)

  def same_clock(self, gold: values.Clock, answer: values.Clock) -> bool:
    if gold.half and answer.half or max(gold.hour, answer.hour) > 12:  # 16:30 is 4:30 pm
      return _as_day(gold) == _as_day(answer)
    return (gold.hour, gold.minute) == (answer.hour, answer.minute)

  def same_numeral(self, gold: values.Based, answer: values.Scalar) -> bool:
    """Takes the digits alone, where the question names the base."""
    if not self.bases or not (set(gold.digits) <= set('0123456789')):
      return False
    return answer.node == values.number(Fraction(int(gold.digits))) and not answer.percent


def _alone(value):
  if isinstance(value, values.Sequence) and value.kind in _UNORDERED and len(value.items) == 1:
    return value.items[0]
  return value


def _is_list(value) -> bool:
  return isinstance(value, values.Sequence) and value.kind == 'list'


def _as_day(clock: values.Clock) -> tuple[int, int]:
  """Returns hour and minute counted from midnight, by am and pm where they stand."""
  hour = clock.hour % 12 + 12 * (clock.half.startswith('p')) if clock.half else clock.hour
  return hour, clock.minute


def _same_letters(gold, answer: values.Sequence) -> bool:
  """Compares the letters of several choices: AC with A, C."""
  if isinstance(gold, values.Text):
    letters = gold.text.upper()
  else:
    letters = ''.join(arg.args[0] for arg in gold.node.args if arg.kind == 'sym') if gold.node.kind == 'mul' else ''
  given = [one.node.args[0] for one in answer.items if isinstance(one, values.Scalar) and one.node.kind == 'sym']
  several = len(letters) > 1 and set(letters) <= set('ABCDEF') and list(letters) == sorted(set(letters))
  return several and given == list(letters) and len(given) == len(answer.items)


def _as_ratio(clock: values.Clock) -> values.Ratio:
  return values.Ratio((values.number(clock.hour), values.number(clock.minute)))


_RULES = {
  (values.Scalar, values.Scalar): Comparison.same_scalar,
  (values.Sequence, values.Sequence): Comparison.same_sequence,
  (values.Matrix, values.Matrix): Comparison.same_matrix,
  (values.Matrix, values.Sequence): Comparison.vector,
  (values.Sequence, values.Matrix): Comparison.vector,
  (values.Ratio, values.Ratio): Comparison.same_ratio,
  (values.Ratio, values.Scalar): Comparison.ratio_as_quotient,
  (values.Clock, values.Clock): Comparison.same_clock,
  (values.Clock, values.Ratio): lambda self, gold, answer: not gold.half and self.same_ratio(_as_ratio(gold), answer),
  (values.Ratio, values.Clock): lambda self, gold, answer: not answer.half and self.same_ratio(gold, _as_ratio(answer)),
  (values.Clock, values.Scalar): lambda self, gold, answer: (
    not gold.half and self.ratio_as_quotient(_as_ratio(gold), answer)
  ),
  (values.Based, values.Based): lambda self, gold, answer: gold == answer,
  (values.Based, values.Scalar): Comparison.same_numeral,
  (values.Text, values.Text): lambda self, gold, answer: (
    bool(gold.text) and (gold == answer or {gold.text, answer.text} <= words.EMPTY)
  ),
  (values.Text, values.Sequence): lambda self, gold, answer: gold.text in words.EMPTY and not answer.items,
  (values.Sequence, values.Text): lambda self, gold, answer: answer.text in words.EMPTY and not gold.items,
  (values.Scalar, values.Sequence): Comparison.same_vector,
  (values.Unread, values.Unread): lambda self, gold, answer: gold == answer,
}
