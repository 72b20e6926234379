# SPDX-License-Identifier: Apache-2.0
"""A run, opened: all that stays the same during it."""

from collections.abc import Callable, Mapping
import dataclasses
import hashlib
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import optax

from score_jax import config as configs
from score_jax import files, hub, tasks
from score_jax.config import RunConfig
from score_jax.errors import ConfigError
from score_jax.graders import pool
from score_jax.models import lora as loras
from score_jax.models.families import DecoderConfig
from score_jax.models.weights import WeightTable
from score_jax.parallel import hosts, memory
from score_jax.parallel import mesh as meshes
from score_jax.sampling import sampler as samplers
from score_jax.sampling.sampler import Sampler
from score_jax.states import TrainState
from score_jax.storage import hashes, hf, pins
from score_jax.storage.run_folder import RunFolder
from score_jax.tasks import chat as chats
from score_jax.tasks.tokenizer import load_tokenizer
from score_jax.training import grading, optim, preflight, specs
from score_jax.training.update import UpdateSpec

_PRECISION = jax.config.jax_default_matmul_precision  # before a run has set its own
_WEIGHTS = ('.safetensors',)
_TOKENIZER_FILES = ('.json', '.jinja', '.model', '.txt')


@dataclasses.dataclass(frozen=True)
class Run:
  """What the loop needs beside the state."""

  config: RunConfig
  folder: RunFolder
  model_folder: pathlib.Path
  mesh: Mesh
  decoder: DecoderConfig
  task: tasks.Task
  grader: pool.Grader
  sampler: Sampler
  trained: WeightTable  # what training changes: all, or adapters
  optimizer: optax.GradientTransformation
  update_spec: UpdateSpec
  base: Any  # parameters in the training layout and compute dtype, never donated
  parent: dict[str, Any] | None = None  # the run's checkpoint of config.init_from

  @property
  def frozen(self) -> Any:
    """The base under adapters; without them {}."""
    return self.base if self.config.lora.rank else {}

  @property
  def base_reference(self) -> Any:
    """The base as a reference; {}: its adapters are off."""
    return {} if self.config.lora.rank else self.base

  @property
  def reference_dtype(self) -> Any:
    """Of a reference copied from the policy: adapters stay f32."""
    return jnp.float32 if self.config.lora.rank else self.sampler.dtype

  def policy(self, params: Any) -> Any:
    """The whole model of trained parameters."""
    return loras.joined(self.frozen, params, self.config.lora)

  def base_policy(self) -> Any:
    """The base with adapters that add nothing, for the same programs."""
    return self.policy(fresh_adapters(self)) if self.config.lora.rank else self.base


def check_base(folder: RunFolder, source: pathlib.Path) -> None:
  """Raises ConfigError unless the run's adapters belong to the weights in `source`."""
  weights = folder.read_config()['identity']['model']['weights']
  if weights != hashes.of_model(source, _WEIGHTS):
    raise ConfigError(f'{folder.path} was trained on other weights than those now in {source}; restore these')


def compile_cache(setting: str, backend: str, environment: Mapping[str, str]) -> str | None:
  """Returns config.compile_cache's folder of compiled programs; None: JAX's variable, or none.

  On CPU 'auto' is none: programs for one processor may fail on another.
  """
  if not setting or 'JAX_COMPILATION_CACHE_DIR' in environment:
    return None
  if setting != 'auto':
    return setting
  if backend == 'cpu':
    return None
  home = environment.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache'
  return str(pathlib.Path(home) / 'score_jax')


def compute_dtype(name: str) -> Any:
  """Returns the dtype of config.model.dtype; 'auto': bfloat16 where devices have it."""
  if name == 'auto':
    name = 'bfloat16' if has_bfloat16(jax.devices()[0]) else 'float32'
  # Accelerators otherwise round the inputs of f32 products (TF32, bf16 passes).
  jax.config.update('jax_default_matmul_precision', 'highest' if name == 'float32' else _PRECISION)
  return jnp.dtype(name)


def has_bfloat16(device: Any) -> bool:
  """Whether a device multiplies bfloat16. NVIDIA's do from compute capability 8 (Ampere) on."""
  if device.platform == 'gpu':
    major, _, minor = str(getattr(device, 'compute_capability', '')).partition('.')
    return not (major.isdigit() and minor.isdigit()) or int(major) >= 8  # else another maker's
  return device.platform != 'cpu'


