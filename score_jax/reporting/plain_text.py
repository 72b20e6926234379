# SPDX-License-Identifier: Apache-2.0
"""Plain text: the closing table, evaluations as lines, harmless conversations.

What would steer a terminal or reorder a line is written out, as `<U+202E>`.
"""

from collections.abc import Iterator
import itertools
import re
import textwrap
from typing import Any

Json = dict[str, Any]
Evaluation = dict[str, Json]  # 'greedy' and 'sampled' -> ledger

_KINDS = dict(
  i_to_c='fixed (wrong, then right)',
  c_to_i='broken (right, then wrong)',
  i_to_i='still wrong',
  c_to_c='kept right',
  error='not graded',
)
_WIDTH = 110  # of a line
_TEXT = 1000  # characters of a question or an attempt
_MOST = 4000  # characters of another text
_MOST_LINES = 40  # of one text
_NOT_PLAIN = re.compile(r'[^ -~]')


def facts(rows: list[tuple[str, str]]) -> str:
  """Wraps texts beside their labels; a label that repeats is shown once."""
  margin = max(len(label) for label, _ in rows) + 2
  lines, before = [], ''
  for label, text in rows:
    head = ('' if label == before else label).ljust(margin)
    lines += textwrap.wrap(text, _WIDTH, initial_indent=head, subsequent_indent=' ' * margin)
    before = label
  return '\n'.join(lines)


def evaluation_line(name: str, evaluation: Evaluation) -> str:
  """Returns 'base: sampled 34.6 -> 34.1 % (delta -0.5), greedy ...'."""
  parts = []
  for decoding, ledger in evaluation.items():
    if isinstance(ledger, dict):
      shares = [_percent(ledger[key]) for key in _accuracies(ledger)]
      parts.append(f'{decoding} {shares[0]} -> {shares[-1]} % (delta {100 * ledger["delta"]:+.1f})')
  return f'{name}: ' + ', '.join(parts)


def table(evaluations: dict[str, Evaluation]) -> str:
  """Returns the closing table, in percent: a row for each policy and decoding, and what it leaves out."""
  ledgers = [(name, *one) for name, e in evaluations.items() for one in e.items() if isinstance(one[1], dict)]
  accuracies = _accuracies(ledgers[0][2])
  heads = [key.replace('acc_', 'acc@') for key in accuracies]
  rows = [['policy', 'decoding', *heads, 'delta', '95 %', 'i->c', 'c->i', 'n']]
  for name, decoding, ledger in ledgers:
    delta, low, high = (f'{100 * share:+.1f}' for share in (ledger['delta'], *ledger['intervals']['delta']))
    *first, fixed, broken = (_percent(ledger[key]) for key in (*accuracies, 'i_to_c', 'c_to_i'))
    n = str(ledger['n'])
    rows.append([name, decoding, *first, delta, f'{low} .. {high}', fixed, broken, n])
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  rows.insert(1, ['-' * width for width in widths])
  pads = [str.ljust, str.ljust, *[str.rjust] * (len(widths) - 2)]
  lines = ['  '.join(pad(*cell) for pad, *cell in zip(pads, row, widths, strict=True)) for row in rows]
  for name, decoding, ledger in ledgers:
    if left_out := ledger.get('errors'):
      lines.append(f'{name}, {decoding}: {left_out} more conversations were not graded, since the grader failed')
  return '\n'.join(lines)


def sample_lines(evaluation: Evaluation) -> list[str]:
  """Returns a line for each figure of several samples (`test_time`)."""
  lines = []
  for decoding, ledger in evaluation.items():
    for attempt, figures in ledger.get('at_k', {}).items():
      if isinstance(figures, dict):
        shown = ', '.join(f'{name} {_percent(f["value"])}' for name, f in figures.items())
        lines.append(f'{decoding}, {attempt}, {ledger["at_k"]["k"]} samples: {shown}')
    curves = ledger.get('curves', {})
    for side in ('parallel', 'sequential') if curves else ():
      points = (f'{p["samples"]}: {_percent(p["accuracy"])} ({p["tokens"]:.0f} tokens)' for p in curves[side])
      lines.append(f'{decoding}, majority of {side} samples: ' + ', '.join(points))
    for p in curves.get('equal_tokens', ()):
      lines.append(f'{decoding}, at {p["tokens"]:.0f} tokens: sequential is {100 * p["gain"]:+.1f} ahead')
  return lines


