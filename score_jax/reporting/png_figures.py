# SPDX-License-Identifier: Apache-2.0
"""The main figures as PNG files, drawn from a report's data. Needs the extra `report`."""

from collections.abc import Callable, Mapping, Sequence
import itertools
import math
import pathlib
from typing import Any

from score_jax.errors import ConfigError

INK, _QUIET, FIXED, _BROKEN, _KEPT, _WRONG = '#1d1d1b', '#5b5c58', '#00695a', '#ab3b05', '#8fa6c0', '#c8c6be'
_COLORS = ('#1d5fb0', '#8a4b08', '#7a3fa0', '#00695a', '#a8275f', '#55585e')
_DASHES = ('-', '--', ':')
_SETTINGS = {
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.edgecolor': _QUIET,
  'text.color': INK,
  'text.parse_math': False,  # a name with dollars is no formula
  'font.size': 10,
}


def draw(data: dict[str, Any], folder: pathlib.Path) -> list[pathlib.Path]:
  """Writes the figures that collected data has, as `write` does."""
  named = ((run, one) for run in data['runs'] for one in run['evaluations'])
  ledgers = [(_name(data, run, f'{e["name"]}, {e["decoding"]}'), e['ledger']) for run, e in named]
  scaled = [(label, ledger['curves']) for label, ledger in ledgers if 'curves' in ledger]
  # A step that sampled nothing has None.
  trained = [run for run in data['runs'] if any(y is not None for y in run['curves'].get('accuracy/1', ()))]
  figures = {
    'accuracy': (_accuracy, [(_name(data, run, ''), run['curves']) for run in trained]),
    'transitions': (_transitions, ledgers),
    'delta': (_delta, ledgers),
    'edits': (_edit_ratios, _histograms(data)),
    'scaling': (_scaling, scaled),
  }
  painters = {
    name: lambda figure, paint=paint, shown=shown: paint(shown, figure.add_subplot())
    for name, (paint, shown) in figures.items()
    if shown
  }
  return write(painters, folder, (7, 4))


def write(
  painters: Mapping[str, Callable[[Any], None]], folder: pathlib.Path, size: tuple[float, float]
) -> list[pathlib.Path]:
  """Writes a PNG file of `size` inches for each painter; returns their paths.

  Raises ConfigError: matplotlib is not installed.
  """
  try:
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
  except ImportError as error:
    raise ConfigError("--png needs matplotlib: pip install 'score_jax[report]'") from error
  folder.mkdir(parents=True, exist_ok=True)
  paths = {name: folder / f'{name}.png' for name in painters}
  with rc_context(_SETTINGS):
    for name, paint in painters.items():
      figure = Figure(figsize=size, layout='constrained')
      FigureCanvasAgg(figure)
      paint(figure)
      figure.savefig(paths[name], dpi=160)
  return list(paths.values())


def _name(data: dict[str, Any], run: dict[str, Any], name: str) -> str:
  return ', '.join(filter(None, (run['name'] * (len(data['runs']) > 1), name)))


