"""A run, opened: everything that stays the same from its first step to its last, wired from the configuration."""

from collections.abc import Mapping
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
from score_jax import files
from score_jax.config import RunConfig
from score_jax.errors import ConfigError
from score_jax.graders.pool import Grader
from score_jax.graders.pool import open_grader
from score_jax.models import lora as loras
from score_jax.models.families import DecoderConfig
from score_jax.models.weights import WeightTable
from score_jax.parallel import hosts
from score_jax.parallel import mesh as meshes
from score_jax.sampling.sampler import Sampler
from score_jax.sampling.sampler import Stream
from score_jax.sampling.sampler import stream_key
from score_jax.states import TrainState
from score_jax.storage import hf
from score_jax.storage.run_folder import RunFolder
from score_jax.tasks import Task
from score_jax.tasks import chat as chats
from score_jax.tasks import open_task
from score_jax.tasks import without_long
from score_jax.tasks.tokenizer import load_tokenizer
from score_jax.training import optim
from score_jax.training import parent as parents
from score_jax.training import preflight
from score_jax.training import specs
from score_jax.training.update import UpdateSpec

_PRECISION = jax.config.jax_default_matmul_precision  # before a run has set its own
_TOKENIZER_FILES = ('.json', '.jinja', '.model', '.txt')


@dataclasses.dataclass(frozen=True)
class Run:
  """What the loop needs beside the state."""

  config: RunConfig
  folder: RunFolder
  model_folder: pathlib.Path
  mesh: Mesh
  decoder: DecoderConfig
  task: Task
  grader: Grader
  sampler: Sampler
  trained: WeightTable  # the weights that training changes: all, or adapters
  optimizer: optax.GradientTransformation
  update_spec: UpdateSpec
  base: Any  # model.path's parameters in the training layout and compute dtype; never donated
  parent: parents.ParentCheckpoint | None = None  # what config.init_from gave, as the run began

  @property
  def frozen(self) -> Any:
    """What policy and reference share: the base under adapters, else nothing."""
    return self.base if self.config.lora.rank else {}

  @property
  def base_reference(self) -> Any:
    """The base as a reference: without adapters, or as a model of its own."""
    return {} if self.config.lora.rank else self.base

  @property
  def reference_dtype(self) -> Any:
    """Of a reference that is a copy of the policy: adapters stay as they are, or rounding would set the two apart."""
    return jnp.float32 if self.config.lora.rank else self.sampler.dtype

  def policy(self, params: Any) -> Any:
    """The whole model of trained parameters."""
    return loras.joined(self.frozen, params, self.config.lora)

  def base_policy(self) -> Any:
    """The base as a policy's tree: with adapters that add nothing, so that sampling needs no program of its own."""
    return self.policy(fresh_adapters(self)) if self.config.lora.rank else self.base


def check_base(folder: RunFolder, source: pathlib.Path) -> None:
  """Raises ConfigError if `source` has other weights than those that the run's adapters were trained on."""
  if folder.read_config()['identity']['model']['weights'] != files.hash_files(source, ('.safetensors',)):
    raise ConfigError(f'{folder.path} was trained on other weights than those now in {source}; restore that folder')


