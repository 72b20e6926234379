"""Every family against transformers: random models with all that their config.json can turn on, ids in, logits out."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
import tiny

from score_jax.models import config_json, decoder, families, lora, scoring
from score_jax.models.packing import left_padded
from score_jax.sampling import rollout as rollouts
from score_jax.sampling.spec import RolloutSpec
from score_jax.storage import hf, hf_export

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')

WINDOW, V = 6, 96
SHAPE = dict(
  vocab_size=V,
  hidden_size=16,
  num_hidden_layers=3,
  num_attention_heads=4,
  num_key_value_heads=2,
  head_dim=6,  # not hidden_size / num_attention_heads
  intermediate_size=24,
  max_position_embeddings=64,
  rms_norm_eps=1e-3,
  pad_token_id=0,
  bos_token_id=1,
  eos_token_id=2,
)
SLIDING, FULL = families.SLIDING, families.FULL
YARN = dict(rope_type='yarn', rope_theta=200.0, factor=4.0, original_max_position_embeddings=16)
LLAMA3 = dict(
  rope_type='llama3',
  rope_theta=500.0,
  factor=8.0,
  low_freq_factor=1.0,
  high_freq_factor=4.0,
  original_max_position_embeddings=32,
)
LINEAR = dict(rope_type='linear', rope_theta=300.0, factor=3.0)
PLAIN = dict(rope_type='default', rope_theta=100.0)
EXPERTS = dict(moe_intermediate_size=12, num_experts=5, num_experts_per_tok=2)
GEMMA = dict(sliding_window=WINDOW, query_pre_attn_scalar=7, attention_bias=True)

CASES = {
  'qwen2': ('qwen2', dict(use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1, rope_parameters=YARN)),
  'qwen2_tied': ('qwen2', dict(tie_word_embeddings=True, rope_parameters=PLAIN)),
  'qwen3': (
    'qwen3',
    dict(
      attention_bias=True,
      use_sliding_window=True,
      sliding_window=WINDOW,
      layer_types=[SLIDING, FULL, SLIDING],
      rope_parameters=LINEAR,
      tie_word_embeddings=True,
    ),
  ),
  'llama': ('llama', dict(attention_bias=True, mlp_bias=True, rope_parameters=LLAMA3)),
  'mistral': ('mistral', dict(sliding_window=WINDOW, rope_parameters=PLAIN, hidden_act='gelu')),
  'gemma2': (
    'gemma2',
    dict(attn_logit_softcapping=2.0, final_logit_softcapping=3.0, rope_parameters=LINEAR, **GEMMA),
  ),
  'gemma3_text': (
    'gemma3_text',
    dict(
      layer_types=[FULL, SLIDING, SLIDING],
      rope_parameters={FULL: YARN | dict(beta_fast=16.0, attention_factor=1.3), SLIDING: LINEAR},
      final_logit_softcapping=3.0,
      tie_word_embeddings=False,
      **GEMMA,
    ),
  ),
}
CASES |= {
  'gemma3': ('gemma3', CASES['gemma3_text'][1] | dict(final_logit_softcapping=None, tie_word_embeddings=True)),
  'olmo2': ('olmo2', dict(attention_bias=True, rope_parameters=YARN)),
  'smollm3': (
    'smollm3',
    dict(
      attention_bias=True,
      mlp_bias=True,
      no_rope_layers=[1, 0, 1],
      rope_parameters=LINEAR,
      sliding_window=WINDOW,
      use_sliding_window=True,
    ),
  ),
  'smollm3_listed': ('smollm3', dict(no_rope_layer_interval=2, layer_types=[FULL] * 3, rope_parameters=PLAIN)),
  'qwen3_moe': ('qwen3_moe', dict(EXPERTS, norm_topk_prob=True, rope_parameters=YARN)),
  'qwen3_moe_raw': (
    'qwen3_moe',
    dict(
      EXPERTS,
      attention_bias=True,
      num_experts_per_tok=3,
      rope_parameters=PLAIN,
      sliding_window=WINDOW,
      tie_word_embeddings=True,
      use_sliding_window=True,
    ),
  ),
}
# The other part of a Gemma 3 folder.
VISION = dict(
  hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
)
B, L, PROMPT = 4, 20, 9
START = np.array([0, 3, 7, 1], np.int32)


@dataclasses.dataclass(frozen=True)
class Case:
  """A random model of transformers, and what this package reads from the folder it saves."""

  folder: object
  model: object
  config: families.DecoderConfig
  params: dict


def class_of(config):
  """A language model's class, or that of the larger model around it."""
  return (
    transformers.AutoModelForImageTextToText if config.model_type == 'gemma3' else transformers.AutoModelForCausalLM
  )