def _histograms(data: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
  """Returns edit ratios of sampled evaluations, or of all."""
  histograms = ((run, *one) for run in data['runs'] for one in run['edit_ratios'].items())
  named = [(_name(data, run, name), one) for run, name, one in histograms if one['n']]
  named = [one for one in named if not one[0].endswith('/training')]
  return [one for one in named if one[0].endswith('/sampled')] or named


def _accuracy(shown: list[tuple[str, Any]], axes: Any) -> None:
  for (label, curves), color in zip(shown, itertools.cycle(_COLORS)):
    for attempt, dash in ((1, '--'), (curves['attempts'], '-')):
      share = [math.nan if y is None else y for y in curves[f'accuracy/{attempt}']]
      error = [1.96 * (e or 0) for e in curves[f'accuracy_se/{attempt}']]
      bounds = [(y - e, y + e) for y, e in zip(share, error, strict=True)]
      name = ', '.join(filter(None, (label, f'attempt {attempt}')))
      _band(axes, curves['step'], share, bounds, dash, color, name, 0.15)
  axes.set(xlabel='step', ylabel='accuracy, %')
  axes.legend(frameon=False)


def _transitions(shown: list[tuple[str, Any]], axes: Any) -> None:
  left = [0.0] * len(shown)
  for kind, name, color, hatch in (
    ('c_to_c', 'kept right', _KEPT, ''),
    ('i_to_c', 'fixed', FIXED, ''),
    ('c_to_i', 'broken', _BROKEN, '//'),
    ('i_to_i', 'still wrong', _WRONG, ''),
  ):
    share = [100 * ledger[kind] for _, ledger in shown]
    axes.barh([label for label, _ in shown], share, left=left, color=color, label=name, hatch=hatch, edgecolor='white')
    left = [a + b for a, b in zip(left, share, strict=True)]
  axes.set(xlabel='conversations, %', xlim=(0, 100))
  axes.invert_yaxis()
  axes.legend(frameon=False, ncols=4, loc='lower center', bbox_to_anchor=(0.5, 1.0))


def _delta(shown: list[tuple[str, Any]], axes: Any) -> None:
  intervals = [(label, ledger['delta'], ledger['intervals']['delta']) for label, ledger in shown]
  draw_intervals(axes, intervals, 'delta = fixed - broken, points')


def draw_intervals(axes: Any, intervals: Sequence[tuple[str, float, Sequence[float]]], xlabel: str) -> None:
  """Draws labelled shares and intervals in percent, colored by their side of zero."""
  for label, mean, bounds in intervals:
    low, high = (100 * bound for bound in bounds)
    color = FIXED if low > 0 else _BROKEN if high < 0 else _QUIET
    axes.plot([low, high], [label, label], color=color, linewidth=3)
    axes.plot(100 * mean, label, 'o', color=color)
  axes.axvline(0, color=_QUIET, linewidth=1, linestyle=':')
  axes.set(xlabel=xlabel)
  axes.invert_yaxis()


def _edit_ratios(shown: list[tuple[str, Any]], axes: Any) -> None:
  for (label, histogram), color, dash in zip(shown, itertools.cycle(_COLORS), itertools.cycle(_DASHES)):
    draw_histogram(axes, histogram, color=color, linestyle=dash, label=label)
  axes.set(xlabel='edit ratio (copies left of 0)', ylabel='conversations, %')
  axes.legend(frameon=False)


def draw_histogram(axes: Any, histogram: dict[str, Any], **style: Any) -> None:
  """Draws the shares of `report_data.histogram` in percent, exact copies left of 0."""
  step = 1 / len(histogram['bins'])
  edges = [-step, *(i * step for i in range(len(histogram['bins']) + 1))]
  axes.stairs([100 * part for part in (histogram['copies'], *histogram['bins'])], edges, **style)


def _scaling(shown: list[tuple[str, Any]], axes: Any) -> None:
  for (label, curves), color in zip(shown, itertools.cycle(_COLORS)):
    for side, dash in (('parallel', 'o--'), ('sequential', 'o-')):
      tokens, share, bounds = ([point[key] for point in curves[side]] for key in ('tokens', 'accuracy', 'interval'))
      _band(axes, tokens, share, bounds, dash, color, f'{label}, {side}', 0.12)
  axes.set(xlabel='sampled tokens a problem', ylabel='majority is right, %', xscale='log')
  axes.legend(frameon=False)


def _band(axes: Any, x: Any, share: Any, bounds: Any, style: str, color: str, label: str, alpha: float) -> None:
  low, high = ([100 * bound[i] for bound in bounds] for i in (0, 1))
  axes.plot(x, [100 * y for y in share], style, color=color, label=label)
  axes.fill_between(x, low, high, color=color, alpha=alpha, linewidth=0)