def compile_cache(setting: str, backend: str, environment: Mapping[str, str]) -> str | None:
  """Returns the folder for compiled programs that config.compile_cache means, if it is for us to set.

  JAX's own variable goes first. On CPU 'auto' is nowhere: programs for one processor may fail on another that shares
  the home folder.
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
  """Returns the dtype of config.model.dtype; 'auto' is bfloat16 on accelerators that have it, elsewhere float32."""
  if name == 'auto':
    name = 'bfloat16' if has_bfloat16(jax.devices()[0]) else 'float32'
  # Accelerators otherwise round the inputs of f32 products (TF32, bf16 passes).
  jax.config.update('jax_default_matmul_precision', 'highest' if name == 'float32' else _PRECISION)
  return jnp.dtype(name)


def has_bfloat16(device: Any) -> bool:
  """Whether a device multiplies bfloat16. NVIDIA's do from compute capability 8 (Ampere) on, and Triton, in which the
  kernels of the 16-bit paths are written, takes no older ones; a T4 has 7.5.
  """
  if device.platform == 'gpu':
    major, _, minor = str(getattr(device, 'compute_capability', '')).partition('.')
    return not (major.isdigit() and minor.isdigit()) or int(major) >= 8  # other makers' are named otherwise
  return device.platform != 'cpu'


def open_sampler(config: RunConfig, model_folder: pathlib.Path, mesh: Mesh) -> Sampler:
  """Opens tokenizer, template proof and sampling settings of a model folder."""
  tokenizer = load_tokenizer(model_folder, config.task.chat_template)
  decoder = hf.read_config(model_folder)
  try:
    loras.policy_table(decoder, config.lora)
  except ValueError as error:
    raise ConfigError(f'config.lora.{error}') from error
  chat = chats.open_chat(
    model_folder,
    tokenizer,
    system=config.task.system,
    examples=chats.read_examples(config.task.examples) if config.task.examples else (),
    date=config.task.date,
    instructions=(config.task.instruction,) * (config.attempts - 1),
    prompt_tokens=config.sampling.prompt_tokens,
  )
  sampler = Sampler(
    mesh=mesh,
    config=decoder,
    chat=chat,
    budgets=config.sampling.attempt_tokens,
    dtype=compute_dtype(config.model.dtype),
    lora=config.lora,
    decode_slots=config.sampling.decode_slots,
    cache_dtype=config.sampling.cache_dtype,
  )
  chat.check_vocabulary(decoder.vocab)
  longest = config.sampling.prompt_tokens + sampler.spec().growth
  if longest > decoder.max_positions:
    raise ConfigError(
      f'a conversation may take {longest} tokens (config.sampling.prompt_tokens, attempt_tokens and instructions), '
      f'but the model has {decoder.max_positions} positions; lower the budgets'
    )
  return sampler


def open_run(config: RunConfig, workdir: str) -> Run:
  """Checks everything that can be checked, then claims the run folder and loads the base.

  Raises:
    UserError: what is wrong with the configuration, the model folder or the run folder; nothing has been written.
  """
  # Before the devices: grader processes begin with nothing of them, and bad data is told at once.
  task = open_task(config.task)
  preflight.check_task(config, task)
  grader = open_grader(task.verifier, config.grading)
  if grader.description and hosts.is_main():
    print(grader.description, flush=True)
  try:
    preflight.check_hosts(config, task)
    return _opened(config, workdir, task, grader)
  except BaseException:
    grader.close()
    raise


def _opened(config: RunConfig, workdir: str, task: Task, grader: Grader) -> Run:
  """Does the rest of `open_run`."""
  if folder := compile_cache(config.compile_cache, jax.default_backend(), os.environ):
    jax.config.update('jax_compilation_cache_dir', folder)
  mesh = meshes.make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
  specs.check_spread(config, mesh)
  folder = RunFolder(workdir)
  hosts.from_main('--workdir', folder.store.probe)
  model_folder = hf.folder_of(config.model.path)
  sampler = open_sampler(config, model_folder, mesh)
  if config.task.long_prompts == 'drop':
    chat = sampler.chat
    task = without_long(task, lambda problem: len(chat.prompt_ids(problem)), chat.prompt_tokens)
  model_identity = dict(
    weights=files.hash_files(model_folder, ('.safetensors',)),
    tokenizer=files.hash_files(model_folder, _TOKENIZER_FILES),
    chat_template=hashlib.sha256(sampler.chat.tokenizer.chat_template.encode()).hexdigest(),
    compute_dtype=sampler.dtype.name,
  )
  hosts.agree('the model folder', model_identity)
  base = hf.read_params(model_folder, sampler.config, mesh, sampler.dtype)
  parent = None
  if config.init_from:
    preflight.check_init_from(config, folder, model_identity['weights'])
    parent = parents.choose_parent(config.init_from, folder)
  identity = configs.identity(config) | dict(model=model_identity, data=task.train.fingerprint)
  if parent:
    identity['init_from'] = dict(path=config.init_from, **dataclasses.asdict(parent))
  preflight.claim(folder, config, identity)
  trained = loras.trained_table(sampler.config, config.lora)
  return Run(
    config=config,
    folder=folder,
    model_folder=model_folder,
    mesh=mesh,
    decoder=sampler.config,
    task=task,
    grader=grader,
    sampler=sampler,
    trained=trained,
    optimizer=optim.make_optimizer(config.optim, trained),
    update_spec=specs.update_spec(config, sampler.config, sampler.dtype, mesh),
    base=base,
    parent=parent,
  )


def put_params(mesh: Mesh, table: WeightTable, params: Any, dtype: Any) -> Any:
  """Returns a copy of a tree of host or device arrays in the training layout, in `dtype`."""
  copies = jax.tree.map(lambda p: jnp.array(p, dtype, copy=True), params)
  return meshes.put(copies, meshes.params(mesh, table, meshes.TRAINING_RULES))


def initial_params(run: Run) -> Any:
  """Returns f32 parameters at step 0: of `init_from`'s best policy if it is set, else the base's or fresh adapters.

  Raises:
    DataError: `init_from` no longer has the checkpoint that the run began from.
  """
  if run.parent:
    parents.check_parent(run.parent, run.config.init_from)
    return best_params(RunFolder(run.config.init_from), run.mesh, run.trained, str(run.parent.step))
  if run.config.lora.rank:
    return fresh_adapters(run)
  if run.sampler.dtype == jnp.float32:  # the base has been read as it is needed here
    return put_params(run.mesh, run.trained, run.base, jnp.float32)
  return hf.read_params(run.model_folder, run.decoder, run.mesh, jnp.float32)


def fresh_adapters(run: Run) -> Any:
  """Returns f32 adapters before their first step."""
  adapters = run.trained.initial(stream_key(run.config.seed, Stream.ADAPTERS, 0))
  return put_params(run.mesh, run.trained, adapters, jnp.float32)


def initial_state(run: Run) -> TrainState:
  """Returns the state at step 0."""
  return fresh_state(initial_params(run), run.optimizer, run.mesh, run.trained)


def abstract_state(run: Run) -> TrainState:
  """Returns shapes, dtypes and shardings of the state."""
  return specs.abstract_state_of(run.mesh, run.trained, run.optimizer)


def fresh_state(params: Any, optimizer: optax.GradientTransformation, mesh: Mesh, table: WeightTable) -> TrainState:
  """Returns a state at step 0 around given parameters."""

  moments = fresh_moments(params, optimizer, mesh, table)
  step, rejected, in_a_row = (meshes.put(jnp.int32(0), meshes.replicated(mesh)) for _ in range(3))
  return TrainState(step=step, params=params, opt_state=moments, rejected=rejected, rejected_in_a_row=in_a_row)


def fresh_moments(params: Any, optimizer: optax.GradientTransformation, mesh: Mesh, table: WeightTable) -> Any:
  """Returns the optimizer's state before its first step, sharded like the parameters."""
  return jax.jit(optimizer.init, out_shardings=meshes.opt_state(mesh, optimizer, table))(params)


def best_params(folder: RunFolder, mesh: Mesh, table: WeightTable, step: str = 'best') -> Any:
  """Returns f32 parameters of a run's checkpoint: 'best', 'last' or a step number.

  Raises:
    ConfigError: `step` is none of these, or the folder holds no checkpoints.
    DataError: there is no such checkpoint, it is not whole, or it is of another model.
  """
  with parents.open_to_read(folder) as checkpoints:
    chosen = parents.chosen_step(checkpoints, step)
    abstract = specs.placed(table.abstract(jnp.float32), meshes.params(mesh, table, meshes.TRAINING_RULES))
    return checkpoints.params(chosen, abstract)
