# SPDX-License-Identifier: Apache-2.0
"""Compares families of solutions: a value for every whole number k.

The name of the letter is free, and so are its sign and a shift by one: what k -> s k + t maps onto all whole numbers
gives the same family. A reference that does not say so is a family only as an angle.
"""

import dataclasses

from score_jax.graders.math.parser import values
from score_jax.graders.math.parser.answers import holds
from score_jax.graders.math.parser.values import Node

_LETTERS = frozenset('kmn')
_MAPS = tuple((sign, shift) for sign in (1, -1) for shift in (0, 1, -1))


def same(comparison, gold, answer) -> bool:
  """Compares where at least one side is a Family."""
  stated = isinstance(gold, values.Family)
  gold, answer = _family(gold), _family(answer)
  if gold is None or answer is None:
    return False
  wanted, given = _bare(gold.value), _bare(answer.value)
  if not stated and not _periodic(wanted):  # 2k, with a k of the question
    return gold.letter == answer.letter and comparison.same(wanted, given)
  for sign, shift in _MAPS:
    letter = values.symbol(gold.letter)
    image = Node('add', (letter if sign > 0 else Node('neg', (letter,)), values.number(shift)))
    if comparison.same(wanted, _replaced(given, answer.letter, image if (sign, shift) != (1, 0) else letter)):
      return True
  return False


def _family(value) -> values.Family | None:
  """Returns a value with one letter that customarily stands for whole numbers as a family of it."""
  if isinstance(value, values.Family):
    return value
  bare = _bare(value)
  letters = values.symbols(bare.node) & _LETTERS if isinstance(bare, values.Scalar) else set()
  return values.Family(value, letters.pop()) if len(letters) == 1 else None


def _periodic(value) -> bool:
  """Returns True for an angle with a free number of turns: \\pi/2 + k\\pi."""
  if not isinstance(value, values.Scalar):
    return False
  return value.unit == 'degree' or holds(value.node, 'deg') or _has_pi(value.node)


def _has_pi(node: Node) -> bool:
  return node == values.const('pi') or any(isinstance(arg, Node) and _has_pi(arg) for arg in node.args)


def _bare(value):
  """Takes a name off: x = 3k is 3k."""
  if isinstance(value, values.Relation) and value.ops == ('=',) and isinstance(value.parts[0], values.Scalar):
    return value.parts[1] if value.parts[0].node.kind == 'sym' else value
  return value


def _replaced(value, letter: str, image: Node):
  if isinstance(value, values.Scalar):
    return dataclasses.replace(value, node=_with(value.node, letter, image))
  if isinstance(value, values.Sequence):
    return values.Sequence(value.kind, tuple(_replaced(_bare(item), letter, image) for item in value.items))
  return value


def _with(node: Node, letter: str, image: Node) -> Node:
  if node == values.symbol(letter):
    return image
  return Node(node.kind, tuple(_with(arg, letter, image) if isinstance(arg, Node) else arg for arg in node.args))
