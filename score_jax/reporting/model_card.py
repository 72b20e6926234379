# SPDX-License-Identifier: Apache-2.0
"""The model card of an exported policy: README.md, whose front matter the hub reads.

It says what the policy comes from, what was done, what came of it and how it is asked again. A card is published, so
no path of a machine is in it, and texts of a model stand in blocks of code.
"""

from collections.abc import Iterable, Sequence
import dataclasses
import itertools
import json
import os
import re
import textwrap
from typing import Any

import huggingface_hub

from score_jax import hub
from score_jax.core_types import Verdict
from score_jax.reporting.plain_text import sanitize
from score_jax.reporting.rows import Json, Row

NAME = 'README.md'
_TAGS = ('score', 'self-correction', 'reinforcement-learning', 'jax', 'score_jax')
_PAPER = 'arXiv:2409.12917'
_METHODS = {'star': 'STaR', 'sft': 'Pair-SFT'}  # by config.supervised.dataset
_DECODINGS = ('greedy', 'sampled')
_TEXT = 1500  # characters of an example's text


@dataclasses.dataclass(frozen=True)
class Subject:
  """What a card is about.

  Attributes:
    written: the run's config.json.
    step: of the checkpoint.
    base: the base's ledgers by decoding; {}: unknown.
    policy: the policy's, counted at that step; {}: it was not evaluated.
    example: a conversation of the policy to show.
    adapters: whether the folder holds adapters alone.
    report: whether report.html lies beside the card.
  """

  title: str
  written: Json
  step: int
  base: Json
  policy: Json
  example: Row | None = None
  adapters: bool = False
  report: bool = False

  @property
  def config(self) -> Json:
    return self.written['config']


def text(subject: Subject) -> str:
  """Returns README.md."""
  parts = [_opening(subject), *_results(subject), *_example(subject), _use(subject), _training(subject), _data(subject)]
  return f'---\n{front_matter(subject).to_yaml().strip()}\n---\n\n' + '\n\n'.join(parts) + '\n'


def front_matter(subject: Subject) -> huggingface_hub.ModelCardData:
  """Returns the metadata: a base and data sets of the hub, the accuracies as model-index."""
  repo, (kind, dataset) = _base_repo(subject.config), _heldout(subject.config)
  results = [
    huggingface_hub.EvalResult(
      task_type='text-generation',
      dataset_type=kind,
      dataset_name=dataset,
      metric_type='accuracy',
      metric_name=f'accuracy of attempt {attempt} ({decoding})',
      metric_value=round(100 * ledger[f'acc_t{attempt}'], 2),
    )
    for decoding, ledger in _ledgers(subject.policy)
    for attempt in _attempts(ledger)
  ]
  datasets = dict.fromkeys(match[1] for name in _names(subject.config) if (match := hub.data_id(name)))
  return huggingface_hub.ModelCardData(
    base_model=repo.name if repo else None,
    library_name='peft' if subject.adapters else 'transformers',
    pipeline_tag='text-generation',
    tags=[*_TAGS, *(['lora'] if subject.adapters else []), _PAPER.lower()],
    datasets=list(datasets) or None,
    model_name=subject.title if results else None,
    eval_results=results or None,
  )


def example_of(rows: Iterable[Row]) -> Row | None:
  """Returns the first sampled conversation that was fixed, else the first that was kept right."""
  known: dict[Verdict, Row] = {}
  for row in rows:
    if row.decoding == 'sampled' and row.attempts[-1].verdict == Verdict.CORRECT:
      known.setdefault(row.attempts[0].verdict, row)
  return known.get(Verdict.WRONG) or known.get(Verdict.CORRECT)


def figures_at(step: int, evaluations: Json, records: Sequence[Json]) -> tuple[str, Json]:
  """Returns the name and the ledgers of the evaluation of a step, of eval.json or a line of metrics.jsonl; ('', {})."""
  for name in ('final', 'last'):
    if evaluations.get(name, {}).get('step') == step:
      return name, evaluations[name]
  known = (record['eval'] for record in records if record['step'] == step and 'eval' in record)
  return (f'step{step}', ledgers) if (ledgers := next(known, None)) else ('', {})


