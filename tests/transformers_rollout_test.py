"""Greedy two-attempt answers of the compiled rollout against transformers' own `generate`, ids in and ids out."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from experiments.countdown_base import mixture as countdown_base
from score_jax import config as configs
from score_jax.configs import common
from score_jax.core_types import Stop
from score_jax.sampling import sampler as samplers
from score_jax.storage import hf, hf_export
from score_jax.tasks import chat as chats
from score_jax.tasks import countdown
from score_jax.tasks.countdown import CountdownSpec
from score_jax.tasks.tokenizer import load_tokenizer

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')


@dataclasses.dataclass(frozen=True)
class Case:
  """A model folder ('' is a tiny random one) and the problems it is asked."""

  folder: str
  problems: int
  spec: CountdownSpec
  prompt_tokens: int
  budgets: tuple[int, ...]


DEFAULT = configs.from_config_dict(common.get_config())
CASES = {
  'tiny': Case(folder='', problems=20, spec=tiny.SPEC, prompt_tokens=9, budgets=(4, 6)),
  'bundled': Case(
    folder=DEFAULT.model.path,
    problems=50,
    spec=DEFAULT.task.countdown,
    prompt_tokens=DEFAULT.sampling.prompt_tokens,
    budgets=DEFAULT.sampling.attempt_tokens,
  ),
}


@dataclasses.dataclass(frozen=True)
class Answers:
  """What the package answered: one rollout on the host, the chat that it used and each row's prompt ids."""

  folder: str
  chat: chats.Chat
  budgets: tuple[int, ...]
  prompts: list[list[int]]
  tokens: np.ndarray
  attempt: np.ndarray
  stop: np.ndarray

  def sampled(self, b, i):
    return self.tokens[b][self.attempt[b] == i + 1].tolist()


def eager_to_stop(hf_folder, folder):
  """The tiny model with larger head rows for end-of-turn and ';', both stops: it then ends in every way."""
  config = hf.read_config(hf_folder)
  params = jax.tree.map(np.array, hf.read_params(hf_folder, config, tiny.one_device_mesh(), jnp.float32))
  vocabulary = tiny.tokenizer().get_vocab()
  stops = [vocabulary[countdown_base.END], vocabulary[';']]
  params['head'][stops] *= np.array([[1.5], [3]], np.float32)
  hf_export.write_folder(folder, params, config, source=hf_folder, dtype=np.dtype(np.float32))
  (folder / 'generation_config.json').write_text(json.dumps(dict(eos_token_id=stops)))
  return folder


@pytest.fixture(scope='module', params=['tiny', pytest.param('bundled', marks=pytest.mark.slow)])
def answers(request, hf_folder, tmp_path_factory):
  """Greedy conversations of a case."""
  case = CASES[request.param]
  if case.folder:
    folder = hf.folder_of(case.folder)
  else:
    folder = eager_to_stop(hf_folder, tmp_path_factory.mktemp('greedy') / 'hf')
  tokenizer = load_tokenizer(folder)
  chat = chats.open_chat(
    folder,
    tokenizer,
    system='',
    examples=(),
    instructions=(tiny.INSTRUCTION,),
    prompt_tokens=case.prompt_tokens,
    date=tiny.DATE,
  )
  config = hf.read_config(folder)
  sampler = samplers.Sampler(tiny.one_device_mesh(), config, chat, case.budgets, jnp.float32)
  problems = [countdown.problem(case.spec, 3, 'heldout', i) for i in range(case.problems)]
  params = sampler.layout(hf.read_params(folder, config, tiny.one_device_mesh(), jnp.float32))
  rollout = sampler.sample(params, sampler.encoded(problems), jax.random.key(0), sampler.spec(temperature=0.0))
  tokens, attempt, stop = jax.device_get((rollout.tokens, rollout.attempt, rollout.stop))
  prompts = [chat.prompt_ids(problem) for problem in problems]
  return Answers(str(folder), chat, case.budgets, prompts, tokens, attempt, stop)


def test_greedy_attempts_equal_those_of_transformers(answers):
  model = transformers.AutoModelForCausalLM.from_pretrained(answers.folder, dtype=torch.float32)
  end = answers.chat.end_of_turn

  def generate(ids, budget):
    prompt = torch.tensor([ids])
    out = model.generate(
      prompt,
      attention_mask=torch.ones_like(prompt),
      do_sample=False,
      max_new_tokens=budget,
      eos_token_id=list(answers.chat.stops),
      pad_token_id=answers.chat.pad,
    )
    return out[0, len(ids) :].tolist()

  for b, ids in enumerate(answers.prompts):
    for i, budget in enumerate(answers.budgets):
      expected = generate(ids, budget)
      assert answers.sampled(b, i) == expected, f'row {b}, attempt {i + 1}'
      feed = answers.chat.separators[i] if i < len(answers.chat.separators) else ()
      ids = ids + expected + list(feed[1:] if expected[-1] == end else feed)


def test_the_answers_end_by_budget_by_end_of_turn_and_by_another_stop(answers):
  ways = {Stop.BUDGET, Stop.END_OF_TURN, Stop.OTHER} if len(answers.chat.stops) > 1 else {Stop.END_OF_TURN}
  assert ways <= set(answers.stop.ravel().tolist())


def test_end_of_turn_is_fed_unscored_after_an_attempt_that_did_not_sample_it(answers):
  end, feed = answers.chat.end_of_turn, list(answers.chat.separators[0])
  for row, labels, stop in zip(answers.tokens, answers.attempt, answers.stop, strict=True):
    last = np.flatnonzero(labels == 1)[-1]
    sampled_end = stop[0] == Stop.END_OF_TURN
    assert (row[last] == end) == sampled_end
    fed = feed[1:] if sampled_end else feed
    assert row[last + 1 : last + 1 + len(fed)].tolist() == fed
    assert not labels[last + 1 : last + 1 + len(fed)].any()
    assert labels[last + 1 + len(fed)] == 2
