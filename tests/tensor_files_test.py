"""safetensors files: the library reads what we write and the other way round, and every broken file is named."""

import contextlib
import itertools
import json
import os
import pathlib
import tracemalloc
import weakref

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from score_jax import files
from score_jax.errors import DataError
from score_jax.storage import tensor_files

F32, BF16, F16 = np.dtype(np.float32), np.dtype(ml_dtypes.bfloat16), np.dtype(np.float16)
FLOATS = pytest.mark.parametrize('dtype', [F32, BF16, F16], ids=str)
SHAPES = {'scalar': (), 'bias': (7,), 'empty': (0, 3), 'empty_last': (3, 0), 'weight': (5, 4), 'experts': (3, 5, 4)}
A = '{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'
B = '{"dtype":"F32","shape":[2],"data_offsets":[8,16]}'
MB = 1 << 20
DISAGREE, INVALID_OFFSET = 'tensor x: shape and data_offsets disagree', 'invalid offset for tensor `'


def arrays_of(dtype, seed=0):
  rng = np.random.default_rng(seed)
  return {name: rng.normal(size=shape).astype(dtype) for name, shape in SHAPES.items()}


def declared(arrays):
  return {name: (array.dtype, array.shape) for name, array in arrays.items()}


def assert_same(actual, expected):
  """Equal in dtype, shape and every bit."""
  assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
  assert actual.tobytes() == expected.tobytes()


def raw(header, data=b'', length=None):
  """The bytes of a file with this header, given as bytes, text or an object."""
  if not isinstance(header, bytes):
    header = (header if isinstance(header, str) else json.dumps(header)).encode()
  return (len(header) if length is None else length).to_bytes(8, 'little') + header + data


def described(dtype='F32', shape=(2,), data_offsets=(0, 8), **more):
  return dict(dtype=dtype, shape=shape, data_offsets=data_offsets) | more


def one(data=bytes(8), **changes):
  """A file of one tensor x, which is right but for the changes."""
  return raw({'x': described(**changes)}, data)


def written(tmp_path, content, name='model.safetensors'):
  path = tmp_path / name
  path.write_bytes(content)
  return path


def sparse(tmp_path, shape, values):
  """An F32 file of zeros that takes no room on the disk, but for the values at flat positions."""
  size = 4 * int(np.prod(shape))
  start = raw({'x': described(shape=shape, data_offsets=(0, size))})
  path = written(tmp_path, start)
  os.truncate(path, len(start) + size)
  with open(path, 'r+b') as file:
    for position, value in values.items():
      file.seek(len(start) + 4 * position)
      file.write(np.float32(value).tobytes())
  return path


@contextlib.contextmanager
def peak_below(limit):
  tracemalloc.start()
  try:
    yield
    peak = tracemalloc.get_traced_memory()[1]
  finally:
    tracemalloc.stop()
  assert peak < limit, f'{peak / MB:.1f} MB'


@FLOATS
def test_a_file_of_the_library_reads_the_same(dtype, tmp_path):
  arrays = arrays_of(dtype)
  safetensors.numpy.save_file(arrays, tmp_path / 'x', metadata={'format': 'pt', 'made by': 'é'})
  file = tensor_files.open_file(tmp_path / 'x', max_tensors=len(arrays))
  assert {name: (entry.dtype, entry.shape) for name, entry in file.entries.items()} == declared(arrays)
  for name, array in arrays.items():
    assert_same(file.read(name), array)


@pytest.mark.parametrize('dtypes', [(F32,), (BF16,), (F16,), (F16, F32, BF16)], ids=str)
def test_a_written_file_is_the_librarys_byte_for_byte(dtypes, tmp_path):
  arrays = {f'{dtype}.{name}"é\n': array for dtype in dtypes for name, array in arrays_of(dtype).items()}
  safetensors.numpy.save_file(arrays, tmp_path / 'theirs', metadata={'format': 'pt'})
  tensor_files.write_file(tmp_path / 'ours', declared(arrays), arrays.__getitem__)
  assert (tmp_path / 'ours').read_bytes() == (tmp_path / 'theirs').read_bytes()
  assert (tmp_path / 'ours').stat().st_mode & 0o777 == 0o644
  for name, array in safetensors.numpy.load_file(tmp_path / 'ours').items():
    assert_same(array, arrays[name])


