# SPDX-License-Identifier: Apache-2.0
"""Makes a base policy for Countdown: supervised training from scratch, sharpening, then an HF folder.

After the supervised phase the model errs by noise: its greedy answer is far better than its samples, and reinforcement
would only take the noise away. A round of sharpening trains on the model's own first attempts, right or wrong, at a low
temperature: its samples come near its greedy answer. Second attempts follow them, and so know the model's errors.
"""

from collections.abc import Callable, Sequence
import concurrent.futures
import dataclasses
import functools
import inspect
import multiprocessing
import random
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.countdown_base import mixture as countdown_base
from experiments.countdown_base.settings import PretrainConfig
from score_jax import config as configs
from score_jax import files
from score_jax.config import RunConfig
from score_jax.core_types import Problem, Stage, StageOptim, Verdict
from score_jax.graders.pool import open_grader
from score_jax.models import weights
from score_jax.models.families import DecoderConfig, LayerKind
from score_jax.models.rope import Plain
from score_jax.parallel import memory
from score_jax.parallel import mesh as meshes
from score_jax.reporting import plain_text
from score_jax.reporting import rows as report_rows
from score_jax.reporting.rows import Row
from score_jax.sampling.sampler import Sampler, Stream, stream_key
from score_jax.states import Batch
from score_jax.storage import hf, hf_export
from score_jax.storage.run_folder import RunFolder
from score_jax.tasks import countdown, open_task
from score_jax.training import evaluation, optim, specs
from score_jax.training import run as runs
from score_jax.training.update import supervised_update

_update = inspect.unwrap(supervised_update)  # many are one program, whose compiler options are its own
_STEPS_A_CALL = 100  # a call costs more than a step
_PART = 500_000  # conversations that one process makes


