"""Evaluation on held-out problems: conversations, their verdicts, and the rows that every figure is counted from."""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_jax.algorithm import rewards
from score_jax.core_types import Graded
from score_jax.core_types import Problem
from score_jax.core_types import Verdict
from score_jax.errors import TryAgainError
from score_jax.faults import watchdog
from score_jax.graders.pool import Grader
from score_jax.parallel import hosts
from score_jax.parallel import mesh as meshes
from score_jax.reporting import rows as report_rows
from score_jax.reporting.ledger import account
from score_jax.reporting.rows import Row
from score_jax.sampling.rollout import RolloutSpec
from score_jax.sampling.sampler import Sampler
from score_jax.sampling.sampler import Stream
from score_jax.sampling.sampler import stream_key
from score_jax.states import Rollout
from score_jax.tasks import Task
from score_jax.tasks import heldout_problems
from score_jax.training import stages
from score_jax.training.run import Run

_FIRST = -1_000_000_000  # number of the first problem of `measure`: far from those of steps and offline pools


@dataclasses.dataclass(frozen=True)
class Grades:
  """The verifier's verdicts on a rollout."""

  texts: list[list[str]]  # [B][A]
  graded: list[list[Graded]]  # [B][A]

  @property
  def verdict(self) -> np.ndarray:
    """i8 [B, A]"""
    return np.array([[one.verdict for one in row] for row in self.graded], np.int8)


def evaluate_policy(run: Run, policy: Any, name: str) -> dict[str, Any]:
  """Returns the ledgers of a policy on the run's held-out problems; its conversations go to rows/<name>.jsonl.gz."""
  settings = run.config.eval
  with watchdog.phase('evaluate'):
    params = run.sampler.layout(policy)
    ledgers, conversations_ = evaluate(
      run.sampler, run.task, run.grader, params, problems=settings.problems, seed=settings.seed, rows=run.config.rows
    )
    if hosts.is_main():
      report_rows.write(run.folder.rows / f'{name}.jsonl.gz', conversations_)
  return ledgers


def evaluate_base(run: Run) -> dict[str, Any]:
  """Returns eval.json with the base's ledgers, evaluated once; other settings of the evaluation begin it anew."""
  settings = dict(problems=run.config.eval.problems, seed=run.config.eval.seed)
  known = hosts.from_main('eval.json', run.folder.read_eval)
  if known.get('settings') != settings:
    known = dict(base=evaluate_policy(run, run.base_policy(), 'base'), settings=settings)
    if hosts.is_main():
      run.folder.write_eval(known)
  return known


def evaluate_ends(run: Run, wanted: dict[str, tuple[int, Any]]) -> dict[str, Any]:
  """Returns eval.json with the ledgers of the policies that a run ends with; those it has already are kept.

  `wanted` has step and trained parameters by name, 'final' and 'last'.
  """
  before = hosts.from_main('eval.json', run.folder.read_eval)
  results = {name: value for name, value in before.items() if name not in ('final', 'last')}
  for name, (step, params) in wanted.items():
    known = before.get(name, {}).get('step') == step
    results[name] = before[name] if known else evaluate_policy(run, run.policy(params), name) | dict(step=step)
  if hosts.is_main():
    run.folder.write_eval(results)
  return results


def due(run: Run, params: Any, record: dict[str, Any]) -> dict[str, Any]:
  """Returns what falls due after a step and its record lacks: `eval`, the ledgers, and `selection`, its measurement."""
  step, results = record['step'], {}
  if run.config.eval.every and step % run.config.eval.every == 0 and 'eval' not in record:
    results['eval'] = evaluate_policy(run, run.policy(params), f'step{step}')
  if stages.is_measured(run.config, step) and 'selection' not in record:
    results['selection'] = measure(run, params)
  return results


def measure(run: Run, params: Any) -> dict[str, Any]:
  """Returns `figures` of trained parameters on the problems of config.selection, one sampled conversation each.

  By them the best checkpoint of any method is chosen: those that train with other rewards, or with none, cannot be
  compared by their own training return. No step of the run draws these problems where the task makes as many as are
  asked for; keys are the same every time, so that two checkpoints differ by their policies alone.
  """
  config, settings = run.config, run.config.selection
  problems = run.task.problems(config.seed, 'train', range(_FIRST, _FIRST + settings.problems))
  with watchdog.phase('select'):
    params, spec = run.sampler.layout(run.policy(params)), run.sampler.spec()
    rows = conversations(
      run.sampler, run.grader, params, problems, spec, config.seed, config.rows, decoding='selection'
    )
    return hosts.from_main('what the best is chosen by', lambda: figures(rows, settings.reward_weights, settings.bonus))


def figures(rows: Sequence[Row], reward_weights: tuple[float, ...], bonus: tuple[float, ...]) -> dict[str, Any]:
  """Returns what the best is chosen by, and what else these conversations tell.

  Returns:
    return: mean over rows of reward_weights_i r_i + bonus_i (r_i - r_{i-1}), all attempts added, each over the rows
    where it is known; accuracy [A], answer_changed, text_changed: of rows.
  """
  verdicts, changed_B2 = report_rows.verdicts(rows), report_rows.changed_in(rows)
  verdict_BA = jnp.asarray(verdicts)
  weights_A, bonus_A = jnp.array(reward_weights, jnp.float32), jnp.array(bonus, jnp.float32)
  known_BA = rewards.reward_is_known(verdict_BA, weights_A, bonus_A)
  reward_BA = rewards.attempt_rewards(verdict_BA, weights_A, bonus_A)
  return {
    'return': float(jnp.sum(reward_BA * rewards.shares(known_BA, reward_BA.dtype))),
    'accuracy': (verdicts == Verdict.CORRECT).mean(axis=0).tolist(),
    'answer_changed': float(changed_B2[:, 1].mean()),
    'text_changed': float(changed_B2[:, 0].mean()),
  }


