"""serving: a trained generator as a service, out of a bundle, with ONNX Runtime and without TensorFlow.

Axes: B batch (clips), T time (frames), H, W, C. Clips are `[B, T, H, W, C]`, float32 in [-1, 1] out of the model and
uint8 in 0..255 on the wire. Layers, lowest first: `bundle`, `latents` (what a seed means), `engine` (ONNX Runtime),
`batcher` (who is next), `repository` (which versions are loaded), `encode`; the protocols and the page sit on these.
"""

__version__ = "0.1.0"
