"""Models and data by their ids on the hub: from a cache made by hand, and from a hub on this machine."""

import dataclasses
import io
import json
import os
import pathlib
import re
import subprocess
import sys

import fake_hub
import hosts_rig
from huggingface_hub import constants
import jax
from ml_collections.config_flags import tuple_parser
import pyarrow
from pyarrow import parquet
import pytest
import tiny

from score_jax import cli, errors, hub, tasks
from score_jax import config as configs
from score_jax.configs import math_gemma2_2b
from score_jax.models import lora as loras
from score_jax.storage import hf, hf_export, pins
from score_jax.storage.run_folder import RunFolder
from score_jax.tasks import data_files, math, problems
from score_jax.training import run as runs

ROOT = pathlib.Path(__file__).parent.parent


def points_to(patch: pytest.MonkeyPatch, cache: pathlib.Path, endpoint: str = '', offline: bool = False) -> None:
  """What HF_HUB_CACHE, HF_ENDPOINT and HF_HUB_OFFLINE do to a new process."""
  patch.setattr(constants, 'HF_HUB_CACHE', str(cache))
  patch.setattr(constants, 'HF_HUB_OFFLINE', offline)
  if endpoint:
    patch.setattr(constants, 'ENDPOINT', endpoint)
    patch.setattr(constants, 'HUGGINGFACE_CO_URL_TEMPLATE', endpoint + '/{repo_id}/resolve/{revision}/{filename}')


@pytest.fixture
def cache(tmp_path, monkeypatch):
  """An empty cache, and no network."""
  points_to(monkeypatch, tmp_path / 'hub', offline=True)
  return tmp_path / 'hub'


@pytest.fixture
def site(tmp_path, monkeypatch):
  """A hub on this machine, and an empty cache."""
  with fake_hub.serving() as (served, endpoint):
    points_to(monkeypatch, tmp_path / 'hub', endpoint)
    yield served


@pytest.fixture
def model_files(hf_folder):
  return fake_hub.files_of(hf_folder)


def table(*questions: str) -> bytes:
  out = io.BytesIO()
  parquet.write_table(pyarrow.table(dict(question=list(questions), answer=['1'] * len(questions))), out)
  return out.getvalue()


def questions(source: str) -> list[str]:
  return [row.text('question') for row in data_files.read(source)]


# Models.


@pytest.mark.parametrize(
  ('path', 'name', 'revision'),
  [
    ('Qwen/Qwen2.5-0.5B-Instruct', 'Qwen/Qwen2.5-0.5B-Instruct', ''),
    ('o/n@refs/pr/1', 'o/n', 'refs/pr/1'),
    *((path, None, None) for path in ('bundled:x', './o/n', '/o/n', '~/n', 'n', 'o/n/m', 'o/n m', 'gs://o/n', 'o/n@')),
  ],
)
def test_what_is_an_id(path, name, revision):
  repo = hub.model(path)
  assert (repo and repo.name, repo and repo.revision) == (name, revision)


def test_a_cached_model_needs_no_network_and_an_existing_folder_wins(cache, model_files, tmp_path, monkeypatch):
  commit = fake_hub.cached(cache, 'org/tiny', model_files, 'main', 'v1')
  for id in ('org/tiny', 'org/tiny@v1', f'org/tiny@{commit}'):
    folder = hf.folder_of(id)
    assert folder.name == commit and hf.read_config(folder).width == 16
  (tmp_path / 'org/tiny').mkdir(parents=True)
  (tmp_path / 'org/tiny/config.json').write_text('{}')
  monkeypatch.chdir(tmp_path)
  assert hf.folder_of('org/tiny') == pathlib.Path('org/tiny')


def test_only_what_is_read_is_downloaded(site, model_files):
  others = {'consolidated.safetensors': b'', 'original/params.json': b'', 'onnx/model.onnx': b'', 'README.md': b''}
  commit = site.push('org/tiny', model_files | others)
  folder = hf.folder_of('org/tiny')
  assert folder.name == commit and set(fake_hub.files_of(folder)) == set(model_files)
  asked = len(site.asked)
  hf.folder_of(f'org/tiny@{commit}')
  assert len(site.asked) == asked, 'a commit in the cache asks for nothing'


