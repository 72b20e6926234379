# SPDX-License-Identifier: Apache-2.0
"""Sums of unit vectors (3\\mathbf{i} - 4\\mathbf{j}) as coordinates."""

from score_jax.graders.math.algebra.equality import Scalars
from score_jax.graders.math.algebra.polynomials import ONE
from score_jax.graders.math.parser import values
from score_jax.graders.math.parser.values import Node

_UNITS = ('vec i', 'vec j', 'vec k')


def components(scalars: Scalars, node: Node) -> tuple:
  """Returns the three coordinates of a sum of rational multiples of unit vectors; () for anything else."""
  if not values.symbols(node) or not values.symbols(node) <= set(_UNITS):
    return ()
  form = scalars.form(node)
  keys = [((f's:{unit}', 1),) for unit in _UNITS]
  if form.den != ONE or not set(form.num) <= set(keys):
    return ()
  return tuple(values.Scalar(values.number(form.num.get(key, 0))) for key in keys)


def with_unit_vectors(node: Node) -> Node:
  """Returns 3i - 4j with its letters as unit vectors."""
  if node.kind in ('sym', 'const') and node.args[0] in ('i', 'j', 'k'):
    return values.symbol('vec ' + node.args[0])
  return Node(node.kind, tuple(with_unit_vectors(arg) if isinstance(arg, Node) else arg for arg in node.args))
