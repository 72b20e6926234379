# SPDX-License-Identifier: Apache-2.0
"""Plain data as JSON: the only thing that crosses between a program and those who judge it.

None, bool, float, str, list and short ints are JSON's own. All else is an object whose one member names the type:
{"tuple": [1, 2]}, {"set": [1]}, {"dict": [key, value, ...]}, {"int": hexadecimal}, {"bytes": base64}. Exact built-in
types are plain data; a defaultdict, Counter or OrderedDict is written as a dict. Whatever else a program returns stays
with it, and a `Ref` to it is written. Reading builds these types alone; depth, size and the bits of an int are bounded
both ways. pickle and marshal can be made to run code or to crash.
"""

import base64
import collections
from collections.abc import Callable
import dataclasses
import json
import typing

from score_jax.graders.messages import NO_LIMIT

MAX_DEPTH = 64
MAX_INT_BITS = 1 << 17  # 39,000 digits
_SHORT = 1 << 60  # below it an int is JSON's; Python reads no more than 4,300 digits
_COLLECTIONS = {kind.__name__: kind for kind in (tuple, set, frozenset)}
_DICTS = (dict, collections.defaultdict, collections.Counter, collections.OrderedDict)
_SIZED = (list, tuple, set, frozenset, *_DICTS)
_KINDS = (bool, int, float, complex, str, bytes, list, tuple, set, frozenset, dict, type(None), object)
_TYPES = {kind.__name__: kind for kind in _KINDS}
# Made here, before a program can patch the module json.
_encode = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(',', ':')).encode
_decode = json.JSONDecoder().decode


class CodecError(Exception):
  """No plain data, too large or too deep; or not what this codec writes."""


@dataclasses.dataclass(frozen=True, eq=False)
class Ref:
  """What stays in the program's process: a global by its name, or a returned object by its number."""

  key: str | int


def dumps(value: object, limit: int = NO_LIMIT, refer: Callable[[object], Ref] | None = None) -> bytes:
  """Writes `value`.

  Args:
    value: plain data, in which a `Ref` or a built-in type may stand too.
    limit: most bytes.
    refer: called with an object that is not plain; None refuses it.

  Raises:
    CodecError: it is not plain data, or too large or deep.
  """
  text = _encode([_Writer(limit, refer).tree(value, 0)])
  data = text.encode('utf-8', 'surrogatepass')  # two surrogates that make a pair stay two
  if len(data) > limit:
    raise CodecError(f'more than {limit} bytes')
  return data


class _Writer:
  """Makes a tree for JSON; `left` counts bytes down, one at least for a value."""

  def __init__(self, limit: int, refer: Callable[[object], Ref] | None):
    self.limit = self.left = limit
    self.refer = refer

  def tree(self, value: object, depth: int) -> object:
    kind = type(value)
    if depth > MAX_DEPTH:
      raise CodecError(f'deeper than {MAX_DEPTH}')
    self.left -= len(value) if kind in (str, bytes) else 1
    if self.left < 0 or (kind in _SIZED and len(value) > self.limit):
      raise CodecError(f'more than {self.limit} bytes')
    if value is None or kind in (bool, float, str):
      return value
    if kind is int:
      return value if -_SHORT < value < _SHORT else {'int': _hexadecimal(value)}
    if kind is list:
      return [self.tree(item, depth + 1) for item in value]
    if kind in (tuple, set, frozenset):
      return {kind.__name__: [self.tree(item, depth + 1) for item in value]}
    if kind in _DICTS:
      return {'dict': [self.tree(part, depth + 1) for pair in dict.items(value) for part in pair]}
    if kind is complex:
      return {'complex': [value.real, value.imag]}
    if kind is bytes:
      return {'bytes': base64.b64encode(value).decode()}
    if kind is type and _TYPES.get(value.__name__) is value:
      return {'type': value.__name__}
    if kind is not Ref and self.refer is None:
      raise CodecError(f'{kind.__name__} is not plain data')
    return {'ref': (value if kind is Ref else self.refer(value)).key}


def _hexadecimal(value: int) -> str:
  if value.bit_length() > MAX_INT_BITS:
    raise CodecError(f'an int of more than {MAX_INT_BITS} bits')
  return f'{value:x}'


def loads(data: bytes, revive: Callable[[Ref], object] = lambda ref: ref) -> typing.Any:
  """Reads what `dumps` wrote; `revive` says what becomes of a Ref.

  Raises:
    CodecError: for any other bytes; nothing else, but what `revive` raises.
  """
  try:
    tree = _decode(data.decode('utf-8', 'surrogatepass'))
    if type(tree) is not list or len(tree) != 1:
      raise CodecError('not one value')
    return _value(tree[0], revive, 0)
  except (TypeError, ValueError, RecursionError) as error:  # unhashable, no JSON or UTF-8, too deep
    raise CodecError(f'not plain data: {type(error).__name__}') from None


def _value(tree: object, revive: Callable[[Ref], object], depth: int) -> object:
  if depth > MAX_DEPTH:
    raise CodecError(f'deeper than {MAX_DEPTH}')
  if type(tree) is list:
    return [_value(item, revive, depth + 1) for item in tree]
  if type(tree) is not dict:
    return tree
  [(tag, body)] = tree.items()
  if tag in _COLLECTIONS or tag == 'dict':
    items = _value([*body], revive, depth)
    result = dict(zip(items[::2], items[1::2], strict=True)) if tag == 'dict' else _COLLECTIONS[tag](items)
    if len(result) * (1 + (tag == 'dict')) != len(items):
      raise CodecError('an element twice')
    return result
  if tag == 'int' and len(body) <= MAX_INT_BITS // 4 + 1:
    return int(body, 16)
  if tag == 'ref' and type(body) in (str, int):
    return revive(Ref(body))
  if tag == 'type' and body in _TYPES:
    return _TYPES[body]
  if tag == 'complex':
    return complex(*map(float, body))
  if tag == 'bytes':
    return base64.b64decode(body, validate=True)
  raise CodecError('an unknown tag')
