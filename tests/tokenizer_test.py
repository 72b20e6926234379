"""Loading tokenizers: templates named, what is refused, and sentencepiece models with sentencepiece's own ids."""

import io
import json
import os
import random

import chat_test
import pytest
import tiny

from score_jax.errors import DataError
from score_jax.tasks import tokenizer as tokenizers
from score_jax.tasks.tokenizer import load_tokenizer

BUNDLED = chat_test.chatml_tokenizer().chat_template
TRAINING = [
  f'the answer to question {n} of {n % 7}, {n % 13} and {n * n % 97}: {n % 7} + {n % 13} = {n % 7 + n % 13}. café\n'
  for n in range(300)
]
SYMBOLS = ['<b>', '<|turn|>', '\n\n', '▁▁▁']
GEMMA = dict(pad_id=0, eos_id=1, bos_id=2, unk_id=3, pad_piece='<pad>', eos_piece='<eos>', bos_piece='<bos>')
KINDS = {
  'llama': {},
  'mistral': dict(control_symbols=['[INST]', '[/INST]']),
  'symbols': dict(control_symbols=['[INST]'], user_defined_symbols=SYMBOLS),
  'gemma': dict(
    add_dummy_prefix=False, user_defined_symbols=['<start_of_turn>', '<end_of_turn>', '\n', '\n\n', '▁▁'], **GEMMA
  ),
  'no_bytes': dict(byte_fallback=False),
  'codes': dict(
    sentence_iterator=[f'{a}0x41> <{a}' for a in 'abcdefgh' * 20],
    split_by_number=False,
    split_by_unicode_script=False,
    split_digits=False,
  ),
}
TEXTS = (
  'the answer',
  ' the answer',
  '  two  and   three',
  'question: ',
  '',
  ' ',
  '\n',
  '\n\nthe answer\n \n',
  'a\tb',
  'x <b>bold</b> x',
  '<b>and<|turn|>\n\n the',
  '3 + 4 = 7',
  '12345+67890',
  'café, 日本語 🤗 Ａ',
  'a▁b',
  '▁',
  '<0x41>',  # no byte's token, to sentencepiece
  'the<0x41>',
)


def train(**options):
  """A small sentencepiece model as bytes."""
  import sentencepiece

  made = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    **dict(
      model_writer=made,
      model_type='bpe',
      vocab_size=420,
      hard_vocab_limit=False,
      byte_fallback=True,
      normalization_rule_name='identity',
      remove_extra_whitespaces=False,
      split_digits=True,
      num_threads=1,
      minloglevel=2,
    )
    | options
    | dict(sentence_iterator=iter(options.get('sentence_iterator', TRAINING)))
  )
  return made.getvalue()


@pytest.fixture(scope='module')
def models():
  """Kind -> sentencepiece model."""
  return {kind: train(**options) for kind, options in KINDS.items()}


def write_folder(path, model, settings=None, model_type='llama', template=BUNDLED):
  """A folder with a sentencepiece model and no tokenizer.json."""
  path.mkdir(exist_ok=True)
  (path / 'tokenizer.model').write_bytes(model)
  (path / 'config.json').write_text(json.dumps(dict(model_type=model_type)))
  if settings is not None:
    (path / 'tokenizer_config.json').write_text(json.dumps(settings))
  (path / 'chat_template.jinja').write_text(template)
  return path


def processor(model, dummy_prefix=None):
  """sentencepiece itself, with or without the space before a text."""
  import sentencepiece
  from sentencepiece import sentencepiece_model_pb2

  proto = sentencepiece_model_pb2.ModelProto.FromString(model)
  if dummy_prefix is not None:
    proto.normalizer_spec.add_dummy_prefix = dummy_prefix
  return sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())


def ids_of(tokenizer, text):
  return tokenizer(text, add_special_tokens=False)['input_ids']


def random_texts(count):
  rng = random.Random(0)
  pieces = [
    'the',
    ' answer',
    ' ',
    '  ',
    '\n',
    '\n\n',
    '7',
    '42',
    'aaa',
    '=',
    ' = ',
    '▁',
    'é',
    '日',
    '<b>',
    '<',
    '.',
    '\t',
    'x',
  ]
  return [''.join(rng.choices(pieces, k=rng.randrange(1, 30))) for _ in range(count)]


