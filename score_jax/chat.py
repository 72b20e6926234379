# SPDX-License-Identifier: Apache-2.0
"""Asks a model, and asks again: `python -m score_jax.chat --model=DIR --config=PRESET [--question=TEXT]`.

Questions are lines of the standard input. Each gets all attempts of the preset, the later ones as what they change.
"""

import sys

from absl import flags

from score_jax import cli

_CONFIG = cli.define_config()
_MODEL = flags.DEFINE_string('model', '', 'an HF folder or hub id; default: config.model.path')
_QUESTION = flags.DEFINE_string('question', '', 'one question, instead of the lines of the standard input')
_ATTEMPTS, _INSTRUCTION = cli.define_attempts()
_TEMPERATURE = flags.DEFINE_float('temperature', 0.0, 'of what is sampled; 0: greedy', lower_bound=0.0)


def main() -> None:
  from score_jax import api
  from score_jax.reporting import dialogue
  from score_jax.training import answering

  conversation = api.open_conversation(
    _CONFIG.value,
    model=_MODEL.value or None,
    attempts=_ATTEMPTS.value,
    instruction=_INSTRUCTION.value,
    temperature=_TEMPERATURE.value,
  )
  trained = answering.trained_instruction(_MODEL.value) if _MODEL.value else ''
  if trained and {trained} != set(conversation.instructions):
    print(f'note: this model was trained with another instruction: --instruction={trained!r}', file=sys.stderr)
  if _QUESTION.value:
    print('\n'.join(dialogue.lines(conversation.attempts(_QUESTION.value), conversation.instructions, coloured=False)))
  else:
    dialogue.hold(conversation.attempts, conversation.instructions, dialogue.questions(sys.stdin))


if __name__ == '__main__':
  cli.run(main)