def report_table(data: Json) -> str:
  """Returns the closing table of `report_data.collect`, one for each number of attempts."""
  by_attempts: dict[int, dict[str, Evaluation]] = {}
  for run, one in ((r, one) for r in data['runs'] for one in r['evaluations']):
    if one['ledger']['n']:  # else nothing was graded
      named = by_attempts.setdefault(len(_accuracies(one['ledger'])), {})
      evaluation = named.setdefault(_name(data, run, one['name']), {})
      evaluation[sanitize_line(one['decoding'], 40)] = one['ledger']
  return '\n\n'.join(map(table, by_attempts.values()))


def report_conversations(data: Json, count: int) -> str:
  """Returns up to `count` conversations of every run, each transition in turn."""
  return '\n\n'.join(
    '\n'.join(_conversation(_name(data, run, row['source']), row))
    for run in data['runs']
    for row in _chosen(run['conversations'], count)
  )


def _accuracies(ledger: Json) -> list[str]:
  return [key for key in ledger if key.startswith('acc_t')]


def _percent(share: float) -> str:
  return f'{100 * share:.1f}'


def _chosen(conversations: Json, count: int) -> list[Json]:
  """Returns rows of the final sampled evaluation or else the last, each kind in turn."""
  names = list(conversations['counts'])
  evaluated = [name for name in names if not name.endswith('/training')]
  best = 'final/sampled' if 'final/sampled' in names else (evaluated or names or [''])[-1]
  rows = [row for row in conversations['rows'] if row['source'] == best]
  kinds = list(_KINDS)
  of_kind = [[row for row in rows if row['kind'] == kind] for kind in kinds]
  turns = filter(None, itertools.chain(*itertools.zip_longest(*of_kind)))
  return sorted(itertools.islice(turns, count), key=lambda row: kinds.index(row['kind']))


def _conversation(name: str, row: Json) -> Iterator[str]:
  yield f'{_KINDS[row["kind"]]} | {name} | {sanitize_line(row["id"], 60)}'
  yield from sanitize_lines(row['question'], _TEXT, margin=2)
  for number, attempt in enumerate(row['attempts'], 1):
    yield f'  attempt {number}: {attempt["verdict"]}'
    yield from sanitize_lines(attempt['text'] or '(empty)', _TEXT, margin=4)


def _name(data: Json, run: Json, name: str) -> str:
  return sanitize_line(f'{run["name"]}: {name}' if len(data['runs']) > 1 else name)


def sanitize(text: str, most: int = _MOST, keep: str = '') -> str:
  """Returns the text with characters without a shape as `<U+202E>`, cut with a note of its length.

  `most` 0 shows all characters; those of `keep` stay though they steer: '\\n\\t' where lines are wanted.
  """

  def written(match: re.Match[str]) -> str:
    c = match[0]
    return c if c in keep or c.isprintable() else f'<U+{ord(c):04X}>'

  shown = _NOT_PLAIN.sub(written, text[:most] if most else text)
  return shown if len(text) <= most or not most else f'{shown} [cut: {len(text):,} characters in all]'


def sanitize_line(text: str, most: int = 120) -> str:
  """Returns one line in ASCII, whose width in a terminal is known."""
  return ''.join(c if c < '\x7f' else f'<U+{ord(c):04X}>' for c in sanitize(text, most))


def sanitize_lines(text: str, most: int = _MOST, width: int = _WIDTH, margin: int = 0) -> list[str]:
  """Returns indented lines in ASCII; `width` includes the margin, `most` 0 means all."""
  lines = []
  for line in sanitize(text, most, keep='\n\t').split('\n'):
    lines += textwrap.wrap(sanitize_line(line.expandtabs(4), 0), width - margin) or ['']
  if len(lines) > _MOST_LINES:
    lines[_MOST_LINES:] = [f'[cut: {len(lines):,} lines in all]']
  return [' ' * margin + line if line else '' for line in lines]
