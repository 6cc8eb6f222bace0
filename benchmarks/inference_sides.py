"""The sides of `benchmarks.inference`, each library in a process of its own, since idle threads of one slow another.

`prepare` writes what all sides need into a folder. `python -m benchmarks.inference_sides LIBRARY FOLDER` then reads one
JSON object a line and answers with one: `{"side", "batch", "frames"}` runs a side and returns its `seconds`, in
processor time if `processor` is true, and saves its clips if `save` names a file; `{"rate": precision}` returns the
library's `rate` of matrix products.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
from numpy.typing import NDArray

from benchmarks import timing
from mocogan_tf.latents import sample_latents
from serving.runtime.bundle import read_bundle
from serving.runtime.options import available_cpus

BEST, FLOAT32, WHOLE = "engine", "engine float32", "model.onnx"

Arrays = dict[str, NDArray[np.float32]]
Sides = dict[str, Callable[[Arrays], Any]]


def prepare(folder: pathlib.Path, ngf: int, **sizes: Any) -> dict[int, float]:
    """Writes the bundle of a random generator, its Keras weights, the model as tf2onnx alone converts it and, if
    PyTorch is installed, its twin there. Returns the decoder's operations for a clip, by its frames."""
    import tensorflow as tf
    import tf2onnx

    from benchmarks.bundles import make_bundle, make_contract, make_generator

    contract = make_contract(**sizes)
    generator = make_generator(contract, ngf)
    make_bundle(generator, contract, folder / "bundle")
    generator.save_weights(folder / "generator.weights.h5")
    (folder / "sizes.json").write_text(json.dumps({"ngf": ngf, **sizes}))
    shapes = {
        name: [None if isinstance(size, str) else size for size in s.shape] for name, s in contract.inputs.items()
    }
    signature = [{name: tf.TensorSpec(shape, tf.float32, name=name) for name, shape in shapes.items()}]
    generate = tf.function(lambda latents: {"video": generator(latents, training=False)["video"]}, signature)
    plain = tf2onnx.convert.from_function(generate, signature, opset=17)[0]
    (folder / "plain.onnx").write_bytes(plain.SerializeToString())
    if importlib.util.find_spec("torch"):
        import torch

        from benchmarks.torch_generator import GivenLatents

        torch.save(GivenLatents(generator), folder / "generator.pt")
    return {frames: decoder_flops(generator, frames) for frames in (1, contract.video_length)}


def decoder_flops(generator: Any, frames: int) -> float:
    """Counts the frame decoder's operations for a number of frames."""
    import tensorflow as tf

    from benchmarks import flops

    codes = tf.TensorSpec((frames, generator.decoder.input_shape[-1]), tf.float32)
    decode = tf.function(lambda z: generator.decoder(z, training=False), autograph=False)
    return flops.count(decode.get_concrete_function(codes).graph)


def engine_sides(folder: pathlib.Path, precision: str) -> Sides:
    """What the server runs, on the provider that it chooses."""
    from serving.runtime.engine import Engine
    from serving.runtime.options import EngineOptions

    engine = Engine(read_bundle(folder / "bundle"), EngineOptions(precision=precision))
    print(f"{precision}: {engine.describe()}", file=sys.stderr)
    return {FLOAT32 if precision == "float32" else BEST: lambda latents: engine.generate(latents)[0]}


def onnxruntime_sides(folder: pathlib.Path) -> Sides:
    """The bundle's whole graph, and the model as tf2onnx alone converts it."""
    import onnxruntime

    def side(path: pathlib.Path) -> Callable[[Arrays], Any]:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = available_cpus(), 3
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        names = [value.name for value in session.get_inputs()]  # tf2onnx appends a suffix.
        known = ("content", "category", "motion_init", "motion_noise")
        named = {key: name for key in known for name in names if name.startswith(key)}
        return lambda latents: session.run(["video"], {named[key]: value for key, value in latents.items()})[0]

    return {WHOLE: side(folder / "bundle" / "model.onnx"), "plain tf2onnx": side(folder / "plain.onnx")}