def open_sampler(config: RunConfig, model_folder: pathlib.Path, mesh: Mesh) -> Sampler:
  """Opens a model folder to sample from it, on the sampling mesh over the devices of `mesh`."""
  task, sampling = config.task, config.sampling
  tokenizer = load_tokenizer(model_folder, task.chat_template)
  decoder = hf.read_config(model_folder)
  try:
    loras.policy_table(decoder, config.lora)
  except ValueError as error:
    raise ConfigError(f'config.lora.{error}') from error
  chat = chats.open_chat(
    model_folder,
    tokenizer,
    system=task.system,
    examples=chats.read_examples(task.examples) if task.examples else (),
    date=task.date,
    template_kwargs=task.template_settings,
    instructions=(task.instruction,) * (config.attempts - 1),
    prompt_tokens=sampling.prompt_tokens,
  )
  for field, prompt in (('prompt', task.prompt), ('countdown.prompt', task.countdown.prompt)):
    chat.check_text(f'config.task.{field}', prompt)
  sampler = Sampler(
    mesh=meshes.sampling_mesh(mesh, **vars(sampling.mesh)),
    config=decoder,
    chat=chat,
    budgets=sampling.attempt_tokens,
    dtype=compute_dtype(config.model.dtype),
    lora=config.lora,
    decode_slots=sampling.decode_slots,
    drafts=sampling.drafts,
    longest_draft=sampling.longest_draft,
    cache_dtype=sampling.cache_dtype,
  )
  chat.check_vocabulary(decoder.vocab)
  longest = sampling.prompt_tokens + sampler.spec().growth
  if longest > decoder.max_positions:
    raise ConfigError(
      f'a conversation may take {longest} tokens (config.sampling.prompt_tokens, attempt_tokens and instructions), '
      f'the model has {decoder.max_positions} positions; lower the budgets'
    )
  return sampler


def open_run(
  config: RunConfig, workdir: str, before_loading: Callable[[RunConfig, Sampler], None] = lambda *_: None
) -> Run:
  """Checks all that can be checked, loads the base and claims the run folder.

  Args:
    config, workdir: checked fields, and the run folder or address.
    before_loading: is told the settled configuration and the sampler, before weights take memory; it may refuse.

  Raises:
    UserError: what is wrong; nothing is written.
  """
  config = pins.pinned(config, workdir)
  # Before the devices, of which grader processes then have nothing.
  task = tasks.open_task(config.task)
  preflight.check_task(config, task)
  grader = grading.open_grader(config, task)
  if grader.description and hosts.is_main():
    print(grader.description, flush=True)
  try:
    grading.check_solutions(config, task.verifier, task.listed, grader)
    preflight.check_hosts(config, task)
    return _opened(config, workdir, task, grader, before_loading)
  except BaseException:
    grader.close()
    raise


def _opened(config: RunConfig, workdir: str, task: tasks.Task, grader: pool.Grader, before_loading: Callable) -> Run:
  if cache := compile_cache(config.compile_cache, jax.default_backend(), os.environ):
    jax.config.update('jax_compilation_cache_dir', cache)
  mesh = meshes.make_mesh(**vars(config.mesh))
  specs.check_spread(config, mesh, meshes.sampling_mesh(mesh, **vars(config.sampling.mesh)))
  folder = RunFolder(workdir)
  hosts.from_main('--workdir', folder.store.probe)
  source = hf.folder_of(config.model.path)
  sampler = open_sampler(config, source, mesh)
  chat, decoder, dtype = sampler.chat, sampler.config, sampler.dtype
  tasks.warn_of_special_tokens(task, chat.special_tokens)
  if config.task.long_prompts == 'drop':
    task = tasks.without_long(task, lambda problem: len(chat.prompt_ids(problem)), chat.prompt_tokens)
  _check_prompts(config, task, sampler)
  length, device = chat.prompt_tokens + sampler.spec().growth, mesh.local_devices[0]
  known = dict(platform=device.platform, length=length, memory=memory.least(mesh.local_devices))
  config = specs.settled(config, decoder, dtype, **known)
  before_loading(config, sampler)
  model = dict(
    weights=hashes.of_model(source, _WEIGHTS),
    tokenizer=files.hash_files(source, _TOKENIZER_FILES),
    chat_template=hashlib.sha256(chat.template.encode()).hexdigest(),
    compute_dtype=dtype.name,
  )
  if repo := hub.model(config.model.path):
    model['commit'] = repo.revision
  hosts.agree('the model folder', model)
  base = hf.read_params(source, decoder, mesh, dtype)
  parent = preflight.choose_parent(config, folder, model['weights'])
  identity = configs.identity(config) | dict(model=model, data=task.train.fingerprint)
  if parent:
    identity['init_from'] = parent
  start = hosts.from_main('the run folder', lambda: folder.claim(configs.as_dict(config), identity, chat.template))
  if not hosts.is_main():
    folder.store.join(start)
  trained = loras.trained_table(decoder, config.lora)
  return Run(
    config=config,
    folder=folder,
    model_folder=source,
    mesh=mesh,
    decoder=decoder,
    task=task,
    grader=grader,
    sampler=sampler,
    trained=trained,
    optimizer=optim.make_optimizer(config.optim, trained),
    update_spec=specs.update_spec(config, decoder, dtype, mesh),
    base=base,
    parent=parent,
  )


