"""The update's losses, KL and gradients against a second implementation, written from the paper in torch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from score_jax.core_types import Verdict
from score_jax.models import weights
from score_jax.sampling import sampler as samplers
from score_jax.states import StageValues
from score_jax.storage import hf_export
from score_jax.tasks import chat as chats
from score_jax.tasks import countdown
from score_jax.training import batches, update

torch_score = pytest.importorskip('torch') and pytest.importorskip('torch_score')

PROBLEMS, G, A = 3, 4, 2
STAGES = {
  'stage1': dict(reward_weights=(0.0, 1.0), bonus=(0.0, 0.0), kl_weights=(0.1, 0.01), gamma=0.0),
  'stage2': dict(reward_weights=(1.0, 1.0), bonus=(0.0, 10.0), kl_weights=(0.01, 0.02), gamma=0.0),
  'discounted': dict(reward_weights=(1.0, 1.0), bonus=(0.0, 3.0), kl_weights=(0.1, 0.2), gamma=0.5),
}
CASES = {
  'graded': dict(failures=(), offline=()),
  'failures_and_offline': dict(failures=((0, 0), (1, 1), (5, 1), (6, 1), (7, 1)), offline=(8, 9, 10, 11)),
}


def perturbed(params, seed):
  leaves, tree = jax.tree.flatten(params)
  rng = np.random.default_rng(seed)
  noisy = [leaf + 0.05 * rng.normal(size=leaf.shape).astype(np.float32) for leaf in leaves]
  return jax.tree.unflatten(tree, noisy)


@pytest.fixture(scope='module', params=['llama', 'qwen2'])
def run(request, tmp_path_factory):
  """A base and a policy as HF folders and parameters, and one rollout of the policy."""
  root = tmp_path_factory.mktemp('parity')
  config = tiny.decoder_config(request.param)
  tokenizer = tiny.tokenizer()
  base = perturbed(tiny.random_params(config), 0)
  policy = perturbed(base, 1)
  for name, params in (('base', base), ('policy', policy)):
    hf_export.write_folder(root / name, params, config, source=None, tokenizer=tokenizer, dtype=np.dtype(np.float32))
  chat = chats.open_chat(
    root / 'base',
    tokenizer,
    system='',
    examples=(),
    instructions=(tiny.INSTRUCTION,),
    prompt_tokens=9,
    date=tiny.DATE,
  )
  sampler = samplers.Sampler(tiny.one_device_mesh(), config, chat, budgets=(5, 6), dtype=jnp.float32)
  problems = [countdown.problem(tiny.SPEC, 0, 'train', i) for i in range(PROBLEMS) for _ in range(G)]
  key = samplers.stream_key(0, samplers.Stream.TRAIN, 0)
  rollout = sampler.sample(sampler.layout(policy), sampler.encoded(problems), key, sampler.spec())
  return root, config, base, policy, jax.device_get(rollout)


def verdicts(failures):
  """Every verdict; the groups hold right and wrong attempts of both orders."""
  verdict = np.random.default_rng(3).integers(0, 4, (PROBLEMS * G, A)).astype(np.int8)
  verdict[:4] = [[0, 1], [1, 0], [1, 1], [0, 0]]
  for b, i in failures:
    verdict[b, i] = Verdict.ERROR
  return verdict


def ours(run, verdict, trained, stage, kl_form, per_attempt):
  """(loss_A, kl_A summed over trained rows, {HF name: gradient}) of the package."""
  _, config, base, policy, rollout = run
  batch = batches.of_rollout(rollout, trained, verdict)
  spec = update.UpdateSpec(
    config=config,
    dtype=jnp.float32,
    group=G,
    micro_batches=1,
    kl_form=kl_form,
    importance_cap=0.0,
    remat='none',
    logits_mb=1.0,
    attempt_gradient_norms=per_attempt,
  )
  values = StageValues(**{name: jnp.array(value, jnp.float32) for name, value in stage.items()}, learning_rate=1.0)
  loss_A, grads, metrics = compiled(policy, base, batch, values, spec=spec)
  assert len(grads) == (A if per_attempt else 1)
  grad = jax.tree.map(lambda *parts: np.sum([np.asarray(part) for part in parts], axis=0), *grads)
  named = {}
  for weight in weights.weight_table(config).weights:
    stacked = weights.leaf_at(grad, weight)
    for n in range(config.layers if weight.per_layer else 1):
      one = stacked[n] if weight.per_layer else stacked
      named[weight.hf_name.format(n=n)] = weight.to_hf(one, config.sizes())
  return np.asarray(loss_A), np.asarray(metrics['kl_A']), named


@functools.partial(jax.jit, static_argnames=('spec',))
def compiled(policy, base, batch, values, *, spec):
  return tiny.gradients(policy, {}, base, batch, values, spec)


def assert_parity(run, tmp_path, stage, case, kl_form, per_attempt):
  root, config, _, _, rollout = run
  verdict = verdicts(CASES[case]['failures'])
  trained = np.ones((PROBLEMS * G, A), bool)
  trained[list(CASES[case]['offline']), 0] = False
  np.savez(
    tmp_path / 'rollout.npz',
    tokens=rollout.tokens,
    attempt=rollout.attempt,
    start=rollout.start,
    end=rollout.end,
    verdict=verdict,
    trained=trained,
  )
  setting = torch_score.Setting(**STAGES[stage], kl_form=kl_form, samples=G)
  expected = torch_score.score(tmp_path / 'rollout.npz', root / 'policy', root / 'base', setting)
  loss_A, kl_A, gradient = ours(run, verdict, trained, STAGES[stage], kl_form, per_attempt)
  np.testing.assert_allclose(loss_A, expected.loss, rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(kl_A, expected.kl, rtol=1e-4, atol=1e-4)
  assert gradient.keys() == expected.gradient.keys()
  for name, value in gradient.items():
    np.testing.assert_allclose(value, expected.gradient[name], rtol=1e-4, atol=1e-4, err_msg=name)
    assert np.abs(value).max() > 1e-3, name


@pytest.mark.parametrize('case', CASES)
@pytest.mark.parametrize('stage', STAGES)
def test_loss_kl_and_gradient_equal_the_torch_implementation(run, tmp_path, stage, case):
  assert_parity(run, tmp_path, stage, case, 'k1_togo', per_attempt=run[1].family == 'qwen2')


@pytest.mark.parametrize('run', ['llama'], indirect=True)
@pytest.mark.parametrize('kl_form', ['k1', 'k2_seq'])
@pytest.mark.parametrize('stage', STAGES)
def test_other_kl_forms_equal_the_torch_implementation(run, tmp_path, stage, kl_form):
  assert_parity(run, tmp_path, stage, 'failures_and_offline', kl_form, per_attempt=False)


def test_the_rollout_ends_attempts_by_every_rule_that_matters(run):
  stop = run[-1].stop
  assert {1, 3} <= set(stop.ravel().tolist())
