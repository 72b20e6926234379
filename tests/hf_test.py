"""HF folders: what is read is written back byte for byte, transformers opens it, and every defect is named."""

import json
import shutil

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import tiny

from score_jax.errors import DataError
from score_jax.models import config_json
from score_jax.parallel import mesh as meshes
from score_jax.storage import hf, hf_export, tensor_files

F32, BF16 = np.dtype(np.float32), np.dtype(ml_dtypes.bfloat16)
EMBED, HEAD = 'model.embed_tokens.weight', 'lm_head.weight'
VECTOR = np.zeros(3, np.float32)
DOWN = 'model.layers.1.mlp.down_proj.weight'


def tensors_of(folder):
  """{name: (dtype, shape, bytes)} of a folder, parsed from the files without any library; and how many files."""
  actual = {}
  files = sorted(folder.glob('*.safetensors'))
  for path in files:
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], 'little')
    for name, entry in json.loads(data[8:end]).items():
      if name != '__metadata__':
        first, last = entry['data_offsets']
        assert name not in actual
        actual[name] = (entry['dtype'], entry['shape'], data[end + first : end + last])
  return actual, len(files)


def read(folder, dtype='float32'):
  return hf.read_params(folder, hf.read_config(folder), tiny.one_device_mesh(), jnp.dtype(dtype))


def dtypes_of(folder):
  return set(hf.open_weights(folder, hf.read_config(folder)).dtypes().values())


def copied(folder, tmp_path):
  return shutil.copytree(folder, tmp_path / 'copy')


def edit_config(folder, drop=(), **changes):
  path = folder / 'config.json'
  config = json.loads(path.read_text()) | changes
  path.write_text(json.dumps({field: value for field, value in config.items() if field not in drop}))
  return folder


def edit_weights(folder, edit):
  """Rewrites the one weight file after `edit(arrays)`."""
  path = folder / 'model.safetensors'
  arrays = safetensors.numpy.load_file(path)
  edit(arrays)
  safetensors.numpy.save_file(arrays, path)


@pytest.fixture(scope='module')
def tied_folder(tmp_path_factory):
  """A Qwen2 with biases whose head is its embedding."""
  return tiny.write_hf_folder(tmp_path_factory.mktemp('hf') / 'tied', tiny.decoder_config('qwen2'))


def test_the_folder_of_a_run_is_no_model_and_names_its_own(trained_run):
  with pytest.raises(DataError, match=f'is the folder of a run; its model is {trained_run}/hf$'):
    hf.folder_of(f'{trained_run}/')
  assert hf.folder_of(f'{trained_run}/hf') == trained_run / 'hf'


@pytest.mark.parametrize('shard', ['5GB', '5KB'])
@pytest.mark.parametrize(
  ('family', 'dtype', 'tied'), [('qwen2', 'float32', True), ('qwen2', 'bfloat16', False), ('llama', 'bfloat16', True)]
)
def test_a_folder_of_transformers_comes_back_byte_for_byte(family, dtype, tied, shard, tmp_path):
  torch = pytest.importorskip('torch')
  transformers = pytest.importorskip('transformers')
  torch.manual_seed(0)
  settings = config_json.to_hf(tiny.decoder_config(family, tied=tied))
  model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**settings))
  for parameter in model.parameters():
    torch.nn.init.normal_(parameter)
  source, out = tmp_path / 'source', tmp_path / 'out'
  model.to(getattr(torch, dtype)).save_pretrained(source, max_shard_size=shard)

  config = hf.read_config(source)
  params = read(source, dtype)
  hf_export.write_folder(
    out, params, config, source=source, dtype=hf.open_weights(source, config).dtypes(), max_shard=shard
  )

  (expected, files), (actual, out_files) = tensors_of(source), tensors_of(out)
  assert (files > 1) == (out_files > 1) == (shard == '5KB')
  assert actual == expected
  assert (HEAD in actual) == (not tied)
  assert (out / 'config.json').read_bytes() == (source / 'config.json').read_bytes()


