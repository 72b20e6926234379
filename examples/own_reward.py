# SPDX-License-Identifier: Apache-2.0
"""A reward function and a task in one file: `python examples/own_reward.py [WORKDIR]`.

The bundled base is asked for chains of arithmetic, and rewarded for short ones: `brevity` runs in worker processes.
"""

import random
import sys

import score_jax


def problems(split: str, seed: int) -> list[score_jax.Problem]:
  """Countdown with three numbers, in the form that the base knows."""
  made, draw = {}, random.Random(f'{split}/{seed}')
  while len(made) < 64:
    a, b, c, d = (draw.randint(1, 9) for _ in range(4))
    asked = dict(numbers=[a, b, c, d], target=a + b + c + d)
    question = f'reach {asked["target"]} with {a} {b} {c} {d}'
    made[question] = score_jax.Problem(question, question, asked)
  return list(made.values())


def brevity(response: str, row: dict) -> float:
  return max(0.0, 1 - len(response) / 40)


def main(workdir: str) -> None:
  task, rewards = {'name': f'{__file__}:problems', 'correct_at': 0.5}, {'countdown': 1.0, f'{__file__}:brevity': 0.1}
  changes = {'task': task, 'task.rewards': rewards, 'eval.problems': 0, 'batch.problems': 16}
  run = score_jax.train('quickstart', workdir=workdir, max_steps=2, **changes)
  print(run.table())


if __name__ == '__main__':
  main(sys.argv[1] if len(sys.argv) > 1 else 'runs/own_reward')