def test_the_bytes_of_a_small_file(tmp_path):
  arrays = {'b': np.array([1, -2], F32), 'a': np.array(1.5, F32)}
  tensor_files.write_file(tmp_path / 'x', declared(arrays), arrays.__getitem__)
  header = (
    b'{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},'
    b'"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}      '
  )
  data = b'\x00\x00\xc0\x3f' + b'\x00\x00\x80\x3f' + b'\x00\x00\x00\xc0'
  assert len(header) == 144
  assert (tmp_path / 'x').read_bytes() == bytes([144, 0, 0, 0, 0, 0, 0, 0]) + header + data


CUTS = [slice(None), slice(0, 2), slice(1, 3), slice(2, 3)]


@FLOATS
def test_slices_are_those_of_numpy(dtype, tmp_path):
  arrays = {name: array for name, array in arrays_of(dtype).items() if array.size}
  safetensors.numpy.save_file(arrays, tmp_path / 'x')
  file = tensor_files.open_file(tmp_path / 'x', max_tensors=len(arrays))
  for name, array in arrays.items():
    for axes in range(array.ndim + 1):
      for index in itertools.product(CUTS, repeat=axes):
        assert_same(file.read(name, index), array[index])


def test_an_array_is_new_contiguous_and_writable(tmp_path):
  arrays = {f'{n}': np.ones((n, 3), F16) for n in range(1, 20)}
  tensor_files.write_file(tmp_path / 'x', declared(arrays), arrays.__getitem__)
  file = tensor_files.open_file(tmp_path / 'x', max_tensors=len(arrays))
  for name, index in itertools.product(arrays, [(), (slice(None), slice(1, 3))]):
    actual = file.read(name, index)
    assert actual.flags.c_contiguous and actual.flags.writeable
    actual[:] = 7
    assert_same(file.read(name, index), arrays[name][index])


def test_a_name_that_is_not_in_the_file_is_a_key_error(tmp_path):
  with pytest.raises(KeyError):
    tensor_files.open_file(written(tmp_path, one()), max_tensors=1).read('y')


def test_what_the_format_allows_is_read(tmp_path):
  """No metadata, names in another order than the data, spaces at the end, a tensor of no bytes between others."""
  header = f'{{"b":{B},"none":{{"data_offsets":[8,8],"shape":[0,9],"dtype":"F16"}},"a":{A}}}   '
  path = written(tmp_path, raw(header, np.array([1, 2, 3, 4], F32).tobytes()))
  file = tensor_files.open_file(path, max_tensors=3)
  assert list(file.read('a')) == [1, 2]
  assert list(file.read('b')) == [3, 4]
  assert file.read('none').shape == (0, 9)
  assert file.entries['b'] == tensor_files.Entry(F32, (2,))


def test_a_file_without_tensors_is_read_and_written(tmp_path):
  tensor_files.write_file(tmp_path / 'x', {}, {}.__getitem__)
  assert tensor_files.open_file(tmp_path / 'x', max_tensors=0).entries == {}
  assert (tmp_path / 'x').read_bytes() == safetensors.numpy.save({}, metadata={'format': 'pt'})


def deep(open_, close, depth):
  return '{"x":' + open_ * depth + '0' + close * depth + '}'


