"""What a run shows in the terminal: a progress bar with the numbers that matter, and the closing table."""

from collections.abc import Sequence
import os
import sys
import textwrap
from typing import Any

import tqdm

from score_jax.reporting.alarms import Alarm

_DUMB_WIDTH = 120  # columns
_WINDOW = 10  # steps that the line below the bar is a mean of
Evaluation = dict[str, dict[str, Any]]  # 'greedy' and 'sampled' -> ledger


class Progress:
  """A live bar over the steps of a run; on a terminal, with the ledger of the last steps and the alarms below it."""

  def __init__(self, total: int, done: int):
    # TERM=dumb is a terminal, as a notebook's is, whose lines may be long and whose cursor can't go up.
    dumb = os.environ.get('TERM') == 'dumb'
    width = dict(ncols=_DUMB_WIDTH) if dumb else dict(dynamic_ncols=True)
    self._bar = tqdm.tqdm(total=total, initial=done, unit='step', smoothing=0.1, **width)
    on_terminal = sys.stderr.isatty() and not dumb  # in a log each change would be a line
    self._below = tqdm.tqdm(bar_format='{desc}', position=1, disable=not on_terminal, dynamic_ncols=True, leave=False)

  def show(self, line: dict[str, Any], lines: Sequence[dict[str, Any]], alarms: Sequence[str]) -> None:
    """Moves the bar one step on.

    Args:
      line: the step's metrics.
      lines: of all steps up to it.
      alarms: names of those that sound.
    """
    self._bar.set_description(line['stage'], refresh=False)
    self._bar.set_postfix_str(_figures(line), refresh=False)
    if 'i_to_c' in line:  # else nothing was sampled
      self._below.set_description_str(ledger_line(lines[-_WINDOW:], alarms), refresh=True)
    self._bar.update(1)

  def say(self, text: str) -> None:
    """Prints a line above the bar."""
    self._bar.write(text)

  def close(self) -> None:
    """Leaves the bar as it stands."""
    self._below.close()
    self._bar.close()


def _figures(line: dict[str, Any]) -> str:
  """What a step is known by: how its conversations went, or the loss of one that is supervised."""
  if 'i_to_c' not in line:
    return f'loss {sum(line["loss"]):.3f}, epoch {line["epoch"]:.2f} of {line["pairs"]} pairs'
  arrow = ' -> '.join(f'{100 * a:.1f}' for a in line['accuracy'])
  return (
    f'accuracy {arrow} %, i->c {100 * line["i_to_c"]:.1f}, c->i {100 * line["c_to_i"]:.1f}, '
    f'KL {line["kl"][0]:.3f} {line["kl"][-1]:.3f}{_not_graded(line["verdicts"])}'
  )


def ledger_line(lines: Sequence[dict[str, Any]], alarms: Sequence[str]) -> str:
  """'last 10: delta +4.1 = fixed 5.2 - broken 1.1, answers changed 12.0, texts 40.1 % | alarms: none'."""

  def mean(name: str) -> float:
    known = [line[name] for line in lines if name in line]  # lines of an older version lack some
    return 100 * sum(known) / max(1, len(known))

  fixed, broken = mean('i_to_c'), mean('c_to_i')
  changed = f'answers changed {mean("answer_changed"):.1f}, texts {mean("text_changed"):.1f} %'
  return (
    f'last {len(lines)}: delta {fixed - broken:+.1f} = fixed {fixed:.1f} - broken {broken:.1f}, {changed} | '
    f'alarms: {", ".join(alarms) or "none"}'
  )


def alarm_text(alarm: Alarm, step: int) -> str:
  """An alarm that begins to sound."""
  head = f'alarm {alarm.name} (step {step}): '
  return '\n'.join(
    textwrap.wrap(f'{head}{alarm.says}. Likely: {alarm.cause}. Turn: {alarm.field}', 110, subsequent_indent='  ')
  )


def _not_graded(verdicts: dict[str, list[int]]) -> str:
  """Counts, over all attempts, of the verdicts that are neither right nor wrong; '' if there are none."""
  counts = {kind: sum(verdicts[kind]) for kind in ('unparsed', 'timeout', 'error')}
  return ''.join(f', {kind} {count}' for kind, count in counts.items() if count)


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


def compute_lines(evaluation: Evaluation) -> list[str]:
  """What several samples are worth, where an evaluation has them: a line for each figure."""
  lines = []
  for way, m in evaluation.items():
    for attempt, figures in m.get('at_k', {}).items():
      if isinstance(figures, dict):
        shown = (f'{name} {100 * f["value"]:.1f}' for name, f in figures.items())
        lines.append(f'{way}, {attempt}, {m["at_k"]["k"]} samples: ' + ', '.join(shown))
    curves = m.get('curves', {})
    for side in ('parallel', 'sequential') if curves else ():
      points = (f'{p["samples"]}: {100 * p["accuracy"]:.1f} ({p["tokens"]:.0f} tokens)' for p in curves[side])
      lines.append(f'{way}, majority of {side} samples: ' + ', '.join(points))
    for point in curves.get('equal_tokens', ()):
      lines.append(f'{way}, at {point["tokens"]:.0f} tokens: sequential is {100 * point["gain"]:+.1f} ahead')
  return lines
