"""Recorded runs of real models: figures by hand, what is missing in one line, the published page."""

import gzip
import json
import pathlib
import subprocess
import sys

import pytest

from experiments import recorded_page, recordings
from score_jax.errors import DataError

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def at_home(monkeypatch):
  monkeypatch.chdir(ROOT)


def write(path, rows):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(gzip.compress('\n'.join(json.dumps(row) for row in rows).encode()))


def conversation(id_, decoding, *right, copy=0):
  return dict(id=id_, **{'way': decoding}, verdicts=['correct' if one else 'wrong' for one in right], copy=copy)


def recording(folder, **changes):
  """Two problems, two conversations on each at T=1."""
  greedy = [conversation('a', 'greedy', 0, 1), conversation('b', 'greedy', 1, 1, copy=1)]
  sampled = [conversation(id_, 'sampled', *right) for id_, right in (('a', (0, 1)), ('a', (0, 0)), ('b', (1, 0)))]
  write(folder / 'evaluations/score_0/math.jsonl.gz', [*greedy, *sampled, conversation('b', 'sampled', 1, 1)])
  same = [conversation(id_, 'sampled', 1, 1, copy=1) for id_ in 'aabb']
  write(folder / 'evaluations/base/math.jsonl.gz', [*greedy, *same])
  steps = [dict(accuracy=[0.25, 0.5], seconds=dict(sample=3.0, update=1.0))] * 2
  write(folder / 'runs/score_0/metrics.jsonl.gz', steps)
  run = dict(gpu='a GPU', commit='abc', date='2026-11-27', model='a model', model_sha256=dict(file='12'))
  (folder / 'run.json').write_text(json.dumps(run | dict(versions=dict(python='3.12'))))
  content = dict(
    title='Tiny', about='What it is.', reference='score', run='run.json', tasks=dict(math='Sums'), gpus_a_run=0.5,
    methods=dict(
      published=dict(title='Full weights', policies=[]),
      base=dict(title='Base', policies=['base']),
      score=dict(title='SCoRe', policies=['score_0'], runs=[['score_0']]),
    ),
  ) | changes  # fmt: skip
  (folder / 'methods.json').write_text(json.dumps(content))
  return folder


def test_figures_are_those_by_hand(tmp_path):
  result = recordings.summary(recordings.read(recording(tmp_path)), 'math')
  score = result['methods']['score']
  means = {name: score['sampled'][name]['mean'] for name in ('acc_t1', 'acc_t2', 'delta', 'i_to_c', 'c_to_i')}
  # a: wrong twice, corrected once. b: right twice, broken once.
  assert means == dict(acc_t1=0.5, acc_t2=0.5, delta=0.0, i_to_c=0.25, c_to_i=0.25)
  assert score['greedy']['delta']['mean'] == 0.5 and score['greedy']['copies'] == 0.5
  assert result['methods']['base']['sampled']['difference']['acc_t2']['mean'] == pytest.approx(0.5)
  assert (score['sampled']['conversations'], score['updates'], score['gpu_seconds']) == (4, 2, [4.0])
  assert result['missing'] == dict(published=[0]) and result['reference'] == 'score'


def test_summaries_have_the_form_of_a_suites(tmp_path):
  ours = recordings.summary(recordings.read(recording(tmp_path)), 'math')
  theirs = json.loads((recordings.RESULTS / 'countdown/summary.json').read_text())
  assert theirs.keys() <= ours.keys()
  method, other = ours['methods']['score'], theirs['methods']['score']
  assert other.keys() - method.keys() == {'budget', 'chosen_step', 'edits'}
  assert other['sampled'].keys() <= method['sampled'].keys()


def test_the_page_says_what_was_not_run_and_shows_conversations(tmp_path):
  rows = [
    dict(
      id=f'p{i}',
      question='Q ~~~~',
      attempts=[dict(text='one', verdict=a), dict(text='two', verdict=b)],
      **{'way': 'greedy'},
    )
    for i, (a, b) in enumerate([('wrong', 'correct')] * 12 + [('correct', 'wrong')] * 6)
  ]
  write(tmp_path / 'changed/rows.jsonl.gz', rows)
  one = recordings.read(recording(tmp_path, changed=['rows.jsonl.gz']))
  page = recorded_page.section(one, {'math': recordings.summary(one, 'math')}, [])
  assert '| Full weights | not run |' in page and '| **SCoRe** | 50.0 | 50.0 |' in page
  assert '~~~~~text\nQ ~~~~\n~~~~~' in page, 'a fence is longer than those inside it'
  assert page.count('<details>') == 10 + 5 and '10 of 12 that are kept' in page and '5 of 6' in page
  assert '### Sums, T=1\n' in page