@pytest.mark.parametrize(
  ('name', 'kind', 'words'),
  [
    ('org/missing', errors.DataError, 'has no such model, nor is there such a folder; .*HF_TOKEN'),
    ('org/gated', errors.DataError, 'gated; accept its terms at http://127.*/org/gated, and set HF_TOKEN'),
    ('org/tiny@v9', errors.DataError, 'no such revision; http.*/org/tiny/tree/main'),
    ('org/ti--ny', errors.DataError, 'no hub id; write OWNER/NAME'),
  ],
)
def test_what_the_hub_refuses_is_one_line(site, model_files, name, kind, words):
  site.push('org/tiny', model_files)
  site.push('org/gated', model_files)
  site.gated.add('org/gated')
  with pytest.raises(kind, match=words) as told:
    hf.folder_of(name)
  assert str(told.value).startswith(f"config.model.path = '{name}': ") and '\n' not in str(told.value)


def test_no_network_offline_mode_and_no_id_are_told_apart(tmp_path, monkeypatch):
  points_to(monkeypatch, tmp_path, f'http://127.0.0.1:{hosts_rig.free_port()}')
  with pytest.raises(errors.TryAgainError, match='not in .*, and no answer from http://127.*; try again'):
    hf.folder_of('org/tiny')
  points_to(monkeypatch, tmp_path, offline=True)
  with pytest.raises(errors.DataError, match='not in .*, and HF_HUB_OFFLINE is set; run once without it'):
    hf.folder_of('org/tiny')
  with pytest.raises(errors.DataError, match=r'name an HF folder, a hub id OWNER/NAME\[@REVISION\]'):
    hf.folder_of('org/ti ny')


def test_the_cache_s_own_folder_means_the_snapshot_of_main(cache, model_files):
  commit = fake_hub.cached(cache, 'org/tiny', model_files, 'main')
  fake_hub.cached(cache, 'org/tiny', model_files | {'generation_config.json': b'{}'}, 'other')
  home = cache / 'models--org--tiny'
  assert hf.folder_of(str(home)).name == commit
  (home / 'refs/main').unlink()
  with pytest.raises(errors.DataError, match='main is not cached; name one of .*snapshots'):
    hf.folder_of(str(home))


def test_links_are_followed_into_moved_blobs_and_matter_where_something_is_read(cache, model_files, tmp_path):
  fake_hub.cached(cache, 'org/tiny', model_files, 'main')
  home = cache / 'models--org--tiny'
  (home / 'blobs').rename(tmp_path / 'disk')
  (home / 'blobs').symlink_to(tmp_path / 'disk')
  folder = hf.folder_of('org/tiny')
  assert hf.read_config(folder).width == 16
  (tmp_path / 'secret').write_text('secret')
  (folder / '.gitattributes').symlink_to(tmp_path / 'secret')
  hf.folder_of('org/tiny')  # nobody reads it
  hf_export.write_folder(
    tmp_path / 'out', tiny.random_params(tiny.decoder_config()), tiny.decoder_config(), source=folder,
    dtype=hf.DTYPES['float32'],
  )  # fmt: skip
  assert not (tmp_path / 'out/.gitattributes').exists(), 'nor is it copied'
  (folder / 'more.json').symlink_to('../../blobs/../secret')
  with pytest.raises(errors.DataError, match='more.json: is a link to .*secret, outside the folder'):
    hf.folder_of('org/tiny')


# Data.


def rows_table(*rows: dict) -> bytes:
  out = io.BytesIO()
  parquet.write_table(pyarrow.Table.from_pylist(list(rows)), out)
  return out.getvalue()


def mbpp_row(number: int) -> dict:
  return dict(task_id=number, text='T.', code='f = 1', test_list=[f'assert f() == {number}'], test_setup_code='')