def random_model(name):
  """A model of transformers whose every weight, norms and biases too, is random and of a size that shows."""
  model_type, settings = CASES[name]
  torch.manual_seed(sum(map(ord, name)))
  fields = SHAPE | settings
  if model_type == 'gemma3':
    fields = dict(text_config=fields, vision_config=VISION, mm_tokens_per_image=4)
  config = transformers.AutoConfig.for_model(model_type, **fields)
  model = class_of(config).from_config(config, attn_implementation='eager').eval()
  for parameter in model.parameters():
    torch.nn.init.normal_(parameter, std=0.4)
  model.generation_config = transformers.GenerationConfig(eos_token_id=2, pad_token_id=0)
  return model


# Much of them stands in other cases: tied weights, windows, the decoders of Gemma 3 and of Llama.
SLOW = ('qwen2_tied', 'mistral', 'gemma3', 'smollm3', 'smollm3_listed', 'qwen3_moe_raw')


@pytest.fixture(
  scope='module', params=[pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in CASES]
)
def case(request, tmp_path_factory):
  folder = tmp_path_factory.mktemp('families') / request.param
  model = random_model(request.param)
  model.save_pretrained(folder)
  config = hf.read_config(folder)
  return Case(folder, model, config, hf.read_params(folder, config, tiny.one_device_mesh(), jnp.float32))


def expected_logits(model, ids):
  with torch.no_grad():
    return model(torch.tensor(ids[None], dtype=torch.long)).logits[0].numpy()


@functools.partial(jax.jit, static_argnames='config')
def logits_and_logps(params, tokens, start, *, config):
  rows = left_padded(start, tokens.shape[1])
  hidden = decoder.hidden_states(params, config, tokens, rows, dtype=jnp.float32)
  return decoder.logits(hidden, decoder.head(params, jnp.float32), config), scoring.token_logps(
    params, config, tokens, rows, dtype=jnp.float32, chunk=7
  )


def test_logits_and_logps_of_ragged_rows_beyond_the_window(case):
  rows = np.random.default_rng(0).integers(3, V, (B, L)).astype(np.int32)
  logits, logps = map(np.asarray, logits_and_logps(case.params, rows, START, config=case.config))
  for row, start, actual, logp in zip(rows, START, logits, logps, strict=True):
    expected = expected_logits(case.model, row[start:])
    assert expected.std() > 0.3  # a model whose logits are all alike would prove nothing
    np.testing.assert_allclose(actual[start:], expected, atol=1e-4)
    log_softmax = expected - np.log(np.exp(expected).sum(-1, keepdims=True))
    np.testing.assert_allclose(logp[start + 1 :], log_softmax[np.arange(L - start - 1), row[start + 1 :]], atol=1e-4)


@pytest.mark.parametrize('case', ['smollm3'], indirect=True)
def test_layers_without_rope_beside_those_with(case):
  test_logits_and_logps_of_ragged_rows_beyond_the_window(case)


def test_prefill_and_cached_decode_with_left_padding(case):
  rows = np.random.default_rng(1).integers(3, V, (B, L)).astype(np.int32)
  prefill = jax.jit(functools.partial(decoder.prefill, dtype=jnp.float32), static_argnums=(1, 4))
  step = jax.jit(decoder.decode_step, static_argnums=1)
  params = decoder.for_decoding(case.params, case.config, together=True)
  logits, cache = prefill(params, case.config, rows[:, :PROMPT], START, L)
  actual = [logits]
  for t in range(PROMPT, L):
    logits, cache = step(params, case.config, rows[:, t : t + 1], jnp.int32(t), cache)
    actual.append(logits)
  actual = np.stack(actual, axis=1)
  for row, start, row_actual in zip(rows, START, actual, strict=True):
    np.testing.assert_allclose(row_actual, expected_logits(case.model, row[start:])[PROMPT - 1 - start :], atol=1e-4)


@pytest.mark.slow
def test_greedy_two_attempt_rollouts_equal_those_of_transformers(case):
  rows, end, other = 20, 2, 5
  feed = (end, 7, 11, 13)
  spec = RolloutSpec(budgets=(8, 8), separators=(feed,), end_of_turn=end, stops=(end, other), pad=0, temperature=0.0)
  prompt, start = tiny.prompts(rows, PROMPT, V, seed=4)
  result = rollouts.rollout(
    decoder.for_decoding(case.params, case.config, together=True),
    prompt,
    start,
    np.arange(rows, dtype=np.int32),
    jax.random.key(0),
    rollouts.no_forced(rows, spec),
    config=case.config,
    spec=spec,
    dtype=jnp.float32,
    mesh=tiny.one_device_mesh(),
  )
  tokens, attempt = np.asarray(result.tokens), np.asarray(result.attempt)
  lengths = set()
  for b in range(rows):
    ids = prompt[b, start[b] :].tolist()
    for a in (1, 2):
      expected = generated(case.model, ids, 8, [end, other])
      assert tokens[b][attempt[b] == a].tolist() == expected, f'row {b}, attempt {a}'
      lengths.add(len(expected))
      ids = ids + expected + list(feed[1:] if expected[-1] == end else feed)
  assert 8 in lengths


