"""Benchmarks that ship with the package: `python -m flexattn bench SUITE`."""
