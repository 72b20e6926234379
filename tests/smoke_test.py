"""A whole tiny run: its folder is what the README promises, and each program was compiled once."""

import json

import tiny

from score_jax.sampling.rollout import rollout
from score_jax.storage import hf
from score_jax.training import loop
from score_jax.training import run
from score_jax.training.update import update

LEDGER = {'n', 'acc_t1', 'acc_t2', 'delta', 'i_to_c', 'c_to_i'}


def test_a_run_writes_its_folder_and_compiles_each_program_once(hf_folder, tmp_path):
  rollout.clear_cache()
  update.clear_cache()
  config = tiny.run_config(**{'model.path': str(hf_folder), 'stages.stage2.offline_first': 0.5})
  opened = run.open_run(config, str(tmp_path / 'run'))
  loop.train(opened)

  lines = [json.loads(line) for line in opened.folder.metrics.read_text().splitlines()]
  assert [(line['step'], line['stage']) for line in lines] == [
    (1, 'stage1'),
    (2, 'stage1'),
    (3, 'stage2'),
    (4, 'stage2'),
  ]
  for line in lines:
    for field in ('reward', 'accuracy', 'kl', 'truncated', 'attempt_gradient_norm', 'tokens'):
      assert len(line[field]) == 2, field
    assert {'i_to_c', 'c_to_i', 'mismatch', 'gradient_norm'} <= set(line)
    assert set(line['seconds']) == {'problems', 'sample', 'grade', 'update'}
    assert line['mismatch'] < 1e-5, 'sampler and trainer are the same policy'
  assert max(map(abs, lines[0]['kl'])) < 1e-5, 'the policy is the reference at step 0'

  results = json.loads(opened.folder.eval.read_text())
  assert all(set(results[name][way]) >= LEDGER for name in ('base', 'final') for way in ('greedy', 'sampled'))
  assert hf.read_config(opened.folder.hf) == opened.decoder

  # Training and sampled evaluation share one rollout; greedy evaluation is the other. Both stages share the update.
  assert rollout._cache_size() == 2
  assert update._cache_size() == 1
