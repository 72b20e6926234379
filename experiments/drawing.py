# SPDX-License-Identifier: Apache-2.0
"""Figures of a suite, drawn from its summary."""

from collections.abc import Callable, Iterator
import functools
import itertools
import math
import pathlib
import textwrap
from typing import Any

from score_jax.reporting import png_figures

Data = dict[str, Any]  # of summary.json
_PALE = '#c4c5c1'
_COLORS = ('#1d5fb0', '#8a4b08', '#7a3fa0', '#00695a', '#a8275f', '#55585e', '#b08d1d', '#0f7f8f')
_DASHES = ('-', '--', ':', '-.')


def draw(summary: Data, folder: pathlib.Path) -> list[str]:
  """Writes the figures for which there is data, and returns their names.

  Raises:
    ConfigError: matplotlib is not installed.
  """
  methods = summary['methods']
  extras = [(methods[name]['title'], one) for extra in summary['extras'].values() for name, one in extra.items()]
  shown = {
    'deltas': (_deltas, list(methods.values())),
    'edits': (_edit_ratios, {key: m for key, m in methods.items() if m['edits']['n'] and m['attempts'] == 2}),
    'changes': (_changes, {key: m for key, m in methods.items() if m['curve']['step']}),
    'attempts': (_attempts, [(title, one['accuracy']) for title, one in extras if len(one['accuracy']) > 3]),
    'scaling': (_scaling, [(title, one['scaling']) for title, one in extras if 'scaling' in one]),
    'three': (_three, [m for m in methods.values() if m['attempts'] > 2]),
  }
  painters = {name: functools.partial(paint, summary, data) for name, (paint, data) in shown.items() if data}
  png_figures.write(painters, folder, (8, 4.5))
  return list(painters)


def _deltas(_: Data, methods: list[Data], figure: Any) -> None:
  figure.set_size_inches(8, 1.2 + 0.25 * len(methods))
  axes = figure.add_subplot()
  deltas = [(method['title'], method['greedy']['delta']) for method in methods]
  intervals = [(title, delta['mean'], delta['interval']) for title, delta in deltas]
  png_figures.draw_intervals(axes, intervals, 'delta = fixed - broken, points, greedy (ticks: seeds)')
  for title, delta in deltas:
    by_seed = [100 * value for value in delta['by_seed']]
    axes.plot(by_seed, [title] * len(by_seed), '|', color=png_figures.INK)


def _edit_ratios(summary: Data, methods: dict[str, Data], figure: Any) -> None:

  def paint(axes: Any, method: Data, color: str) -> None:
    png_figures.draw_histogram(axes, method['edits'], color=color)

  _panels(figure, summary['reference'], methods, paint, 'edit ratio (copies left of 0)', 'conversations, %')


def _changes(summary: Data, methods: dict[str, Data], figure: Any) -> None:

  def paint(axes: Any, method: Data, color: str) -> None:
    axes.plot(method['curve']['step'], [100 * y for y in method['curve']['answer_changed']], color=color)

  _panels(figure, summary['reference'], methods, paint, 'step', 'answers changed, % (sampled)')


def _panels(
  figure: Any,
  reference: str,
  methods: dict[str, Data],
  paint: Callable[[Any, Data, str], None],
  xlabel: str,
  ylabel: str,
) -> None:
  """Draws a panel for each method, with the reference pale."""
  columns = math.ceil(math.sqrt(len(methods)))
  rows = math.ceil(len(methods) / columns)
  figure.set_size_inches(max(8, 2 * columns), 0.6 + 1.5 * rows)
  axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten()
  for axis, (name, method) in zip(axes, methods.items(), strict=False):
    if name != reference in methods:
      paint(axis, methods[reference], _PALE)
    paint(axis, method, png_figures.FIXED if name == reference else _COLORS[0])
    axis.set_title(textwrap.fill(method['title'], 24), fontsize=8)
    axis.tick_params(labelsize=7)
  for axis in axes[len(methods) :]:
    axis.set_axis_off()
  axes[0].set_ylim(bottom=0)  # shared; only now are all heights known
  figure.supxlabel(xlabel, fontsize=9)
  figure.supylabel(ylabel, fontsize=9)


def _attempts(_: Data, lines: list[tuple[str, list[float]]], figure: Any) -> None:
  axes = figure.add_subplot()
  for (title, accuracy), (color, dash) in zip(lines, _styles(), strict=False):
    at, percent = range(1, len(accuracy) + 1), [100 * a for a in accuracy]
    axes.plot(at, percent, f'o{dash}', color=color, label=title)
  axes.set(xlabel='attempt', ylabel='accuracy, %, greedy')
  axes.legend(frameon=False, fontsize=8)


def _scaling(_: Data, curves: list[tuple[str, Data]], figure: Any) -> None:
  axes = figure.add_subplot()
  lines = [(title, side, one[side]) for title, one in curves for side in ('parallel', 'sequential')]
  for (title, side, points), (color, _) in zip(lines, _styles(), strict=False):
    dash = '--' if side == 'parallel' else '-'
    accuracy = [100 * point['accuracy'] for point in points]
    samples = [point['samples'] for point in points]
    axes.plot(samples, accuracy, f'o{dash}', color=color, label=f'{title}, {side}')
    axes.set_xscale('log', base=2)
    axes.set_xticks(samples, [f'{number:g}' for number in samples])
  axes.set(xlabel='sampled attempts a problem', ylabel='majority is right, %')
  axes.legend(frameon=False, fontsize=8)


def _three(summary: Data, methods: list[Data], figure: Any) -> None:
  """Draws the accuracy of each attempt, beside the reference's."""
  axes = figure.add_subplot()
  for method, (color, dash) in zip(methods, _styles(), strict=False):
    for decoding, marker in (('greedy', 'o'), ('sampled', 's')):
      figures = [method[decoding][f'acc_t{i + 1}'] for i in range(method['attempts'])]
      at, mean = range(1, len(figures) + 1), [100 * one['mean'] for one in figures]
      error = [[100 * abs(one['mean'] - one['interval'][i]) for one in figures] for i in (0, 1)]
      label = f'{method["title"]}, {decoding}'
      axes.errorbar(at, mean, error, fmt=f'{marker}{dash}', color=color, capsize=3, label=label)
  reference = summary['reference']
  longest = max(m['attempts'] for m in methods)
  label = f'{summary["methods"][reference]["title"]}, trained on two, greedy'
  for extra in summary['extras'].values():
    if len(more := extra.get(reference, {}).get('accuracy', ())) > longest:  # else of other problems, or of two
      points = [100 * a for a in more[:longest]]
      axes.plot(range(1, longest + 1), points, 'o--', color=_COLORS[1], label=label)
  axes.set(xlabel='attempt', ylabel='accuracy, %', xticks=range(1, longest + 1))
  axes.legend(frameon=False, fontsize=8)


def _styles() -> Iterator[tuple[str, str]]:
  """Yields color and dash of a line; no pair comes again before all have."""
  return itertools.cycle((color, _DASHES[(i + turn) % 4]) for turn in range(4) for i, color in enumerate(_COLORS))
