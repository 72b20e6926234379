"""Plain data as bytes, and bytes that are not."""

import random

import pytest

from score_jax.graders.code.sandbox import codec

VALUES = [
  None, True, False, 0, -1, 255, -(2**64), 3**500, -(3**500), 1 << 60, -(1 << 60), 0.0, -0.0, 1.5, float('inf'),
  float('-inf'), float('nan'), 1e-320, 1j, complex('nan-infj'), '', 'é\ud800\0', b'\xff', [], [1, [2]], (), (1, (2,)),
  set(), {1, 'a', (2, 3)}, frozenset({1}), {'a': [1], (1, 2): {3: None}}, {'tuple': [1]}, {'ref': 1}, [{'int': 'ff'}],
  {None: True, 1.5: b''}, int, dict,
]  # fmt: skip


@pytest.mark.parametrize('value', VALUES, ids=range(len(VALUES)))
def test_plain_data_survives(value):
  back = codec.loads(codec.dumps(value, 10_000))
  assert (repr(back), type(back)) == (repr(value), type(value))


@pytest.mark.parametrize('value', VALUES, ids=range(len(VALUES)))
def test_damaged_data_is_an_error(value):
  data = codec.dumps(value, 10_000)
  for end in range(len(data)):
    with pytest.raises(codec.CodecError):
      codec.loads(data[:end])
  with pytest.raises(codec.CodecError):
    codec.loads(data + b'N')


def test_any_bytes_are_data_or_an_error():
  rng = random.Random(0)
  pieces = [b'[', b']', b'{"', b'":', b'}', b',', b'"', b'1', b'2.5', b'null', b'true', b'\xff', b'NaN', b'[1,[2]]']
  pieces += [b'{"%s":' % tag for tag in (b'tuple', b'set', b'dict', b'int', b'bytes', b'complex', b'ref', b'type')]
  read = 0
  for _ in range(20_000):
    data = b'[' + b''.join(rng.choice(pieces) for _ in range(rng.randrange(9))) + b']'
    try:
      codec.loads(data)
      read += 1
    except codec.CodecError:
      pass
  assert read > 100


@pytest.mark.parametrize(
  'data',
  [
    b'[[' + b'1,' * 10**5, b'[{"int":"' + b'f' * 40_000 + b'"}]', b'[' + b'9' * 5000 + b']', b'[' * 100 + b']' * 100,
    b'[' * 10**6, b'[{"tuple":' * 10**5, b'[{"set":[1,1]}]', b'[{"dict":[1,2,1,3]}]', b'[{"dict":[1]}]',
    b'[{"set":[[]]}]', b'[{"dict":[[],1]}]', b'[{"a":1}]', b'[{}]', b'[{"set":[1],"tuple":[1]}]', b'[1,2]', b'1',
    b'{"a":1}', b'[{"type":"type"}]', b'[{"type":[]}]', b'[{"ref":1.5}]', b'[{"ref":true}]', b'[{"bytes":"*"}]',
    b'[{"complex":[1]}]', b'[{"complex":5}]', b'[{"int":5}]', b'["\xff\xfe"]', b'[\'x\']',
  ],
  ids=lambda data: ascii(data[:20]),
)  # fmt: skip
def test_bad_data_is_an_error(data):
  if data == b'[{"complex":[1]}]':
    assert codec.loads(data) == 1 + 0j
    return
  with pytest.raises(codec.CodecError):
    codec.loads(data)


def test_two_surrogates_are_not_one_character():
  assert codec.loads(codec.dumps('\ud83d\ude00', 100)) == '\ud83d\ude00' != '\U0001f600'


def test_what_is_not_plain_stays_and_is_referred_to():
  kept, copies = [], []

  def refer(value: object) -> codec.Ref:
    kept.append(value)
    return codec.Ref(len(kept) - 1)

  def revive(ref: codec.Ref, copy: object = None) -> object:
    copies.append(copy)
    return kept[ref.key]

  class Sum(int):
    pass

  values = [object(), Sum(5), print, {1: {2: Sum}}, type('int', (), {})]
  data = codec.dumps(values, 10_000, refer)
  assert codec.loads(data, revive) == values
  assert len(kept) == 5
  assert copies == [None, 5, None, None, None] and type(copies[1]) is int
  with pytest.raises(codec.CodecError, match='Sum is not plain data'):
    codec.dumps(Sum(5), 100)


def test_writing_is_bounded():
  deep: list = []
  for _ in range(codec.MAX_DEPTH):
    deep = [deep]
  assert codec.loads(codec.dumps(deep, 10_000)) == deep
  assert codec.loads(codec.dumps(2 ** (codec.MAX_INT_BITS - 1), 10**6)) == 2 ** (codec.MAX_INT_BITS - 1)
  cyclic: list = []
  cyclic.append(cyclic)
  doubling: list = [0]
  for _ in range(60):
    doubling = [doubling, doubling]
  for value in ([deep], cyclic, doubling, 2**codec.MAX_INT_BITS, -(2**codec.MAX_INT_BITS)):
    with pytest.raises(codec.CodecError):
      codec.dumps(value, 10**5)
  for value in ('x' * 101, b'x' * 101, '\0' * 50, [None] * 101, {1: 'x' * 95}, object()):
    with pytest.raises(codec.CodecError):
      codec.dumps(value, 100)