def decoder_config(shape: PretrainConfig, vocab: int) -> DecoderConfig:
  """Returns a Llama of the configured size.

  transformers 5 would give a Qwen2 folder Qwen's own pre-tokenizer, whatever its tokenizer.json says.
  """
  return DecoderConfig(
    family='llama',
    vocab=vocab,
    width=shape.width,
    layers=shape.layers,
    heads=shape.heads,
    kv_heads=shape.heads,
    head_width=shape.width // shape.heads,
    ffn=shape.ffn,
    norm_eps=1e-6,
    tied=True,
    max_positions=shape.max_positions,
    kinds=(LayerKind(window=0, rope=Plain(10000.0)),),
    kind_of_layer=(0,) * shape.layers,
    query_scale=(shape.width // shape.heads) ** -0.5,
  )


def pretrain(config: RunConfig, settings: PretrainConfig, workdir: str) -> None:
  """Trains and writes `workdir`/hf, with metrics.jsonl and eval.json beside it. It cannot be resumed.

  A line of metrics.jsonl with a `phase` ends each phase, and tells what the base is worth.
  """
  folder, own = RunFolder(workdir), dict(mode='pretrain', pretrain=dataclasses.asdict(settings))
  folder.claim(configs.as_dict(config) | own, configs.identity(config) | own)
  mesh = meshes.make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
  tokenizer = countdown_base.build_tokenizer(config.task.countdown, *_instructions(config, settings))
  task = open_task(config.task)
  grader = open_grader(task.verifier, config.grading)
  trainer = _Trainer(config, settings, folder, decoder_config(settings, len(tokenizer)), mesh)
  vocabulary = tokenizer.get_vocab()
  _export(trainer, tokenizer)  # samplers read the tokenizer there
  sampler = runs.open_sampler(config, folder.hf, mesh)
  sampling = dataclasses.replace(config.sampling, attempt_tokens=config.sampling.attempt_tokens[:1])
  first_alone = dataclasses.replace(config, sampling=sampling)
  first_sampler = runs.open_sampler(first_alone, folder.hf, mesh)

  def judged(phase: str, **more: Any) -> None:
    size = dict(seed=config.eval.seed, problems=config.eval.problems, rows=config.rows)
    params = sampler.layout(trainer.state.params)
    result, rows = evaluation.evaluate(sampler, task, grader, params, **size)
    names = ('acc_t1', 'acc_t2', 'delta', 'i_to_c', 'c_to_i')
    brief = {kind: {name: round(ledger[name], 4) for name in names} for kind, ledger in result.items()}
    folder.add_metrics(dict(step=trainer.step, phase=phase, **more, base=brief, skill=skill(rows)))
    print(folder.last_metrics(), flush=True)
    files.write_json(folder.eval, dict(base=result))
    report_rows.write(folder.rows / 'base.jsonl.gz', rows)

  trainer.train(_supervised(config, settings, vocabulary), settings.steps, config.optim.learning_rate)
  judged('supervised')
  for number in range(1, settings.sharpen_rounds + 1):
    *rows, right = _sharpening(config, settings, trainer, first_sampler, vocabulary, number)
    trainer.train(rows, settings.sharpen_steps, settings.sharpen_learning_rate)
    judged(f'sharpened {number}', sampled_right=right)
  _export(trainer, tokenizer)
  print(plain_text.table(dict(base=folder.read_eval()['base'])))


def skill(rows: Sequence[Row]) -> dict[str, float | None]:
  """Counts how often sampled second attempts look back, and what it is worth.

  Returns:
    shares: says_wrong, says_right after a wrong first attempt; missed: `wrong:` after a right one; fixed: right, of
    says_wrong; copies: of all. None where nothing was sampled.
  """
  sampled = [row for row in rows if row.decoding == 'sampled']
  right = [row for row in sampled if row.attempts[0].verdict == Verdict.CORRECT]
  wrong = [row for row in sampled if row.attempts[0].verdict != Verdict.CORRECT]

  def share(among: Sequence[Row], hit: Callable[[Row], bool]) -> float | None:
    return round(sum(map(hit, among)) / len(among), 4) if among else None

  def says(remark: str) -> Callable[[Row], bool]:
    return lambda row: row.attempts[-1].text.startswith(remark)

  judged = [row for row in wrong if says(countdown_base.WRONG)(row)]
  return dict(
    says_wrong=share(wrong, says(countdown_base.WRONG)),
    says_right=share(wrong, says(countdown_base.RIGHT)),
    missed=share(right, says(countdown_base.WRONG)),
    fixed=share(judged, lambda row: row.attempts[-1].verdict == Verdict.CORRECT),
    copies=share(sampled, lambda row: row.attempts[0].text == row.attempts[-1].text),
  )


def _export(trainer: '_Trainer', tokenizer: Any) -> None:
  hf_export.write_folder(
    trainer.folder.hf,
    trainer.state.params,
    trainer.decoder,
    source=None,
    tokenizer=tokenizer,
    dtype=hf.DTYPES['float32'],
    replace=True,
  )


def _instructions(config: RunConfig, settings: PretrainConfig) -> tuple[str, ...]:
  return (config.task.instruction, *settings.rewordings)


def _supervised(config: RunConfig, settings: PretrainConfig, vocabulary: dict[str, int]) -> countdown_base.Padded:
  count = settings.conversations
  sizes = [min(_PART, count - begin) for begin in range(0, count, _PART)]
  seeds = [f'pretrain/{config.seed}', *(f'pretrain/{config.seed}/{part}' for part in range(1, len(sizes)))]
  same = (config.task.countdown, settings.mixture, vocabulary, _instructions(config, settings), settings.attempts)
  if len(sizes) == 1:
    return countdown_base.supervised_rows(*same, count, seeds[0])
  # Not forked: this process has threads, and may hold a device.
  context = multiprocessing.get_context('spawn')
  with concurrent.futures.ProcessPoolExecutor(mp_context=context) as pool:
    parts = [*pool.map(functools.partial(countdown_base.supervised_rows, *same), sizes, seeds)]
  longest = max(tokens.shape[1] for tokens, _ in parts)
  pad = vocabulary[countdown_base.PAD]
  tokens = [np.pad(tokens, ((0, 0), (0, longest - tokens.shape[1])), constant_values=pad) for tokens, _ in parts]
  weights = [np.pad(weight, ((0, 0), (0, longest - weight.shape[1]))) for _, weight in parts]
  return np.concatenate(tokens), np.concatenate(weights)


def _sharpening(
  config: RunConfig,
  settings: PretrainConfig,
  trainer: '_Trainer',
  sampler: Sampler,
  vocabulary: dict[str, int],
  number: int,
) -> tuple[np.ndarray, np.ndarray, float]:
  """Makes a round's conversations, as `sharpening_rows` returns them."""
  spec = config.task.countdown
  rng = random.Random(f'sharpen/{config.seed}/{number}')
  draws = [countdown.draw(spec, 'train', rng) for _ in range(settings.sharpen_conversations)]
  params = sampler.layout(trainer.state.params)
  rollout_spec = sampler.spec(temperature=settings.sharpen_temperature)

  def answers(key: jax.Array) -> list[list[int]]:
    sampled_ids: list[list[int]] = []
    for begin in range(0, len(draws), settings.sharpen_rows):
      part = draws[begin : begin + settings.sharpen_rows]
      part += part[-1:] * (settings.sharpen_rows - len(part))
      problems = [Problem('', countdown.question(spec, numbers, steps[-1][-1]), {}) for numbers, steps in part]
      sampled = sampler.sample(params, sampler.encoded(problems), key, rollout_spec, first_row=begin)
      rows = zip(*meshes.fetch_rows((sampled.tokens, sampled.attempt)), strict=True)
      sampled_ids += [tokens[labels == 1].tolist() for tokens, labels in rows]
    return sampled_ids[: len(draws)]

  key = stream_key(config.seed, Stream.OFFLINE, number)
  first = answers(key)
  fresh = answers(jax.random.fold_in(key, 1)) if settings.sharpen_afresh else None
  mixture = dataclasses.replace(
    settings.mixture,
    look_back=settings.sharpen_look_back,
    wander=settings.sharpen_wander,
    afresh=settings.sharpen_afresh,
  )
  seed = f'sharpen/second/{config.seed}/{number}'
  same = (spec, mixture, vocabulary, _instructions(config, settings), settings.sharpen_attempts)
  return countdown_base.sharpening_rows(*same, draws, first, fresh, seed)


class _Trainer:
  def __init__(self, config: RunConfig, settings: PretrainConfig, folder: RunFolder, decoder: DecoderConfig, mesh: Any):
    self.folder, self.decoder, self.step = folder, decoder, 0
    self._config, self._mesh, self._rows = config, mesh, settings.rows
    table = weights.weight_table(decoder)
    self._optimizer = optim.make_optimizer(config.optim, table)
    known = decoder, runs.compute_dtype(config.model.dtype), mesh
    device, length = mesh.devices.flat[0], decoder.max_positions
    here = dict(platform=device.platform, length=length, memory=memory.of_device(device))
    self._spec = specs.update_spec(specs.settled(config, *known[:2], **here), *known)
    self._spec = dataclasses.replace(self._spec, group=1, micro_batches=1)
    params = weights.initial_params(decoder, jax.random.key(config.seed), settings.init_scale)
    params = runs.put_params(mesh, table, params, jnp.float32)
    self.state = runs.fresh_state(params, self._optimizer, mesh, table)

  def train(self, rows: Sequence[np.ndarray], steps: int, peak: float) -> None:
    static = dict(spec=self._spec, optimizer=self._optimizer, rows=self._rows)
    data = jax.device_put(tuple(rows), meshes.replicated(self._mesh))
    rates = _rates(self._config, steps, peak)
    key = jax.random.key(self._config.seed)
    if self.step:
      key = jax.random.fold_in(key, self.step)
    begun = time.perf_counter()
    for first in range(0, steps, _STEPS_A_CALL):
      rate = rates[first : first + _STEPS_A_CALL]
      self.state, loss = _many_steps(self.state, *data, jax.random.fold_in(key, first), rate, **static)
      self.step += len(rate)
      seconds = round(time.perf_counter() - begun, 1)
      line = dict(step=self.step, loss=float(loss), seconds=seconds)
      self.folder.add_metrics(line)
      if first % (10 * _STEPS_A_CALL) == 0:
        print(line, flush=True)


def _rates(config: RunConfig, steps: int, peak: float) -> jax.Array:
  settings = config.optim
  stage_optim = StageOptim(peak, settings.schedule, min(settings.warmup_steps, steps - 1), False)
  stage = Stage('pretrain', steps, (), (), (), 0.0, 'base', 0.0, stage_optim)
  return jnp.array([optim.learning_rate(stage, step) for step in range(steps)], jnp.float32)


@functools.partial(jax.jit, static_argnames=('spec', 'optimizer', 'rows'), donate_argnames=('state',))
def _many_steps(state, tokens, weight, key, rates, *, spec, optimizer, rows):
  """Takes a step for each of `rates`; returns the mean loss."""

  def step(state, inputs):
    number, rate = inputs
    chosen = jax.random.randint(jax.random.fold_in(key, number), (rows,), 0, tokens.shape[0])
    batch = Batch(
      tokens=tokens[chosen],
      attempt=weight[chosen].astype(jnp.int8),  # one attempt is what carries loss
      sampler_logp=None,
      length=jnp.full((rows,), tokens.shape[1], jnp.int32),
      verdict=None,
      trained=jnp.ones((rows, 1), bool),
    )
    state, metrics = _update(state, {}, batch, rate, spec=spec, optimizer=optimizer)
    return state, metrics['loss_A'][0]

  state, losses = jax.lax.scan(step, state, (jnp.arange(rates.shape[0]), rates))
  return state, jnp.mean(losses)
