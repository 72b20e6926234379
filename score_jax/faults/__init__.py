"""What goes wrong around a run: signals, hangs, secrets in messages, two runs in one folder. Imports no jax."""