# Files named as in the hub's repositories, with rows of their columns.
PUBLISHED = {
  'openai/gsm8k': {
    f'main/{split}-00000-of-00001.parquet': rows_table(dict(question=split, answer='#### 1'))
    for split in ('train', 'test')
  },
  'EleutherAI/hendrycks_math': {
    f'{subject}/{split}-00000-of-00001.parquet': rows_table(
      dict(problem=f'{subject} {split}', level='Level 5', type='Algebra', solution='\\boxed{1}')
    )
    for subject in math_gemma2_2b._SUBJECTS
    for split in ('train', 'test')
  },
  'google-research-datasets/mbpp': {
    'full/train-00000-of-00001.parquet': rows_table(mbpp_row(601)),
    'full/prompt-00000-of-00001.parquet': rows_table(*map(mbpp_row, (2, 3, 4))),
    'sanitized/train-00000-of-00001.parquet': rows_table(mbpp_row(602)),
  },
  'openai/openai_humaneval': {
    'openai_humaneval/test-00000-of-00001.parquet': rows_table(
      dict(
        task_id='HumanEval/0',
        prompt='def f():\n  """One."""\n',
        entry_point='f',
        test='def check(c):\n  assert c() == 1',
      )
    )
  },
}


@pytest.mark.parametrize('short, sizes', [('gsm8k', (1, 1)), ('math', (13, 1)), ('mbpp', (1, 1))])
def test_presets_with_short_names_read_the_hub(cache, monkeypatch, short, sizes):
  for name, files in PUBLISHED.items():
    fake_hub.cached(cache, name, files, 'main', kind='dataset')
  monkeypatch.setattr(math, 'heldout_hashes', lambda: frozenset({problems.text_hash('algebra test')}))
  config = configs.from_config_dict(configs.load_config(short))
  task = tasks.open_task(config.task)
  assert (task.train.size, task.heldout.size) == sizes
  assert hub.model(config.model.path), 'a model of the hub'


SHARDS = {'main/train-00000-of-00002.parquet': table('a'), 'main/train-00001-of-00002.parquet': table('b')}


def test_splits_are_read_and_what_is_not_one_is_refused(cache):
  files = SHARDS | {'main/test.parquet': table('c'), 'other/train/0.parquet': table('d'), 'main/train.md': b''}
  commit = fake_hub.cached(cache, 'org/sums', files, 'main', kind='dataset')
  assert questions('hf:org/sums/main:train') == ['a', 'b']
  assert questions('hf:org/sums/main:test@main') == questions('hf:org/sums:test') == ['c']
  assert questions(f'hf:org/sums/other:train@{commit}') == ['d']
  fake_hub.cached(cache, 'org/half', dict(list(SHARDS.items())[:1]), 'main', kind='dataset')
  for source, words in {
    'hf:org/sums:train': 'main, other/train have it; write hf:org/sums/CONFIG:SPLIT',
    'hf:org/sums/main:tset@main': "no Parquet of config 'main', split 'tset'; see ",
    'hf:org/half/main:train': 'has 1 of 2 files; run once with a network',
    'hf:org/sums': 'write hf:OWNER/NAME',
    'hf:org/nothing:train': 'HF_HUB_OFFLINE is set',
  }.items():
    with pytest.raises(errors.DataError, match=re.escape(words)) as told:
      data_files.read(source)
    assert str(told.value).startswith(f"config.task.data = '{source}': ")
  fake_hub.cached(cache, 'org/plain', {'data/train-00000-of-00001.parquet': table('a')}, 'main', kind='dataset')
  assert questions('hf:org/plain:train') == ['a']


def test_the_hub_s_conversion_serves_where_there_is_no_parquet(site):
  site.push('org/lines', {'train.jsonl': b'{}'}, kind='dataset')
  with pytest.raises(errors.DataError, match="no Parquet of .* 'train'; see http.*/datasets/org/lines/tree"):
    data_files.read('hf:org/lines:train')
  commit = site.push('org/lines', {'default/train/0000.parquet': table('a')}, 'refs/convert/parquet', 'dataset')
  assert questions('hf:org/lines:train') == ['a']
  assert hub.commit('hf:org/lines:train') == commit
  assert questions(f'hf:org/lines:train@{commit}') == ['a']
  files = {f'{config}/test/0000.parquet': table(config) for config in ('one', 'two')}
  site.push('org/lines', files, 'refs/convert/parquet', 'dataset')
  assert questions('hf:org/lines/two:test') == ['two']
  with pytest.raises(errors.DataError, match='one/test, two/test have it'):
    data_files.read('hf:org/lines:test')
  with pytest.raises(errors.DataError, match='has no such dataset'):
    data_files.read('hf:org/nothing:train')


