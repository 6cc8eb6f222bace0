"""The generator as a SavedModel that TensorFlow Serving can load.

Keras 3's `model.export` and `tf.saved_model.save` are not enough: the first stores every weight twice and fixes the
clip length, the second gives a folder that loads in Python but not in a session. `ExportArchive` with endpoints only,
and no tracked layer, does neither.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from export.contract import Contract, TensorSpec
from export.seeded import draw_latents


@dataclasses.dataclass(frozen=True)
class Signature:
    """One entry point of the SavedModel: its inputs and outputs, and what it computes.

    Args:
        inputs, outputs: By name; "time" in a shape is a free clip length, else the length is fixed.
        compute: From a dict of input tensors and the generator to a dict of output tensors.
    """

    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]
    compute: Callable[[Any, dict[str, Any]], dict[str, Any]]


def signatures(contract: Contract) -> dict[str, Signature]:
    """Returns the SavedModel's signatures by name. docs/bundle.md describes them for clients."""
    trained = contract.video_length
    lengths = sorted({trained, *contract.frame_buckets})
    table = {"serving_default": _generate(contract, trained), "generate": _generate(contract, "time")}
    table |= {f"generate_{length}": _generate(contract, length) for length in lengths}
    if "motion_state" in contract.outputs:
        table["continue"] = _continue(contract)
    table |= {f"generate_{kind}": _generate(contract, "time", kind) for kind in _PICTURES}
    table["seed"] = _seed(contract, trained)
    table |= {f"seed_{kind}": _seed(contract, trained, kind) for kind in _PICTURES}
    return table


def write_saved_model(generator: Any, contract: Contract, folder: pathlib.Path) -> None:
    """Writes the generator with all signatures.

    Args:
        generator: With the weights to export.
        contract: Its contract.
        folder: Of this version, `.../saved_model/<version>`.
    """
    archive = keras.export.ExportArchive()
    with portable_gru(generator):
        for name, signature in signatures(contract).items():
            specs = {key: _tensor_spec(spec) for key, spec in signature.inputs.items()}
            archive.add_endpoint(name, _bind(generator, signature), input_signature=[specs])
        archive.write_out(str(folder), verbose=False)


@contextlib.contextmanager
def portable_gru(generator: Any) -> Iterator[None]:
    """Traces the GRU as ordinary operations inside the context.

    Where a GPU is visible Keras would trace cuDNN's own operator, which neither a server on a CPU nor ONNX can run.
    A generator without a GRU is left as it is.
    """
    if not hasattr(generator, "motion"):
        yield
        return
    before, generator.motion.use_cudnn = generator.motion.use_cudnn, False
    try:
        yield
    finally:
        generator.motion.use_cudnn = before


def to_pixels(video: Any) -> Any:
    """Turns [-1, 1] into uint8 by the contract's postprocess rule."""
    return tf.cast(tf.clip_by_value(tf.round((video + 1.0) * 127.5), 0.0, 255.0), tf.uint8)


def to_png(video: Any) -> Any:
    """Encodes each frame of `[B, T, H, W, C]` as PNG: string `[B, T]`."""
    pixels = to_pixels(video)
    shape = tf.shape(pixels)
    frames = tf.reshape(pixels, (-1, *video.shape[2:]))
    encoded = tf.map_fn(tf.io.encode_png, frames, fn_output_signature=tf.string)
    return tf.reshape(encoded, shape[:2])


_PICTURES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "uint8": ("video_uint8", to_pixels),
    "png": ("png_bytes", to_png),  # TensorFlow Serving's REST API gives outputs named *_bytes as base64.
}


def _generate(contract: Contract, length: int | str, kind: str = "") -> Signature:
    """The model itself, with a clip length and, by `kind`, another form of the pictures."""

    def compute(generator: Any, inputs: dict[str, Any]) -> dict[str, Any]:
        return _pictures(contract, generator(inputs, training=False), kind)

    inputs = {name: _with_length(spec, length) for name, spec in contract.inputs.items()}
    return Signature(inputs, _outputs(contract, length, kind), compute)


def _continue(contract: Contract) -> Signature:
    """As `generate`, but takes the state under the name by which it is given, so that chunks can be chained."""

    def compute(generator: Any, inputs: dict[str, Any]) -> dict[str, Any]:
        latents = {("motion_init" if name == "motion_state" else name): value for name, value in inputs.items()}
        return dict(generator(latents, training=False))

    inputs = {name: spec for name, spec in contract.inputs.items() if name != "motion_init"}
    return Signature(inputs | {"motion_state": contract.motion_state}, _outputs(contract, "time", ""), compute)


def _seed(contract: Contract, length: int, kind: str = "") -> Signature:
    """Draws the latents from a seed by the contract's rule: one integer in, the clip of that seed out."""

    def compute(generator: Any, inputs: dict[str, Any]) -> dict[str, Any]:
        latents = draw_latents(inputs["seed"], contract.latents, length)
        return _pictures(contract, generator(latents, training=False), kind)

    return Signature({"seed": TensorSpec("seed", ("batch",), "int64")}, _outputs(contract, length, kind), compute)


def _pictures(contract: Contract, outputs: dict[str, Any], kind: str) -> dict[str, Any]:
    """The outputs that the contract names: VGAN's generator also gives the layers of its clips."""
    outputs = {name: outputs[name] for name in contract.outputs}
    if kind:
        name, convert = _PICTURES[kind]
        outputs[name] = convert(outputs.pop("video"))
    return outputs


def _outputs(contract: Contract, length: int | str, kind: str) -> dict[str, TensorSpec]:
    video = contract.outputs["video"]
    if kind == "uint8":
        video = contract.video("video_uint8", "uint8")
    elif kind == "png":
        video = TensorSpec("png_bytes", ("batch", contract.length), "string")
    others = {name: spec for name, spec in contract.outputs.items() if name != "video"}
    return {video.name: _with_length(video, length), **others}


def _with_length(spec: TensorSpec, length: int | str) -> TensorSpec:
    return dataclasses.replace(spec, shape=tuple(length if size == "time" else size for size in spec.shape))


def _tensor_spec(spec: TensorSpec) -> tf.TensorSpec:
    shape = [None if isinstance(size, str) else size for size in spec.shape]
    return tf.TensorSpec(shape, spec.dtype, name=spec.name)


def _bind(generator: Any, signature: Signature) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def endpoint(inputs: dict[str, Any]) -> dict[str, Any]:
        return signature.compute(generator, inputs)

    return endpoint