@pytest.mark.parametrize('settings', [None, dict(legacy=True), dict(tokenizer_class='LlamaTokenizer', legacy=False)])
@pytest.mark.parametrize('kind', KINDS)
def test_a_sentencepiece_model_keeps_its_ids_texts_and_special_tokens(kind, settings, models, tmp_path):
  own = processor(models[kind])
  model_type = kind if kind in ('llama', 'mistral', 'gemma') else 'llama'
  tokenizer = load_tokenizer(write_folder(tmp_path / kind, models[kind], settings, model_type))
  for text in (*TEXTS, *random_texts(200)):
    expected = own.encode(text)
    if text in KINDS[kind].get('user_defined_symbols', ()):  # it can't be told from what is sought in a text
      expected = expected[-1:]
    assert ids_of(tokenizer, text) == expected, text
    if own.unk_id() not in expected:  # which sentencepiece writes as a sign of its own
      assert tokenizer.decode(expected) == own.decode(expected), text
  assert len(tokenizer) == own.get_piece_size()
  assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (own.bos_id(), own.eos_id())
  assert tokenizer.pad_token_id == (own.pad_id() if own.pad_id() >= 0 else None)
  assert [own.id_to_piece(i) for i in range(len(tokenizer))] == tokenizer.convert_ids_to_tokens(range(len(tokenizer)))


def test_an_explicit_add_prefix_space_overrides_the_models(models, tmp_path):
  tokenizer = load_tokenizer(write_folder(tmp_path, models['llama'], dict(add_prefix_space=False)))
  own = processor(models['llama'], dummy_prefix=False)
  for text in TEXTS:
    assert ids_of(tokenizer, text) == own.encode(text), text
  assert ids_of(tokenizer, 'the answer') != processor(models['llama']).encode('the answer')


@pytest.mark.parametrize('legacy', [None, True, False])
@pytest.mark.parametrize('kind', ['mistral', 'symbols'])
def test_text_between_special_tokens_is_spaced_as_legacy_says(kind, legacy, models, tmp_path):
  settings = {} if legacy is None else dict(legacy=legacy)
  tokenizer = load_tokenizer(write_folder(tmp_path, models[kind], settings))
  own, bare = processor(models[kind]), processor(models[kind], dummy_prefix=False)
  later = bare if legacy is False else own
  bos, eos, inst = own.bos_id(), own.eos_id(), own.piece_to_id('[INST]')
  text = 'the answer</s> the[INST]answer <b>x</b>'
  expected = [*own.encode('the answer'), eos, *later.encode(' the'), inst, *later.encode('answer <b>x</b>')]
  assert ids_of(tokenizer, text) == expected
  assert ids_of(tokenizer, '<s>' + text) == [
    bos,
    *later.encode('the answer'),
    *expected[len(own.encode('the answer')) :],
  ]
  assert tokenizer.decode([bos, inst, *own.encode('the'), eos], skip_special_tokens=True) == 'the'


def test_tokens_that_the_folder_adds_keep_their_ids(models, tmp_path):
  size = processor(models['llama']).get_piece_size()
  added = {
    str(size): dict(content='<|im_start|>', special=True),
    str(size + 1): dict(content='<|im_end|>', special=True),
  }
  settings = dict(added_tokens_decoder=added, eos_token='<|im_end|>', pad_token='<unk>', legacy=False)
  tokenizer = load_tokenizer(write_folder(tmp_path / 'new', models['llama'], settings))
  assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, size + 1, 0)
  bare = processor(models['llama'], dummy_prefix=False)
  assert ids_of(tokenizer, '<|im_start|>the') == [size, *bare.encode('the')]
  old = write_folder(tmp_path / 'old', models['llama'])
  (old / 'added_tokens.json').write_text(json.dumps({'<|im_start|>': size, '<|im_end|>': size + 1}))
  (old / 'special_tokens_map.json').write_text(json.dumps(dict(bos_token='<s>', eos_token='<|im_end|>')))
  tokenizer = load_tokenizer(old)
  assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids('<|im_start|>')) == (
    1,
    size + 1,
    size,
  )


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    (
      dict(added_tokens_decoder={'5': dict(content='<|x|>')}),
      r"tokenizer\.model: cannot have '<\|x\|>' as its token 5",
    ),
    (dict(added_tokens_decoder={'9999': dict(content='<|x|>')}), 'as its token 9999'),
    (dict(eos_token='<|x|>'), r"tokenizer_config\.json: eos_token = '<\|x\|>' is no token of tokenizer\.model"),
  ],
)
def test_settings_that_do_not_fit_the_sentencepiece_model_are_refused(settings, message, models, tmp_path):
  with pytest.raises(DataError, match=message):
    load_tokenizer(write_folder(tmp_path, models['llama'], settings))


@pytest.mark.parametrize(
  'options',
  [
    dict(model_type='unigram'),
    dict(normalization_rule_name='nmt_nfkc'),
    dict(remove_extra_whitespaces=True),
    dict(treat_whitespace_as_suffix=True),
  ],
  ids=lambda options: next(iter(options)),
)
def test_a_sentencepiece_model_of_any_kind_keeps_its_ids(options, tmp_path):
  model = train(**options)
  tokenizer, own = load_tokenizer(write_folder(tmp_path, model)), processor(model)
  for text in (*TEXTS, *random_texts(50)):
    assert ids_of(tokenizer, text) == own.encode(text), text
    assert tokenizer.decode(own.encode(text)) == own.decode(own.encode(text)), text


