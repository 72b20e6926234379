"""Templates of published families, written anew with their logic: three attempts token by token, or what to set."""

import hashlib
import json
import logging
import pathlib
import subprocess
import sys

import chat_test
from chat_test import AGAIN, CLOSE, FIRST, NEXT, OPEN, QWEN3, THIRD, TURN, ids_of, opened, problem, text_of, turn
import numpy as np
import pytest
import tiny

from score_jax import tasks
from score_jax.config import identity
from score_jax.core_types import Problem
from score_jax.errors import ConfigError, DataError
from score_jax.storage import hf, hf_export
from score_jax.tasks import templates
from score_jax.tasks.problems import GeneratedProblems, ProblemList, Task
from score_jax.tasks.tokenizer import load_tokenizer
from score_jax.training import loop
from score_jax.training import run as runs

ROOT = pathlib.Path(__file__).parent.parent

# Chat templates of Qwen3-Thinking-2507: a prompt opens the thought, earlier ones are stripped.
QWEN3_THINKING = QWEN3[: QWEN3.index('{%- if add_generation_prompt')] + (
  "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n<think>\n' }}{%- endif %}"
)
CHATML = TURN + OPEN + "m['content']" + CLOSE + NEXT
SMOLLM2 = (
  "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are SmolLM<|im_end|>\n' }}{% endif %}" + CHATML
)
SMOLLM3 = r"""
{%- if enable_thinking is not defined %}{% set enable_thinking = true %}{% endif %}
{%- set mode = '/think' if enable_thinking else '/no_think' %}
{%- set custom = 'Be helpful.' %}
{%- if messages[0].role == 'system' %}
  {%- if '/no_think' in messages[0].content %}{% set mode = '/no_think' %}{% endif %}
  {%- set custom = messages[0].content.replace('/no_think', '').replace('/think', '').rstrip() %}
{%- endif %}
{{- '<|im_start|>system\n## Metadata\n\nToday Date: ' ~ strftime_now('%d %B %Y') ~ '\n' }}
{{- 'Reasoning Mode: ' + mode + '\n\n## Custom Instructions\n\n' + custom + '\n\n' }}
{%- set thought = '' if mode == '/think' else '<think>\n\n</think>\n' %}
{%- for message in messages %}
  {%- if message.role == 'user' %}
    {{- '<|im_start|>user\n' + message.content + '<|im_end|>\n' }}
  {%- elif message.role == 'assistant' %}
    {%- generation %}{{- '<|im_start|>assistant\n' + thought + message.content.lstrip('\n') + '<|im_end|>\n' }}
    {%- endgeneration %}
  {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' + thought }}{%- endif %}
"""
R1 = r"""
{%- set ns = namespace(system='') %}
{%- for m in messages %}{% if m.role == 'system' %}{% set ns.system = m.content %}{% endif %}{% endfor %}
{{- bos_token + ns.system }}
{%- for m in messages %}
  {%- if m.role == 'user' %}{{- '<｜User｜>' + m.content }}{% endif %}
  {%- if m.role == 'assistant' %}{{- '<｜Assistant｜>' + m.content.split('</think>')[-1] + eos_token }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<｜Assistant｜><think>\n' }}{% endif %}
"""
OLMO2 = (
  "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}"
  "{{ '<|assistant|>\n' + m.content + eos_token + ('' if loop.last else '\n') }}"
  "{% else %}{{ '<|' + m.role + '|>\n' + m.content + '\n' }}{% endif %}"
  "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}{% endfor %}"
)
PHI3 = (
  "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
  "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
PHI4 = (
  "{% for m in messages %}{% if m.role == 'assistant' %}{{ m.content + '<|im_end|>' }}{% else %}"
  "{{ '<|im_start|>' + m.role + '<|im_sep|>' + m.content + '<|im_end|>' }}{% endif %}"
  "{% if m.role == 'user' %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}{% endfor %}"
)
R1_TOKENS = ('<｜begin▁of▁sentence｜>', '<｜end▁of▁sentence｜>', '<｜User｜>', '<｜Assistant｜>')
CHATML_OPENING = '<|im_start|>system\nThink hard.<|im_end|>\n<|im_start|>user\n{q}<|im_end|>\n<|im_start|>assistant\n'
CHATML_BETWEEN = '<|im_end|>\n<|im_start|>user\n{i}<|im_end|>\n<|im_start|>assistant\n'
SMOLLM3_OPENING = (
  '<|im_start|>system\n## Metadata\n\nToday Date: 26 July 2024\nReasoning Mode: {mode}\n\n'
  '## Custom Instructions\n\nThink hard.\n\n<|im_start|>user\n{{q}}<|im_end|>\n<|im_start|>assistant\n'
)
EMPTY = '<think>\n\n</think>\n'


def qwen_tokenizer(template):
  return tiny.byte_tokenizer(template, ('<|im_start|>', '<|im_end|>', '<|im_sep|>', '<|endoftext|>'))


def r1_tokenizer(template=R1):
  return tiny.byte_tokenizer(template, R1_TOKENS, bos_token=R1_TOKENS[0], eos_token=R1_TOKENS[1])


def olmo_tokenizer():
  return tiny.byte_tokenizer(OLMO2, ('<|endoftext|>',), bos_token='<|endoftext|>', eos_token='<|endoftext|>')


def phi_tokenizer():
  tokens = ('<|user|>', '<|assistant|>', '<|system|>', '<|end|>', '<|endoftext|>')
  return tiny.byte_tokenizer(PHI3, tokens, eos_token='<|endoftext|>')


# family: tokenizer, template_kwargs, what precedes an answer, what stands between two, the bundled template if replaced
FAMILIES = {
  'qwen3': (lambda: qwen_tokenizer(QWEN3), {}, CHATML_OPENING, CHATML_BETWEEN, 'bundled:qwen3'),
  'qwen3_thinking_on': (
    lambda: qwen_tokenizer(QWEN3),
    {'enable_thinking': True},
    CHATML_OPENING,
    CHATML_BETWEEN,
    'bundled:qwen3',
  ),
  'qwen3_thinking_off': (
    lambda: qwen_tokenizer(QWEN3),
    {'enable_thinking': False},
    CHATML_OPENING + EMPTY + '\n',
    CHATML_BETWEEN + EMPTY + '\n',
    'bundled:qwen3',
  ),
  'qwen3_instruct_2507': (lambda: qwen_tokenizer(CHATML), {}, CHATML_OPENING, CHATML_BETWEEN, ''),
  'qwen3_thinking_2507': (
    lambda: qwen_tokenizer(QWEN3_THINKING),
    {},
    CHATML_OPENING + '<think>\n',
    CHATML_BETWEEN + '<think>\n',
    'bundled:qwen3_thinking',
  ),
  'r1_distill': (
    r1_tokenizer,
    {},
    '<｜begin▁of▁sentence｜>Think hard.<｜User｜>{q}<｜Assistant｜><think>\n',
    '<｜end▁of▁sentence｜><｜User｜>{i}<｜Assistant｜><think>\n',
    'bundled:deepseek_r1',
  ),
  'smollm2': (lambda: qwen_tokenizer(SMOLLM2), {}, CHATML_OPENING, CHATML_BETWEEN, ''),
  'smollm3': (lambda: qwen_tokenizer(SMOLLM3), {}, SMOLLM3_OPENING.format(mode='/think'), CHATML_BETWEEN, ''),
  'smollm3_no_think': (
    lambda: qwen_tokenizer(SMOLLM3),
    {'enable_thinking': False},
    SMOLLM3_OPENING.format(mode='/no_think') + EMPTY,
    CHATML_BETWEEN + EMPTY,
    '',
  ),
  'olmo2': (
    olmo_tokenizer,
    {},
    '<|endoftext|><|system|>\nThink hard.\n<|user|>\n{q}\n<|assistant|>\n',
    '<|endoftext|>\n<|user|>\n{i}\n<|assistant|>\n',
    '',
  ),
  'phi3': (
    phi_tokenizer,
    {},
    '<|system|>\nThink hard.<|end|>\n<|user|>\n{q}<|end|>\n<|assistant|>\n',
    '<|end|>\n<|user|>\n{i}<|end|>\n<|assistant|>\n',
    '',
  ),
  'phi4': (
    lambda: qwen_tokenizer(PHI4),
    {},
    '<|im_start|>system<|im_sep|>Think hard.<|im_end|><|im_start|>user<|im_sep|>{q}<|im_end|>'
    '<|im_start|>assistant<|im_sep|>',
    '<|im_end|><|im_start|>user<|im_sep|>{i}<|im_end|><|im_start|>assistant<|im_sep|>',
    '',
  ),
}


@pytest.mark.parametrize('family', FAMILIES)
def test_three_attempts_are_token_by_token_what_the_template_writes(family, tmp_path, caplog):
  make, settings, opening, between, replacement = FAMILIES[family]
  tokenizer = make()
  made = opened(tokenizer, tmp_path, 'Think hard.', (AGAIN, THIRD), prompt_tokens=400, template_kwargs=settings)
  users, answers = (FIRST, AGAIN, THIRD), ('3', '1+2 <think>2</think> 3', '<think>\n1\n</think>\n\n4')
  text = opening.format(q=FIRST) + answers[0] + between.format(i=AGAIN) + answers[1] + between.format(i=THIRD)
  row = made.prompt_ids(problem())
  for answer, separator in zip(answers, (*made.separators, (made.end_of_turn,)), strict=True):
    row = row + ids_of(tokenizer, answer) + list(separator)
  assert text_of(tokenizer, row) == text + answers[2] + text_of(tokenizer, [made.end_of_turn])

  def rendered(template, count, **named):
    messages = [turn('system', 'Think hard.')]
    for user, answer in zip(users, answers, strict=True):
      messages += [turn('user', user), turn('assistant', answer)]
    named = dict(chat_template=template, tokenize=True, return_dict=False) | named
    return list(tokenizer.apply_chat_template(messages[:count], **named))

  prompt = rendered(tokenizer.chat_template, 2, add_generation_prompt=True, **settings)
  if family.startswith('smollm3'):  # it asks the clock
    assert len(prompt) > 0 and 'strftime_now' in tokenizer.chat_template
  else:
    assert prompt == made.prompt_ids(problem()), 'the first prompt is the published one'
    assert rendered(made.template, 7)[: len(row)] == row, 'the exported template writes the conversation'
  assert templates.name_of(made.prompt_template.template.text) == replacement
  assert caplog.text.count('it is replaced by') == bool(replacement)
  assert made.stops == tuple(sorted({made.end_of_turn, tokenizer.eos_token_id} - {None}))


def test_the_date_of_smollm3_is_the_configurations_and_its_mode_may_stand_in_the_system_prompt(tmp_path):
  tokenizer = qwen_tokenizer(SMOLLM3)
  made = opened(tokenizer, tmp_path, 'Think hard. /no_think', prompt_tokens=400, date='2025-03-05')
  text = SMOLLM3_OPENING.format(mode='/no_think').format(q=FIRST).replace('26 July 2024', '05 March 2025')
  assert text_of(tokenizer, made.prompt_ids(problem())) == text + EMPTY


OLD_R1 = R1.replace("<think>\\n' }}{% endif %}", "' }}{% endif %}")
STRIPPED_GEMMA = chat_test.GEMMA2.replace("m['content'] | trim", "m['content'].split('</think>')[-1] | trim")
NEMOTRON = QWEN3_THINKING.replace("message.role + '\\n' + content }}", "message.role + '\\n<none>' + content }}")


@pytest.mark.parametrize(
  ('make', 'named'),
  [
    (lambda: r1_tokenizer(OLD_R1), 'bundled:deepseek_r1'),
    (lambda: qwen_tokenizer(chat_test.SHORTENED), 'bundled:chatml'),
    (lambda: qwen_tokenizer(NEMOTRON), 'bundled:chatml'),
    (lambda: tiny.byte_tokenizer(None, ('</s>',), eos_token='</s>'), 'bundled:plain'),
    (lambda: tiny.byte_tokenizer(None, ('<|im_start|>', '<|im_end|>'), eos_token='<|im_end|>'), 'bundled:plain'),
    (lambda: tiny.byte_tokenizer(None), 'bundled:chatml'),
    (lambda: chat_test.llama_tokenizer(chat_test.NO_END), ''),
    (lambda: chat_test.mistral_tokenizer(chat_test.NO_END), 'bundled:plain'),
    (lambda: chat_test.gemma_tokenizer(STRIPPED_GEMMA), ''),
    (lambda: qwen_tokenizer(templates.named('bundled:deepseek_r1')), 'bundled:chatml'),
  ],
)
def test_a_refusal_names_a_bundled_template_that_serves_this_tokenizer_or_none(make, named, tmp_path):
  tokenizer = make()
  with pytest.raises(DataError, match='chat template') as error:
    opened(tokenizer, tmp_path)
  assert '\n' not in str(error.value)
  if not named:
    assert 'use as config.task.chat_template a .jinja file' in str(error.value) and 'bundled' not in str(error.value)
    return
  assert f"use config.task.chat_template='{named}' or a .jinja file" in str(error.value)
  tokenizer.chat_template = templates.named(named)
  opened(tokenizer, tmp_path)


NOT_REPLACED = {
  'a default system prompt': "{{ '<|im_start|>system\nHi<|im_end|>\n' if messages[0].role != 'system' }}" + QWEN3,
  'another role': QWEN3.replace("'<|im_start|>assistant\\n'", "'<|im_start|>model\\n'"),
  'a label in earlier turns': QWEN3.replace("message.role + '\\n' + content", "message.role + '\\nA: ' + content"),
  'another blank line': QWEN3.replace("content + '<|im_end|>\\n' }}", "content + '<|im_end|>\\n\\n' }}"),
  'no system turn': "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}" + QWEN3,
  'another empty thought': QWEN3.replace("'<think>\\n\\n</think>\\n\\n' }}", "'<think></think>' }}"),
  'only the newest answer': QWEN3.replace('set content = message.content %}', "set content = '' %}"),
}


@pytest.mark.parametrize('difference', NOT_REPLACED)
def test_a_template_that_differs_in_more_than_thoughts_is_not_replaced(difference, tmp_path):
  assert NOT_REPLACED[difference] != QWEN3
  with pytest.raises(DataError, match='rewrites history.*bundled:chatml'):
    opened(qwen_tokenizer(NOT_REPLACED[difference]), tmp_path)


SERVED = {
  'bos_twice': ('{{ bos_token }}' + CHATML, CHATML_OPENING, CHATML_BETWEEN),
  'tools_section': ('{% if tools %}{{ tools[0].name }}{% endif %}' + CHATML, CHATML_OPENING, CHATML_BETWEEN),
  'generation': (
    CHATML.replace("m['content']", "'' }}{% generation %}{{ m['content'] }}{% endgeneration %}{{ ''"),
    CHATML_OPENING,
    CHATML_BETWEEN,
  ),
  'leading_blank_lines': ('\n\n' + CHATML, '\n\n' + CHATML_OPENING, CHATML_BETWEEN),
  'trims_users': (
    CHATML.replace("m['content']", "(m['content'] | trim if m.role == 'user' else m['content'])"),
    CHATML_OPENING,
    CHATML_BETWEEN,
  ),
  'loop_controls': (
    CHATML.replace(TURN, TURN + "{% if m.role == 'tool' %}{% break %}{% endif %}"),
    CHATML_OPENING,
    CHATML_BETWEEN,
  ),
  'prefills_answers': (
    CHATML.replace("m['content']", "('A: ' if m.role == 'assistant' else '') + m['content']").replace(
      'assistant\n', 'assistant\nA: '
    ),
    CHATML_OPENING + 'A: ',
    CHATML_BETWEEN + 'A: ',
  ),
  'writes_a_date': ("{{ strftime_now('%Y') }}" + CHATML, '2024' + CHATML_OPENING, CHATML_BETWEEN),
  'macros': (
    '{% macro w(x) %}{{ x }}{% endmacro %}' + CHATML.replace("m['content']", "w(m['content'])"),
    CHATML_OPENING,
    CHATML_BETWEEN,
  ),
}


@pytest.mark.parametrize('kind', SERVED)
def test_further_templates_that_are_served(kind, tmp_path):
  template, opening, between = SERVED[kind]
  tokenizer = qwen_tokenizer(template)
  if kind == 'bos_twice':
    from tokenizers import processors

    tokenizer.add_special_tokens(dict(bos_token='<|endoftext|>'))
    bos = ('<|endoftext|>', tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
      single='<|endoftext|> $A', pair='<|endoftext|> $A $B', special_tokens=[bos]
    )
    opening = '<|endoftext|>' + opening
  made = opened(tokenizer, tmp_path, 'Think hard.', (AGAIN, THIRD), prompt_tokens=400)
  assert text_of(tokenizer, made.prompt_ids(problem())) == opening.format(q=FIRST)
  assert [text_of(tokenizer, ids) for ids in made.separators] == [between.format(i=i) for i in (AGAIN, THIRD)]
  assert made.template == template


REFUSED = {
  'reminds_at_the_end': CHATML.replace("m['content']", "m['content'] + (' Think.' if loop.last else '')"),
  'counts_the_whole': CHATML.replace("m['content']", "loop.length ~ m['content']"),
  'upper_case': CHATML.replace("m['content']", "(m['content'] | upper if m.role == 'assistant' else m['content'])"),
  'newest_two_turns': CHATML.replace('in messages', 'in messages[-2:]'),
  'reversed': CHATML.replace('in messages', 'in messages | reverse'),
  'answers_in_the_end': CHATML.replace('in messages', "in messages | sort(attribute='role')"),
  'parts_of_content': CHATML.replace("m['content']", "m['content'][0].text"),
  'unknown_function': '{{ now() }}' + CHATML,
  'unknown_filter': CHATML.replace("m['content']", "m['content'] | shout"),
  'two_user_turns_at_most': "{% if messages | length > 4 %}{{ raise_exception('too many turns') }}{% endif %}" + CHATML,
  'no_question': "{{ '<|im_start|>assistant\n' if add_generation_prompt }}",
}


@pytest.mark.parametrize('kind', REFUSED)
def test_further_templates_that_are_refused_in_one_line(kind, tmp_path):
  with pytest.raises(DataError, match=r"^chat template.*use config\.task\.chat_template='bundled:chatml' or") as error:
    opened(qwen_tokenizer(REFUSED[kind]), tmp_path, instructions=(AGAIN, THIRD))
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  'value', [True, None, 3, -0.5, '', 'a\n"b" \'c\' {{ d }} %} é｜', [1, 'x'], {'a': [None, True]}]
)
def test_settings_are_what_transformers_makes_of_them_and_defaults_of_the_exported_template(value, tmp_path):
  template = '\n {{ extra | tojson if extra is defined else "none" }}' + CHATML
  tokenizer = qwen_tokenizer(template)
  made = opened(tokenizer, tmp_path, template_kwargs={'extra': value})
  named = dict(tokenize=False, add_generation_prompt=True)
  text = tokenizer.apply_chat_template([turn('user', FIRST)], extra=value, **named)
  assert text_of(tokenizer, made.prompt_ids(problem())) == text
  assert tokenizer.apply_chat_template([turn('user', FIRST)], chat_template=made.template, **named) == text
  other = tokenizer.apply_chat_template([turn('user', FIRST)], chat_template=made.template, extra=5, **named)
  assert other == tokenizer.apply_chat_template([turn('user', FIRST)], extra=5, **named) != text


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    ({'enable_thinkng': False}, "does not read 'enable_thinkng'; did you mean 'enable_thinking'"),
    ({'colour': 1}, "does not read 'colour'; remove it"),
    ({'messages': []}, "'messages' is set for every template"),
    ({'add_generation_prompt': False}, 'is set for every template'),
    ({'tools': []}, "'tools' is set"),
    ({'eos_token': '!'}, "'eos_token' is set"),
    # Words of the template that are no variables of it: of jinja, of its loops, of messages.
    *(
      ({name: 1}, f'does not read {name!r}') for name in ('in', 'if', 'not', 'for', 'is', 'set', 'true', 'none', 'elif')
    ),
    *(({name: 1}, f'does not read {name!r}') for name in ('message', 'loop', 'ns', 'namespace', 'range', 'self')),
    *(({name: 1}, f'does not read {name!r}') for name in ('role', 'content', 'user', 'assistant', 'chat_template')),
  ],
)
def test_settings_that_would_do_nothing_are_refused(settings, message, tmp_path):
  tokenizer = qwen_tokenizer(QWEN3)
  tokenizer.eos_token = '<|im_end|>'
  with pytest.raises(DataError, match=r'^config\.task\.template_kwargs = \{.*' + message):
    opened(tokenizer, tmp_path, template_kwargs=settings)


