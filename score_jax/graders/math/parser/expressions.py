# SPDX-License-Identifier: Apache-2.0
"""Parses tokens by recursive descent to a scalar expression or a bracketed value.

Precedence, loosest first: cup cap setminus; + -; * / and juxtaposition, left to right; sign; ^ and postfixes.
`2\\frac13` and `2 1/3` are mixed numbers when the fraction is proper; two numerals side by side are refused.
"""

from fractions import Fraction

from score_jax.graders.math import budget
from score_jax.graders.math.parser import brackets, values, words
from score_jax.graders.math.parser.clean import GREEK
from score_jax.graders.math.parser.tokens import Token
from score_jax.graders.math.parser.values import Node

_END = Token('end', '', False)
_GREEK = frozenset(GREEK.split()) | {'Pi', 'ell', 'hbar', 'aleph', 'nabla', 'partial'}
_FUNCTION_LETTERS = frozenset('fghFGHW')
_INVERSES = {'sin': 'arcsin', 'cos': 'arccos', 'tan': 'arctan', 'cot': 'arccot', 'sec': 'arcsec', 'csc': 'arccsc'}
_ROUNDINGS = {'lfloor': ('floor', 'rfloor'), 'lceil': ('ceil', 'rceil')}
_POSTFIXES = {
  ('op', '!'): 'fact', ('op', '%'): 'percent', ('cmd', 'percent'): 'percent', ('cmd', 'degree'): 'deg',
  ('cmd', 'circ'): 'deg',
}  # fmt: skip
_SYMMETRIC = frozenset(('max', 'min', 'gcd', 'lcm'))
_BIG = frozenset(('sum', 'prod', 'int', 'lim', 'oint', 'iint', 'bigcap'))


