# SPDX-License-Identifier: Apache-2.0
"""What an HF folder is, and whether it can be trained, without reading weights."""

from collections.abc import Iterator
import dataclasses
import pathlib

from score_jax.errors import DataError
from score_jax.models import families, rope, weights
from score_jax.models import lora as loras
from score_jax.models.families import DecoderConfig
from score_jax.storage import hf
from score_jax.tasks import chat as chats
from score_jax.tasks import templates
from score_jax.tasks.tokenizer import load_tokenizer

# Bytes of a parameter: f32 policy 4, Adam 8, update 12, bf16 reference 2, sampling copy 2; frozen 2 + 2.
_TRAINED, _FROZEN = 28, 4
_LORA = loras.Lora(rank=16, alpha=32.0, targets='.*')

Facts = Iterator[tuple[str, str]]


def inspect_folder(path: str, *, chat_template: str, instruction: str, date: str) -> tuple[list[tuple[str, str]], str]:
  """Returns facts of a folder as (label, text), and what keeps it from being trained, or ''.

  Args:
    path: the folder, a hub id, or 'bundled:NAME'.
    chat_template, instruction, date: as in config.task.
  """
  facts, obstacles = [], []
  try:
    folder = hf.folder_of(path, 'DIR')
    facts.append(('folder', str(folder)))
    config = hf.read_config(folder)
    facts += _model(config)
  except DataError as error:
    return facts, str(error)
  chat = _chat(folder, config, chat_template, instruction, date)
  for part in (_stored(folder, config), _memory(config), chat):
    try:
      facts += list(part)
    except DataError as error:
      obstacles.append(str(error))
  return facts, (obstacles or [''])[0]


def _model(config: DecoderConfig) -> Facts:
  total, embedding = weights.weight_table(config).parameters(), config.vocab * config.width
  yield 'family', f'{config.family} ({families.FAMILIES[config.family].architecture})'
  layers = f'{config.layers} layers of width {config.width:,}'
  heads = f'{config.heads} query and {config.kv_heads} key/value heads of {config.head_width}'
  ffn = f'feed-forward {config.ffn:,} ({config.activation})'
  if config.experts:
    ffn += f', {config.experts_per_token} of {config.experts} experts a token'
  yield 'shape', f'{layers}; {heads}; {ffn}; vocabulary {config.vocab:,}'
  for index, kind in enumerate(config.kinds):
    sees = f'the newest {kind.window:,} positions' if kind.window else 'the whole row'
    settings = dataclasses.asdict(kind.rope).items()
    shown = ', '.join(f'{name} {value:g}' for name, value in settings if value is not None)
    count = config.kind_of_layer.count(index)
    yield 'layers', f'{count} see {sees}; rope {rope.name_of(kind.rope)}' + (f' ({shown})' if shown else '')
  traits = {
    'biases of q, k, v': config.qkv_bias,
    'bias of o': config.o_bias,
    'biases of the feed-forward': config.ffn_bias,
    'norms of queries and keys': config.qk_norm,
    'norms after each block': config.post_norms,
    'none before, and of all heads together': not config.pre_norms,
    f'norms of {config.norm_offset:g} + weight': config.norm_offset,
    f'embeddings times {config.embed_scale:g}': config.embed_scale != 1,
    f'attention soft cap {config.attention_softcap:g}': config.attention_softcap,
    f'logit soft cap {config.final_softcap:g}': config.final_softcap,
    f'query scale {config.query_scale:g}': config.query_scale != config.head_width**-0.5,
  }
  yield 'also', ', '.join(name for name, present in traits.items() if present) or 'nothing'
  yield 'positions', f'{config.max_positions:,}'
  head = ', which is the output head as well' if config.tied else f' and {embedding:,} in the output head'
  yield 'parameters', f'{total:,}, of them {embedding:,} in the embedding{head}'


def _stored(folder: pathlib.Path, config: DecoderConfig) -> Facts:
  stored = hf.open_weights(folder, config)
  names = [dtype.name for dtype in sorted(stored.dtypes().values(), key=str)]
  counts = ', '.join(f'{names.count(name)} in {name}' for name in dict.fromkeys(names))
  size = sum(file.entries[name].nbytes for name, file in stored.where.items())
  files = len({file.path for file in stored.where.values()})
  yield 'stored', f'{counts}; {_size(size)} in {files} file{"s" * (files > 1)}'


def _memory(config: DecoderConfig) -> Facts:
  total = weights.weight_table(config).parameters()
  adapters = loras.adapter_table(config, _LORA).parameters()
  training, lora = _TRAINED * total, _FROZEN * total + _TRAINED * adapters
  cache = 2 * 2 * config.layers * config.kv_heads * config.head_width  # keys and values, 2 bytes each
  yield 'weights', f'{_size(4 * total)} in float32, {_size(2 * total)} in bfloat16'
  yield 'training', f'{_size(training)}: f32 policy, Adam and update, bf16 reference and sampling copy'
  yield 'with LoRA', f'{_size(lora)} at rank {_LORA.rank} on all projections ({adapters:,} trained)'
  yield 'cache', f'{_size(cache)} a token in bf16'


def _chat(folder: pathlib.Path, config: DecoderConfig, template: str, instruction: str, date: str) -> Facts:
  tokenizer = load_tokenizer(folder, template)
  turns = dict(system='', examples=(), instructions=(instruction,), prompt_tokens=1, date=date)
  chat = chats.open_chat(folder, tokenizer, **turns)
  chat.check_vocabulary(config.vocab)
  others = [token for token in chat.stops if token != chat.end_of_turn]
  end, padding, *others = (
    f'{token} {tokenizer.convert_ids_to_tokens(token)!r}' for token in (chat.end_of_turn, chat.pad, *others)
  )
  between = tokenizer.decode(list(chat.separators[0]), skip_special_tokens=False)
  yield 'tokenizer', f'{type(tokenizer).__name__}, {len(tokenizer):,} tokens'
  own = f"the tokenizer's own, {len(chat.template):,} characters"
  yield 'template', template or templates.name_of(chat.template) or own
  yield 'stops', ', '.join([f'{end} ends a turn', *others])
  yield 'padding', padding
  yield 'between', repr(between)


def _size(size: float) -> str:
  for unit in ('B', 'kB', 'MB', 'GB'):
    if size < 1000:
      return f'{size:.3g} {unit}'
    size /= 1000
  return f'{size:.3g} TB'
