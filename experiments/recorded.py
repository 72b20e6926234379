# SPDX-License-Identifier: Apache-2.0
"""Draws the page of runs of real models from what they left: `python -m experiments.recorded`.

A folder of experiments/results that has a methods.json is drawn. It says what `evaluations/` and `runs/` are:

  title, about, reference (a method), run (its run.json), tasks {file: title}, gpus_a_run,
  methods {key: {title, policies [a seed each], runs [[folders that follow one another], a seed each], note}},
  attempts {task, policies {key: policy}}, changed (files of conversations whose verdict changed)

Written: FOLDER/summary.json of the first task, FOLDER/summary_TASK.json of the others, in the form of a suite's; the
page and its figures.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import dataclasses
import gzip
import hashlib
import json
import pathlib
import re
import textwrap
from typing import Any

from absl import flags
import numpy as np

from experiments import counting, results
from score_jax import cli, files
from score_jax.core_types import Verdict
from score_jax.errors import ConfigError, DataError
from score_jax.reporting import png_figures

_FOLDERS = flags.DEFINE_list('results', '', 'recorded folders, in the order of the page; default: all, newest first')
_PAGE = flags.DEFINE_string('page', 'docs/results_real.md', 'the page')
RESULTS = pathlib.Path('experiments/results')
DECODINGS = ('sampled', 'greedy')
SHOWN = {'corrected': 10, 'broken': 5}  # conversations of the page
_BLOCKS = 9  # that a curve is drawn of
_MOST_BYTES = 1 << 24
_MOST_LINES = 60  # of a text on the page

Json = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Method:
  """A row of the tables."""

  title: str
  policies: tuple[str, ...]  # folders of evaluations/, one a seed; (): not run
  runs: tuple[tuple[str, ...], ...] = ()  # folders of runs/ that follow one another, for each seed
  note: str = ''


@dataclasses.dataclass(frozen=True)
class Recording:
  """What methods.json says."""

  folder: pathlib.Path
  title: str
  about: str
  reference: str
  run: str
  tasks: Mapping[str, str]
  gpus_a_run: float
  methods: Mapping[str, Method]
  attempts: Json = dataclasses.field(default_factory=dict)
  changed: tuple[str, ...] = ()

  def summary_file(self, task: str) -> pathlib.Path:
    """Returns where a task's summary is; the first task's has the plain name."""
    return self.folder / ('summary.json' if task == next(iter(self.tasks)) else f'summary_{task}.json')

  def run_json(self) -> Json:
    """Returns hardware, versions, date and the model's sha256."""
    return files.read_json(self.folder / self.run, _MOST_BYTES)


def main() -> None:
  folders = [pathlib.Path(one) for one in _FOLDERS.value]
  recordings = [read(folder) for folder in folders] or every()
  page = pathlib.Path(_PAGE.value)
  parts = []
  for recording in recordings:
    summaries = {task: summary(recording, task) for task in recording.tasks}
    for task, one in summaries.items():
      files.write_json(recording.summary_file(task), one)
    name = recording.folder.name
    drawn = draw(recording, summaries, page.parent / 'figures' / page.stem / name)
    parts.append(section(recording, summaries, [f'figures/{page.stem}/{name}/{one}.png' for one in drawn]))
  files.write_bytes(page, document(parts).encode())
  print(page)


def every() -> list[Recording]:
  """Returns the recorded folders of RESULTS, newest first."""
  paths = sorted(RESULTS.glob('*/methods.json'))
  return sorted((read(path.parent) for path in paths), key=lambda one: one.run_json()['date'], reverse=True)


def read(folder: pathlib.Path) -> Recording:
  """Reads a folder's methods.json.

  Raises:
    DataError: it is missing, lacks a field, or names a method or a folder that is not there.
  """
  path = folder / 'methods.json'
  if not path.is_file():
    raise DataError(f'{path}: there is no such file; it says what the folders beside it are')
  content = files.read_json(path, _MOST_BYTES)
  try:
    methods = {
      key: Method(**one | dict(policies=tuple(one['policies']), runs=tuple(map(tuple, one.get('runs', ())))))
      for key, one in content.pop('methods').items()
    }
    recording = Recording(folder=folder, methods=methods, **content)
  except (KeyError, TypeError) as error:
    raise DataError(f'{path}: {error}') from error
  if recording.reference not in methods:
    raise DataError(f'{path}: reference = {recording.reference!r} is none of {", ".join(methods)}')
  named = [f'evaluations/{policy}' for method in methods.values() for policy in method.policies]
  named += [f'runs/{run}' for method in methods.values() for chain in method.runs for run in chain]
  for name in named:
    if not (folder / name).is_dir():
      raise DataError(f'{path} names {name}, which is not there')
  return recording