def test_hidden_folders_and_older_snapshots_are_not_read(cache, tmp_path):
  """Two snapshots doubled the rows, and a notebook's copies of a file were read beside it."""
  home = cache / 'datasets--org--sums'
  fake_hub.cached(cache, 'org/sums', {'train.parquet': table('old')}, kind='dataset')
  fake_hub.cached(cache, 'org/sums', {'train.parquet': table('new')}, 'main', kind='dataset')
  assert questions(str(home)) == questions(f'{home}:train') == ['new']
  folder = tmp_path / 'mine'
  (folder / '.ipynb_checkpoints').mkdir(parents=True)
  for name in ('train.jsonl', '.ipynb_checkpoints/train-checkpoint.jsonl'):
    (folder / name).write_text('{"question": "q"}')
  assert questions(str(folder)) == questions(f'{folder}:train') == ['q']


# Runs.


def test_a_run_keeps_its_commit_where_the_hub_has_moved(site, model_files, tmp_path, monkeypatch):
  begun, workdir = site.push('org/tiny', model_files), str(tmp_path / 'run')
  config = tiny.run_config(**{'model.path': 'org/tiny'})
  opened = runs.open_run(config, workdir)
  written = opened.folder.read_config()
  assert written['config']['model']['path'] == opened.config.model.path == f'org/tiny@{begun}'
  assert written['identity']['model']['commit'] == begun
  moved = site.push('org/tiny', model_files | {'generation_config.json': b'{"eos_token_id": 1}'})
  assert runs.open_run(config, workdir).config.model.path == f'org/tiny@{moved}', 'nothing has come of it yet'
  opened.folder.add_metrics(dict(step=1))
  site.push('org/tiny', model_files)
  assert runs.open_run(config, workdir).config.model.path == f'org/tiny@{moved}'
  with pytest.raises(errors.ConfigError, match=f"model.commit was '{moved}', is now '{begun}'"):
    runs.open_run(tiny.run_config(**{'model.path': 'org/tiny@main'}), workdir)
  points_to(monkeypatch, tmp_path / 'hub', offline=True)
  assert pins.model_folder(opened.folder).name == moved


def test_names_are_pinned_together_and_folders_made_absolute(cache, hf_folder, model_files, monkeypatch):
  commit = fake_hub.cached(cache, 'org/tiny', model_files, 'main')
  data = fake_hub.cached(cache, 'org/sums', SHARDS, 'main', kind='dataset')
  fields = {'model.path': 'org/tiny', 'task.data.train': 'hf:org/sums/main:train@main', 'task.data.heldout': 'x.jsonl'}
  config = pins.pinned(tiny.run_config(**fields))
  assert config.model.path == f'org/tiny@{commit}'
  assert dataclasses.astuple(config.task.data) == ((f'hf:org/sums/main:train@{data}',), ('x.jsonl',))
  monkeypatch.chdir(hf_folder.parent)
  for path, absolute in (('tiny', str(hf_folder)), ('bundled:countdown_base', 'bundled:countdown_base')):
    assert pins.pinned(tiny.run_config(**{'model.path': path})).model.path == absolute


def test_an_adapter_names_its_base_where_it_can_be_had(hf_folder, tmp_path, monkeypatch):
  lora = loras.Lora(rank=1, alpha=1.0, targets='q_proj')
  adapters = loras.adapter_table(tiny.decoder_config(), lora).initial(jax.random.key(0))
  monkeypatch.chdir(hf_folder.parent)
  for i, (base, named) in enumerate(
    {hub.model('org/tiny@abc'): ('org/tiny', 'abc'), pathlib.Path('tiny'): (str(hf_folder), None)}.items()
  ):
    hf_export.write_adapter(tmp_path / str(i), adapters, tiny.decoder_config(), lora, base=base)
    written = json.loads((tmp_path / str(i) / 'adapter_config.json').read_text())
    assert (written['base_model_name_or_path'], written['revision']) == named


