"""Small, valid bundles for the tests: ONNX graphs built by hand from a seed, no training and no TensorFlow.

The graphs have the shape of an exported generator: a GRU node for motion, a dense layer, transposed convolutions, tanh.
`python -m tests.support.made_bundles OUT --ngf=64 --image_size=64` writes the one that the load measurements use.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import pathlib

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from mocogan_tf.latents import LatentSpec, sample_latents
from mocogan_tf.video import POSTPROCESS, from_uint8

FLOAT = TensorProto.FLOAT
POSE_SCALE = 0.1


@dataclasses.dataclass(frozen=True)
class BundleSpec:
    """What the made-up generator looks like; the defaults are small enough for a test."""

    name: str = "tiny"
    version: int = 1
    dim_content: int = 6
    dim_motion: int = 4
    categories: tuple[str, ...] = ("wave", "push", "kick")
    category_to: str = "motion"
    image_size: int = 16
    channels: int = 3
    ngf: int = 4
    fps: float = 8.0
    video_length: int = 16
    weight_seed: int = 0
    painted: bool = False
    pictures: int = 0  # Above 0: content comes from pictures, and a seed chooses from so many.

    @property
    def dim_category(self) -> int:
        return len(self.categories)


class GraphBuilder:
    """Collects nodes and random weights; the weights depend on `spec.weight_seed` and the order of the calls only."""

    def __init__(self, spec: BundleSpec) -> None:
        self.spec = spec
        self.rng = np.random.default_rng(spec.weight_seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def constant(self, name: str, value: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def normal(self, name: str, shape: tuple[int, ...], scale: float) -> str:
        return self.constant(name, (self.rng.standard_normal(shape) * scale).astype(np.float32))

    def node(self, op: str, inputs: list[str], outputs: list[str], **attributes) -> str:
        self.nodes.append(helper.make_node(op, inputs, outputs, name=f"{op}_{len(self.nodes)}", **attributes))
        return outputs[0]

    def over_time(self, name: str, like: str, size: int) -> str:
        """`[batch, size]` to `[batch, time, size]`, with batch and time of `like`."""
        result = f"{name}_over_{like}"  # The whole model may spread one code over the noise and over the motion.
        shape = self.node("Shape", [like], [f"{result}_shape"], start=0, end=2)
        last = self.constant(f"{result}_size", np.array([size], np.int64))
        full = self.node("Concat", [shape, last], [f"{result}_full"], axis=0)
        axis = self.constant(f"{result}_axis", np.array([1], np.int64))
        column = self.node("Unsqueeze", [name, axis], [f"{result}_column"])
        return self.node("Expand", [column, full], [result])

    def motion(self) -> None:
        """`motion_init`, `motion_noise`, maybe `category` to `motion` [batch, time, dim_motion] and `motion_state`."""
        spec, hidden = self.spec, self.spec.dim_motion
        inputs, size = "motion_noise", hidden
        if spec.dim_category and spec.category_to != "image":
            category = self.over_time("category", "motion_noise", spec.dim_category)
            inputs = self.node("Concat", ["motion_noise", category], ["motion_input"], axis=2)
            size += spec.dim_category
        w = self.normal("gru_w", (1, 3 * hidden, size), 0.7)
        r = self.normal("gru_r", (1, 3 * hidden, hidden), 0.7)
        b = self.normal("gru_b", (1, 6 * hidden), 0.1)
        x = self.node("Transpose", [inputs], ["gru_x"], perm=[1, 0, 2])
        first = self.constant("gru_first", np.array([0], np.int64))
        start, state = "motion_init", "motion_state"
        if spec.pictures:
            edges = {"pose_from": 0, "pose_to": hidden, "pose_axis": 1}
            for name, value in edges.items():
                self.constant(name, np.array([value], np.int64))
            self.constant("init_scale", np.array([POSE_SCALE], np.float32))
            pose = self.node("Tanh", [self.node("Slice", ["content", *edges], ["pose_code"])], ["pose"])
            start = self.node("Add", [pose, self.node("Mul", ["motion_init", "init_scale"], ["small"])], ["start"])
            state = "gru_state"
        h0 = self.node("Unsqueeze", [start, first], ["gru_h0"])
        self.node("GRU", [x, w, r, b, "", h0], ["gru_y", "gru_yh"], hidden_size=hidden, linear_before_reset=1)
        second = self.constant("gru_second", np.array([1], np.int64))
        y = self.node("Squeeze", ["gru_y", second], ["gru_squeezed"])
        self.node("Transpose", [y], ["motion"], perm=[1, 0, 2])
        self.node("Squeeze", ["gru_yh", first], [state])
        if spec.pictures:
            self.node("Div", [self.node("Sub", [state, "pose"], ["moved"]), "init_scale"], ["motion_state"])

    def encoder(self) -> None:
        """`image` [batch, H, W, C] to `content`, a linear map."""
        spec = self.spec
        size = spec.image_size**2 * spec.channels
        weight = self.normal("encoder", (size, spec.dim_content), 2 / np.sqrt(size))
        flat = self.node("Reshape", ["image", self.constant("flat", np.array([-1, size], np.int64))], ["flat_image"])
        self.node("MatMul", [flat, weight], ["content"])

    def frames(self) -> None:
        """`content`, `motion`, maybe `category` to `video` [batch, time, H, W, C] in [-1, 1]."""
        spec = self.spec
        parts, size = [self.over_time("content", "motion", spec.dim_content), "motion"], spec.dim_content
        size += spec.dim_motion
        if spec.dim_category and spec.category_to != "motion":
            parts.insert(1, self.over_time("category", "motion", spec.dim_category))
            size += spec.dim_category
        z = self.node("Concat", parts, ["z"], axis=2)
        rows = self.constant("rows", np.array([-1, size], np.int64))
        z = self.node("Reshape", [z, rows], ["z_rows"])
        x = self.paint(z, size) if spec.painted else self.deconvolve(z, size)
        leading = self.node("Shape", ["motion"], ["leading"], start=0, end=2)
        picture = self.constant("picture", np.array([spec.image_size, spec.image_size, spec.channels], np.int64))
        full = self.node("Concat", [leading, picture], ["video_shape"], axis=0)
        self.node("Reshape", [x, full], ["video"])

    def deconvolve(self, z: str, size: int) -> str:
        """Rows `[N, size]` to pictures `[N, H, W, C]` with the layers of a trained generator."""
        spec = self.spec
        ups = int(np.log2(spec.image_size // 4))
        filters = spec.ngf * 2 ** (ups - 1)
        dense = self.normal("dense", (size, filters * 16), 1.5 / np.sqrt(size))
        x = self.node("MatMul", [z, dense], ["dense_out"])
        x = self.node("Reshape", [x, self.constant("square", np.array([-1, filters, 4, 4], np.int64))], ["square_out"])
        x = self.node("Relu", [x], ["relu_in"])
        for i in range(ups):
            last = i == ups - 1
            out = spec.channels if last else filters // 2
            kernel = self.normal(f"kernel_{i}", (filters, out, 4, 4), 0.9 / np.sqrt(filters * 4))
            bias = self.normal(f"bias_{i}", (out,), 0.05)
            attributes = {"kernel_shape": [4, 4], "strides": [2, 2], "pads": [1, 1, 1, 1]}
            x = self.node("ConvTranspose", [x, kernel, bias], [f"up_{i}"], **attributes)
            x = self.node("Tanh" if last else "Relu", [x], [f"act_{i}"])
            filters = out
        return self.node("Transpose", [x], ["nhwc"], perm=[0, 2, 3, 1])

    def paint(self, z: str, size: int) -> str:
        """Rows `[N, size]` to pictures of soft balls: content colours them, motion moves them. Nice to look at."""
        spec, side = self.spec, self.spec.image_size
        line = np.linspace(-1, 1, side, dtype=np.float32)
        self.constant("x_axis", line.reshape(1, 1, side, 1))
        y_axis = self.constant("y_axis", line.reshape(1, side, 1, 1))
        moving = np.r_[np.zeros(size - spec.dim_motion), np.ones(spec.dim_motion)][:, None]
        still = np.r_[np.ones(spec.dim_content), np.zeros(size - spec.dim_content)][:, None] / np.sqrt(spec.dim_content)
        column = self.constant("column", np.array([-1, 1, 1, 1], np.int64))
        colours = self.constant("colours", np.array([-1, 1, 1, spec.channels], np.int64))

        def read(name: str, mask: np.ndarray, width: int, scale: float, shape: str) -> str:
            weights = self.constant(f"{name}_w", (self.rng.standard_normal((size, width)) * mask * scale).astype("f"))
            product = self.node("MatMul", [z, weights], [f"{name}_product"])
            squashed = self.node("Tanh", [product], [f"{name}_tanh"])
            return self.node("Reshape", [squashed, shape], [name])

        def scaled(name: str, value: str, factor: float, offset: float = 0.0) -> str:
            times = self.node("Mul", [value, self.constant(f"{name}_k", np.float32([factor]))], [f"{name}_times"])
            return self.node("Add", [times, self.constant(f"{name}_o", np.float32([offset]))], [f"{name}_scaled"])

        night = scaled("night", read("ground", still, spec.channels, 1.5, colours), 0.25, -0.6)
        glow = self.node("Mul", [night, scaled("height", y_axis, 0.35, 0.8)], ["sky"])
        shape = self.constant("sky_shape", np.array([1, side, side, 1], np.int64))
        picture = self.node("Expand", [glow, shape], ["picture_0"])
        for ball in range(3):
            gaps = []
            for axis in ("x", "y"):
                at = scaled(f"{axis}{ball}_at", read(f"{axis}{ball}", moving, 1, 1.4, column), 0.65)
                gap = self.node("Sub", [f"{axis}_axis", at], [f"{axis}{ball}_gap"])
                gaps.append(self.node("Mul", [gap, gap], [f"{axis}{ball}_square"]))
            distance = self.node("Add", gaps, [f"distance_{ball}"])
            radius = scaled(f"radius_{ball}", read(f"r{ball}", still, 1, 1.5, column), 0.05, 0.11)
            inside = self.node("Sub", [radius, distance], [f"inside_{ball}"])
            soft = self.node("Sigmoid", [scaled(f"edge_{ball}", inside, 60.0)], [f"soft_{ball}"])
            colour = read(f"colour_{ball}", still, spec.channels, 3.0, colours)
            paint = self.node("Sub", [colour, f"picture_{ball}"], [f"paint_{ball}"])
            layer = self.node("Mul", [soft, paint], [f"layer_{ball}"])
            picture = self.node("Add", [f"picture_{ball}", layer], [f"picture_{ball + 1}"])
        return picture

    def model(self, inputs: list[str], outputs: list[str], metadata: dict[str, str]) -> onnx.ModelProto:
        size = self.spec.image_size
        shapes: dict[str, list[int | str]] = {
            "content": ["batch", self.spec.dim_content],
            "category": ["batch", self.spec.dim_category],
            "motion_init": ["batch", self.spec.dim_motion],
            "motion_noise": ["batch", "time", self.spec.dim_motion],
            "motion": ["batch", "time", self.spec.dim_motion],
            "motion_state": ["batch", self.spec.dim_motion],
            "video": ["batch", "time", size, size, self.spec.channels],
            "image": ["batch", size, size, self.spec.channels],
        }
        values = {name: helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in shapes.items()}
        graph = helper.make_graph(
            self.nodes, "mocogan", [values[n] for n in inputs], [values[n] for n in outputs], self.weights
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        helper.set_model_props(model, metadata)
        onnx.checker.check_model(model, full_check=True)
        return model


def manifest(spec: BundleSpec) -> dict[str, object]:
    """The contents of `bundle.json`."""
    drawn = "encoded" if spec.pictures else "standard_normal"
    inputs = [{"name": "content", "shape": ["batch", spec.dim_content], "distribution": drawn}]
    if spec.dim_category:
        inputs.append({"name": "category", "shape": ["batch", spec.dim_category], "distribution": "one_hot"})
    inputs.append({"name": "motion_init", "shape": ["batch", spec.dim_motion], "distribution": "standard_normal"})
    shape = ["batch", "time", spec.dim_motion]
    inputs.append({"name": "motion_noise", "shape": shape, "distribution": "standard_normal"})
    size, channels = spec.image_size, spec.channels
    return {
        "format_version": 2 if spec.pictures else 1,
        "name": spec.name,
        "version": spec.version,
        "model": "mocogan",
        "dim_content": spec.dim_content,
        "dim_category": spec.dim_category,
        "dim_motion": spec.dim_motion,
        "category_to": spec.category_to,
        **({"content_from": "pictures"} if spec.pictures else {}),
        "categories": list(spec.categories),
        "fps": spec.fps,
        "image_size": size,
        "height": size,
        "width": size,
        "channels": channels,
        "video_length": spec.video_length,
        "frame_buckets": [spec.video_length, 2 * spec.video_length],
        "value_range": [-1.0, 1.0],
        "layout": "BTHWC",
        "postprocess": POSTPROCESS,
        "files": {
            "onnx": "model.onnx",
            "motion": "motion.onnx",
            "frames": "frames.onnx",
            "golden": "golden.npz",
            **({"encode": "encode.onnx", "contents": "contents.npz"} if spec.pictures else {}),
        },  # fmt: skip
        "inputs": [{**entry, "dtype": "float32"} for entry in inputs],
        "outputs": [
            {"name": "video", "shape": ["batch", "time", size, size, channels], "dtype": "float32"},
            {"name": "motion_state", "shape": ["batch", spec.dim_motion], "dtype": "float32"},
        ],
        "provenance": {"made_by": "tests/support/made_bundles.py", "weight_seed": spec.weight_seed},
    }


def write_pictures(folder: pathlib.Path, spec: BundleSpec) -> np.ndarray | None:
    """Writes `encode.onnx` and `contents.npz`, and returns the contents, where content comes from pictures."""
    if not spec.pictures:
        return None
    encoder = GraphBuilder(dataclasses.replace(spec, weight_seed=spec.weight_seed + 1))
    encoder.encoder()
    size = spec.image_size
    model = encoder.model(["image"], ["content"], {})
    (folder / "encode.onnx").write_bytes(model.SerializeToString())
    rng = np.random.default_rng(spec.weight_seed)
    pictures = rng.integers(0, 256, (spec.pictures, size, size, spec.channels), np.uint8)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    contents = session.run(["content"], {"image": from_uint8(pictures)})[0]
    np.savez_compressed(folder / "contents.npz", pictures=pictures, contents=contents)
    return contents


def write_bundle(folder: pathlib.Path, spec: BundleSpec | None = None) -> pathlib.Path:
    """Writes a whole bundle into `folder` (made if missing) and returns it."""
    spec = spec or BundleSpec()
    folder.mkdir(parents=True, exist_ok=True)
    facts = manifest(spec)
    metadata = {key: json.dumps(value) for key, value in facts.items() if key not in ("inputs", "outputs", "files")}
    category = ["category"] if spec.dim_category else []
    to_motion, to_image = (category if spec.category_to in (place, "both") else [] for place in ("motion", "image"))

    motion, frames, whole = GraphBuilder(spec), GraphBuilder(spec), GraphBuilder(spec)
    motion.motion()
    for builder in (frames, whole):
        builder.rng = np.random.default_rng([spec.weight_seed, 1])
        builder.frames()
    whole.rng = np.random.default_rng(spec.weight_seed)
    later, whole.nodes = whole.nodes, []
    whole.motion()
    whole.nodes += later
    for index, node in enumerate(whole.nodes):
        node.name = f"node_{index}"
    models = {
        "motion.onnx": motion.model(
            [*(["content"] if spec.pictures else []), "motion_init", "motion_noise", *to_motion],
            ["motion", "motion_state"],
            metadata,
        ),
        "frames.onnx": frames.model(["content", *to_image, "motion"], ["video"], metadata),
        "model.onnx": whole.model(
            ["content", *category, "motion_init", "motion_noise"], ["video", "motion_state"], metadata
        ),
    }
    for name, model in models.items():
        (folder / name).write_bytes(model.SerializeToString())
    latent_spec = LatentSpec(
        spec.dim_content, spec.dim_motion, spec.dim_category, "pictures" if spec.pictures else "noise"
    )
    latents = sample_latents(latent_spec, 2, 8, seed=7, contents=write_pictures(folder, spec))
    session = ort.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    video, state = session.run(["video", "motion_state"], latents)
    np.savez(folder / "golden.npz", seed=7, **latents, video=video, motion_state=state)
    (folder / "bundle.json").write_text(json.dumps(facts, indent=1))
    (folder / "MODEL_CARD.md").write_text("# A made-up model\n\nRandom weights, for tests.\n")
    names = sorted(path.name for path in folder.iterdir() if path.name != "SHA256SUMS")
    sums = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (folder / "SHA256SUMS").write_text("".join(sums))
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--ngf", type=int, default=64)
    parser.add_argument("--image_size", type=int, default=64)
    parser.add_argument("--painted", action="store_true", help="soft balls, to look at the studio with")
    flags = parser.parse_args()
    spec = BundleSpec(
        "painted" if flags.painted else "random64",
        dim_content=50,
        dim_motion=10,
        ngf=flags.ngf,
        image_size=flags.image_size,
        painted=flags.painted,
    )
    print(write_bundle(flags.out, spec))


if __name__ == "__main__":
    main()
