"""The site: pages that are made from the code, and links to files of the repository."""

import importlib.util
import pathlib
import re

import pytest

import score_jax
from score_jax import cli
from score_jax.configs import common

ROOT = pathlib.Path(__file__).parent.parent
pytest.importorskip('mkdocs')
markdown = pytest.importorskip('markdown')


@pytest.fixture(scope='module')
def site():
  spec = importlib.util.spec_from_file_location('site_pages', ROOT / 'launch/site.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def fields(config, prefix='config'):
  for name, value in config.items():
    yield from fields(value, f'{prefix}.{name}') if hasattr(value, 'items') else [f'{prefix}.{name}']


def test_every_field_has_its_line(site):
  told = {}
  for _, rows in site.config_sections(ROOT / 'score_jax/configs/common.py').values():
    told |= {name: (default, about) for name, default, about in rows}
  assert set(fields(common.get_config())) <= told.keys()
  assert not [name for name, (default, about) in told.items() if default and not about], 'each is explained'
  assert told['config.stages.stage2.reward_weights'] == ('(1.0, 1.0)', "weight of each attempt's own correctness")
  assert told['config.sampling.decode_slots'] == ('0', 'conversations decoded at a time on a device; 0: all')
  assert told['config.stages.stage2.bonus'][0] == '(0.0, 10.0)'
  default, about = told['config.stages.stage1.kl_target']
  assert default == '()' and about.startswith('KL in nats') and about.endswith('() all of them.')


def test_every_command_and_flag_has_its_line(site):
  page = site.commands_page()
  sections = page.split('\n## ')
  assert [section.split('\n')[0] for section in sections[1:]] == list(cli.COMMANDS)
  chat = sections[1 + list(cli.COMMANDS).index('chat')]
  own = re.findall(r"DEFINE_[a-z]+\(\s*'([a-z_]+)'", (ROOT / 'score_jax/chat.py').read_text())
  assert len(own) == 3 and all(f'| `--{name}` |' in chat for name in (*own, 'attempts', 'instruction'))
  assert '| `--config` | `None` | a preset' in chat
  assert '| `--temperature` | `0.0` | of what is sampled; 0: greedy |' in chat


def test_every_public_name_is_on_the_page(site):
  page = site.api_page()
  listed = {line.rsplit('.', 1)[1] for line in page.splitlines() if line.startswith(':::')}
  assert listed - set(score_jax.__all__) == {'grade', 'CodeGrader', 'show_report'}
  assert set(score_jax.__all__) <= listed
  assert '::: score_jax.api.train\n' in page


@pytest.mark.parametrize('path', sorted((ROOT / 'docs').glob('*.md')), ids=lambda path: path.stem)
def test_a_list_stays_a_list(path):
  """Markdown of the site wants what is inside an item further in than GitHub's, and a blank line behind it."""
  html = markdown.markdown(path.read_text(), extensions=['tables', 'sane_lists', 'pymdownx.superfences'])
  assert not [
    text for text in re.findall('<p>(.*?)</p>', html, re.DOTALL) if re.search(r'^([2-9]\.|-|\|) ', text, re.M)
  ]


def test_links_to_the_repository_are_links_within_the_site(site):
  assert site.relinked('howto_serve.md', '../examples/two_turn_client.py') == 'files/examples/two_turn_client.py.txt'
  assert site.relinked('index.md', 'docs/math.md') == 'math.md'
  assert site.relinked('index.md', 'configs/common.py') == 'files/configs/common.py.txt'
  assert site.relinked('files/experiments/README.md', '../docs/math.md') == '../../math.md'
  assert site.relinked('math.md', 'tasks.md') == 'tasks.md'
  for other in ('https://example.org/x.md', 'mailto:a@example.org', 'nowhere.md'):
    assert site.relinked('math.md', other) == other
  text = 'See [a `code` label](x.md#part), not `[b](x.md)` or\n```\n[c](x.md)\n```\nbut [d](x.md).'
  assert site.with_links(text, lambda target: f'<{target}>') == (
    'See [a `code` label](<x.md>#part), not `[b](x.md)` or\n```\n[c](x.md)\n```\nbut [d](<x.md>).'
  )


def test_pictures_in_tags_are_linked_too(site):
  text = '<source media="(x)" srcset="docs/a.png"><img alt="src" src="docs/b.png" width="6">'
  assert site.with_links(text, lambda target: target.removeprefix('docs/')) == text.replace('docs/', '')


def test_what_linked_pages_link_to_is_in_the_site(site):
  files = site.linked({'README.md': '[examples](examples)'})
  assert files == sorted(f'examples/{path.name}' for path in (ROOT / 'examples').glob('*.py'))