@pytest.mark.parametrize(
  'value',
  ['{', '[1]', '5', '{1: 2}', "{'a b': 1}", "{'a': b'x'}", "{'a': {1}}", 'f(x)', "{'a': 1e999}", "{'a': '\\ud83d'}"],
)
def test_settings_that_are_no_names_with_values_are_refused(value):
  with pytest.raises(ConfigError, match=r'config\.task\.template_kwargs = .*enable_thinking'):
    tiny.run_config(**{'task.template_kwargs': value})


def test_settings_are_part_of_the_identity_and_may_be_a_dict():
  one, other = (tiny.run_config(**{'task.template_kwargs': {'enable_thinking': on}}) for on in (True, False))
  assert other.task.template_settings == {'enable_thinking': False}
  assert identity(one) != identity(other)


@pytest.mark.parametrize(
  ('field', 'changes'),
  [
    ('config.task.instruction', dict(instructions=('Check.<|im_end|> Really.',))),
    ('config.task.system', dict(system='Be <|im_start|> good.')),
    ('config.task.examples: assistant', dict(examples=(turn('user', 'a'), turn('assistant', 'b<|im_end|>')))),
  ],
)
def test_a_special_token_in_a_text_of_the_configuration_is_refused(field, changes, tmp_path):
  with pytest.raises(DataError, match=rf"^{field} = .* has '<\|im_\w+\|>', a special token .*write it otherwise$"):
    opened(chat_test.chatml_tokenizer(), tmp_path, **changes)


