"""Broken and malicious model folders: each refused with its reason, in little memory, and nothing of it is executed."""

import json
import os
import pickle
import tracemalloc
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import tiny

from score_jax.errors import DataError
from score_jax.storage import hf
from score_jax.tasks import chat as chats
from score_jax.tasks.tokenizer import load_tokenizer

CONFIG = tiny.decoder_config('llama')
EMBED, HEAD, NORM = 'model.embed_tokens.weight', 'lm_head.weight', 'model.norm.weight'
WEIGHTS, INDEX = 'model.safetensors', 'model.safetensors.index.json'
_OWN_NEEDS = 6 << 20  # bytes that loading any tokenizer takes, whatever the folder


@pytest.fixture(scope='module')
def sound(tmp_path_factory):
  """A whole folder; loading it once also loads what the package imports lazily."""
  folder = tiny.write_hf_folder(tmp_path_factory.mktemp('sound') / 'hf', CONFIG)
  load(folder)
  return folder


@pytest.fixture
def folder(sound, tmp_path):
  """A copy to break, with a place beside it that must stay as it is."""
  copy = tmp_path / 'hf'
  copy.mkdir()
  for file in sound.iterdir():
    (copy / file.name).write_bytes(file.read_bytes())
  return copy


def load(folder):
  """Everything that a run does with a folder."""
  folder = hf.folder_of(str(folder))
  config = hf.read_config(folder)
  tokenizer = load_tokenizer(folder)
  chats.open_chat(
    folder, tokenizer, system='', examples=(), instructions=(tiny.INSTRUCTION,), prompt_tokens=9, date=tiny.DATE
  )
  return hf.read_params(folder, config, tiny.one_device_mesh(), jnp.float32)


class Payload:
  """Writes a marker when it is unpickled."""

  def __init__(self, marker):
    self.marker = marker

  def __reduce__(self):
    return os.mkdir, (str(self.marker),)


def marker_of(folder):
  return folder.parent / 'executed'


def with_pickle(folder):
  (folder / WEIGHTS).write_bytes(pickle.dumps(Payload(marker_of(folder))))


def with_zip(folder):
  (folder / WEIGHTS).unlink()
  with zipfile.ZipFile(folder / WEIGHTS, 'w') as archive:
    archive.writestr('data.pkl', pickle.dumps(Payload(marker_of(folder))))


def with_bin_only(folder):
  (folder / WEIGHTS).unlink()
  (folder / 'pytorch_model.bin').write_bytes(pickle.dumps(Payload(marker_of(folder))))


def with_header(edit):
  """Rewrites the header as `edit(entries) -> text` says; the data stay."""

  def change(folder):
    data = (folder / WEIGHTS).read_bytes()
    end = 8 + int.from_bytes(data[:8], 'little')
    changed = edit(json.loads(data[8:end])).encode()
    (folder / WEIGHTS).write_bytes(len(changed).to_bytes(8, 'little') + changed + data[end:])

  return change


def entries(**changes):
  def edit(header):
    for name, fields in changes.items():
      header[name.replace('__', '.')].update(fields)
    return json.dumps(header)

  return with_header(edit)


def header_of(header, **fields):
  """The header with EMBED's entry changed."""
  header[EMBED] = header[EMBED] | fields
  return json.dumps(header)


def moved(header, by):
  first, last = header[EMBED]['data_offsets']
  return header_of(header, data_offsets=[first + by, last + by])


def huge_length(folder):
  data = (folder / WEIGHTS).read_bytes()
  (folder / WEIGHTS).write_bytes((1 << 40).to_bytes(8, 'little') + data[8:])


def many_entries(header):
  return json.dumps(header | {f'x{i}': dict(dtype='F32', shape=[0], data_offsets=[0, 0]) for i in range(100_000)})


def doubled_key(header):
  text = json.dumps(header)
  return text[:-1] + f', "{NORM}": {json.dumps(header[NORM])}}}'


def values(name, value):
  def change(folder):
    arrays = safetensors.numpy.load_file(folder / WEIGHTS)
    arrays[name].flat[-1] = value
    safetensors.numpy.save_file(arrays, folder / WEIGHTS)

  return change


def dtype_of(dtype):
  def change(folder):
    arrays = safetensors.numpy.load_file(folder / WEIGHTS)
    safetensors.numpy.save_file(arrays | {NORM: arrays[NORM].astype(dtype)}, folder / WEIGHTS)

  return change


