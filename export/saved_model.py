"""The generator as a SavedModel that TensorFlow Serving can load: signatures, the draw from a seed, warm-up records.

Neither `model.export` of Keras 3 nor `tf.saved_model.save` will do. The first stores every weight twice and fixes the
clip length; the second writes a folder that loads in Python but not in a session. `ExportArchive` with endpoints and no
tracked layer avoids both.
"""

from __future__ import annotations

import dataclasses
import pathlib
import types
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from export.contract import BATCH_SIZES, Contract, TensorSpec
from mocogan_tf import latents
from mocogan_tf.latents import CodeSpec, LatentSpec
from mocogan_tf.video import from_uint8

Array = NDArray[Any]

_WARMUP_FILE = pathlib.PurePath("assets.extra/tf_serving_warmup_requests")


@dataclasses.dataclass(frozen=True)
class Signature:
    """One entry point of the SavedModel.

    Args:
        inputs, outputs: Tensors by name. A clip length is free where the shape says "time".
        compute: Function from the generator and a dict of input tensors to a dict of output tensors.
    """

    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]
    compute: Callable[[Any, dict[str, Any]], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Pictures:
    """What a seed chooses from, where content comes from pictures.

    Args:
        pictures: uint8 `[N, H, W, C]`.
        contents: The same, encoded: float32 `[N, dim_content]`.
    """

    pictures: Array
    contents: Array

    @classmethod
    def read(cls, path: pathlib.Path) -> Pictures:
        """Reads contents.npz."""
        with np.load(path) as file:
            return cls(file["pictures"], file["contents"])


def signatures(contract: Contract, pictures: Pictures | None = None) -> dict[str, Signature]:
    """Returns the SavedModel's signatures by name; docs/bundle.md describes them for clients.

    Args:
        contract: The generator's contract.
        pictures: Where content comes from pictures; without them a seed's signatures cannot be computed.
    """
    trained = contract.video_length
    lengths = sorted({trained, *contract.frame_buckets})
    table = {"serving_default": _generate(contract, trained), "generate": _generate(contract, "time")}
    table |= {f"generate_{length}": _generate(contract, length) for length in lengths}
    if "motion_state" in contract.outputs:
        table["continue"] = _continue(contract)
    table |= {f"generate_{kind}": _generate(contract, "time", kind) for kind in _FORMS}
    table["seed"] = _seed(contract, trained, pictures)
    table |= {f"seed_{kind}": _seed(contract, trained, pictures, kind) for kind in _FORMS}
    if contract.content_from == "pictures":
        table["encode"] = _encode(contract)
        table["animate"] = _animate(contract)
        table["animate_png"] = _animate(contract, "png")
    return table


def write_saved_model(
    generator: Any, contract: Contract, folder: pathlib.Path, pictures: Pictures | None = None
) -> None:
    """Writes the generator with all signatures.

    Args:
        generator: Keras model with the weights to export.
        contract: The generator's contract.
        folder: Folder of this version, `.../saved_model/<version>`.
        pictures: As of `signatures`.
    """
    archive = keras.export.ExportArchive()
    for name, signature in signatures(contract, pictures).items():
        specs = {key: _tensor_spec(spec) for key, spec in signature.inputs.items()}
        archive.add_endpoint(name, _bind(generator, signature), input_signature=[specs])
    archive.write_out(str(folder), verbose=False)


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


_FORMS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "uint8": ("video_uint8", to_pixels),
    "png": ("png_bytes", to_png),  # TensorFlow Serving's REST API gives outputs named *_bytes as base64.
}


def _generate(contract: Contract, length: int | str, kind: str = "") -> Signature:
    """Takes latents of one clip length, or of any; `kind` chooses another form of the pictures."""

    def compute(generator: Any, inputs: dict[str, Any]) -> dict[str, Any]:
        return _in_form(contract, generator(inputs, training=False), kind)

    inputs = {name: _with_length(spec, length) for name, spec in contract.inputs.items()}
    return Signature(inputs, _outputs(contract, length, kind), compute)


