"""score_jax: train language models to correct themselves (SCoRe, arXiv 2409.12917) in JAX."""

__version__ = '0.1.0'
