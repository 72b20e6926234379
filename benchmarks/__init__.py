"""Measurements of the package on this machine; `benchmarks.main` runs them."""
