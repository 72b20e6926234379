# SPDX-License-Identifier: Apache-2.0
"""Plain data as JSON: the only thing that crosses between a program and those who judge it.

None, bool, float, str, list and short ints are JSON's own. All else is an object whose one member names the type:
{"tuple": [1, 2]}, {"set": [1]}, {"dict": [key, value, ...]}, {"int": hexadecimal}, {"bytes": base64}, {"fraction": [1,
2]}. Plain data are the types of `_WRITERS`, exactly; a defaultdict, Counter or OrderedDict is written as a dict. An
object of a derived type (a namedtuple, an IntEnum) is written as the plain value under it, with a `Ref`. Whatever else
a program returns stays with it, and a `Ref` to it is written. Reading builds these types alone; depth, size and the
bits of an int are bounded both ways. pickle and marshal can be made to run code or to crash.
"""

import base64
import collections
from collections.abc import Callable
import dataclasses
import decimal
import fractions
import json
import typing

from score_jax.graders.messages import NO_LIMIT

MAX_DEPTH = 64
MAX_INT_BITS = 1 << 17  # 39,000 digits
_SHORT = 1 << 60  # below it an int is JSON's; Python reads no more than 4,300 digits
# Keys of a Ref that name no object, but what else the judge asks for.
ITERATE, TAKE, GET, SET = '.iterate', '.take', '.get', '.set'
_COST = 4  # bytes that a value counts for, where it is no text
_DICTS = (dict, collections.defaultdict, collections.Counter, collections.OrderedDict)
_KEYS, _VALUES, _ITEMS = (
  tuple(type(getattr(kind(), view)()) for kind in (dict, collections.OrderedDict))
  for view in ('keys', 'values', 'items')
)


def _pairs(items) -> list:
  return [part for pair in items for part in pair]


