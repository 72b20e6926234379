"""Model cards: what their front matter and their text say, and that they publish no path of a machine."""

import ast
import dataclasses
import json
import re

import fake_hub
import huggingface_hub
import pytest
import tiny
import tracked

from score_jax import config as configs
from score_jax.core_types import Verdict
from score_jax.reporting import ledger, model_card

BASE = 'org/base@0123456789012345678901234567890123456789'
DATA = ('hf:openai/gsm8k/main:train@abc', '/home/me/mine.jsonl')
HELDOUT = ('hf:openai/gsm8k/main:test@abc',)


def evaluated(*verdicts):
  rows = [dataclasses.replace(tracked.row(verdict=verdict), id=str(i)) for i, verdict in enumerate(verdicts)]
  return dict(sampled=ledger.account(rows))


def subject(**changes):
  fields = {
    'model.path': BASE,
    'task.name': 'gsm8k',
    'task.data.train': DATA,
    'task.data.heldout': HELDOUT,
    'task.instruction': 'There might be an error: ```look``` "again"\nand answer.',
  }
  fields |= changes.pop('fields', {})
  config = json.loads(json.dumps(configs.as_dict(tiny.run_config(**fields))))
  identity = dict(model=dict(weights='d0f4cd2a234519abffff'), data='f00d', rewards={})
  written = dict(version='0.2.0', run_id='aa-bb', config=config, identity=identity, chat_template='{{ messages }}|')
  known = dict(base=evaluated(Verdict.WRONG, Verdict.WRONG), policy=evaluated(Verdict.WRONG, Verdict.CORRECT))
  return model_card.Subject(**dict(title='me/mine', written=written, step=3, **known) | changes)


def front_matter(text):
  assert fake_hub.card_problems(text) == []
  return huggingface_hub.ModelCard(text).data


def test_the_front_matter_names_base_data_and_accuracies_by_ids_of_the_hub():
  data = front_matter(model_card.text(subject()))
  assert (data.base_model, data.datasets, data.library_name) == ('org/base', ['openai/gsm8k'], 'transformers')
  assert {'score', 'self-correction', 'jax'} <= set(data.tags)
  results = [(r.dataset_type, r.metric_type, r.metric_name, r.metric_value) for r in data.eval_results]
  name = 'accuracy of attempt {} (sampled)'
  assert results == [
    ('openai/gsm8k', 'accuracy', name.format(1), 50.0),
    ('openai/gsm8k', 'accuracy', name.format(2), 100.0),
  ]


def test_the_text_says_what_was_done_and_what_came_of_it():
  text = model_card.text(subject())
  assert '[org/base](https://huggingface.co/org/base) at commit `0123456789012345678901234567890123456789`' in text
  assert '| base | sampled | 0.0 [0.0,\xa065.8] |' in text and '| this model | sampled | 50.0 [' in text
  assert '| stage1 | 2 | 0, 1 | 0, 0 | 0.1, 0.01 | base | 0 % |' in text
  assert '| checkpoint | step 3 of 4 |' in text and '`f00d`' in text
  assert '````text\nThere might be an error: ```look``` "again"\nand answer.\n````' in text
  assert '```jinja\n{{ messages }}|\n```' in text
  assert 'report.html' not in text and '[report.html](report.html)' in model_card.text(subject(report=True))


@pytest.mark.parametrize('path', ['/home/me/models/base', '~/base', 'bundled:countdown_base'])
def test_no_path_of_a_machine_is_published(path):
  text = model_card.text(subject(fields={'model.path': path}))
  assert 'home/me' not in text and 'mine.jsonl' in text
  assert front_matter(text).base_model is None
  name = path.rpartition('/')[2]
  assert f'`{name}` (weights of sha256 `d0f4cd2a234519ab`)' in text


@pytest.mark.parametrize('changes', [{}, dict(adapters=True), dict(fields={'task.system': 'Think "well".'})])
def test_its_code_is_python_that_asks_as_training_did(changes):
  text = model_card.text(subject(example=tracked.row(text='x'), **changes))
  [code] = re.findall(r'```python\n(.*?)\n```', text.replace('````python', '```python'), re.DOTALL)
  tree = ast.parse(code)
  literals = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
  assert {'reach 7', subject().config['task']['instruction'], 6} <= set(literals)
  assert ('Think "well".' in literals) == ('fields' in changes)
  assert ('org/base' in literals) == ('adapters' in changes)
  assert front_matter(text).library_name == ('peft' if 'adapters' in changes else 'transformers')


def test_a_step_without_an_evaluation_claims_nothing():
  text = model_card.text(subject(policy={}))
  assert 'Step 3 was not evaluated.' in text and front_matter(text).eval_results is None


def test_the_figures_are_those_of_the_exported_step():
  ends = dict(base=1, final=dict(step=3, sampled='a'), last=dict(step=5, sampled='b'))
  records = [dict(step=4, eval=dict(sampled='c')), dict(step=6)]
  known = [model_card.figures_at(step, ends, records) for step in (3, 5, 4, 6)]
  assert [name for name, _ in known] == ['final', 'last', 'step4', '']
  assert [ledgers.get('sampled') for _, ledgers in known] == ['a', 'b', 'c', None]


def test_the_example_is_a_sampled_conversation_that_was_fixed_and_no_markup():
  greedy, right = tracked.row(decoding='greedy'), tracked.row(verdict=Verdict.CORRECT)
  fixed = tracked.row(text='```\n# <b>x</b>\u202e')
  assert model_card.example_of([greedy, right, fixed]) is fixed
  assert model_card.example_of([greedy, right]) is right and model_card.example_of([greedy]) is None
  assert '````text\n```\n# <b>x</b><U+202E>\n````' in model_card.text(subject(example=fixed))


def test_a_supervised_run_has_a_card_too():
  text = model_card.text(subject(fields={'mode': 'supervised', 'supervised.steps': 5, 'selection.problems': 8}))
  assert 'The method is STaR, a supervised baseline' in ' '.join(text.split()) and '| iteration1 | 5 |' in text
