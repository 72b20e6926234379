"""Optimizer, update, the loop of a run, and the pretraining of the bundled base."""