def tensorflow_sides(folder: pathlib.Path) -> Sides:
    """The bundle's SavedModel, Keras `predict`, and the Keras model under the policy mixed_bfloat16."""
    import keras
    import tensorflow as tf

    from benchmarks.bundles import make_contract, make_generator

    sizes = json.loads((folder / "sizes.json").read_text())
    ngf = sizes.pop("ngf")

    def built(policy: str) -> Any:
        keras.config.set_dtype_policy(policy)
        contract = make_contract(**sizes)
        generator = make_generator(contract, ngf)
        generator({name: tf.constant(value) for name, value in sample_latents(contract.latents, 1, 1, seed=0).items()})
        generator.load_weights(folder / "generator.weights.h5")
        keras.config.set_dtype_policy("float32")
        return generator

    def constants(latents: Arrays) -> dict[str, Any]:
        return {name: tf.constant(value) for name, value in latents.items()}

    plain, mixed = built("float32"), built("mixed_bfloat16")
    signature = tf.saved_model.load(str(folder / "bundle" / "saved_model" / "1")).signatures["generate"]
    half = tf.function(
        lambda latents: tf.cast(mixed(latents, training=False)["video"], tf.float32), reduce_retracing=True
    )
    return {
        "TensorFlow SavedModel": lambda latents: signature(**constants(latents))["video"].numpy(),
        "Keras predict": lambda latents: plain.predict(latents, batch_size=2**20, verbose=0)["video"],
        "TensorFlow bfloat16": lambda latents: half(constants(latents)).numpy(),
    }


def torch_sides(folder: pathlib.Path, compiled: bool = False) -> Sides:
    """PyTorch in float32 and, by autocast, in bfloat16."""
    import torch

    def load() -> Any:
        return torch.load(folder / "generator.pt", weights_only=False)

    def side(network: Any, half: bool = False) -> Callable[[Arrays], Any]:
        def run(latents: Arrays) -> Any:
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=half):
                video = network({name: torch.from_numpy(value) for name, value in latents.items()})
            return video.float().permute(0, 1, 3, 4, 2).numpy()  # Another view of the same memory.

        return run

    last = load().to(memory_format=torch.channels_last)
    if compiled:
        faster = torch.compile(last)
        return {"PyTorch compiled": side(faster), "PyTorch compiled bfloat16": side(faster, half=True)}
    return {
        "PyTorch eager": side(load()),
        "PyTorch channels_last": side(last),
        "PyTorch channels_last bfloat16": side(last, half=True),
    }


LIBRARIES: dict[str, Callable[[pathlib.Path], Sides]] = {
    "engine": lambda folder: engine_sides(folder, "auto"),
    "engine_float32": lambda folder: engine_sides(folder, "float32"),
    "onnxruntime": onnxruntime_sides,
    "tensorflow": tensorflow_sides,
    "torch": torch_sides,
    "compiled": lambda folder: torch_sides(folder, compiled=True),
}
RIVALS = ("onnxruntime", "tensorflow", "torch", "compiled")


def library_rate(library: str, precision: str, clock: Callable[[], float] = time.perf_counter) -> float:
    """Returns a library's rate of matrix products, the best of several shapes; 0 if it is not asked."""
    make: Callable[[Any], Any] = lambda values: values  # noqa: E731
    product = lambda a, b: a @ b  # noqa: E731
    if library == "tensorflow":
        import tensorflow as tf

        make = lambda values: tf.constant(values, getattr(tf, precision))  # noqa: E731
        product = lambda a, b: (a @ b)[0, 0].numpy()  # noqa: E731
    elif library == "torch":
        import torch

        make = lambda values: torch.from_numpy(values).to(getattr(torch, precision))  # noqa: E731
    elif precision != "float32":
        return 0.0
    return timing.best_rate(make, product, clock=clock)


def main(library: str, folder: pathlib.Path) -> None:
    """Answers until its input ends."""
    with contextlib.redirect_stdout(sys.stderr):
        sides = LIBRARIES[library](folder)
    spec = read_bundle(folder / "bundle").latents
    print(json.dumps(list(sides)), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        with contextlib.redirect_stdout(sys.stderr):
            clock = time.process_time if asked.get("processor") else time.perf_counter
            if "rate" in asked:
                answer = {"rate": library_rate(library, asked["rate"], clock)}
            else:
                latents = sample_latents(spec, asked["batch"], asked["frames"], seed=0)
                started = clock()
                clips = sides[asked["side"]](latents)
                answer = {"seconds": clock() - started}
                if "save" in asked:
                    np.save(asked["save"], np.asarray(clips))
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], pathlib.Path(sys.argv[2]))
