# SPDX-License-Identifier: Apache-2.0
"""Evaluation: conversations, verdicts, and what is counted from them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np

from score_jax import tasks
from score_jax.algorithm import rewards
from score_jax.config import RunConfig
from score_jax.core_types import Problem, Verdict
from score_jax.errors import ConfigError, TryAgainError
from score_jax.faults import watchdog
from score_jax.graders import pool, registry
from score_jax.parallel import hosts
from score_jax.parallel import mesh as meshes
from score_jax.reporting import rows as report_rows
from score_jax.reporting import test_time
from score_jax.reporting.ledger import account
from score_jax.reporting.rows import Row
from score_jax.sampling import sampler as samplers
from score_jax.sampling.sampler import Sampler
from score_jax.sampling.spec import RolloutSpec
from score_jax.states import Rollout
from score_jax.storage import hf, pins
from score_jax.training import first_attempts as given_attempts
from score_jax.training import grading, preflight, stages
from score_jax.training import run as runs
from score_jax.training.run import Run

_FIRST = -1_000_000_000  # problem of `measure`: far from all others
_SCALING_TEMPERATURE = 0.7  # paper, section 6.2

Results = dict[str, Any]  # as JSON


def evaluate_policy(run: Run, policy: Any, name: str) -> Results:
  """Returns a policy's ledgers; its conversations go to rows/<name>.jsonl.gz."""
  config = run.config
  # The steps have compiled their own sampled conversations: it is the greedy ones that this compiles.
  size = dict(problems=config.eval.problems, seed=config.eval.seed, rows=config.rows, compiled=config.rows)
  with watchdog.phase('evaluate'):
    params = run.sampler.layout(policy)
    ledgers, rows = evaluate(run.sampler, run.task, run.grader, params, **size)
    if hosts.is_main():
      report_rows.write(run.folder.rows / f'{name}.jsonl.gz', rows)
  return ledgers


def evaluate_base(run: Run) -> Results:
  """Returns eval.json with the base's ledgers; other settings begin it anew."""
  settings = dict(problems=run.config.eval.problems, seed=run.config.eval.seed)
  known = hosts.from_main('eval.json', run.folder.read_eval)
  if known.get('settings') != settings:
    known = dict(base=evaluate_policy(run, run.base_policy(), 'base'), settings=settings)
    if hosts.is_main():
      run.folder.write_eval(known)
  return known


def evaluate_ends(run: Run, wanted: dict[str, tuple[int, Any]]) -> Results:
  """Returns eval.json with ledgers of `wanted`, step and parameters of 'final' and 'last'."""
  before = hosts.from_main('eval.json', run.folder.read_eval)
  results = {name: value for name, value in before.items() if name not in ('final', 'last')}
  for name, (step, params) in wanted.items():
    results[name] = before.get(name, {})
    if results[name].get('step') != step:
      results[name] = evaluate_policy(run, run.policy(params), name) | dict(step=step)
  if hosts.is_main():
    run.folder.write_eval(results)
  return results


def due(run: Run, params: Any, record: Results) -> Results:
  """Returns `eval` and `selection`, if due and not in `record`."""
  step, every, results = record['step'], run.config.eval.every, {}
  if every and step % every == 0 and 'eval' not in record:
    results['eval'] = evaluate_policy(run, run.policy(params), f'step{step}')
  if stages.is_measured(run.config, step) and 'selection' not in record:
    results['selection'] = measure(run, params)
  return results


def measure(run: Run, params: Any) -> Results:
  """Returns `figures` of trained parameters on the problems of config.selection, a sample each.

  They choose the best checkpoint, since returns of other rewards cannot be compared. Problems and keys are fixed.
  """
  config, settings, sampler = run.config, run.config.selection, run.sampler
  problems = run.task.problems(config.seed, 'train', range(_FIRST, _FIRST + settings.problems))
  with watchdog.phase('select'):
    params = sampler.layout(run.policy(params))
    size = rows_at_a_time(len(problems), config.rows, sampler.mesh, config.rows)
    asked = (problems, sampler.spec(), config.seed, size)
    rows = conversations(sampler, run.grader, params, *asked, decoding='selection')
    weights = settings.reward_weights, settings.bonus
    return hosts.from_main('what the best is chosen by', lambda: figures(rows, *weights))


