# SPDX-License-Identifier: Apache-2.0
"""Looks at an HF folder: `python -m score_jax.inspect DIR [--chat_template=...]`.

What it is, its memory, template and stop tokens, and whether it can be trained: exit code 65 if not.
"""

import sys

from absl import flags

from score_jax import cli
from score_jax.errors import DataError

_TEMPLATE = flags.DEFINE_string('chat_template', '', "as config.task.chat_template, e.g. 'bundled:chatml'")
_INSTRUCTION = flags.DEFINE_string('instruction', 'Check and retry.', 'the user turn between attempts')
_DATE = flags.DEFINE_string('date', '2024-07-26', 'as config.task.date')


def main(folder: str) -> None:
  from score_jax.reporting import plain_text
  from score_jax.storage import inspection

  facts, obstacle = inspection.inspect_folder(
    folder, chat_template=_TEMPLATE.value, instruction=_INSTRUCTION.value, date=_DATE.value
  )
  print(plain_text.facts([*facts, ('trainable', f'no: {obstacle}' if obstacle else 'yes')]))
  if obstacle:
    sys.exit(DataError.exit_code)


if __name__ == '__main__':
  cli.run(main, arguments=('DIR',))
