"""The page of results: docs/results.md, written from a suite's summary alone."""

from collections.abc import Sequence
from typing import Any

_CAPTIONS = {
  'deltas': 'Delta of every method, greedy, with 95 % intervals.',
  'edits': 'How much of an answer the second attempt changes.',
  'changes': 'Share of answers that the second attempt changes while the method trains.',
  'attempts': 'More attempts than were trained on.',
  'scaling': 'Majority of K corrected answers against majority of 2K first ones.',
  'three': 'Training with three attempts.',
}


def page(summary: dict[str, Any], figures: str, drawn: Sequence[str], remarks: str = '') -> str:
  """Markdown.

  Args:
    summary: of a suite.
    figures: address of the folder of figures, from where the page lies.
    drawn: names of figures.
    remarks: what somebody has to say of it, as Markdown.
  """
  parts = [
    f'# Results: {summary["suite"]}',
    'Written from `summary.json` by `python -m score_jax.suite`, remarks apart; [baselines.md](baselines.md) defines '
    'the methods.',
    _incomplete(summary),
    '## Held-out problems, greedy',
    _about(summary),
    table(summary, 'greedy'),
    _differences(summary, 'greedy'),
    remarks.strip(),
    '## Sampled, T=1',
    table(summary, 'sampled'),
    _differences(summary, 'sampled'),
    _paper(summary),
    '## Budgets',
    _budgets(summary),
    '## Figures' if drawn else '',
    *(f'{_CAPTIONS[name]}\n\n![{_CAPTIONS[name]}]({figures}/{name}.png)' for name in drawn),
    _extras(summary),
    '## How it was made',
    _made(summary),
  ]
  return '\n\n'.join(part for part in parts if part) + '\n'


def table(summary: dict[str, Any], way: str) -> str:
  """A row a method; the last attempt's accuracy stands under Acc@t2 where there are three."""
  head = ('method', 'Acc@t1', 'Acc@t2', 'delta', '95 %', 'i->c', 'c->i', 'seeds')
  rows = []
  for method in summary['methods'].values():
    figures, last = method[way], f'acc_t{method["attempts"]}'
    rows.append(
      (
        method['title'],
        _share(figures['acc_t1']['mean']),
        _share(figures[last]['mean']) + ('' if method['attempts'] == 2 else f' (t{method["attempts"]})'),
        _points(figures['delta']['mean']),
        _range(figures['delta']['interval']),
        _share(figures['i_to_c']['mean']),
        _share(figures['c_to_i']['mean']),
        str(len(method['seeds'])),
      )
    )
  return _markdown(head, rows)


def _about(summary: dict[str, Any]) -> str:
  problems, left_out = summary['problems']['counted'], summary['problems']['left_out']
  without = f' {left_out} more were left out because the grader failed on them.' if left_out else ''
  return (
    f'Accuracies in percent of {problems:,} problems, mean over seeds; i->c and c->i are shares of all problems, from '
    f'the first attempt to the last.{without} Intervals are 95 %, by the bootstrap over seeds and problems '
    '(`suites/counting.py`). Of each run the checkpoint with the highest Stage II return on training problems is taken.'
  )


def _incomplete(summary: dict[str, Any]) -> str:
  if not summary['missing']:
    return ''
  missing = '; '.join(f'{name}: seeds {", ".join(map(str, seeds))}' for name, seeds in summary['missing'].items())
  return f'**Incomplete.** Not run yet: {missing}.'


def _differences(summary: dict[str, Any], way: str) -> str:
  rows = []
  for method in summary['methods'].values():
    if found := method[way].get('difference'):
      cells = (method['title'],)
      for name in ('delta', 'acc_t1', 'acc_t2'):
        cells += (_points(found[name]['mean']), _range(found[name]['interval'])) if name in found else ('', '')
      rows.append(cells)
  if not rows:
    return ''
  title = summary['methods'][summary['reference']]['title']
  head = (f'minus {title}', 'delta', '95 %', 'Acc@t1', '95 %', 'Acc@t2', '95 %')
  return f'Differences to {title} on the same problems, in points, {way}:\n\n{_markdown(head, rows)}'


def _paper(summary: dict[str, Any]) -> str:
  rows = []
  for method in summary['methods'].values():
    if method['paper']:
      first, last, delta = method['paper']
      figures = method['greedy']
      here = (figures['acc_t1'], figures[f'acc_t{method["attempts"]}'])
      rows.append(
        (
          method['title'],
          *(f'{x:.1f}' for x in (first, last)),
          f'{delta:+.1f}',
          *(_share(x['mean']) for x in here),
          _points(figures['delta']['mean']),
        )
      )
  if not rows:
    return ''
  head = ('method', 'paper t1', 'paper t2', 'paper delta', 'here t1', 'here t2', 'here delta')
  return (
    f'## Beside the paper\n\nThe paper: {summary["paper"]}. Another task and another kind of model: compare the order '
    f'of methods and the signs, not the values.\n\n{_markdown(head, rows)}'
  )


def _budgets(summary: dict[str, Any]) -> str:
  head = ('method', 'conversations', 'attempts sampled', 'updates', 'attempts trained', 'chosen step', 'seconds a run')
  rows = []
  for method in summary['methods'].values():
    spent = method['budget']
    seconds = [value for value in method['seconds'] if value is not None]
    rows.append(
      (
        method['title'],
        *((f'{spent[name]:,}' for name in ('conversations', 'attempts', 'updates', 'trained')) if spent else [''] * 4),
        ', '.join(str(step) for step in method['chosen_step'] if step is not None),
        f'{sum(seconds) / len(seconds):.0f}' if seconds else '',
      )
    )
  notes = [f'{m["title"]}: {m["note"]}.' for m in summary['methods'].values() if m['note']]
  return _markdown(head, rows) + ('\n\n' + ' '.join(notes) if notes else '')


def _extras(summary: dict[str, Any]) -> str:
  parts = []
  for name, found in summary['extras'].items():
    longest = max(len(one['accuracy']) for one in found.values())
    head = ('method', *(f't{i + 1}' for i in range(longest)))
    rows = [(summary['methods'][key]['title'], *map(_share, one['accuracy'])) for key, one in found.items()]
    parts.append(f'Accuracy of each attempt, greedy ({name}):\n\n{_markdown(head, rows)}')
  return '\n\n'.join(parts)


def _made(summary: dict[str, Any]) -> str:
  versions = ', '.join(f'{name} {version}' for name, version in summary['versions'].items())
  return (
    f'```\n{summary["command"]}\n```\n\n'
    f'{summary["machine"]}; {summary["seconds"] / 3600:.1f} hours of jobs, several at once. '
    f'Python {summary["python"]}, {versions}. `commands.txt` beside `summary.json` has the command of every job, '
    '`evaluations.json` every count, `answers.npz` which problems were answered right: '
    '`suites.counting.count(counting.read(path)[way], reference)` makes the tables again.'
  )


def commands(summary: dict[str, Any]) -> str:
  """Of every job, a line each."""
  return ''.join(f'{name}: {text}\n' for name, text in summary['commands'].items())


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  lines = [head, ['---'] * len(head), *rows]
  return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)


def _share(value: float) -> str:
  return f'{100 * value:.1f}'


def _points(value: float) -> str:
  return f'{100 * value:+.1f}'


def _range(interval: Sequence[float]) -> str:
  return f'{100 * interval[0]:+.1f} .. {100 * interval[1]:+.1f}'
