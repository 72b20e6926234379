"""Figures of a suite, drawn from its summary; needs the extra `report`."""

from collections.abc import Callable
import itertools
import math
import pathlib
import textwrap
from typing import Any

_INK, _QUIET, _PALE, _AHEAD, _BEHIND = '#1d1d1b', '#5b5c58', '#c4c5c1', '#00695a', '#ab3b05'
_COLORS = ('#1d5fb0', '#8a4b08', '#7a3fa0', '#00695a', '#a8275f', '#55585e', '#b08d1d', '#0f7f8f')
_DASHES = ('-', '--', ':', '-.')


def draw(summary: dict[str, Any], folder: pathlib.Path) -> list[str]:
  """Writes the figures for which there is data; their names, without ending. Raises ImportError without matplotlib."""
  from matplotlib import rc_context
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  folder.mkdir(parents=True, exist_ok=True)
  written = []
  settings = {
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.edgecolor': _QUIET,
    'text.color': _INK,
    'text.parse_math': False,
    'font.size': 10,
  }
  with rc_context(settings):
    for name, paint in FIGURES.items():
      figure = Figure(figsize=(8, 4.5), layout='constrained')
      FigureCanvasAgg(figure)
      if paint(summary, figure):
        figure.savefig(folder / f'{name}.png', dpi=160)
        written.append(name)
  return written


def _deltas(summary: dict[str, Any], figure: Any) -> bool:
  """Delta of every method with its interval."""
  figure.set_size_inches(8, 1.2 + 0.25 * len(summary['methods']))
  axes = figure.add_subplot()
  for method in summary['methods'].values():
    found = method['greedy']['delta']
    low, high = (100 * bound for bound in found['interval'])
    color = _AHEAD if low > 0 else _BEHIND if high < 0 else _QUIET
    axes.plot([low, high], [method['title']] * 2, color=color, linewidth=3)
    axes.plot(100 * found['mean'], method['title'], 'o', color=color)
    axes.plot([100 * v for v in found['by_seed']], [method['title']] * len(found['by_seed']), '|', color=_INK)
  axes.axvline(0, color=_QUIET, linewidth=1, linestyle=':')
  axes.set(xlabel='delta = fixed - broken, points, greedy (ticks: seeds)')
  axes.invert_yaxis()
  return bool(summary['methods'])


def _edits(summary: dict[str, Any], figure: Any) -> bool:
  """Shares of greedy conversations by edit ratio; exact copies left of 0."""
  found = {name: m for name, m in summary['methods'].items() if m['edits']['n'] and m['attempts'] == 2}

  def paint(axes: Any, method: dict[str, Any], color: str) -> None:
    bins = method['edits']['bins']
    edges = [-1 / len(bins), *(i / len(bins) for i in range(len(bins) + 1))]
    axes.stairs([100 * method['edits']['copies'], *(100 * b for b in bins)], edges, color=color)

  return _panels(figure, summary, found, paint, 'edit ratio (copies left of 0)', 'conversations, %')


def _changes(summary: dict[str, Any], figure: Any) -> bool:
  """Share of answers that the second attempt changes, over training."""
  found = {name: m for name, m in summary['methods'].items() if m['curve']['step']}

  def paint(axes: Any, method: dict[str, Any], color: str) -> None:
    axes.plot(method['curve']['step'], [100 * y for y in method['curve']['answer_changed']], color=color)

  return _panels(figure, summary, found, paint, 'step', 'answers changed, % (sampled)')


def _panels(
  figure: Any,
  summary: dict[str, Any],
  found: dict[str, dict[str, Any]],
  paint: Callable[[Any, dict[str, Any], str], None],
  xlabel: str,
  ylabel: str,
) -> bool:
  """A panel for each method, and in each of them the reference, pale, to compare with."""
  if not found:
    return False
  columns = math.ceil(math.sqrt(len(found)))
  rows = math.ceil(len(found) / columns)
  figure.set_size_inches(max(8, 2 * columns), 0.6 + 1.5 * rows)
  axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten()
  for axis, (name, method) in zip(axes, found.items(), strict=False):
    if name != summary['reference'] in found:
      paint(axis, found[summary['reference']], _PALE)
    paint(axis, method, _AHEAD if name == summary['reference'] else _COLORS[0])
    axis.set_title(textwrap.fill(method['title'], 24), fontsize=8)
    axis.tick_params(labelsize=7)
  for axis in axes[len(found) :]:
    axis.set_axis_off()
  axes[0].set_ylim(bottom=0)  # shared, and only now is it known how high they all are
  figure.supxlabel(xlabel, fontsize=9)
  figure.supylabel(ylabel, fontsize=9)
  return True