class Parser:
  """One pass over a list of tokens."""

  def __init__(self, tokens: list[Token], relation=None, depth: int = 0):
    self.tokens = list(tokens)
    self.relation = relation  # reads the condition of \{x | condition\}
    self.at = 0
    self.depth = depth
    self.bars = 0  # open |

  def peek(self, ahead: int = 0) -> Token:
    return self.tokens[self.at + ahead] if self.at + ahead < len(self.tokens) else _END

  def next(self) -> Token:
    token = self.peek()
    self.at += 1
    return token

  def takes(self, *texts: str) -> bool:
    """Steps over an operator or command with one of these texts."""
    token = self.peek()
    if token.kind in ('op', 'cmd') and token.text in texts:
      self.at += 1
      return True
    return False

  def expect(self, text: str) -> None:
    if not self.takes(text):
      raise budget.Unreadable

  def deeper(self, rule):
    """Calls a rule one level further down."""
    self.depth += 1
    if self.depth > budget.DEPTH:
      raise budget.Unreadable
    value = rule()
    self.depth -= 1
    return value

  def sets(self):
    """union := sum ((cup | cap | setminus) sum)*"""
    value = self.sum()
    while True:
      for kind in ('cup', 'cap', 'setminus'):
        if self.takes(kind):
          value = brackets.set_operation(kind, value, self.sum())
          break
      else:
        return value

  def sum(self):
    terms = [self.term()]
    while True:
      if self.takes('+'):
        terms.append(self.term())
      elif self.takes('-'):
        terms.append(Node('neg', (scalar(self.term()),)))
      elif self.takes('pm', 'mp'):
        terms.append(self.signed())
      else:
        return terms[0] if len(terms) == 1 else Node('add', tuple(scalar(term) for term in terms))

  def signed(self) -> Node:
    sign = 1 if self.tokens[self.at - 1].text == 'pm' else -1
    return Node('pm', (sign, scalar(self.term())))

  def term(self):
    """term := sign factor ((* | / | nothing) factor)*"""
    if self.takes('-'):
      return self.deeper(lambda: brackets.negative(self.term()))
    if self.takes('+'):
      return self.deeper(self.term)
    if self.takes('pm', 'mp'):
      return self.signed()
    value = self.power()
    while True:
      if self.takes('*', 'times', 'cdot'):
        value = brackets.product(value, self.factor())
      elif self.takes('/'):
        value = Node('div', (scalar(value), scalar(self.factor())))
      elif self.takes('bmod', 'mod'):
        value = Node('big', ('mod', scalar(value), scalar(self.factor())))
      elif self.starts_factor():
        value = self.juxtaposed(value)
      else:
        return value

  def factor(self):
    if self.takes('-'):
      return Node('neg', (scalar(self.deeper(self.factor)),))
    self.takes('+')
    return self.power()

  def juxtaposed(self, left):
    """Joins `left` and what follows: a mixed number or a product."""
    token = self.peek()
    if isinstance(left, Node) and left.kind == 'num' and left.args[1] == 0 and left.args[0].denominator == 1:
      fraction = self.proper_fraction()
      if fraction is not None:
        return self.postfixed(values.number(left.args[0] + fraction))
    before = self.tokens[self.at - 1]
    if token.kind == 'num' and (
      (before.kind == 'sym' and token.glued)
      or (
        before.text != ')'
        and values.numeral_like(left)
        and not (_is_power(left) and self.peek(1).text == '^')  # 2^6 3^5
      )
    ):
      raise budget.Unreadable  # '4 5', 'x2': no product
    return brackets.product(left, self.power())

  def proper_fraction(self) -> Fraction | None:
    """Steps over \\frac{a}{b} or a/b of whole numbers with a < b; otherwise stays."""
    start = self.at
    if self.takes('frac'):
      top, bottom = self.argument(), self.argument()
    elif self.peek().kind == 'num' and self.peek(1).text == '/' and self.peek(2).kind == 'num':
      top, _, bottom = self.numeral(), self.next(), self.numeral()
    else:
      return None
    ints = [x.args[0] for x in (top, bottom) if isinstance(x, Node) and x.kind == 'num' and x.args[0].denominator == 1]
    if len(ints) == 2 and 0 < ints[0] < ints[1] and self.peek().text != '^':
      return ints[0] / ints[1]
    self.at = start
    return None

  def starts_factor(self) -> bool:
    token = self.peek()
    if token.kind in ('num', 'sym'):
      return True
    if token.kind == 'op':
      return token.text in ('(', '{', '[') or (token.text == '|' and not self.bars)
    return token.kind == 'cmd' and (
      token.text in words.FUNCTIONS
      or token.text in _GREEK
      or token.text in _ROUNDINGS
      or token.text in _BIG
      or token.text in ('pi', 'infty', 'frac', 'binom', 'sqrt', 'begin', 'overline', 'dot', 'boxed', 'fbox', 'choose')
    )

  def power(self):
    value = self.deeper(self.atom)
    while True:
      token = self.peek()
      if token.text == '^' and token.kind == 'op':
        self.next()
        value = self.raised(value)
      elif (token.kind, token.text) in _POSTFIXES:
        value = self.postfixed(value)
      elif token.kind == 'cmd' and token.text == 'choose':
        self.next()
        value = Node('binom', (scalar(value), scalar(self.power())))
      else:
        return value

  def postfixed(self, value) -> Node:
    """Reads signs of percent, degree and factorial behind a value."""
    while (self.peek().kind, self.peek().text) in _POSTFIXES:
      token = self.next()
      value = Node(_POSTFIXES[token.kind, token.text], (scalar(value),))
    return scalar(value)

  def raised(self, value):
    primes = self.primes()
    if primes and isinstance(value, Node) and value.kind == 'sym':
      name = value.args[0] + primes
      return self.applied(name, value.args[0]) or values.symbol(name)
    if self.takes('circ', 'degree') or self.braced('circ') or self.braced('degree'):
      return Node('deg', (scalar(value),))
    exponent = self.deeper(lambda: scalar(self.argument(signed=True)))
    if isinstance(value, Node) and value.kind == 'sym' and self.peek().text == '_':  # x^2_1
      value = values.symbol(value.args[0] + brackets.subscript(self))
    return Node('pow', (scalar(value), exponent))

  def primes(self) -> str:
    """Steps over ' or {''}: a name's primes written as a power."""
    count = 0
    if self.peek().text == '{':
      while self.peek(1 + count).text == "'":
        count += 1
      if count and self.peek(1 + count).text == '}':
        self.at += 2 + count
        return "'" * count
      return ''
    while self.peek().text == "'":
      self.next()
      count += 1
    return "'" * count

  def braced(self, text: str) -> bool:
    if [self.peek(i).text for i in range(3)] == ['{', text, '}']:
      self.at += 3
      return True
    return False

  def argument(self, signed: bool = False):
    """Reads what a macro takes: a group, or one digit, letter or macro; `^` takes a whole numeral."""
    if self.takes('{'):
      value = self.deeper(self.sets)
      self.expect('}')
      return value
    if signed and self.takes('-'):
      return Node('neg', (scalar(self.argument()),))
    token = self.peek()
    if token.kind == 'num' and not signed and len(token.text) > 1:  # \\frac12
      self.tokens[self.at] = token._replace(text=token.text[1:], glued=True)
      return values.number(int(token.text[0])) if token.text[0].isdigit() else brackets.refuse()
    if signed and token.text == '(':
      self.expect('(')
      value = self.deeper(self.sum)
      self.expect(')')
      return value
    return self.deeper(self.atom)

  def numeral(self) -> Node:
    """Reads a numeral: exact, with significant digits if it has a point."""
    text = self.next().text
    value = text.lower().rstrip('.')
    mantissa, _, exponent = value.partition('e')
    if len(exponent.lstrip('+-')) > 3:
      raise budget.Unreadable
    digits = len(mantissa.replace('.', '').lstrip('0')) if '.' in mantissa else 0
    repeated = brackets.repeating(self, mantissa) if '.' in text else None
    if repeated is not None:
      return repeated
    return values.number(Fraction(value), digits)

  def atom(self):
    token = self.peek()
    if token.kind == 'num':
      return self.numeral()
    if token.kind == 'sym':
      return self.name()
    if token.kind == 'cmd':
      return self.command()
    if token.kind == 'op':
      return brackets.bracketed(self)
    raise budget.Unreadable

  def name(self) -> Node:
    """Reads a letter with subscript and primes; e and i are constants; f(x) is one value."""
    token = self.next()
    if token.text in ('e', 'i') and self.peek().text != '_':
      return values.const(token.text)
    name = token.text + brackets.subscript(self)
    while self.takes("'"):
      name += "'"
    return self.applied(name, token.text) or values.symbol(name)

  def applied(self, name: str, letter: str) -> Node | None:
    """Reads the bracket behind a name, if it holds arguments: f(x + 1), P(A), u(1), y'(x), Var(X), C(n, k).

    None where it may be a factor: x(x - 1), P(1 + r).
    """
    start = self.at
    while letter.isupper() and self.peek().kind == 'sym' and self.peek().text.islower() and self.peek().glued:
      name += self.next().text
    opening = self.peek()
    if opening.kind == 'op' and opening.text == '(' and not letter.startswith('vec'):
      self.next()
      try:
        arguments = brackets.listed(self, ')')
      except budget.Unreadable:
        arguments = []
      inside = self.tokens[start + 1 : self.at - 1]
      sure = letter in _FUNCTION_LETTERS or name.endswith("'") or len(arguments) > 1
      known = len(arguments) == 1 and isinstance(arguments[0], Node)
      number = known and all(token.kind == 'num' or token.text in '-' for token in inside)
      letter_alone = known and letter.isupper() and arguments[0].kind == 'sym'
      if arguments and opening.glued and (sure or number or letter_alone):
        return Node('apply', (name, *(scalar(argument) for argument in arguments)))
    self.at = start
    return None

  def command(self):
    name = self.next().text
    if name in ('pi', 'infty'):
      return values.const(name.removesuffix('ty'))
    if name == 'Gamma' and self.peek().text == '(':
      return self.gamma()
    if name in _GREEK:
      return values.symbol(name + brackets.subscript(self))
    if name in ('frac', 'binom'):
      return Node('div' if name == 'frac' else name, (scalar(self.argument()), scalar(self.argument())))
    if name == 'sqrt':
      return self.root()
    if name in ('boxed', 'fbox'):
      return self.argument()
    if name in words.FUNCTIONS:
      return self.function(name)
    if name in _ROUNDINGS:
      kind, closing = _ROUNDINGS[name]
      value = self.deeper(self.sum)
      self.expect(closing)
      return Node(kind, (scalar(value),))
    if name in _BIG:
      return self.big(name)
    return brackets.command(self, name)

  def gamma(self) -> Node:
    """Reads Gamma(n) as (n - 1)!, where n holds a letter; of a number it is kept as written."""
    self.expect('(')
    [argument] = brackets.listed(self, ')')[:1]
    if values.numeral_like(argument):
      return Node('apply', ('Gamma', scalar(argument)))
    return Node('fact', (Node('add', (scalar(argument), values.number(-1))),))

  def root(self) -> Node:
    degree = values.number(2)
    if self.takes('['):
      degree = scalar(self.deeper(self.sum))
      self.expect(']')
    whole = self.peek().kind == 'num'  # sqrt12 is the root of 12
    return Node('root', (self.numeral() if whole else scalar(self.argument()), degree))

  def function(self, name: str) -> Node:
    """Reads sin x, sin^2 x, sin^{-1} x, log_2 x, ln(x): of a bracket, or of factors up to a sign."""
    base = None
    exponent = None
    if name == 'log' and self.takes('_'):
      base = scalar(self.argument())
    if name in _SYMMETRIC:
      return self.symmetric(name)
    if self.takes('^'):
      exponent = scalar(self.argument(signed=True))
      if exponent in (values.number(-1), Node('neg', (values.number(1),))):
        name, exponent = _INVERSES.get(name, name), None
    argument = self.deeper(self.function_argument)
    if name == 'log' and base is not None:
      value = Node('log', (base, argument))
    else:
      value = Node({'abs': 'abs'}.get(name, 'fn'), (argument,) if name == 'abs' else (name, argument))
    return value if exponent is None else Node('pow', (value, exponent))

  def symmetric(self, name: str) -> Node:
    """Keeps max, min, gcd, lcm as written, but for the order of arguments."""
    self.expect('(')
    arguments = [scalar(argument) for argument in brackets.listed(self, ')')]
    return Node('big', (name, *sorted(arguments, key=repr)))

  def function_argument(self) -> Node:
    if self.peek().text in ('(', '{', '['):
      return scalar(self.deeper(self.atom))  # cos(x)^2 is the square of the cosine
    value = scalar(self.power())
    while self.starts_factor() and self.peek().text not in words.FUNCTIONS and self.peek().text not in '([':
      value = scalar(self.juxtaposed(value))
    return value

  def big(self, name: str) -> Node:
    """Keeps a sum, product, integral or limit as written."""
    bounds = []
    while self.peek().text in ('_', '^'):
      bounds.append(self.next().text + brackets.raw_group(self))
    return Node('big', (name + ' '.join(sorted(bounds)), scalar(self.deeper(self.term))))


def _is_power(node) -> bool:
  return isinstance(node, Node) and (node.kind == 'pow' or (node.kind == 'mul' and node.args[-1].kind == 'pow'))


def scalar(value) -> Node:
  """Returns the value if it is a scalar expression. Raises Unreadable."""
  if not isinstance(value, Node):
    raise budget.Unreadable
  return value