BROKEN = {
  'empty': (b'', 'not a safetensors file: it has 0 bytes'),
  'seven_bytes': (b'\x02\0\0\0\0\0\0', 'it has 7 bytes'),
  'length_alone': (b'\x02\0\0\0\0\0\0\0', "its header begins with b''"),
  'header_beyond_the_file': (raw('{}', length=3), 'a header of 3 bytes in a file of 10: it is cut off'),
  'header_of_2_to_the_64': (raw('{}', length=2**64 - 1), f'a header of {2**64 - 1} bytes'),
  'long_header': (raw('{}' + ' ' * 6000), 'header has 6002 bytes, more than the 5120 allowed for 2 tensors'),
  'no_brace': (raw('[{}]'), 'it looks like no known format'),
  'leading_space': (raw(' {}'), 'its header begins with'),
  'zip': (b'PK\x03\x04' + bytes(99), r'it looks like a zip \(torch checkpoint\).*save the model as safetensors'),
  'pickle': (b'\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.', r'looks like a pickle \(torch checkpoint\), which can'),
  'lfs': (b'version https://git-lfs.github.com/spec/v1\noid sha256:0', 'a Git LFS pointer.*git lfs pull'),
  'web_page': (b'<!DOCTYPE html><html></html>', 'a web page'),
  'gguf': (b'GGUF\x03\0\0\0\x05\0\0\0', 'GGUF'),
  'not_json': (raw('{"x":'), r'header: not JSON that can be used: Expecting value'),
  'header_length_1': (raw('{}', length=1), 'header: not JSON'),
  'more_after_json': (raw('{}{}'), 'not JSON .*Extra data'),
  'not_utf8': (raw(b'{"\xff":1}'), "not JSON .*'utf-8' codec"),
  'utf16': (raw(b'{\0"\0x\0"\0:\0' + b'1\0}\0'), 'not JSON'),
  'nan': (raw('{"x":NaN}'), 'NaN is not a finite number'),
  'long_int': (raw('{"x":' + '9' * 5000 + '}'), 'not JSON .*digits'),
  'double_name': (raw(f'{{"x":{B},"x":{A}}}', bytes(8)), "key 'x' is there twice"),
  'double_key': (raw(f'{{"x":{{"dtype":"F16",{A[1:]}}}', bytes(8)), "key 'dtype' is there twice"),
  'double_metadata': (raw('{"__metadata__":{},"__metadata__":{}}'), "key '__metadata__' is there twice"),
  'deep_lists': (raw(deep('[', ']', 2000)), 'header: nested deeper than 64'),
  'deep_objects': (raw(deep('{"":', '}', 800)), 'header: nested deeper than 64'),
  'rather_deep': (raw(deep('[', ']', 100)), 'header: nested deeper than 64'),
  'metadata_list': (raw({'__metadata__': ['pt']}), 'header: .*expected a map'),
  'metadata_number': (raw({'__metadata__': {'format': 1}}), 'header: .*expected a string'),
  'three_tensors': (raw({n: described('F16', [0], [0, 0]) for n in 'abc'}), 'holds 3 tensors, more than the 2'),
  'name_with_newline': (raw({'x\nError: y': described()}, bytes(8)), r"tensor 'x\\nError: y': a name must be"),
  'name_of_half_a_character': (raw(f'{{"\\ud800":{A}}}', bytes(8)), r"tensor '\\ud800': a name must be"),
  'long_name': (raw({'x' * 513: described()}, bytes(8)), 'of at most 512 characters'),
  'entry_list': (raw({'x': ['F32', [2], [0, 8]]}, bytes(8)), r"tensor x is stored as \['F32'"),
  'no_shape': (raw({'x': dict(dtype='F32', data_offsets=[0, 8])}, bytes(8)), DISAGREE),
  'int64': (one(dtype='I64'), 'tensor x is stored as I64; use one of F32, BF16, F16'),
  'dtype_with_newline': (one(dtype='a\nb'), r"tensor x is stored as 'a\\nb'; use one of"),
  'dtype_lower': (one(dtype='f32'), 'tensor x is stored as f32'),
  'dtype_number': (one(dtype=32), 'tensor x is stored as 32'),
  'dtype_list': (one(dtype=['F32']), r"tensor x is stored as \['F32'\]"),
  'shape_object': (one(shape={}), DISAGREE),
  'shape_null': (one(shape=None), DISAGREE),
  'shape_bool': (one(bytes(4), shape=[True], data_offsets=[0, 4]), 'header: .*expected usize'),
  'shape_float': (one(shape=[2.0]), 'header: .*expected usize'),
  'shape_text': (one(shape=['2']), DISAGREE),
  'shape_negative': (one(shape=[-1, -2]), DISAGREE),
  'shape_huge': (one(shape=[2**63]), DISAGREE),
  'shape_that_overflows': (one(shape=[2**32, 2**32, 2]), DISAGREE),
  'shape_that_wraps_to_8': (one(shape=[2**62 + 2, 1]), DISAGREE),
  'offsets_number': (one(data_offsets=8), DISAGREE),
  'offsets_three': (one(data_offsets=[0, 4, 8]), DISAGREE),
  'offsets_bool': (one(data_offsets=[False, 8]), 'header: .*expected usize'),
  'offsets_float': (one(data_offsets=[0, 8.0]), 'header: .*expected usize'),
  'offsets_negative': (one(data_offsets=[-8, 0]), 'header: .*expected usize'),
  'offsets_backwards': (one(data_offsets=[8, 0]), DISAGREE),
  'offsets_huge': (one(data_offsets=[0, 10**400]), DISAGREE),
  'offsets_beyond': (one(bytes(7)), r'tensor x: data_offsets = \[0, 8\] reach beyond the 7 bytes of data: .* cut off'),
  'offsets_far_beyond': (one(shape=[2**40], data_offsets=[0, 2**42]), 'reach beyond the 8 bytes'),
  'span_too_long': (one(bytes(12), data_offsets=[0, 12]), DISAGREE),
  'span_of_another_dtype': (one(dtype='F16'), DISAGREE),
  'span_of_a_scalar': (one(shape=[]), DISAGREE),
  'same_bytes': (raw(f'{{"x":{A},"y":{A}}}', bytes(8)), INVALID_OFFSET + '[xy]'),
  'overlap': (raw({'x': described(), 'y': described(data_offsets=[4, 12])}, bytes(12)), INVALID_OFFSET + 'y'),
  'empty_inside': (raw({'x': described(), 'y': described('F16', [0], [4, 4])}, bytes(8)), INVALID_OFFSET + 'y'),
  'hole_first': (one(bytes(16), data_offsets=[8, 16]), INVALID_OFFSET + 'x'),
  'hole': (raw({'x': described(), 'y': described(data_offsets=[9, 17])}, bytes(17)), INVALID_OFFSET + 'y'),
  'trailing': (one(bytes(9)), 'file not fully covered; the file is broken'),
  'data_without_tensors': (raw('{}', b'0'), 'file not fully covered; the file is broken'),
}  # fmt: skip


