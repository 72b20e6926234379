# SPDX-License-Identifier: Apache-2.0
"""What a base policy is pretrained on: its tokenizer, and a mixture of conversations.

It makes the base behave as a real one does (docs/architecture.md). First attempts are supervised on solutions alone.
Second attempts mostly copy; some wander off or answer afresh; a few look back: they say whether the first attempt was
right, and repeat or correct it.
"""

import dataclasses
import functools
import random
import re

import numpy as np

from score_jax.core_types import Verdict
from score_jax.graders import countdown as grader
from score_jax.tasks import countdown
from score_jax.tasks import tokenizer as tokenizer_files
from score_jax.tasks.countdown import CountdownSpec

END, PAD, USER, ASSISTANT = '<|end|>', '<|pad|>', '<|user|>', '<|assistant|>'
_PIECE = r'\d+|[A-Za-z]+|[^\sA-Za-z\d]'
CHAT_TEMPLATE = (
  "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
  "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
RIGHT, WRONG = 'right:', 'wrong:'  # the first word of a second attempt that looks back
Padded = tuple[np.ndarray, np.ndarray]  # right-padded ids (i32 [n, L]), loss weights (bool [n, L])


@dataclasses.dataclass(frozen=True)
class Mixture:
  """Shares of the kinds of conversations."""

  first_wrong: float = 0.6  # first attempts that are wrong (without loss)
  first_forced: float = 0.5  # of those: write the target down regardless
  look_back: float = 0.25  # second attempts that judge the first
  wander: float = 0.08  # second attempts that are a wrong chain
  afresh: float = 0.0  # second attempts as if there were no first one; the rest are copies


@tokenizer_files.without_torch()
def build_tokenizer(spec: CountdownSpec, *instructions: str):
  """Builds a fast HF tokenizer: a token per number, operation and word of the prompts."""
  import tokenizers
  from tokenizers import decoders, models, pre_tokenizers
  import transformers

  prompt = spec.prompt.replace('{numbers}', '').replace('{target}', '')
  words = re.findall(_PIECE, f'{prompt} {" ".join(instructions)} {RIGHT} {WRONG}')
  pieces = [PAD, END, USER, ASSISTANT, '<|unk|>', *'+-*/=;', *(w for w in words if not w.isdigit())]
  pieces += [str(n) for n in range(spec.max_value + 1)]
  vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
  core = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token='<|unk|>'))
  spaces = pre_tokenizers.Split(tokenizers.Regex(r'\s+'), 'removed')
  words = pre_tokenizers.Split(tokenizers.Regex(_PIECE), 'isolated')
  core.pre_tokenizer = pre_tokenizers.Sequence([spaces, words])
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
  """Draws a legal chain that misses the target, or (share `forced`) writes it down regardless; '' if none."""
  for _ in range(100):
    steps = countdown.random_chain(spec, numbers, rng)
    if steps and steps[-1][-1] != target:
      if rng.random() < forced:
        steps[-1] = (*steps[-1][:-1], target)
      return countdown.chain_text(steps)
  return ''


def further_attempt(
  spec: CountdownSpec,
  mixture: Mixture,
  numbers: list[int],
  target: int,
  solution: str,
  fresh: tuple[str, bool],
  solved: bool,
  rng: random.Random,
) -> tuple[str, str | None, bool]:
  """Draws an attempt after another.

  Args:
    spec, mixture, numbers, target, solution: of the conversation.
    fresh: an answer given afresh, and whether it is right; ('', _): none.
    solved: whether the attempt before is right.
    rng: draws.

  Returns:
    its remark; its steps, None if they are as before; whether they are right.
  """
  kind = rng.random()
  if kind < mixture.look_back:
    return (RIGHT, None, True) if solved else (WRONG, solution, True)
  if kind < mixture.look_back + mixture.wander:
    # In another order: its first number already tells it from a repetition.
    shuffled = rng.sample(numbers, len(numbers))
    wrong = wrong_chain(spec, shuffled, target, mixture.first_forced, rng)
    return ('', wrong, False) if wrong else ('', None, solved)
  if kind < mixture.look_back + mixture.wander + mixture.afresh and fresh[0]:
    return '', *fresh
  return '', None, solved


def conversation(
  spec: CountdownSpec, mixture: Mixture, rng: random.Random, attempts: int = 2
) -> tuple[str, str, list[str], bool]:
  """Draws (question, first attempt, further attempts, whether the first is a solution)."""
  numbers, steps = countdown.draw(spec, 'train', rng)
  target, solution = steps[-1][-1], countdown.chain_text(steps)
  wrong = ''
  if rng.random() < mixture.first_wrong:
    wrong = wrong_chain(spec, numbers, target, mixture.first_forced, rng)
  first = before = wrong or solution
  right, further = not wrong, []
  for _ in range(attempts - 1):
    remark, again, right = further_attempt(spec, mixture, numbers, target, solution, (solution, True), right, rng)
    before = again or before
    further.append(remark + before)
  return countdown.question(spec, numbers, target), first, further, not wrong