@pytest.mark.parametrize('field', ['system', 'instruction', 'prompt', 'countdown.prompt'])
def test_half_a_surrogate_pair_in_a_text_of_the_configuration_is_named(field):
  with pytest.raises(
    ConfigError, match=rf"config.task.{field} = 'Try .udcff again' holds half a surrogate pair; write"
  ):
    tiny.run_config(**{f'task.{field}': 'Try \udcff again'})


def test_half_a_surrogate_pair_in_an_example_is_named_with_its_row(tmp_path):
  path = tmp_path / 'examples.jsonl'
  path.write_text(json.dumps(dict(messages=[turn('user', 'a'), turn('assistant', 'b\ud83d')])))
  with pytest.raises(DataError, match=r"row 1: messages\[1\].content = 'b.ud83d' holds half a surrogate pair; fix or"):
    tasks.chat.read_examples(str(path))


def test_the_settings_of_a_template_with_a_generation_tag_are_known(tmp_path):
  opened(qwen_tokenizer(SMOLLM3), tmp_path, template_kwargs={'enable_thinking': False})
  with pytest.raises(DataError, match="does not read 'custom'; remove it"):
    opened(qwen_tokenizer(SMOLLM3), tmp_path, template_kwargs={'custom': 'x'})


def test_an_end_of_turn_that_is_not_special_is_refused_in_texts_too_and_think_tags_are_words(tmp_path):
  tokenizer = tiny.byte_tokenizer(templates.named('bundled:chatml').replace('<|im_end|>', '<end>'))
  tokenizer.add_tokens(['<end>', '<think>'])
  with pytest.raises(DataError, match=r"config\.task\.instruction = .*'<end>'"):
    opened(tokenizer, tmp_path, instructions=('Mind the <end>.',))
  opened(tokenizer, tmp_path, instructions=('Think in <think> tags.',))