def test_a_page_names_the_temperature_that_was_sampled_at(tmp_path):
  one = recordings.read(recording(tmp_path, temperature=0.7))
  summary = recordings.summary(one, 'math')
  page = recorded_page.section(one, {'math': summary}, ['deltas_math.png'])
  assert '### Sums, T=0.7\n' in page and '### Sums, greedy\n' in page and 'at T=0.7 with 95 %' in page
  assert '| T=0.7 | Acc@t1 |' in recorded_page.front(one, 'math', summary) and 'T=1' not in page


@pytest.mark.parametrize(
  ('changes', 'told'),
  [
    (dict(reference='scroe'), "reference = 'scroe' is none of published, base, score"),
    (dict(methods=dict(score=dict(title='S', policies=['other']))), 'names evaluations/other, which is not there'),
    (dict(colour=1), "methods.json: .*unexpected keyword argument 'colour'"),
  ],
)
def test_a_recording_that_is_not_whole_is_named(tmp_path, changes, told):
  with pytest.raises(DataError, match=told):
    recordings.read(recording(tmp_path, **changes))


def test_policies_that_were_asked_different_problems_are_refused(tmp_path):
  folder = recording(tmp_path)
  write(folder / 'evaluations/base/math.jsonl.gz', [conversation(id_, 'sampled', 1, 1) for id_ in 'aabbcc'])
  with pytest.raises(DataError, match='math, sampled: score was asked 2 problems, others 3'):
    recordings.summary(recordings.read(folder), 'math')


def test_the_published_page_is_that_of_its_summaries_and_those_count_the_rows():
  parts = []
  for one in recordings.every():
    summaries = {task: json.loads(one.summary_file(task).read_text()) for task in one.tasks}
    for task, told in summaries.items():
      for key, method in recordings.summary(one, task)['methods'].items():
        for decoding in recordings.DECODINGS:
          for figure in ('acc_t1', 'acc_t2', 'delta', 'i_to_c', 'c_to_i'):
            mean = method[decoding][figure]['mean']
            assert told['methods'][key][decoding][figure]['mean'] == pytest.approx(mean, abs=1e-6), (task, key, figure)
    names = [*(f'deltas_{task}' for task in one.tasks), 'curves']
    figures = [f'figures/results_real/{one.folder.name}/{name}.png' for name in names]
    assert all((ROOT / 'docs' / figure).exists() for figure in figures)
    parts.append(recorded_page.section(one, summaries, figures))
  newest, readme = recordings.every()[0], pathlib.Path('README.md').read_text()
  first = next(iter(newest.tasks))
  table = recorded_page.front(newest, first, json.loads(newest.summary_file(first).read_text()))
  assert readme == recorded_page.with_front(readme, table), 'python -m experiments.recorded'
  assert pathlib.Path('docs/results_real.md').read_text() == recorded_page.document(parts), (
    'python -m experiments.recorded'
  )


def test_the_table_of_the_readme_stands_between_its_marks(tmp_path):
  one = recordings.read(recording(tmp_path))
  table = recorded_page.front(one, 'math', recordings.summary(one, 'math'))
  assert '| Base | 50.0 | 50.0 | +0.0 (' not in table and '| **SCoRe** | 50.0 | 50.0 | **+0.0 (' in table
  assert 'Full weights' not in table and 'has a delta that is not told from 0' in table.replace('\n', ' ')
  marks = 'a\n<!-- drawn by python -m experiments.recorded -->\nold \\1\n<!-- end -->\nz\n'
  assert recorded_page.with_front(marks, table) == marks.replace('old \\1\n', f'\n{table}\n\n')
  with pytest.raises(DataError, match='README.md has the marks of .* 0 times'):
    recorded_page.with_front('no marks', table)


def test_the_command_writes_page_and_summaries(tmp_path):
  folder = recording(tmp_path / 'tiny')
  command = [sys.executable, '-m', 'experiments.recorded', f'--results={folder}', f'--page={tmp_path}/page.md']
  subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
  assert '| **SCoRe** | 50.0 | 50.0 |' in (tmp_path / 'page.md').read_text()
  assert json.loads((folder / 'summary.json').read_text())['reference'] == 'score'