def figures(rows: Sequence[Row], reward_weights: tuple[float, ...], bonus: tuple[float, ...]) -> Results:
  """Returns what the best is chosen by, and more of these conversations.

  `return` adds up each attempt's mean reward over rows where it is known.
  """
  verdicts, changed_B2 = report_rows.verdicts(rows), report_rows.changed_in(rows)
  parts = jnp.asarray(verdicts), jnp.array(reward_weights, jnp.float32), jnp.array(bonus, jnp.float32)
  score_BA = report_rows.scores(rows)
  score_BA = score_BA if score_BA is None else jnp.asarray(score_BA)
  known_BA, reward_BA = rewards.reward_is_known(*parts), rewards.attempt_rewards(*parts, score_BA)
  return {
    'return': float(jnp.sum(reward_BA * rewards.shares(known_BA, reward_BA.dtype))),
    'accuracy': (verdicts == Verdict.CORRECT).mean(axis=0).tolist(),
    'answer_changed': float(changed_B2[:, 1].mean()),
    'text_changed': float(changed_B2[:, 0].mean()),
  }


def evaluate_folder(
  config: RunConfig,
  *,
  samples: int,
  temperature: float,
  scaling: int,
  first_attempts: str,
  before_loading: Callable[[RunConfig, Sampler, int, list[float]], None] = lambda *_: None,
) -> tuple[Results, list[Row]]:
  """Returns the ledgers of config.model.path by decoding, and their rows; host 0 alone has them.

  `scaling` = K above 0 compares sequential with parallel sampling on 2K conversations a problem at T=0.7.
  `first_attempts` names a file; '': the model's own. `before_loading` is told the sampler, the rows at a time and the
  temperatures before weights take memory; it may refuse.

  Raises:
    UserError: model, data or file cannot be used, or `scaling` is asked of programs or reward functions.
  """
  config = pins.pinned(config)
  task, seed = tasks.open_task(config.task), config.eval.seed
  votes = not config.task.reward_weights and registry.entry(task.verifier).votes
  if scaling and not votes:
    raise ConfigError(
      f'scaling = {scaling} compares majorities, which programs and reward functions lack; use samples instead'
    )
  problems = tasks.heldout_problems(task, config.eval.problems, seed)
  problems = list({problem.id: problem for problem in problems}.values())
  # Before the devices: grader processes begin with nothing of them.
  with contextlib.closing(grading.open_grader(config, task)) as grader:
    grading.check_solutions(config, task.verifier, problems, grader)
    preflight.check_hosts(config, task)
    mesh = meshes.make_mesh(**vars(config.mesh))
    folder, first = hf.folder_of(config.model.path), None
    sampler = runs.open_sampler(config, folder, mesh)
    tasks.warn_of_special_tokens(task, sampler.chat.special_tokens)
    sampler.check(problems)
    if first_attempts:
      path = pathlib.Path(first_attempts)
      first = given_attempts.read(path, problems, sampler.chat, sampler.budgets[0])
    rows_each = rows_at_a_time(len(problems), config.rows, sampler.mesh)
    before_loading(config, sampler, rows_each, [0.0, temperature])
    params = sampler.layout(hf.read_params(folder, sampler.config, sampler.mesh, sampler.dtype, meshes.SAMPLING_RULES))

    def sampled(decoding: str, temperature: float, samples: int = 1) -> list[Row]:
      asked = (sampler, grader, params, problems, sampler.spec(temperature), seed, rows_each)
      return conversations(*asked, decoding=decoding, samples=samples, first=first)

    rows = dict(greedy=sampled('greedy', 0.0))
    rows['sampled'] = sampled('sampled', temperature, samples)
    if scaling:
      rows['scaling'] = sampled('scaling', _SCALING_TEMPERATURE, 2 * scaling)
  if not hosts.is_main():
    return {}, []
  results = {decoding: accounted(part) for decoding, part in rows.items()}
  if samples > 1:
    results['sampled']['at_k'] = test_time.at_k(test_time.samples(rows['sampled']), votes)
  if scaling:
    results['scaling']['curves'] = test_time.scaling(test_time.samples(rows['scaling']), 2 * scaling)
  return results, [row for part in rows.values() for row in part]