def _attempts(summary: dict[str, Any], figure: Any) -> bool:
  """Accuracy of each of many attempts, trained on two."""
  axes = figure.add_subplot()
  found = [
    (summary['methods'][name]['title'], one['accuracy'])
    for extra in summary['extras'].values()
    for name, one in extra.items()
    if len(one['accuracy']) > 3
  ]
  for (title, accuracy), (color, dash) in zip(found, _styles(), strict=False):
    axes.plot(range(1, len(accuracy) + 1), [100 * a for a in accuracy], f'o{dash}', color=color, label=title)
  axes.set(xlabel='attempt', ylabel='accuracy, %, greedy')
  return _with_legend(axes, found)


def _scaling(summary: dict[str, Any], figure: Any) -> bool:
  """Majority of parallel samples, and of as many sampled attempts in sequence."""
  axes = figure.add_subplot()
  found = [
    (summary['methods'][name]['title'], side, one['scaling'][side])
    for extra in summary['extras'].values()
    for name, one in extra.items()
    if 'scaling' in one
    for side in ('parallel', 'sequential')
  ]
  for (title, side, points), (color, _) in zip(found, _styles(), strict=False):
    dash = '--' if side == 'parallel' else '-'
    accuracy = [100 * point['accuracy'] for point in points]
    axes.plot([point['samples'] for point in points], accuracy, f'o{dash}', color=color, label=f'{title}, {side}')
    axes.set_xscale('log', base=2)
    axes.set_xticks([point['samples'] for point in points], [f'{point["samples"]:g}' for point in points])
  axes.set(xlabel='sampled attempts a problem', ylabel='majority is right, %')
  return _with_legend(axes, found)


def _three(summary: dict[str, Any], figure: Any) -> bool:
  """Accuracy of each attempt where training has more than two, beside the reference asked for as many."""
  axes = figure.add_subplot()
  found = [m for m in summary['methods'].values() if m['attempts'] > 2]
  for method, (color, dash) in zip(found, _styles(), strict=False):
    for way, marker in (('greedy', 'o'), ('sampled', 's')):
      figures = [method[way][f'acc_t{i + 1}'] for i in range(method['attempts'])]
      at, mean = range(1, len(figures) + 1), [100 * one['mean'] for one in figures]
      error = [[100 * abs(one['mean'] - one['interval'][i]) for one in figures] for i in (0, 1)]
      axes.errorbar(at, mean, error, fmt=f'{marker}{dash}', color=color, capsize=3, label=f'{method["title"]}, {way}')
  longest = max((m['attempts'] for m in found), default=0)
  for extra in summary['extras'].values():
    if found and len(more := extra.get(summary['reference'], {}).get('accuracy', ())) >= longest:
      title = summary['methods'][summary['reference']]['title']
      points = [100 * a for a in more[:longest]]
      axes.plot(range(1, longest + 1), points, 'o--', color=_COLORS[1], label=f'{title}, trained on two, greedy')
  axes.set(xlabel='attempt', ylabel='accuracy, %', xticks=range(1, longest + 1))
  return _with_legend(axes, found)


def _styles() -> Any:
  """A color and a dash for each line; all pairs of them before one comes again."""
  return itertools.cycle((color, _DASHES[(i + turn) % 4]) for turn in range(4) for i, color in enumerate(_COLORS))


def _with_legend(axes: Any, found: Any) -> bool:
  if found:
    axes.legend(frameon=False, fontsize=8)
  return bool(found)


FIGURES: dict[str, Callable[[dict[str, Any], Any], bool]] = {
  'deltas': _deltas,
  'edits': _edits,
  'changes': _changes,
  'attempts': _attempts,
  'scaling': _scaling,
  'three': _three,
}
