"""The mixture of experts beside a loop over tokens in numpy; on several devices; in a training step."""

import dataclasses
import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from score_jax.models import experts, lora, packing, scoring, weights
from score_jax.models.flash import Attention
from score_jax.parallel import mesh as meshes
from score_jax.planning import costs
from score_jax.states import Batch
from score_jax.storage import hf
from score_jax.training import loop
from score_jax.training import run as runs
from score_jax.training import update as updates

CONFIG = tiny.decoder_config(
  'qwen3_moe', vocab=40, ffn=6, experts=5, experts_per_token=2, normed_experts=True, qk_norm=True
)
FAST = dict(compiler_options={'xla_backend_optimization_level': 0})
TOKENS = np.random.default_rng(0).integers(0, CONFIG.vocab, (8, 6)).astype(np.int32)


def layer_weights(config, seed=0):
  """One layer's, the router's so that the last expert is never chosen."""
  rng = np.random.default_rng(seed)
  E, D, F = config.experts, config.width, config.ffn
  shapes = dict(router=(D, E), expert_gate=(E, D, F), expert_up=(E, D, F), expert_down=(E, F, D))
  w = {name: rng.normal(0, 0.5, shape).astype(np.float32) for name, shape in shapes.items()}
  w['router'][:, -1] = 0
  return w, np.abs(rng.normal(size=(2, 7, D))).astype(np.float32)


def by_hand(w, x_D, config):
  scores = x_D @ w['router']
  probability = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
  chosen = np.argsort(-probability)[: config.experts_per_token]
  share = probability[chosen] / (probability[chosen].sum() if config.normed_experts else 1)
  total = 0
  for e, s in zip(chosen, share, strict=True):
    gate = x_D @ w['expert_gate'][e]
    total = total + s * ((gate / (1 + np.exp(-gate)) * (x_D @ w['expert_up'][e])) @ w['expert_down'][e])
  return total


@pytest.mark.parametrize('changes', [{}, dict(normed_experts=False, experts_per_token=3), dict(experts_per_token=5)])
def test_every_token_is_what_its_experts_make_of_it(changes):
  config = dataclasses.replace(CONFIG, **changes)
  w, x_BTD = layer_weights(config)
  actual = experts.feed_forward(w, config, jnp.asarray(x_BTD), jax.nn.silu, None)
  expected = [[by_hand(w, x_D, config) for x_D in row] for row in x_BTD]
  np.testing.assert_allclose(actual, expected, atol=1e-5)


def dense(w, config, x_BTD):
  """All experts for all tokens, those not chosen times 0."""
  x_MD = x_BTD.reshape(-1, config.width)
  weight_MJ, expert_MJ = experts.route(x_MD, w['router'], config)
  share_ME = jnp.sum(jax.nn.one_hot(expert_MJ, config.experts) * weight_MJ[..., None], axis=1)
  gate, up = (jnp.einsum('md,edf->mef', x_MD, w[name]) for name in ('expert_gate', 'expert_up'))
  return jnp.einsum('mef,efd,me->md', jax.nn.silu(gate) * up, w['expert_down'], share_ME).reshape(x_BTD.shape)


def test_gradients_are_those_of_all_experts_for_all_tokens():
  w, x_BTD = layer_weights(CONFIG, seed=1)

  def gradient(function):
    return jax.grad(lambda w, x: jnp.sum(jnp.sin(function(w, x))), argnums=(0, 1))(w, x_BTD)

  actual = gradient(lambda w, x: experts.feed_forward(w, CONFIG, x, jax.nn.silu, None))
  expected = gradient(lambda w, x: dense(w, CONFIG, x))
  assert np.any(expected[0]['router'])
  # In roundings of the largest sum: CPUs with other vectors add up in another order.
  for one, other in zip(*map(jax.tree.leaves, (actual, expected)), strict=True):
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * np.max(np.abs(other)))