@pytest.mark.parametrize('family', ['qwen2', 'llama'])
@pytest.mark.parametrize('shard', ['5GB', '5KB'])
def test_transformers_opens_an_exported_folder_without_a_missing_or_unexpected_key(family, shard, tmp_path):
  pytest.importorskip('torch')
  transformers = pytest.importorskip('transformers')
  config = tiny.decoder_config(family, rope_theta=777.0, norm_eps=1e-3)
  params = tiny.random_params(config)
  hf_export.write_folder(tmp_path / 'out', params, config, source=None, dtype=F32, max_shard=shard)
  model, info = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / 'out', output_loading_info=True)
  assert not any(info.values()), info
  assert model.config.model_type == family
  assert model.config.rope_parameters['rope_theta'] == 777.0
  assert model.config.rms_norm_eps == 1e-3
  np.testing.assert_array_equal(model.get_input_embeddings().weight.detach().numpy(), params['embed'])


def test_transformers_opens_the_tokenizer_of_an_exported_folder(hf_folder):
  transformers = pytest.importorskip('transformers')
  opened = transformers.AutoTokenizer.from_pretrained(hf_folder)
  text = 'reach 3 with 1 2<|end|>'
  assert opened(text)['input_ids'] == tiny.tokenizer()(text)['input_ids']
  assert opened.chat_template == tiny.tokenizer().chat_template


def test_an_export_keeps_the_other_files_of_its_source_and_drops_its_weights(tied_folder, tmp_path):
  source = copied(tied_folder, tmp_path)
  (source / 'generation_config.json').write_text('{"eos_token_id": [1, 3]}')
  (source / 'model-00001-of-00002.safetensors').write_text('stale')
  config = hf.read_config(source)
  hf_export.write_folder(tmp_path / 'out', tiny.random_params(config, seed=5), config, source=source, dtype=BF16)
  names = {file.name for file in source.iterdir()} - {'model-00001-of-00002.safetensors'}
  assert {file.name for file in (tmp_path / 'out').iterdir()} == names
  assert (tmp_path / 'out/generation_config.json').read_text() == '{"eos_token_id": [1, 3]}'
  assert dtypes_of(tmp_path / 'out') == {BF16}


def test_both_spellings_of_config_json_read_the_same(tied_folder, tmp_path):
  folder = copied(tied_folder, tmp_path)
  drop = ('rope_theta', 'rope_parameters', 'dtype', 'torch_dtype')
  rope = dict(rope_theta=1e6, rope_type='default')
  edit_config(folder, drop=drop)
  four = json.loads((folder / 'config.json').read_text()) | dict(rope_theta=1e6, torch_dtype='bfloat16')
  five = json.loads((folder / 'config.json').read_text()) | dict(rope_parameters=rope, dtype='bfloat16')
  configs = []
  for spelling in (four, five):
    (folder / 'config.json').write_text(json.dumps(spelling))
    configs.append(hf.read_config(folder))
  assert configs[0] == configs[1] == tiny.decoder_config('qwen2', rope_theta=1e6)


def test_a_missing_folder_is_named(tmp_path):
  with pytest.raises(DataError, match='no_such_model'):
    hf.folder_of(str(tmp_path / 'no_such_model'))


def test_a_bundled_model_that_is_not_there_is_named():
  with pytest.raises(DataError, match='bundled:no_such_model'):
    hf.folder_of('bundled:no_such_model')


def test_a_config_that_is_not_json_is_named(tied_folder, tmp_path):
  folder = copied(tied_folder, tmp_path)
  (folder / 'config.json').write_text('{"model_type":')
  with pytest.raises(DataError, match=r'config\.json: not JSON'):
    hf.read_config(folder)


def reshaped(arrays):
  arrays[DOWN] = np.ascontiguousarray(arrays[DOWN].T)


@pytest.mark.parametrize(
  ('edit', 'message'),
  [
    (lambda arrays: arrays.pop(DOWN), f'missing, the first is {DOWN}'),
    (lambda arrays: arrays.pop('model.layers.0.self_attn.k_proj.bias'), 'layers.0.self_attn.k_proj.bias'),
    (
      lambda arrays: arrays.update({'model.layers.0.extra': np.zeros(3, np.float32)}),
      'unknown .* model.layers.0.extra',
    ),
    (
      lambda arrays: arrays.update({'model.layers.2.mlp.up_proj.weight': VECTOR}),
      'layers.2.mlp.up_proj',
    ),
    (reshaped, rf'{DOWN} has shape \(32, 16\)'),
    (lambda arrays: arrays.update({HEAD: arrays[EMBED] + 1}), f'{HEAD} differs'),
  ],
  ids=['missing', 'missing_bias', 'extra', 'extra_layer', 'shape', 'tied_head'],
)
def test_a_defective_weight_is_named(tied_folder, tmp_path, edit, message):
  folder = copied(tied_folder, tmp_path)
  edit_weights(folder, edit)
  with pytest.raises(DataError, match=message):
    read(folder)


