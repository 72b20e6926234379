"""`python -m score_jax.inspect`: what it says of a folder, and its exit code."""

import json
import pathlib
import subprocess
import sys

import pytest
import tiny

from score_jax.models.shapes import SHAPES
from score_jax.storage import inspection

ROOT = pathlib.Path(__file__).parent.parent


def inspected(folder, **changes):
  settings = dict(chat_template='', instruction=tiny.INSTRUCTION, date=tiny.DATE)
  shown, obstacle = inspection.inspect_folder(str(folder), **settings | changes)
  facts = {}
  for label, text in shown:
    facts.setdefault(label, []).append(text)
  return {label: '\n'.join(texts) for label, texts in facts.items()}, obstacle


def test_a_trainable_folder(hf_folder):
  facts, obstacle = inspected(hf_folder)
  assert obstacle == ''
  assert facts['family'] == 'llama (LlamaForCausalLM)'
  assert '2 layers of width 16; 4 query and 2 key/value heads of 4; feed-forward 32 (silu)' in facts['shape']
  # embed and head 61 x 16; a layer: q, o 16 x 16, k, v 16 x 8, three of 16 x 32, two norms; the final norm.
  total = 2 * 61 * 16 + 2 * (2 * 256 + 2 * 128 + 3 * 512 + 32) + 16
  assert facts['parameters'].startswith(f'{total:,}, of them 976 in the embedding and 976 in the output head')
  assert facts['stored'] == f'21 in float32; {4 * total / 1000:.3g} kB in 1 file'
  assert facts['weights'] == f'{4 * total / 1000:.3g} kB in float32, {2 * total / 1000:.3g} kB in bfloat16'
  assert facts['training'].startswith(f'{28 * total / 1000:.3g} kB')
  assert facts['cache'] == '64 B a token in bf16'  # 2 x 2 layers x 2 heads x 4 x 2 bytes
  assert facts['stops'] == "1 '<|end|>' ends a turn"
  assert facts['between'].startswith("'<|end|><|user|>")


def test_adapters_cost_rank_times_inputs_and_outputs(tmp_path):
  (tmp_path / 'config.json').write_text(json.dumps(SHAPES['qwen2.5-0.5b']))
  facts, obstacle = inspected(tmp_path)
  per_layer = 16 * (2 * (896 + 896) + 2 * (896 + 128) + 3 * (896 + 4864))
  assert f'({24 * per_layer:,} trained)' in facts['with LoRA']
  assert 'weight file model.safetensors is missing' in obstacle


def test_the_first_obstacle_is_named_and_what_could_be_read_is_shown(hf_folder, tmp_path):
  for file in hf_folder.iterdir():
    if file.name != 'tokenizer.json':
      (tmp_path / file.name).write_bytes(file.read_bytes())
  facts, obstacle = inspected(tmp_path)
  assert 'no tokenizer' in obstacle
  assert {'family', 'stored', 'training'} <= set(facts)
  assert 'template' not in facts


def test_another_template_can_be_tried(hf_folder):
  _, obstacle = inspected(hf_folder, chat_template='bundled:chatml')
  assert 'chat template' in obstacle
  _, obstacle = inspected(hf_folder, chat_template='bundled:no_such')
  assert 'bundled:no_such' in obstacle


@pytest.mark.parametrize('folder', ['bundled:countdown_base', 'no_such_folder'])
def test_the_door_prints_a_verdict_and_exits_by_it(folder):
  done = subprocess.run(
    [sys.executable, '-m', 'score_jax.inspect', folder], cwd=ROOT, capture_output=True, text=True, check=False
  )
  lines = done.stdout.strip().splitlines()
  last = next(line for line in reversed(lines) if line.startswith('trainable'))
  if folder.startswith('bundled'):
    assert (done.returncode, last.split()[1]) == (0, 'yes')
  else:
    assert (done.returncode, last.split()[1]) == (65, 'no:')
  assert 'Traceback' not in done.stderr
