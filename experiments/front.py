# SPDX-License-Identifier: Apache-2.0
"""Draws README's picture, accuracy over attempts, on light and on dark: `python -m experiments.front`."""

import json
import pathlib
from typing import Any

RESULTS = pathlib.Path('experiments/results/countdown/summary.json')
FOLDER = pathlib.Path('docs/figures')
# Of a page: text and lines, SCoRe, others.
_COLOURS = dict(light=('#1f2328', '#0969da', '#8c959f'), dark=('#e6edf3', '#58a6ff', '#768390'))
# Of methods; where a label stands beside its line's end, in points.
_LINES = dict(score=('SCoRe', -4), base=('the base', 4), pair_sft=('Pair-SFT', -13))


def main() -> None:
  summary = json.loads(RESULTS.read_text())
  for name, colours in _COLOURS.items():
    draw(lines_of(summary), colours, FOLDER / f'front_{name}.png')


def lines_of(summary: dict[str, Any]) -> dict[str, list[float]]:
  """Returns the accuracy of each attempt in percent, by method."""
  asked = summary['extras']['ten_attempts']
  return {method: [100 * share for share in asked[method]['accuracy']] for method in _LINES}


def draw(lines: dict[str, list[float]], colours: tuple[str, str, str], path: pathlib.Path) -> None:
  """Writes a picture without a ground of its own; the first line is the one that counts."""
  import matplotlib

  matplotlib.use('Agg')
  from matplotlib import pyplot

  ink, first, others = colours
  figure, axes = pyplot.subplots(figsize=(7.2, 3.2), layout='constrained')
  for number, (method, percent) in enumerate(lines.items()):
    colour, at = others if number else first, range(1, len(percent) + 1)
    axes.plot(at, percent, 'o-', color=colour, linewidth=1.5 if number else 2.5, markersize=5)
    label, below = _LINES[method]
    axes.annotate(label, (at[-1], percent[-1]), (9, below), textcoords='offset points', color=colour, fontsize=11)
  axes.set_xlim(0.7, len(percent) + 1.6)
  axes.margins(y=0.12)  # the lowest label stands below its line
  axes.set_xticks(range(1, len(percent) + 1))
  axes.set_xlabel('attempt', color=ink)
  axes.set_ylabel('right answers, %', color=ink)
  axes.tick_params(colors=ink)
  axes.spines[['top', 'right']].set_visible(False)
  axes.spines[['left', 'bottom']].set_color(ink)
  figure.savefig(path, dpi=160, transparent=True)
  pyplot.close(figure)


if __name__ == '__main__':
  main()
