"""Supervised runs, whole: what they are trained on, that they go on exactly, that their folder is like any other's."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
import tiny

from score_jax.configs import common
from score_jax.errors import ConfigError, DataError
from score_jax.reporting import rows
from score_jax.storage.progress import Progress
from score_jax.training import evaluation, hooks, loop, stages
from score_jax.training import run as runs
from score_jax.training import update as updates
from score_jax.training.methods import supervised

# The bundled base, which is right often enough to give pairs.
CHANGES = {
  'mode': 'supervised',
  'task.countdown': common.get_config().task.countdown.to_dict(),
  'sampling.prompt_tokens': 10,
  'sampling.attempt_tokens': (18, 20),
  'batch.problems': 8,
  'supervised.dataset': 'star',
  'supervised.iterations': 2,
  'supervised.steps': 2,
  'supervised.problems': 24,
  'supervised.samples': 4,
  'supervised.plus': True,
  'selection.problems': 16,
  'checkpoint.every': 1,
  'report.rows': 0,
}


def opened(path, **changes):
  return runs.open_run(tiny.run_config(**CHANGES, **changes), str(path))


def lines(run):
  return [json.loads(line) for line in run.folder.metrics.read_text().splitlines()]


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """A run that nobody disturbed."""
  run = opened(tmp_path_factory.mktemp('whole') / 'run')
  loop.train(run)
  return run


def test_iterations_are_stages_and_the_folder_is_that_of_a_run(whole):
  records = lines(whole)
  assert [(line['step'], line['stage']) for line in records] == [
    (1, 'iteration1'),
    (2, 'iteration1'),
    (3, 'iteration2'),
    (4, 'iteration2'),
  ]
  assert all(line['loss'][0] == 0 < line['loss'][1] and line['gradient_norm'] > 0 for line in records)
  assert all(line['pairs'] > 16 for line in records)
  results = whole.folder.read_eval()
  by_return = {line['step']: line['selection']['return'] for line in records[2:]}
  assert results['final']['step'] == max(by_return, key=lambda step: (by_return[step], -step)), 'of the last iteration'
  assert {'base', 'final'} <= set(results)
  assert (whole.folder.hf / 'model.safetensors').exists() and whole.folder.report.stat().st_size > 30_000
  assert [row.decoding for row in rows.read(whole.folder.rows / 'final.jsonl.gz')] == ['greedy'] * 8 + ['sampled'] * 8


def training(run, state, step):
  """A run that goes on after `step` steps."""
  stage_run = stages.stage_run_at(run.config.stage_runs, step)
  return hooks.Training(run, None, state, Progress(step=step), stage_run)


def test_each_iteration_trains_from_the_base_on_the_last_models_conversations(whole):
  first, second = (supervised.read_collected(whole.folder.offline / f'iteration{i}.npz') for i in (1, 2))
  assert first.verdict.shape == second.verdict.shape == (96, 2)
  assert not np.array_equal(first.first, second.first), 'other problems, and another model'
  state = runs.initial_state(whole)
  moved = state.replace(params=jax.tree.map(lambda x: x + 1, state.params))
  begun, data = supervised.enter(training(whole, moved, 2))
  jax.tree.map(np.testing.assert_array_equal, begun.params, runs.initial_params(whole))
  again, _ = supervised.enter(training(whole, moved, 3))
  jax.tree.map(np.testing.assert_array_equal, again.params, moved.params)
  verdict = data.collected.verdict
  assert np.all(verdict[data.pairs[:, 0], 1] == 1) and np.array_equal(data.pairs[:, 0], data.pairs[:, 1])


def test_a_run_stopped_in_an_iteration_ends_as_the_one_that_was_not(whole, tmp_path):
  run = opened(tmp_path / 'run', max_steps=3)
  loop.train(run)
  kept = {path.name: path.stat().st_mtime_ns for path in run.folder.offline.iterdir()}
  run = opened(tmp_path / 'run')
  loop.train(run)
  assert {path.name: path.stat().st_mtime_ns for path in run.folder.offline.iterdir()} == kept, 'sampled once'
  assert [line | dict(seconds=0) for line in lines(run)] == [line | dict(seconds=0) for line in lines(whole)]
  mine, theirs = ((r.folder.hf / 'model.safetensors').read_bytes() for r in (run, whole))
  assert mine == theirs


def test_a_measurement_that_a_stop_cut_off_is_made_up_for(whole, tmp_path):
  shutil.copytree(whole.folder.path, tmp_path / 'run')
  run = opened(tmp_path / 'run')
  *before, last = lines(run)
  cut = {name: value for name, value in last.items() if name != 'selection'}
  run.folder.metrics.write_text(''.join(json.dumps(line) + '\n' for line in (*before, cut)))
  loop.train(run)
  assert lines(run) == [*before, last]
  assert run.folder.read_eval() == whole.folder.read_eval()


def test_nothing_to_pair_is_an_error(whole, tmp_path):
  collected = supervised.read_collected(whole.folder.offline / 'iteration1.npz')
  nothing = dataclasses.replace(collected, verdict=np.zeros_like(collected.verdict))
  run = opened(tmp_path / 'run')
  run.folder.offline.mkdir(parents=True)
  np.savez(run.folder.offline / 'iteration1.npz', **vars(nothing))
  with pytest.raises(DataError, match="none of 96 conversations gives a pair for config.supervised.dataset = 'star'"):
    supervised.enter(training(run, runs.initial_state(run), 0))
  (run.folder.offline / 'iteration1.npz').write_bytes(b'half')
  with pytest.raises(DataError, match='cannot be read .* delete it'):
    supervised.enter(training(run, runs.initial_state(run), 0))


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'supervised.dataset': 'rft'}, "dataset = 'rft' is unknown"),
    ({'supervised.iterations': 0}, 'iterations = 0 must be 1 or more'),
    ({'selection.problems': 0}, 'no training return to choose its best'),
    ({'supervised.loss_on': (False, False)}, 'loss_on = \\(False, False\\) must say'),
    (
      {'sampling.attempt_tokens': (6, 6, 6), 'selection.reward_weights': (1.0,) * 3, 'selection.bonus': (0.0,) * 3},
      'two attempts',
    ),
    ({'selection.bonus': (1.0, 10.0)}, 'the first must be 0'),
  ],
)
def test_settings_that_can_not_be_are_refused(changes, message):
  with pytest.raises(ConfigError, match=message):
    tiny.run_config(**{**CHANGES, **changes})


def test_an_update_in_parts_is_that_of_the_whole_and_sees_the_asked_tokens_alone(whole):
  data = supervised.StageContext(
    stages.stage_run_at(whole.config.stage_runs, 0), supervised.read_collected(whole.folder.offline / 'iteration1.npz'),
    np.stack([np.arange(16), np.arange(16), np.ones(16, np.int64)], axis=1),
  )  # fmt: skip
  batch = supervised.rows_of(whole, data, np.arange(16))
  spec = dataclasses.replace(whole.update_spec, group=1)

  def updated(batch, spec):
    state = runs.initial_state(whole)
    return updates.supervised_update(state, {}, batch, jax.numpy.float32(0.01), spec=spec, optimizer=whole.optimizer)

  one, metrics = updated(batch, spec)
  two, in_parts = updated(batch, dataclasses.replace(spec, micro_batches=2))
  np.testing.assert_allclose(metrics['loss_A'], in_parts['loss_A'], rtol=1e-5)
  np.testing.assert_allclose(metrics['gradient_norm'], in_parts['gradient_norm'], rtol=1e-4)
  assert int(metrics['tokens']) == int((batch.attempt == 2).sum())
  # What a first attempt's tokens are called changes nothing: they are context.
  unnamed = batch.replace(attempt=np.where(batch.attempt == 1, 0, batch.attempt).astype(np.int8))
  three, same = updated(unnamed, spec)
  assert same['loss_A'].tolist() == metrics['loss_A'].tolist()
  jax.tree.map(np.testing.assert_array_equal, one.params, three.params)


def test_the_return_that_selects_is_stage_2s():
  def row(*verdicts):
    attempts = tuple(
      rows.Attempt(text='', answer=str(v), verdict=rows.Verdict(v), stop=rows.Stop(1), tokens=1, logp=0.0)
      for v in verdicts
    )
    return rows.Row('p', '', {}, attempts, 0.0, 'selection', 0)

  # wrong-right, right-wrong, right-right, a grader's failure at first (its bonus is not known, nor its own reward).
  figures = evaluation.figures([row(0, 1), row(1, 0), row(1, 1), row(4, 1)], (1.0, 1.0), (0.0, 10.0))
  assert figures['return'] == pytest.approx((0 + 1 + 1) / 3 + (11 - 10 + 1) / 3, rel=1e-6)
  assert figures['accuracy'] == [0.5, 0.75] and figures['answer_changed'] == 0.75
