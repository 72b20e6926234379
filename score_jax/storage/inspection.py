"""What an HF folder is, and whether it can be trained: read from its headers and texts, without loading a weight."""

from collections.abc import Callable
import dataclasses
import math
import pathlib

from score_jax.errors import DataError
from score_jax.models import families
from score_jax.models import lora as loras
from score_jax.models import rope
from score_jax.models import weights
from score_jax.models.families import DecoderConfig
from score_jax.models.lora import Lora
from score_jax.storage import hf
from score_jax.tasks import chat as chats
from score_jax.tasks.tokenizer import load_tokenizer

# Bytes per parameter of what a training step holds, in f32 and bf16 as the name says.
WEIGHTS = {'float32': 4, 'bfloat16': 2}
# update: gradient, Adam's direction, and the new parameters beside the old, until the step is found finite.
FULL_TRAINING = dict(policy=4, adam=8, update=12, reference=2, sampling_copy=2)
# Frozen weights are the policy's and the reference's at once, and the sampling copy; each adapter parameter costs as in
# full training.
FROZEN = dict(base=2, sampling_copy=2)
_LORA = Lora(rank=16, alpha=32.0, targets='.*')


@dataclasses.dataclass(frozen=True)
class Inspection:
  """Facts of a folder as (label, text), and what keeps it from being trained ('' if nothing does)."""

  facts: tuple[tuple[str, str], ...]
  obstacle: str


def inspect_folder(path: str, *, chat_template: str, instruction: str, date: str) -> Inspection:
  """Looks at a folder as a run would: config.json, weights' headers, tokenizer, template with its proof.

  Args:
    path: the folder, or 'bundled:NAME'.
    chat_template: as config.task.chat_template.
    instruction: the user turn between attempts.
    date: as config.task.date.
  """
  facts: list[tuple[str, str]] = []
  try:
    folder = hf.folder_of(path)
    facts.append(('folder', str(folder)))
    config = hf.read_config(folder)
    facts += _model(config)
  except DataError as error:
    return Inspection(tuple(facts), str(error))
  obstacles = []
  for look in (
    lambda: _stored(folder, config),
    lambda: _memory(config),
    lambda: _chat(folder, config, chat_template, instruction, date),
  ):
    facts += _or_obstacle(look, obstacles)
  return Inspection(tuple(facts), obstacles[0] if obstacles else '')


def _or_obstacle(look: Callable, obstacles: list[str]) -> list[tuple[str, str]]:
  try:
    return look()
  except DataError as error:
    obstacles.append(str(error))
    return []


def _model(config: DecoderConfig) -> list[tuple[str, str]]:
  table = weights.weight_table(config)
  embedding = config.vocab * config.width
  return [
    ('family', f'{config.family} ({families.FAMILIES[config.family].architecture})'),
    (
      'shape',
      f'{config.layers} layers of width {config.width:,}; {config.heads} query and {config.kv_heads} key/value heads '
      f'of {config.head_width}; feed-forward {config.ffn:,} ({config.activation}); vocabulary {config.vocab:,}',
    ),
    *(('layers', _kind(config, index)) for index in range(len(config.kinds))),
    ('also', ', '.join(_traits(config)) or 'nothing'),
    ('positions', f'{config.max_positions:,}'),
    (
      'parameters',
      f'{table.parameters():,}, of them {embedding:,} in the embedding'
      + (', which is the output head as well' if config.tied else f' and {embedding:,} in the output head'),
    ),
  ]


def _kind(config: DecoderConfig, index: int) -> str:
  kind = config.kinds[index]
  settings = ', '.join(
    f'{name} {value:g}' for name, value in dataclasses.asdict(kind.rope).items() if value is not None
  )
  sees = f'the newest {kind.window:,} positions' if kind.window else 'the whole row'
  return f'{config.kind_of_layer.count(index)} see {sees}; rope {rope.name_of(kind.rope)} ({settings})'


def _traits(config: DecoderConfig) -> list[str]:
  """What the decoder does beside the plain layer."""
  traits = {
    'biases of q, k, v': config.qkv_bias,
    'bias of o': config.o_bias,
    'biases of the feed-forward': config.ffn_bias,
    'norms of queries and keys': config.qk_norm,
    'norms after each block': config.post_norms,
    f'norms of {config.norm_offset:g} + weight': config.norm_offset,
    f'embeddings times {config.embed_scale:g}': config.embed_scale != 1,
    f'attention soft cap {config.attention_softcap:g}': config.attention_softcap,
    f'logit soft cap {config.final_softcap:g}': config.final_softcap,
    f'query scale {config.query_scale:g}': config.query_scale != config.head_width**-0.5,
  }
  return [name for name, present in traits.items() if present]


def _stored(folder: pathlib.Path, config: DecoderConfig) -> list[tuple[str, str]]:
  stored = hf.open_weights(folder, config)
  dtypes = stored.dtypes()
  counts = {dtype.name: list(dtypes.values()).count(dtype) for dtype in sorted(set(dtypes.values()), key=str)}
  entries = [file.entries[name] for name, file in stored.where.items()]
  size = sum(math.prod(entry.shape) * entry.dtype.itemsize for entry in entries)
  named = ', '.join(f'{count} in {name}' for name, count in counts.items())
  paths = {file.path for file in stored.where.values()}
  return [('stored', f'{named}; {_size(size)} in {len(paths)} file{"s" * (len(paths) > 1)}')]


def _memory(config: DecoderConfig) -> list[tuple[str, str]]:
  """What a run holds beside activations, summed over devices."""
  total = weights.weight_table(config).parameters()
  adapters = loras.adapter_table(config, _LORA).parameters()
  full, cache = sum(FULL_TRAINING.values()), 2 * config.layers * config.kv_heads * config.head_width
  lora_bytes = sum(FROZEN.values()) * total + full * adapters
  return [
    ('weights', ', '.join(f'{_size(each * total)} in {name}' for name, each in WEIGHTS.items())),
    ('training', f'{_size(full * total)}: f32 policy, Adam and update, bf16 reference and sampling copy'),
    (
      'with LoRA',
      f'{_size(lora_bytes)} at rank {_LORA.rank} on all projections ({adapters:,} trained)',
    ),
    ('cache', f'{_size(2 * cache)} a token in bf16'),
  ]


def _chat(
  folder: pathlib.Path, config: DecoderConfig, chat_template: str, instruction: str, date: str
) -> list[tuple[str, str]]:
  tokenizer = load_tokenizer(folder, chat_template)
  chat = chats.open_chat(
    folder, tokenizer, system='', examples=(), instructions=(instruction,), prompt_tokens=1, date=date
  )
  chat.check_vocabulary(config.vocab)

  def shown(token: int) -> str:
    return f'{token} {tokenizer.convert_ids_to_tokens(token)!r}'

  others = [shown(token) for token in chat.stops if token != chat.end_of_turn]
  return [
    ('tokenizer', f'{type(tokenizer).__name__}, {len(tokenizer):,} tokens'),
    ('template', chat_template or f"the tokenizer's own, {len(tokenizer.chat_template):,} characters"),
    ('stops', ', '.join([f'{shown(chat.end_of_turn)} ends a turn', *others])),
    ('padding', shown(chat.pad)),
    ('between', repr(tokenizer.decode(list(chat.separators[0]), skip_special_tokens=False))),
  ]


def _size(size: float) -> str:
  """Bytes in words, with decimal prefixes as on disks."""
  for unit in ('B', 'kB', 'MB', 'GB'):
    if size < 1000:
      return f'{size:.3g} {unit}'
    size /= 1000
  return f'{size:.3g} TB'
