"""Adapters: nothing at the start, the same apart or merged, what PEFT computes, and no second model in memory."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from score_jax.errors import ConfigError
from score_jax.models import config_json, decoder, scoring, weights
from score_jax.models import lora as loras
from score_jax.models.lora import Lora
from score_jax.models.packing import left_padded
from score_jax.models.shapes import SHAPES
from score_jax.parallel import mesh as meshes
from score_jax.states import Batch, StageValues, TrainState
from score_jax.storage import hf, hf_export
from score_jax.training import optim
from score_jax.training import run as runs
from score_jax.training import update as updates

CONFIG = tiny.decoder_config('qwen2', head_width=6)
ALL = Lora(rank=3, alpha=7.0, targets='[qkvo]_proj|(gate|up|down)_proj')
TABLE = loras.adapter_table(CONFIG, ALL)
ROWS = np.random.default_rng(0).integers(0, CONFIG.vocab, (3, 10)).astype(np.int32)
START = np.array([0, 3, 6], np.int32)


@functools.partial(jax.jit, static_argnames='config')
def logits(params, *, config=CONFIG):
  hidden = decoder.hidden_states(params, config, ROWS, left_padded(START, ROWS.shape[1]), dtype=jnp.float32)
  return decoder.logits(hidden, decoder.head(params, jnp.float32), config)


@pytest.fixture(scope='module')
def base():
  return tiny.random_params(CONFIG)


@pytest.fixture(scope='module')
def adapters():
  """Adapters after some training: no entry is 0."""
  return jax.tree.map(lambda x: x + 0.3 * jax.random.normal(jax.random.key(x.size), x.shape), fresh())


def fresh():
  return TABLE.initial(jax.random.key(1))


def test_fresh_adapters_change_nothing_at_all(base):
  policy = loras.joined(base, fresh(), ALL)
  np.testing.assert_array_equal(logits(policy), logits(base))
  assert any(np.any(leaf) for leaf in jax.tree.leaves(fresh()))


@pytest.mark.parametrize('dtype', [pytest.param('float32', marks=pytest.mark.slow), 'bfloat16'])
@pytest.mark.parametrize('name', ['qwen2.5-0.5b', 'gemma-2-2b', 'qwen3', 'gemma3_text'])
def test_fresh_adapters_change_nothing_in_any_family(name, dtype):
  small = dict(num_hidden_layers=2, hidden_size=32, num_attention_heads=4, num_key_value_heads=2, head_dim=8)
  small |= dict(intermediate_size=48, vocab_size=64, max_position_embeddings=64)
  shape = SHAPES.get(name) or dict(SHAPES['gemma-2-2b' if 'gemma' in name else 'qwen2.5-0.5b'], model_type=name)
  shape = {field: value for field, value in shape.items() if name != 'gemma3_text' or 'softcapping' not in field}
  config = config_json.from_hf(shape | small)
  params, dtype = tiny.random_params(config), jnp.dtype(dtype)
  adapters = loras.adapter_table(config, ALL).initial(jax.random.key(2))
  tokens, start = np.arange(20, dtype=np.int32).reshape(2, 10), np.array([0, 3], np.int32)

  @jax.jit
  def whole_and_cached(params):
    logps = scoring.token_logps(params, config, tokens, left_padded(start, tokens.shape[1]), dtype=dtype)
    laid_out = decoder.for_decoding(jax.tree.map(lambda x: x.astype(dtype), params), config, together=True)
    first, cache = decoder.prefill(laid_out, config, tokens[:, :9], start, 10, dtype=dtype)
    return logps, first, decoder.decode_step(laid_out, config, tokens[:, 9:10], jnp.int32(9), cache)[0]

  actual, expected = whole_and_cached(loras.joined(params, adapters, ALL)), whole_and_cached(params)
  if config.qk_norm and dtype == jnp.float32:
    # XLA's CPU compiler sums the squares of a query in another order when another operation made it.
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), actual, expected)
  else:
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def test_a_is_uniform_within_one_over_the_root_of_its_inputs_and_b_is_zero():
  wide = tiny.decoder_config('llama', width=64, ffn=256)
  actual = loras.adapter_table(wide, dataclasses.replace(ALL, rank=64)).initial(jax.random.key(0))['layers']
  for name, inputs in (('q', 64), ('o', 4 * 4), ('down', 256)):
    a = np.asarray(actual[name + loras.A])
    assert np.abs(a).max() <= inputs**-0.5
    np.testing.assert_allclose(a.std(), inputs**-0.5 / 3**0.5, rtol=0.05)
    assert not np.any(actual[name + loras.B])


def test_an_adapter_by_hand(base):
  only_v = Lora(rank=2, alpha=6.0, targets='v_proj')
  rng = np.random.default_rng(3)
  table = loras.adapter_table(CONFIG, only_v)
  trained = table.tree(lambda weight: jnp.asarray(rng.normal(size=weight.shape(table.sizes)), jnp.float32))
  changed = dict(base, layers=dict(base['layers']))
  product = np.einsum('ndr,nrkc->ndkc', trained['layers']['v_lora_a'], trained['layers']['v_lora_b'])
  changed['layers']['v'] = base['layers']['v'] + np.float32(3.0) * product
  np.testing.assert_allclose(logits(loras.joined(base, trained, only_v)), logits(changed), atol=1e-4)
  assert set(trained['layers']) == {'v_lora_a', 'v_lora_b'}


def test_reference_is_the_base_with_adapters_off(base, adapters):
  reference = loras.joined(base, {}, ALL)
  assert all(a is b for a, b in zip(jax.tree.leaves(reference), jax.tree.leaves(base), strict=True))
  assert np.abs(logits(loras.joined(base, adapters, ALL)) - logits(base)).max() > 0.1


def test_every_adapter_matters_to_the_logits_and_to_the_gradient(base, adapters):
  def total(trained):
    return jnp.sum(jnp.square(logits(loras.joined(base, trained, ALL))))

  grad = jax.jit(jax.grad(total))(adapters)
  assert set(grad['layers']) == {
    name + end for name in ('q', 'k', 'v', 'o', 'gate', 'up', 'down') for end in (loras.A, loras.B)
  }
  assert all(np.all(np.any(np.asarray(leaf), axis=tuple(range(1, leaf.ndim)))) for leaf in jax.tree.leaves(grad))


@pytest.fixture(scope='module')
def base_folder(base, tmp_path_factory):
  folder = tmp_path_factory.mktemp('lora') / 'base'
  hf_export.write_folder(folder, base, CONFIG, source=None, dtype=np.dtype(np.float32))
  return folder


def test_the_merged_export_is_the_base_and_its_adapters(base, base_folder, adapters, tmp_path):
  hf_export.write_folder(
    tmp_path / 'out',
    loras.scaled(adapters, ALL),
    CONFIG,
    source=base_folder,
    dtype=hf.open_weights(base_folder, CONFIG).dtypes(),
  )
  merged = hf.read_params(tmp_path / 'out', CONFIG, tiny.one_device_mesh(), jnp.float32)
  np.testing.assert_allclose(logits(merged), logits(loras.joined(base, adapters, ALL)), atol=1e-5)
  for name in ('embed', 'final_norm'):
    np.testing.assert_array_equal(merged[name], base[name])


@pytest.mark.filterwarnings('ignore::FutureWarning')  # peft asks transformers for a property under its old name
def test_peft_loads_the_adapter_folder_and_computes_the_same(base, base_folder, adapters, tmp_path):
  torch = pytest.importorskip('torch')
  peft = pytest.importorskip('peft')
  transformers = pytest.importorskip('transformers')
  hf_export.write_adapter(tmp_path / 'adapter', adapters, CONFIG, ALL, base=base_folder)
  model = transformers.AutoModelForCausalLM.from_pretrained(base_folder, dtype=torch.float32)
  model = peft.PeftModel.from_pretrained(model, tmp_path / 'adapter')
  loaded = {name: p for name, p in model.named_parameters() if 'lora_' in name}
  assert len(loaded) == 2 * 7 * CONFIG.layers
  expected = logits(loras.joined(base, adapters, ALL))
  for row, start, row_expected in zip(ROWS, START, np.asarray(expected), strict=True):
    with torch.no_grad():
      actual = model(torch.tensor(row[None, start:], dtype=torch.long)).logits[0].numpy()
    np.testing.assert_allclose(actual, row_expected[start:], atol=1e-4)
  assert json.loads((tmp_path / 'adapter/adapter_config.json').read_text())['base_model_name_or_path'] == str(
    base_folder
  )


@pytest.mark.parametrize(
  ('targets', 'message'), [('nothing', 'names none of q_proj, k_proj'), ('q_proj(', 'not a regular expression')]
)
def test_a_pattern_that_names_nothing_is_refused(targets, message):
  with pytest.raises(ValueError, match=message):
    loras.adapter_table(CONFIG, dataclasses.replace(ALL, targets=targets))


def test_a_pattern_must_match_whole_names():
  chosen = loras.targets(CONFIG, dataclasses.replace(ALL, targets='(up|down)_proj'))
  assert [weight.path[-1] for weight in chosen] == ['up', 'down']
  with pytest.raises(ValueError, match='names none'):
    loras.targets(CONFIG, dataclasses.replace(ALL, targets='up'))


def test_adapters_are_sharded_as_the_weights_they_adapt():
  actual = meshes.params(meshes.make_mesh(2, 2, 2), TABLE, meshes.TRAINING_RULES)['layers']
  assert actual['q_lora_a'].spec == jax.P(None, 'fsdp')
  assert actual['q_lora_b'].spec == jax.P(None, None, 'tensor')
  assert actual['o_lora_a'].spec == jax.P(None, 'tensor')
  assert actual['o_lora_b'].spec == jax.P(None, None, 'fsdp')


def compiled_update(config, lora):
  """The compiled update of a model that is large beside its activations, and the bytes of its weights."""
  table, trained = weights.weight_table(config), loras.trained_table(config, lora)
  optimizer = optim.make_optimizer(tiny.run_config().optim, trained)
  params, model = trained.abstract(jnp.float32), table.abstract(jnp.float32)
  number = jax.ShapeDtypeStruct((), jnp.int32)
  state = TrainState(
    step=number,
    params=params,
    opt_state=jax.eval_shape(optimizer.init, params),
    rejected=number,
    rejected_in_a_row=number,
  )

  def array(shape, dtype):
    return jax.ShapeDtypeStruct(shape, dtype)

  batch = Batch(
    tokens=array((4, 8), jnp.int32),
    attempt=array((4, 8), jnp.int8),
    sampler_logp=array((4, 8), jnp.float32),
    length=array((4,), jnp.int32),
    verdict=array((4, 2), jnp.int8),
    trained=array((4, 2), jnp.bool_),
    ref_logp=array((4, 8), jnp.float32),
  )
  pair, one = array((2,), jnp.float32), array((), jnp.float32)
  values = StageValues(reward_weights=pair, bonus=pair, kl_weights=pair, gamma=one, learning_rate=one)
  spec = updates.UpdateSpec(
    config=config,
    dtype=jnp.float32,
    group=2,
    micro_batches=1,
    kl_form='exact',  # the form whose update has the reference among its arguments
    importance_cap=0.0,
    remat='full',
    logits_mb=1.0,
    attempt_gradient_norms=False,
    lora=lora,
  )
  frozen, reference = (model, {}) if lora.rank else ({}, model)
  lowered = updates.update.lower(state, frozen, reference, batch, values, spec=spec, optimizer=optimizer)
  return lowered.compile().memory_analysis(), 4 * table.parameters(), 4 * trained.parameters()


def test_memory_holds_one_model_with_adapters():
  config = tiny.decoder_config('llama', vocab=512, width=128, layers=6, heads=4, kv_heads=4, head_width=32, ffn=512)
  memory, model, adapters = compiled_update(config, Lora(rank=2, alpha=4.0, targets='.*'))
  # One base; adapters with two moments each.
  assert memory.argument_size_in_bytes == pytest.approx(model + 3 * adapters, rel=0.01)
  assert memory.temp_size_in_bytes < 0.5 * model
  memory, *_ = compiled_update(config, loras.NONE)
  # The same accounting sees the second tree where there is one: policy, two moments, reference.
  assert memory.argument_size_in_bytes == pytest.approx(4 * model, rel=0.01)


def test_a_run_shares_one_base_between_policy_and_reference(hf_folder, tmp_path):
  run = runs.open_run(
    tiny.run_config(**{'model.path': str(hf_folder), 'lora.rank': 2, 'mesh.data': 8}), str(tmp_path / 'run')
  )
  state = runs.initial_state(run)
  policy = run.policy(state.params)
  for weight in weights.weight_table(run.decoder).weights:
    assert weights.leaf_at(policy, weight) is weights.leaf_at(run.base, weight)
  assert run.base_reference == {}
  assert sum(leaf.size for leaf in jax.tree.leaves(state.params)) == run.trained.parameters()


def test_a_pattern_without_a_target_is_a_configuration_error(hf_folder, tmp_path):
  config = tiny.run_config(**{'model.path': str(hf_folder), 'lora.rank': 2, 'lora.targets': 'kv'})
  with pytest.raises(ConfigError, match=r"config\.lora\.targets = 'kv' names none of"):
    runs.open_run(config, str(tmp_path / 'run'))
  assert not (tmp_path / 'run').exists()
