"""Clips from latents, our engine against others on the same weights: python -m benchmarks.inference [--json]

Needs the extra `bench`. `engine` is what the server runs (motion.onnx and frames.onnx of a bundle, ONNX Runtime);
`model.onnx` is the bundle's whole graph in a plain ONNX Runtime session. The rivals (--against) are tensorflow, as the
bundle's SavedModel and as Keras `predict`; torch, eager and channels_last; compiled, by torch.compile; and tf2onnx,
ONNX Runtime on the model as tf2onnx alone converts it. All compute in float32 on all processors of this process, and
must first make the same clips. For each batch and length, `ratio` is the fastest rival's time over the engine's,
`flops` the decoder's operations, and `share_of_peak` the engine's rate over the machine's of matrix products.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import onnxruntime
import tensorflow as tf
import tf2onnx
import torch
from numpy.typing import NDArray

from benchmarks import flops, timing
from benchmarks.bundles import make_bundle, make_contract, make_generator
from benchmarks.torch_generator import GivenLatents
from export.contract import Contract
from mocogan_tf.latents import sample_latents
from mocogan_tf.models.generator import VideoGenerator
from serving.runtime.bundle import read_bundle
from serving.runtime.engine import Engine, EngineOptions, available_cpus

OURS, WHOLE = "engine", "model.onnx"
RIVALS = ("tensorflow", "torch", "tf2onnx", "compiled")
TOLERANCE = 1e-3  # For values in [-1, 1]: float32 sums in another order.

Arrays = dict[str, NDArray[np.float32]]
Sides = dict[str, Callable[[Arrays], Any]]


def _session(model: str | bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = available_cpus()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def plain_conversion(generator: VideoGenerator, contract: Contract) -> bytes:
    """Converts the whole generator with tf2onnx alone and serialises it."""
    shapes = {
        name: [None if isinstance(size, str) else size for size in s.shape] for name, s in contract.inputs.items()
    }
    signature = [{name: tf.TensorSpec(shape, tf.float32, name=name) for name, shape in shapes.items()}]
    generate = tf.function(lambda latents: {"video": generator(latents, training=False)["video"]}, signature)
    return tf2onnx.convert.from_function(generate, signature, opset=17)[0].SerializeToString()


def make_sides(
    generator: VideoGenerator, contract: Contract, bundle: pathlib.Path, against: Sequence[str] = RIVALS[:3]
) -> Sides:
    """Writes a bundle and makes the sides.

    Args:
        generator: `VideoGenerator`.
        contract: The generator's contract.
        bundle: Folder of the bundle.
        against: Names out of `RIVALS`.

    Returns:
        Functions from latents (arrays by name) to clips `[B, T, H, W, C]`, by name.
    """
    make_bundle(generator, contract, bundle)
    engine = Engine(read_bundle(bundle), EngineOptions(provider="cpu", precision="float32"))
    whole = _session(str(bundle / "model.onnx"))
    sides: Sides = {
        OURS: lambda latents: engine.generate(latents)[0],
        WHOLE: lambda latents: whole.run(["video"], latents)[0],
    }
    if "tensorflow" in against:
        loaded = tf.saved_model.load(str(bundle / "saved_model" / str(contract.version)))
        signature = loaded.signatures["generate"]
        sides["TensorFlow SavedModel"] = lambda latents: signature(**_constants(latents))["video"].numpy()
        sides["Keras predict"] = lambda latents: generator.predict(latents, batch_size=2**20, verbose=0)["video"]
    if "torch" in against:
        network, last = GivenLatents(generator), GivenLatents(generator).to(memory_format=torch.channels_last)
        sides["PyTorch eager"] = lambda latents: _torch(network, latents)
        sides["PyTorch channels_last"] = lambda latents: _torch(last, latents)
    if "compiled" in against:
        faster = torch.compile(GivenLatents(generator))
        sides["PyTorch compiled"] = lambda latents: _torch(faster, latents)
    if "tf2onnx" in against:
        plain = _session(plain_conversion(generator, contract))
        sides["plain tf2onnx"] = lambda latents: plain.run(None, _named_as(plain, latents))[0]
    return sides


def _constants(latents: Arrays) -> dict[str, tf.Tensor]:
    return {name: tf.constant(value) for name, value in latents.items()}


def _torch(network: Any, latents: Arrays) -> Any:
    with torch.inference_mode():
        video = network({name: torch.from_numpy(value) for name, value in latents.items()})
    return video.permute(0, 1, 3, 4, 2).numpy()  # Another view of the same memory: nothing is copied.


def _named_as(session: onnxruntime.InferenceSession, latents: Arrays) -> Arrays:
    """Renames latents as the session's inputs, to whose names tf2onnx appends a suffix."""
    names = [value.name for value in session.get_inputs()]
    return {next(name for name in names if name.startswith(key)): value for key, value in latents.items()}


