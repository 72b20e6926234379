"""The report: what a model says is inert in it, it stays small, and a browser draws it without a complaint."""

import base64
import dataclasses
import hashlib
import html.parser
import json
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from report_rig import conversation, drawn, run_folder, without_scripts

from score_jax.core_types import Stop, Verdict
from score_jax.errors import ConfigError, DataError
from score_jax.reporting import plain_text, png_figures, report_data, report_page
from score_jax.reporting.ledger import account
from score_jax.reporting.plain_text import sanitize, sanitize_line, sanitize_lines
from score_jax.reporting.rows import Attempt

ROOT = pathlib.Path(__file__).parent.parent
MARKUP = '</script><script>document.title="owned"</script><img src=x onerror=\'document.title="owned"\'><!--&amp;'
STEERING = '\x1b]0;owned\x07\x1b[2J\u202egnp.exe\u2066\u200b\r\b\x00\x9b\ud800\ufeff'


@pytest.fixture(scope='module')
def hostile(tmp_path_factory):
  """A run of a model that attacks whoever looks at it."""
  texts = [MARKUP, STEERING, 'x' * 2**20, '\u2028\u2029', '__proto__', '\u0301' * 5000, '']
  chats = [conversation(i, texts[i % len(texts)]) for i in range(40)]
  return run_folder(tmp_path_factory.mktemp('hostile') / 'run<b>\u202e', chats, model=MARKUP)


# Text.


@pytest.mark.parametrize(
  ('text', 'shown'),
  [
    ('a\x1b[31mb', 'a<U+001B>[31mb'),
    ('\u202eabc', '<U+202E>abc'),
    ('\ud800', '<U+D800>'),
    ('tab\there\n', 'tab<U+0009>here<U+000A>'),
    ('naïve 日本 \U0001f600', 'naïve 日本 \U0001f600'),
    ('no\xa0break\u200b', 'no<U+00A0>break<U+200B>'),
    ('<U+202E>', '<U+202E>'),
  ],
)
def test_what_steers_is_written_out(text, shown):
  assert sanitize(text) == shown


def test_every_character_is_shown_or_written_out():
  everything = ''.join(map(chr, range(sys.maxunicode + 1)))
  shown = sanitize(everything, most=0)
  assert shown.isprintable()
  assert sanitize_line(everything, most=0).isascii()
  kept = sanitize('a\tb\nc\rd', keep='\n\t')
  assert kept == 'a\tb\nc<U+000D>d'


def test_long_text_is_cut_with_a_note():
  assert sanitize('ab' * 500_000, most=4) == 'abab [cut: 1,000,000 characters in all]'
  assert sanitize('abab', most=4) == 'abab'


def test_lines_are_wrapped_indented_and_not_too_many():
  assert sanitize_lines('a\n\n  b\tc', margin=2) == ['  a', '', '    b c']
  assert sanitize_lines('one two', width=5) == ['one', 'two']
  assert sanitize_lines('x' * 9, width=6, margin=2) == ['  xxxx', '  xxxx', '  x']
  assert sanitize_lines('\x85\u2028\r\x0b') == ['<U+0085><U+2028><U+000D><U+000B>'], 'only \\n makes a line'
  assert sanitize_lines('\n' * 99, most=0)[-1] == '[cut: 100 lines in all]'
  assert sanitize_lines('ab' * 99, most=4) == ['abab [cut: 198 characters in all]']


# As text.


def test_a_hostile_run_as_text_is_text(hostile):
  data = report_data.collect([hostile])
  shown = f'{plain_text.report_table(data)}\n{plain_text.report_conversations(data, 8)}'
  assert re.fullmatch('[ -~\n]*', shown)
  assert 'final   sampled' in shown and '</script><script>document.title="owned"' in shown
  assert '<U+001B>]0;owned<U+0007>' in shown and '(empty)' not in plain_text.report_conversations(data, 0)
  heads = [line.split(' | ')[0] for line in shown.splitlines() if ' | final/sampled | ' in line]
  kinds = ['fixed (wrong, then right)', 'broken (right, then wrong)', 'still wrong', 'kept right']
  assert heads == [kind for kind in kinds for _ in range(2)]