def evaluate(
  sampler: Sampler, task: Task, grader: Grader, params: Any, *, problems: int, seed: int, rows: int
) -> tuple[dict[str, Any], list[Row]]:
  """Returns the ledgers of a policy, {'greedy': ledger, 'sampled': ledger}, and their rows, one a problem each.

  Of several hosts each samples and grades its own rows; all have the ledgers, host 0 the rows.

  Args:
    sampler, task, grader, params: of a run; the parameters in the sampling layout.
    problems: how many held-out problems are used; 0: all.
    seed: of the problems and the samples.
    rows: conversations at a time; keys do not depend on it (logits do, in their last bits).
  """
  heldout = heldout_problems(task, problems, seed)
  results = {
    decoding: conversations(sampler, grader, params, heldout, spec, seed, rows, decoding=decoding)
    for decoding, spec in dict(greedy=sampler.spec(temperature=0.0), sampled=sampler.spec()).items()
  }
  ledgers = hosts.from_main('an evaluation', lambda: {name: accounted(part) for name, part in results.items()})
  return ledgers, [row for part in results.values() for row in part]


def accounted(rows: Sequence[Row]) -> dict[str, Any]:
  """Returns the ledger of rows.

  Raises:
    TryAgainError: in every row the grader itself failed, so nothing is known.
  """
  if all(any(attempt.verdict == Verdict.ERROR for attempt in row.attempts) for row in rows):
    raise TryAgainError(
      f'the grader failed on all {len(rows)} conversations of an evaluation: look at its messages above '
      '(config.grading has what an answer may take), then run the same command again'
    )
  return account(rows)


def conversations(
  sampler: Sampler,
  grader: Grader,
  params: Any,
  problems: Sequence[Problem],
  spec: RolloutSpec,
  seed: int,
  rows: int,
  *,
  decoding: str,
  samples: int = 1,
  first: Mapping[str, np.ndarray] | None = None,
) -> list[Row]:
  """Returns rows of `samples` conversations per problem.

  Of several hosts each samples and grades its own rows; host 0 has all of them, the others none.

  Args:
    sampler, grader, params, seed, rows: as in `evaluate`.
    problems, spec: what is asked, and how it is sampled.
    decoding: the name that the rows give to `spec`.
    samples: K, whose randomness does not depend on how many there are.
    first: token ids [F] of a first attempt by problem, -1 behind them; None: the model's own.
  """
  key = stream_key(seed, Stream.EVALUATION, 0)
  kept = []
  for sample in range(samples):
    number = sample * len(problems)  # of the first row: sample 0 is what one sample a problem would be
    parts = rollouts(sampler, params, problems, key, spec, rows, first_row=number, first=first)
    for begin, mine, own, rollout in parts:
      rollout, real = meshes.fetch_rows(rollout), int((mine < len(problems) - begin).sum())
      grades = grade(grader, own[:real], sampler.texts(rollout)[:real])
      numbers = [sample] * real
      part = report_rows.from_rollout(own, rollout, grades.texts, grades.graded, range(real), decoding, numbers)
      kept += report_rows.from_all_hosts(f'rows {number + begin} and on of an evaluation', mine[:real], part)
  return kept


def rollouts(
  sampler: Sampler,
  params: Any,
  problems: Sequence[Problem],
  key: jax.Array,
  spec: RolloutSpec,
  rows: int,
  *,
  first_row: int = 0,
  first: Mapping[str, np.ndarray] | None = None,
) -> Iterator[tuple[int, np.ndarray, list[Problem], Rollout]]:
  """Samples one conversation per problem, `rows` at a time; the last batch is filled up with repeats of its last one.

  Args:
    sampler, params, problems, spec, rows, first: as in `conversations`.
    key: from `stream_key`.
    first_row: global number of the first problem's conversation.

  Yields:
    how many problems came before the batch; which of its rows are this host's, i32; their problems; the rollout of all
    hosts, on the devices.
  """
  for begin in range(0, len(problems), rows):
    watchdog.beat()
    part = list(problems[begin : begin + rows])
    part += [part[-1]] * (rows - len(part))
    mine = meshes.local_rows(sampler.mesh, rows)
    own = [part[i] for i in mine]
    forced = None if first is None else np.stack([first[problem.id] for problem in own])
    yield (
      begin,
      mine,
      own,
      sampler.sample(params, sampler.encoded(own), key, spec, first_row=first_row + begin, forced=forced),
    )


def grade(grader: Grader, problems: Sequence[Problem], texts: list[list[str]]) -> Grades:
  """Returns the verifier's verdict on every attempt."""
  items = [(problem.reference, text) for problem, attempts in zip(problems, texts, strict=True) for text in attempts]
  graded = grader.grade(items)
  A = len(items) // max(1, len(problems))
  return Grades(texts, [graded[i : i + A] for i in range(0, len(graded), A or 1)])
