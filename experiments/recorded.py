# SPDX-License-Identifier: Apache-2.0
"""Draws the page of runs of real models from what they left: `python -m experiments.recorded`.

Written: of every recording (`recordings.py`) FOLDER/summary.json of the first task and FOLDER/summary_TASK.json of the
others, in the form of a suite's; the page and its figures. Without --results also the table of README.md: of the first
task of the newest.
"""

import pathlib

from absl import flags

from score_jax import cli, files

_FOLDERS = flags.DEFINE_list('results', '', 'recorded folders, in the order of the page; default: all, newest first')
_PAGE = flags.DEFINE_string('page', 'docs/results_real.md', 'the page')


def main() -> None:
  from experiments import recorded_page, recordings

  readme = pathlib.Path('README.md')
  chosen = [recordings.read(pathlib.Path(one)) for one in _FOLDERS.value] or recordings.every()
  page, parts = pathlib.Path(_PAGE.value), []
  for recording in chosen:
    summaries = {task: recordings.summary(recording, task) for task in recording.tasks}
    for task, one in summaries.items():
      files.write_json(recording.summary_file(task), one)
    name = recording.folder.name
    drawn = recorded_page.draw(recording, summaries, page.parent / 'figures' / page.stem / name)
    figures = [f'figures/{page.stem}/{name}/{one}.png' for one in drawn]
    parts.append(recorded_page.section(recording, summaries, figures))
    if not _FOLDERS.value and not parts[1:]:
      task, one = next(iter(summaries.items()))
      table = recorded_page.front(recording, task, one)
      files.write_bytes(readme, recorded_page.with_front(readme.read_text(), table).encode())
  files.write_bytes(page, recorded_page.document(parts).encode())
  print(page)


if __name__ == '__main__':
  cli.run(main)
