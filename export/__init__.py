"""From a training run to a bundle that TensorFlow Serving, ONNX Runtime and any application can use.

`python -m export` writes a bundle, and `python -m export.verify` proves one. docs/bundle.md describes what a bundle
holds; `export.contract` is the same in code.
"""
