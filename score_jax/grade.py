# SPDX-License-Identifier: Apache-2.0
"""Grades answers in a file: `python -m score_jax.grade --task=math --input=IN.jsonl --output=OUT.jsonl`.

A row of the input is {"id", "response"} and what the answer is known by: "reference", or the task's own fields as
published (gsm8k: answer; math: answer or solution; mbpp: test_list, test_setup_code; humaneval: prompt, entry_point,
test; countdown: numbers, target). A row of the output is {"id", "verdict", "answer", "seconds"}, in the input's order.

`--task=my_rewards.py:grade` tries a reward function: it gets all columns of a row, in TRL's form also "prompt" as the
prompt, in verl's "answer" as the gold. Rows of the output have its "score" as well.
"""

import collections
from collections.abc import Callable
import json
import pathlib
import statistics

from absl import flags

from score_jax import cli
from score_jax.errors import ConfigError, DataError
from score_jax.graders import references, registry, user_file, weighted
from score_jax.graders.pool import open_grader
from score_jax.graders.registry import GradingSpec
from score_jax.tasks import data_files, gsm8k, humaneval, math, mbpp
from score_jax.tasks.data_files import Row

_AT_A_TIME = 1000  # rows

_TASKS: dict[str, tuple[str, Callable[[Row], dict]]] = {
  # name -> (verifier, what it needs to know, from a row's own fields)
  'countdown': ('countdown', lambda row: references.make('countdown', row.fields, row.where)),
  'gsm8k': ('math', gsm8k.reference),
  'humaneval': ('code', humaneval.reference),
  'math': ('math', math.reference),
  'mbpp': ('code', mbpp.reference),
  'text': ('text', lambda row: references.make('text', row.fields, row.where)),
}

_SOLUTIONS = {'humaneval': 'canonical_solution', 'mbpp': 'code'}  # the column with the published solution

_TASK = flags.DEFINE_string('task', '', f'whose answers they are: {", ".join(sorted(_TASKS))}, or FILE.py:FUNCTION')
_INPUT = flags.DEFINE_string('input', '', 'a .jsonl, .jsonl.gz or .parquet file')
_OUTPUT = flags.DEFINE_string('output', '', 'a .jsonl file, new or empty unless --overwrite')
_OVERWRITE = flags.DEFINE_bool('overwrite', False, 'replace the output')
_UNREADABLE = flags.DEFINE_float(
  'unreadable_golds',
  0.1,
  'the share above which golds without a value for math, and tests that refuse the published solution, are refused',
)
_WORKERS = flags.DEFINE_integer('workers', registry.DEFAULT.workers, 'grader processes; 0: one for each core')
_CPU_SECONDS = flags.DEFINE_float('cpu_seconds', registry.DEFAULT.cpu_seconds, 'own time of an answer or a program')
_MEMORY_MB = flags.DEFINE_integer('memory_mb', registry.DEFAULT.memory_mb, 'of an answer or a program')
_UNSAFE_CODE = flags.DEFINE_bool('unsafe_code', False, 'run programs where too little of the sandbox holds')


def main() -> None:
  own = user_file.is_user_function(_TASK.value)
  if not own and _TASK.value not in _TASKS:
    raise ConfigError(f'--task={_TASK.value}: use one of {", ".join(sorted(_TASKS))}, or FILE.py:FUNCTION')
  spec = GradingSpec(_WORKERS.value, _CPU_SECONDS.value, _MEMORY_MB.value, _UNSAFE_CODE.value)
  try:
    spec.check()
  except ValueError as error:
    raise ConfigError(f'--{error}') from error
  if not 0 <= _UNREADABLE.value <= 1:
    raise ConfigError(f'--unreadable_golds={_UNREADABLE.value}: it must lie in 0..1')
  output = _output()
  rows = data_files.read(_INPUT.value)
  ids = [row.value('id') for row in rows]
  # All of them, before the first is graded.
  items = [(_given(row) if own else _reference(row), _response(row)) for row in rows]
  if not own and _TASKS[_TASK.value][0] == 'math':
    golds = [gold for gold, _ in items]
    references.check_readable([row.where for row in rows], golds, _UNREADABLE.value, '--unreadable_golds')
  grader = weighted.open_grader('', {_TASK.value: 1.0}, spec) if own else open_grader(_TASKS[_TASK.value][0], spec)
  if grader.description:
    print(grader.description)
  if column := _SOLUTIONS.get(_TASK.value):
    # Each problem once, however many answers to it there are.
    distinct = {
      json.dumps(gold, sort_keys=True): (row.where, (gold, solution))
      for row, (gold, _) in zip(rows, items, strict=True)
      if (solution := row.text_or_empty(column))
    }
    names, golds = ([pair[i] for pair in distinct.values()] for i in range(2))
    references.check_solvable(names, golds, grader.grade, _UNREADABLE.value, '--unreadable_golds')
  counts, scores, seconds = collections.Counter(), [], []
  partial = output.with_name(output.name + '.partial')
  with partial.open('w') as file:
    for first in range(0, len(items), _AT_A_TIME):
      for id_, graded in zip(ids[first:], grader.grade(items[first : first + _AT_A_TIME]), strict=False):
        verdict = graded.verdict.name.lower()
        counts[verdict] += 1
        line = dict(id=id_, verdict=verdict, answer=graded.answer, seconds=graded.seconds)
        if own:
          line['score'] = graded.score
          scores += [] if graded.score is None else [graded.score]
          seconds.append(graded.seconds)
        file.write(json.dumps(line) + '\n')
      file.flush()
  partial.replace(output)
  grader.close()
  print(f'{len(rows)} graded: ' + ', '.join(f'{count} {name}' for name, count in sorted(counts.items())))
  if scores:
    outside = sum(not 0 <= score <= 1 for score in scores)
    print(
      f'scores: mean {statistics.mean(scores):.4g}, from {min(scores):.4g} to {max(scores):.4g}, {outside} outside 0..1'
    )
    print(f'seconds a row: median {statistics.median(seconds):.3g}, most {max(seconds):.3g}')


def _output() -> pathlib.Path:
  if not _INPUT.value or not _OUTPUT.value:
    raise ConfigError('give --input=FILE and --output=FILE')
  output = pathlib.Path(_OUTPUT.value)
  if not output.parent.is_dir():
    raise ConfigError(f'--output={output}: there is no such folder')
  if output.is_dir() or (output.exists() and output.stat().st_size and not _OVERWRITE.value):
    raise ConfigError(f'--output={output} exists already; choose another file, or give --overwrite')
  return output


def _reference(row: Row) -> dict:
  """What the verifier needs to know: from the row's own fields, or its `reference`."""
  verifier, of_row = _TASKS[_TASK.value]
  if 'reference' not in row.fields:
    return of_row(row)
  value = row.fields['reference']
  if _TASK.value == 'gsm8k' and isinstance(value, str) and '####' in value:
    return gsm8k.reference(Row(dict(answer=value), row.where))
  return references.make(verifier, value, f"{row.where}: column 'reference'")


def _given(row: Row) -> dict:
  """Returns what a reward function gets beside the response."""
  columns = {name: value for name, value in row.fields.items() if name != 'response'}
  columns = json.loads(json.dumps(columns, default=str))
  gold = columns.get('answer', columns.get('reference'))
  return dict(row=columns, gold=gold, source='', prompt=columns.get('prompt', ''), completion_ids=[])


def _response(row: Row) -> str:
  response = row.value('response')
  if not isinstance(response, str):
    raise DataError(f"{row.where}: column 'response' holds {response!r:.60}, not a text")
  return response


if __name__ == '__main__':
  cli.run(main)