def test_attempts_of_different_numbers_have_tables_of_their_own(tmp_path):
  folder = run_folder(tmp_path / 'run', [conversation(i, 'q') for i in range(9)])
  three = [conversation(i, 'q') for i in range(9)]
  three = [dataclasses.replace(row, attempts=(*row.attempts, row.attempts[0])) for row in three]
  evaluations = json.loads((folder / 'eval.json').read_text())
  evaluations['three'] = dict(sampled=account(three))
  (folder / 'eval.json').write_text(json.dumps(evaluations))
  tables = plain_text.report_table(report_data.collect([folder])).split('\n\n')
  assert [len(table.splitlines()) for table in tables] == [3, 3]
  assert 'acc@t3' in tables[1] and 'acc@t3' not in tables[0]


@pytest.mark.slow
def test_text_is_printed_where_it_is_asked_for(hostile, tmp_path):
  command = [sys.executable, '-m', 'score_jax.report', str(hostile), f'--out={tmp_path / "report.html"}']
  outputs = [
    subprocess.run([*command, *text], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for text in ([], ['--text=0'], ['--text=1'])
  ]
  assert ['acc@t1' in output for output in outputs] == [False, True, True]
  assert [output.count('attempt 2: ') for output in outputs] == [0, 0, 1]


# The file.


class Parsed(html.parser.HTMLParser):
  """Elements and the texts of scripts."""

  def __init__(self, text):
    super().__init__()
    self.elements, self.scripts, self._inside = [], [], False
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    self.elements.append(tag)
    self._inside = tag == 'script'
    if self._inside:
      self.scripts.append((dict(attrs), ''))

  def handle_data(self, data):
    if self._inside:
      attrs, text = self.scripts[-1]
      self.scripts[-1] = (attrs, text + data)

  def handle_endtag(self, tag):
    self._inside = False


def test_hostile_text_is_data_and_nothing_else(hostile, tmp_path):
  out = tmp_path / 'report.html'
  report_page.write([hostile], out)
  text = out.read_bytes().decode('ascii')
  parsed = Parsed(text)
  assert parsed.elements.count('script') == 2 and 'img' not in parsed.elements
  (attrs, data), (_, script) = parsed.scripts
  assert attrs['type'] == 'application/json'
  assert not re.search(r'[<>&\x00-\x1f\u2028\u2029]', data)
  assert json.loads(data) == report_data.collect([hostile])
  strings = []

  def walk(value):
    if isinstance(value, str):
      strings.append(value)
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
      walk(inner)

  walk(json.loads(data))
  assert MARKUP in strings, 'markup is shown as it was written'
  assert all(s.replace('\n', '').replace('\t', '').isprintable() and len(s) < 30_000 for s in strings)
  policy = re.search(r'content="(default-src[^"]*)"', text)[1]
  digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
  assert policy.startswith("default-src 'none'; ") and f"script-src 'sha256-{digest}'" in policy
  assert 'unsafe' not in policy and not re.search(r'https?://(?!www\.w3\.org/2000/svg)', text)


def test_scripts_write_text_nodes_alone():
  for path in (ROOT / 'score_jax/assets/report').glob('*.js'):
    assert not re.search(
      r'innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|Function\(|fetch\(|import\(', path.read_text()
    )


def test_a_thousand_steps_of_long_answers_stay_below_5_mb(tmp_path):
  words = ' '.join(np.random.default_rng(0).choice(['add', '\u4e00\u4e8c', 'so', '\n'], 4000))
  chats = [conversation(i, words) for i in range(600)]
  folder = run_folder(tmp_path / 'long', chats, steps=1000)
  size = report_page.write([folder], tmp_path / 'report.html')
  assert 1e6 < size < 5e6
  assert size == (tmp_path / 'report.html').stat().st_size
  again = report_page.write([folder, run_folder(tmp_path / 'other', chats, steps=1000)], tmp_path / 'two.html')
  assert again < 5e6


def test_a_folder_of_version_0_1_still_opens(tmp_path):
  """With the fields of its configuration as that version called them."""
  folder = run_folder(tmp_path / 'old', [conversation(i, 'q') for i in range(9)])
  old = json.loads((ROOT / 'tests/testdata/config_0_1.json').read_text())
  assert 'kl_alarm' not in old['config']['report'] and 'schedule' not in old['config']
  old['config']['report']['kl_budget'] = 0.2
  (folder / 'config.json').write_text(json.dumps(old))
  [run] = report_data.collect([folder])['runs']
  assert run['facts'] == [
    *(['model', 'bundled:countdown_base'], ['task', 'countdown'], ['problems a step', '64'], ['samples', '8']),
    *(['learning rate', '0.0004'], ['seed', '0'], ['instruction', 'Check and retry.']),
  ]
  assert {alarm['name'] for alarm in run['alarms']} == {'kl_first'}, 'the limit is the one it was run with'
  assert run['steps'] == 60 and run['evaluations'][0]['decoding'] == 'sampled'
  assert list(run['conversations']['counts']) == ['final/sampled']
  old['config']['report']['kl_alarm'] = 10.0
  (folder / 'config.json').write_text(json.dumps(old))
  assert report_data.collect([folder])['runs'][0]['alarms'] == [], 'the new name wins'


def test_curves_are_means_that_never_mix_stages():
  lines = [
    dict(step=i + 1, stage='a' if i < 5 else 'b', accuracy=[i / 10, 0.5], accuracy_se=[0.3, 0.1], kl=[0.0, None])
    for i in range(9)
  ]
  result = report_data.curves(lines, points=5)
  assert result['step'] == [1.5, 3.5, 5.0, 6.5, 8.5]
  assert result['accuracy/1'] == pytest.approx([0.05, 0.25, 0.4, 0.55, 0.75])
  assert result['accuracy_se/1'] == pytest.approx(
    [0.3 / 2**0.5, 0.3 / 2**0.5, 0.3, 0.3 / 2**0.5, 0.3 / 2**0.5], rel=1e-5
  )
  assert result['delta'] == pytest.approx([0.45, 0.25, 0.1, -0.05, -0.25])
  assert result['kl/2'] == result['reward/1'] == [None] * 5


def test_curves_of_on_policy_and_offline_first_attempts_stand_apart():
  alone = dict(accuracy=[0.4, 0.6], accuracy_se=[0.1, 0.1], delta_se=0.1)
  apart = dict(on_policy=alone, offline=dict(accuracy=[0.0, 0.5], accuracy_se=[0.2, 0.2], delta_se=0.2))
  lines = [dict(step=i + 1, stage='a', accuracy=[0.2, 0.5], delta_se=0.3) | (apart if i else {}) for i in range(2)]
  result = report_data.curves(lines)
  assert result['delta'] == pytest.approx([0.3, 0.3]) and result['accuracy/1'] == [0.2, 0.2]
  assert result['on_policy/accuracy/1'] == [0.2, 0.4], 'where none are offline, all are on-policy'
  assert result['on_policy/delta'] == pytest.approx([0.3, 0.2]) and result['on_policy/delta_se'] == [0.3, 0.1]
  assert result['offline/accuracy/2'] == [None, 0.5] and result['offline/delta'] == [None, 0.5]
  assert not [name for name in report_data.curves(lines[:1]) if 'policy' in name or 'offline' in name]


def test_conversations_of_every_kind_are_shown_however_rare():
  right, wrong = (Attempt('t', 'a', v, Stop.END_OF_TURN, 1, 0.0) for v in (Verdict.CORRECT, Verdict.WRONG))
  common = [conversation(i, 'q', attempts=(wrong, wrong)) for i in range(5000)]
  rare = conversation(5001, 'rare', attempts=(right, wrong))
  result = report_data.conversations([('final', [*common, rare])], most_bytes=20_000)
  assert result['counts'] == {'final/sampled': dict(i_to_i=5000, i_to_c=0, c_to_i=1, c_to_c=0, error=0)}
  assert 'rare' in [row['question'] for row in result['rows']]
  assert len(json.dumps(result['rows'])) < 21_000
  numbers = [int(row['id'][1:]) for row in result['rows'] if row['kind'] == 'i_to_i']
  assert max(numbers) > 4000 and numbers == sorted(numbers), 'from all over the file'


def test_histogram_keeps_copies_apart():
  result = report_data.histogram([0.0, 0.0, 0.01, 0.05, 0.99, 1.0, float('nan')])
  assert (result['n'], result['copies']) == (6, pytest.approx(2 / 6, abs=1e-6))
  assert (result['bins'][0], result['bins'][1], result['bins'][-1]) == pytest.approx((1 / 6, 1 / 6, 2 / 6), abs=1e-6)


def test_folders_that_are_no_runs_and_broken_ones_are_one_error(tmp_path):
  with pytest.raises(ConfigError, match='holds neither metrics.jsonl nor eval.json'):
    report_data.collect([tmp_path])
  (tmp_path / 'eval.json').write_text('{')
  with pytest.raises(DataError, match=r'eval.json cannot be read'):
    report_data.collect([tmp_path])
  done = subprocess.run(
    [sys.executable, '-m', 'score_jax.report', str(tmp_path / 'none')],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert (done.returncode, 'there is no such folder' in done.stderr) == (78, True)


def test_runs_are_named_by_what_tells_them_apart(hostile, tmp_path):
  same = run_folder(tmp_path / 'x' / hostile.name, [conversation(0, 'q')])
  names = [run['name'] for run in report_data.collect([hostile, same])['runs']]
  assert len(set(names)) == 2 and all('<U+202E>' in name for name in names)


def test_png_without_matplotlib_names_the_extra(hostile, tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'matplotlib', None)
  with pytest.raises(ConfigError, match=r'score_jax\[report\]'):
    png_figures.draw(report_data.collect([hostile]), tmp_path)


def test_png_of_a_hostile_run(hostile, tmp_path):
  pytest.importorskip('matplotlib', reason='needs the extra `report`')
  written = png_figures.draw(report_data.collect([hostile]), tmp_path / 'png')
  assert [path.stem for path in written] == ['accuracy', 'transitions', 'delta', 'edits']
  assert all(path.read_bytes().startswith(b'\x89PNG') for path in written)


# In a browser.


@pytest.mark.slow
def test_a_browser_draws_a_hostile_run_as_text(hostile, tmp_path):
  out = tmp_path / 'report.html'
  report_page.write([hostile], out)
  dom, complaints = drawn(out)
  assert complaints == []
  elements = Parsed(dom).elements
  assert elements.count('script') == 2 and 'img' not in elements
  assert 'owned' not in re.search('<title>(.*?)</title>', dom)[1]
  for part in ('Where answers go', 'No alarm sounded', 'Attempt 2:', '&lt;/script&gt;', '[cut: 1,048,576 characters'):
    assert part in without_scripts(dom), part
  shown = without_scripts(dom)
  assert shown.count('<svg') > 15 and 'NaN' not in shown and 'undefined' not in shown


@pytest.mark.slow
def test_a_browser_draws_several_runs_and_folders_without_training(hostile, tmp_path):
  other = run_folder(tmp_path / 'other', [conversation(i, 'q') for i in range(9)])
  for name in ('metrics.jsonl', 'config.json'):
    (other / name).unlink()
  report_page.write([hostile, other], tmp_path / 'report.html')
  dom, complaints = drawn(tmp_path / 'report.html', width=390)
  assert complaints == []
  shown = without_scripts(dom)
  assert 'against other' in shown and 'NaN' not in shown and 'undefined' not in shown
