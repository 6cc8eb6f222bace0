"""Timings side by side, each a module to run: `python -m benchmarks.NAME`. Ratios of one run count, seconds do not."""
