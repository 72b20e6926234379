# SPDX-License-Identifier: Apache-2.0
"""Compares answers with relation signs: x = 5, chains, equations, inequalities.

A chain `name = a = b` is its last value if all values agree; with a false step it is no answer. An equation equals
another with terms moved and a constant factor, unless the reference is solved for a number: then so must the answer be.
"""

import dataclasses
from fractions import Fraction

from score_jax.graders.math.algebra.equality import Scalars
from score_jax.graders.math.algebra.polynomials import Value
from score_jax.graders.math.budget import Unreadable
from score_jax.graders.math.compare.real_sets import same_set
from score_jax.graders.math.parser import values
from score_jax.graders.math.parser.answers import holds
from score_jax.graders.math.parser.values import Node, symbols

_FLIPPED = {'<': '>', '>': '<', '<=': '>=', '>=': '<=', '=': '=', '!=': '!='}
_NEAR = Fraction(1, 100)  # part of an exact value that its approximation may be off


class FalseStep(Exception):
  """A chain of equalities whose values differ."""


@dataclasses.dataclass(frozen=True)
class Named:
  """What a chain ends in: its name (or None), its value, and an approximation after it."""

  name: object
  value: object
  rounded: object = None


def same(comparison, gold, answer) -> bool:
  """Compares where at least one side is a Relation."""
  try:
    named_gold = ending(comparison, gold)
    named_answer = ending(comparison, answer, work=not isinstance(gold, values.Relation))
    if _equation_of_names(gold) and not isinstance(answer, values.Relation):
      return False
  except FalseStep:
    return False
  if named_gold and named_answer:
    if not _same_name(named_gold.name, named_answer.name):
      return False
    if _any_value_same(comparison, named_gold, named_answer):
      return True
  if isinstance(gold, values.Relation) and isinstance(answer, values.Relation):
    solved = named_gold and named_gold.name is not None and _is_number(comparison.scalars, named_gold.value)
    return not solved and _same_relation(comparison, gold, answer)
  try:
    return _no_chain(gold) and _no_chain(answer) and same_set(comparison.scalars, gold, answer)
  except Unreadable:
    return False


def _no_chain(value) -> bool:
  return not isinstance(value, values.Relation) or not {'=', '~'} & set(value.ops)


def _any_value_same(comparison, gold: Named, answer: Named) -> bool:
  if comparison.same(gold.value, answer.value):
    return True
  if answer.rounded is not None and comparison.same(gold.value, answer.rounded):
    return True
  return gold.rounded is not None and comparison.same(gold.rounded, answer.value)


def _equation_of_names(value) -> bool:
  """Returns True for `xy = 6` and `a . b = 0`: equations, unlike `AB = 6`, which names a length."""
  if not isinstance(value, values.Relation) or set(value.ops) != {'='} or len(value.parts) != 2:
    return False
  head = value.parts[0]
  if isinstance(head, values.Unread):
    return True
  return isinstance(head, values.Scalar) and head.node.kind == 'mul' and not all(map(_is_point, head.node.args))


def _is_point(node: Node) -> bool:
  return node.kind == 'sym' and node.args[0][:1].isupper()


def is_work(comparison, head, end) -> bool:
  """Returns True for what may stand left of a value as its work, and is no equation.

  An expression that is equal to the value; a sum of letters (`a + b + c = 10`), or work that is not done here
  (`5 \\star 1`, sums, limits), unless nothing but 0 stands on the right, as in an equation's normal form.
  """
  if isinstance(head, values.Scalar) and isinstance(end, values.Scalar):
    zero = comparison.scalars.constant(end.node) and not comparison.scalars.form(end.node).num
    if holds(head.node, 'big'):
      return True
    if head.node.kind == 'add' and all(_is_term(term) for term in head.node.args):
      return not zero
    return comparison.scalars.equal(head.node, end.node)
  return isinstance(head, values.Unread) and end != values.Scalar(values.number(0))


def _is_term(node: Node) -> bool:
  inner = node.args[0] if node.kind == 'neg' else node
  return inner.kind == 'const' or _is_name(inner)  # e stands for a letter here