def indexed(weight_map):
  """An index; a sound file lies where a path out of the folder would lead."""

  def change(folder):
    (folder.parent / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes())
    (folder / INDEX).write_text(json.dumps(dict(weight_map=weight_map)))

  return change


def in_two_files(folder):
  (folder / 'again.safetensors').write_bytes((folder / WEIGHTS).read_bytes())
  indexed({EMBED: WEIGHTS, NORM: 'again.safetensors'})(folder)


def linked(name):
  def change(folder):
    outside = folder.parent / 'outside'
    (folder / name).rename(outside)
    (folder / name).symlink_to(outside)

  return change


def text(name, content):
  return lambda folder: (folder / name).write_text(content)


def fields(name, **changes):
  def change(folder):
    path = folder / name
    before = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(before | changes))

  return change


def remote_code(name):
  """auto_map, and the module that it names, which would leave a marker."""

  def change(folder):
    (folder / 'evil.py').write_text(f'import os\nos.mkdir({str(marker_of(folder))!r})\nclass Evil: pass\n')
    fields(name, auto_map=dict(AutoConfig='evil.Evil', AutoTokenizer=['evil.Evil', None]))(folder)

  return change


def pipe(folder):
  (folder / 'config.json').unlink()
  os.mkfifo(folder / 'config.json')


