"""Baselines and ablations that are values of stage fields, and three attempts, in miniature."""

import importlib
import json

import pytest
import tiny

from score_jax.config import from_config_dict
from score_jax.configs import common
from score_jax.training import loop
from score_jax.training import run as runs

# The bundled base, which earns rewards.
BUNDLED = {
  'task.countdown': common.get_config().task.countdown.to_dict(),
  'sampling.prompt_tokens': 10,
  'sampling.attempt_tokens': (18, 20),
  'batch.samples': 4,
  'eval.problems': 8,
}


def stage_fields(module, names):
  """config.stages of a configuration file, one step each, as fields of `tiny.run_config`."""
  stages = importlib.import_module(f'configs.{module}').get_config().stages
  return {name: stages[name].to_dict() | dict(steps=1) for name in names}


def trained(path, monkeypatch, stages, **changes):
  """Lines of a run through `stages`."""
  fresh = common.get_config

  def with_stages():
    config = fresh()
    for name, fields in stages.items():
      config.stages[name] = common.stage1()
      config.stages[name].update(fields)
    return config

  monkeypatch.setattr(common, 'get_config', with_stages)
  run = runs.open_run(tiny.run_config(**{**BUNDLED, 'schedule': tuple(stages), **changes}), str(path))
  loop.train(run)
  return run, [json.loads(line) for line in run.folder.metrics.read_text().splitlines()]


@pytest.mark.slow
def test_single_turn_and_naive_multi_turn_train_the_attempts_that_they_pay(tmp_path, monkeypatch):
  stages = stage_fields('single_turn', ['single_turn']) | stage_fields('multi_turn', ['final', 'sum', 'episode'])
  run, lines = trained(tmp_path / 'run', monkeypatch, stages, **{'selection.problems': 8})
  moved = {line['stage']: [norm > 0 for norm in line['attempt_gradient_norm']] for line in lines}
  assert moved == dict(single_turn=[True, False], final=[False, True], sum=[True, True], episode=[True, True])
  for line in lines:
    right = line['accuracy']
    assert line['reward'] == pytest.approx(
      [r * p for r, p in zip(right, stages[line['stage']]['reward_weights'], strict=True)]
    )
  assert [set(line['selection']) for line in lines] == [{'return', 'accuracy', 'answer_changed', 'text_changed'}] * 4
  final = run.folder.read_eval()['final']['step']
  assert final == 4, 'the best is of the last stage, however good the others were'


@pytest.mark.slow
def test_three_attempts_hold_the_first_two_near_what_the_stage_before_has_made(tmp_path, monkeypatch):
  names = ['stage1a', 'stage1b', 'stage2']
  stages = stage_fields('three_attempts', names)
  changes = {
    'sampling.attempt_tokens': (18, 20, 20),
    'selection.reward_weights': (1.0,) * 3,
    'selection.bonus': (0.0, 10.0, 10.0),
    'optim.learning_rate': 3e-3,
    'loss.attempt_gradient_norms': False,
    'stages.stage2.steps': 1,
  }
  _, lines = trained(tmp_path / 'run', monkeypatch, stages, **changes)
  assert [line['stage'] for line in lines] == names
  base, begun, again = (line['reference'] for line in lines)
  assert base == again != begun, 'I(b) is held by the policy of I(a), II by the base'
  assert max(map(abs, lines[1]['kl'])) < 1e-5 < max(map(abs, lines[2]['kl']))
  assert all(len(line['accuracy']) == 3 for line in lines)


@pytest.mark.parametrize('name', ['single_turn', 'multi_turn', 'three_attempts', 'star', 'pair_sft'])
def test_presets_spend_what_the_quickstart_spends(name):
  run = from_config_dict(importlib.import_module(f'configs.{name}').get_config())
  quick = from_config_dict(importlib.import_module('configs.quickstart').get_config())
  if name == 'three_attempts':
    assert run.total_steps == quick.total_steps + 30  # a stage more
    return
  assert run.total_steps == quick.total_steps
  if run.mode == 'supervised':
    sampled = run.supervised.iterations * run.supervised.problems * run.supervised.samples
    assert sampled == quick.total_steps * quick.rows