def test_a_tied_model_may_hold_its_head_as_a_copy_of_the_embedding(tied_folder, tmp_path):
  folder = copied(tied_folder, tmp_path)
  edit_weights(folder, lambda arrays: arrays.update({HEAD: arrays[EMBED].copy()}))
  assert 'head' not in read(folder)


def test_a_weight_in_two_files_is_named(tied_folder, tmp_path):
  folder = copied(tied_folder, tmp_path)
  shutil.copyfile(folder / 'model.safetensors', folder / 'again.safetensors')
  index = dict(weight_map={EMBED: 'model.safetensors', DOWN: 'again.safetensors'})
  (folder / 'model.safetensors.index.json').write_text(json.dumps(index))
  with pytest.raises(DataError, match='is also in another file'):
    read(folder)


@pytest.mark.parametrize('keep', [0, 100, -1])
def test_a_cut_off_weight_file_is_named(tied_folder, tmp_path, keep):
  folder = copied(tied_folder, tmp_path)
  path = folder / 'model.safetensors'
  path.write_bytes(path.read_bytes()[:keep])
  with pytest.raises(DataError, match=r'model\.safetensors: .*cut off'):
    read(folder)


def test_a_missing_shard_is_named(tmp_path):
  config = tiny.decoder_config('qwen2')
  hf_export.write_folder(tmp_path / 'out', tiny.random_params(config), config, source=None, dtype=F32, max_shard='5KB')
  shard = sorted((tmp_path / 'out').glob('*.safetensors'))[1]
  shard.unlink()
  with pytest.raises(DataError, match=f'weight file {shard.name} is missing'):
    read(tmp_path / 'out')


def test_an_existing_folder_is_refused_and_left_as_it_was(tied_folder, tmp_path):
  out = copied(tied_folder, tmp_path)
  before = {file.name: file.read_bytes() for file in out.iterdir()}
  config = hf.read_config(out)
  with pytest.raises(DataError, match='copy exists already'):
    hf_export.write_folder(out, tiny.random_params(config, seed=9), config, source=None, dtype=F32)
  assert {file.name: file.read_bytes() for file in out.iterdir()} == before
  assert [file.name for file in tmp_path.iterdir()] == ['copy']


@pytest.mark.parametrize('replace', [False, True])
def test_a_failed_write_leaves_nothing_new_under_the_final_name(tied_folder, tmp_path, monkeypatch, replace):
  out = copied(tied_folder, tmp_path) if replace else tmp_path / 'out'
  config = hf.read_config(tied_folder)
  params = tiny.random_params(config, seed=9)
  write, calls = tensor_files.write_file, []

  def full_disk(*args, **kwargs):
    calls.append(args)
    if len(calls) == 2:
      raise OSError('No space left on device')
    write(*args, **kwargs)

  with monkeypatch.context() as patch:
    patch.setattr(tensor_files, 'write_file', full_disk)
    with pytest.raises(OSError, match='No space left'):
      hf_export.write_folder(out, params, config, source=None, dtype=F32, replace=replace, max_shard='5KB')
  if replace:
    assert tensors_of(out) == tensors_of(tied_folder)
  else:
    assert not out.exists()
  hf_export.write_folder(out, params, config, source=None, dtype=F32, replace=replace)
  np.testing.assert_array_equal(read(out)['embed'], params['embed'])
  assert [file.name for file in tmp_path.iterdir()] == [out.name]


def test_export_in_another_dtype_says_so_in_its_config(tied_folder, tmp_path):
  config = hf.read_config(tied_folder)
  params, other = read(tied_folder), BF16
  hf_export.write_folder(tmp_path / 'out', params, config, source=tied_folder, dtype=other)
  written = json.loads((tmp_path / 'out/config.json').read_text())
  assert {written[name] for name in ('dtype', 'torch_dtype') if name in written} == {other.name}
  assert dtypes_of(tmp_path / 'out') == {other}