def test_an_old_run_s_relative_model_is_no_one_s_repository(tmp_path, monkeypatch):
  (tmp_path / 'config.json').write_text(json.dumps(dict(config=dict(model=dict(path='models/x')), identity={})))
  monkeypatch.chdir(tmp_path)
  with pytest.raises(errors.DataError, match="trained from 'models/x', which is not there, seen from .*; restore"):
    pins.model_folder(RunFolder(tmp_path))


# Paths and names on the command line.


def test_home_is_expanded_in_every_path(monkeypatch, tmp_path):
  monkeypatch.setenv('HOME', str(tmp_path))
  paths = ('model.path', 'init_from', 'compile_cache', 'task.chat_template', 'task.examples')
  fields = dict.fromkeys(paths, '~/x') | {'task.data.train': '~/x', 'task.data.heldout': ('~/x:test', 'tfds:a/b')}
  config = tiny.run_config(**fields | {'task.system': '~/x'})
  home = str(tmp_path / 'x')
  task = config.task
  assert {config.model.path, config.init_from, config.compile_cache, task.chat_template, task.examples} == {home}
  assert dataclasses.astuple(task.data) == ((home,), (f'{home}:test', 'tfds:a/b'))
  assert task.system == '~/x', 'a text is no path'
  assert RunFolder('~/x').path == tmp_path / 'x'


@pytest.mark.parametrize(
  ('typed', 'names'),
  [
    ('mine.jsonl', ('mine.jsonl',)),
    ('my data/1.jsonl', ('my data/1.jsonl',)),
    ('2024', ('2024',)),
    ('hf:openai/gsm8k/main:train@main', ('hf:openai/gsm8k/main:train@main',)),
    ("('a.jsonl', 'b.jsonl')", ('a.jsonl', 'b.jsonl')),
  ],
)
def test_one_name_needs_no_quotes(typed, names):
  *_, argument = cli._with_config_file(['x', '--config=quickstart', f'--config.task.data.train={typed}'])
  assert tuple_parser.TupleParser().parse(argument.partition('=')[2]) == names


def test_one_name_is_enough_in_a_file(tmp_path):
  path = tmp_path / 'mine.py'
  path.write_text(
    'from score_jax.configs import quickstart\n\ndef get_config():\n  config = quickstart.get_config()\n'
    "  config.task.data.train = 'mine.jsonl'\n  return config\n"
  )
  assert configs.from_config_dict(configs.load_config(path)).task.data.train == ('mine.jsonl',)


def test_a_path_through_a_file_is_one_line(tmp_path, monkeypatch, capsys):
  (tmp_path / 'file').write_text('')
  with pytest.raises(errors.ConfigError, match=re.escape(f'{tmp_path / "file"} is a file; name a folder')):
    RunFolder(tmp_path / 'file/run').claim({}, {})

  def main():
    (tmp_path / 'file/out').mkdir()

  monkeypatch.setattr(cli.app, 'run', lambda guarded, **_: guarded(['x']))
  for name in ('install', 'over'):  # they are for a whole process
    monkeypatch.setattr(cli.signals, name, lambda: None)
  with pytest.raises(SystemExit) as ended:
    cli.run(main)
  line = capsys.readouterr().err
  assert (
    ended.value.code == 78 and line == f'error: {tmp_path}/file/out: Not a directory; name a path that can be used\n'
  )


# The commands, and several hosts.

SMALL = (
  '--config=quickstart', '--config.max_steps=1', '--config.batch.problems=4', '--config.batch.samples=4',
  '--config.eval.problems=8', '--config.offline_pool=4', '--config.optim.warmup_steps=0',
)  # fmt: skip


