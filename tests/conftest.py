"""Eight CPU devices, strict promotion, and the small things that many tests share."""

import os

os.environ['JAX_PLATFORMS'] = 'cpu'
# Programs of tests are tiny and run for a moment: compiled fast rather than well, all tests take half the time.
os.environ['XLA_FLAGS'] = (
  '--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true'
)
os.environ['HF_HUB_OFFLINE'] = '1'
os.environ['TOKENIZERS_PARALLELISM'] = 'false'

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