@pytest.mark.parametrize('content', [b'', b'IQ== 0\nIg== 1\n', b'\0\1\2' * 99], ids=['empty', 'tiktoken', 'garbage'])
def test_a_file_that_is_no_sentencepiece_model_is_refused(content, tmp_path):
  with pytest.raises(DataError, match=r'tokenizer\.model: is not a sentencepiece model; put the tokenizer\.json'):
    load_tokenizer(write_folder(tmp_path, content))


@pytest.mark.parametrize(
  ('kind', 'template', 'settings', 'glue'),
  [
    ('llama', chat_test.MISTRAL1, dict(legacy=True), ''),
    ('llama', chat_test.MISTRAL1, dict(legacy=False), ''),
    ('mistral', chat_test.MISTRAL3, dict(legacy=False), ' '),
    ('mistral', chat_test.MISTRAL3, None, ' '),
    ('gemma', chat_test.GEMMA2, None, ''),
    ('gemma', chat_test.GEMMA3, None, ''),
  ],
)
def test_conversations_of_sentencepiece_models_are_what_the_template_writes(
  kind, template, settings, glue, models, tmp_path
):
  folder = write_folder(tmp_path, models[kind], settings, kind, template)
  tokenizer = load_tokenizer(folder)
  made = chat_test.opened(tokenizer, folder, examples=chat_test.EXAMPLES, prompt_tokens=400)
  messages = [*chat_test.EXAMPLES, chat_test.turn('user', chat_test.FIRST)]
  row, text = made.prompt_ids(chat_test.problem()), chat_test.rendered(tokenizer, messages)
  assert row == ids_of(tokenizer, text)
  for answer, feed in zip(('3 + 4 = 7', 'the answer: 8'), (*made.separators, ()), strict=True):
    # What a model says that splits its words as the tokenizer does.
    messages.append(chat_test.turn('assistant', answer))
    answered = ids_of(tokenizer, text + glue + answer)
    assert answered[: len(row)] == row
    attempt = [*answered[len(row) :], made.end_of_turn]
    texts = made.texts(*(chat_test.np.array([ids]) for ids in (attempt, [1] * len(attempt))), 1)
    assert texts[0][0].strip() == answer
    messages.append(chat_test.turn('user', chat_test.AGAIN))
    text = chat_test.rendered(tokenizer, messages)
    row = answered + list(feed)
  assert row == ids_of(tokenizer, chat_test.rendered(tokenizer, messages[:-1], answering=False))[: len(row)]
  assert made.separators[0] == tuple(
    ids_of(tokenizer, chat_test.rendered(tokenizer, messages[:-2]))[-len(made.separators[0]) :]
  )


def test_bundled_plain_on_a_sentencepiece_base_gives_the_ids_of_each_text(models, tmp_path):
  folder = write_folder(tmp_path, models['llama'])
  tokenizer = load_tokenizer(folder, 'bundled:plain')
  made = chat_test.opened(tokenizer, folder, examples=chat_test.EXAMPLES[:2])
  own = processor(models['llama'])
  question, answer = chat_test.EXAMPLES[0]['content'], chat_test.EXAMPLES[1]['content']
  assert made.prompt_ids(chat_test.problem()) == [
    own.bos_id(),
    *own.encode(f'{question}\n{answer}'),
    own.eos_id(),
    *own.encode(f'\n\n{chat_test.FIRST}\n'),
  ]
  assert list(made.separators[0]) == [own.eos_id(), *own.encode(f'\n\n{chat_test.AGAIN}\n')]


@pytest.fixture
def folder(tmp_path):
  """A folder with a tokenizer.json and a template."""
  tiny.tokenizer().save_pretrained(tmp_path)
  return tmp_path


def edit(path, **changes):
  path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_tokenizer_without_a_chat_template_has_none_until_one_is_named(folder):
  (folder / 'chat_template.jinja').unlink()
  assert load_tokenizer(folder).chat_template == ''
  (folder / 'other.jinja').write_text(chat_test.QWEN25)
  assert load_tokenizer(folder, str(folder / 'other.jinja')).chat_template == chat_test.QWEN25


def test_a_named_template_replaces_the_tokenizers(folder):
  (folder / 'other.jinja').write_text(chat_test.QWEN25)
  assert load_tokenizer(folder).chat_template != chat_test.QWEN25
  assert load_tokenizer(folder, str(folder / 'other.jinja')).chat_template == chat_test.QWEN25
  assert "'<|im_start|>'" in load_tokenizer(folder, 'bundled:chatml').chat_template
  assert 'eos_token' in load_tokenizer(folder, 'bundled:plain').chat_template