@pytest.mark.slow
def test_every_command_takes_an_id_without_a_network(tmp_path):
  files = fake_hub.files_of(ROOT / 'score_jax/assets/countdown_base')
  commit = fake_hub.cached(tmp_path / 'hub', 'org/base', files, 'main', 'v1')
  environment = {**os.environ, 'HF_HUB_CACHE': str(tmp_path / 'hub'), 'HOME': str(tmp_path), 'PYTHONPATH': str(ROOT)}

  def ran(*arguments: str, cwd: pathlib.Path = tmp_path) -> str:
    done = subprocess.run(
      [sys.executable, '-m', *arguments], cwd=cwd, env=environment, capture_output=True, text=True
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout

  model = '--config.model.path=org/base@v1'
  ran('score_jax.main', *SMALL, model, '--workdir=~/run', '--config.lora.rank=2', '--config.lora.targets=q_proj')
  assert 'greedy' in ran('score_jax.evaluate', *SMALL, f'--model=org/base@{commit}')
  assert f'snapshots/{commit}' in ran('score_jax.inspect', 'org/base')
  assert 'dry run' in ran('score_jax.doctor', *SMALL, '--model=org/base', '--nodry_run')
  (tmp_path / 'elsewhere').mkdir()
  for format in ('hf', 'peft'):
    ran('score_jax.export', '--run=~/run', f'--out=~/{format}', f'--format={format}', cwd=tmp_path / 'elsewhere')
  adapter = json.loads((tmp_path / 'peft/adapter_config.json').read_text())
  assert (adapter['base_model_name_or_path'], adapter['revision']) == ('org/base', commit)
  assert (tmp_path / 'hf/tokenizer.json').read_bytes() == files['tokenizer.json']
  ran('score_jax.report', '~/run')


@pytest.mark.slow
def test_commands_end_in_one_line_where_the_hub_refuses_or_is_silent(model_files, tmp_path):
  environment = {**os.environ, 'HF_HUB_OFFLINE': '0', 'HF_HUB_CACHE': str(tmp_path / 'hub'), 'PYTHONPATH': str(ROOT)}

  def ended(endpoint: str, *arguments: str) -> tuple[int, str]:
    command = [sys.executable, '-m', *arguments]
    done = subprocess.run(
      command, cwd=tmp_path, env=environment | {'HF_ENDPOINT': endpoint}, capture_output=True, text=True
    )
    assert done.stderr.count('\n') <= 1, done.stderr
    return done.returncode, done.stderr or ' '.join(done.stdout.split())

  train = ('score_jax.main', '--config=quickstart', '--workdir=run')
  with fake_hub.serving() as (served, endpoint):
    served.push('org/gated', model_files)
    served.gated.add('org/gated')
    code, line = ended(endpoint, *train, '--config.model.path=org/gated')
    assert code == 65 and 'gated; accept its terms at' in line
    code, line = ended(endpoint, *train, '--config.model.path=org/missing')
    assert code == 65 and line.startswith("error: config.model.path = 'org/missing': ") and 'no such model' in line
    code, line = ended(endpoint, 'score_jax.inspect', 'org/missing')
    assert code == 65 and "no: DIR = 'org/missing': " in line
  code, line = ended(endpoint, 'score_jax.inspect', 'org/gated')
  assert code == 75 and 'no answer from' in line
  assert not (tmp_path / 'run').exists()


@pytest.mark.slow
def test_host_0_says_which_commit_all_hosts_train(tmp_path, monkeypatch):
  """Host 1 last saw another commit as main; it has the one of host 0 as well."""
  files = fake_hub.files_of(ROOT / 'score_jax/assets/countdown_base')
  caches = [tmp_path / 'hub0', tmp_path / 'hub1']
  commit = [fake_hub.cached(cache, 'org/base', files, 'main') for cache in caches][0]
  fake_hub.cached(caches[1], 'org/base', files | {'new.txt': b''}, 'main')
  rig, port = hosts_rig.Rig(tmp_path / 'programs', tmp_path / 'logs'), hosts_rig.free_port()
  processes = []
  for i, cache in enumerate(caches):
    monkeypatch.setenv('HF_HUB_CACHE', str(cache))
    settings = ('--config.model.path=org/base', '--config.max_steps=1')
    processes.append(rig.start(f'local:127.0.0.1:{port},2,{i}', tmp_path / 'run', *settings))
  codes, _ = hosts_rig.ended(processes, 900)
  assert codes == [0, 0], rig.printed(tmp_path / 'run')
  written = json.loads((tmp_path / 'run/config.json').read_text())
  assert written['config']['model']['path'] == f'org/base@{commit}'