def largest_differences(sides: Sides, latents: Arrays) -> dict[str, float]:
    """Returns the largest difference of each side's clips from the engine's, by name."""
    clips = {name: np.array(side(latents)) for name, side in sides.items()}
    return {name: float(np.abs(clip - clips[OURS]).max()) for name, clip in clips.items()}


def decoder_flops(generator: VideoGenerator, frames: int) -> float:
    """Counts the frame decoder's operations for a number of frames."""
    codes = tf.TensorSpec((frames, generator.decoder.input_shape[-1]), tf.float32)
    decode = tf.function(lambda z: generator.decoder(z, training=False), autograph=False)
    return flops.count(decode.get_concrete_function(codes).graph)


def run(
    batches: Sequence[int],
    lengths: Sequence[int],
    rounds: int,
    ngf: int = 64,
    against: Sequence[str] = RIVALS[:3],
    **sizes: Any,
) -> dict[str, Any]:
    """Compares the clips of all sides, times the sides in turn, and returns the report."""
    contract = make_contract(**sizes)
    generator = make_generator(contract, ngf)
    peak = timing.matrix_rate()
    cases = []
    with tempfile.TemporaryDirectory() as folder:
        sides = make_sides(generator, contract, pathlib.Path(folder) / "bundle", against)
        differences = largest_differences(sides, sample_latents(contract.latents, 2, lengths[0], seed=1))
        if max(differences.values()) > TOLERANCE:
            raise SystemExit(f"The sides make other clips than the engine: {differences}")
        for batch in batches:
            for length in lengths:
                latents = sample_latents(contract.latents, batch, length, seed=0)
                calls = {name: (lambda side=side, latents=latents: side(latents)) for name, side in sides.items()}
                results = {name: timing.summary(times) for name, times in timing.in_turns(calls, rounds).items()}
                operations = decoder_flops(generator, batch * length)
                rate = operations / results[OURS]["median_s"]
                rivals = {name: result for name, result in results.items() if name != WHOLE}
                cases.append(
                    {
                        "batch": batch,
                        "frames": length,
                        "ours": results[OURS],
                        "results": results,
                        **timing.ratios(rivals, OURS),
                        "flops": operations,
                        "share_of_peak": rate / peak,
                    }
                )
    return {
        "cases": cases,
        "ratio": min(case["ratio"] for case in cases),
        "matrix_rate": peak,
        "largest_difference": max(differences.values()),
    }


def main() -> None:
    """Prints a table, or one JSON object with --json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32], help="clips per call")
    parser.add_argument("--frames", type=int, nargs="+", default=[16, 64], help="frames per clip")
    parser.add_argument("--ngf", type=int, default=64, help="filters of the generator's last hidden layer")
    parser.add_argument("--rounds", type=int, default=5, help="timed calls of each")
    parser.add_argument("--against", nargs="+", choices=RIVALS, default=RIVALS[:3], help="compiled takes minutes first")
    parser.add_argument("--json", action="store_true")
    flags = parser.parse_args()
    with contextlib.redirect_stdout(sys.stderr):
        report = run(flags.batches, flags.frames, flags.rounds, flags.ngf, flags.against)
    if flags.json:
        print(json.dumps(report))
        return
    for case in report["cases"]:
        print(f"{case['batch']} clips of {case['frames']} frames; {case['share_of_peak']:.0%} of the matrix rate")
        for name, result in case["results"].items():
            against = f"{case['ratio_vs'][name]:6.2f} x the engine's time" if name in case["ratio_vs"] else ""
            print(f"  {name:22} {result['median_s']:8.4f} s{against}")
    print(f"fastest rival over the engine, the least of all: {report['ratio']:.2f}")


if __name__ == "__main__":
    main()