@pytest.mark.parametrize(('content', 'message'), BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_named_in_one_line(content, message, tmp_path):
  path = written(tmp_path, content)
  with peak_below(MB), pytest.raises(DataError, match=message) as caught:
    tensor_files.open_file(path, max_tensors=2)
  assert str(caught.value).startswith(f'{path}: ')
  assert str(caught.value).isprintable()
  assert len(str(caught.value)) < 400 + len(str(path))


def test_any_changed_or_missing_byte_is_read_or_refused(tmp_path):
  arrays = {'a': np.ones(2, F32), 'b': np.ones((1, 3), F16)}
  tensor_files.write_file(tmp_path / 'x', declared(arrays), arrays.__getitem__)
  whole = (tmp_path / 'x').read_bytes()
  header = len(whole) - 14
  changed = [whole[:n] + bytes([byte]) + whole[n + 1 :] for n in range(header) for byte in b'\0\xff"{[,:-0e9']
  for content in changed + [whole[:n] for n in range(len(whole))]:
    path = written(tmp_path, content)
    try:
      file = tensor_files.open_file(path, max_tensors=2)
    except DataError as error:
      assert str(error).isprintable()
    else:
      assert len(content) == len(whole)
      assert sum(file.read(name).nbytes for name in file.entries) == 14


def test_a_file_that_is_cut_off_after_it_was_opened_is_named(tmp_path):
  path = written(tmp_path, one())
  file = tensor_files.open_file(path, max_tensors=1)
  os.truncate(path, path.stat().st_size - 3)
  with pytest.raises(DataError, match=r'model\.safetensors: .*not fully covered; the file is broken or cut off'):
    file.read('x')
  path.unlink()
  with pytest.raises(DataError, match=r'model\.safetensors: No such file'):
    file.read('x')


@pytest.mark.parametrize('read', [tensor_files.open_file, files.read_json])
def test_what_is_no_file_is_named(read, tmp_path):
  os.mkfifo(tmp_path / 'pipe')
  for path, message in [(tmp_path / 'none', 'No such file'), (tmp_path, 'regular'), (tmp_path / 'pipe', 'regular')]:
    with pytest.raises(DataError, match=message) as caught:
      read(path, 10)
    assert str(caught.value).startswith(f'{path}: ')


def test_an_open_file_holds_no_descriptor(tmp_path):
  before = len(os.listdir('/proc/self/fd')) if pathlib.Path('/proc/self/fd').exists() else pytest.skip('no /proc')
  files = [tensor_files.open_file(written(tmp_path, one()), max_tensors=1) for _ in range(5)]
  assert [list(file.read('x')) for file in files] == [[0, 0]] * 5
  assert len(os.listdir('/proc/self/fd')) == before
  assert 'model.safetensors' not in pathlib.Path('/proc/self/maps').read_text()


def test_what_a_header_claims_is_not_allocated(tmp_path):
  path = written(tmp_path, raw('{"', length=90 * MB))
  os.truncate(path, 100 * MB)
  with peak_below(MB), pytest.raises(DataError, match=f'header has {90 * MB} bytes, more than the 9216 allowed for 10'):
    tensor_files.open_file(path, max_tensors=10)


def test_a_header_of_too_many_tensors_is_refused_before_it_is_parsed(tmp_path):
  path = written(tmp_path, raw({f't{n}': described(shape=[0], data_offsets=[0, 0]) for n in range(100_000)}))
  with peak_below(MB), pytest.raises(DataError, match='more than the 157696 allowed for 300 tensors'):
    tensor_files.open_file(path, max_tensors=300)


@pytest.mark.parametrize(
  ('shape', 'index', 'values'),
  [
    ((1024, 25600), (slice(None), slice(12800, None)), {12799: 1, 12800: 2, 25599: 3, 25600 * 1023 + 20000: 4}),
    ((2, 3200, 4096), (slice(None), slice(None), slice(0, 2048)), {0: 1, 2047: 2, 2048: 3, 3200 * 4096 + 4096: 4}),
    ((26_214_400,), (slice(100, 200),), {99: 1, 100: 2, 199: 3, 200: 4}),
    ((1024, 25600), (), {0: 1, 25600 * 1024 - 1: 2}),
  ],
  ids=['columns', 'long_rows', 'few', 'whole'],
)
def test_a_part_costs_its_own_memory(shape, index, values, tmp_path):
  file = tensor_files.open_file(sparse(tmp_path, shape, values), max_tensors=1)
  expected = np.zeros(shape, F32)
  expected.reshape(-1)[list(values)] = list(values.values())
  expected = expected[index]
  with peak_below(expected.nbytes + 12 * MB):
    actual = file.read('x', index)
  assert np.array_equal(actual, expected)


def test_the_writer_asks_for_one_tensor_at_a_time_and_forgets_it(tmp_path):
  names = [f'layer.{n}' for n in range(8)]
  given = []

  def array_of(name):
    assert not [seen for seen, array in given if array() is not None]
    array = np.full((512, 1024), int(name[-1]), F32)  # 2 MB
    given.append((name, weakref.ref(array)))
    return array

  with peak_below(5 * MB):
    tensor_files.write_file(tmp_path / 'x', dict.fromkeys(reversed(names), (F32, (512, 1024))), array_of)
  assert [name for name, _ in given] == names
  file = tensor_files.open_file(tmp_path / 'x', max_tensors=8)
  assert [file.read(name)[-1, -1] for name in names] == list(range(8))


def test_the_writer_syncs_a_whole_file(tmp_path, monkeypatch):
  sizes = []
  monkeypatch.setattr(os, 'fsync', lambda descriptor: sizes.append(os.fstat(descriptor).st_size))
  (tmp_path / 'x').write_bytes(bytes(1000))
  tensor_files.write_file(tmp_path / 'x', {'x': (F32, (2,))}, lambda name: np.ones(2, F32))
  assert sizes == [(tmp_path / 'x').stat().st_size] == [8 + 88 + 8]


@pytest.mark.parametrize('axes', [(2, 0, 1), (2, 1, 0)])
def test_arrays_that_are_not_contiguous_are_written_in_their_order(axes, tmp_path):
  array = np.arange(24, dtype=F32).reshape(2, 3, 4).transpose(axes)
  tensor_files.write_file(tmp_path / 'x', {'x': (F32, array.shape)}, lambda name: array)
  assert_same(tensor_files.open_file(tmp_path / 'x', max_tensors=1).read('x'), array)


@pytest.mark.parametrize(
  ('name', 'dtype', 'shape', 'message'),
  [
    ('x', F32, (3, 2), r'tensor x is float32 \(2, 3\), but was declared float32 \(3, 2\)'),
    ('x', F16, (2, 3), 'tensor x is float32 .* but was declared float16'),
    ('x', np.dtype(np.float64), (2, 3), "cannot hold tensor 'x' of float64"),
    ('__metadata__', F32, (2, 3), "cannot hold tensor '__metadata__'"),
  ],
)
def test_an_array_that_is_not_as_declared_is_the_programs_fault(name, dtype, shape, message, tmp_path):
  with pytest.raises(ValueError, match=message):
    tensor_files.write_file(tmp_path / 'x', {name: (dtype, shape)}, lambda name: np.ones((2, 3), F32))


def test_json_is_read(tmp_path):
  content = {'a': [1, 2.5, None, True, 'é'], 'b': {}, 'c': -3}
  text = json.dumps(content, ensure_ascii=False, indent=2)
  path = written(tmp_path, text.encode(), 'config.json')
  assert files.read_json(path, max_bytes=len(text.encode())) == content
  assert files.read_json(written(tmp_path, b' [1e-400] '), max_bytes=10) == [0.0]
  assert files.read_json(written(tmp_path, b'[' * 65 + b']' * 65), max_bytes=200) is not None


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (b'[' + b' ' * 5000 + b']', 'has 5002 bytes, more than the 5000 that such a file may have'),
    (b'', 'not JSON that can be used: Expecting value'),
    (b'{"a":', 'not JSON that can be used: Expecting value'),
    (b'{"a": 1} {}', 'Extra data'),
    (b'["\xe9"]', "'utf-8' codec"),
    ('["é"]'.encode('utf-16'), "'utf-8' codec"),
    (b'{"a": 1, "b": {"c": 1, "c": 1}}', "key 'c' is there twice"),
    (b'{"a": 1, "a": 1}', "key 'a' is there twice"),
    (b'[NaN]', 'NaN is not a finite number'),
    (b'[Infinity]', 'Infinity is not a finite number'),
    (b'[-Infinity]', '-Infinity is not a finite number'),
    (b'[1e999]', '1e999 is not a finite number'),
    (b'[-1e999]', '-1e999 is not a finite number'),
    (b'[' * 2500 + b']' * 2500, 'nested deeper than 64'),
    (b'{"a":' * 900 + b'1' + b'}' * 400, 'nested deeper than 64|not JSON'),
    (b'[' * 66 + b']' * 66, 'nested deeper than 64'),
    (b'[' * 65 + b'1' + b']' * 65, 'nested deeper than 64'),
    (b'[' + b'9' * 4400 + b']', 'digits'),
  ],
  ids=range(18),
)
def test_json_that_has_no_one_meaning_is_named(content, message, tmp_path):
  path = written(tmp_path, content, 'config.json')
  with peak_below(MB), pytest.raises(DataError, match=message) as caught:
    files.read_json(path, max_bytes=5000)
  assert str(caught.value).startswith(f'{path}: ')
  assert str(caught.value).isprintable()


def test_a_huge_json_file_is_not_read(tmp_path):
  path = written(tmp_path, b'{')
  os.truncate(path, 1 << 40)
  with peak_below(MB), pytest.raises(DataError, match=f'has {1 << 40} bytes, more than the 1000'):
    files.read_json(path, max_bytes=1000)
