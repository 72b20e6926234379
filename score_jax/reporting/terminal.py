"""What a run shows in the terminal: a progress bar with the numbers that matter, and the closing table."""

import textwrap
from typing import Any

import tqdm

Evaluation = dict[str, dict[str, Any]]  # 'greedy' and 'sampled' -> ledger


class Progress:
  """A live bar over the steps of a run; or nothing, where another host shows it."""

  def __init__(self, total: int, done: int, shown: bool = True):
    self._shown = shown
    self._bar = tqdm.tqdm(total=total, initial=done, unit='step', dynamic_ncols=True, smoothing=0.1, disable=not shown)

  def show(self, line: dict[str, Any]) -> None:
    """Moves the bar one step on, with the step's numbers."""
    accuracy = line['accuracy']
    arrow = ' -> '.join(f'{100 * a:.1f}' for a in accuracy)
    self._bar.set_description(line['stage'], refresh=False)
    self._bar.set_postfix_str(
      f'accuracy {arrow} %, i->c {100 * line["i_to_c"]:.1f}, c->i {100 * line["c_to_i"]:.1f}, '
      f'KL {line["kl"][0]:.3f} {line["kl"][-1]:.3f}',
      refresh=False,
    )
    self._bar.update(1)

  def say(self, text: str) -> None:
    """Prints a line above the bar."""
    if self._shown:
      self._bar.write(text)

  def close(self) -> None:
    """Leaves the bar as it stands."""
    self._bar.close()


def facts(rows: list[tuple[str, str]], width: int = 110) -> str:
  """Labels in a column, their texts wrapped beside them; a label that repeats is shown once."""
  margin = max(len(label) for label, _ in rows) + 2
  lines, before = [], ''
  for label, text in rows:
    head = '' if label == before else label
    lines += textwrap.wrap(text, width, initial_indent=head.ljust(margin), subsequent_indent=' ' * margin)
    before = label
  return '\n'.join(lines)


def evaluation_line(name: str, evaluation: Evaluation) -> str:
  """'base: sampled 34.6 -> 34.1 % (delta -0.5), greedy ...' for one evaluation."""
  parts = []
  for way, m in evaluation.items():
    if isinstance(m, dict):
      last = [key for key in m if key.startswith('acc_t')][-1]
      parts.append(f'{way} {100 * m["acc_t1"]:.1f} -> {100 * m[last]:.1f} % (delta {100 * m["delta"]:+.1f})')
  return f'{name}: ' + ', '.join(parts)


def table(evaluations: dict[str, Evaluation]) -> str:
  """The closing table: one row per policy and way of decoding, in percent, delta with its 95 % interval.

  Args:
    evaluations: name ('base', 'final', ...) -> {'greedy': ledger, 'sampled': ledger}.
  """
  ledgers = [(name, way, m) for name, e in evaluations.items() for way, m in e.items() if isinstance(m, dict)]
  accuracies = [key for key in ledgers[0][2] if key.startswith('acc_t')]
  head = [
    'policy',
    'decoding',
    *(key.replace('acc_', 'acc@') for key in accuracies),
    'delta',
    '95 %',
    'i->c',
    'c->i',
    'n',
  ]
  rows = [head]
  for name, way, m in ledgers:
    low, high = m['intervals']['delta']
    rows.append(
      [
        name,
        way,
        *(f'{100 * m[key]:.1f}' for key in accuracies),
        f'{100 * m["delta"]:+.1f}',
        f'{100 * low:+.1f} .. {100 * high:+.1f}',
        f'{100 * m["i_to_c"]:.1f}',
        f'{100 * m["c_to_i"]:.1f}',
        str(m['n']),
      ]
    )
  widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
  lines = [
    '  '.join(cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True)))
    for row in rows
  ]
  lines.insert(1, '  '.join('-' * w for w in widths))
  return '\n'.join(lines)
