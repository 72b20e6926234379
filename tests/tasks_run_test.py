"""Short runs of the published tasks with a tiny random model: steps complete, whatever it writes and whoever dies."""

import json
import os
import signal

import pytest
import tiny

from score_jax.configs import common
from score_jax.errors import ConfigError, DataError
from score_jax.tasks import prompts, templates
from score_jax.training import loop
from score_jax.training import run as runs

CHANGES = {
  'model.dtype': 'float32',
  'sampling.prompt_tokens': 700,
  'sampling.attempt_tokens': (6, 6),
  'batch.problems': 2,
  'batch.samples': 4,
  'stages.stage1.steps': 1,
  'stages.stage2.steps': 1,
  'eval.problems': 0,
}
MATH500 = 'What is the smallest positive perfect cube that can be written as the sum of three consecutive integers?'
HUMANEVAL = dict(
  task_id='HumanEval/0', prompt='def f():\n  """One."""\n', entry_point='f', test='def check(c):\n  assert c() == 1'
)


def mbpp_row(number):
  code, tests = f'def f(): return {number}', [f'assert f() == {number}']
  return dict(text=f'Task {number}.', code=code, task_id=number, test_setup_code='', test_list=tests)


ROWS = {  # task -> training rows, held-out rows
  'gsm8k': ([dict(question=f'{i}?', answer=f'#### {i}') for i in range(3)], [dict(question='9?', answer='#### 9')]),
  'math': ([dict(problem=f'{i}?', solution=f'\\boxed{{{i}}}') for i in range(3)], [dict(problem=MATH500, answer='27')]),
  'mbpp': ([mbpp_row(i) for i in (2, 3, 4, 601, 602)], [HUMANEVAL]),
}


@pytest.fixture(scope='module')
def byte_folder(tmp_path_factory):
  """A tiny random model that reads and writes bytes."""
  tokens = tiny.byte_tokenizer(templates.named('bundled:chatml'))
  config = tiny.decoder_config('llama', vocab=len(tokens), max_positions=2048)
  return tiny.write_hf_folder(tmp_path_factory.mktemp('bytes') / 'tiny', config, tokens=tokens)


def opened(tmp_path, byte_folder, task, **changes):
  data = {}
  for split, rows in zip(('train', 'heldout'), ROWS[task], strict=True):
    path = tmp_path / f'{split}.jsonl'
    path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
    data[split] = (str(path),)
  fields = {
    'model.path': str(byte_folder),
    'task.name': task,
    'task.data': data,
    'task.instruction': prompts.MATH_AGAIN,
  }
  if task == 'mbpp':
    fields |= {'task.evaluate': 'humaneval', 'task.instruction': prompts.CODE_AGAIN}
  return runs.open_run(tiny.run_config(**CHANGES | fields | changes), str(tmp_path / 'run'))


@pytest.mark.parametrize(
  'task', ['mbpp', *(pytest.param(task, marks=pytest.mark.slow) for task in ROWS if task != 'mbpp')]
)
def test_a_short_run(tmp_path, byte_folder, task):
  run = opened(tmp_path, byte_folder, task)
  victims = list(run.grader.pids)
  for pid in victims:
    os.kill(pid, signal.SIGKILL)
  loop.train(run)
  lines = [json.loads(line) for line in run.folder.metrics.read_text().splitlines()]
  assert [line['step'] for line in lines] == [1, 2]
  for line in lines:
    counts = line['verdicts']
    assert all(sum(counts[kind][attempt] for kind in counts) == 8 for attempt in (0, 1))
    assert counts['error'] == [0, 0], 'a killed grader costs a retry and nothing else'
    assert counts['correct'] == [0, 0]
  evaluated = json.loads(run.folder.eval.read_text())
  assert evaluated['base']['greedy']['n'] == 1
  assert set(run.grader.pids).isdisjoint(victims)
  run.grader.close()


