"""What a reader sees first: README, its picture, the citation, the workflows of a repository."""

import importlib
import json
import pathlib
import subprocess
import tomllib

import pytest
import yaml

import score_jax

ROOT = pathlib.Path(__file__).parent.parent
ADDRESSED = ('README.md', 'mkdocs.yml', 'CITATION.cff')
NOTEBOOKS = ('launch/colab.ipynb', 'launch/kaggle.ipynb')
WORKFLOWS = sorted((ROOT / '.github/workflows').glob('*.yml'))


def test_readme_is_short_and_has_its_picture_in_two_colours():
  readme = (ROOT / 'README.md').read_text()
  assert len(readme.splitlines()) <= 110
  for name in ('light', 'dark'):
    path = f'docs/figures/front_{name}.png'
    assert path in readme
    assert (ROOT / path).read_bytes().startswith(b'\x89PNG')
  assert all(word not in readme for word in ('TODO', 'OWNER', 'localhost'))


def test_the_picture_shows_the_figures_of_the_suite(tmp_path):
  pytest.importorskip('matplotlib')
  front = importlib.import_module('experiments.front')
  lines = front.lines_of(json.loads((ROOT / front.RESULTS).read_text()))
  assert [round(percent, 1) for percent in lines['score'][:2]] == [53.3, 65.6]
  assert list(lines) == ['score', 'base', 'pair_sft'] and {len(percents) for percents in lines.values()} == {10}
  front.draw(lines, ('#000000',) * 3, tmp_path / 'front.png')
  assert (tmp_path / 'front.png').stat().st_size > 5000


def test_the_citation_is_of_this_version():
  citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
  assert (citation['title'], citation['version']) == ('score_jax', score_jax.__version__)
  assert citation['references'][0]['url'].endswith('2409.12917')


@pytest.mark.parametrize('path', WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_run_what_anyone_can_run(path):
  jobs = yaml.safe_load(path.read_text())['jobs']
  steps = [step for job in jobs.values() for step in job['steps']]
  assert steps[0]['uses'].startswith('actions/checkout@')
  for script in (word for step in steps for word in step.get('run', '').split() if word.startswith('launch/')):
    assert (ROOT / script).is_file()


def test_tests_run_on_every_python_that_is_allowed():
  assert [path.stem for path in WORKFLOWS] == ['docs', 'publish', 'tests']
  versions = yaml.safe_load(WORKFLOWS[-1].read_text())['jobs']['tests']['strategy']['matrix']['python']
  allowed = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']['requires-python']
  assert (versions[0], allowed) == ('3.11', '>=3.11,<3.14') and versions[-1] == '3.13'


@pytest.mark.parametrize('path', sorted((ROOT / '.github/ISSUE_TEMPLATE').glob('*.yml')), ids=lambda path: path.stem)
def test_a_form_asks_in_fields(path):
  form = yaml.safe_load(path.read_text())
  assert form['name'] and all(field['attributes']['label'] for field in form['body'])


def publish(repository, folder):
  for name in (*ADDRESSED, 'launch/publish.sh', *NOTEBOOKS):
    target = folder / name
    target.parent.mkdir(exist_ok=True)
    if not target.exists():
      target.write_text((ROOT / name).read_text())
  command = ['bash', str(folder / 'launch/publish.sh'), repository]
  return subprocess.run(command, capture_output=True, text=True, check=False)


def test_addresses_are_filled_in_once(tmp_path):
  before = {name: (ROOT / name).read_text() for name in ADDRESSED}
  for repository in ('other/name', 'Some-One/score_jax', 'Some-One/score_jax'):
    assert publish(repository, tmp_path).returncode == 0
  after = {name: (tmp_path / name).read_text() for name in before}
  added = {name: set(after[name].splitlines()) - set(before[name].splitlines()) for name in before}
  assert added['mkdocs.yml'] == {
    'repo_url: https://github.com/Some-One/score_jax',
    'site_url: https://some-one.github.io/score_jax',
  }
  assert added['CITATION.cff'] == {'repository-code: https://github.com/Some-One/score_jax'}
  for name in NOTEBOOKS:
    notebook = json.loads((tmp_path / name).read_text())
    code = ''.join(line for cell in notebook['cells'] for line in cell['source'])
    assert code.count("REPOSITORY = 'https://github.com/Some-One/score_jax'") == 1
  (badges,) = added['README.md']
  assert badges.count('https://github.com/Some-One/score_jax') == 2 and badges.count('[![') == 3
  assert after['README.md'].splitlines()[1] == badges
  assert [line for line in after['README.md'].splitlines() if line != badges] == before['README.md'].splitlines()


@pytest.mark.parametrize('repository', ['', 'name', 'a/b/c', 'a b/c'])
def test_what_is_no_repository_is_refused(tmp_path, repository):
  done = publish(repository, tmp_path)
  assert done.returncode == 78 and 'name a repository on GitHub as OWNER/NAME' in done.stderr
  assert (tmp_path / 'README.md').read_text() == (ROOT / 'README.md').read_text()
