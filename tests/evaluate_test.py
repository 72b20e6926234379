"""What `score_jax.evaluate` can ask of a model: more attempts, several samples, given first attempts, other words."""

import importlib
import json
import pathlib

from absl import flags
from absl.testing import flagsaver
import pytest
import tiny

import score_jax
from score_jax.core_types import Stop, Verdict
from score_jax.errors import ConfigError, DataError, TryAgainError
from score_jax.reporting import rows
from score_jax.tasks import prompts
from score_jax.training import evaluation, first_attempts
from score_jax.training import run as runs

command = importlib.import_module('score_jax.evaluate')  # its name in the package is the public function's too


@pytest.fixture(autouse=True)
def parsed():
  """Flags at their defaults."""
  flags.FLAGS.mark_as_parsed()
  with flagsaver.flagsaver():
    yield


@pytest.fixture(scope='module')
def config(hf_folder):
  return tiny.run_config(**{'model.path': str(hf_folder), 'eval.problems': 6})


def settings(monkeypatch, **arguments):
  """The configuration that an evaluation with these arguments has."""
  passed = []
  monkeypatch.setattr(evaluation, 'evaluate_folder', lambda config, **_: passed.append(config) or ({}, []))
  score_jax.evaluate(tiny.config_dict(), **arguments)
  return passed[0]


def test_more_attempts_repeat_the_last_budget(monkeypatch):
  budgets = {'sampling.attempt_tokens': (6, 9)}
  assert settings(monkeypatch, attempts=10, **budgets).sampling.attempt_tokens == (6, *[9] * 9)
  assert settings(monkeypatch, attempts=2, **budgets) == settings(monkeypatch, **budgets)
  with pytest.raises(ConfigError, match='attempts = 1: give 2 or more'):
    settings(monkeypatch, attempts=1)


def test_an_instruction_is_a_name_or_a_text(monkeypatch):
  for name, text in (('paper_math', prompts.MATH_AGAIN), ('self_refine', prompts.SELF_REFINE), ('Again.', 'Again.')):
    assert settings(monkeypatch, instruction=name).task.instruction == text


def test_samples_scaling_attempts_and_given_first_attempts_together(config, hf_folder, tmp_path):
  sampler = runs.open_sampler(config, pathlib.Path(config.model.path), tiny.one_device_mesh())
  problems = evaluate_problems(config)
  texts = ['1+1=2', '9-1=8', '4;4', '', '7', '5-5=0']  # the last fills its budget but for its end
  file = tmp_path / 'first.jsonl'
  file.write_text(''.join(json.dumps(dict(id=p.id, text=t)) + '\n' for p, t in zip(problems, texts, strict=True)))
  arguments = dict(attempts=3, samples=2, scaling=1, first_attempts=file, **{'eval.problems': 6})
  evaluated = score_jax.evaluate(tiny.config_dict(), model=hf_folder, **arguments)
  result, kept = evaluated.results, evaluated.rows
  assert {(row.decoding, len([r for r in kept if r.decoding == row.decoding])) for row in kept} == {
    ('greedy', 6),
    ('sampled', 12),
    ('scaling', 12),
  }
  given = dict(zip((p.id for p in problems), texts, strict=True))
  for row in kept:
    assert len(row.attempts) == 3
    assert row.attempts[0].text == given[row.id]
    assert row.attempts[0].tokens == len(sampler.chat.prompt_template.ids(given[row.id])) + 1, 'its end is part of it'
  assert any(row.attempts[1].text for row in kept)
  assert result['sampled'] | {'at_k': 0} == json.loads(
    json.dumps(evaluation.accounted([row for row in kept if row.decoding == 'sampled']) | {'at_k': 0})
  )
  assert result['sampled']['at_k']['k'] == 2 and set(result['sampled']['at_k']) == {'k', 'problems', 't1', 't3'}
  assert [p['samples'] for p in result['scaling']['curves']['parallel']] == [2]
  first, second = ([row for row in kept if row.decoding == 'sampled' and row.sample == k] for k in (0, 1))
  assert [row.id for row in first] == [row.id for row in second] == [p.id for p in problems]
  assert [row.attempts[1:] for row in first] != [row.attempts[1:] for row in second]


def test_an_evaluation_that_could_not_be_graded_is_to_be_tried_again():
  graded = row_of(Verdict.CORRECT, Verdict.WRONG)
  failed = row_of(Verdict.WRONG, Verdict.ERROR)
  assert evaluation.accounted([graded, failed])['errors'] == 1
  with pytest.raises(TryAgainError, match=r'grader failed on all 2 conversations of an evaluation \(a\): look'):
    evaluation.accounted([failed, failed])


def row_of(*verdicts):
  """A row with these verdicts."""
  attempts = tuple(
    rows.Attempt(text='a', answer='a', verdict=verdict, stop=Stop.END_OF_TURN, tokens=1, logp=0.0)
    for verdict in verdicts
  )
  return rows.Row('1', 'q', {}, attempts, edit_ratio=0.0, decoding='greedy', sample=0)


def evaluate_problems(config):
  from score_jax.tasks import heldout_problems, open_task

  return heldout_problems(open_task(config.task), config.eval.problems, config.eval.seed)


def test_first_attempts_are_read_from_an_evaluation_and_mistakes_are_named(config, tmp_path):
  chat = runs.open_sampler(config, pathlib.Path(config.model.path), tiny.one_device_mesh()).chat
  problems = evaluate_problems(config)[:1]
  path, id_ = tmp_path / 'rows.jsonl', problems[0].id

  def read(row):
    path.write_text(json.dumps(row) + '\n')
    return first_attempts.read(path, problems, chat, 6)[id_].tolist()

  assert read(dict(id=id_, attempts=[dict(text='1+1=2'), dict(text='3')])) == read(dict(id=id_, text='1+1=2'))
  ids = chat.prompt_template.ids('1+1=2')
  assert read(dict(id=id_, text='1+1=2')) == [*ids, chat.end_of_turn, *[-1] * (5 - len(ids))]
  full = '1+1=2;'
  assert len(chat.prompt_template.ids(full)) == 6 and read(dict(id=id_, text=full)) == chat.prompt_template.ids(full)
  with pytest.raises(DataError, match=r'7 tokens, more than config.sampling.attempt_tokens\[0\] = 6'):
    read(dict(id=id_, text=full + '2'))
  with pytest.raises(DataError, match=r"holds '<\|end\|>', which would end the attempt"):
    read(dict(id=id_, text='1<|end|>2'))
  with pytest.raises(DataError, match='no first attempt for 1 of 1 problems'):
    read(dict(id='other', text='1'))
  with pytest.raises(DataError, match='a row must have "id" and "text"'):
    read(dict(id=id_))


def test_results_have_a_folder_before_anything_is_computed(tmp_path):
  (tmp_path / 'config.json').write_text('{}')
  rows.write(tmp_path / 'mine/rows/a.jsonl.gz', [])
  for flags_, message in (
    (dict(workdir=str(tmp_path)), 'is the folder of a run'),
    (dict(workdir=str(tmp_path / 'mine'), name='a'), "has an evaluation 'a' already"),
    (dict(name='../a'), "--name='../a': use letters"),
    (dict(output=str(tmp_path / 'none/a.json')), 'there is no such folder'),
  ):
    with flagsaver.flagsaver(**flags_), pytest.raises(ConfigError, match=message):
      command._check_outputs()