def _opening(subject: Subject) -> str:
  config = subject.config
  supervised = config['mode'] == 'supervised'
  if supervised:
    method = f'{_METHODS[config["supervised"]["dataset"]]}, a supervised baseline of SCoRe'
  else:
    method = 'reinforcement learning over whole conversations (SCoRe)'
  what = 'Adapters (LoRA) for' if subject.adapters else 'Trained from'
  lines = [
    f'{what} {_base(subject)} to correct its own answers: it answers, is asked to check, and answers again. No word '
    f'says whether the first answer was right. The method is {method}, [{_PAPER}](https://arxiv.org/abs/'
    f'{_PAPER.partition(":")[2]}), with score_jax {subject.written.get("version", "")}.'
  ]
  return f'# {subject.title}\n\n{_wrapped(" ".join(lines))}'


def _results(subject: Subject) -> list[str]:
  config = subject.config
  if not _ledgers(subject.policy):
    return ['## Results', f'Step {subject.step} was not evaluated.']
  named = [('base', subject.base), ('this model', subject.policy)]
  ledgers = [(name, decoding, ledger) for name, policy in named for decoding, ledger in _ledgers(policy)]
  accuracies = [f'attempt {attempt}' for attempt in _attempts(ledgers[-1][2])]
  heads = ['', 'decoding', *accuracies, 'delta', 'fixed', 'broken', 'n']
  lines = [_line(heads), _line(['---'] * 2 + ['---:'] * (len(heads) - 2))]
  for name, decoding, ledger in ledgers:
    shares = [_share(ledger, f'acc_t{attempt}') for attempt in _attempts(ledger)]
    shares += [_share(ledger, 'delta', '+'), _share(ledger, 'i_to_c'), _share(ledger, 'c_to_i')]
    lines.append(_line([name, decoding, *shares, str(ledger['n'])]))
  _, dataset = _heldout(config)
  about = (
    f'Accuracy on held-out problems of {dataset}, in percent, with 95 % intervals. Delta is fixed minus broken: shares '
    'of all problems whose answer went from wrong to right, and from right to wrong. Sampled is at temperature 1.'
  )
  if subject.report:
    about += ' [report.html](report.html) shows the run: curves, alarms, and conversations side by side.'
  return ['## Results', '\n'.join(lines), _wrapped(about)]


def _example(subject: Subject) -> list[str]:
  row = subject.example
  if row is None:
    return []
  fixed = row.attempts[0].verdict != Verdict.CORRECT
  chosen = f'The first of the sampled held-out conversations that it {"fixes" if fixed else "keeps right"}.'
  parts = ['## A conversation', chosen, '**User**', fenced(row.question, _TEXT)]
  for number, attempt in enumerate(row.attempts, 1):
    if number > 1:
      parts += ['**User**', fenced(subject.config['task']['instruction'])]
    parts += [f'**Model**, attempt {number}: {attempt.verdict.name.lower()}', fenced(attempt.text, _TEXT)]
  return parts


def _use(subject: Subject) -> str:
  task, budgets = subject.config['task'], subject.config['sampling']['attempt_tokens']
  # In the code every text is a literal of Python's, which JSON is but for its constants.
  instruction, system = (json.dumps(task[field], ensure_ascii=False) for field in ('instruction', 'system'))
  settings = f', **{task["template_kwargs"]}' if task.get('template_kwargs') else ''
  messages = f'{{"role": "system", "content": {system}}}, ' if task['system'] else ''
  code = f'''{_loading(subject)}

def answer(messages, tokens):
    ids = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"{settings}
    ).to(model.device)
    new = model.generate(**ids, max_new_tokens=tokens)[0, ids["input_ids"].shape[1]:]
    return tokenizer.decode(new, skip_special_tokens=True)

messages = [{messages}{{"role": "user", "content": {json.dumps(_first_turn(subject), ensure_ascii=False)}}}]
first = answer(messages, {budgets[0]})
messages += [{{"role": "assistant", "content": first}}, {{"role": "user", "content": {instruction}}}]
print(first, answer(messages, {budgets[-1]}), sep="\\n\\n")'''
  about = (
    'The second attempt needs the same instruction as in training, with the chat template that was trained with, '
    '`chat_template.jinja`.'
  )
  return f'## Use\n\n{_wrapped(about)}\n\n{fenced(code, 0, "python")}'


