"""The main figures as PNG files, for papers and slides. Drawn from what `gather` found; needs the extra `report`."""

from collections.abc import Iterator
import itertools
import pathlib
from typing import Any

from score_jax.errors import ConfigError

_INK, _QUIET, _FIXED, _BROKEN, _KEPT, _WRONG = '#1d1d1b', '#5b5c58', '#00695a', '#ab3b05', '#8fa6c0', '#c8c6be'
_COLORS = ('#1d5fb0', '#8a4b08', '#7a3fa0', '#00695a', '#a8275f', '#55585e')
_DASHES = ('-', '--', ':')


def draw(data: dict[str, Any], folder: pathlib.Path) -> list[pathlib.Path]:
  """Writes the figures for which there is data; their paths.

  Raises:
    ConfigError: matplotlib is not installed; the message names the extra.
  """
  try:
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
  except ImportError as error:
    raise ConfigError("--png needs matplotlib: pip install 'score_jax[report]', or leave --png away") from error
  folder.mkdir(parents=True, exist_ok=True)
  written = []
  # A name of a model or a folder is not to be read as formulas, whatever dollars it holds.
  settings = {
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.edgecolor': _QUIET,
    'text.color': _INK,
    'text.parse_math': False,
    'font.size': 10,
  }
  with rc_context(settings):
    for name, paint in (
      ('accuracy', _accuracy),
      ('transitions', _transitions),
      ('delta', _delta),
      ('edits', _edits),
      ('scaling', _scaling),
    ):
      figure = Figure(figsize=(7, 4), layout='constrained')
      FigureCanvasAgg(figure)
      if paint(data, figure.add_subplot()):
        path = folder / f'{name}.png'
        figure.savefig(path, dpi=160)
        written.append(path)
  return written


def _named(data: dict[str, Any], run: dict[str, Any], name: str) -> str:
  return f'{run["name"]}, {name}' if len(data['runs']) > 1 else name


def _ledgers(data: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
  for run in data['runs']:
    for one in run['evaluations']:
      yield _named(data, run, f'{one["name"]}, {one["way"]}'), one['ledger']


def _accuracy(data: dict[str, Any], axes: Any) -> bool:
  """Accuracy of the first and the last attempt over steps, with 95 % bands."""
  found = [run for run in data['runs'] if run['curves']]
  for run, color in zip(found, itertools.cycle(_COLORS)):
    curves = run['curves']
    for attempt, dash in ((1, '--'), (curves['attempts'], '-')):
      step, share = curves['step'], [100 * y for y in curves[f'accuracy/{attempt}']]
      axes.plot(step, share, dash, color=color, label=_named(data, run, f'attempt {attempt}'))
      error = [196 * (e or 0) for e in curves[f'accuracy_se/{attempt}']]
      low, high = ([y + sign * e for y, e in zip(share, error, strict=True)] for sign in (-1, 1))
      axes.fill_between(step, low, high, color=color, alpha=0.15, linewidth=0)
  axes.set(xlabel='step', ylabel='accuracy, %')
  if found:
    axes.legend(frameon=False)
  return bool(found)


def _transitions(data: dict[str, Any], axes: Any) -> bool:
  """What became of answers, as bars of the four transitions."""
  found = list(_ledgers(data))
  left = [0.0] * len(found)
  kinds = (('c_to_c', 'kept right', _KEPT), ('i_to_c', 'fixed', _FIXED), ('c_to_i', 'broken', _BROKEN))
  for kind, name, color in (*kinds, ('i_to_i', 'still wrong', _WRONG)):
    share = [100 * ledger[kind] for _, ledger in found]
    hatch = '//' if kind == 'c_to_i' else ''
    axes.barh([label for label, _ in found], share, left=left, color=color, label=name, hatch=hatch, edgecolor='white')
    left = [a + b for a, b in zip(left, share, strict=True)]
  axes.set(xlabel='conversations, %', xlim=(0, 100))
  axes.invert_yaxis()
  if found:
    axes.legend(frameon=False, ncols=4, loc='lower center', bbox_to_anchor=(0.5, 1.0))
  return bool(found)


def _delta(data: dict[str, Any], axes: Any) -> bool:
  """Delta of every evaluation with its 95 % interval."""
  found = list(_ledgers(data))
  for label, ledger in found:
    low, high = (100 * bound for bound in ledger['intervals']['delta'])
    color = _FIXED if low > 0 else _BROKEN if high < 0 else _QUIET
    axes.plot([low, high], [label, label], color=color, linewidth=3)
    axes.plot(100 * ledger['delta'], label, 'o', color=color)
  axes.axvline(0, color=_QUIET, linewidth=1, linestyle=':')
  axes.set(xlabel='delta = fixed - broken, points')
  axes.invert_yaxis()
  return bool(found)


def _edits(data: dict[str, Any], axes: Any) -> bool:
  """Shares of conversations by edit ratio; exact copies left of 0."""
  found = [
    (_named(data, run, name), edits)
    for run in data['runs']
    for name, edits in run['edits'].items()
    if edits['n'] and not name.endswith('/training')
  ]
  found = [one for one in found if one[0].endswith('/sampled')] or found
  for (label, edits), color, dash in zip(found, itertools.cycle(_COLORS), itertools.cycle(_DASHES)):
    step = 1 / len(edits['bins'])
    edges = [-step, *(i * step for i in range(len(edits['bins']) + 1))]
    axes.stairs(
      [100 * edits['copies'], *(100 * b for b in edits['bins'])], edges, color=color, linestyle=dash, label=label
    )
  axes.set(xlabel='edit ratio (copies left of 0)', ylabel='conversations, %')
  if found:
    axes.legend(frameon=False)
  return bool(found)


def _scaling(data: dict[str, Any], axes: Any) -> bool:
  """Majority of parallel and of sequential samples over tokens."""
  found = [(label, ledger['curves']) for label, ledger in _ledgers(data) if 'curves' in ledger]
  for (label, curves), color in zip(found, itertools.cycle(_COLORS)):
    for side, dash in (('parallel', '--'), ('sequential', '-')):
      tokens = [point['tokens'] for point in curves[side]]
      axes.plot(tokens, [100 * p['accuracy'] for p in curves[side]], f'o{dash}', color=color, label=f'{label}, {side}')
      low, high = ([100 * p['interval'][i] for p in curves[side]] for i in (0, 1))
      axes.fill_between(tokens, low, high, color=color, alpha=0.12, linewidth=0)
  axes.set(xlabel='sampled tokens a problem', ylabel='majority is right, %', xscale='log')
  if found:
    axes.legend(frameon=False)
  return bool(found)
