# SPDX-License-Identifier: Apache-2.0
"""The page of runs of real models, and its figures, from what `recordings` counts."""

from collections.abc import Mapping, Sequence
import gzip
import hashlib
import json
import pathlib
import re
import textwrap
from typing import Any

import numpy as np

from experiments import results
from experiments.recordings import DECODINGS, Json, Recording, conversations
from score_jax.core_types import Verdict
from score_jax.errors import ConfigError, DataError
from score_jax.reporting import png_figures

SHOWN = {'corrected': 10, 'broken': 5}  # conversations of the page
_MOST_LINES = 60  # of a text on the page


def draw(recording: Recording, summaries: Mapping[str, Json], folder: pathlib.Path) -> list[str]:
  """Writes the figures of a recording, and returns their names; none without matplotlib."""
  first = next(iter(summaries.values()))
  painters = {
    f'deltas_{task}': (lambda figure, one=one: _draw_deltas(recording, one, figure)) for task, one in summaries.items()
  }
  painters['curves'] = lambda figure: _draw_curves(first, figure)
  try:
    png_figures.write(painters, folder, (8, 3.6))
  except ConfigError as error:
    print(f'recorded: no figures: {error}', flush=True)
    return [name for name in painters if (folder / f'{name}.png').exists()]
  return list(painters)


def _draw_deltas(recording: Recording, one: Json, figure: Any) -> None:
  methods = one['methods'].values()
  figure.set_size_inches(8, 1.2 + 0.3 * len(methods))
  deltas = [(method['title'], method['sampled']['delta']) for method in methods]
  intervals = [(title, delta['mean'], delta['interval']) for title, delta in deltas]
  axes, where = figure.add_subplot(), one['suite'].rpartition(': ')[2]
  about = f'delta at {recording.decoding("sampled")}, points, {where} (ticks: seeds)'
  png_figures.draw_intervals(axes, intervals, about)
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
      parts.append(f'### {recording.tasks[task]}, {recording.decoding(decoding)}')
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


# README's table.

_FRONT = re.compile(r'(<!-- drawn by python -m experiments.recorded -->\n).*?(<!-- end -->)', re.DOTALL)


def front(recording: Recording, task: str, one: Json) -> str:
  """Returns the table of a task at T=1 in short, what it shows and where it is from."""
  head = (recording.decoding('sampled'), 'Acc@t1', 'Acc@t2', 'delta, 95 %', 'i->c', 'c->i')
  lines = []
  for key, method in one['methods'].items():
    figures, bold = method['sampled'], '**' if key == recording.reference else ''
    delta = '{} ({})'.format(*results.points(figures['delta']))
    t1, t2, to_right, to_wrong = (
      results.share(figures[name]['mean']) for name in ('acc_t1', 'acc_t2', 'i_to_c', 'c_to_i')
    )
    lines.append((f'{bold}{method["title"]}{bold}', t1, t2, f'{bold}{delta}{bold}', to_right, to_wrong))
  reference = one['methods'][recording.reference]
  delta, run = reference['sampled']['delta'], recording.run_json()
  low, high = delta['interval']
  shown = 'is above 0' if low > 0 else 'is below 0' if high < 0 else 'is not told from 0'
  about = results.paragraph(
    f'{recording.title}, in percent of {one["problems"]["counted"]:,} problems of {recording.tasks[task]}. Weights: '
    f'{run["model"]}. The row in bold, {len(reference["seeds"])} seeds, has a delta that {shown}. How it was run, '
    'greedy decoding, other tasks and commands: [docs/results_real.md](docs/results_real.md).'
  )
  return f'{about}\n\n{results.markdown(head, lines)}'


def with_front(readme: str, table: str) -> str:
  """Returns README with the table between its marks. Raises DataError: it has none."""
  result, count = _FRONT.subn(lambda marks: f'{marks[1]}\n{table}\n\n{marks[2]}', readme)
  if count != 1:
    raise DataError(f'README.md has the marks of `experiments.recorded` {count} times, not once')
  return result


def _caption(recording: Recording, figure: str) -> str:
  name = pathlib.Path(figure).stem
  if name == 'curves':
    return 'Right answers of both attempts to the problems of the training steps, a line a seed'
  task = recording.tasks[name.removeprefix('deltas_')]
  return f'Delta of every method at {recording.decoding("sampled")} with 95 % intervals, {task}'


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
        lines.append(
          (f'{recording.methods[key].title}, {recording.decoding(decoding)}', *map(results.share, right.mean(axis=0)))
        )
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
      parts += [_conversation(recording, row) for row in chosen]
  return parts


def _conversation(recording: Recording, row: Json) -> str:
  decoding = recording.decoding(row['way'])
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