def ending(comparison, value, *, work: bool = False) -> Named | None:
  """Returns a chain's end; None for an equation or inequality. Raises FalseStep.

  Args:
    comparison: of this grading.
    value: the chain.
    work: the first part may be the value's work, which `is_work` knows.
  """
  if not isinstance(value, values.Relation):
    return Named(None, value)
  if value.ops == ('in',) and is_name(value.parts[0]):
    return Named(value.parts[0], value.parts[1])
  if not set(value.ops) <= {'=', '~', '=>'}:
    return None
  parts, ops = list(value.parts), list(value.ops)
  name = None
  while len(parts) > 1 and is_name(parts[0]):
    name = parts.pop(0)
    ops.pop(0)
  if not name and len(parts) == 2 and ops == ['='] and is_name(parts[1]) and not is_name(parts[0]):  # 3 = x
    return Named(parts[1], parts[0]) if _is_number(comparison.scalars, parts[0]) else None
  if work and len(parts) > 1 and ops[0] == '=' and is_work(comparison, parts[0], parts[-1]):
    name = name or parts[0]
    parts.pop(0)
    ops.pop(0)
  if name is None and len(parts) == 2 and not all(_is_number(comparison.scalars, part) for part in parts):
    return None
  cut = ops.index('~') + 1 if '~' in ops else len(parts)
  exact, rounded = parts[:cut], parts[cut:]
  for left, right in zip(exact, exact[1:], strict=False):
    if not _step_holds(comparison, left, right):
      raise FalseStep
  for part in rounded:
    if not _near(comparison.scalars, exact[-1], part):
      raise FalseStep
  return Named(name, exact[-1], rounded[-1] if rounded else None)


def _step_holds(comparison, left, right) -> bool:
  if isinstance(left, values.Scalar) and isinstance(right, values.Scalar):
    nodes = [
      Node('percent', (one.node,)) if one.percent and left.percent != right.percent else one.node
      for one in (left, right)
    ]
    return comparison.scalars.equal(*nodes)
  return comparison.same(left, right)


def _near(scalars: Scalars, exact, rounded) -> bool:
  if not (isinstance(exact, values.Scalar) and isinstance(rounded, values.Scalar)):
    return False
  if not (scalars.constant(exact.node) and scalars.constant(rounded.node)):
    return False
  ring = scalars.ring
  value = scalars.form(exact.node)
  off = ring.subtract(value, scalars.form(rounded.node))
  size = ring.multiply(value, ring.constant(_NEAR * (scalars.sign_of(value) or 0)))
  return all((scalars.sign_of(bound) or 0) >= 0 for bound in (ring.add(size, off), ring.subtract(size, off)))


def is_name(part) -> bool:
  """Returns True for a letter, f(x), AB, |z|, NO/BO, (x, y), a word."""
  if isinstance(part, values.Text):
    return True
  if isinstance(part, values.Scalar):
    return not part.percent and _is_name(part.node)
  if isinstance(part, values.Ratio):
    return all(_is_name(node) for node in part.items)
  return isinstance(part, values.Sequence) and part.kind == 'tuple' and all(is_name(item) for item in part.items)


def _is_name(node: Node) -> bool:
  if node.kind in ('sym', 'apply'):
    return True
  return node.kind in ('mul', 'div', 'abs') and all(_is_name(arg) for arg in node.args)


def _same_name(gold, answer) -> bool:
  """Returns False for different single letters, and for P(A) beside P(B); any other names are not compared."""
  nodes = [part.node for part in (gold, answer) if isinstance(part, values.Scalar)]
  if len(nodes) == 2 and nodes[0].kind == nodes[1].kind == 'apply' and nodes[0].args[0][0].isupper():
    return nodes[0] == nodes[1]
  return len({node.args[0] for node in nodes if node.kind == 'sym'}) < 2


def _is_number(scalars: Scalars, value) -> bool:
  return isinstance(value, values.Scalar) and scalars.constant(value.node)


def named_items(golds: list, answers: list) -> tuple[list, list, bool]:
  """Brings the items of two lists together by their names.

  Returns the items, and whether their order counts, as where the reference names several things.
  """
  names = [_label(item) for item in golds]
  if _enumerated(names):
    names = [None] * len(names)
    golds, answers = [_bare(item) for item in golds], [_bare(item) for item in answers]
  if len(set(names) - {None}) < 2:
    if len(set(names) - {None}) == 1 and None in names:  # n = 1, 2, 3
      golds, answers = [_bare(item) for item in golds], [_bare(item) for item in answers]
    return golds, answers, False
  by_name = {_label(item): item for item in answers}
  if len(set(names)) == len(names) == len(answers) == len(by_name) and set(by_name) == set(names):
    return golds, [by_name[name] for name in names], True
  if all(_label(item) is None for item in answers):
    return golds, answers, True
  return golds, answers, False


