# SPDX-License-Identifier: Apache-2.0
"""Writes the page of results from a suite's summary alone."""

from collections.abc import Sequence
import itertools
import textwrap
from typing import Any

Summary = dict[str, Any]  # or a part of it

CAPTIONS = {
  'deltas': 'Delta of every method, greedy, with 95 % intervals.',
  'edits': 'How much of an answer the second attempt changes.',
  'changes': 'Share of answers that the second attempt changes while the method trains.',
  'attempts': 'More attempts than were trained on.',
  'scaling': 'Majority of K corrected answers against majority of 2K first ones.',
  'three': 'Training with three attempts.',
}


def page(summary: Summary, figures: str, drawn: Sequence[str], remarks: str = '') -> str:
  """Returns the page as Markdown.

  Args:
    summary: of a suite.
    figures: their folder, relative to the page.
    drawn: names of figures.
    remarks: Markdown that is copied into the page.
  """
  parts = [
    f'# Results: {summary["suite"]}',
    paragraph(
      'Written from `summary.json` by `python -m experiments.main`, remarks apart; [baselines.md](baselines.md) '
      'defines the methods.'
    ),
    _incomplete(summary),
    '## Held-out problems, greedy',
    _about(summary),
    table(summary, 'greedy'),
    differences(summary, 'greedy'),
    remarks.strip(),
    '## Sampled, T=1',
    table(summary, 'sampled'),
    differences(summary, 'sampled'),
    _paper(summary),
    '## Budgets',
    _budgets(summary),
    '## Figures' if drawn else '',
    *(f'{CAPTIONS[name]}\n\n![{CAPTIONS[name]}]({figures}/{name}.png)' for name in drawn),
    *(
      f'Accuracy of each attempt, greedy ({name}):\n\n{_attempts(summary, extra)}'
      for name, extra in summary['extras'].items()
    ),
    '## How it was made',
    _made(summary),
  ]
  return '\n\n'.join(part for part in parts if part) + '\n'


def table(summary: Summary, decoding: str) -> str:
  """Returns a row a method; Acc@t2 is of the last attempt."""
  head = ('method', 'Acc@t1', 'Acc@t2', 'delta', '95 %', 'i->c', 'c->i', 'seeds')
  rows = []
  for method in summary['methods'].values():
    figures, last = method[decoding], method['attempts']
    first, second, to_right, to_wrong = (
      share(figures[name]['mean']) for name in ('acc_t1', f'acc_t{last}', 'i_to_c', 'c_to_i')
    )
    second += '' if last == 2 else f' (t{last})'
    delta = points(figures['delta'])
    rows.append((method['title'], first, second, *delta, to_right, to_wrong, str(len(method['seeds']))))
  return markdown(head, rows)


def _about(summary: Summary) -> str:
  problems, left_out = summary['problems']['counted'], summary['problems']['left_out']
  without = f' {left_out} more were left out because the grader failed on them.' if left_out else ''
  return paragraph(
    f'Accuracies in percent of {problems:,} problems, mean over seeds; i->c and c->i are shares of all problems, from '
    f'the first attempt to the last.{without} Intervals are 95 %, by the bootstrap over seeds and problems '
    '(`experiments/counting.py`). Of each run the checkpoint with the highest Stage II return on training problems is '
    'taken.'
  )


def _incomplete(summary: Summary) -> str:
  if not summary['missing']:
    return ''
  missing = '; '.join(f'{name}: seeds {", ".join(map(str, seeds))}' for name, seeds in summary['missing'].items())
  return f'**Incomplete.** Not run yet: {missing}.'


def differences(summary: Summary, decoding: str) -> str:
  rows = []
  for method in summary['methods'].values():
    if difference := method[decoding].get('difference'):
      shown = (difference.get(name) for name in ('delta', 'acc_t1', 'acc_t2'))
      cells = [points(one) if one else ('', '') for one in shown]
      rows.append((method['title'], *itertools.chain(*cells)))
  if not rows:
    return ''
  title = summary['methods'][summary['reference']]['title']
  head = (f'minus {title}', 'delta', '95 %', 'Acc@t1', '95 %', 'Acc@t2', '95 %')
  return f'Differences to {title} on the same problems, in points, {decoding}:\n\n{markdown(head, rows)}'


def _paper(summary: Summary) -> str:
  rows = []
  for method in (method for method in summary['methods'].values() if method['paper']):
    first, last, delta = method['paper']
    here = (share(method['greedy'][name]['mean']) for name in ('acc_t1', f'acc_t{method["attempts"]}'))
    paper = (f'{first:.1f}', f'{last:.1f}', f'{delta:+.1f}')
    rows.append((method['title'], *paper, *here, points(method['greedy']['delta'])[0]))
  if not rows:
    return ''
  head = ('method', 'paper t1', 'paper t2', 'paper delta', 'here t1', 'here t2', 'here delta')
  about = paragraph(
    f'The paper: {summary["paper"]}. Another task and another kind of model: compare the order of methods and the '
    'signs, not the values.'
  )
  return f'## Beside the paper\n\n{about}\n\n{markdown(head, rows)}'


def _budgets(summary: Summary) -> str:
  head = ('method', 'conversations', 'attempts sampled', 'updates', 'attempts trained', 'chosen step', 'seconds a run')
  rows = []
  for method in summary['methods'].values():
    spent = method['budget']
    seconds = [value for value in method['seconds'] if value is not None]
    names = ('conversations', 'attempts', 'updates', 'trained')
    rows.append(
      (
        method['title'],
        *(f'{spent[name]:,}' if spent else '' for name in names),
        ', '.join(str(step) for step in method['chosen_step'] if step is not None),
        f'{sum(seconds) / len(seconds):.0f}' if seconds else '',
      )
    )
  notes = [f'{m["title"]}: {m["note"]}.' for m in summary['methods'].values() if m['note']]
  return markdown(head, rows) + ('\n\n' + paragraph(' '.join(notes)) if notes else '')


def _attempts(summary: Summary, extra: Summary) -> str:
  longest = max(len(one['accuracy']) for one in extra.values())
  head = ('method', *(f't{i + 1}' for i in range(longest)))
  titles = (summary['methods'][name]['title'] for name in extra)
  rows = [(title, *map(share, one['accuracy'])) for title, one in zip(titles, extra.values(), strict=True)]
  return markdown(head, rows)


def _made(summary: Summary) -> str:
  versions = ', '.join(f'{name} {version}' for name, version in summary['versions'].items())
  about = paragraph(
    f"This command and those of `commands.txt`, which has every job's, are of score_jax "
    f'{summary["versions"]["score_jax"]}. {summary["machine"]}; {summary["seconds"] / 3600:.1f} hours of jobs, several '
    f'at once. Python {summary["python"]}, {versions}. `evaluations.json` beside `summary.json` has every count, '
    '`answers.npz` which problems were answered right: '
    '`experiments.counting.count(counting.read(path)[decoding], reference)` makes the tables again.'
  )
  return f'```\n{summary["command"]}\n```\n\n{about}'


def commands(summary: Summary) -> str:
  """Returns commands.txt, a line for every job."""
  return ''.join(f'{name}: {text}\n' for name, text in summary['commands'].items())


def paragraph(text: str) -> str:
  return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  return '\n'.join('| ' + ' | '.join(line) + ' |' for line in (head, ['---'] * len(head), *rows))


def share(value: float) -> str:
  return f'{100 * value:.1f}'


def points(figure: Summary) -> tuple[str, str]:
  low, high = figure['interval']
  return f'{100 * figure["mean"]:+.1f}', f'{100 * low:+.1f} .. {100 * high:+.1f}'
