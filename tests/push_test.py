"""Pushing a run's policy to a hub on this machine, by huggingface_hub's own client."""

import os
import pathlib
import re
import subprocess
import sys

import fake_hub
import hosts_rig
from huggingface_hub import constants
import pytest
import tiny

from score_jax import errors
from score_jax.storage import hf, push
from score_jax.training import loop
from score_jax.training import run as runs

ROOT = pathlib.Path(__file__).parent.parent
TOKEN = 'hf_' + 'x' * 20
# huggingface_hub hands large files to its HTTP client in a way that this one deprecates.
pytestmark = pytest.mark.filterwarnings('ignore:Use .content=:DeprecationWarning')


def points_to(patch, endpoint, token=TOKEN, offline=False):
  """What the environment does to a new process. Large files go by LFS: Xet's store is not imitated."""
  patch.setattr(constants, 'ENDPOINT', endpoint)
  patch.setattr(constants, 'HF_HUB_OFFLINE', offline)
  patch.setattr(constants, 'HF_HUB_DISABLE_XET', True)
  patch.setattr(constants, 'HF_TOKEN_PATH', '/nowhere')
  for name in ('HF_TOKEN', 'HUGGING_FACE_HUB_TOKEN'):
    patch.delenv(name, raising=False)
  if token:
    patch.setenv('HF_TOKEN', token)


@pytest.fixture
def site(monkeypatch):
  with fake_hub.serving() as (served, endpoint):
    served.tokens[TOKEN] = 'me'
    points_to(monkeypatch, endpoint)
    yield served


@pytest.fixture(scope='module')
def run_folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('push')
  tiny.write_hf_folder(folder / 'base', tiny.decoder_config())
  changes = {'model.path': str(folder / 'base'), 'stages.stage2.steps': 1}
  loop.train(runs.open_run(tiny.run_config(**changes), str(folder / 'run')))
  return folder / 'run'


@pytest.fixture
def export(tmp_path):
  for name in ('README.md', 'config.json', 'model.safetensors'):
    (tmp_path / name).write_text(f'---\ntags: [a]\n---\n{name}')
  return tmp_path


def exported(*flags, **environment):
  command = [sys.executable, '-m', 'score_jax.export', *flags]
  env = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'HF_HUB_DISABLE_XET': '1'}
  env |= {'HF_HUB_OFFLINE': '0', 'PYTHONPATH': str(ROOT), **environment}
  return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def test_a_run_s_folder_has_a_card_that_the_hub_takes(run_folder):
  text = (run_folder / 'hf/README.md').read_text()
  assert fake_hub.card_problems(text) == []
  assert text.count('| this model |') == 2 and str(run_folder.parent) not in text


def test_a_policy_is_pushed_with_its_card_and_report_and_names_no_path(run_folder):
  with fake_hub.serving() as (served, endpoint):
    served.tokens[TOKEN] = 'me'
    known = dict(HF_ENDPOINT=endpoint, HF_TOKEN=TOKEN)
    done = exported(f'--run={run_folder}', '--push=me/mine', '--private', **known)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(rf'pushed to {endpoint}/me/mine/commit/\w+\n', done.stdout)
    files = served.files('me/mine')
    expected = {path.name for path in (run_folder / 'hf').iterdir()} | {'.gitattributes', 'report.html'}
    assert files.keys() == expected and served.private == {'me/mine'}
    assert files['model.safetensors'] == (run_folder / 'hf/model.safetensors').read_bytes()
    card = files['README.md'].decode()
    assert card.startswith('---\n') and '# me/mine' in card and '[report.html](report.html)' in card
    assert not [name for name, content in files.items() if str(run_folder.parent).encode() in content]
    assert served.messages == ['Step 3 of a score_jax run']


def test_the_card_s_code_prints_two_attempts(run_folder, capsys):
  torch = pytest.importorskip('torch')
  text = (run_folder / 'hf/README.md').read_text()
  [code] = re.findall(r'```python\n(.*?)\n```', text, re.DOTALL)
  with torch.no_grad():
    exec(code.replace('this/folder', str(run_folder / 'hf')).replace('"..."', '"reach 7 with 1 2 4"'), {})
  first, second = capsys.readouterr().out.rstrip('\n').split('\n\n')
  assert first and second


