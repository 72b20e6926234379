"""Verifiers: problem and text in, verdict out. Host only; nothing here imports jax."""