def test_special_tokens_in_data_are_counted_and_the_first_is_named(tmp_path, caplog):
  made = opened(chat_test.chatml_tokenizer(), tmp_path)
  plain, forged = (
    Problem('a', 'What is 1+1?', {'answer': '2'}),
    Problem('b', '2?<|im_end|>\n', {'question': '2?<|im_end|>\n'}),
  )
  gold = Problem('c', 'Which token?', {'answer': '<|im_start|>'})
  task = Task(ProblemList((plain, forged, gold), True), ProblemList((plain,), False), 'text')
  tasks.warn_of_special_tokens(task, made.special_tokens)
  assert [record.message for record in caplog.records] == [
    'config.task.data.train: 1 of 3 questions have special tokens, which the model reads as such and not as text: '
    "'<|im_end|>' in problem b",
    "config.task.data.train: 1 of 3 golds have special tokens, which no graded answer has: '<|im_start|>' in problem c",
  ]
  caplog.clear()
  tasks.warn_of_special_tokens(Task(GeneratedProblems(lambda seed, n: []), ProblemList((plain,), False), ''), ['<s>'])
  assert not caplog.records
  assert made.texts(np.array([made.prompt_ids(forged)]), np.ones((1, len(made.prompt_ids(forged))), int), 1)


def hf_folder(path, template):
  """A model whose tokenizer_config.json has the template."""
  tokenizer = qwen_tokenizer(template)
  tiny.write_hf_folder(path, tiny.decoder_config(vocab=len(tokenizer)), tokens=tokenizer)
  settings = json.loads((path / 'tokenizer_config.json').read_text())
  (path / 'chat_template.jinja').unlink()
  (path / 'tokenizer_config.json').write_text(json.dumps(settings | dict(chat_template=template)))
  return path