@pytest.mark.parametrize('shape', [(1, 2, 2), pytest.param((2, 2, 2), marks=pytest.mark.slow)])
def test_several_devices_have_the_logps_and_gradient_of_one(shape):
  mesh = meshes.make_mesh(*shape, jax.devices()[: math.prod(shape)])
  params = tiny.random_params(CONFIG)
  shardings = meshes.params(mesh, weights.weight_table(CONFIG), meshes.TRAINING_RULES)
  assert shardings['layers']['expert_gate'].spec == jax.P(None, None, 'fsdp', 'tensor')

  @functools.partial(jax.jit, static_argnames='attention', **FAST)
  def value_and_gradient(params, tokens, attention):
    rows = packing.left_aligned(jnp.full(8, 6, jnp.int32), 6)

    def loss(params):
      logps = scoring.token_logps(params, CONFIG, tokens, rows, dtype=jnp.float32, remat='full', attention=attention)
      return jnp.sum(logps**2) / 100

    return jax.value_and_grad(loss)(params)

  expected = value_and_gradient(params, TOKENS, Attention())
  spread = jax.device_put(params, shardings), meshes.put_rows(mesh, TOKENS)
  actual = value_and_gradient(*spread, Attention(mesh=mesh))
  jax.tree.map(functools.partial(np.testing.assert_allclose, atol=2e-5, rtol=1e-4), actual, expected)


def test_adapters_leave_router_and_experts_alone():
  table = lora.adapter_table(CONFIG, lora.Lora(rank=2, alpha=1.0, targets='.*'))
  assert {weight.path[-1] for weight in table.weights} == {f'{name}_lora_{ab}' for name in 'qkvo' for ab in 'ab'}


def test_only_the_parameters_of_a_tokens_experts_are_multiplied():
  idle = 3 * CONFIG.layers * (5 - 2) * CONFIG.width * CONFIG.ffn
  met = weights.weight_table(CONFIG).parameters() - idle - CONFIG.vocab * CONFIG.width
  attention = CONFIG.layers * CONFIG.heads * CONFIG.head_width
  assert costs.update_flops(CONFIG, np.ones(1)) == 6 * (met + attention)


ATTENTION = lora.Lora(rank=2, alpha=4.0, targets='.*')


@pytest.mark.parametrize('adapters', [pytest.param(lora.NONE, marks=pytest.mark.slow), ATTENTION], ids=['all', 'lora'])
def test_a_step_moves_what_is_trained_towards_the_reward(adapters):
  trained = lora.trained_table(CONFIG, adapters)
  params = tiny.random_params(CONFIG)
  attempt = np.zeros_like(TOKENS, np.int8)
  attempt[:, 2:4], attempt[:, 4:] = 1, 2
  verdict = np.tile(np.array([[0, 1], [1, 0]], np.int8), (4, 1))
  batch = Batch(
    tokens=TOKENS,
    attempt=attempt,
    sampler_logp=np.zeros(TOKENS.shape, np.float32),
    length=np.full(8, 6, np.int32),
    verdict=verdict,
    trained=np.ones((8, 2), bool),
    ref_logp=np.zeros(TOKENS.shape, np.float32),
  )
  spec = updates.UpdateSpec(
    config=CONFIG,
    dtype=jnp.float32,
    group=2,
    micro_batches=1,
    kl_form='k1_togo',
    importance_cap=0.0,
    remat='full',
    logits_mb=1.0,
    attempt_gradient_norms=False,
    lora=adapters,
  )
  start = trained.initial(jax.random.key(1)) if adapters.rank else params
  stage = tiny.stage_values((1.0, 1.0), (0.0, 0.0))
  step = jax.jit(tiny.gradients, static_argnames='spec', **FAST)
  _, (gradient,), _ = step(start, *((params, {}) if adapters.rank else ({}, params)), batch, stage, spec=spec)
  norms = {
    jax.tree_util.keystr(path): float(jnp.linalg.norm(leaf)) for path, leaf in jax.tree.leaves_with_path(gradient)
  }
  assert len(norms) == len(trained.weights) and all(map(np.isfinite, norms.values()))
  # Fresh adapters have B = 0, and so no gradient of A.
  assert {name for name, norm in norms.items() if not norm} == {name for name in norms if name.endswith(f"{lora.A}']")}


@pytest.mark.slow
@pytest.mark.parametrize('changes', [{}, {'mesh.fsdp': 2, 'mesh.tensor': 2}, {'lora.rank': 2}])
def test_a_run_samples_from_the_policy_that_it_trains(changes, tmp_path):
  config = dataclasses.replace(CONFIG, vocab=len(tiny.tokenizer()))
  folder = tiny.write_hf_folder(tmp_path / 'model', config)
  fields = {'model.path': str(folder), 'lora.targets': '[qkvo]_proj', **changes}
  loop.train(runs.open_run(tiny.run_config(**fields), str(tmp_path / 'run')))
  lines = [json.loads(line) for line in (tmp_path / 'run/metrics.jsonl').read_text().splitlines()]
  assert len(lines) == 4 and all(line['mismatch'] < 1e-5 for line in lines)
  assert hf.read_config(tmp_path / 'run/hf') == config
