# SPDX-License-Identifier: Apache-2.0
"""report.html inside a notebook, as inert as it is in a browser tab."""

import base64
import os
import pathlib

from score_jax.errors import ConfigError, DataError

_MOST = 20 * 2**20  # bytes of a page; a report has fewer than 5 MB


def show_report(path: str | os.PathLike, height: int = 800) -> None:
  """Shows a report as the output of the cell, in a frame whose script reaches nothing else.

  `path` is of report.html or its run folder, `height` in pixels.

  Raises ConfigError: IPython is not installed; DataError: there is no report, or it is too large.
  """
  try:
    from IPython import display
  except ImportError as error:
    raise ConfigError("show_report needs IPython: pip install 'score_jax[notebook]'") from error
  display.display(display.HTML(frame(pathlib.Path(path), height)))


def frame(path: pathlib.Path, height: int) -> str:
  """Returns the markup around a report; raises DataError as `show_report` does."""
  path = path / 'report.html' if path.is_dir() else path
  try:
    page = path.read_bytes()
  except OSError as error:
    reason = f'{error.strerror}; python -m score_jax.report RUN writes it'
    raise DataError(f'{path} cannot be shown: {reason}') from error
  if len(page) > _MOST:
    raise DataError(f'{path} has {len(page) / 2**20:.0f} MB and is no report; open it in a browser')
  # Unlike `srcdoc`, a data address keeps the page out of the notebook, and its links in the frame.
  # The <div> keeps IPython from recommending its IFrame, which has no sandbox.
  address = f'data:text/html;base64,{base64.b64encode(page).decode()}'
  style = f'width: 100%; height: {int(height)}px; border: 1px solid #8888'
  settings = f'sandbox="allow-scripts" title="report of the run" style="{style}"'
  return f'<div><iframe {settings} src="{address}"></iframe></div>'
