"""Timings and comparisons, each a module to run: `python -m benchmarks.NAME`. Only ratios of one run compare."""

import mocogan_tf  # noqa: F401  Before TensorFlow: all sides and their processes have oneDNN's convolutions.
