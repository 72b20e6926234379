"""report.html inside a notebook, as inert as it is in a browser tab."""

import base64
import os
import pathlib

from score_jax.errors import ConfigError
from score_jax.errors import DataError

_MOST = 20 * 2**20  # bytes of a page; a report has fewer than 5 MB


def show_report(path: str | os.PathLike, height: int = 800) -> None:
  """Shows a report as the output of the cell.

  The page runs in a frame with another origin than the notebook's, so its script reaches neither the notebook nor its
  cookies, and can open nothing (`sandbox` with `allow-scripts` alone). The frame is given the page as a data address:
  nothing of it becomes markup of the notebook, and its links stay inside it, which they would not with `srcdoc`.

  Args:
    path: of report.html, or of the run folder that has it.
    height: of the frame, in pixels.

  Raises:
    ConfigError: IPython is not installed; the message names the extra.
    DataError: there is no such file, or it is too large to be a report.
  """
  try:
    from IPython import display
  except ImportError as error:
    raise ConfigError("show_report works in notebooks and needs IPython: pip install 'score_jax[notebook]'") from error
  display.display(display.HTML(frame(pathlib.Path(path), height)))


def frame(path: pathlib.Path, height: int) -> str:
  """Returns the markup around a report. Raises DataError as `show_report` does."""
  path = path / 'report.html' if path.is_dir() else path
  try:
    page = path.read_bytes()
  except OSError as error:
    raise DataError(f'{path} cannot be shown: {error.strerror}; python -m score_jax.report RUN writes it') from error
  if len(page) > _MOST:
    raise DataError(f'{path} has {len(page) / 2**20:.0f} MB and is no report; open it in a browser')
  address = f'data:text/html;base64,{base64.b64encode(page).decode()}'
  style = f'width: 100%; height: {int(height)}px; border: 1px solid #8888'
  # The <div> keeps IPython from taking it for a mistake and recommending its IFrame, which has no sandbox.
  return (
    f'<div><iframe sandbox="allow-scripts" title="report of the run" style="{style}" src="{address}"></iframe></div>'
  )
