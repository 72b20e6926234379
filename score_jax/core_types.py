# SPDX-License-Identifier: Apache-2.0
"""The host's data: problems, verdicts, and a training stage. No jax here (grader processes import this).

Glossary of shape letters, in names (`logp_BL`), einsum strings and comments (`# f32 [B, L]`):

  B  rows of a batch: problems x samples        V  vocabulary
  G  samples per problem (adjacent rows)        D  model width
  L  tokens in a row, padding included          N  layers
  A  attempts                                   H  query heads
  S  slots of the key/value cache               K  key/value heads
  P  prompt slots                               C  head width
  T  tokens processed in one call               F  feed-forward width
                                                E  experts of a layer
                                                R  rank of an adapter
"""

import dataclasses
import enum


@dataclasses.dataclass(frozen=True)
class Problem:
  """What the model is asked, and what only the verifier may know."""

  id: str
  question: str  # the first user turn, in full
  reference: dict  # the verifier's; never part of a prompt
  tags: dict[str, str] = dataclasses.field(default_factory=dict)  # what results are split by: level, subject
  row: dict = dataclasses.field(default_factory=dict)  # the data it was made of, which reward functions get
  solution: str = ''  # a published program, by which its tests are tried


class Verdict(enum.IntEnum):
  """What a verifier says of one attempt. Without a reward function, CORRECT has the score 1 and the others 0."""

  WRONG = 0
  CORRECT = 1
  UNPARSED = 2  # no answer found in the text
  TIMEOUT = 3  # the answer used up its step or time limit: reward 0, and trained on
  ERROR = 4  # the grading host failed: the reward has no weight


@dataclasses.dataclass(frozen=True)
class Graded:
  """A verdict, and what it was reached from."""

  verdict: Verdict
  answer: str = ''  # what was read out of the text, cut to 200 characters; for ERROR, what failed
  seconds: float = 0.0  # of the grading process
  score: float | None = None  # the reward; None: 1 for CORRECT, else 0
  parts: dict[str, float] = dataclasses.field(default_factory=dict)  # the score that each reward function gave

  @property
  def reward(self) -> float:
    """The score, or what the verdict stands for."""
    return float(self.verdict == Verdict.CORRECT) if self.score is None else self.score


def is_unicode(value: str) -> bool:
  """Whether a tokenizer reads it: it holds no half of a surrogate pair."""
  try:
    value.encode()
  except UnicodeEncodeError:
    return False
  return True


class Stop(enum.IntEnum):
  """How an attempt ended."""

  NONE = 0  # it never ran
  END_OF_TURN = 1  # the template's own end-of-turn token
  OTHER = 2  # another token of the generation config's stop list
  BUDGET = 3  # cut by its token budget


# Forms of the penalty that keeps the policy near the reference (algorithm/losses.py).
KL_FORMS = ('k1_togo', 'k1', 'k2_seq', 'k2_token', 'exact')
REFERENCES = ('base', 'stage_start')
SCHEDULES = ('constant', 'linear', 'cosine')


@dataclasses.dataclass(frozen=True)
class StageOptim:
  """A stage's optimizer settings; the run's, unless the stage has its own."""

  learning_rate: float
  schedule: str  # one of SCHEDULES, over the stage's own steps
  warmup_steps: int
  reset_moments: bool  # start the stage with fresh Adam moments


@dataclasses.dataclass(frozen=True)
class Stage:
  """One stage of training, as data (paper, section 4; docs/method.md has the equations).

  Stage I: reward_weights (0, 1), bonus (0, 0), kl_weights (beta2, beta1).
  Stage II: reward_weights (1, 1), bonus (0, alpha), kl_weights (beta1, beta1).
  """

  name: str
  steps: int
  reward_weights: tuple[float, ...]  # [A] weight of each attempt's own correctness
  bonus: tuple[float, ...]  # [A] alpha: weight of the gain over the attempt before; bonus[0] is 0
  kl_weights: tuple[float, ...]  # [A] beta: weight of each attempt's KL to the reference
  gamma: float  # how far an attempt answers for later ones; 0 in the paper's appendix
  reference: str  # one of REFERENCES
  offline_first: float  # fraction of problems whose first attempt comes from the base, untrained
  optim: StageOptim
  kl_target: tuple[float, ...] = ()  # [A] nats that beta is adapted to keep the KL at; 0 or (): fixed
  offline_shared: bool = False  # a problem's samples are given one and the same of these first attempts
  offline_wrong: float = 0.0  # least share of wrong ones among them