def _loading(subject: Subject) -> str:
  path = subject.title if '/' in subject.title else 'this/folder'
  if not subject.adapters:
    return (
      'from transformers import AutoModelForCausalLM, AutoTokenizer\n\n'
      f'name = "{path}"\n'
      'tokenizer = AutoTokenizer.from_pretrained(name)\n'
      'model = AutoModelForCausalLM.from_pretrained(name, dtype="auto")'
    )
  repo = _base_repo(subject.config)
  base = f'"{repo.name}", revision="{repo.revision}"' if repo else '"the/base"'
  return (
    'import pathlib\n\nfrom huggingface_hub import snapshot_download\n'
    'from peft import AutoPeftModelForCausalLM\nfrom transformers import AutoTokenizer\n\n'
    f'folder = snapshot_download("{path}")\n'
    f'tokenizer = AutoTokenizer.from_pretrained({base})\n'
    'tokenizer.chat_template = pathlib.Path(folder, "chat_template.jinja").read_text()\n'
    'model = AutoPeftModelForCausalLM.from_pretrained(folder, dtype="auto")'
  )


def _first_turn(subject: Subject) -> str:
  return sanitize(subject.example.question, 0, keep='\n\t') if subject.example else '...'


def _training(subject: Subject) -> str:
  config = subject.config
  lora = config['lora']
  trained = f'LoRA of rank {lora["rank"]}, alpha {lora["alpha"]:g}' if lora['rank'] else 'all weights'
  batch, optim = config['batch'], config['optim']
  facts = [
    ('base', _base(subject)),
    ('trained', trained),
    ('checkpoint', f'step {subject.step} of {sum(stage["steps"] for stage in config["stage_runs"])}'),
    ('reward', _reward(subject.written['identity'])),
    ('few-shot examples', _published(config['task']['examples'])),
    ('a step', f'{batch["problems"]} problems, {batch["samples"]} conversations each'),
    ('tokens of an attempt', ', '.join(map(str, config['sampling']['attempt_tokens']))),
    ('learning rate', f'{optim["learning_rate"]:g} (Adam, {optim["schedule"]})'),
    ('seed', str(config['seed'])),
    ('run', subject.written.get('run_id')),
  ]
  lines = [_line(['setting', 'value']), _line(['---', '---']), *(_line(fact) for fact in facts if fact[1])]
  parts = ['## Training', '\n'.join(lines), _stages(config), '**Instruction for the second attempt**']
  parts += [fenced(config['task']['instruction'])]
  if config['task']['system']:
    parts += ['**System prompt**', fenced(config['task']['system'])]
  if template := subject.written.get('chat_template', ''):
    parts += ['**Chat template**', fenced(template, 0, 'jinja')]
  return '\n\n'.join(parts)


def _reward(identity: Json) -> str:
  rewards = identity.get('rewards', {})
  return ', '.join(f'{reward["weight"]:g} x {name}' for name, reward in rewards.items()) or '1 for a correct attempt'


def _stages(config: Json) -> str:
  """A table; stages that repeat stand as often as they run."""
  if config['mode'] == 'supervised':
    heads = ('stage', 'steps', 'learning rate')
    rows = [(s['name'], str(s['steps']), f'{s["optim"]["learning_rate"]:g}') for s in config['stage_runs']]
  else:
    heads = ('stage', 'steps', 'reward weights', 'bonus', 'KL weights', 'reference', 'offline first attempts')
    rows = [
      (
        stage['name'],
        str(stage['steps']),
        *(', '.join(f'{value:g}' for value in stage[name]) for name in ('reward_weights', 'bonus', 'kl_weights')),
        stage['reference'],
        f'{100 * stage["offline_first"]:g} %',
      )
      for stage in config['stage_runs']
    ]
  return '\n'.join([_line(heads), _line(['---'] * len(heads)), *map(_line, rows)])