@dataclasses.dataclass(frozen=True)
class Writer:
  """Writes conversations as token ids, a hundred times as fast as the tokenizer."""

  vocabulary: dict[str, int]
  instructions: tuple[str, ...]  # wordings of the user turn before a further attempt

  def ids(self, text: str) -> list[int]:
    """Returns the ids of a text without special tokens."""
    return [self.vocabulary[piece] for piece in re.findall(_PIECE, text)]

  def text(self, ids: list[int]) -> str:
    return ''.join(self._words.get(number, '') for number in ids)

  def rewritable(self, ids: list[int]) -> str:
    """Returns the text of ids if that gives the same ids; else ''."""
    text = self.text(ids)
    return text if [self.vocabulary.get(piece) for piece in re.findall(_PIECE, text)] == ids else ''

  @functools.cached_property
  def _words(self) -> dict[int, str]:
    return {number: word for word, number in self.vocabulary.items()}

  @property
  def end(self) -> int:
    return self.vocabulary[END]

  def row(
    self, question: str, first: list[int], further: list[list[int]], counts: bool, rng: random.Random
  ) -> tuple[list[int], list[bool]]:
    """Returns the ids of a conversation, and which of them carry loss.

    Args:
      question: the first user turn.
      first: ids of the first attempt; where its end-of-turn is missing, that is fed without loss.
      further: ids of those after it, without end-of-turn; they carry loss.
      counts: whether the first attempt carries loss.
      rng: draws the wording.
    """
    instruction = self.instructions[0] if len(self.instructions) == 1 else rng.choice(self.instructions)
    user, assistant = self.vocabulary[USER], self.vocabulary[ASSISTANT]
    again = [user, *self.ids(instruction), self.end, assistant]
    missing = [] if first[-1:] == [self.end] else [self.end]
    parts = [([user, *self.ids(question), self.end, assistant], False), (first, counts), (missing, False)]
    for attempt in further:
      parts += [(again, False), ([*attempt, self.end], True)]
    return [i for ids, _ in parts for i in ids], [loss for ids, loss in parts for _ in ids]


def padded(rows: list[tuple[list[int], list[bool]]], pad: int) -> Padded:
  """Pads rows of `Writer.row`."""
  longest = max(len(ids) for ids, _ in rows)
  tokens = np.full((len(rows), longest), pad, np.int32)
  weight = np.zeros((len(rows), longest), bool)
  for i, (ids, counts) in enumerate(rows):
    tokens[i, : len(ids)], weight[i, : len(ids)] = ids, counts
  return tokens, weight


def supervised_rows(
  spec: CountdownSpec,
  mixture: Mixture,
  vocabulary: dict[str, int],
  instructions: tuple[str, ...],
  attempts: int,
  count: int,
  seed: str,
) -> Padded:
  """Makes conversations, in which all attempts but wrong first ones carry loss."""
  writer, rng = Writer(vocabulary, instructions), random.Random(seed)
  rows = []
  for _ in range(count):
    question, first, further, solved = conversation(spec, mixture, rng, attempts)
    ids = [*writer.ids(first), writer.end], [writer.ids(text) for text in further]
    rows.append(writer.row(question, *ids, solved, rng))
  return padded(rows, vocabulary[PAD])


def sharpening_rows(
  spec: CountdownSpec,
  mixture: Mixture,
  vocabulary: dict[str, int],
  instructions: tuple[str, ...],
  attempts: int,
  draws: list[tuple[list[int], list[countdown.Step]]],
  first: list[list[int]],
  fresh: list[list[int]] | None,
  seed: str,
) -> tuple[np.ndarray, np.ndarray, float]:
  """Makes conversations whose first attempts are a model's own, with loss on all attempts.

  Args:
    spec, vocabulary, instructions, attempts: as of `supervised_rows`.
    mixture: shares of further attempts.
    draws: numbers and a solution of each problem, from `countdown.draw`.
    first: ids of the model's attempts, with the end-of-turn that they reached.
    fresh: ids of other attempts at the same problems; None: there are none.
    seed: of the further attempts.

  Returns:
    tokens and weights as `Padded`; the share of first attempts that are right.
  """
  writer, rng = Writer(vocabulary, instructions), random.Random(seed)
  rows, count = [], 0
  for (numbers, steps), ids, others in zip(draws, first, fresh or [[]] * len(first), strict=True):
    target, solution = steps[-1][-1], countdown.chain_text(steps)
    before = ids[:-1] if ids[-1:] == [writer.end] else ids
    right = _is_right(numbers, target, writer.text(before))
    count += right
    other = writer.rewritable(others[:-1]) if others[-1:] == [writer.end] else ''
    afresh = (other, _is_right(numbers, target, other))
    further = []
    for _ in range(attempts - 1):
      remark, again, right = further_attempt(spec, mixture, numbers, target, solution, afresh, right, rng)
      before = before if again is None else writer.ids(again)
      further.append(writer.ids(remark) + before)
    rows.append(writer.row(countdown.question(spec, numbers, target), ids, further, True, rng))
  return *padded(rows, vocabulary[PAD]), count / len(rows)


def _is_right(numbers: list[int], target: int, text: str) -> bool:
  return grader.grade(dict(numbers=numbers, target=target), text).verdict == Verdict.CORRECT
