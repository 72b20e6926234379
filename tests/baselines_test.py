"""Baselines and ablations that are values of stage fields, three attempts, and the making of a base, in miniature."""

import importlib
import json

import pytest
import tiny

from experiments.countdown_base import pretrain
from score_jax import config as configs
from score_jax.config import from_config_dict
from score_jax.configs import common
from score_jax.core_types import Stop
from score_jax.core_types import Verdict
from score_jax.reporting import rows
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


def test_a_base_is_made_and_sharpened(tmp_path):
  changes = {
    'mode': 'pretrain',
    'pretrain.width': 16,
    'pretrain.layers': 1,
    'pretrain.heads': 2,
    'pretrain.ffn': 16,
    'pretrain.conversations': 200,
    'pretrain.rows': 8,
    'pretrain.steps': 200,
    'pretrain.attempts': 3,
    'pretrain.rewordings': ('Look again.',),
    'pretrain.sharpen_rounds': 1,
    'pretrain.sharpen_conversations': 40,
    'pretrain.sharpen_rows': 16,
    'pretrain.sharpen_steps': 3,
    'optim.learning_rate': 1e-2,
  }
  config = tiny.run_config(**changes)
  pretrain.pretrain(config, str(tmp_path / 'run'))
  lines = [json.loads(line) for line in (tmp_path / 'run/metrics.jsonl').read_text().splitlines()]
  assert [(line['step'], line.get('phase', '')) for line in lines] == [
    (100, ''), (200, ''), (200, 'supervised'), (203, ''), (203, 'sharpened 1'),
  ]  # fmt: skip
  assert lines[1]['loss'] < 0.8 * lines[0]['loss']
  assert 0 <= lines[-1]['sampled_right'] <= 1
  assert set(lines[-1]['base']) == {'greedy', 'sampled'} and set(lines[-1]['skill']) >= {'says_wrong', 'mended'}
  evaluated = json.loads((tmp_path / 'run/eval.json').read_text())['base']
  assert round(evaluated['greedy']['acc_t1'], 4) == lines[-1]['base']['greedy']['acc_t1']
  # What it wrote is a base that runs start from.
  run = runs.open_run(tiny.run_config(**{'model.path': str(tmp_path / 'run/hf')}), str(tmp_path / 'next'))
  assert run.decoder.width == 16
  assert configs.identity(config)['pretrain']['sharpen_rounds'] == 1


def test_the_skill_of_looking_back_is_counted_from_rows():
  def row(first, second, right, then, way='sampled'):
    attempts = tuple(
      rows.Attempt(text, text, Verdict.CORRECT if good else Verdict.WRONG, Stop.END_OF_TURN, 1, 0.0)
      for text, good in ((first, right), (second, then))
    )
    return rows.Row('p', '', {}, attempts, 0.0, way, 0)

  found = pretrain.skill([
    row('1', 'wrong:2', False, True),
    row('1', 'wrong:3', False, False),
    row('1', 'right:1', False, False),
    row('1', '1', False, False),
    row('1', 'wrong:2', True, False),
    row('1', '1', True, True),
    row('1', 'wrong:2', False, True, way='greedy'),
  ])  # fmt: skip
  assert found == dict(says_wrong=0.5, says_right=0.25, missed=0.5, mended=0.5, copies=round(2 / 6, 4))
  assert pretrain.skill([]) == dict.fromkeys(('says_wrong', 'says_right', 'missed', 'mended', 'copies'))