# Counting.


def summary(recording: Recording, task: str) -> Json:
  """Counts a task's rows, in the form of a suite's summary.json.

  Raises:
    DataError: methods were asked different problems, or different numbers of conversations.
  """
  run = recording.run_json()
  shown = {key: method for key, method in recording.methods.items() if method.policies}
  tables = {key: [conversations(recording, policy, task) for policy in one.policies] for key, one in shown.items()}
  result: Json = dict(
    suite=f'{recording.title}: {recording.tasks[task]}',
    reference=recording.reference,
    seeds=sorted({seed for one in shown.values() for seed in range(len(one.policies))}),
    machine=run['gpu'],
    python=run['versions']['python'],
    versions=dict(run['versions'], score_jax=run['commit']),
    model=run['model'],
    model_sha256=run['model_sha256'],
    date=run['date'],
    paper='',
    missing={key: [0] for key, method in recording.methods.items() if not method.policies},
    methods={key: _method(recording, one) for key, one in shown.items()},
    extras={},
    command='python -m experiments.recorded',
    commands={},
    seconds=round(sum(run_seconds(recording, name) for name in _run_names(shown.values())), 1),
  )
  for decoding in DECODINGS:
    by_method = {key: [table[decoding] for table in seeds] for key, seeds in tables.items()}
    answers, left_out = _answers(by_method, f'{recording.folder.name}, {task}, {decoding}')
    result['problems'] = dict(counted=next(iter(answers.values())).right.shape[1], left_out=left_out)
    for key, figures in counting.count(answers, recording.reference).items():
      conversations_N = int(np.prod(answers[key].right.shape[:-1]))
      result['methods'][key][decoding] = figures | dict(conversations=conversations_N)
      copied = [copy for table in tables[key] for copies in table[f'{decoding} copies'].values() for copy in copies]
      result['methods'][key][decoding]['copies'] = float(np.mean(copied))
  return result


def conversations(recording: Recording, policy: str, task: str) -> Json:
  """Returns decoding -> problem -> verdicts of its conversations [K][A], and 'DECODING copies' -> problem -> [K]."""
  table: Json = {}
  for row in rows(recording.folder / 'evaluations' / policy, task):
    verdicts = row.get('verdicts') or [attempt['verdict'] for attempt in row['attempts']]
    copied = row['copy'] if 'copy' in row else row['edit_ratio'] == 0
    table.setdefault(row['way'], {}).setdefault(row['id'], []).append(verdicts)
    table.setdefault(f'{row["way"]} copies', {}).setdefault(row['id'], []).append(bool(copied))
  return table


def rows(folder: pathlib.Path, task: str) -> Iterator[Json]:
  """Yields the rows of FOLDER/TASK.jsonl.gz or FOLDER/rows/TASK.jsonl.gz.

  Raises:
    DataError: neither is there.
  """
  paths = [path for path in (folder / f'{task}.jsonl.gz', folder / f'rows/{task}.jsonl.gz') if path.is_file()]
  if not paths:
    raise DataError(f'{folder}: there is no {task}.jsonl.gz')
  with gzip.open(paths[0], 'rt', encoding='utf-8') as lines:
    yield from map(json.loads, lines)


def _answers(by_method: Mapping[str, Sequence[Json]], where: str) -> tuple[dict[str, counting.Answers], int]:
  """Returns the answers of every method, and how many problems are left out because a grader failed on them."""
  every_table = [table for seeds in by_method.values() for table in seeds]
  ids = sorted(every_table[0])
  for key, seeds in by_method.items():
    for table in seeds:
      if table.keys() != set(ids):
        raise DataError(f'{where}: {key} was asked {len(table)} problems, others {len(ids)}')
  failed = {id_ for table in every_table for id_ in ids if any('error' in one for one in table[id_])}
  kept = [id_ for id_ in ids if id_ not in failed]
  answers = {}
  for key, seeds in by_method.items():
    counts = {len(table[id_]) for table in seeds for id_ in kept}
    if len(counts) > 1:
      raise DataError(f'{where}: {key} has {min(counts)} to {max(counts)} conversations a problem')
    verdicts = np.array([[table[id_] for id_ in kept] for table in seeds])
    answers[key] = counting.Answers(verdicts == Verdict.CORRECT.name.lower())
  return answers, len(failed)