def test_the_export_has_the_template_that_was_trained_with_in_every_file_that_names_one(tmp_path):
  source = hf_folder(tmp_path / 'source', QWEN3)
  tokenizer = load_tokenizer(source)
  made = opened(tokenizer, source, template_kwargs={'enable_thinking': False})
  params, config = tiny.random_params(hf.read_config(source)), hf.read_config(source)
  exported = dict(source=source, dtype=hf.DTYPES['float32'])
  hf_export.write_folder(tmp_path / 'out', params, config, chat_template=made.template, **exported)
  again = load_tokenizer(tmp_path / 'out')
  assert again.chat_template == made.template
  assert json.loads((tmp_path / 'out/tokenizer_config.json').read_text())['chat_template'] == made.template
  same = opened(again, tmp_path / 'out')
  assert (same.separators, same.prompt_ids(problem())) == (made.separators, made.prompt_ids(problem()))
  hf_export.write_folder(tmp_path / 'own', params, config, chat_template=tokenizer.chat_template, **exported)
  assert not (tmp_path / 'own/chat_template.jinja').exists()
  settings = 'tokenizer_config.json'
  assert (tmp_path / 'own' / settings).read_bytes() == (source / settings).read_bytes()


def test_a_template_among_several_stays_as_it_was(tmp_path):
  source = hf_folder(tmp_path / 'source', '')
  path = source / 'tokenizer_config.json'
  several = [dict(name='rag', template='a'), dict(name='default', template=CHATML)]
  path.write_text(json.dumps(json.loads(path.read_text()) | dict(chat_template=several)))
  params, config = tiny.random_params(hf.read_config(source)), hf.read_config(source)
  template = load_tokenizer(source).chat_template
  hf_export.write_folder(
    tmp_path / 'out', params, config, source=source, chat_template=template, dtype=hf.DTYPES['float32']
  )
  assert (tmp_path / 'out/tokenizer_config.json').read_bytes() == path.read_bytes()