def _check_prompts(config: RunConfig, task: tasks.Task, sampler: Sampler) -> None:
  """Encodes all listed problems, of which one would else stop the step that draws it; raises as `encoded` does."""
  if isinstance(task.train, tasks.ProblemList):
    sampler.check(task.train.problems)
  if isinstance(task.heldout, tasks.ProblemList):
    sampler.check(tasks.heldout_problems(task, config.eval.problems, config.eval.seed))


def put_params(mesh: Mesh, table: WeightTable, params: Any, dtype: Any) -> Any:
  """Returns a copy of a tree in the training layout and `dtype`."""
  copies = jax.tree.map(lambda p: jnp.array(p, dtype, copy=True), params)
  return meshes.put(copies, meshes.params(mesh, table, meshes.TRAINING_RULES))


def initial_params(run: Run) -> Any:
  """Returns f32 parameters at step 0: those of `init_from`, else the base's or fresh adapters.

  Raises:
    DataError: `init_from` has lost the checkpoint that the run began from.
  """
  if run.parent:
    preflight.check_parent(run.parent)
    return best_params(RunFolder(run.parent['path']), run.mesh, run.trained, str(run.parent['step']))
  if run.config.lora.rank:
    return fresh_adapters(run)
  if run.sampler.dtype == jnp.float32:
    return put_params(run.mesh, run.trained, run.base, jnp.float32)
  return hf.read_params(run.model_folder, run.decoder, run.mesh, jnp.float32)


def fresh_adapters(run: Run) -> Any:
  """Returns f32 adapters before their first step."""
  key = samplers.stream_key(run.config.seed, samplers.Stream.ADAPTERS, 0)
  return put_params(run.mesh, run.trained, run.trained.initial(key), jnp.float32)


def initial_state(run: Run) -> TrainState:
  """Returns the state at step 0."""
  return fresh_state(initial_params(run), run.optimizer, run.mesh, run.trained)


def fresh_state(params: Any, optimizer: optax.GradientTransformation, mesh: Mesh, table: WeightTable) -> TrainState:
  """Returns a state at step 0 around given parameters."""
  moments = fresh_moments(params, optimizer, mesh, table)
  step, rejected, in_a_row = (meshes.put(jnp.int32(0), meshes.replicated(mesh)) for _ in range(3))
  return TrainState(step, params, moments, rejected, in_a_row)


def fresh_moments(params: Any, optimizer: optax.GradientTransformation, mesh: Mesh, table: WeightTable) -> Any:
  """Returns the optimizer's first state, sharded like the parameters."""
  return jax.jit(optimizer.init, out_shardings=meshes.opt_state(mesh, optimizer, table))(params)


def step_of(folder: RunFolder, step: str) -> int:
  """Returns the step that 'best', 'last' or a number means; ConfigError: there are no checkpoints."""
  with preflight.open_to_read(folder) as checkpoints:
    return preflight.chosen_step(checkpoints, step)


def best_params(folder: RunFolder, mesh: Mesh, table: WeightTable, step: str = 'best') -> Any:
  """Returns f32 parameters of a run's checkpoint: 'best', 'last' or a step number.

  Raises:
    ConfigError: `step` is none of these, or the folder holds no checkpoints.
    DataError: the checkpoint is missing, not whole or of another model.
  """
  with preflight.open_to_read(folder) as checkpoints:
    chosen = preflight.chosen_step(checkpoints, step)
    shardings = meshes.params(mesh, table, meshes.TRAINING_RULES)
    return checkpoints.params(chosen, specs.placed(table.abstract(jnp.float32), shardings))
