"""Figures of a suite, drawn from its summary; needs the extra `report`."""

from collections.abc import Callable
import itertools
import pathlib
from typing import Any

_INK, _QUIET, _AHEAD, _BEHIND = '#1d1d1b', '#5b5c58', '#00695a', '#ab3b05'
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
      if paint(summary, figure.add_subplot()):
        figure.savefig(folder / f'{name}.png', dpi=160)
        written.append(name)
  return written


def _deltas(summary: dict[str, Any], axes: Any) -> bool:
  """Delta of every method with its interval."""
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


def _edits(summary: dict[str, Any], axes: Any) -> bool:
  """Shares of greedy conversations by edit ratio; exact copies left of 0."""
  found = [m for m in summary['methods'].values() if m['edits']['n'] and m['attempts'] == 2]
  for method, (color, dash) in zip(found, _styles(), strict=False):
    bins = method['edits']['bins']
    edges = [-1 / len(bins), *(i / len(bins) for i in range(len(bins) + 1))]
    shares = [100 * method['edits']['copies'], *(100 * b for b in bins)]
    axes.stairs(shares, edges, color=color, linestyle=dash, label=method['title'])
  axes.set(xlabel='edit ratio (copies left of 0)', ylabel='conversations, %')
  return _with_legend(axes, found)


def _changes(summary: dict[str, Any], axes: Any) -> bool:
  """Share of answers that the second attempt changes, over training."""
  found = [m for m in summary['methods'].values() if m['curve']['step']]
  for method, (color, dash) in zip(found, _styles(), strict=False):
    changed = [100 * y for y in method['curve']['answer_changed']]
    axes.plot(method['curve']['step'], changed, dash, color=color, label=method['title'])
  axes.set(xlabel='step', ylabel='answers changed, % (sampled)', ylim=(0, None))
  return _with_legend(axes, found)


def _attempts(summary: dict[str, Any], axes: Any) -> bool:
  """Accuracy of each of many attempts, trained on two."""
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


def _scaling(summary: dict[str, Any], axes: Any) -> bool:
  """Majority of parallel samples, and of as many sampled attempts in sequence."""
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
  axes.set(xlabel='sampled attempts a problem', ylabel='majority is right, %', xscale='log')
  return _with_legend(axes, found)


def _three(summary: dict[str, Any], axes: Any) -> bool:
  """Accuracy of each attempt where training has more than two."""
  found = [m for m in summary['methods'].values() if m['attempts'] > 2]
  for method, (color, dash) in zip(found, _styles(), strict=False):
    for way, marker in (('greedy', 'o'), ('sampled', 's')):
      figures = [method[way][f'acc_t{i + 1}'] for i in range(method['attempts'])]
      at, mean = range(1, len(figures) + 1), [100 * one['mean'] for one in figures]
      error = [[100 * abs(one['mean'] - one['interval'][i]) for one in figures] for i in (0, 1)]
      axes.errorbar(at, mean, error, fmt=f'{marker}{dash}', color=color, capsize=3, label=f'{method["title"]}, {way}')
  axes.set(xlabel='attempt', ylabel='accuracy, %', xticks=(1, 2, 3))
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