def _enumerated(names: list) -> bool:
  """Returns True for x_1, x_2, ..., x_n: one unknown's values."""
  letters = [name.node.args[0] for name in names if isinstance(name, values.Scalar) and name.node.kind == 'sym']
  stem = letters[0].partition('_')[0] if letters else ''
  return len(letters) == len(names) > 1 and set(letters) == {f'{stem}_{n + 1}' for n in range(len(names))}


def _label(item) -> object:
  """Returns the name of `name = value`."""
  if isinstance(item, values.Relation) and set(item.ops) == {'='} and is_name(item.parts[0]):
    return item.parts[0]
  return None


def _bare(item):
  return item.parts[-1] if _label(item) is not None and len(item.parts) == 2 else item


def _same_relation(comparison, gold: values.Relation, answer: values.Relation) -> bool:
  """Compares as sets of reals, then up to moving terms and scaling, then part by part."""
  scalars = comparison.scalars
  if '=' not in gold.ops + answer.ops:
    if not (gold.bound or answer.bound) and _letters(gold) != _letters(answer):
      return False
    try:
      return same_set(scalars, gold, answer)
    except Unreadable:
      pass
  if len(gold.ops) == len(answer.ops) == 1 and {*gold.ops, *answer.ops} <= set(_FLIPPED):
    try:
      return _scaled(scalars, gold, answer)
    except Unreadable:
      pass
  return _part_by_part(comparison, gold, answer)


def _letters(relation: values.Relation) -> set[str]:
  """Returns the symbols of a relation's scalars."""
  return {name for part in relation.parts if isinstance(part, values.Scalar) for name in symbols(part.node)}


def _part_by_part(comparison, gold: values.Relation, answer: values.Relation) -> bool:
  turned = values.Relation(answer.parts[::-1], tuple(_FLIPPED.get(op, op) for op in answer.ops[::-1]))
  for other in (answer, turned):
    if gold.ops == other.ops and all(comparison.same(g, a) for g, a in zip(gold.parts, other.parts, strict=True)):
      return True
  return False


def _scaled(scalars: Scalars, gold: values.Relation, answer: values.Relation) -> bool:
  """Returns True if left - right of one is a constant times the other's, turned if it is negative."""
  first, second = (_difference(scalars, relation) for relation in (gold, answer))
  lead, other = (_leading(difference) for difference in (first, second))
  if lead is None or other is None or lead[0] != other[0]:
    return False
  ring = scalars.ring
  crossed = ring.product(first.num, other[1].num), ring.product(second.num, lead[1].num)
  if not scalars.zero(Value(ring.plus(crossed[0], ring.scaled(crossed[1], Fraction(-1))), first.den)):
    return False
  sign = scalars.sign_of(ring.divide(lead[1], other[1]))
  op = answer.ops[0]
  return gold.ops[0] == (op if sign == 1 or op in ('=', '!=') else _FLIPPED[op] if sign == -1 else None)


def _difference(scalars: Scalars, relation: values.Relation) -> Value:
  left, right = relation.parts
  if not (isinstance(left, values.Scalar) and isinstance(right, values.Scalar)) or left.percent or right.percent:
    raise Unreadable
  return scalars.difference(scalars.form(left.node), scalars.form(right.node))


def _leading(value: Value) -> tuple[tuple, Value] | None:
  """Returns the largest product of symbols in it, and its constant coefficient."""
  groups: dict[tuple, dict] = {}
  for key, coefficient in value.num.items():
    symbols = tuple(pair for pair in key if 's:' in pair[0] or 'apply ' in pair[0])
    rest = tuple(pair for pair in key if pair not in symbols)
    groups.setdefault(symbols, {})[rest] = coefficient
  groups.pop((), None)
  if not groups:
    return None
  symbols = max(groups)
  return symbols, Value(groups[symbols], {(): Fraction(1)})
