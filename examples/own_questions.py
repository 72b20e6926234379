# SPDX-License-Identifier: Apache-2.0
"""Compares second turns on your questions, before training: `python examples/own_questions.py [FILE.jsonl [MODEL]]`.

Each line of the file has a question and an answer; `reaches` grades, in worker processes. A turn after which more
breaks than is fixed is a poor one to train with. Without arguments: chains of arithmetic, and the bundled base.
"""

import json
import re
import sys
import tempfile

import score_jax

TURNS = ('Check and retry.', 'Check.')
QUESTIONS = {'reach 10 with 1 2 7 8': '10', 'reach 24 with 3 5 6 10': '24', 'reach 17 with 2 4 5 6': '17'}


def reaches(response: str, row: dict) -> float:
  """Whether the last number is the answer."""
  return float(re.findall(r'\d+', response)[-1:] == [row['answer']])


def main(questions: str, model: str = 'bundled:countdown_base') -> dict[str, score_jax.Evaluation]:
  task, results = {'name': 'jsonl', 'reward': f'{__file__}:reaches', 'data': {'heldout': questions}}, {}
  for turn in TURNS:
    results[turn] = score_jax.evaluate('quickstart', model=model, instruction=turn, task=task, **{'eval.problems': 0})
    print(turn, results[turn].table(), sep='\n')
  return results


if __name__ == '__main__':
  with tempfile.NamedTemporaryFile('w', suffix='.jsonl') as file:
    file.writelines(
      json.dumps({'question': question, 'answer': answer}) + '\n' for question, answer in QUESTIONS.items()
    )
    file.flush()
    main(*sys.argv[1:] or [file.name])
