"""Benchmarks: Millrace as shipped beside its peers, in turns. `python -m tests.performance.run --help`."""
