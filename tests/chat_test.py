"""Chat templates: what passes the proof, what is refused, and that the ids fed are the template's own."""

import dataclasses
import datetime
import itertools
import json
import logging

import numpy as np
import pytest
import tiny
import transformers

from experiments.countdown_base import mixture as countdown_base
from score_jax.core_types import Problem
from score_jax.errors import DataError
from score_jax.tasks import chat, templates, turn_boundary
from score_jax.tasks.tokenizer import load_tokenizer

TURN = '{% for m in messages %}'
OPEN, CLOSE = "{{ '<|im_start|>' + m['role'] + '\n' + ", " + '<|im_end|>\n' }}{% endfor %}"
NEXT = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"

# Templates with the logic of the published ones.
QWEN25 = (
  "{%- if messages[0]['role'] == 'system' %}{{- '<|im_start|>system\n' + messages[0]['content'] + '<|im_end|>\n' }}"
  "{%- else %}{{- '<|im_start|>system\nYou are Qwen. You are a helpful assistant.<|im_end|>\n' }}{%- endif %}"
  "{%- for m in messages %}{%- if m.role == 'user' or m.role == 'assistant' or not loop.first %}"
  "{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}{%- endif %}{%- endfor %}" + NEXT
)
QWEN3 = r"""
{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
{%- endif %}
{%- set ns = namespace(searching=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.searching and message.role == "user" %}
        {%- set ns.searching = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content %}
    {%- if message.role == "user" or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if '</think>' in content %}
            {%- set reasoning_content = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index and (loop.last or reasoning_content) %}
            {{- '<|im_start|>' + message.role + '\n<think>\n' + reasoning_content.strip('\n') + '\n</think>\n\n' }}
            {{- content.lstrip('\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}
"""
LLAMA32 = r"""
{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\n\n" }}
{{- "Cutting Knowledge Date: December 2023\n" }}
{{- "Today Date: " + date_string + "\n\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for m in messages %}
    {{- '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n'+ m['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"""
ALTERNATE = (
  "{%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{- raise_exception('roles must alternate') }}{%- endif %}"
)
GEMMA_ROLE = "{%- set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
GEMMA_NEXT = "{%- if add_generation_prompt %}{{- '<start_of_turn>model\n' }}{%- endif %}"
GEMMA2 = (
  "{{- bos_token }}{%- if messages[0]['role'] == 'system' %}{{- raise_exception('System role not supported') }}"
  '{%- endif %}{%- for m in messages %}' + ALTERNATE + GEMMA_ROLE + "{{- '<start_of_turn>' + role + '\n' }}"
  "{{- m['content'] | trim + '<end_of_turn>\n' }}{%- endfor %}" + GEMMA_NEXT
)
GEMMA3 = (
  "{{- bos_token }}{%- set prefix, turns = '', messages %}{%- if messages[0]['role'] == 'system' %}"
  "{%- set prefix, turns = messages[0]['content'] + '\n\n', messages[1:] %}{%- endif %}{%- for m in turns %}"
  + (ALTERNATE + GEMMA_ROLE + "{{- '<start_of_turn>' + role + '\n' + (prefix if loop.first else '') }}")
  + "{{- m['content'] | trim + '<end_of_turn>\n' }}{%- endfor %}"
  + GEMMA_NEXT
)
MISTRAL1 = (
  '{{- bos_token }}{%- for m in messages %}' + ALTERNATE + "{%- if m['role'] == 'user' %}"
  "{{- '[INST] ' + m['content'] + ' [/INST]' }}{%- elif m['role'] == 'assistant' %}"
  "{{- m['content'] + eos_token + ' ' }}{%- else %}{{- raise_exception('Only user and assistant roles!') }}"
  '{%- endif %}{%- endfor %}'
)
MISTRAL3 = (
  "{%- set turns = messages %}{%- if messages[0]['role'] == 'system' %}{%- set system = messages[0]['content'] %}"
  '{%- set turns = messages[1:] %}{%- endif %}{{- bos_token }}{%- for m in turns %}'
  + ALTERNATE
  + "{%- if m['role'] == "
  "'user' %}{%- if loop.last and system is defined %}{{- '[INST] ' + system + '\n\n' + m['content'] + '[/INST]' }}"
  "{%- else %}{{- '[INST] ' + m['content'] + '[/INST]' }}{%- endif %}{%- else %}"
  "{{- ' ' + m['content'] | trim + eos_token }}{%- endif %}{%- endfor %}"
)