def generated(model, ids, budget, stops):
  prompt = torch.tensor([ids])
  out = model.generate(
    prompt,
    attention_mask=torch.ones_like(prompt),
    do_sample=False,
    max_new_tokens=budget,
    eos_token_id=stops,
    pad_token_id=0,
  )
  return out[0, len(ids) :].tolist()


def tensors(folder):
  with safetensors.safe_open(folder / 'model.safetensors', 'np') as file:
    return {
      name: (array.dtype, array.shape, array.tobytes())
      for name in sorted(file.keys())
      for array in [file.get_tensor(name)]
    }


def test_what_was_not_trained_comes_back_byte_for_byte(case, tmp_path):
  dtypes = hf.open_weights(case.folder, case.config).dtypes()
  hf_export.write_folder(tmp_path / 'out', case.params, case.config, source=case.folder, dtype=dtypes)
  assert tensors(tmp_path / 'out') == tensors(case.folder)
  assert (tmp_path / 'out/config.json').read_bytes() == (case.folder / 'config.json').read_bytes()


@pytest.mark.filterwarnings('ignore::FutureWarning')  # peft asks transformers for a property under its old name
@pytest.mark.parametrize('case', ['gemma3'], indirect=True)
def test_the_other_parts_of_a_larger_model_are_kept_in_an_export_and_left_alone_by_adapters(case, tmp_path):
  peft = pytest.importorskip('peft')
  others = {name for name in tensors(case.folder) if not name.startswith('language_model.')}
  assert len(others) > 20
  out, adapter = tmp_path / 'out', tmp_path / 'adapter'
  changed = jax.tree.map(lambda leaf: leaf + 1, case.params)
  hf_export.write_folder(out, changed, case.config, source=case.folder, dtype=hf.DTYPES['bfloat16'])
  with safetensors.safe_open(out / 'model.safetensors', 'pt') as now:
    assert {name: now.get_tensor(name).numpy().tobytes() for name in others} == {
      name: content for name, (_, _, content) in tensors(case.folder).items() if name in others
    }
  spec = lora.Lora(rank=2, alpha=4.0, targets='[qv]_proj')
  trained = lora.adapter_table(case.config, spec).initial(jax.random.key(0))
  trained = jax.tree.map(lambda leaf: leaf + 0.1, trained)
  hf_export.write_adapter(adapter, trained, case.config, spec, base=case.folder)
  model = class_of(case.model.config).from_pretrained(case.folder, dtype=torch.float32, attn_implementation='eager')
  model = peft.PeftModel.from_pretrained(model, adapter)
  loaded = [name for name, _ in model.named_parameters() if 'lora_' in name]
  assert len(loaded) == 2 * 2 * case.config.layers and all('language_model' in name for name in loaded)
  ids = np.random.default_rng(5).integers(3, V, L).astype(np.int32)
  policy = lora.joined(case.params, trained, spec)
  logits, _ = logits_and_logps(policy, ids[None], np.zeros(1, np.int32), config=case.config)
  np.testing.assert_allclose(expected_logits(model, ids), logits[0], atol=1e-4)


def test_a_trained_export_reloads_whole_and_rounds_as_bf16_does(case, tmp_path):
  trained = jax.tree.map(lambda leaf: leaf + 0.05 * jax.random.normal(jax.random.key(3), leaf.shape), case.params)
  ids = np.random.default_rng(2).integers(3, V, L).astype(np.int32)
  logits, _ = logits_and_logps(trained, ids[None], np.zeros(1, np.int32), config=case.config)
  for dtype, tolerance in (('float32', 1e-4), ('bfloat16', 0.3)):
    out = tmp_path / dtype
    hf_export.write_folder(out, trained, case.config, source=case.folder, dtype=hf.DTYPES[dtype])
    model, info = class_of(case.model.config).from_pretrained(
      out, output_loading_info=True, dtype=torch.float32, attn_implementation='eager'
    )
    assert not any(info.values()), info
    np.testing.assert_allclose(expected_logits(model, ids), logits[0], atol=tolerance)
  weight = model.get_input_embeddings().weight.detach().numpy()
  np.testing.assert_array_equal(weight, np.asarray(trained['embed'].astype(jnp.bfloat16).astype(jnp.float32)))


def test_a_config_written_here_is_read_back_the_same_and_by_transformers_too(case, tmp_path):
  written = config_json.to_hf(case.config)
  assert config_json.from_hf(json.loads(json.dumps(written))) == case.config
  (tmp_path / 'config.json').write_text(json.dumps(written | dict(pad_token_id=0)))
  theirs = transformers.AutoConfig.from_pretrained(tmp_path)
  if theirs.model_type == 'gemma3':
    theirs.vision_config = case.model.config.vision_config
  model = class_of(theirs).from_config(theirs, attn_implementation='eager').eval()
  model.load_state_dict(case.model.state_dict())
  ids = np.random.default_rng(3).integers(3, V, L).astype(np.int32)
  np.testing.assert_allclose(expected_logits(model, ids), expected_logits(case.model, ids), atol=1e-6)
