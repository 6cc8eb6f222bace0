"""How fast the largest convolutions of a training step can be: python -m benchmarks.convolutions [--json]

Times every layer of the video discriminator by itself: forward, gradient of its weights, gradient of its input. Prints
operations per second beside the machine's rate of matrix products (extra `bench`). These layers are most of a training
step, so the step cannot reach a higher rate than they do.
"""

import argparse
import json
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tensorflow as tf
import torch

from benchmarks import flops, timing

PRECISIONS = {"float32": (tf.float32, torch.float32), "bfloat16": (tf.bfloat16, torch.bfloat16)}
WINDOW, STRIDES = 4, (1, 1, 2, 2, 1)


def layer_shapes(ndf, clips, frames=16, size=64, channels=3):
    """Yields input and kernel shapes of the layers that halve the map, padded as the network pads."""
    for i in range(4):
        filters = ndf * 2**i
        yield (clips, frames, size + 2, size + 2, channels), (WINDOW, WINDOW, WINDOW, channels, filters)
        frames, size, channels = frames - WINDOW + 1, size // 2, filters


def passes(x_shape, kernel_shape, dtype):
    """Returns, by name, functions that run one pass of a layer, and the operations of each."""
    rng = tf.random.Generator.from_seed(0)
    x, kernel = (tf.cast(rng.normal(shape), dtype) for shape in (x_shape, kernel_shape))
    out = tf.nn.conv3d(x, kernel, STRIDES, "VALID")
    gradient = tf.cast(rng.normal(out.shape), dtype)
    shared = {"strides": STRIDES, "padding": "VALID"}
    # One number of each result: TensorFlow computes all of it and copies nothing out.
    traced = {
        "forward": tf.function(lambda: tf.nn.conv3d(x, kernel, STRIDES, "VALID")[0, 0, 0, 0, 0]),
        "to weights": tf.function(
            lambda: tf.raw_ops.Conv3DBackpropFilterV2(
                input=x, filter_sizes=kernel_shape, out_backprop=gradient, **shared
            )[0, 0, 0, 0, 0]
        ),
        "to input": tf.function(
            lambda: tf.raw_ops.Conv3DBackpropInputV2(
                input_sizes=x_shape, filter=kernel, out_backprop=gradient, **shared
            )[0, 0, 0, 0, 0]
        ),
    }
    operations = flops.count(traced["forward"].get_concrete_function().graph)
    return {name: (lambda one=one: float(one())) for name, one in traced.items()}, operations


def run(ndf, clips, rounds):
    """Times all layers and returns the report."""
    layers = []
    for name, (dtype, torch_type) in PRECISIONS.items():
        peak = timing.matrix_rate(dtype=torch_type)
        for number, shapes in enumerate(layer_shapes(ndf, clips)):
            calls, operations = passes(*shapes, dtype)
            times = timing.in_turns(calls, rounds, rest=0)
            medians = {key: timing.summary(seconds)["median_s"] for key, seconds in times.items()}
            rates = {key: operations / seconds for key, seconds in medians.items()}
            layers.append(
                {
                    "precision": name,
                    "layer": number,
                    "flops": operations,
                    "median_s": medians,
                    "share_of_peak": {key: rate / peak for key, rate in rates.items()},
                    "matrix_rate": peak,
                }
            )
    return {"layers": layers}


def main():
    """Prints a table, or with --json one object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ndf", type=int, default=64, help="filters of the first layer")
    parser.add_argument("--clips", type=int, default=4, help="clips per pass")
    parser.add_argument("--rounds", type=int, default=7, help="timed passes of each")
    parser.add_argument("--json", action="store_true")
    flags = parser.parse_args()
    report = run(flags.ndf, flags.clips, flags.rounds)
    if flags.json:
        print(json.dumps(report))
        return
    for layer in report["layers"]:
        shares = ", ".join(
            f"{name} {1e3 * layer['median_s'][name]:.1f} ms ({share:.0%} of the matrix rate)"
            for name, share in layer["share_of_peak"].items()
        )
        print(f"{layer['precision']:8} layer {layer['layer']}, {layer['flops'] / 1e9:5.1f} GFLOP: {shares}")


if __name__ == "__main__":
    main()