def test_the_log_says_once_what_was_changed_and_by_what(tmp_path, caplog):
  caplog.set_level(logging.WARNING)
  opened(qwen_tokenizer(QWEN3), tmp_path, instructions=(AGAIN, THIRD))
  (line,) = [record.message for record in caplog.records]
  assert "'|>assistant\\n<think>7*12</think>84' became '|>assistant\\n84<|im_end|>" in line
  assert line.endswith('it is replaced by bundled:qwen3, which writes the same turns and keeps thoughts')


@pytest.mark.parametrize('name', ['bundled:qwen3', 'bundled:qwen3_thinking', 'bundled:deepseek_r1'])
def test_bundled_templates_of_families_refuse_tools(name):
  tokenizer = r1_tokenizer(templates.named(name))
  with pytest.raises(Exception, match='has no tools'):
    tokenizer.apply_chat_template([turn('user', 'a')], tools=[dict(type='function', function={})], tokenize=False)


def run_fields(folder):
  """A short run on questions of which one has a special token, with Qwen3's template and thinking off."""
  for split, questions in (('train', ('1?', '2?<|im_end|>', '3?')), ('heldout', ('4?',))):
    rows = [json.dumps(dict(question=question, answer='3')) + '\n' for question in questions]
    (folder / f'{split}.jsonl').write_text(''.join(rows))
  tokenizer = qwen_tokenizer(QWEN3)
  config = tiny.decoder_config(vocab=len(tokenizer), max_positions=256)
  return {
    'model.path': str(tiny.write_hf_folder(folder / 'model', config, tokens=tokenizer)),
    'model.dtype': 'float32',
    'task.name': 'jsonl',
    'task.jsonl.verifier': 'text',
    'task.data': {split: (str(folder / f'{split}.jsonl'),) for split in ('train', 'heldout')},
    'task.template_kwargs': {'enable_thinking': False},
    'sampling.prompt_tokens': 100,
    'sampling.attempt_tokens': (4, 4),
    'lora.rank': 2,
    'max_steps': 1,
    'eval.problems': 0,
    'batch.problems': 2,
    'batch.samples': 4,
  }