@pytest.mark.parametrize('block', [hf._BLOCK, 200])
def test_sharded_import_in_blocks_gives_the_same_values(tied_folder, monkeypatch, block):
  monkeypatch.setattr(hf, '_BLOCK', block)
  config = hf.read_config(tied_folder)
  mesh = meshes.make_mesh(2, 2, 2)
  actual = hf.read_params(tied_folder, config, mesh, jnp.float32)
  arrays = safetensors.numpy.load_file(tied_folder / 'model.safetensors')
  np.testing.assert_array_equal(actual['embed'], arrays[EMBED])
  np.testing.assert_array_equal(actual['layers']['down'][1], arrays[DOWN].T)
  q = arrays['model.layers.1.self_attn.q_proj.weight'].reshape(4, 4, 16)
  np.testing.assert_array_equal(actual['layers']['q'][1], q.transpose(2, 0, 1))
  bias = arrays['model.layers.1.self_attn.k_proj.bias'].reshape(2, 4)
  np.testing.assert_array_equal(actual['layers']['k_bias'][1], bias)
  assert actual['layers']['q'].sharding.spec == jax.P(None, 'fsdp', 'tensor')
  assert actual['layers']['down'].addressable_shards[0].data.shape == (2, 16, 8)


def test_a_part_that_several_devices_hold_is_read_once(tied_folder, monkeypatch):
  read_, calls = tensor_files.TensorFile.read, []

  def counted(self, name, index=()):
    part = read_(self, name, index)
    calls.append((name, part.shape))
    return part

  monkeypatch.setattr(tensor_files.TensorFile, 'read', counted)
  config = hf.read_config(tied_folder)
  hf.read_params(tied_folder, config, meshes.make_mesh(8, 1, 1), jnp.float32)
  assert sorted(name for name, _ in calls) == sorted(hf.open_weights(tied_folder, config).dtypes())
  calls.clear()
  hf.read_params(tied_folder, config, meshes.make_mesh(2, 2, 2), jnp.float32)
  assert [shape for name, shape in calls if name == DOWN] == [(8, 16)] * 4  # a device's share of (16, 32)


def test_weights_of_several_dtypes_keep_theirs(tied_folder, tmp_path):
  source = copied(tied_folder, tmp_path)
  edit_weights(source, lambda arrays: arrays.update({DOWN: arrays[DOWN].astype(BF16)}))
  config = hf.read_config(source)
  dtypes = hf.open_weights(source, config).dtypes()
  assert (dtypes[DOWN], dtypes[EMBED]) == (BF16, F32)
  hf_export.write_folder(tmp_path / 'out', read(source), config, source=source, dtype=dtypes)
  assert tensors_of(tmp_path / 'out') == tensors_of(source)
  assert (tmp_path / 'out/config.json').read_bytes() == (source / 'config.json').read_bytes()


def test_a_kill_between_the_two_renames_loses_nothing(tied_folder, tmp_path, monkeypatch):
  out = copied(tied_folder, tmp_path)
  out.rename(tmp_path / '.copy.score_jax-old')  # what such a kill leaves
  config = hf.read_config(tied_folder)
  monkeypatch.setattr(tensor_files, 'write_file', lambda *args: (_ for _ in ()).throw(OSError('No space left')))
  with pytest.raises(OSError, match='No space left'):
    hf_export.write_folder(out, tiny.random_params(config), config, source=None, dtype=F32, replace=True)
  assert tensors_of(out) == tensors_of(tied_folder)


def test_a_weight_that_does_not_fit_the_dtype_is_named_and_nothing_is_written(tied_folder, tmp_path):
  params = read(tied_folder)
  params['final_norm'] = params['final_norm'].at[3].set(1e6)
  out = tmp_path / 'out'
  with pytest.raises(DataError, match=r'model\.norm\.weight has numbers that float16 cannot hold'):
    hf_export.write_folder(out, params, hf.read_config(tied_folder), source=tied_folder, dtype=hf.DTYPES['float16'])
  assert not out.exists()