def test_of_several_templates_the_default_is_taken(folder):
  (folder / 'chat_template.jinja').unlink()
  several = [dict(name='rag', template='a'), dict(name='default', template='b')]
  edit(folder / 'tokenizer_config.json', chat_template=several)
  assert load_tokenizer(folder).chat_template == 'b'
  edit(folder / 'tokenizer_config.json', chat_template=several[:1])
  assert load_tokenizer(folder).chat_template == ''
  edit(folder / 'tokenizer_config.json', chat_template=5)
  with pytest.raises(DataError, match="its chat template is '5', not text"):
    load_tokenizer(folder)


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('gone.jinja', 'cannot be read'),
    ('.', 'cannot be read'),
    ('bundled:gone', r'is unknown; .* bundled:chatml, .* bundled:plain, '),
    ('bundled:../../countdown_base/chat_template', 'is unknown'),
  ],
)
def test_a_chat_template_that_is_not_there_is_named(name, message, folder):
  with pytest.raises(DataError, match=r'config\.task\.chat_template = ') as error:
    load_tokenizer(folder, name)
  assert error.match(message)


def test_code_in_the_folder_is_refused_before_transformers_sees_it(folder, monkeypatch):
  import transformers

  calls = []
  monkeypatch.setattr(transformers.AutoTokenizer, 'from_pretrained', lambda *args, **named: calls.append(named))
  edit(folder / 'tokenizer_config.json', auto_map={'AutoTokenizer': ['code.Tokenizer', None]})
  with pytest.raises(DataError, match=r'tokenizer_config\.json: auto_map = .*code\.Tokenizer.* asks to run code'):
    load_tokenizer(folder)
  assert not calls
  edit(folder / 'tokenizer_config.json', auto_map=None)
  with pytest.raises(AttributeError):  # of what stands in for the tokenizer
    load_tokenizer(folder)
  assert calls == [dict(local_files_only=True, trust_remote_code=False)]


DEEP = '[' * 100_000
BROKEN = {
  'cut': '{"a":',
  'empty': '',
  'list': '[]',
  'number': '5',
  'deep': DEEP,
  'deep_object': '{"model":' + '{"a":' * 5000 + '1' + '}' * 5001,
  'binary': b'\xff\xfe{}',
}


@pytest.mark.parametrize('name', ['tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json', 'config.json'])
@pytest.mark.parametrize('content', BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_one_line_of_error(name, content, folder, monkeypatch):
  monkeypatch.setattr('builtins.input', lambda *args: pytest.fail('asked on stdin'))
  (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
  with pytest.raises(DataError, match='; restore') as error:
    load_tokenizer(folder)
  assert str(folder) in str(error.value)
  assert '\n' not in str(error.value)
  assert len(str(error.value)) < 500


@pytest.mark.parametrize(
  'changes',
  [
    dict(model=dict(type='BPE', vocab={'a': -1}, merges=[['x', 'y']])),
    dict(pre_tokenizer=dict(type='Split', pattern=dict(Regex='(('), behavior='Isolated', invert=False)),
    dict(model=None),
    dict(added_tokens=5),
  ],
)
def test_a_tokenizer_file_that_makes_no_sense_is_refused(changes, folder):
  edit(folder / 'tokenizer.json', **changes)
  with pytest.raises(DataError, match='its tokenizer cannot be read: .*; restore'):
    load_tokenizer(folder)


def test_a_panic_of_the_tokenizers_library_is_an_error_and_an_interrupt_is_not(folder, monkeypatch):
  import transformers

  class Panic(BaseException):
    pass

  def fail(error):
    monkeypatch.setattr(
      transformers.AutoTokenizer, 'from_pretrained', lambda *args, **named: (_ for _ in ()).throw(error)
    )
    load_tokenizer(folder)

  with pytest.raises(DataError, match='Panic: index out of bounds; '):
    fail(Panic('index out of bounds\nnote: more'))
  with pytest.raises(KeyboardInterrupt):
    fail(KeyboardInterrupt())


@pytest.mark.parametrize('name', ['tokenizer.json', 'tokenizer_config.json', 'tokenizer.model'])
def test_a_file_larger_than_any_tokenizers_is_not_read(name, folder):
  (folder / name).touch()
  os.truncate(folder / name, tokenizers.MOST_BYTES + 1)  # takes no room on the disk
  with pytest.raises(DataError, match=rf'{name}: has {tokenizers.MOST_BYTES + 1} bytes'):
    load_tokenizer(folder)


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
  with pytest.raises(DataError, match=r'has no tokenizer; put the tokenizer\.json'):
    load_tokenizer(tmp_path)