TRAINED = '{% if enable_thinking is not defined %}{% set enable_thinking = False %}{% endif %}\n' + templates.named(
  'bundled:qwen3'
)


def test_a_run_notes_the_replacement_with_its_settings_and_tells_of_tokens_in_data(tmp_path, caplog):
  fields = run_fields(tmp_path)
  with pytest.raises(DataError, match=r'config\.task\.prompt = .*<\|im_end\|>'):
    runs.open_run(tiny.run_config(**fields, **{'task.prompt': '{question}<|im_end|>'}), str(tmp_path / 'run'))
  caplog.clear()
  run = runs.open_run(tiny.run_config(**fields), str(tmp_path / 'run'))
  run.grader.close()
  assert caplog.text.count('it is replaced by bundled:qwen3') == 1
  assert 'config.task.data.train: 1 of 3 questions have special tokens, which the model reads as such' in caplog.text
  written = run.folder.read_config()
  assert written['chat_template'] == TRAINED
  assert written['identity']['model']['chat_template'] == hashlib.sha256(TRAINED.encode()).hexdigest()


@pytest.mark.slow
def test_exports_of_a_run_have_the_template_even_if_the_source_has_lost_its_own(tmp_path):
  run = runs.open_run(tiny.run_config(**run_fields(tmp_path)), str(tmp_path / 'run'))
  loop.train(run)
  run.grader.close()
  assert load_tokenizer(run.folder.hf).chat_template == TRAINED
  (tmp_path / 'model/chat_template.jinja').write_text('another')
  for format_ in ('hf', 'peft'):
    command = ['score_jax.export', f'--run={tmp_path / "run"}', f'--out={tmp_path / format_}', f'--format={format_}']
    subprocess.run([sys.executable, '-m', *command], cwd=ROOT, check=True, capture_output=True)
    assert (tmp_path / format_ / 'chat_template.jinja').read_text('utf-8') == TRAINED