_WRITERS: dict[type, tuple[str, Callable]] = {  # type -> (tag, what is written in a list under it)
  tuple: ('tuple', list),
  set: ('set', list),
  frozenset: ('frozenset', list),
  collections.deque: ('deque', list),
  bytearray: ('bytearray', lambda value: [bytes(value)]),
  range: ('range', lambda value: [value.start, value.stop, value.step]),
  fractions.Fraction: ('fraction', lambda value: [value.numerator, value.denominator]),
  decimal.Decimal: ('decimal', lambda value: [str(value)]),
  **dict.fromkeys(_KEYS, ('keys', list)),
  **dict.fromkeys(_VALUES, ('values', list)),
  **dict.fromkeys(_ITEMS, ('items', _pairs)),
  **dict.fromkeys(_DICTS, ('dict', lambda value: _pairs(dict.items(value)))),
}
# What is written of a derived type's object: made by the plain type's own methods.
_COPIES: dict[type, Callable] = {
  int: int.__pos__,
  float: float.__pos__,
  str: str.__str__,
  bytes: lambda value: bytes.__getitem__(value, slice(None)),
  tuple: lambda value: tuple.__getitem__(value, slice(None)),
  list: lambda value: list.__getitem__(value, slice(None)),
  set: lambda value: {*set.__iter__(value)},
  frozenset: lambda value: frozenset(frozenset.__iter__(value)),
  dict: lambda value: dict(dict.items(value)),
}
DERIVED = tuple(_COPIES)
_SIZED = (list, tuple, set, frozenset, collections.deque, *_KEYS, *_VALUES, *_ITEMS, *_DICTS)
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
    refer: called with an object that is not of a plain type itself; None refuses it.

  Raises:
    CodecError: it is not plain data, or too large or deep.
  """
  text = _encode([_Writer(limit, refer).tree(value, 0)])
  data = text.encode('utf-8', 'surrogatepass')  # two surrogates that make a pair stay two
  if len(data) > limit:
    raise CodecError(f'more than {limit} bytes')
  return data


class _Writer:
  """Makes a tree for JSON; `left` counts bytes down, `_COST` for a value that is no text."""

  def __init__(self, limit: int, refer: Callable[[object], Ref] | None):
    self.limit = self.left = limit
    self.refer = refer

  def tree(self, value: object, depth: int) -> object:
    kind = type(value)
    if depth > MAX_DEPTH:
      raise CodecError(f'deeper than {MAX_DEPTH}')
    self.left -= len(value) if kind in (str, bytes, bytearray) else _COST
    if self.left < 0 or (kind in _SIZED and len(value) * _COST > self.limit):
      raise CodecError(f'more than {self.limit} bytes')
    if value is None or kind in (bool, float, str):
      return value
    if kind is int:
      return value if -_SHORT < value < _SHORT else {'int': _hexadecimal(value)}
    if kind is list:
      return [self.tree(item, depth + 1) for item in value]
    if kind in _WRITERS:
      tag, items = _WRITERS[kind]
      return {tag: [self.tree(item, depth + 1) for item in items(value)]}
    if kind is complex:
      return {'complex': [value.real, value.imag]}
    if kind is bytes:
      return {'bytes': base64.b64encode(value).decode()}
    if kind is type and _TYPES.get(value.__name__) is value:
      return {'type': value.__name__}
    if kind is not Ref and self.refer is None:
      raise CodecError(f'{kind.__name__} is not plain data')
    key = (value if kind is Ref else self.refer(value)).key
    base = next((base for base in kind.__mro__ if base in _COPIES), None)
    return {'as': [self.tree(_COPIES[base](value), depth), key]} if base else {'ref': key}


def _hexadecimal(value: int) -> str:
  if value.bit_length() > MAX_INT_BITS:
    raise CodecError(f'an int of more than {MAX_INT_BITS} bits')
  return f'{value:x}'


def loads(data: bytes, revive: Callable[..., object] = lambda ref, copy=None: ref) -> typing.Any:
  """Reads what `dumps` wrote; `revive` says what becomes of a Ref, and of a Ref with the plain value of its object.

  Raises:
    CodecError: for any other bytes; nothing else, but what `revive` raises.
  """
  try:
    tree = _decode(data.decode('utf-8', 'surrogatepass'))
    if type(tree) is not list or len(tree) != 1:
      raise CodecError('not one value')
    return _value(tree[0], revive, 0)
  except (TypeError, ValueError, ArithmeticError, RecursionError) as error:  # unhashable, no JSON or UTF-8, too deep
    raise CodecError(f'not plain data: {type(error).__name__}') from None


def _value(tree: object, revive: Callable[..., object], depth: int) -> object:
  if depth > MAX_DEPTH:
    raise CodecError(f'deeper than {MAX_DEPTH}')
  if type(tree) is list:
    return [_value(item, revive, depth + 1) for item in tree]
  if type(tree) is not dict:
    return tree
  [(tag, body)] = tree.items()
  if tag in _READERS:
    return _READERS[tag](_value([*body], revive, depth))
  if tag == 'as':
    copy, key = body
    copy = _value(copy, revive, depth + 1)
    if type(copy) in _COPIES and type(key) is int:
      return revive(Ref(key), copy)
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


def _mapping(items: list) -> dict:
  return _all_of(dict(zip(items[::2], items[1::2], strict=True)), len(items) // 2)


def _all_of(result: typing.Any, count: int) -> typing.Any:
  if len(result) != count:
    raise CodecError('an element twice')
  return result


def _exactly(items: list, kind: type, count: int) -> list:
  if len(items) != count or any(type(item) is not kind for item in items):
    raise CodecError(f'not {count} of {kind.__name__}')
  return items


_READERS: dict[str, Callable[[list], object]] = {
  'tuple': tuple,
  'set': lambda items: _all_of(set(items), len(items)),
  'frozenset': lambda items: _all_of(frozenset(items), len(items)),
  'dict': _mapping,
  'deque': collections.deque,
  'bytearray': lambda items: bytearray(*_exactly(items, bytes, 1)),
  'range': lambda items: range(*_exactly(items, int, 3)),
  'fraction': lambda items: fractions.Fraction(*_exactly(items, int, 2)),
  'decimal': lambda items: decimal.Decimal(*_exactly(items, str, 1)),
  'keys': lambda items: _all_of(dict.fromkeys(items), len(items)).keys(),
  'values': lambda items: dict(enumerate(items)).values(),
  'items': lambda items: _mapping(items).items(),
}
