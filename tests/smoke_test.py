"""A whole tiny run: its folder is what the README promises, and each program was compiled once."""

import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from score_jax.configs import common
from score_jax.reporting import rows
from score_jax.reporting.ledger import account
from score_jax.sampling import rollout
from score_jax.storage import hf
from score_jax.storage.run_folder import RunFolder
from score_jax.training import loop, run
from score_jax.training.update import reference_logps, update

ROOT = pathlib.Path(__file__).parent.parent
LEDGER = {'n', 'acc_t1', 'acc_t2', 'delta', 'i_to_c', 'c_to_i'}


def test_a_run_writes_its_folder_and_compiles_each_program_once(hf_folder, training_run):
  ended, programs = training_run
  folder, lines = RunFolder(ended.path), ended.metrics
  assert [(line['step'], line['stage']) for line in lines] == [
    (1, 'stage1'),
    (2, 'stage1'),
    (3, 'stage2'),
    (4, 'stage2'),
  ]
  for line in lines:
    for field in ('reward', 'accuracy', 'kl', 'truncated', 'attempt_gradient_norm', 'tokens', 'flat', 'accuracy_se'):
      assert len(line[field]) == 2, field
    assert {'i_to_c', 'c_to_i', 'mismatch', 'gradient_norm'} <= set(line)
    assert set(line['seconds']) == {'sample', 'reference', 'grade', 'update', 'record'}
    assert line['mismatch'] < 1e-5, 'sampler and trainer are the same policy'
  assert max(map(abs, lines[0]['kl'])) < 1e-5, 'the policy is the reference at step 0'

  results = ended.evaluations
  assert all(set(results[name][decoding]) >= LEDGER for name in ('base', 'final') for decoding in ('greedy', 'sampled'))
  assert hf.read_config(ended.model) == hf.read_config(hf_folder)
  for name in ('base', 'final'):
    kept = ended.rows(name)
    for decoding in ('greedy', 'sampled'):
      part = [row for row in kept if row.decoding == decoding]
      assert len(part) == 8
      assert json.loads(json.dumps(account(part))) == results[name][decoding], 'counted from its rows'
  trained = list(rows.read(folder.rows / 'train.jsonl'))
  assert [row.step for row in trained] == [step for step in (1, 2, 3, 4) for _ in range(ended.config['report']['rows'])]
  assert {line['reference'] for line in lines} == {lines[0]['reference']}, 'the base is the reference of both stages'
  assert folder.report.stat().st_size > 50_000

  # Training and sampled evaluation share one rollout; greedy evaluation is the other. Both stages share the update.
  assert programs == dict(rollout=2, reference=1, update=1)


@pytest.mark.slow
def test_a_lora_run_trains_adapters_beside_one_base_and_exports_both_ways(tmp_path):
  program_of_rollouts = rollout.program(tiny.one_device_mesh())
  for program in (program_of_rollouts, reference_logps, update):
    program.clear_cache()
  # The bundled base earns rewards, without which nothing would move.
  changes = {
    'model.path': 'bundled:countdown_base',
    'task.countdown': common.get_config().task.countdown.to_dict(),
    'sampling.prompt_tokens': 10,
    'sampling.attempt_tokens': (18, 20),
    'batch.samples': 4,
    'lora.rank': 2,
    'stages.stage2.reference': 'stage_start',
    'stages.stage2.offline_first': 0.5,
    'stages.stage2.offline_shared': True,
    'optim.learning_rate': 0.02,
  }
  config = tiny.run_config(**changes)
  opened = run.open_run(config, str(tmp_path / 'run'))
  before = jax.device_get(opened.base)
  loop.train(opened)

  lines = [json.loads(line) for line in opened.folder.metrics.read_text().splitlines()]
  assert max(map(abs, lines[0]['kl'])) < 1e-6, 'fresh adapters add nothing'
  assert max(map(abs, lines[1]['kl'])) > 1e-6
  assert max(map(abs, lines[2]['kl'])) < 1e-6, 'the reference is the adapters as the stage began'
  assert all(line['mismatch'] < 1e-5 and not line['rejected'] for line in lines)
  assert [{'on_policy', 'offline'} <= line.keys() for line in lines] == [False, False, True, True], 'of Stage II'
  assert all(line['offline']['conversations'] == 8 for line in lines[2:])
  jax.tree.map(np.testing.assert_array_equal, opened.base, before)
  # The base is evaluated by the policy's own program, with adapters that add nothing.
  assert program_of_rollouts._cache_size() == 2
  assert reference_logps._cache_size() == 2  # a reference without adapters, and one with
  assert update._cache_size() == 1
  assert np.load(opened.folder.offline / 'stage1.npy').shape == (4, 1, 18), 'one first attempt for a problem'

  step = json.loads(opened.folder.eval.read_text())['final']['step']
  trained = run.best_params(opened.folder, opened.mesh, opened.trained, str(step))
  assert all(np.any(leaf) for leaf in jax.tree.leaves(trained))
  written = hf.read_params(opened.folder.hf, opened.decoder, opened.mesh, np.dtype(np.float32))
  merged = opened.base['layers']['up'] + config.lora.scale * jnp.einsum(
    'ndr,nrf->ndf', trained['layers']['up_lora_a'], trained['layers']['up_lora_b']
  )
  np.testing.assert_allclose(written['layers']['up'], merged, atol=1e-6)
  np.testing.assert_array_equal(written['embed'], opened.base['embed'])
  for format_, files in (
    ('hf', {'model.safetensors', 'config.json', 'tokenizer.json'}),
    ('peft', {'adapter_model.safetensors'}),
  ):
    out = tmp_path / format_
    flags = [f'--run={opened.folder.path}', f'--out={out}', f'--format={format_}']
    subprocess.run([sys.executable, '-m', 'score_jax.export', *flags], check=True, cwd=ROOT)
    assert files <= {file.name for file in out.iterdir()}
  assert (tmp_path / 'hf/model.safetensors').read_bytes() == (opened.folder.hf / 'model.safetensors').read_bytes()