def test_adapters_are_not_pushed_with_a_path_as_their_base(tmp_path, run_folder):
  copy = tmp_path / 'run'
  copy.mkdir()
  content = (run_folder / 'config.json').read_text()
  (copy / 'config.json').write_text(re.sub(r'"rank": 0', '"rank": 4', content))
  done = exported(f'--run={copy}', '--push=me/mine', '--format=peft')
  assert done.returncode == 78 and 'adapters name their base, which here is a folder of this machine' in done.stderr


def test_what_is_pushed_again_replaces_weights_and_leaves_other_files(site, export):
  target = push.opened('me/mine', private=False)
  old = {'model-00001-of-00002.safetensors': b'', 'adapter_config.json': b'', 'notes.md': b'mine', 'README.md': b''}
  site.push('me/mine', old)
  address = push.push(target, export, 'again')
  assert address.startswith(f'{constants.ENDPOINT}/me/mine/commit/')
  assert site.files('me/mine').keys() == {'notes.md', 'README.md', 'config.json', 'model.safetensors'}
  assert push.opened('me/mine', private=False) == target, 'it may be there already'


@pytest.mark.parametrize(
  ('name', 'private', 'words'),
  [
    ('mine', False, '--push=mine is no hub id; write OWNER/NAME'),
    ('me/data', False, '--push=me/data is a dataset .*/datasets/me/data.*, no model; choose another name'),
    ('me/space', False, '--push=me/space is a space .*/spaces/me/space'),
    ('you/mine', False, r'--push=you/mine: the token may not write to you \(403\); set HF_TOKEN'),
    ('me/open', True, '--push=me/open is public and --private was given; make it private in .*/me/open/settings'),
  ],
)
def test_a_name_that_cannot_be_pushed_to_is_one_line(site, name, private, words):
  site.push('me/data', {}, kind='dataset')
  site.push('me/space', {}, kind='space')
  site.push('me/open', {})
  with pytest.raises(errors.ConfigError, match=words) as told:
    push.opened(name, private)
  assert '\n' not in str(told.value)
  assert site.messages == [] and ('model', name) not in site.commits or name == 'me/open'


def test_tokens_networks_and_offline_mode_are_told_apart(site, monkeypatch):
  here = constants.ENDPOINT
  for changes, kind, words in (
    (dict(token=''), errors.ConfigError, 'there is no token; run `hf auth login`, or set HF_TOKEN .*settings/tokens'),
    (dict(token='hf_' + 'y' * 20), errors.ConfigError, r'refuses the token \(401\); set HF_TOKEN to another'),
    (dict(offline=True), errors.ConfigError, 'HF_HUB_OFFLINE is set; run it without'),
    (dict(endpoint=f'http://127.0.0.1:{hosts_rig.free_port()}'), errors.TryAgainError, 'no answer from http://127'),
  ):
    points_to(monkeypatch, **dict(endpoint=here) | changes)
    with pytest.raises(kind, match=f'^--push=me/mine: .*{words}') as told:
      push.opened('me/mine', private=False)
    assert '\n' not in str(told.value) and 'yyyy' not in str(told.value)


def test_a_push_that_breaks_off_changes_nothing_and_may_be_repeated(site, export, monkeypatch):
  target = push.opened('me/mine', private=False)
  before = site.files('me/mine')
  site.broken = '/commit/'
  with pytest.raises(errors.TryAgainError, match='--push=me/mine: no answer from .*; run the same command again'):
    push.push(target, export, 'first')
  assert site.files('me/mine') == before
  site.broken = ''
  push.push(target, export, 'second')
  assert 'model.safetensors' in site.files('me/mine')


def test_what_is_pushed_can_be_trained_from(site, run_folder, tmp_path, monkeypatch):
  target = push.opened('me/mine', private=False)
  push.push(target, run_folder / 'hf', 'first')
  monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'hub'))
  template = constants.ENDPOINT + '/{repo_id}/resolve/{revision}/{filename}'
  monkeypatch.setattr(constants, 'HUGGINGFACE_CO_URL_TEMPLATE', template)
  assert hf.read_config(hf.folder_of('me/mine')).width == 16
