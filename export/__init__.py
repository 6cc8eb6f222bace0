"""From a training run to a bundle that TensorFlow Serving, ONNX Runtime and any application can use.

`python -m export` writes a bundle, `python -m export.verify` proves one. What a bundle holds is written down in
docs/bundle.md and, as code, in `export.contract`.
"""