def _method(recording: Recording, method: Method) -> Json:
  chains = [[records(recording, run) for run in chain] for chain in method.runs]
  return dict(
    title=method.title,
    attempts=2,
    note=method.note,
    paper=[],
    seeds=list(range(len(method.policies))),
    policies=list(method.policies),
    updates=sum(len(one) for one in chains[0]) if chains else 0,
    seconds=[round(sum(run_seconds(recording, run) for run in chain), 1) for chain in method.runs],
    gpu_seconds=[
      round(recording.gpus_a_run * sum(run_seconds(recording, run) for run in chain), 1) for chain in method.runs
    ],
    curve=[_curve([record for run in chain for record in run]) for chain in chains],
  )


def _run_names(methods: Iterable[Method]) -> list[str]:
  return sorted({run for method in methods for chain in method.runs for run in chain})


def records(recording: Recording, run: str) -> list[Json]:
  """Returns the steps of runs/RUN/metrics.jsonl.gz."""
  with gzip.open(recording.folder / 'runs' / run / 'metrics.jsonl.gz', 'rt') as lines:
    return [json.loads(line) for line in lines]


def run_seconds(recording: Recording, run: str) -> float:
  """Returns the seconds of a run's steps, without its start, compilation and evaluation."""
  return sum(sum(record['seconds'].values()) for record in records(recording, run))


def _curve(steps: Sequence[Json]) -> Json:
  """Returns training accuracies of both attempts, means over blocks of steps."""
  sampled = [(i + 1, one['accuracy']) for i, one in enumerate(steps) if None not in one.get('accuracy', [None])]
  blocks = [block for block in np.array_split(np.arange(len(sampled)), _BLOCKS) if block.size]
  return dict(
    step=[float(np.mean([sampled[i][0] for i in block])) for block in blocks],
    accuracy=[np.mean([sampled[i][1] for i in block], axis=0).tolist() for block in blocks],
  )


# Drawing.


def draw(recording: Recording, summaries: Mapping[str, Json], folder: pathlib.Path) -> list[str]:
  """Writes the figures of a recording, and returns their names; none without matplotlib."""
  first = next(iter(summaries.values()))
  painters = {f'deltas_{task}': (lambda figure, one=one: _draw_deltas(one, figure)) for task, one in summaries.items()}
  painters['curves'] = lambda figure: _draw_curves(first, figure)
  try:
    png_figures.write(painters, folder, (8, 3.6))
  except ConfigError as error:
    print(f'recorded: no figures: {error}', flush=True)
    return [name for name in painters if (folder / f'{name}.png').exists()]
  return list(painters)


def _draw_deltas(one: Json, figure: Any) -> None:
  methods = one['methods'].values()
  figure.set_size_inches(8, 1.2 + 0.3 * len(methods))
  deltas = [(method['title'], method['sampled']['delta']) for method in methods]
  intervals = [(title, delta['mean'], delta['interval']) for title, delta in deltas]
  axes = figure.add_subplot()
  png_figures.draw_intervals(
    axes, intervals, f'delta at T=1, points, {one["suite"].rpartition(": ")[2]} (ticks: seeds)'
  )
  for title, delta in deltas:
    by_seed = [100 * value for value in delta['by_seed']]
    axes.plot(by_seed, [title] * len(by_seed), '|', color=png_figures.INK)