def _data(subject: Subject) -> str:
  config = subject.config
  data, task = config['task']['data'], _task(config)
  lines = [_line(['problems', 'from']), _line(['---', '---']), _line(['task', task])]
  for split in ('train', 'heldout'):
    names = ', '.join(map(_published, data[split]))
    lines += [_line([split, names])] if names else []
  if fingerprint := subject.written['identity'].get('data'):
    lines.append(_line(['sha256 of the training problems', f'`{fingerprint}`']))
  if evaluated := config['task']['evaluate']:
    lines.append(_line(['evaluated on', _published(evaluated)]))
  parts = ['## Data', '\n'.join(lines)]
  if _base_repo(config):
    parts.append('License and terms of the base and of the data apply.')
  return '\n\n'.join(parts)


def fenced(text: str, most: int = 4000, language: str = '') -> str:
  """Returns a block of code in Markdown, behind more backticks than the text has in a row."""
  shown = sanitize(text, most, keep='\n\t').strip('\n')
  fence = '`' * max([3, *(len(run) + 1 for run in re.findall('`+', shown))])
  return f'{fence}{language or "text"}\n{shown}\n{fence}'


def _base(subject: Subject) -> str:
  """The base and its commit, or the name of its folder and the hash of its weights."""
  path, repo = subject.config['model']['path'], _base_repo(subject.config)
  if repo:
    at = f' at commit `{repo.revision}`' if repo.revision else ''
    return f'[{repo.name}](https://huggingface.co/{repo.name}){at}'
  weights = subject.written['identity'].get('model', {}).get('weights', '')
  return f'`{_published(path)}`' + (f' (weights of sha256 `{weights[:16]}`)' if weights else '')


def _base_repo(config: Json) -> hub.Repo | None:
  return hub.model(config['model']['path'])


def _task(config: Json) -> str:
  return _published(config['task']['name'])


def _names(config: Json) -> list[str]:
  data = config['task']['data']
  return [*data['train'], *data['heldout']]


def _heldout(config: Json) -> tuple[str, str]:
  """Returns what held-out problems are from: the hub's data set, or else the task, and its name."""
  data, task = config['task']['data'], _published(config['task']['evaluate'] or config['task']['name'])
  for name in data['heldout']:
    if match := hub.data_id(name):
      return match[1], match[1]
  return re.sub(r'\W+', '_', task), task


def _published(name: str) -> str:
  """Returns a name without the folders of a machine."""
  if name.startswith((hub.DATA, 'tfds:', 'bundled:')) or hub.model(name):
    return sanitize(name)
  return sanitize(os.path.basename(name.rstrip('/')) or name)


def _ledgers(policy: Json) -> list[tuple[str, Json]]:
  known = ((decoding, policy.get(decoding)) for decoding in _DECODINGS)
  return [(decoding, ledger) for decoding, ledger in known if isinstance(ledger, dict)]


def _attempts(ledger: Json) -> list[int]:
  return list(itertools.takewhile(lambda attempt: f'acc_t{attempt}' in ledger, itertools.count(1)))


def _share(ledger: Json, name: str, sign: str = '') -> str:
  """'66.3 [63.9, 68.6]', where an interval is not broken into lines."""
  value, bounds = ledger[name], ledger['intervals'].get(name)
  interval = ',\N{NO-BREAK SPACE}'.join(f'{100 * bound:{sign}.1f}' for bound in bounds) if bounds else 'unknown'
  return f'{100 * value:{sign}.1f} [{interval}]'


def _line(cells: Iterable[str]) -> str:
  return f'| {" | ".join(_cell(cell) for cell in cells)} |'


def _cell(cell: Any) -> str:
  return str(cell).replace('|', '\\|').replace('\n', ' ')


def _wrapped(paragraph: str) -> str:
  return '\n'.join(textwrap.wrap(paragraph, 120, break_long_words=False, break_on_hyphens=False))