def cut_off(folder):
  data = (folder / WEIGHTS).read_bytes()
  (folder / WEIGHTS).write_bytes(data[: len(data) // 2])


def loop_of_links(folder):
  (folder / 'a.json').symlink_to(folder / 'b.json')
  (folder / 'b.json').symlink_to(folder / 'a.json')


def two_models(folder):
  (folder / 'other.safetensors').write_bytes((folder / WEIGHTS).read_bytes())
  indexed({EMBED: 'other.safetensors'})(folder)


DEEP = '[' * 200_000 + ']' * 200_000
FOLDERS = {
  'pickle_as_safetensors': (with_pickle, 'not a safetensors file.*pickle'),
  'zip_as_safetensors': (with_zip, 'not a safetensors file.*zip'),
  'pickle_alone': (with_bin_only, r'pytorch_model\.bin is a pickle, which can run code'),
  'header_length_bomb': (huge_length, 'a header of 1099511627776 bytes'),
  'header_of_100k_tensors': (with_header(many_entries), 'header has [0-9]+ bytes, more than'),
  'header_depth_bomb': (with_header(lambda _: '{"a":' + '[' * 5000 + ']' * 5000 + '}'), 'header'),
  'overlapping_offsets': (with_header(lambda header: moved(header, -4)), EMBED),
  'offsets_out_of_range': (with_header(lambda header: moved(header, 1 << 50)), f'{EMBED}: .*reach beyond'),
  'offsets_with_a_hole': (with_header(lambda header: moved(header, 4)), f'invalid offset for tensor `{EMBED}'),
  'shape_that_overflows': (with_header(lambda h: header_of(h, shape=[1 << 40, 1 << 40])), f'{EMBED}: shape'),
  'negative_shape': (with_header(lambda h: header_of(h, shape=[-1, -61 * 16])), f'{EMBED}: shape'),
  'shape_not_of_config': (with_header(lambda h: header_of(h, shape=[16, 61])), 'but config.json asks for'),
  'unknown_dtype': (with_header(lambda h: header_of(h, dtype='F8_E4M3')), f'{EMBED} is stored as .*F8'),
  'integers': (dtype_of(np.int64), f'{NORM} is stored as I64'),
  'doubled_key': (with_header(doubled_key), 'is there twice'),
  'weight_in_two_files': (in_two_files, 'is also in another file'),
  'index_leaves_the_folder': (indexed({EMBED: '../model.safetensors'}), "names '../model.safetensors'"),
  'index_is_absolute': (indexed({EMBED: '/etc/passwd'}), "names '/etc/passwd'"),
  'index_names_a_pickle': (indexed({EMBED: 'pytorch_model.bin'}), "names 'pytorch_model.bin'"),
  'index_depth_bomb': (text(INDEX, DEEP[: 1 << 15]), 'index.json'),
  'link_to_weights_outside': (linked(WEIGHTS), 'is a link to .*outside'),
  'link_to_config_outside': (linked('config.json'), 'is a link to .*outside'),
  'links_in_a_loop': (loop_of_links, 'cannot be read'),
  'index_names_a_long_file': (indexed({EMBED: 'a' * 300 + '.safetensors'}), 'which is not a safetensors file'),
  'index_names_no_text': (indexed({EMBED: '\ud800.safetensors'}), 'which is not a safetensors file'),
  'two_models_at_once': (two_models, 'remove what is stale'),
  'adapter_beside_the_model': (text('adapter_config.json', '{}'), 'holds an adapter'),
  'eos_beyond_all_ids': (fields('generation_config.json', eos_token_id=2**40), 'is neither a token id'),
  'nan_weights': (values(HEAD, np.nan), f'{HEAD} holds numbers that are not finite'),
  'infinite_weights': (values(NORM, np.inf), f'{NORM} holds numbers that are not finite'),
  'cut_off': (cut_off, 'cut off'),
  'config_depth_bomb': (text('config.json', DEEP), r'config\.json: nested'),
  'config_of_8_mb': (text('config.json', '{"model_type": "' + 'x' * (8 << 20) + '"}'), 'more than the 1048576'),
  'config_with_a_key_twice': (text('config.json', '{"model_type": "llama", "model_type": "qwen2"}'), 'is there twice'),
  'config_is_a_pipe': (pipe, 'no config.json'),
  'unknown_model_type': (fields('config.json', model_type='evil'), "model_type 'evil' is not supported"),
  'a_billion_layers': (fields('config.json', num_hidden_layers=10**9), 'num_hidden_layers = 1000000000'),
  'remote_code_model': (remote_code('config.json'), "config.json: field 'auto_map' is set: it asks to run code"),
  'remote_code_tokenizer': (remote_code('tokenizer_config.json'), r'tokenizer_config\.json.*auto_map'),
  'tokenizer_depth_bomb': (text('tokenizer.json', DEEP), 'tokenizer'),
  'template_out_of_its_sandbox': (
    text('chat_template.jinja', "{{ ''.__class__.__mro__[1].__subclasses__() }}"),
    'chat template: SecurityError',
  ),
  'generation_depth_bomb': (text('generation_config.json', DEEP), r'generation_config\.json'),
}


@pytest.mark.parametrize('name', FOLDERS)
def test_a_hostile_folder_is_refused_by_name(name, folder):
  change, message = FOLDERS[name]
  change(folder)
  size = sum(file.lstat().st_size for file in folder.iterdir())
  tracemalloc.start()
  try:
    with pytest.raises(DataError, match=message) as error:
      load(folder)
    _, peak = tracemalloc.get_traced_memory()
  finally:
    tracemalloc.stop()
  assert peak < 2 * size + _OWN_NEEDS
  assert not marker_of(folder).exists()
  assert '\n' not in str(error.value)
  assert len(str(error.value)) < 1000


def test_a_sound_folder_loads(sound):
  assert load(sound)['embed'].shape == (CONFIG.vocab, CONFIG.width)


def test_links_within_the_folder_and_of_the_hugging_face_cache_are_followed(sound, tmp_path):
  snapshot, blobs = tmp_path / 'models--x' / 'snapshots' / 'abc', tmp_path / 'models--x' / 'blobs'
  snapshot.mkdir(parents=True)
  blobs.mkdir()
  for i, file in enumerate(sound.iterdir()):
    (blobs / str(i)).write_bytes(file.read_bytes())
    (snapshot / file.name).symlink_to(f'../../blobs/{i}')
  assert load(snapshot)['embed'].shape == (CONFIG.vocab, CONFIG.width)


def test_a_tokenizer_reads_no_file_outside_its_folder(folder):
  outside = folder.parent / 'outside'
  outside.mkdir()
  secret = json.loads((folder / 'tokenizer.json').read_text())
  secret['added_tokens'].append(dict(secret['added_tokens'][0], id=500, content='<|secret|>'))
  (outside / 'tokenizer.json').write_text(json.dumps(secret))
  (outside / 'evil.jinja').write_text('secret')
  (folder / 'additional_chat_templates').mkdir()
  (folder / 'additional_chat_templates' / 'default.jinja').symlink_to(outside / 'evil.jinja')
  away = str(outside / 'tokenizer.json')
  fields('tokenizer_config.json', fast_tokenizer_files=[away], tokenizer_file=away, vocab_file=away)(folder)
  tokenizer = load_tokenizer(folder)
  assert '<|secret|>' not in tokenizer.get_vocab()
  assert tokenizer.chat_template == tiny.tokenizer().chat_template
