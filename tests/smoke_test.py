"""A whole tiny run."""

import json

import tiny

from score_jax.training import loop
from score_jax.training import run


def test_whole_run(hf_folder, tmp_path):
  config = tiny.run_config(**{'model.path': str(hf_folder)})
  loop.train(run.open_run(config, str(tmp_path / 'run')))
  lines = [json.loads(line) for line in (tmp_path / 'run/metrics.jsonl').read_text().splitlines()]
  assert [line['stage'] for line in lines] == ['stage1'] * 2 + ['stage2'] * 2
