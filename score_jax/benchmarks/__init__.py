"""Measurements of the package on the machine at hand; `score_jax.bench` is their door."""