def _draw_curves(one: Json, figure: Any) -> None:
  trained = [method for method in one['methods'].values() if any(curve['step'] for curve in method['curve'])]
  columns = min(4, len(trained))
  lines = -(-len(trained) // columns)
  figure.set_size_inches(2.4 * columns, 0.6 + 2.0 * lines)
  axes = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flatten()
  for axis, method in zip(axes, trained, strict=False):
    for seed, curve in enumerate(method['curve']):
      for attempt, style in enumerate(('--', '-')):
        color = (png_figures.INK, png_figures.FIXED)[attempt]
        percent = [100 * accuracy[attempt] for accuracy in curve['accuracy']]
        label = f'attempt {attempt + 1}' if not seed else None
        axis.plot(curve['step'], percent, style, color=color, linewidth=1, label=label)
    axis.set_title(method['title'], fontsize=8)
    axis.tick_params(labelsize=7)
  axes[0].legend(frameon=False, fontsize=7)
  for axis in axes[len(trained) :]:
    axis.set_axis_off()
  figure.supxlabel('update', fontsize=9)
  figure.supylabel('right, % (training problems, T=1)', fontsize=9)


# The page.


def document(sections: Sequence[str]) -> str:
  """Returns the page."""
  head = """# Results: real language models

Written by `python -m experiments.recorded` from the rows that the runs left (`experiments/results/NAME/evaluations`).
[baselines.md](baselines.md) defines the methods. Accuracies are in percent, of held-out problems; Acc@t1 and Acc@t2 are
of the first and the second attempt, delta is their difference, i->c and c->i are the shares of all conversations that
the second attempt corrects and breaks. Intervals are 95 %, by the bootstrap over problems and seeds."""
  return '\n\n'.join((head, *sections)) + '\n'


def section(recording: Recording, summaries: Mapping[str, Json], figures: Sequence[str]) -> str:
  """Returns a recording's part of the page."""
  run = recording.run_json()
  remarks = recording.folder / 'remarks.md'
  parts = [f'## {recording.title}', results.paragraph(recording.about), _model(run)]
  parts += [remarks.read_text().strip()] if remarks.exists() else []
  for task, one in summaries.items():
    for decoding in DECODINGS:
      parts.append(f'### {recording.tasks[task]}, {"T=1" if decoding == "sampled" else "greedy"}')
      parts.append(_asked(one, decoding))
      parts.append(_table(recording, one, decoding))
      parts.append(results.differences(one, decoding))
  parts += [_attempts(recording)] if recording.attempts else []
  parts.append('### Cost')
  parts.append(_cost(recording, next(iter(summaries.values()))))
  parts += [f'![{_caption(recording, figure)}]({figure})' for figure in figures]
  parts += _conversations(recording)
  where = f'../{recording.folder.as_posix()}'
  parts.append(
    results.paragraph(
      f'Every figure, how the runs were set up, what was expected of them and what failed: [{recording.folder.name}]'
      f'({where}/README.md); the commands: [commands.txt]({where}/commands.txt); presets: [presets]({where}/presets).'
    )
  )
  return '\n\n'.join(part for part in parts if part)


def _caption(recording: Recording, figure: str) -> str:
  name = pathlib.Path(figure).stem
  if name == 'curves':
    return 'Right answers of both attempts to the problems of the training steps, a line a seed'
  return f'Delta of every method at T=1 with 95 % intervals, {recording.tasks[name.removeprefix("deltas_")]}'


def _model(run: Json) -> str:
  sums = ', '.join(f'{name} {value}' for name, value in run['model_sha256'].items())
  versions = ', '.join(f'{name} {version}' for name, version in run['versions'].items())
  return results.paragraph(
    f'Model: {run["model"]}; sha256: {sums}. {run["gpu"]}; score_jax at commit {run["commit"]}, {versions}; '
    f'{run["date"]}.'
  )


def _asked(one: Json, decoding: str) -> str:
  counts = sorted({method[decoding]['conversations'] // len(method['seeds']) for method in one['methods'].values()})
  shown = ' or '.join(f'{count:,}' for count in counts)
  return results.paragraph(
    f'{one["problems"]["counted"]:,} problems, {shown} conversations a seed. Copies: second attempts that repeat the '
    'first word for word, percent.'
  )


def _table(recording: Recording, one: Json, decoding: str) -> str:
  head = ('method', 'Acc@t1', 'Acc@t2', '95 %', 'delta', '95 %', 'i->c', 'c->i', 'copies', 'seeds')
  lines = []
  for key, method in recording.methods.items():
    if key not in one['methods']:
      lines.append((method.title, *['not run'] * 3, *[''] * 6))
      continue
    figures = one['methods'][key][decoding]
    low, high = (f'{100 * bound:.1f}' for bound in figures['acc_t2']['interval'])
    t1, t2, to_right, to_wrong = (
      results.share(figures[name]['mean']) for name in ('acc_t1', 'acc_t2', 'i_to_c', 'c_to_i')
    )
    copies = f'{100 * figures["copies"]:.0f}'
    seeds = str(len(method.policies))
    row = (t1, t2, f'{low} .. {high}', *results.points(figures['delta']), to_right, to_wrong, copies, seeds)
    title = f'**{method.title}**' if key == recording.reference else method.title
    lines.append((title, *row))
  return results.markdown(head, lines)


def _attempts(recording: Recording) -> str:
  task = recording.attempts['task']
  lines, longest = [], 0
  for key, policy in recording.attempts['policies'].items():
    for decoding, problems in conversations(recording, policy, task).items():
      if decoding in DECODINGS:
        right = np.array([one for many in problems.values() for one in many]) == Verdict.CORRECT.name.lower()
        longest = max(longest, right.shape[1])
        shown = 'T=1' if decoding == 'sampled' else decoding
        lines.append((f'{recording.methods[key].title}, {shown}', *map(results.share, right.mean(axis=0))))
  head = ('', *(f't{i + 1}' for i in range(longest)))
  about = f'More attempts than were trained on ({recording.tasks[task]}, one conversation a problem and decoding):'
  return f'### {longest} attempts\n\n{about}\n\n{results.markdown(head, lines)}'


def _cost(recording: Recording, one: Json) -> str:
  single = one['methods'].get('single_turn', {}).get('gpu_seconds') or [np.nan]
  lines = []
  for method in one['methods'].values():
    if method['gpu_seconds']:
      mean = float(np.mean(method['gpu_seconds']))
      lines.append((method['title'], str(method['updates']), f'{mean:.0f}', f'{mean / np.mean(single):.2f}'))
  about = results.paragraph(
    f'Seconds of a GPU that the steps of a run took, the mean over seeds; a run has {recording.gpus_a_run:g} of a GPU. '
    'Start, compilation and evaluation come on top, and the conversations that Pair-SFT and STaR sample first.'
  )
  return f'{about}\n\n' + results.markdown(('method', 'updates', 'GPU seconds', 'times single-turn RL'), lines)


def _conversations(recording: Recording) -> list[str]:
  changed = {kind: [] for kind in SHOWN}
  for name in recording.changed:
    with gzip.open(recording.folder / 'changed' / name, 'rt', encoding='utf-8') as lines:
      for row in map(json.loads, lines):
        right = [attempt['verdict'] == 'correct' for attempt in row['attempts'][:2]]
        if right[0] != right[1]:
          changed['corrected' if right[1] else 'broken'].append(row)
  parts = []
  for kind, most in SHOWN.items():
    # By a hash, so that nobody picks.
    chosen = sorted(changed[kind], key=lambda row: hashlib.sha256((row['id'] + row['way']).encode()).hexdigest())[:most]
    if chosen:
      parts.append(f'### Conversations that it {"corrected" if kind == "corrected" else "broke"}')
      parts.append(f'{len(chosen)} of {len(changed[kind])} that are kept, chosen by the sha256 of their ids.')
      parts += [_conversation(row) for row in chosen]
  return parts


def _conversation(row: Json) -> str:
  decoding = 'T=1' if row['way'] == 'sampled' else row['way']
  first, second = row['attempts'][:2]
  texts = [('Question', row['question']), (f'Attempt 1: {first["verdict"]}', first['text'])]
  texts.append((f'Attempt 2: {second["verdict"]}', second['text']))
  blocks = '\n\n'.join(f'{name}\n\n{_fenced(text)}' for name, text in texts)
  return f'<details><summary>{row["id"]}, {decoding}</summary>\n\n{blocks}\n\n</details>'


def _fenced(text: str) -> str:
  lines = text.strip().splitlines()
  if len(lines) > _MOST_LINES:
    lines = [*lines[:_MOST_LINES], f'[{len(lines) - _MOST_LINES} lines more]']
  wrapped = '\n'.join(part for line in lines for part in (textwrap.wrap(line, 118, drop_whitespace=False) or ['']))
  fence = '~' * max(4, 1 + max((len(run) for run in re.findall('~+', wrapped)), default=0))
  return f'{fence}text\n{wrapped}\n{fence}'


if __name__ == '__main__':
  cli.run(main)
