# SPDX-License-Identifier: Apache-2.0
"""The types of an answer's value. Every type is frozen; a scalar is a tree of `Node`."""

import dataclasses
from fractions import Fraction
from typing import NamedTuple


class Node(NamedTuple):
  """One operation of a scalar expression.

  Kinds and arguments: num (Fraction, significant digits or 0 if exact), sym (name), const ('pi' | 'e' | 'i' | 'inf'),
  add (nodes...), neg (node), mul (nodes...), div (a, b), pow (a, b), root (a, q), fact (a), binom (n, k),
  fn (name, node), log (base, node), abs (a), floor (a), ceil (a), deg (a), percent (a), pm (sign, a),
  apply (name, nodes...), big (what, nodes...).
  """

  kind: str
  args: tuple


@dataclasses.dataclass(frozen=True)
class Scalar:
  """A number or expression, with the unit it was written with ('' if none).

  `node` is multiplied by a word of magnitude (million), which `magnitude` keeps; `side` is a word that has an opposite
  (north, ago, loss).
  """

  node: Node
  unit: str = ''
  percent: bool = False
  magnitude: str = ''
  side: str = ''


@dataclasses.dataclass(frozen=True)
class Sequence:
  """Several answers: 'tuple' is ordered; 'list' (bare, or joined by and / or) and 'set' are not."""

  kind: str
  items: tuple


@dataclasses.dataclass(frozen=True)
class Interval:
  """Real numbers between two bounds."""

  low: Node
  high: Node
  low_closed: bool
  high_closed: bool


@dataclasses.dataclass(frozen=True)
class SetOperation:
  """`left` cup, cap or setminus `right`."""

  kind: str
  left: object
  right: object


@dataclasses.dataclass(frozen=True)
class Matrix:
  """Rows of nodes."""

  rows: tuple


@dataclasses.dataclass(frozen=True)
class Relation:
  """`parts[0] ops[0] parts[1] ops[1] ...`; its unknown is a `bound` one in \\{x | x > 5\\}."""

  parts: tuple
  ops: tuple
  bound: bool = False


@dataclasses.dataclass(frozen=True)
class Unread:
  """What stands left of a relation sign and has no value here, as written."""

  text: str


@dataclasses.dataclass(frozen=True)
class Choice:
  """The letter of a choice with its value."""

  letter: str
  value: object


@dataclasses.dataclass(frozen=True)
class Family:
  """A value for every whole number that its letter stands for: k pi, k in Z."""

  value: object
  letter: str


@dataclasses.dataclass(frozen=True)
class Text:
  """Words, lower case, blanks and punctuation taken out."""

  text: str


@dataclasses.dataclass(frozen=True)
class Based:
  """A numeral in a base, as written."""

  digits: str
  base: int


@dataclasses.dataclass(frozen=True)
class Ratio:
  """a:b or a:b:c."""

  items: tuple


@dataclasses.dataclass(frozen=True)
class Clock:
  """A time of day; `half` is 'am', 'pm' or ''."""

  hour: int
  minute: int
  half: str


def number(value: Fraction | int, digits: int = 0) -> Node:
  """Returns a number, with the significant digits of a decimal."""
  return Node('num', (Fraction(value), digits))


def symbol(name: str) -> Node:
  """Returns a symbol."""
  return Node('sym', (name,))


def const(name: str) -> Node:
  """Returns pi, e, i or infinity."""
  return Node('const', (name,))


def symbols(node: Node) -> set[str]:
  """Returns the names of the symbols in an expression."""
  if node.kind == 'sym':
    return {node.args[0]}
  return {name for arg in node.args if isinstance(arg, Node) for name in symbols(arg)}


def numeral_like(node: Node) -> bool:
  """Returns True for a number written without symbols."""
  if not isinstance(node, Node):
    return True
  return node.kind not in ('sym', 'apply') and node != const('i') and all(numeral_like(arg) for arg in node.args)


def infinite(node: Node) -> bool:
  """Returns True for infinity and its negative."""
  return node == const('inf') or (node.kind == 'neg' and node.args[0] == const('inf'))
