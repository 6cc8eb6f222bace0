"""Timings and comparisons, each a module to run: `python -m benchmarks.NAME`. Only ratios of one run compare."""
