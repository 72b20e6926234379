# SPDX-License-Identifier: Apache-2.0
"""Conversations as rows of a file, from which every figure can be counted again.

WORKDIR/rows/<name>.jsonl.gz has a row per problem, decoding and sample; rows/train.jsonl has some of
every training step. Texts are a model's and not trusted:

  {"id", "way", "sample", "step", "stage", "tags": {"level": ..}, "question", "edit_ratio",
   "attempts": [{"text", "answer", "verdict", "stop", "tokens", "logp", "score" of reward functions}, ...]}
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
import dataclasses
import enum
import gzip
import io
import json
import math
import pathlib
from typing import Any
import zlib

import numpy as np
from rapidfuzz.distance import Levenshtein

from score_jax import files
from score_jax.core_types import Graded, Problem, Stop, Verdict
from score_jax.errors import DataError
from score_jax.parallel import hosts
from score_jax.states import Rollout
from score_jax.tasks.problems import collapsed

Json = dict[str, Any]

_LONGEST_LINE = 64 * 2**20  # bytes of a row that is read back
_LONGEST_TEXT = 50_000  # characters that edit distances take


@dataclasses.dataclass(frozen=True)
class Attempt:
  """One answer."""

  text: str
  answer: str  # what the grader read in it
  verdict: Verdict
  stop: Stop
  tokens: int  # sampled, its end included
  logp: float  # sum over its tokens, under the sampler at T=1
  score: float = math.nan  # of reward functions; NaN: there are none, the verdict decides

  def to_json(self) -> dict[str, Any]:
    """Returns the attempt of the file's row."""
    fields = dict(vars(self), verdict=self.verdict.name.lower(), stop=self.stop.name.lower())
    if math.isnan(self.score):
      fields.pop('score')
    return fields


@dataclasses.dataclass(frozen=True)
class Row:
  """One conversation."""

  id: str  # of the problem
  question: str
  tags: dict[str, str]
  attempts: tuple[Attempt, ...]
  edit_ratio: float  # between first and last attempt; NaN: not measured
  decoding: str  # 'greedy', 'sampled', ...; the key "way" of the file
  sample: int  # number of the conversation on this problem
  step: int = 0  # of training; 0: an evaluation
  stage: str = ''

  def to_json(self) -> Json:
    row: Json = {'id': self.id, 'way': self.decoding, 'sample': self.sample}
    row |= dict(step=self.step, stage=self.stage) if self.step else {}
    row |= dict(tags=self.tags, question=self.question)
    row['edit_ratio'] = None if np.isnan(self.edit_ratio) else self.edit_ratio
    row['attempts'] = [attempt.to_json() for attempt in self.attempts]
    return row


def from_rollout(
  problems: Sequence[Problem],
  rollout: Rollout,
  texts: Sequence[Sequence[str]],
  graded: Sequence[Sequence[Graded]],
  chosen: Iterable[int],
  decoding: str,
  samples: Sequence[int],
  **training: Any,
) -> list[Row]:
  """Returns the rows of the conversations `chosen` (indices below B) of a rollout on the host.

  `problems` are [B], `texts` and `graded` [B][A]; the rollout may have more rows. `samples` [B] number a
  problem's conversations. `training` may have step and stage.
  """
  rows = []
  for b in chosen:
    attempts = []
    for i, (text, grade) in enumerate(zip(texts[b], graded[b], strict=True)):
      logp_T = rollout.logp[b][rollout.attempt[b] == i + 1]
      logp = round(float(logp_T.sum(dtype=np.float64)), 4)
      stop = Stop(int(rollout.stop[b, i]))
      score = math.nan if grade.score is None else grade.score
      attempts.append(Attempt(text, grade.answer, grade.verdict, stop, len(logp_T), logp, score))
    problem = (problems[b].id, problems[b].question, problems[b].tags)
    ratio = edit_ratio(texts[b][0], texts[b][-1])
    rows.append(Row(*problem, tuple(attempts), ratio, decoding, int(samples[b]), **training))
  return rows


def edit_ratio(a: str, b: str) -> float:
  """Returns the paper's ratio: Levenshtein distance over the total length of both texts.

  It is 0 for equal texts, 1 if one is empty, NaN if one is too long to compare.
  """
  if a == b:
    return 0.0
  if max(len(a), len(b)) > _LONGEST_TEXT:
    return math.nan
  return Levenshtein.distance(a, b) / (len(a) + len(b))


def from_all_hosts(what: str, numbers: Sequence[int], rows: Sequence[Row]) -> list[Row]:
  """Returns the rows of all hosts by number, on host 0 alone; `what` names them."""
  if hosts.count() == 1:
    return list(rows)
  parts = hosts.to_main(what, [[int(n), row.to_json()] for n, row in zip(numbers, rows, strict=True)])
  by_number = {number: row for part in parts for number, row in part}
  return [from_json(by_number[number]) for number in sorted(by_number)]


