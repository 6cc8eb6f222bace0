"""Models for the tests: the trained one, a grey one without categories, and one that shows the latents it was given."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from export.contract import Contract
from mocogan_tf.latents import LatentSpec, sample_latents
from tests.support.made_bundles import BundleSpec, write_bundle

ROOT = pathlib.Path(__file__).parents[2]
TAICHI = ROOT / "pretrained" / "taichi"


def metadata_of(model: onnx.ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


def with_metadata(path: pathlib.Path, out: pathlib.Path, change: Callable[[dict[str, str]], object]) -> pathlib.Path:
    """Writes a copy of a model whose metadata `change` has changed in place."""
    model = onnx.load(path)
    metadata = metadata_of(model)
    change(metadata)
    del model.metadata_props[:]
    helper.set_model_props(model, metadata)
    onnx.save(model, out)
    return out


def grey(folder: pathlib.Path) -> pathlib.Path:
    """Writes a small model with random weights, one channel, no categories and odd sizes."""
    spec = BundleSpec("grey", dim_content=5, dim_motion=3, categories=(), channels=1, image_size=16, video_length=7)
    write_bundle(folder, spec)
    return with_metadata(folder / "model.onnx", folder / "model.onnx", lambda found: found.update(contract(spec)))


def contract(spec: BundleSpec) -> dict[str, str]:
    """Returns the metadata that the export would write."""
    return Contract(
        name=spec.name,
        version=spec.version,
        model="mocogan",
        dim_content=spec.dim_content,
        dim_category=spec.dim_category,
        dim_motion=spec.dim_motion,
        category_to=spec.category_to,
        categories=spec.categories,
        fps=spec.fps,
        image_size=spec.image_size,
        channels=spec.channels,
        video_length=spec.video_length,
        frame_buckets=(spec.video_length,),
    ).metadata()


def mirror(path: pathlib.Path) -> pathlib.Path:
    """Writes a model whose frames, one pixel high, show its inputs: content, category, motion_init, the frame's noise.

    Its `motion_state` is the last noise, so from the second piece on, frames also show whether the state was passed on.
    """
    spec = BundleSpec("mirror", dim_content=6, dim_motion=5, categories=("a", "b", "c"), channels=1, video_length=4)
    width = spec.dim_content + spec.dim_category + 2 * spec.dim_motion
    sizes = {"content": spec.dim_content, "category": spec.dim_category, "motion_init": spec.dim_motion}
    constants = {"one": [1], "last": [-1], "end": [2**31], "frame": [1, width, 1], "time": [1]}
    nodes = [helper.make_node("Shape", ["motion_noise"], ["batch_time"], start=0, end=2)]
    for name, size in sizes.items():
        constants[f"{name}_size"] = [size]
        nodes += [
            helper.make_node("Unsqueeze", [name, "one"], [f"{name}_1"]),
            helper.make_node("Concat", ["batch_time", f"{name}_size"], [f"{name}_shape"], axis=0),
            helper.make_node("Expand", [f"{name}_1", f"{name}_shape"], [f"{name}_t"]),
        ]
    nodes += [
        helper.make_node("Concat", [*(f"{name}_t" for name in sizes), "motion_noise"], ["row"], axis=2),
        helper.make_node("Concat", ["batch_time", "frame"], ["video_shape"], axis=0),
        helper.make_node("Reshape", ["row", "video_shape"], ["video"]),
        helper.make_node("Slice", ["motion_noise", "last", "end", "time"], ["last_noise"]),
        helper.make_node("Squeeze", ["last_noise", "one"], ["motion_state"]),
    ]
    shapes = {**sizes, "motion_noise": spec.dim_motion}
    inputs = [("batch", size) if name != "motion_noise" else ("batch", "time", size) for name, size in shapes.items()]
    graph = helper.make_graph(
        nodes,
        "mirror",
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in zip(shapes, inputs, strict=True)
        ],
        [
            helper.make_tensor_value_info("video", TensorProto.FLOAT, ("batch", "time", 1, width, 1)),
            helper.make_tensor_value_info("motion_state", TensorProto.FLOAT, ("batch", spec.dim_motion)),
        ],
        [onnx.numpy_helper.from_array(np.array(value, np.int64), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, contract(spec) | {"height": "1", "width": str(width)})
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


def reference(path: pathlib.Path, seed: int, frames: int, **draw: int) -> np.ndarray:
    """Makes the clip of a seed in one run of ONNX Runtime: float32 `[frames, H, W, C]`."""
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    spec = LatentSpec(*(int(metadata[name]) for name in ("dim_content", "dim_motion", "dim_category")))
    return session.run(["video"], sample_latents(spec, 1, frames, seed=seed, **draw))[0][0]


def pixels(video: np.ndarray) -> np.ndarray:
    """Turns float32 in [-1, 1] into uint8 `[T, H, W, 3]`, by a second copy of the contract's rule."""
    levels = np.clip(np.rint((video + np.float32(1)) * np.float32(127.5)), 0, 255).astype(np.uint8)
    return np.broadcast_to(levels, (*levels.shape[:-1], 3))
