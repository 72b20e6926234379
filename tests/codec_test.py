"""Plain data as bytes, and bytes that are not."""

import random

import pytest

from score_jax.graders.code.sandbox import codec

VALUES = [
  None, True, False, 0, -1, 255, -(2**64), 3**500, 0.0, -0.0, 1.5, float('inf'), 1j, '', 'é\ud800\0', b'\xff',
  [], [1, [2]], (), (1, (2,)), set(), {1, 'a', (2, 3)}, frozenset({1}), {'a': [1], (1, 2): {3: None}}, int, dict,
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
  tags = b'NTFIDCSBLUEZMRGK\0\0\0\1\2\5'
  read = 0
  for _ in range(20_000):
    data = bytes(rng.choice(tags) for _ in range(rng.randrange(40)))
    try:
      codec.loads(data)
      read += 1
    except codec.CodecError:
      pass
  assert read > 100


@pytest.mark.parametrize(
  'data',
  [b'L\xff\xff\xff\xff', b'I\x00\xff\xff\xff' + b'x' * 99, b'L\0\0\0\1' * 100 + b'N', b'E\0\0\0\2NN', b'M\0\0\0\1LNN'],
  ids=['a long list', 'a long int', 'deep', 'twice', 'unhashable'],
)  # fmt: skip
def test_bad_data_is_an_error(data):
  with pytest.raises(codec.CodecError):
    codec.loads(data)


def test_writing_is_bounded():
  deep: list = []
  for _ in range(codec.MAX_DEPTH):
    deep = [deep]
  assert codec.loads(codec.dumps(deep, 10_000)) == deep
  for value in ([deep], 2 ** (8 * codec.MAX_INT_BYTES), 'x' * 101, b'x' * 101, [None] * 101, object()):
    with pytest.raises(codec.CodecError):
      codec.dumps(value, 10_000 if value == [deep] else 100 if type(value) is not int else 10**6)
