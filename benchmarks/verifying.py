# SPDX-License-Identifier: Apache-2.0
"""Grading on this machine: answers per second of the pool, and the time of one; or how far two graders agree."""

import collections
import dataclasses
import os
import random
import time
from typing import Any

import numpy as np

from benchmarks.setting import Setting
from score_jax.core_types import Verdict
from score_jax.graders import pool as pools
from score_jax.graders import references, registry
from score_jax.tasks import data_files

_ALONE = 200  # answers that are sent one by one
_SHOWN = 10  # answers on which graders do not agree
FIELDS = ('verifier', 'rows', 'workers', 'answers')


def measure(setting: Setting) -> dict[str, Any]:
  """Grades answers one by one and together; those of a file by `math` and by `math_verify`."""
  spec = dataclasses.replace(registry.DEFAULT, workers=setting.workers)
  if setting.answers:
    return agreement(setting.answers, spec)
  items = _ITEMS[setting.verifier](setting.rows)
  begun = time.perf_counter()
  grader = pools.open_grader(setting.verifier, spec)
  started = time.perf_counter()
  grader.grade(items[:_ALONE])  # what is imported or compiled at first use
  each = []
  for item in items[:_ALONE]:
    one = time.perf_counter()
    grader.grade([item])
    each.append(time.perf_counter() - one)
  together = time.perf_counter()
  graded = grader.grade(items)
  seconds = time.perf_counter() - together
  workers = len(grader.pids) if isinstance(grader, pools.Pool) else 1
  grader.close()
  p50, p99 = np.percentile(each, [50, 99])
  return dict(
    answers=len(items),
    workers=workers,
    cores=len(os.sched_getaffinity(0)),
    start_seconds=round(started - begun, 3),
    per_second=round(len(items) / seconds, 1),
    ms_p50=round(1000 * float(p50), 3),
    ms_p99=round(1000 * float(p99), 3),
    verdicts=dict(sorted(collections.Counter(g.verdict.name.lower() for g in graded).items())),
  )


def agreement(path: str, spec: registry.GradingSpec) -> dict[str, Any]:
  """Returns how often `math` and `math_verify` take an answer of a file for right, and where one alone does.

  A row has "response", and "reference" or "answer" as the gold.
  """
  rows = data_files.read(path)
  items = [(_reference(row), row.text('response')) for row in rows]
  verdicts, per_second = {}, {}
  for name in ('math', 'math_verify'):
    grader = pools.open_grader(name, spec)
    grader.grade(items[:_ALONE])
    begun = time.perf_counter()
    verdicts[name] = [graded.verdict for graded in grader.grade(items)]
    per_second[name] = round(len(items) / (time.perf_counter() - begun), 1)
    grader.close()
  pairs = list(zip(*verdicts.values(), strict=True))
  right = collections.Counter((own == Verdict.CORRECT, other == Verdict.CORRECT) for own, other in pairs)
  apart = [i for i, (own, other) in enumerate(pairs) if (own == Verdict.CORRECT) != (other == Verdict.CORRECT)]
  return dict(
    both=right[True, True],
    math_alone=right[True, False],
    math_verify_alone=right[False, True],
    neither=right[False, False],
    agreed=round(1 - len(apart) / len(items), 4),
    per_second=per_second,
    apart=[[rows[i].where, *(verdict.name.lower() for verdict in pairs[i])] for i in apart[:_SHOWN]],
  )


def _reference(row: data_files.Row) -> dict:
  column = 'reference' if 'reference' in row.fields else 'answer'
  return references.make('math', row.value(column), f'{row.where}: column {column!r}')


def _texts(count: int) -> list[pools.Item]:
  return [(dict(answer=str(i)), f'Answer: {i}') for i in range(count)]


def _countdown(count: int) -> list[pools.Item]:
  return [(dict(numbers=[7, 12, 3], target=81), '7*12=84;84-3=81') for _ in range(count)]


def _math(count: int) -> list[pools.Item]:
  """Makes answers of MATH's kinds, three quarters of them right."""
  rng = random.Random(0)
  kinds = (
    ('{a}', '{a}.0'),
    ('\\frac{{{a}}}{{{b}}}', '{a}/{b}'),
    ('{a}\\sqrt{{{b}}}', '\\sqrt{{{b}}} \\cdot {a}'),
    ('({a}, {b})', '\\left({a},{b}\\right)'),
    ('[{a}, \\infty)', '\\left[{a},\\infty\\right)'),
    ('{a}x^2 + {b}x', 'x({a}x + {b})'),
    ('{a}\\pi', '\\pi \\times {a}'),
  )
  items = []
  for i in range(count):
    gold, answer = kinds[i % len(kinds)]
    numbers = dict(a=rng.randint(2, 99), b=rng.choice((2, 3, 5, 7, 11, 13)))
    text = answer.format(**numbers) if i % 4 else '17x + 1'
    items.append((dict(answer=gold.format(**numbers)), f'So, in the end, we have $\\boxed{{{text}}}$.'))
  return items


def _code(count: int) -> list[pools.Item]:
  tests = ['assert add(1, 2) == 3', 'assert add(-1, 1) == 0', 'assert add(10, 5) == 15']
  text = '```python\ndef add(a, b):\n  return a + b\n```'
  return [(dict(setup='', tests=tests), text) for _ in range(count)]


_ITEMS = dict(text=_texts, countdown=_countdown, math=_math, math_verify=_math, code=_code)
