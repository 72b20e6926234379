# SPDX-License-Identifier: Apache-2.0
"""Shows runs in a browser: `python -m score_jax.report RUN [RUN ...] [--out=FILE] [--png=DIR] [--text=N]`.

RUN is a run's folder or address, or the folder of `score_jax.evaluate --workdir`; several are compared.
"""

import pathlib

from absl import flags

from score_jax import cli, files
from score_jax.errors import ConfigError

_OUT = flags.DEFINE_string('out', '', 'the file; default: report.html, in the folder of one RUN alone')
_PNG = flags.DEFINE_string('png', '', 'also draw figures as PNG files into this folder (extra `report`)')
_TEXT = flags.DEFINE_integer('text', None, 'also print the table and N conversations of each RUN', lower_bound=0)


def main(*runs: str) -> None:
  from score_jax.storage.run_folder import RunFolder

  folders = [RunFolder(run).fetch() for run in runs]
  for folder in folders:
    if not folder.is_dir():
      raise ConfigError(f'{folder}: there is no such folder; name runs')
  default = (folders[0] if len(folders) == 1 and '://' not in runs[0] else pathlib.Path()) / 'report.html'
  out = pathlib.Path(_OUT.value) if _OUT.value else default
  if out.is_dir() or not out.parent.is_dir():
    raise ConfigError(f'--out={out}: name a file in a folder that exists')

  from score_jax.reporting import report_data, report_page

  data = report_data.collect(folders)
  page = report_page.page(data)
  files.write_bytes(out, page.encode('ascii'))
  print(f'{out} ({len(page) / 2**20:.1f} MB): open it in a browser')
  if _PNG.value:
    from score_jax.reporting import png_figures

    for path in png_figures.draw(data, pathlib.Path(_PNG.value)):
      print(path)
  if _TEXT.value is not None:
    from score_jax.reporting import plain_text

    for text in (plain_text.report_table(data), plain_text.report_conversations(data, _TEXT.value)):
      if text:
        print(f'\n{text}')


if __name__ == '__main__':
  cli.run(main, arguments=('RUN', '...'))
