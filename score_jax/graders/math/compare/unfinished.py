# SPDX-License-Identifier: Apache-2.0
"""Finds arithmetic that an answer leaves undone.

An expression that repeats the question has the right value: 1/2 + 1/3 for 5/6, sin 60 degrees for sqrt(3)/2. It is an
answer only if the reference leaves the same kind of work undone. Closed forms by custom are finished: fractions
(reduced or not), powers, roots, factorials, binomials, a x 10^n.
"""

from score_jax.graders.math.algebra.equality import Scalars
from score_jax.graders.math.algebra.polynomials import ONE
from score_jax.graders.math.parser.values import Node


def undone(scalars: Scalars, node: Node) -> set[str]:
  """Returns the kinds of work left: 'sum', 'product', 'quotient', 'function', 'big'."""
  kinds = set()
  children = [arg for arg in node.args if isinstance(arg, Node)]
  for child in children:
    kinds |= undone(scalars, child)
  if node.kind == 'add' and _collapses(scalars, children):
    kinds.add('sum')
  elif node.kind == 'mul' and _multiplies(scalars, children):
    kinds.add('product')
  elif node.kind == 'div' and all(scalars.form(child).rational is not None for child in children):
    if any(_bare(child).kind == 'div' for child in children):
      kinds.add('quotient')
  elif node.kind in ('fn', 'log', 'abs', 'floor', 'ceil') and node.args[0] != 'exp' and scalars.constant(node):
    kinds.add('function')
  elif node.kind == 'big':
    kinds.add('big')
  return kinds


def _collapses(scalars: Scalars, terms: list[Node]) -> bool:
  """Returns True if constant terms add up to fewer than they are."""
  forms = [scalars.form(term) for term in terms if scalars.constant(term)]
  if len(forms) < 2 or any(form.den != ONE for form in forms):
    return False
  keys = [key for form in forms for key in form.num]
  return len(set(keys)) < len(keys) or any(not form.num for form in forms)


def _multiplies(scalars: Scalars, factors: list[Node]) -> bool:
  """Returns True for two numerals or two radicals multiplied, unless one is a power of ten."""
  numerals = radicals = 0
  for factor in factors:
    form = scalars.form(factor)
    bare = _bare(factor)
    if form.rational is not None:
      ten = bare.kind == 'pow' and scalars.form(bare.args[0]).rational == 10
      numerals += not ten and form.rational != -1
    elif form.single and all(generator.startswith('p:') for generator in form.generators()):
      radicals += 1
  return numerals > 1 or radicals > 1


def _bare(node: Node) -> Node:
  return node.args[0] if node.kind == 'neg' else node
