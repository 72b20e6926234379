"""SCoRe's loss and gradient once more, in torch and transformers, from the paper: the oracle of torch_parity_test.

It shares nothing with the package but the file formats: an npz of one rollout, and HF folders. Rows are run one by
one, without padding, in f64.
"""

import dataclasses

import numpy as np
import torch
import transformers

CORRECT, HOST_FAILURE = 1, 4


@dataclasses.dataclass(frozen=True)
class Setting:
  """A stage's numbers, one entry per attempt."""

  reward_weights: tuple[float, ...]
  bonus: tuple[float, ...]
  kl_weights: tuple[float, ...]
  gamma: float
  kl_form: str
  samples: int  # adjacent rows that answer the same problem


@dataclasses.dataclass(frozen=True)
class Score:
  """What the loss is made of; `gradient` maps HF names to the gradient of the summed loss."""

  reward: np.ndarray  # [rows, attempts]
  advantage: np.ndarray  # [rows, attempts]
  loss: np.ndarray  # [attempts]
  kl: np.ndarray  # [attempts], summed over trained rows
  gradient: dict[str, np.ndarray]


def score(rollout_npz, policy_folder, reference_folder, setting: Setting) -> Score:
  """The npz holds tokens, attempt [rows, length], start, end [rows], verdict, trained [rows, attempts]."""
  data = dict(np.load(rollout_npz))
  policy, reference = _model(policy_folder), _model(reference_folder)
  rows, attempts = data['verdict'].shape
  spans = [_spans(data['attempt'][b], attempts) for b in range(rows)]
  logps = [_logps(policy, data, b) for b in range(rows)]
  with torch.no_grad():
    ref_logps = [_logps(reference, data, b) for b in range(rows)]

  reward, known = _rewards(data['verdict'], setting)
  earned, reading = _returns(reward, known, setting.gamma)
  trained = data['trained'].astype(bool)
  advantage, usable = _minus_others(earned, reading & trained, setting.samples)

  ratio = np.zeros((rows, attempts))  # one sample of each attempt's KL to the reference
  for b in range(rows):
    for i, (first, last) in enumerate(spans[b]):
      ratio[b, i] = float((logps[b][first:last] - ref_logps[b][first:last]).detach().sum())
  ahead = _kl_ahead(ratio, setting)
  ahead, _ = _minus_others(ahead, trained, setting.samples)

  losses = []
  for i in range(attempts):
    terms = []
    for b in range(rows):
      first, last = spans[b][i]
      logp, ref_logp = logps[b][first:last], ref_logps[b][first:last]
      if usable[b, i]:
        terms.append(-advantage[b, i] * logp.sum() / usable[:, i].sum())
      if trained[b, i]:
        penalty = setting.kl_weights[i] * _own_penalty(logp, ref_logp, setting.kl_form) + ahead[b, i] * logp.sum()
        terms.append(penalty / trained[:, i].sum())
    losses.append(torch.stack(terms).sum() if terms else torch.zeros(()))
  torch.stack(losses).sum().backward()
  return Score(
    reward=reward,
    advantage=advantage,
    loss=np.array([float(loss.detach()) for loss in losses]),
    kl=(ratio * trained).sum(axis=0),
    gradient={name: weight.grad.numpy() for name, weight in policy.named_parameters()},
  )


def _model(folder):
  return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).double()


def _spans(labels, attempts):
  """(first, last + 1) slot of each attempt in a row; (0, 0) where there is none."""
  spans = []
  for i in range(attempts):
    slots = np.flatnonzero(labels == i + 1)
    spans.append((int(slots[0]), int(slots[-1]) + 1) if len(slots) else (0, 0))
    assert len(slots) == spans[-1][1] - spans[-1][0]  # an attempt is never interrupted
  return spans


def _logps(model, data, b):
  """Log-probability of every token of row b given all before it, at the token's own slot (NaN where undefined)."""
  first, last = int(data['start'][b]), int(data['end'][b])
  ids = torch.tensor(data['tokens'][b, first:last], dtype=torch.long)
  log_probability = torch.log_softmax(model(ids[None]).logits[0, :-1], dim=-1)
  chosen = log_probability.gather(1, ids[1:, None])[:, 0]
  nothing = torch.full((first + 1,), float('nan'), dtype=chosen.dtype)
  return torch.cat([nothing, chosen])


def _rewards(verdict, setting):
  """Weighted correctness, and the bonus for progress over the attempt before. A reward that reads ERROR is unknown."""
  rows, attempts = verdict.shape
  reward, known = np.zeros((rows, attempts)), np.ones((rows, attempts), bool)
  for b in range(rows):
    for i in range(attempts):
      if setting.reward_weights[i]:
        reward[b, i] += setting.reward_weights[i] * (verdict[b, i] == CORRECT)
        known[b, i] &= verdict[b, i] != HOST_FAILURE
      if setting.bonus[i]:
        progress = float(verdict[b, i] == CORRECT) - float(verdict[b, i - 1] == CORRECT)
        reward[b, i] += setting.bonus[i] * progress
        known[b, i] &= verdict[b, i] != HOST_FAILURE and verdict[b, i - 1] != HOST_FAILURE
  return reward, known


def _returns(reward, known, gamma):
  """What each attempt answers for: its own reward, and later ones discounted."""
  attempts = reward.shape[1]
  earned, reading = np.zeros_like(reward), np.ones_like(known)
  for i in range(attempts):
    for j in range(i, attempts):
      if gamma ** (j - i):
        earned[:, i] += gamma ** (j - i) * reward[:, j]
        reading[:, i] &= known[:, j]
  return earned, reading


def _kl_ahead(ratio, setting):
  """The KL that enters an attempt's return: of later attempts, and its own where the form charges it whole."""
  attempts = ratio.shape[1]
  ahead = np.zeros_like(ratio)
  for i in range(attempts):
    for j in range(i, attempts):
      if j > i or setting.kl_form == 'k1':
        ahead[:, i] += setting.gamma ** (j - i) * setting.kl_weights[j] * ratio[:, j]
  return ahead


def _minus_others(value, counted, samples):
  """Value minus the mean over the other counted rows of the same problem and attempt; and where there are others."""
  rows, attempts = value.shape
  difference, usable = np.zeros((rows, attempts)), np.zeros((rows, attempts), bool)
  for b in range(rows):
    problem = b // samples
    for i in range(attempts):
      others = [c for c in range(problem * samples, (problem + 1) * samples) if c != b and counted[c, i]]
      if counted[b, i] and others:
        difference[b, i] = value[b, i] - np.mean([value[c, i] for c in others])
        usable[b, i] = True
  return difference, usable


def _own_penalty(logp, ref_logp, form):
  """A term whose gradient samples that of the attempt's reverse KL to the reference, KL(policy || reference)."""
  ratio = logp - ref_logp
  if form == 'k1':
    return torch.zeros(())  # charged in the return
  if form == 'k2_seq':
    return ratio.sum() ** 2 / 2
  if form == 'k1_togo':
    to_go = [ratio[t:].detach().sum() for t in range(len(ratio))]
    return sum(charge * token for charge, token in zip(to_go, logp, strict=True))
  raise ValueError(form)