def verdicts(rows: Sequence[Row]) -> np.ndarray:
  """Returns i8 [B, A], the verdict of each attempt."""
  return np.array([[a.verdict for a in row.attempts] for row in rows], np.int8)


def scores(rows: Sequence[Row]) -> np.ndarray | None:
  """Returns f32 [B, A], the scores that reward functions gave, 0 where they failed; None: there are none."""
  score_BA = np.array([[a.score for a in row.attempts] for row in rows], np.float32)
  return None if np.isnan(score_BA).all() else np.nan_to_num(score_BA)


def changed(texts: Sequence[Sequence[str]], graded: Sequence[Sequence[Graded | Attempt]]) -> np.ndarray:
  """Returns bool [B, 2]: whether the last attempt has another text, another answer."""
  answers = [[collapsed(grade.answer) for grade in row] for row in graded]
  pairs = [[kind[0] != kind[-1] for kind in row] for row in zip(texts, answers, strict=True)]
  return np.array(pairs, bool).reshape(-1, 2)


def changed_in(rows: Sequence[Row]) -> np.ndarray:
  return changed([[a.text for a in row.attempts] for row in rows], [row.attempts for row in rows])


def are_graded(verdict_BA: np.ndarray) -> np.ndarray:
  """Returns bool [B]: whether no attempt met a host failure."""
  return ~np.any(verdict_BA == Verdict.ERROR, axis=1)


def counts(kinds: type[enum.IntEnum], kind_BA: np.ndarray) -> dict[str, list[int]]:
  return {kind.name.lower(): (kind_BA == kind).sum(axis=0).tolist() for kind in kinds}


def write(path: pathlib.Path, rows: Iterable[Row]) -> None:
  """Writes a .jsonl.gz file whole or not at all; equal rows give equal bytes."""
  packed = io.BytesIO()
  with gzip.GzipFile('', 'wb', 4, packed, mtime=0) as file:
    file.write(lines(rows).encode())
  path.parent.mkdir(parents=True, exist_ok=True)
  files.write_bytes(path, packed.getvalue())


def lines(rows: Iterable[Row]) -> str:
  """Returns JSON lines in ASCII."""
  return ''.join(json.dumps(row.to_json()) + '\n' for row in rows)


def read(path: pathlib.Path) -> Iterator[Row]:
  """Yields the rows of a file; raises as `read_json` does."""
  for number, value in enumerate(read_json(path), 1):
    try:
      row = from_json(value)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
      raise DataError(f'{path}, line {number}: is not a row of conversations ({error!r:.200})') from error
    yield row


def read_json(path: pathlib.Path) -> Iterator[Json]:
  """Yields the objects of a .jsonl or .jsonl.gz file, but for a half-written last line.

  Raises DataError: the file cannot be read, or holds something else.
  """
  number = 0
  try:
    with (gzip.open if path.suffix == '.gz' else open)(path, 'rb') as file:
      while line := file.readline(_LONGEST_LINE):
        number += 1
        if not line.endswith(b'\n'):
          if len(line) == _LONGEST_LINE:
            raise ValueError('a line of 64 MB')
          return
        value = json.loads(line)
        if not isinstance(value, dict):
          raise ValueError('not an object')
        yield value
  except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
    raise DataError(f'{path}, line {number}: cannot be read as JSON lines ({error!r:.200})') from error


def from_json(row: Json) -> Row:
  """Returns the row of `to_json`; raises KeyError, TypeError, ValueError for others."""
  if not row['attempts']:
    raise ValueError('a row without attempts')
  ratio = row.get('edit_ratio')
  given = dict(decoding=row.get('way', ''), edit_ratio=math.nan if ratio is None else ratio)
  return _read(Row, dict(question='', tags={}, sample=0, step=0, stage='') | row | given)


def _read(kind: type, values: Json) -> Any:
  fields = {field.name: _READERS[field.type] for field in dataclasses.fields(kind)}
  return kind(**{name: reader(values[name]) for name, reader in fields.items()})


def _text(value: Any) -> str:
  if not isinstance(value, str):
    raise TypeError(f'{value!r:.60} is not a text')
  return value


_READERS: dict[Any, Callable[[Any], Any]] = {
  # a field's type -> what reads it
  str: _text,
  int: int,
  float: float,
  Verdict: lambda value: Verdict[_text(value).upper()],
  Stop: lambda value: Stop[_text(value).upper()],
  dict[str, str]: lambda tags: {_text(name): _text(value) for name, value in tags.items()},
  tuple[Attempt, ...]: lambda attempts: tuple(_read(Attempt, dict(score=math.nan) | attempt) for attempt in attempts),
}