def _continue(contract: Contract) -> Signature:
    """Takes the state under the name that the outputs give it, so that an answer's state is the next request's."""

    def compute(generator: Any, inputs: dict[str, Any]) -> dict[str, Any]:
        renamed = {("motion_init" if name == "motion_state" else name): value for name, value in inputs.items()}
        return dict(generator(renamed, training=False))

    inputs = {name: spec for name, spec in contract.inputs.items() if name != "motion_init"}
    return Signature(inputs | {"motion_state": contract.motion_state}, _outputs(contract, "time", ""), compute)


def _encode(contract: Contract) -> Signature:
    """Takes pictures and gives the contents of their clips, for the other signatures."""

    def compute(generator: Any, inputs: dict[str, Any]) -> dict[str, Any]:
        return {"content": generator.encoder(inputs["image"], training=False)}

    return Signature({"image": contract.image}, {"content": contract.content}, compute)


def _animate(contract: Contract, kind: str = "") -> Signature:
    """Takes latents of any clip length, with a picture in place of the content."""

    def compute(generator: Any, inputs: dict[str, Any]) -> dict[str, Any]:
        latents = {name: value for name, value in inputs.items() if name != "image"}
        latents["content"] = generator.encoder(inputs["image"], training=False)
        return _in_form(contract, generator(latents, training=False), kind)

    inputs = {name: spec for name, spec in contract.inputs.items() if name != "content"}
    return Signature({"image": contract.image, **inputs}, _outputs(contract, "time", kind), compute)


def _seed(contract: Contract, length: int, pictures: Pictures | None, kind: str = "") -> Signature:
    """Takes one integer and gives the clip of that seed: the graph draws the latents."""

    def compute(generator: Any, inputs: dict[str, Any]) -> dict[str, Any]:
        drawn = draw_latents(inputs["seed"], contract.latents, length, pictures.contents if pictures else None)
        return _in_form(contract, generator(drawn, training=False), kind)

    return Signature({"seed": TensorSpec("seed", ("batch",), "int64")}, _outputs(contract, length, kind), compute)


def _in_form(contract: Contract, outputs: dict[str, Any], kind: str) -> dict[str, Any]:
    """Keeps the outputs that the contract names: VGAN's generator also gives the layers of its clips."""
    outputs = {name: outputs[name] for name in contract.outputs}
    if kind:
        name, convert = _FORMS[kind]
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


# The draw from a seed: `mocogan_tf.latents` as TensorFlow operations. The words are Philox4x32-10's bit for bit. They
# are int64, for which every server has kernels: products wrap around, and only their low and high 32 bits are used.
_MASK = 0xFFFFFFFF


def draw_latents(
    seeds: Any, spec: LatentSpec | CodeSpec, num_frames: int, contents: Array | None = None
) -> dict[str, Any]:
    """Draws the first clip of each seed in a graph, as `sample_latents(spec, 1, num_frames, seed=seed)` does.

    Args:
        seeds: int64 `[B]`; a seed of 2^63 or more is given as itself minus 2^64.
        spec: Sizes of the latents.
        num_frames: Frames per clip, T.
        contents: As of `sample_latents`.

    Returns:
        dict of float32 tensors: `content` [B, dim_content], `motion_init` [B, dim_motion], `motion_noise`
        [B, T, dim_motion] and, if there are categories, one-hot `category` [B, dim_category]. For a `CodeSpec`: `z`
        [B, dim_z].
    """
    if isinstance(spec, CodeSpec):
        blocks = _counters(latents.STREAM_CODE, spec.dim_z)
        words = tf.reshape(philox4x32(blocks, seeds), (tf.size(seeds), blocks.size))  # Four per counter.
        draw = _uniforms if spec.distribution == "uniform" else _normals
        return {"z": draw(words)[:, : spec.dim_z]}
    streams = {
        "content": (latents.STREAM_CONTENT, (spec.dim_content if contents is None else 1,)),
        "motion_init": (latents.STREAM_MOTION_INIT, (spec.dim_motion,)),
        "motion_noise": (latents.STREAM_MOTION_NOISE, (num_frames, spec.dim_motion)),
    }
    sizes = {name: int(np.prod(shape)) for name, (_, shape) in streams.items()}
    counters = {name: _counters(stream, sizes[name]) for name, (stream, _) in streams.items()}
    if spec.dim_category:
        counters["category"] = _counters(latents.STREAM_CATEGORY, 1)
    # All streams in one pass, since the rounds are unrolled in the graph.
    words = philox4x32(np.concatenate(list(counters.values())), seeds)
    parts = tf.split(words, [len(counter) for counter in counters.values()], axis=1)
    of_stream = {name: tf.reshape(part, (tf.size(seeds), -1)) for name, part in zip(counters, parts, strict=True)}
    drawn = {}
    for name, (_, shape) in streams.items():
        drawn[name] = tf.reshape(_normals(of_stream[name])[:, : sizes[name]], (-1, *shape))
    if spec.dim_category:
        chosen = of_stream["category"][:, 0] % spec.dim_category
        drawn["category"] = tf.one_hot(chosen, spec.dim_category, dtype=tf.float32)
    if contents is not None:
        drawn["content"] = tf.gather(tf.constant(contents), of_stream["content"][:, 0] % len(contents))
    return drawn


