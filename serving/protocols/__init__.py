"""What clients speak: the native API, TensorFlow Serving, the Open Inference Protocol, streams and gRPC."""
