"""Chat templates: what passes the proof, what is refused, and that the ids fed are the template's own."""

import json

import numpy as np
import pytest
import tiny

from score_jax.errors import DataError
from score_jax.tasks import chat
from score_jax.tasks import countdown_base
from score_jax.types import Problem

TURN = '{% for m in messages %}'
CHATML = (
  "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}"
  + TURN
  + "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
  "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
  '{{ bos_token }}'
  + TURN
  + "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
  "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
OPEN, CLOSE = "{{ '<|im_start|>' + m['role'] + '\n' + ", " + '<|im_end|>\n' }}{% endfor %}"
ASK = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
# Templates that write an earlier answer otherwise than it was.
NO_THINKING = TURN + OPEN + "(m['content'] if loop.last else m['content'].split('</think>')[-1])" + CLOSE + ASK
NO_EARLIER_ANSWERS = (
  ('{% for m in messages %}{% if m.role != "assistant" or loop.last %}' + OPEN + "m['content']")
  + CLOSE.replace('{% endfor %}', '{% endif %}{% endfor %}')
  + ASK
)
SHORTENED = TURN + OPEN + "(m['content'][:4] if m['role'] == 'assistant' else m['content'])" + CLOSE + ASK
# Templates whose answers have no end that a sampler could recognise.
NO_END = TURN + "{{ m['content'] }}{% endfor %}"
PLAIN_END = (
  TURN + "{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)
# Templates without a system turn.
REFUSES_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
IGNORES_SYSTEM = TURN.replace(' %}', " if m['role'] != 'system' %}") + OPEN + "m['content']" + CLOSE + ASK

FIRST, AGAIN, THIRD = 'Reach 3 with 1 2.', 'There might be an error. Try again!', 'Once more.'
ANSWER = ' 1+2=3\n  so: 3 '


def byte_tokenizer(template, specials=('<|im_start|>', '<|im_end|>'), **named):
  """A byte-level tokenizer, one id a byte, with the special tokens of a template."""
  import tokenizers
  from tokenizers import decoders
  from tokenizers import models
  from tokenizers import pre_tokenizers
  import transformers

  pieces = [*specials, *sorted(pre_tokenizers.ByteLevel.alphabet())]
  core = tokenizers.Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, []))
  core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  core.decoder = decoders.ByteLevel()
  return transformers.PreTrainedTokenizerFast(
    tokenizer_object=core, extra_special_tokens=list(specials), chat_template=template, **named
  )


def chatml_tokenizer():
  return byte_tokenizer(CHATML)


def llama3_tokenizer():
  specials = ('<|begin_of_text|>', '<|start_header_id|>', '<|end_header_id|>', '<|eot_id|>')
  return byte_tokenizer(LLAMA3, specials, bos_token='<|begin_of_text|>')


def opened(tokenizer, folder, system='', instructions=(AGAIN,), prompt_tokens=200):
  return chat.open_chat(folder, tokenizer, system=system, instructions=instructions, prompt_tokens=prompt_tokens)


def problem(question=FIRST):
  return Problem(id='test/7', question=question, reference={})


def ids_of(tokenizer, text):
  return tokenizer(text, add_special_tokens=False)['input_ids']


def text_of(tokenizer, ids):
  return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def test_the_bundled_template_passes_the_proof(tmp_path):
  tokenizer = tiny.tokenizer()
  made = opened(tokenizer, tmp_path, instructions=(tiny.INSTRUCTION,))
  assert made.feeds == tiny.rollout_spec().feeds
  assert made.end_of_turn == tokenizer.convert_tokens_to_ids(countdown_base.END)
  assert made.stops == (made.end_of_turn,)
  assert made.pad == tokenizer.convert_tokens_to_ids(countdown_base.PAD)


@pytest.mark.parametrize(
  ('make', 'end'), [(chatml_tokenizer, '<|im_end|>'), (llama3_tokenizer, '<|eot_id|>')], ids=['chatml', 'llama3']
)
@pytest.mark.parametrize('system', ['', 'Think hard.'])
def test_prompt_answer_and_feed_are_what_the_template_writes(make, end, system, tmp_path):
  tokenizer = make()
  made = opened(tokenizer, tmp_path, system=system, instructions=(AGAIN, THIRD))
  answer = ANSWER.strip()  # the Llama template trims; that is between text and ids, never between two attempts
  messages = [dict(role='system', content=system)] if system else []
  messages += [dict(role='user', content=FIRST)]
  row = made.prompt_ids(problem())
  assert text_of(tokenizer, row) == chat.render(tokenizer, messages)
  for feed, instruction in zip(made.feeds, (AGAIN, THIRD), strict=True):
    messages += [dict(role='assistant', content=answer), dict(role='user', content=instruction)]
    row = row + ids_of(tokenizer, answer) + list(feed)
    assert row == ids_of(tokenizer, chat.render(tokenizer, messages))
    assert feed[0] == made.end_of_turn == tokenizer.convert_tokens_to_ids(end)