def philox4x32(counters: NDArray[np.int64], seeds: Any) -> Any:
    """Philox4x32 with ten rounds, as `mocogan_tf.latents.philox4x32`, under the key of each seed.

    Args:
        counters: `[N, 4]`, words in [0, 2^32).
        seeds: int64 `[B]`.

    Returns:
        int64 `[B, N, 4]`, words in [0, 2^32).
    """
    zero = tf.zeros((tf.size(seeds), len(counters)), tf.int64)
    x0, x1, x2, x3 = (zero + counters[:, i] for i in range(4))
    k0, k1 = seeds[:, None] & _MASK, _high(seeds[:, None])
    for _ in range(10):
        product0, product1 = x0 * int(latents.MULTIPLIERS[0]), x2 * int(latents.MULTIPLIERS[1])
        x0, x1, x2, x3 = _high(product1) ^ x1 ^ k0, product1 & _MASK, _high(product0) ^ x3 ^ k1, product0 & _MASK
        k0, k1 = (k0 + latents.WEYL[0]) & _MASK, (k1 + latents.WEYL[1]) & _MASK
    return tf.stack([x0, x1, x2, x3], axis=-1)


def _counters(stream: int, size: int) -> NDArray[np.int64]:
    """Counters of the blocks that hold a stream's first `size` numbers, for clip 0: `[N, 4]`."""
    counters = np.zeros((-(-size // 4), 4), np.int64)
    counters[:, 0] = np.arange(len(counters))
    counters[:, 2] = stream
    return counters


def _high(x: Any) -> Any:
    return tf.bitwise.right_shift(x, tf.constant(32, tf.int64)) & _MASK


def _normals(words: Any) -> Any:
    """Box-Muller on pairs of words: int64 `[B, 2 N]` to float32 `[B, 2 N]`."""
    pairs = (tf.cast(tf.reshape(words, (tf.shape(words)[0], -1, 2)), tf.float64) + 0.5) / 2.0**32
    radius, angle = tf.sqrt(-2.0 * tf.math.log(pairs[..., 0])), 2.0 * np.pi * pairs[..., 1]
    normals = tf.stack([radius * tf.cos(angle), radius * tf.sin(angle)], axis=-1)
    return tf.cast(tf.reshape(normals, tf.shape(words)), tf.float32)


def _uniforms(words: Any) -> Any:
    """Numbers on (-1, 1), one per word: int64 `[B, N]` to float32 `[B, N]`."""
    return tf.cast(2.0 * (tf.cast(words, tf.float64) + 0.5) / 2.0**32 - 1.0, tf.float32)


def sample_inputs(
    inputs: dict[str, TensorSpec], contract: Contract, num_videos: int, seed: int, pictures: Pictures | None = None
) -> dict[str, Array]:
    """Draws a request for one signature; where the clip length is free, clips have the trained one.

    Args:
        inputs: The signature's inputs.
        contract: The bundle's contract.
        num_videos: Clips, B.
        seed: Seed of the latents. A signature that takes seeds gets `seed`, `seed + 1`, ...
        pictures: As of `signatures`; a signature that takes pictures gets these in turn.
    """
    if "seed" in inputs:
        return {"seed": np.arange(seed, seed + num_videos, dtype=np.int64)}
    length = inputs["motion_noise"].shape[1] if "motion_noise" in inputs else contract.length
    num_frames = length if isinstance(length, int) else contract.video_length
    contents = pictures.contents if pictures else None
    drawn: dict[str, Array] = dict(
        latents.sample_latents(contract.latents, num_videos, num_frames, seed=seed, contents=contents)
    )
    if "motion_state" in inputs:
        drawn["motion_state"] = drawn.pop("motion_init")
    if "image" in inputs and pictures:
        drawn["image"] = from_uint8(pictures.pictures[np.arange(seed, seed + num_videos) % len(pictures.pictures)])
    return {name: drawn[name] for name in inputs}


def write_warmup(contract: Contract, folder: pathlib.Path, pictures: Pictures | None = None) -> None:
    """Writes the requests that TensorFlow Serving runs before it calls a version available.

    There is one record per signature and allowed batch size.

    Args:
        contract: The bundle's contract.
        folder: The SavedModel's version folder.
        pictures: As of `signatures`.
    """
    path = folder / _WARMUP_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for name, signature in signatures(contract).items():
            for num_videos in BATCH_SIZES:
                request = predict_pb2.PredictRequest()
                request.model_spec.name = contract.name
                request.model_spec.signature_name = name
                for key, value in sample_inputs(
                    signature.inputs, contract, num_videos, seed=0, pictures=pictures
                ).items():
                    request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
                log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
                writer.write(log.SerializeToString())


def read_warmup(folder: pathlib.Path) -> list[tuple[str, dict[str, Array]]]:
    """Returns the records of a version folder as (signature, inputs)."""
    records = []
    for serialized in tf.data.TFRecordDataset(str(folder / _WARMUP_FILE)):
        request = prediction_log_pb2.PredictionLog.FromString(serialized.numpy()).predict_log.request
        inputs = {name: tf.make_ndarray(value) for name, value in request.inputs.items()}
        records.append((request.model_spec.signature_name, inputs))
    return records


class Session:
    """A SavedModel in a session, as TensorFlow Serving runs it.

    `tf.saved_model.load` takes another path and accepts folders that no server can load, so it proves nothing about
    serving.

    Args:
        folder: Folder of one version, with `saved_model.pb`.

    Raises:
        ValueError: TensorFlow refuses the folder; the message is TensorFlow's.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self._session = tf.compat.v1.Session(graph=tf.Graph())
        logger = tf.get_logger()
        level = logger.level
        logger.setLevel("ERROR")  # It warns that Python has a newer loader, which is the one not wanted here.
        try:
            meta_graph = tf.compat.v1.saved_model.load(self._session, ["serve"], str(folder))
        except (tf.errors.OpError, OSError, RuntimeError, ValueError) as error:
            self._session.close()
            raise ValueError(f"TensorFlow's session cannot load {folder}: {error}") from error
        finally:
            logger.setLevel(level)
        self.signatures = dict(meta_graph.signature_def)

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        self._session.close()

    def run(self, signature: str, inputs: dict[str, Array]) -> dict[str, Array]:
        """Runs one signature.

        Args:
            signature: The signature's key.
            inputs: Arrays by the signature's input names.

        Returns:
            Arrays by the signature's output names; strings as arrays of `bytes`.

        Raises:
            ValueError: A name is unknown or missing, or TensorFlow reports an error.
        """
        if signature not in self.signatures:
            raise ValueError(f"No signature {signature!r}. There are: {', '.join(sorted(self.signatures))}.")
        described = self.signatures[signature]
        if set(inputs) != set(described.inputs):
            raise ValueError(f"{signature} takes {', '.join(sorted(described.inputs))}. Received: {', '.join(inputs)}")
        outputs = {name: info.name for name, info in described.outputs.items()}
        feeds = {described.inputs[name].name: value for name, value in inputs.items()}
        try:
            found: dict[str, Array] = self._session.run(outputs, feeds)
        except (tf.errors.OpError, ValueError) as error:
            message = " ".join(str(error).split())
            raise ValueError(f"TensorFlow's session signature {signature} fails: {message}") from error
        return found
