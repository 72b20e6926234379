"""Tiny models, chats and configurations for tests."""

import pathlib

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from experiments.countdown_base import mixture as countdown_base
from score_jax import config as configs
from score_jax.config import RunConfig
from score_jax.configs import common
from score_jax.models import weights
from score_jax.models.families import DecoderConfig, LayerKind
from score_jax.models.rope import Plain
from score_jax.parallel import mesh as meshes
from score_jax.sampling.spec import RolloutSpec
from score_jax.states import StageValues
from score_jax.storage import hf, hf_export
from score_jax.tasks.countdown import CountdownSpec
from score_jax.training import update as updates

SPEC = CountdownSpec(
  numbers=3,
  max_number=9,
  max_value=40,
  operations='+-',
  any_order=False,
  heldout_fraction=0.2,
  prompt='reach {target} with {numbers}',
)
INSTRUCTION = 'Check and retry.'
DATE = '2024-07-26'


def tokenizer():
  """The Countdown tokenizer of SPEC."""
  return countdown_base.build_tokenizer(SPEC, INSTRUCTION)


def byte_tokenizer(template, specials=('<|im_start|>', '<|im_end|>'), merges=(), **named):
  """A byte-level tokenizer, one id a byte but for `merges`, with the special tokens of a template."""
  import tokenizers
  from tokenizers import decoders, models, pre_tokenizers
  import transformers

  pieces = [*specials, *sorted(pre_tokenizers.ByteLevel.alphabet()), *(a + b for a, b in merges)]
  core = tokenizers.Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, list(merges)))
  core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
  core.decoder = decoders.ByteLevel()
  return transformers.PreTrainedTokenizerFast(
    tokenizer_object=core, extra_special_tokens=list(specials), chat_template=template, **named
  )


def decoder_config(family: str = 'llama', rope_theta: float = 10000.0, **changes) -> DecoderConfig:
  """Two layers of width 16 with two query heads per key/value head."""
  fields = dict(
    family=family,
    vocab=len(tokenizer()),
    width=16,
    layers=2,
    heads=4,
    kv_heads=2,
    head_width=4,
    ffn=32,
    norm_eps=1e-6,
    qkv_bias=family == 'qwen2',
    tied=family == 'qwen2',
    max_positions=128,
    kinds=(LayerKind(window=0, rope=Plain(rope_theta)),),
  )
  fields |= changes
  fields.setdefault('kind_of_layer', (0,) * fields['layers'])
  fields.setdefault('query_scale', fields['head_width'] ** -0.5)
  return DecoderConfig(**fields)


def random_params(config: DecoderConfig, seed: int = 0, scale: float = 0.3):
  """Random f32 parameters with norms and biases away from 1 and 0, so that forgetting one shows."""
  params = weights.initial_params(config, jax.random.key(seed), scale)
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
  noise = [leaf + 0.1 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
  return jax.tree.unflatten(tree, noise)


def write_hf_folder(
  path: pathlib.Path, config: DecoderConfig, seed: int = 0, dtype: str = 'float32', tokens=None
) -> pathlib.Path:
  """Writes a random model, with the Countdown tokenizer unless `tokens` is another."""
  hf_export.write_folder(
    path, random_params(config, seed), config, source=None, tokenizer=tokens or tokenizer(), dtype=hf.DTYPES[dtype]
  )
  return path


def run_config(**changes) -> RunConfig:
  """`config_dict`, checked and built."""
  return configs.from_config_dict(config_dict(**changes))


def config_dict(**changes) -> ConfigDict:
  """A run of two steps in each stage; `changes` are dotted fields of configs/common.py."""
  config = common.get_config()
  tiny = {
    'task.countdown': dict(
      numbers=SPEC.numbers,
      max_number=SPEC.max_number,
      max_value=SPEC.max_value,
      operations=SPEC.operations,
      any_order=SPEC.any_order,
      heldout_fraction=SPEC.heldout_fraction,
      prompt=SPEC.prompt,
    ),
    'task.instruction': INSTRUCTION,
    'batch.problems': 4,
    'batch.samples': 2,
    'sampling.prompt_tokens': 9,
    'sampling.attempt_tokens': (6, 6),
    'stages.stage1.steps': 2,
    'stages.stage2.steps': 2,
    'optim.warmup_steps': 0,
    'eval.problems': 8,
    'checkpoint.every': 1,
    'offline_pool': 4,
  }
  for field, value in {**tiny, **changes}.items():
    configs.set_field(config, field, value)
  return config


def stage_values(
  reward_weights, bonus, kl_weights=None, gamma=0.0, learning_rate=0.0, dtype=jnp.float32
) -> StageValues:
  """A stage's numbers as the update reads them; no KL unless it is given."""
  kl_weights = [0.0] * len(reward_weights) if kl_weights is None else kl_weights
  return StageValues(*(jnp.array(x, dtype) for x in (reward_weights, bonus, kl_weights, gamma, learning_rate)))


def rollout_spec(**changes) -> RolloutSpec:
  """Two attempts of up to 6 tokens on the Countdown tokenizer."""
  vocabulary = tokenizer().get_vocab()
  end = vocabulary[countdown_base.END]
  feed = (
    end,
    vocabulary[countdown_base.USER],
    *tokenizer()(INSTRUCTION)['input_ids'],
    end,
    vocabulary[countdown_base.ASSISTANT],
  )
  fields = dict(
    budgets=(6, 6),
    separators=(feed,),
    end_of_turn=end,
    stops=(end,),
    pad=vocabulary[countdown_base.PAD],
    temperature=1.0,
  )
  return RolloutSpec(**fields | changes)


def prompts(rows: int, slots: int, vocab: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
  """Left-padded random prompts of different lengths: prompt_BP, start_B."""
  rng = np.random.default_rng(seed)
  start = rng.integers(0, slots - 2, rows).astype(np.int32)
  prompt = rng.integers(5, vocab, (rows, slots)).astype(np.int32)
  prompt[np.arange(slots)[None] < start[:, None]] = 0
  return prompt, start


def scored(frozen, reference, batch, spec):
  """A batch with its reference log-probabilities, where the update does not work them out itself."""
  if spec.reference_in_update:
    return batch
  return batch.replace(ref_logp=updates.reference_logps(frozen, reference, batch, spec=spec))


def gradients(params, frozen, reference, batch, stage, spec):
  """`update.gradients` of a batch that the reference scores first."""
  batch = scored(frozen, reference, batch, spec)
  return updates.gradients(params, frozen, reference, batch, stage, spec)


def update(state, frozen, reference, batch, stage, *, spec, optimizer):
  """`update.update` of a batch that the reference scores first."""
  batch = scored(frozen, reference, batch, spec)
  reference = reference if spec.reference_in_update else None
  return updates.update(state, frozen, reference, batch, stage, spec=spec, optimizer=optimizer)


def one_device_mesh():
  return meshes.make_mesh(1, 1, 1, jax.devices()[:1])