# Templates that write an earlier answer or prompt otherwise than it was.
NO_THINKING = TURN + OPEN + "(m['content'] if loop.last else m['content'].split('</think>')[-1])" + CLOSE + NEXT
NO_EARLIER_ANSWERS = (
  ('{% for m in messages %}{% if m.role != "assistant" or loop.last %}' + OPEN + "m['content']")
  + CLOSE.replace('{% endfor %}', '{% endif %}{% endfor %}')
  + NEXT
)
SHORTENED = TURN + OPEN + "(m['content'][:4] if m['role'] == 'assistant' else m['content'])" + CLOSE + NEXT
ONLY_TWO_ANSWERS = TURN + OPEN + "('' if loop.index0 == 1 and loop.length > 4 else m['content'])" + CLOSE + NEXT
COUNTED = '{{ messages|length }}' + TURN + OPEN + "m['content']" + CLOSE + NEXT
LABELLED = (
  TURN + OPEN + "('Answer: ' if m['role'] == 'assistant' and not loop.last else '') + m['content']" + CLOSE + NEXT
)
ONLY_FIRST = "{{ '<|im_start|>' + messages[0]['content'] + '<|im_end|>' }}"
THOUGHT_TWICE = TURN + OPEN + "m['content'] + ('!' if '</think>' in m['content'] else '')" + CLOSE + NEXT
# Templates whose answers have no end that a sampler could recognise.
NO_END = TURN + "{{ m['content'] }}{% endfor %}"
PLAIN_END = (
  TURN + "{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)
TWO_ENDS = TURN + OPEN + "m['content'] + ('<|im_start|>' if loop.last and m.role == 'assistant' else '')" + CLOSE + NEXT
# Templates without a system turn.
REFUSES_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
IGNORES_SYSTEM = TURN.replace(' %}', " if m['role'] != 'system' %}") + OPEN + "m['content']" + CLOSE + NEXT

FIRST, AGAIN, THIRD = 'Reach 3 with 1 2.', 'There might be an error. Try again!', 'Once more.'
ANSWER = ' 1+2=3\n  so: 3 '
EXAMPLES = tuple(
  dict(role=role, content=content)
  for role, content in (('user', 'Reach 4 with 2 2.'), ('assistant', '2+2=4'), ('user', 'Go on.'), ('assistant', '4'))
)


def chatml_tokenizer():
  return tiny.byte_tokenizer(templates.named('bundled:chatml'))


def llama_tokenizer(template=LLAMA32):
  specials = ('<|begin_of_text|>', '<|start_header_id|>', '<|end_header_id|>', '<|eot_id|>')
  return tiny.byte_tokenizer(template, specials, bos_token='<|begin_of_text|>')


def gemma_tokenizer(template=GEMMA2):
  return tiny.byte_tokenizer(template, ('<bos>', '<eos>', '<start_of_turn>', '<end_of_turn>'), bos_token='<bos>')


def mistral_tokenizer(template, specials=('<s>', '</s>', '[INST]', '[/INST]')):
  return tiny.byte_tokenizer(template, specials, bos_token='<s>', eos_token='</s>')


def opened(
  tokenizer, folder, system='', instructions=(AGAIN,), prompt_tokens=200, examples=(), date=tiny.DATE, **named
):
  return chat.open_chat(
    folder,
    tokenizer,
    system=system,
    examples=examples,
    instructions=instructions,
    prompt_tokens=prompt_tokens,
    date=date,
    **named,
  )


def rendered(tokenizer, messages, answering=True, date=tiny.DATE):
  return turn_boundary.Template(tokenizer, tokenizer.chat_template, date).render(messages, answering)


def problem(question=FIRST):
  return Problem(id='test/7', question=question, reference={})


def ids_of(tokenizer, text):
  return tokenizer(text, add_special_tokens=False)['input_ids']


def text_of(tokenizer, ids):
  return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def turn(role, content):
  return dict(role=role, content=content)


def test_the_bundled_base_passes_the_proof(tmp_path):
  tokenizer = tiny.tokenizer()
  made = opened(tokenizer, tmp_path, instructions=(tiny.INSTRUCTION,))
  assert made.separators == tiny.rollout_spec().separators
  assert made.end_of_turn == tokenizer.convert_tokens_to_ids(countdown_base.END)
  assert made.stops == (made.end_of_turn,)
  assert made.pad == tokenizer.convert_tokens_to_ids(countdown_base.PAD)


def test_problems_of_one_id_have_their_own_prompts(tmp_path):
  made = opened(tiny.tokenizer(), tmp_path, instructions=(tiny.INSTRUCTION,))
  problems = [Problem('1', f'reach {target} with 1 2 3 4', {}) for target in (5, 6)]
  prompt_BP, _ = made.prompts(problems)
  for row, problem in enumerate(problems):
    assert prompt_BP[row].tolist()[-len(made.prompt_ids(problem)) :] == made.prompt_ids(problem)
  assert (prompt_BP[0] != prompt_BP[1]).any()


# What is written of the system prompt 'Think hard.', the question, an answer, the instruction and what opens the next.
CHATML_TEXT = (
  '<|im_start|>system\nThink hard.<|im_end|>\n<|im_start|>user\n{q}<|im_end|>\n<|im_start|>assistant\n',
  '<|im_end|>\n<|im_start|>user\n{i}<|im_end|>\n<|im_start|>assistant\n',
)
GEMMA_TEXT = (
  '<bos><start_of_turn>user\nThink hard.\n\n{q}<end_of_turn>\n<start_of_turn>model\n',
  '<end_of_turn>\n<start_of_turn>user\n{i}<end_of_turn>\n<start_of_turn>model\n',
)
LLAMA_TEXT = (
  '<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n'
  'Today Date: 26 Jul 2024\n\nThink hard.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n{q}<|eot_id|>'
  '<|start_header_id|>assistant<|end_header_id|>\n\n',
  '<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n{i}<|eot_id|><|start_header_id|>assistant<|end_header_id|>'
  '\n\n',
)
FAMILIES = {
  'chatml': (chatml_tokenizer, CHATML_TEXT, '<|im_end|>', ''),
  'qwen2.5': (lambda: tiny.byte_tokenizer(QWEN25), CHATML_TEXT, '<|im_end|>', ''),
  'llama3.2': (llama_tokenizer, LLAMA_TEXT, '<|eot_id|>', ''),
  'gemma2': (gemma_tokenizer, GEMMA_TEXT, '<end_of_turn>', ''),
  'gemma3': (lambda: gemma_tokenizer(GEMMA3), GEMMA_TEXT, '<end_of_turn>', ''),
  'mistral0.1': (
    lambda: mistral_tokenizer(MISTRAL1, ('<s>', '</s>')),
    ('<s>[INST] Think hard.\n\n{q} [/INST]', '</s> [INST] {i} [/INST]'),
    '</s>',
    '',
  ),
  'mistral0.3': (
    lambda: mistral_tokenizer(MISTRAL3),
    ('<s>[INST] Think hard.\n\n{q}[/INST]', '</s>[INST] {i}[/INST]'),
    '</s>',
    ' ',
  ),
}


@pytest.mark.parametrize('family', FAMILIES)
def test_prompt_answers_and_feeds_are_what_the_template_writes(family, tmp_path):
  make, (opening, between), end, glue = FAMILIES[family]
  tokenizer = make()
  made = opened(tokenizer, tmp_path, 'Think hard.', (AGAIN, THIRD), prompt_tokens=300)
  row = made.prompt_ids(problem())
  text = opening.format(q=FIRST)
  assert text_of(tokenizer, row) == text
  assert [text_of(tokenizer, feed) for feed in made.separators] == [between.format(i=i) for i in (AGAIN, THIRD)]
  assert {made.end_of_turn} == {feed[0] for feed in made.separators} == {tokenizer.convert_tokens_to_ids(end)}
  # The conversation as the template writes it, and as a rollout makes it of ids.
  users, answers = (FIRST, AGAIN, THIRD), (ANSWER.strip(), '<think>2</think>3', '<b>4</b>')  # some templates trim
  in_system = 'system' in opening or family == 'gemma3'
  messages = [turn('system', 'Think hard.')] if in_system else []
  for i, (user, answer) in enumerate(zip(users, answers, strict=True)):
    preamble = 'Think hard.\n\n' if i == 0 and not in_system else ''
    messages += [turn('user', preamble + user), turn('assistant', answer)]
    row = row + ids_of(tokenizer, glue + answer) + list(made.separators[i] if i < 2 else [made.end_of_turn])
  whole = ids_of(tokenizer, rendered(tokenizer, messages, answering=False))
  assert row == whole[: len(row)]
  assert text_of(tokenizer, whole[len(row) :]).strip() == ''  # what the template writes after the last turn's end


def test_white_space_before_an_answer_is_left_to_the_model_and_logged(tmp_path, caplog):
  caplog.set_level(logging.INFO)
  opened(mistral_tokenizer(MISTRAL3), tmp_path)
  assert "writes ' ' before an answer" in caplog.text
  caplog.clear()
  opened(mistral_tokenizer(MISTRAL1, ('<s>', '</s>')), tmp_path)
  assert not caplog.text


def test_attempts_are_one_more_than_feeds(tmp_path):
  tokenizer = chatml_tokenizer()
  assert opened(tokenizer, tmp_path, instructions=()).separators == ()
  three = opened(tokenizer, tmp_path, instructions=(AGAIN, THIRD)).separators
  assert len(three) == 2
  assert [text_of(tokenizer, feed) for feed in three] == [
    f'<|im_end|>\n<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n' for text in (AGAIN, THIRD)
  ]


@pytest.mark.parametrize(
  ('template', 'difference'),
  [
    (NO_EARLIER_ANSWERS, r"'<|im_start|>assistant\n7*12=84' became '<|im_start|>user\nThere might be an error'"),
    (SHORTENED, r"'sistant\n7*12=84' became 'sistant\n7*12<|im_end|>\n<|im_start|>user\n'"),
    (COUNTED, r"'1<|im_start|>user\nquestion<|' became '3<|im_start|>user\nquestion<|'"),
    (LABELLED, r"'|>assistant\n7*12=84' became '|>assistant\nAnswer: 7*12=84<|im_end|>"),
    (ONLY_FIRST, r"'on<|im_end|>7*12=84' became 'on<|im_end|>'"),
  ],
  ids=['earlier_answers', 'shortened', 'prompt', 'labelled', 'only_first'],
)
def test_a_template_that_rewrites_history_is_refused_with_both_texts_and_the_remedy(template, difference, tmp_path):
  with pytest.raises(DataError, match=r'rewrites history: ') as error:
    opened(tiny.byte_tokenizer(template), tmp_path)
  assert difference in str(error.value)
  assert "config.task.chat_template='bundled:chatml' or a .jinja file" in str(error.value)
  assert '\n' not in str(error.value)


def test_every_turn_boundary_is_proved_with_all_earlier_answers(tmp_path):
  tokenizer = tiny.byte_tokenizer(ONLY_TWO_ANSWERS)
  assert len(opened(tokenizer, tmp_path).separators) == 1
  with pytest.raises(DataError, match='rewrites history'):
    opened(tokenizer, tmp_path, instructions=(AGAIN, THIRD))


def test_a_template_whose_text_after_an_answer_depends_on_it_is_refused(tmp_path):
  with pytest.raises(DataError, match=r"depends on it: is '<\|im_end\|>.* or '!<\|im_end\|>"):
    opened(tiny.byte_tokenizer(THOUGHT_TWICE), tmp_path)


@pytest.mark.parametrize(
  ('template', 'message'),
  [
    (NO_END, 'no end of turn'),
    (PLAIN_END, 'one special token'),
    (TWO_ENDS, 'one special token'),
    ((TURN + OPEN + "m['content']" + CLOSE + NEXT).replace('<|im_end|>', '<|end|>'), 'one special token'),
  ],
  ids=['none', 'plain', 'two', 'unknown'],
)
def test_a_template_whose_answers_have_no_special_end_is_refused(template, message, tmp_path):
  with pytest.raises(DataError, match=message):
    opened(tiny.byte_tokenizer(template), tmp_path)


END_E = (
  TURN + "{{ m['role'] + ':' + m['content'] + 'END' }}{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)


@pytest.mark.parametrize(
  ('template', 'merge', 'message'),
  [
    (PLAIN_END, ('Ġ', '7'), r"tokens of a prompt depend .*'t', ':', 'Ġ'\] became .*'t', ':', 'Ġ7'\]"),
    (END_E, ('4', 'E'), r"tokens of an answer depend .*'8', '4'\] became .*'8', '4E'\]"),
  ],
  ids=['prompt', 'answer'],
)
def test_a_template_whose_text_merges_with_answers_is_refused_with_the_tokens(template, merge, message, tmp_path):
  with pytest.raises(DataError, match=message):
    opened(tiny.byte_tokenizer(template, merges=(merge,)), tmp_path)


@pytest.mark.parametrize('fails', ["{{ 1 + 'a' }}", '{{ 1 / 0 }}', '{% if %}', "{{ raise_exception('a\nb') }}"])
def test_a_template_that_fails_is_one_line_of_error(fails, tmp_path):
  with pytest.raises(DataError, match=r'chat template: \w+Error: .*config\.task\.chat_template') as error:
    opened(tiny.byte_tokenizer(fails + QWEN25), tmp_path)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('system', ['Think hard.', 'question', 'You are a helpful assistant.', ' Think hard. \n'])
def test_a_system_prompt_takes_the_system_turn(system, tmp_path):
  tokenizer = tiny.byte_tokenizer(QWEN25)
  made = opened(tokenizer, tmp_path, system=system)
  assert text_of(tokenizer, made.prompt_ids(problem())) == (
    f'<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{FIRST}<|im_end|>\n<|im_start|>assistant\n'
  )
  assert made.separators == opened(tokenizer, tmp_path).separators


@pytest.mark.parametrize('template', [REFUSES_SYSTEM + TURN + OPEN + "m['content']" + CLOSE + NEXT, IGNORES_SYSTEM])
def test_a_system_prompt_without_a_system_turn_joins_the_first_user_turn(template, tmp_path):
  tokenizer = tiny.byte_tokenizer(template)
  made = opened(tokenizer, tmp_path, system='Think hard.')
  assert text_of(tokenizer, made.prompt_ids(problem())) == (
    f'<|im_start|>user\nThink hard.\n\n{FIRST}<|im_end|>\n<|im_start|>assistant\n'
  )


def test_a_system_prompt_that_the_template_moves_to_the_last_turn_joins_the_first(tmp_path):
  tokenizer = mistral_tokenizer(MISTRAL3)
  made = opened(tokenizer, tmp_path, system='Think hard.')
  assert text_of(tokenizer, made.prompt_ids(problem())) == f'<s>[INST] Think hard.\n\n{FIRST}[/INST]'
  assert text_of(tokenizer, made.separators[0]) == f'</s>[INST] {AGAIN}[/INST]'


def test_examples_stand_between_the_system_turn_and_the_question(tmp_path):
  tokenizer = chatml_tokenizer()
  made = opened(tokenizer, tmp_path, system='Think hard.', examples=EXAMPLES)
  assert made.prompt_template.examples == EXAMPLES
  row = made.prompt_ids(problem())
  assert text_of(tokenizer, row) == (
    '<|im_start|>system\nThink hard.<|im_end|>\n'
    '<|im_start|>user\nReach 4 with 2 2.<|im_end|>\n<|im_start|>assistant\n2+2=4<|im_end|>\n'
    '<|im_start|>user\nGo on.<|im_end|>\n<|im_start|>assistant\n4<|im_end|>\n'
    f'<|im_start|>user\n{FIRST}<|im_end|>\n<|im_start|>assistant\n'
  )
  messages = [turn('system', 'Think hard.'), *EXAMPLES, turn('user', FIRST)]
  messages += [turn('assistant', ANSWER), turn('user', AGAIN)]
  assert row + ids_of(tokenizer, ANSWER) + list(made.separators[0]) == ids_of(tokenizer, rendered(tokenizer, messages))


def test_a_system_prompt_without_a_turn_joins_the_first_example(tmp_path):
  tokenizer = gemma_tokenizer()
  made = opened(tokenizer, tmp_path, system='Think hard.', examples=EXAMPLES[:2])
  assert text_of(tokenizer, made.prompt_ids(problem())) == (
    '<bos><start_of_turn>user\nThink hard.\n\nReach 4 with 2 2.<end_of_turn>\n'
    '<start_of_turn>model\n2+2=4<end_of_turn>\n'
    f'<start_of_turn>user\n{FIRST}<end_of_turn>\n<start_of_turn>model\n'
  )


def test_the_proof_covers_the_examples(tmp_path):
  only_short = "{% if messages|length > 4 %}{{ raise_exception('too many turns') }}{% endif %}" + QWEN25
  opened(tiny.byte_tokenizer(only_short), tmp_path)
  with pytest.raises(DataError, match='too many turns'):
    opened(tiny.byte_tokenizer(only_short), tmp_path, examples=EXAMPLES)


@pytest.mark.parametrize('bos', ['<s>', None])
def test_bundled_plain_prompts_a_base_model_with_examples_that_end_in_eos(bos, tmp_path):
  named = dict(eos_token='</s>') | (dict(bos_token=bos) if bos else {})
  tiny.byte_tokenizer(None, ('<s>', '</s>'), **named).save_pretrained(tmp_path)
  tokenizer = load_tokenizer(tmp_path, 'bundled:plain')
  made = opened(tokenizer, tmp_path, system='Think hard.', examples=EXAMPLES)
  text = (
    f'{bos or ""}Think hard.\nReach 4 with 2 2.\n2+2=4</s>\n\nGo on.\n4</s>\n\n{FIRST}\n',
    f'</s>\n\n{AGAIN}\n',
  )
  row = made.prompt_ids(problem())
  assert (text_of(tokenizer, row), text_of(tokenizer, made.separators[0])) == text
  assert made.end_of_turn == tokenizer.eos_token_id == 1
  row = row + ids_of(tokenizer, ANSWER) + list(made.separators[0])
  assert row == ids_of(tokenizer, text[0] + ANSWER + text[1])


def test_bundled_plain_needs_an_eos_token(tmp_path):
  tiny.byte_tokenizer(None).save_pretrained(tmp_path)
  with pytest.raises(DataError, match='no eos_token'):
    opened(load_tokenizer(tmp_path, 'bundled:plain'), tmp_path)


def test_examples_are_read_from_every_row(tmp_path):
  path = tmp_path / 'examples.jsonl'
  path.write_text('\n'.join(json.dumps(dict(messages=EXAMPLES[i : i + 2])) for i in (0, 2)) + '\n\n')
  assert chat.read_examples(str(path)) == EXAMPLES
  path.write_text(json.dumps(dict(messages=EXAMPLES)))
  assert chat.read_examples(str(path)) == EXAMPLES


@pytest.mark.parametrize(
  ('row', 'message'),
  [
    ('{"messages": [', 'is not an object'),
    ('[' * 100_000, 'is not an object'),
    ('[]', 'is not an object'),
    ('{"turns": []}', 'is not an object'),
    ('{"messages": "a"}', 'messages must be a list'),
    ('{"messages": []}', 'messages must be a list'),
    (json.dumps(dict(messages=EXAMPLES[:1])), 'messages must be a list'),
    (json.dumps(dict(messages=EXAMPLES[1:3])), r"messages\[0\] = .*must have role 'user'"),
    (json.dumps(dict(messages=[EXAMPLES[0]] * 2)), r"messages\[1\] = .*must have role 'assistant'"),
    (json.dumps(dict(messages=[turn('system', 'a'), turn('user', 'b')])), r'messages\[0\] = .*config\.task\.system'),
    (json.dumps(dict(messages=[EXAMPLES[0] | dict(name='a'), EXAMPLES[1]])), r'messages\[0\] = .*nothing else'),
    (json.dumps(dict(messages=['a', 'b'])), r'messages\[0\] = '),
    (json.dumps(dict(messages=[EXAMPLES[0], turn('assistant', 4)])), r"messages\[1\]\.content = '4' is no text"),
    (json.dumps(dict(messages=[turn('user', ' \n'), EXAMPLES[1]])), r'messages\[0\]\.content = .* is no text'),
  ],
)
def test_a_row_that_is_no_conversation_is_named(row, message, tmp_path):
  path = tmp_path / 'examples.jsonl'
  path.write_text(json.dumps(dict(messages=EXAMPLES)) + '\n' + row)
  with pytest.raises(DataError, match=rf'config\.task\.examples = .*examples\.jsonl.*, row 2: {message}') as error:
    chat.read_examples(str(path))
  assert '\n' not in str(error.value)
  assert len(str(error.value)) < 500


@pytest.mark.parametrize('content', [None, b'', b'\n', b'\xff\xfe'], ids=['missing', 'empty', 'blank', 'binary'])
def test_a_file_without_examples_is_named(content, tmp_path):
  if content is not None:
    (tmp_path / 'examples.jsonl').write_bytes(content)
  with pytest.raises(DataError, match=r'config\.task\.examples = .*examples\.jsonl'):
    chat.read_examples(str(tmp_path / 'examples.jsonl'))


def test_templates_are_told_the_configured_date_and_never_read_the_clock(tmp_path):
  tokenizer = llama_tokenizer()
  made = opened(tokenizer, tmp_path, prompt_tokens=300, date='2025-03-05')
  assert 'Today Date: 05 Mar 2025\n' in text_of(tokenizer, made.prompt_ids(problem()))
  today = rendered(tokenizer, [turn('user', 'a')], date=datetime.date.today().isoformat())
  assert today == tokenizer.apply_chat_template([turn('user', 'a')], tokenize=False, add_generation_prompt=True)
  times = tiny.byte_tokenizer('{{ strftime_now("%Y-%m-%d %H:%M:%S") }}')
  assert rendered(times, [turn('user', 'a')], date='1999-12-31') == '1999-12-31 00:00:00'


@pytest.mark.parametrize('start', ['', '\n', '  ', '\n  ', '{# a #}\n', '  {%- if true %}\n  {% endif %}'])
def test_the_date_changes_nothing_else_of_a_template(start):
  template = start + '{% set day = strftime_now("%Y") %}\n  {% if day %}a{% endif %}\n b'
  tokenizer = tiny.byte_tokenizer(template)
  assert rendered(tokenizer, [turn('user', 'a')]) == tokenizer.apply_chat_template(
    [turn('user', 'a')], tokenize=False, add_generation_prompt=True
  )


def test_a_template_with_a_date_of_its_own_keeps_it(tmp_path):
  fixed = LLAMA32.replace('strftime_now is defined', 'false')
  tokenizer = llama_tokenizer(fixed)
  made = opened(tokenizer, tmp_path, prompt_tokens=300, date='2025-03-05')
  assert 'Today Date: 26 Jul 2024\n' in text_of(tokenizer, made.prompt_ids(problem()))


@pytest.mark.parametrize('date', ['', 'today', '2024-7-26', '20240726', '2024-02-30', '2024-07-26T00:00', None])
def test_a_date_that_is_not_one_is_named(date, tmp_path):
  with pytest.raises(DataError, match=r'config\.task\.date = .*YYYY-MM-DD'):
    opened(chatml_tokenizer(), tmp_path, date=date)


def test_prompts_are_left_padded_to_their_budget(tmp_path):
  made = opened(chatml_tokenizer(), tmp_path, prompt_tokens=90)
  short, long = problem('a'), Problem(id='test/8', question='abc', reference={})
  prompt, start = made.prompts([short, long])
  assert prompt.shape == (2, 90)
  assert start[0] == start[1] + 2
  for row, first, one in zip(prompt, start, (short, long), strict=True):
    assert row[first:].tolist() == made.prompt_ids(one)
    assert set(row[:first].tolist()) == {made.pad}


def test_a_problem_is_rendered_once(tmp_path, monkeypatch):
  made = opened(chatml_tokenizer(), tmp_path)
  rendered = []
  text = chat.PromptTemplate.text
  monkeypatch.setattr(chat.PromptTemplate, 'text', lambda *args, **named: rendered.append(args) or text(*args, **named))
  made.prompts([problem()] * 5)
  assert len(rendered) == 1


def test_a_prompt_longer_than_its_budget_names_the_problem_and_the_field(tmp_path):
  made = opened(chatml_tokenizer(), tmp_path)
  needed = len(made.prompt_ids(problem()))
  assert opened(chatml_tokenizer(), tmp_path, prompt_tokens=needed).prompts([problem()])[1].tolist() == [0]
  tight = opened(chatml_tokenizer(), tmp_path, prompt_tokens=needed - 1)
  with pytest.raises(DataError, match=rf'test/7.* {needed} tokens.*config\.sampling\.prompt_tokens = {needed - 1}'):
    tight.prompts([problem()])


def test_texts_are_each_attempts_own_tokens_without_special_ones(tmp_path):
  tokenizer = chatml_tokenizer()
  made = opened(tokenizer, tmp_path)
  first, second = [*ids_of(tokenizer, 'was 3\n'), made.end_of_turn], ids_of(tokenizer, 'is 4')
  row = made.prompt_ids(problem()) + first + list(made.separators[0][1:]) + second + [made.pad] * 3
  lengths = [len(made.prompt_ids(problem())), len(first), len(made.separators[0]) - 1, len(second), 3]
  labels = np.repeat([0, 1, 0, 2, 0], lengths).tolist()
  texts = made.texts(np.array([row, row]), np.array([labels, [0] * len(row)]), 2)
  assert texts == [['was 3\n', 'is 4'], ['', '']]


def test_texts_have_neither_an_end_of_turn_that_is_not_special_nor_tidied_spaces(tmp_path):
  tidy = dict.fromkeys(
    ('clean_up_tokenization_spaces', 'clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output'), True
  )
  tokenizer = tiny.byte_tokenizer(templates.named('bundled:chatml').replace('<|im_end|>', '<end>'), **tidy)
  tokenizer.add_tokens(['<end>'])
  made = opened(tokenizer, tmp_path)
  assert made.end_of_turn not in tokenizer.all_special_ids
  spoken = [*ids_of(tokenizer, "a , b 's"), made.end_of_turn]
  assert made.texts(np.array([spoken]), np.ones((1, len(spoken)), int), 1) == [["a , b 's"]]


@pytest.mark.parametrize(('eos', 'extra'), [(5, {5}), ([7, 5, 1], {5, 7}), (None, set()), ([], set())])
def test_stops_are_end_of_turn_and_the_generation_configs_eos_ids(eos, extra, tmp_path):
  (tmp_path / 'generation_config.json').write_text(json.dumps(dict(eos_token_id=eos)))
  made = opened(chatml_tokenizer(), tmp_path)
  assert made.end_of_turn == 1
  assert made.stops == tuple(sorted({1} | extra))


def test_stop_strings_of_a_folder_are_told_once(tmp_path, caplog):
  settings = tmp_path / 'generation_config.json'
  settings.write_text(json.dumps(dict(eos_token_id=5, stop_strings=['Question:'])))
  assert opened(chatml_tokenizer(), tmp_path).stops == (1, 5)
  assert caplog.text.count(f"{settings}: stop_strings = ['Question:'] end no attempt") == 1


@pytest.mark.parametrize(
  ('config', 'generation', 'extra'),
  [
    (dict(eos_token_id=[5, 7]), None, {5, 7}),
    (dict(eos_token_id=[5, 7]), {}, {5, 7}),
    (dict(eos_token_id=5), dict(eos_token_id=9), {9}),
    (dict(text_config=dict(eos_token_id=5)), None, {5}),
    (dict(eos_token_id=7, text_config=dict(eos_token_id=5)), None, {7}),
    (dict(text_config=5), None, set()),
  ],
)
def test_stops_are_those_of_transformers_and_the_tokenizers_own(config, generation, extra, tmp_path):
  for name, content in (('config', config), ('generation_config', generation)):
    if content is not None:
      (tmp_path / f'{name}.json').write_text(json.dumps(content))
  tokenizer = chatml_tokenizer()
  assert opened(tokenizer, tmp_path).stops == tuple(sorted({1} | extra))
  tokenizer.eos_token = tokenizer.convert_ids_to_tokens(30)
  assert opened(tokenizer, tmp_path).stops == tuple(sorted({1, 30} | extra))


@pytest.mark.slow
def test_stops_are_the_ids_with_which_transformers_opens_the_model(tmp_path):
  """All pairs of the two files' ids; where generation_config.json has none, config.json's count, for a run must end."""
  config = tiny.decoder_config('llama')
  folder = tiny.write_hf_folder(tmp_path / 'model', config)
  plain = json.loads((folder / 'config.json').read_text())
  plain.pop('eos_token_id', None)
  for in_config, in_generation in itertools.product(({}, None, 5, [5, 7], []), ('', {}, None, 9, [9, 11], [9, 9], [])):
    own = {} if in_config == {} else dict(eos_token_id=in_config)
    (folder / 'config.json').write_text(json.dumps(plain | own))
    (folder / 'generation_config.json').unlink(missing_ok=True)
    if in_generation != '':
      content = {} if in_generation == {} else dict(eos_token_id=in_generation)
      (folder / 'generation_config.json').write_text(json.dumps(content))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).generation_config.eos_token_id
    ids = theirs or in_config or []
    expected = {1, *(ids if isinstance(ids, list | dict) else [ids])}
    assert opened(chatml_tokenizer(), folder).stops == tuple(sorted(expected)), (in_config, in_generation)


def test_a_gemma_folder_without_a_generation_config_stops_at_both_of_its_ends(tmp_path):
  tokenizer = gemma_tokenizer(GEMMA3)
  end, turn = tokenizer.convert_tokens_to_ids(['<eos>', '<end_of_turn>'])
  assert opened(tokenizer, tmp_path).stops == (turn,)
  (tmp_path / 'config.json').write_text(json.dumps(dict(model_type='gemma3_text', eos_token_id=[end, turn])))
  assert opened(tokenizer, tmp_path).stops == (end, turn)


@pytest.mark.parametrize(
  'content',
  ['{', '[]', '[' * 100_000, *(json.dumps(dict(eos_token_id=eos)) for eos in ('5', 5.0, True, -1, [5, '7'], {'a': 1}))],
)
def test_a_generation_config_without_usable_eos_ids_is_named(content, tmp_path):
  (tmp_path / 'generation_config.json').write_text(content)
  with pytest.raises(DataError, match=r'generation_config\.json: '):
    opened(chatml_tokenizer(), tmp_path)


def test_words_that_the_tokenizer_does_not_have_are_refused(tmp_path):
  with pytest.raises(DataError, match=r'does not know what stands between attempts.*config\.task\.instruction'):
    opened(tiny.tokenizer(), tmp_path, instructions=('Try again!',))
  foreign = tiny.tokenizer()
  foreign.chat_template = templates.named('bundled:chatml')
  with pytest.raises(DataError, match=r"has no token '<\|im_start\|>'; use .*'bundled:plain' or"):
    opened(foreign, tmp_path, instructions=(tiny.INSTRUCTION,))


def test_tokens_that_the_model_does_not_have_are_refused(tmp_path):
  made = opened(chatml_tokenizer(), tmp_path)
  highest = max(max(made.separators[0]), made.pad)
  made.check_vocabulary(highest + 1)
  with pytest.raises(DataError, match=f'what stands between attempts has token {highest} .* the model has {highest} t'):
    made.check_vocabulary(highest)
  with pytest.raises(DataError, match='padding has token 300'):
    dataclasses.replace(made, pad=300).check_vocabulary(300)
