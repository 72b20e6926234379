"""Measurements of the package on the machine at hand; `benchmarks.main` is their door."""
