# SPDX-License-Identifier: Apache-2.0
"""Trains from Python and looks at what came of it: `python examples/from_python.py [WORKDIR]`.

The quickstart's model and task, a few steps, with a hook that prints what the second attempts fixed.
"""

import sys

import score_jax


class PrintFixes(score_jax.Hook):
  """Prints the share of problems that the second attempts of each step fixed and broke."""

  def after_step(self, training):
    record = training.record
    print(f'step {record["step"]}: fixed {record["i_to_c"]:.1%}, broke {record["c_to_i"]:.1%}')


def main(workdir: str) -> None:
  run = score_jax.train(
    'quickstart', workdir=workdir, hooks=[PrintFixes()], max_steps=2, **{'batch.problems': 16, 'eval.problems': 64}
  )
  print(run.table())
  for row in run.rows('final')[:2]:
    print(row.question, *(f'\n  {attempt.verdict.name}: {attempt.text}' for attempt in row.attempts))
  print(f'the policy, for transformers: {run.model}; the report: {run.report()}')


if __name__ == '__main__':
  main(sys.argv[1] if len(sys.argv) > 1 else 'runs/from_python')
