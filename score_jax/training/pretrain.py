"""Makes the bundled base policy: supervised training from scratch on the Countdown mixture, then an HF folder.

`python -m score_jax.main --config=configs/pretrain_countdown.py`. Many steps run in one compiled call: the model is
so small that calling the device once a step would cost more than the step.
"""

import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_jax import config as configs
from score_jax.config import RunConfig
from score_jax.models import weights
from score_jax.models.families import DecoderConfig
from score_jax.models.families import LayerKind
from score_jax.models.rope import Plain
from score_jax.parallel import mesh as meshes
from score_jax.reporting import terminal
from score_jax.storage import hf
from score_jax.storage import hf_export
from score_jax.storage import run_folder
from score_jax.storage.run_folder import RunFolder
from score_jax.tasks import countdown_base
from score_jax.tasks import open_task
from score_jax.training import evaluation
from score_jax.training import optim
from score_jax.training import run as runs
from score_jax.training.update import supervised_update
from score_jax.types import Stage
from score_jax.verifiers.pool import open_grader

_STEPS_A_CALL = 100


def decoder_config(config: RunConfig, vocab: int) -> DecoderConfig:
  """A Llama-shaped decoder of the configured size.

  Not Qwen2: transformers 5 gives every Qwen2 folder Qwen's own pre-tokenizer, whatever its tokenizer.json says.
  """
  shape = config.pretrain
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
    max_positions=256,
    kinds=(LayerKind(window=0, rope=Plain(10000.0)),),
    kind_of_layer=(0,) * shape.layers,
    query_scale=(shape.width // shape.heads) ** -0.5,
  )


def pretrain(config: RunConfig, workdir: str) -> None:
  """Trains and writes `workdir`/hf, with metrics.jsonl and eval.json beside it. Not resumable: it takes minutes."""
  folder = RunFolder(workdir)
  folder.claim(configs.as_dict(config), configs.identity(config))
  mesh = meshes.make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
  tokenizer = countdown_base.build_tokenizer(config.task.countdown, config.task.instruction)
  decoder = decoder_config(config, len(tokenizer))
  tokens, weight = countdown_base.supervised_rows(
    config.task.countdown,
    config.pretrain.mixture,
    tokenizer,
    config.task.instruction,
    config.pretrain.conversations,
    config.seed,
  )
  params = _trained(config, folder, decoder, mesh, tokens, weight)
  hf_export.write_folder(
    folder.hf, params, decoder, source=None, tokenizer=tokenizer, dtype=hf.DTYPES['float32'], replace=True
  )
  sampler = runs.open_sampler(config, folder.hf, mesh)
  task = open_task(config.task)
  result, _ = evaluation.evaluate(
    sampler,
    task,
    open_grader(task.verifier, config.grading),
    sampler.layout(params),
    problems=config.eval.problems,
    seed=config.eval.seed,
    rows=config.rows,
  )
  run_folder.write_json(folder.eval, dict(base=result))
  print(terminal.table(dict(base=result)))


def _trained(
  config: RunConfig, folder: RunFolder, decoder: DecoderConfig, mesh: Any, tokens: np.ndarray, weight: np.ndarray
) -> Any:
  """The parameters after all steps."""
  table = weights.weight_table(decoder)
  optimizer = optim.make_optimizer(config.optim, table)
  params = weights.initial_params(decoder, jax.random.key(config.seed), config.pretrain.init_scale)
  state = runs.fresh_state(runs.put_params(mesh, table, params, jnp.float32), optimizer, mesh, table)
  many = functools.partial(
    _many_steps,
    config=decoder,
    optimizer=optimizer,
    dtype=runs.compute_dtype(config.model.dtype),
    rows=config.pretrain.rows,
  )
  tokens, weight = jax.device_put((tokens, weight), meshes.replicated(mesh))
  schedule = _rates(config)
  key = jax.random.key(config.seed)
  begun = time.perf_counter()
  for first in range(0, config.pretrain.steps, _STEPS_A_CALL):
    state, loss = many(state, tokens, weight, jax.random.fold_in(key, first), schedule[first : first + _STEPS_A_CALL])
    line = dict(step=first + _STEPS_A_CALL, loss=float(loss), seconds=round(time.perf_counter() - begun, 1))
    folder.add_metrics(line)
    if first % (10 * _STEPS_A_CALL) == 0:
      print(line, flush=True)
  return state.params


def _rates(config: RunConfig) -> jax.Array:
  """Learning rate of every step: the run's optimizer settings as one stage."""
  settings = config.optim
  stage_optim = configs.StageOptim(settings.learning_rate, settings.schedule, settings.warmup_steps, False)
  stage = Stage('pretrain', config.pretrain.steps, (), (), (), 0.0, 'base', 0.0, stage_optim)
  return jnp.array([optim.learning_rate(stage, step) for step in range(config.pretrain.steps)], jnp.float32)


@functools.partial(jax.jit, static_argnames=('config', 'optimizer', 'dtype', 'rows'), donate_argnames=('state',))
def _many_steps(state, tokens, weight, key, rates, *, config, optimizer, dtype, rows):
  """Steps with the given learning rates, each on rows drawn with replacement; returns the mean loss."""

  def step(state, inputs):
    number, rate = inputs
    chosen = jax.random.randint(jax.random.fold_in(key, number), (rows,), 0, tokens.shape[0])
    state, metrics = supervised_update(
      state, tokens[chosen], weight[chosen], rate, config=config, optimizer=optimizer, dtype=dtype
    )
    return state, metrics['loss']

  state, losses = jax.lax.scan(step, state, (jnp.arange(rates.shape[0]), rates))
  return state, jnp.mean(losses)
