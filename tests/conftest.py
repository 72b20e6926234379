"""Eight CPU devices, strict promotion, and the small things that many tests share."""

import hashlib
import importlib.util
import os
import tempfile
import types

os.environ['JAX_PLATFORMS'] = 'cpu'
# Programs of tests are tiny and run for a moment: compiled fast rather than well, all tests take half the time.
os.environ['XLA_FLAGS'] = (
  '--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true'
)
os.environ['HF_HUB_OFFLINE'] = '1'
os.environ['TOKENIZERS_PARALLELISM'] = 'false'
# Programs that a test compiled are there for the next one and for the processes that tests start.
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', os.path.join(tempfile.gettempdir(), 'score_jax_tests'))
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.2')

import jax
import pytest
import tiny

jax.config.update('jax_numpy_dtype_promotion', 'strict')
jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update('jax_threefry_partitionable', True)


@pytest.fixture(scope='session')
def hf_folder(tmp_path_factory):
  """A tiny random Llama with the Countdown tokenizer, as an HF folder."""
  return tiny.write_hf_folder(tmp_path_factory.mktemp('hf') / 'tiny', tiny.decoder_config('llama'), seed=0)


@pytest.fixture(scope='session')
def training_run(hf_folder, tmp_path_factory):
  """A tiny run, trained to its end, and how often each of its programs was compiled."""
  import score_jax
  from score_jax.sampling import rollout
  from score_jax.training import update as updates

  programs = dict(
    rollout=rollout.program(tiny.one_device_mesh()), reference=updates.reference_logps, update=updates.update
  )
  for program in programs.values():
    program.clear_cache()
  run = score_jax.train(tiny.config_dict(), workdir=tmp_path_factory.mktemp('trained') / 'run', model=hf_folder)
  return run, {name: program._cache_size() for name, program in programs.items()}


@pytest.fixture(scope='session')
def trained_run(training_run):
  """The folder of a tiny run, trained to its end: two steps of Stage I, two of Stage II. Tests only read it."""
  return training_run[0].path


@pytest.fixture(scope='module')
def fake():
  """A store of objects; clients in this process see no other."""
  import fake_gcs

  if importlib.util.find_spec('gcsfs') is None:
    pytest.skip('needs the extra `gcs`')
  with fake_gcs.serving('bucket') as server, pytest.MonkeyPatch.context() as patch:
    for name, value in server.environment().items():
      patch.setenv(name, value)
    yield server


@pytest.fixture
def root(fake, request, monkeypatch):
  """An address in it of a test's own; the store answers, and clients that try again don't wait."""
  from score_jax.storage import stores

  retry = importlib.import_module(stores.client().__module__.partition('.')[0] + '.retry')

  async def at_once(seconds):
    del seconds

  fake.fault = lambda method, kind, name: 0
  monkeypatch.setattr(retry, 'asyncio', types.SimpleNamespace(sleep=at_once))
  yield f'gs://bucket/runs/{hashlib.sha256(request.node.name.encode()).hexdigest()[:8]}'
  fake.fault = lambda method, kind, name: 0
