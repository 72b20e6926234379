"""Plain text for terminals and notebooks: the closing table, evaluations as lines, and a report's conversations.

What a model wrote cannot steer the terminal that shows it: such texts go through `sanitize_lines`, and are in ASCII.
"""

from collections.abc import Iterator
import textwrap
from typing import Any

from score_jax.reporting.sanitize import sanitize_line
from score_jax.reporting.sanitize import sanitize_lines

Evaluation = dict[str, dict[str, Any]]  # 'greedy' and 'sampled' -> ledger

_KINDS = dict(
  i_to_c='fixed (wrong, then right)',
  c_to_i='broken (right, then wrong)',
  i_to_i='still wrong',
  c_to_c='kept right',
  error='not graded',
)
_WIDTH = 110
_TEXT = 1000  # characters of a question or an attempt
_TRAINING = '/training'  # ends the names of rows of training steps


def facts(rows: list[tuple[str, str]], width: int = _WIDTH) -> str:
  """Returns labels in a column with their texts wrapped beside them; a label that repeats is shown once."""
  margin = max(len(label) for label, _ in rows) + 2
  lines, before = [], ''
  for label, text in rows:
    head = '' if label == before else label
    lines += textwrap.wrap(text, width, initial_indent=head.ljust(margin), subsequent_indent=' ' * margin)
    before = label
  return '\n'.join(lines)


def evaluation_line(name: str, evaluation: Evaluation) -> str:
  """Returns 'base: sampled 34.6 -> 34.1 % (delta -0.5), greedy ...' for one evaluation."""
  parts = []
  for decoding, ledger in evaluation.items():
    if isinstance(ledger, dict):
      first, last = (100 * ledger[key] for key in (_accuracies(ledger)[0], _accuracies(ledger)[-1]))
      parts.append(f'{decoding} {first:.1f} -> {last:.1f} % (delta {100 * ledger["delta"]:+.1f})')
  return f'{name}: ' + ', '.join(parts)


def table(evaluations: dict[str, Evaluation]) -> str:
  """Returns the closing table: one row per policy and decoding, in percent, delta with its 95 % interval.

  Args:
    evaluations: name ('base', 'final', ...) -> {'greedy': ledger, 'sampled': ledger}.
  """
  ledgers = [(name, decoding, m) for name, e in evaluations.items() for decoding, m in e.items() if isinstance(m, dict)]
  accuracies = _accuracies(ledgers[0][2])
  acc = [key.replace('acc_', 'acc@') for key in accuracies]
  rows = [['policy', 'decoding', *acc, 'delta', '95 %', 'i->c', 'c->i', 'n']]
  for name, decoding, m in ledgers:
    low, high = (100 * bound for bound in m['intervals']['delta'])
    delta = [f'{100 * m["delta"]:+.1f}', f'{low:+.1f} .. {high:+.1f}']
    first, last = ([f'{100 * m[key]:.1f}' for key in keys] for keys in (accuracies, ('i_to_c', 'c_to_i')))
    rows.append([name, decoding, *first, *delta, *last, str(m['n'])])
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  rows.insert(1, ['-' * width for width in widths])
  return '\n'.join(
    '  '.join(cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True)))
    for row in rows
  )


def sample_lines(evaluation: Evaluation) -> list[str]:
  """Returns a line for each figure of several samples (`test_time`) that an evaluation has."""
  lines = []
  for decoding, ledger in evaluation.items():
    for attempt, figures in ledger.get('at_k', {}).items():
      if isinstance(figures, dict):
        shown = (f'{name} {100 * f["value"]:.1f}' for name, f in figures.items())
        lines.append(f'{decoding}, {attempt}, {ledger["at_k"]["k"]} samples: ' + ', '.join(shown))
    curves = ledger.get('curves', {})
    for side in ('parallel', 'sequential') if curves else ():
      points = (f'{p["samples"]}: {100 * p["accuracy"]:.1f} ({p["tokens"]:.0f} tokens)' for p in curves[side])
      lines.append(f'{decoding}, majority of {side} samples: ' + ', '.join(points))
    for point in curves.get('equal_tokens', ()):
      lines.append(f'{decoding}, at {point["tokens"]:.0f} tokens: sequential is {100 * point["gain"]:+.1f} ahead')
  return lines


def report_table(data: dict[str, Any]) -> str:
  """Returns the closing table of every run of `report_data.collect`, one table for each number of attempts."""
  by_attempts: dict[int, dict[str, Evaluation]] = {}
  for run in data['runs']:
    for one in run['evaluations']:
      if one['ledger']['n']:  # else nothing was graded
        named = by_attempts.setdefault(len(_accuracies(one['ledger'])), {})
        named.setdefault(_name(data, run, one['name']), {})[sanitize_line(one['decoding'], 40)] = one['ledger']
  return '\n\n'.join(table(part) for part in by_attempts.values())


def report_conversations(data: dict[str, Any], count: int) -> str:
  """Returns at most `count` conversations of every run, of each transition in turn, from its last evaluation."""
  return '\n\n'.join(
    '\n'.join(_conversation(_name(data, run, row['source']), row))
    for run in data['runs']
    for row in _chosen(run['conversations'], count)
  )


def _accuracies(ledger: dict[str, Any]) -> list[str]:
  return [key for key in ledger if key.startswith('acc_t')]


def _chosen(conversations: dict[str, Any], count: int) -> list[dict[str, Any]]:
  """Returns rows of one evaluation, final and sampled or else the last: of each kind in turn, then fixed ones first."""
  names = list(conversations['counts'])
  evaluated = [name for name in names if not name.endswith(_TRAINING)]
  best = 'final/sampled' if 'final/sampled' in names else (evaluated or names or [''])[-1]
  rows = [row for row in conversations['rows'] if row['source'] == best]
  of_kind = [[row for row in rows if row['kind'] == kind] for kind in _KINDS]
  turns = [row for i in range(max(map(len, of_kind))) for part in of_kind for row in part[i : i + 1]]
  return sorted(turns[:count], key=lambda row: list(_KINDS).index(row['kind']))


def _conversation(name: str, row: dict[str, Any]) -> Iterator[str]:
  yield f'{_KINDS[row["kind"]]} | {name} | {sanitize_line(row["id"], 60)}'
  yield from sanitize_lines(row['question'], _TEXT, width=_WIDTH, margin=2)
  for number, attempt in enumerate(row['attempts'], 1):
    yield f'  attempt {number}: {attempt["verdict"]}'
    yield from sanitize_lines(attempt['text'] or '(empty)', _TEXT, width=_WIDTH, margin=4)


def _name(data: dict[str, Any], run: dict[str, Any], name: str) -> str:
  return sanitize_line(f'{run["name"]}: {name}' if len(data['runs']) > 1 else name)
