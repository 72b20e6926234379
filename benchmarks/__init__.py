"""Measurements of the package on the machine at hand; `benchmarks.main` runs them."""