def test_attempts_are_one_more_than_feeds(tmp_path):
  tokenizer = chatml_tokenizer()
  assert opened(tokenizer, tmp_path, instructions=()).feeds == ()
  three = opened(tokenizer, tmp_path, instructions=(AGAIN, THIRD)).feeds
  assert len(three) == 2
  assert [text_of(tokenizer, feed) for feed in three] == [
    f'<|im_end|>\n<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n' for text in (AGAIN, THIRD)
  ]


@pytest.mark.parametrize(
  ('template', 'difference'),
  [
    (NO_THINKING, r"'<think>7*12</think>84' became '84<|im_end|>\n"),
    (NO_EARLIER_ANSWERS, r"'assistant\n7*12=84' became 'user\nThere might be an error. Try again!'"),
    (SHORTENED, r"'=84' became '<|im_end|>\n"),
  ],
  ids=['thinking', 'earlier_answers', 'shortened'],
)
def test_a_template_that_rewrites_history_is_refused_with_the_text_that_differs(template, difference, tmp_path):
  with pytest.raises(DataError, match=r'rewrites history: .*config\.task\.chat_template') as error:
    opened(byte_tokenizer(template), tmp_path)
  assert difference in str(error.value)


@pytest.mark.parametrize(
  ('template', 'message'), [(NO_END, 'no end of turn'), (PLAIN_END, 'one special token')], ids=['none', 'plain']
)
def test_a_template_whose_answers_have_no_special_end_is_refused(template, message, tmp_path):
  with pytest.raises(DataError, match=message):
    opened(byte_tokenizer(template), tmp_path)


def test_a_system_prompt_takes_the_system_turn(tmp_path):
  tokenizer = chatml_tokenizer()
  made = opened(tokenizer, tmp_path, system='Think hard.')
  assert text_of(tokenizer, made.prompt_ids(problem())) == (
    f'<|im_start|>system\nThink hard.<|im_end|>\n<|im_start|>user\n{FIRST}<|im_end|>\n<|im_start|>assistant\n'
  )
  assert made.feeds == opened(tokenizer, tmp_path).feeds


@pytest.mark.parametrize('template', [REFUSES_SYSTEM + TURN + OPEN + "m['content']" + CLOSE + ASK, IGNORES_SYSTEM])
def test_a_system_prompt_without_a_system_turn_joins_the_first_user_turn(template, tmp_path):
  tokenizer = byte_tokenizer(template)
  made = opened(tokenizer, tmp_path, system='Think hard.')
  assert text_of(tokenizer, made.prompt_ids(problem())) == (
    f'<|im_start|>user\nThink hard.\n\n{FIRST}<|im_end|>\n<|im_start|>assistant\n'
  )


def test_prompts_are_left_padded_to_their_budget(tmp_path):
  made = opened(chatml_tokenizer(), tmp_path, prompt_tokens=90)
  short, long = problem('a'), Problem(id='test/8', question='abc', reference={})
  prompt, start = made.prompts([short, long])
  assert prompt.shape == (2, 90)
  assert start[0] == start[1] + 2
  for row, first, one in zip(prompt, start, (short, long), strict=True):
    assert row[first:].tolist() == made.prompt_ids(one)
    assert set(row[:first].tolist()) == {made.pad}


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
  row = made.prompt_ids(problem()) + first + list(made.feeds[0][1:]) + second + [made.pad] * 3
  labels = [0] * len(made.prompt_ids(problem())) + [1] * len(first) + [0] * len(made.feeds[0][1:]) + [2] * len(second)
  labels += [0] * 3
  texts = made.texts(np.array([row, row]), np.array([labels, [0] * len(row)]), 2)
  assert texts == [['was 3\n', 'is 4'], ['', '']]


@pytest.mark.parametrize(('eos', 'extra'), [(5, {5}), ([7, 5, 1], {5, 7}), (None, set())])
def test_stops_are_end_of_turn_and_the_generation_configs_eos_ids(eos, extra, tmp_path):
  (tmp_path / 'generation_config.json').write_text(json.dumps(dict(eos_token_id=eos)))
  made = opened(chatml_tokenizer(), tmp_path)
  assert made.end_of_turn == 1
  assert made.stops == tuple(sorted({1} | extra))


def test_a_folder_without_a_chat_template_is_refused(tmp_path):
  tokenizer = tiny.tokenizer()
  tokenizer.chat_template = None
  tokenizer.save_pretrained(tmp_path)
  with pytest.raises(DataError, match=r'no chat template.*config\.task\.chat_template'):
    chat.load_tokenizer(tmp_path)
  (tmp_path / 'other.jinja').write_text(CHATML)
  assert chat.load_tokenizer(tmp_path, str(tmp_path / 'other.jinja')).chat_template == CHATML


def test_a_chat_template_file_that_is_missing_is_named(hf_folder, tmp_path):
  with pytest.raises(DataError, match=r'config\.task\.chat_template = .*gone\.jinja'):
    chat.load_tokenizer(hf_folder, str(tmp_path / 'gone.jinja'))