@pytest.mark.parametrize('split', ['train', 'heldout'])
def test_a_long_prompt_is_told_before_the_first_step(tmp_path, byte_folder, monkeypatch, split):
  rows = dict(zip(('train', 'heldout'), map(list, ROWS['gsm8k']), strict=True))
  rows[split].append(dict(question='long' * 200, answer='#### 1'))
  monkeypatch.setitem(ROWS, 'gsm8k', tuple(rows.values()))
  with pytest.raises(DataError, match=r'problem gsm8k/\w+: its prompt has \d+ tokens; raise config.sampling.prompt'):
    opened(tmp_path, byte_folder, 'gsm8k')
  assert not (tmp_path / 'run').exists()


def test_a_token_beyond_the_model_is_told_before_the_first_step(tmp_path, byte_folder, monkeypatch):
  tokens = tiny.byte_tokenizer(templates.named('bundled:chatml'))
  tokens.add_tokens(['<new>'])
  config = tiny.decoder_config('llama', vocab=len(tokens) - 1, max_positions=2048)
  folder = tiny.write_hf_folder(tmp_path / 'model', config, tokens=tokens)
  train, heldout = ROWS['gsm8k']
  monkeypatch.setitem(ROWS, 'gsm8k', (train + [dict(question='<new>?', answer='#### 1')], heldout))
  with pytest.raises(DataError, match=r"problem gsm8k/\w+: its prompt has token \d+ \('<new>'\), but the model has"):
    opened(tmp_path, folder, 'gsm8k')


def test_what_is_asked_for_and_not_there_is_told_before_anything_is_written(tmp_path, byte_folder):
  with pytest.raises(ConfigError, match='config.eval.problems = 5, but there are 1'):
    opened(tmp_path, byte_folder, 'gsm8k', **{'eval.problems': 5})
  with pytest.raises(ConfigError, match='config.task.data.train'):
    opened(tmp_path, byte_folder, 'gsm8k', **{'task.name': 'humaneval', 'task.data': dict(train=(), heldout=())})
  with pytest.raises(ConfigError, match='config.eval.problems = 0 means all'):
    runs.open_run(tiny.run_config(**{'eval.problems': 0}), str(tmp_path / 'run'))
  assert not (tmp_path / 'run').exists()


def test_presets_carry_the_papers_numbers():
  from score_jax.config import from_config_dict
  from score_jax.configs import gsm8k_qwen25_0p5b, math_gemma2_2b, math_qwen25_1p5b, mbpp_qwen25_coder_1p5b

  for module, steps, rows, rate, beta2 in (
    (math_gemma2_2b, 3000, 512, 5e-6, 0.1),
    (math_qwen25_1p5b, 3000, 512, 5e-6, 0.1),
    (mbpp_qwen25_coder_1p5b, 1500, 128, 1e-5, 0.25),
  ):
    config = from_config_dict(module.get_config())
    assert (config.total_steps, config.rows, config.optim.learning_rate) == (steps, rows, rate)
    first, second = config.stage_runs
    assert (first.reward_weights, first.bonus, first.kl_weights) == ((0.0, 1.0), (0.0, 0.0), (beta2, 0.01))
    assert (second.reward_weights, second.bonus, second.kl_weights) == ((1.0, 1.0), (0.0, 10.0), (0.01, 0.01))
    assert second.optim.learning_rate == rate
  assert from_config_dict(gsm8k_qwen25_0p5b.get_config()).task.name == 'gsm8k'
  assert from_config_dict(common.get_config()).task.name == 'countdown'


def test_the_papers_prompts_are_its_words():
  sentence = (
    'At the end of the Solution, when you give your final answer, write it in the form "Final Answer: The final answer '
    'is $answer$. I hope it is correct."'
  )
  first, again, code = prompts.MATH_FIRST, prompts.MATH_AGAIN, prompts.CODE_AGAIN
  assert first == (
    'You are a math expert. When you respond, respond only with the Solution of the final Problem, thinking step '
    'by step. ' + sentence
  )
  assert again == (
    'There might be an error in the solution above because of lack of understanding of the question. Please correct '
    'the error, if any, and rewrite the solution. Only output the final solution! ' + sentence
  )
  assert code == (
    '# There might be an error in the code above because of lack of understanding of the question. Please correct '
    'the error, if any, and rewrite the solution. Only output the final correct Python program!'
  )