def evaluate(
  sampler: Sampler,
  task: tasks.Task,
  grader: pool.Grader,
  params: Any,
  *,
  problems: int,
  seed: int,
  rows: int,
  compiled: int = 0,
) -> tuple[Results, list[Row]]:
  """Returns a policy's ledgers, 'greedy' and 'sampled', and their rows, which host 0 alone has.

  `params` are from `sampler.layout`; 0 problems are all. `rows` are the most at a time, `compiled` those for which
  sampled conversations are compiled anyway (0: none); neither decides a key.
  """
  asked, results = tasks.heldout_problems(task, problems, seed), {}
  for decoding, temperature in dict(greedy=0.0, sampled=1.0).items():
    known = compiled if temperature else 0
    size = rows_at_a_time(len(asked), rows, sampler.mesh, known)
    spec = sampler.spec(temperature)
    results[decoding] = conversations(sampler, grader, params, asked, spec, seed, size, decoding=decoding)
  ledgers = hosts.from_main('an evaluation', lambda: {name: accounted(part) for name, part in results.items()})
  return ledgers, [row for part in results.values() for row in part]


def rows_at_a_time(problems: int, most: int, mesh: Mesh, compiled: int = 0) -> int:
  """Returns how many conversations are sampled at a time: calls as few as `most` allows, and filled evenly.

  A program `compiled` for some rows is used where that costs less than another: on an accelerator, whose time hardly
  depends on rows, and where at least half of its rows have a problem.
  """
  calls = -(-problems // most)
  shards = meshes.row_shards(mesh)
  size = min(most, -(-problems // (calls * shards)) * shards)
  known = compiled and (mesh.devices.flat[0].platform != 'cpu' or 2 * size >= compiled)
  return compiled if known else size


def accounted(rows: Sequence[Row]) -> Results:
  """Returns the ledger of rows; TryAgainError if the grader failed in each."""
  failed = [attempt for row in rows for attempt in row.attempts if attempt.verdict == Verdict.ERROR]
  if all(any(attempt.verdict == Verdict.ERROR for attempt in row.attempts) for row in rows):
    first = f' ({failed[0].answer})' if failed else ''
    raise TryAgainError(
      f'the grader failed on all {len(rows)} conversations of an evaluation{first}: look at its messages, at '
      'config.task.reward and at config.grading, then run the same command again'
    )
  return account(rows)


def conversations(
  sampler: Sampler,
  grader: pool.Grader,
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
  """Returns rows of `samples` conversations per problem, which host 0 alone has.

  More samples leave the first as they are. `first` is from `first_attempts.read`; None: the model's own.
  """
  key, kept = samplers.stream_key(seed, samplers.Stream.EVALUATION, 0), []
  for sample in range(samples):
    number = sample * len(problems)  # of the first row
    parts = rollouts(sampler, params, problems, key, spec, rows, first_row=number, first=first)
    for begin, mine, own, rollout in parts:
      rollout, real = meshes.fetch_rows(rollout), int((mine < len(problems) - begin).sum())
      grades = grading.grade(grader, own[:real], rollout, sampler)
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
  """Samples a conversation per problem, `rows` at a time; repeats of the last fill the last batch.

  Yields:
    problems before the batch; this host's rows of it; their problems; all hosts' rollout.
  """
  mine = meshes.local_rows(sampler.mesh, rows)
  for begin in range(0, len(problems), rows):
    watchdog.beat()
    part = list(problems[begin : begin + rows])
    part += [part[-1]] * (rows - len(part))
    own = [part[i] for i in mine]
    forced = np.stack([first[problem.id] for problem in own]) if first else None
    prompts = sampler.encoded(own)
    yield begin, mine, own, sampler.sample(params, prompts, key, spec, first_row=first_row + begin, forced=forced)
