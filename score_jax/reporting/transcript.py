"""A run as plain text: its table and some conversations, for terminals and notebooks. Made from what `gather` found.

Nothing in it can steer what shows it: every text goes through `safe_lines`, and is in ASCII.
"""

from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any

from score_jax.reporting import terminal
from score_jax.reporting.safe import safe_line
from score_jax.reporting.safe import safe_lines

_KINDS = dict(
  i_to_c='fixed (wrong, then right)',
  c_to_i='broken (right, then wrong)',
  i_to_i='still wrong',
  c_to_c='kept right',
  error='not graded',
)
_WIDTH = 110
_TEXT = 1000  # characters of a question or an attempt
_TRAINING = '/training'  # how names of rows of training steps end


def table(data: dict[str, Any]) -> str:
  """The closing table of every run; of each number of attempts its own."""
  by_attempts: dict[int, dict[str, dict[str, Any]]] = {}
  for run in data['runs']:
    for one in run['evaluations']:
      if one['ledger']['n']:  # nothing was graded
        attempts = sum(key.startswith('acc_t') for key in one['ledger'])
        name = _named(data, run, one['name'])
        by_attempts.setdefault(attempts, {}).setdefault(name, {})[safe_line(one['way'], 40)] = one['ledger']
  return '\n\n'.join(terminal.table(part) for part in by_attempts.values())


def conversations(data: dict[str, Any], count: int) -> str:
  """So many conversations of every run, of each transition in turn, from its last evaluation.

  Args:
    data: of `gather`.
    count: conversations of a run at most.
  """
  return '\n\n'.join(
    '\n'.join(_conversation(_named(data, run, row['of']), row)) for run in data['runs'] for row in _chosen(run, count)
  )


def _chosen(run: dict[str, Any], count: int) -> list[dict[str, Any]]:
  """Rows of one evaluation, final and sampled or else the last: of each kind in turn, then fixed ones first."""
  rows = run['conversations']['rows']
  sources = list(run['conversations']['counts'])
  evaluated = [name for name in sources if not name.endswith(_TRAINING)]
  best = 'final/sampled' if 'final/sampled' in sources else (evaluated or sources or [''])[-1]
  of_kind = [[row for row in rows if row['of'] == best and row['kind'] == kind] for kind in _KINDS]
  turns = [row for i in range(max(map(len, of_kind))) for part in of_kind for row in part[i : i + 1]]
  return sorted(turns[:count], key=lambda row: list(_KINDS).index(row['kind']))


def _conversation(name: str, row: dict[str, Any]) -> Iterator[str]:
  yield f'{_KINDS[row["kind"]]} | {name} | {safe_line(row["id"], 60)}'
  yield from _indented(row['question'], 2)
  for number, attempt in enumerate(row['attempts'], 1):
    yield f'  attempt {number}: {attempt["verdict"]}'
    yield from _indented(attempt['text'] or '(empty)', 4)


def _indented(text: str, margin: int) -> Iterable[str]:
  return safe_lines(text, _TEXT, width=_WIDTH, margin=margin)


def _named(data: dict[str, Any], run: dict[str, Any], name: str) -> str:
  return safe_line(f'{run["name"]}: {name}' if len(data['runs']) > 1 else name)
