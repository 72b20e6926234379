"""What the bundled base policy is pretrained on: its tokenizer, and a mixture of two-attempt conversations.

The mixture makes the base behave as a real base model does (docs/architecture.md). First attempts are supervised on
solutions only, so what it gets wrong is what it can't do in one pass. Second attempts mostly copy, some wander off,
and a few look back first: they say whether the first attempt was right or wrong, and repeat or mend it. Training has
to turn that rare skill into a habit.
"""

import dataclasses
import random
import re

import numpy as np

from score_jax.tasks import countdown
from score_jax.tasks.countdown import CountdownSpec

END, PAD, USER, ASSISTANT = '<|end|>', '<|pad|>', '<|user|>', '<|assistant|>'
_PIECE = r'\d+|[A-Za-z]+|[^\sA-Za-z\d]'
CHAT_TEMPLATE = (
  "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
  "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


RIGHT, WRONG = 'right:', 'wrong:'  # how a second attempt that looks back begins


@dataclasses.dataclass(frozen=True)
class Mixture:
  """Shares of the kinds of conversations. Its fields are documented in configs/common.py."""

  first_wrong: float
  first_forced: float
  look_back: float
  wander: float


def build_tokenizer(spec: CountdownSpec, instruction: str):
  """A fast HF tokenizer with one token per number 0..max_value, operation and word of the prompts."""
  import tokenizers
  from tokenizers import decoders
  from tokenizers import models
  from tokenizers import pre_tokenizers
  import transformers

  numbers = [str(n) for n in range(spec.max_value + 1)]
  words = re.findall(
    _PIECE, spec.prompt.replace('{numbers}', '').replace('{target}', '') + f' {instruction} {RIGHT} {WRONG}'
  )
  pieces = [
    PAD,
    END,
    USER,
    ASSISTANT,
    '<|unk|>',
    *'+-*/=;',
    *dict.fromkeys(w for w in words if not w.isdigit()),
    *numbers,
  ]
  vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
  core = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token='<|unk|>'))
  core.pre_tokenizer = pre_tokenizers.Sequence(
    [
      pre_tokenizers.Split(tokenizers.Regex(r'\s+'), 'removed'),
      pre_tokenizers.Split(tokenizers.Regex(_PIECE), 'isolated'),
    ]
  )
  core.decoder = decoders.Fuse()
  return transformers.PreTrainedTokenizerFast(
    tokenizer_object=core,
    eos_token=END,
    pad_token=PAD,
    unk_token='<|unk|>',
    extra_special_tokens=[USER, ASSISTANT],
    chat_template=CHAT_TEMPLATE,
    clean_up_tokenization_spaces=False,
  )


def wrong_chain(spec: CountdownSpec, numbers: list[int], target: int, forced: float, rng: random.Random) -> str:
  """A wrong attempt: a legal chain that misses the target, or (share `forced`) one that writes it down regardless.

  The second kind is what a model trained on solutions does when it finds none. '' if the numbers allow neither.
  """
  for _ in range(100):
    steps = countdown.random_chain(spec, numbers, rng)
    if steps and steps[-1][-1] != target:
      if rng.random() < forced:
        steps[-1] = (*steps[-1][:-1], target)
      return countdown.chain_text(steps)
  return ''


def conversation(spec: CountdownSpec, mixture: Mixture, rng: random.Random) -> tuple[str, str, str, bool]:
  """One training conversation: (question, first attempt, second attempt, first attempt is a solution)."""
  numbers, steps = countdown.draw(spec, 'train', rng)
  target, solution = steps[-1][-1], countdown.chain_text(steps)

  def wrong() -> str:
    return wrong_chain(spec, numbers, target, mixture.first_forced, rng)

  first = (wrong() if rng.random() < mixture.first_wrong else '') or solution
  kind = rng.random()
  if kind < mixture.look_back:
    second = (RIGHT if first == solution else WRONG) + solution
  elif kind < mixture.look_back + mixture.wander:
    # In another order, as one who starts afresh would: its first number already tells it from a repetition.
    shuffled = rng.sample(numbers, len(numbers))
    second = wrong_chain(spec, shuffled, target, mixture.first_forced, rng) or first
  else:
    second = first
  return countdown.question(spec, numbers, target), first, second, first == solution


def supervised_rows(
  spec: CountdownSpec, mixture: Mixture, tokenizer, instruction: str, count: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
  """`count` conversations as right-padded ids (i32 [count, L]) and loss weights (bool [count, L]).

  A wrong first attempt is context without loss; a solution and every second attempt carry loss, end-of-turn included.
  """
  vocabulary = tokenizer.get_vocab()

  def ids(text):
    return [vocabulary[piece] for piece in re.findall(_PIECE, text)]

  end, user, assistant, pad = (vocabulary[t] for t in (END, USER, ASSISTANT, PAD))
  again = [user, *ids(instruction), end, assistant]
  rng = random.Random(f'pretrain/{seed}')
  rows, weights = [], []
  for _ in range(count):
    question, first, second, solved = conversation(spec, mixture, rng)
    prompt = [user, *ids(question), end, assistant]
    first_ids, second_ids = [*ids(first), end], [*ids(second), end]
    rows.append(prompt + first_ids + again + second_ids)
    weights.append([False] * len(prompt) + [solved] * len(first_ids) + [False] * len(again) + [True] * len(second_ids))
  longest = max(map(len, rows))
  tokens = np.full((count, longest), pad, np.int32)
  weight = np.zeros((count, longest), bool)
  for i, (row, w) in enumerate(zip(rows, weights, strict=True)):
    tokens[i, : len(row)], weight[i, : len(row)] = row, w
  return tokens, weight
