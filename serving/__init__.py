"""serving: a bundle's trained generator as a service, with ONNX Runtime and without TensorFlow.

Axes: B batch (clips), T time (frames), H, W, C. Clips are `[B, T, H, W, C]`, float32 in [-1, 1] out of the model and
uint8 in 0..255 on the wire. Each layer imports only those before it: `runtime` (from a bundle to frames and files),
`web` (HTTP: the server, keys, bodies, logs), `protocols` (what clients speak), `app` (the routes).
"""

from mocogan_tf import __version__ as __version__
