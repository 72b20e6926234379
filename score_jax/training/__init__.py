"""Optimizer, update and the loop of a run."""
