"""The generator as ONNX: whole, and split into the motion network and the frame decoder.

tf2onnx converts the frame decoder, whatever Keras layers it has, and `export.fold` simplifies the result. The GRU is
written by hand: tf2onnx turns Keras 3's GRU into a `Loop`, which keeps ONNX Runtime from CUDA graphs and from cuDNN,
while ONNX's own `GRU` operator computes the same function.

Up to the sum in the decoder's first layer, values are time-major, as the GRU gives them. There, what is fixed over a
clip, `[B, N]`, adds to what moves, `[T, B, N]`, without being repeated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import tensorflow as tf
import tf2onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from export.contract import LAYOUT, Contract, TensorSpec
from export.fold import (
    Graph,
    fold_scale_and_shift,
    half_precision,
    join_products,
    merge_reshapes,
    project_first_map,
    rename,
    scale_channels_in_place,
    take_first_product,
    widen_products,
)
from mocogan_tf import __version__
from mocogan_tf.models.encoder import ContentLayout
from mocogan_tf.video import POSTPROCESS

OPSET = 17  # tf2onnx 1.17 is tested up to 18; nothing here needs more than 17, which more runtimes read.
IR_VERSION = 8

_DTYPES = {"float32": TensorProto.FLOAT, "uint8": TensorProto.UINT8}


def to_onnx(generator: Any, contract: Contract, *, uint8: bool = False) -> dict[str, onnx.ModelProto]:
    """Converts a generator.

    Args:
        generator: Keras model with the weights to export.
        contract: The generator's contract.
        uint8: Also make the variant that gives `video_uint8` instead of `video`.

    Returns:
        Models by their role in `bundle.json`: `onnx`, `onnx_fp16` and, on request, `onnx_uint8`; for MoCoGAN also
        `motion`, `frames` and `frames_fp16`, and `encode` where content comes from pictures.

    Raises:
        ValueError: The model's architecture has no ONNX builder, or a weight does not fit float16.
    """
    if contract.model not in BUILDERS:
        raise ValueError(f"No ONNX export for model={contract.model}. Known: {', '.join(sorted(BUILDERS))}.")
    return BUILDERS[contract.model](generator, contract, uint8)


def mocogan_models(generator: Any, contract: Contract, uint8: bool) -> dict[str, onnx.ModelProto]:
    """Builds MoCoGAN's models: a GRU over the noise, then the decoder on content and motion of every frame."""
    decoder = convert_decoder(generator.decoder, wide=contract.content_from == "pictures")
    background, fixed = None, [_clip_code(contract)]
    if generator.background is not None:
        code = "content" if generator.background.input_shape[-1] == contract.dim_content else _clip_code(contract)
        background, fixed = convert_background(generator.background, code), list(dict.fromkeys([*fixed, code]))
    motion = time_graph("motion_noise") + motion_graph(generator, contract) + clip_code_graph(contract)
    frames = frames_graph(decoder, contract, "motion/states", background)
    frames_alone = frames_graph(decoder, contract, "motion", background)
    # The GRU stays in float32: it costs next to nothing, and its state may be carried over any number of frames.
    half = half_precision(frames, "frames", [*fixed, "motion/states"], "video")
    half_alone = half_precision(frames_alone, "frames", [*fixed, "motion"], "video")
    before_frames = time_graph("motion") + clip_code_graph(contract)
    to_motion, to_frames = part_inputs(contract)
    video, state = contract.outputs["video"], contract.motion_state
    inputs = [*contract.inputs.values()]
    motion_inputs = [contract.inputs[name] for name in to_motion]
    frames_inputs = [*(contract.inputs[name] for name in to_frames), contract.motion]
    models = {
        "onnx": _model(motion + frames, "generator", inputs, [video, state], contract),
        "onnx_fp16": _model(motion + half, "generator_fp16", inputs, [video, state], contract),
        "motion": _model(motion, "motion", motion_inputs, [contract.motion, state], contract),
        "frames": _model(before_frames + frames_alone, "frames", frames_inputs, [video], contract),
        "frames_fp16": _model(before_frames + half_alone, "frames_fp16", frames_inputs, [video], contract),
    }
    if uint8:
        outputs = [contract.video("video_uint8", "uint8"), state]
        models["onnx_uint8"] = _model(motion + frames + pixels_graph(), "generator_uint8", inputs, outputs, contract)
    if contract.content_from == "pictures":
        encoder = convert_encoder(generator.encoder)
        models["encode"] = _model(encoder, "encoder", [contract.image], [contract.content], contract)
    return models


def vgan_models(generator: Any, contract: Contract, uint8: bool) -> dict[str, onnx.ModelProto]:
    """Builds VGAN's models; tf2onnx converts the whole generator."""
    whole = convert(lambda z: generator({"z": z}, training=False)["video"], contract.dim_z, "generator", "z", "video")
    return _code_models(whole, contract, uint8)


def tgan_models(generator: Any, contract: Contract, uint8: bool) -> dict[str, onnx.ModelProto]:
    """Builds TGAN's models: the temporal generator by hand, then the converted image generator for every frame."""
    decoder = convert_decoder(generator.decoder)
    return _code_models(temporal_graph(generator, contract, decoder), contract, uint8)


def _code_models(whole: Graph, contract: Contract, uint8: bool) -> dict[str, onnx.ModelProto]:
    """Makes the models of a generator with one code per clip, from its graph from `z` to `video`."""
    inputs, outputs = [contract.inputs["z"]], [contract.outputs["video"]]
    half = half_precision(whole, "generator", ["z"], "video")
    models = {
        "onnx": _model(whole, "generator", inputs, outputs, contract),
        "onnx_fp16": _model(half, "generator_fp16", inputs, outputs, contract),
    }
    if uint8:
        pixels = [contract.video("video_uint8", "uint8")]
        models["onnx_uint8"] = _model(whole + pixels_graph(), "generator_uint8", inputs, pixels, contract)
    return models


BUILDERS = {"mocogan": mocogan_models, "vgan": vgan_models, "tgan": tgan_models}


def part_inputs(contract: Contract) -> tuple[list[str], list[str]]:
    """Returns the names of the latents that motion.onnx takes, and of those that frames.onnx takes beside `motion`."""
    category = ["category"] if contract.dim_category else []
    to_motion = category if contract.category_to != "image" else []
    to_frames = category if contract.category_to != "motion" else []
    pose = ["content"] if contract.content_from == "pictures" else []
    return [*pose, *to_motion, "motion_init", "motion_noise"], ["content", *to_frames]


def time_graph(like: str) -> Graph:
    """Writes the length T of `like` `[B, T, E]`: `time/length` [T]."""
    return Graph(_named([helper.make_node("Shape", [like], ["time/length"], start=1, end=2)], "time"), {})


def motion_graph(generator: Any, contract: Contract) -> Graph:
    """Writes the motion network as one ONNX `GRU`: `motion_init`, `motion_noise` -> `motion`, `motion_state`.

    `motion/states` `[T, 1, B, dim_motion]` is `motion` as the `GRU` gives it; if contents are pictures, one frame
    later. Keras and ONNX order the gates alike (update, reset, candidate); `reset_after=True` is
    `linear_before_reset=1`.
    """
    cell = generator.motion.cell
    if not cell.reset_after or (cell.activation.__name__, cell.recurrent_activation.__name__) != ("tanh", "sigmoid"):
        raise ValueError("The motion network must be a GRU with reset_after=True, tanh and sigmoid.")
    weights: dict[str, Any] = {
        "motion/GRU/W": np.asarray(cell.kernel).T[None],
        "motion/GRU/R": np.asarray(cell.recurrent_kernel).T[None],
        "motion/GRU/B": np.asarray(cell.bias).reshape(1, -1),
        "motion/first_axis": np.array([0], np.int64),
        "motion/direction_axis": np.array([1], np.int64),
    }
    nodes = [helper.make_node("Transpose", ["motion_noise"], ["motion/noise"], perm=[1, 0, 2])]
    driven_by = "motion/noise"
    if "category" in part_inputs(contract)[0]:
        weights["motion/any_clip"] = np.array([1, 1], np.int64)
        driven_by = "motion/input"
        nodes += [
            helper.make_node("Concat", ["time/length", "motion/any_clip"], ["motion/repeats"], axis=0),
            helper.make_node("Expand", ["category", "motion/repeats"], ["motion/category"]),  # [T, B, dim_category]
            helper.make_node("Concat", ["motion/noise", "motion/category"], [driven_by], axis=2),
        ]
    scale = generator.motion_init_scale
    start, last = "motion_init", []  # From the GRU's last state to `motion_state`.
    states, shift = "motion/states", []
    if scale != 1:
        weights |= {"motion/scale": np.array([scale], np.float32), "motion/unit": np.array([1 / scale], np.float32)}
        start = "motion/start"
        nodes.append(helper.make_node("Mul", ["motion_init", "motion/scale"], [start]))
        last = [("Mul", "motion/unit")]
    if contract.content_from == "pictures":
        layout = ContentLayout(contract.dim_content - contract.dim_motion, contract.dim_motion)
        edges = {"starts": layout.dim_code, "ends": layout.size, "axes": 1}
        weights |= {f"motion/pose_{key}": np.array([value], np.int64) for key, value in edges.items()}
        nodes += [
            helper.make_node("Slice", ["content", *(f"motion/pose_{key}" for key in edges)], ["motion/pose"]),
            helper.make_node("Add", [start, "motion/pose"], ["motion/posed"]),
        ]
        start, last = "motion/posed", [("Sub", "motion/pose"), *last]
        # Frames show the states before them, of which the first is the picture's pose.
        states = "motion/states_after"
        weights |= {"motion/first": np.array([0], np.int64), "motion/before_last": np.array([-1], np.int64)}
        shift = [
            helper.make_node("Unsqueeze", ["motion/initial", "motion/first_axis"], ["motion/initial_frame"]),
            helper.make_node("Concat", ["motion/initial_frame", states], ["motion/all_states"], axis=0),
            helper.make_node(
                "Slice", ["motion/all_states", "motion/first", "motion/before_last", "motion/first"], ["motion/states"]
            ),
        ]
    ends = [*(f"motion/end_{i}" for i in range(len(last))), "motion_state"]
    gru_inputs = [driven_by, "motion/GRU/W", "motion/GRU/R", "motion/GRU/B", "", "motion/initial"]
    nodes += [
        helper.make_node("Unsqueeze", [start, "motion/first_axis"], ["motion/initial"]),
        helper.make_node(
            "GRU", gru_inputs, [states, "motion/last"], hidden_size=contract.dim_motion, linear_before_reset=1
        ),
        *shift,
        helper.make_node("Squeeze", ["motion/states", "motion/direction_axis"], ["motion/time_major"]),
        helper.make_node("Transpose", ["motion/time_major"], ["motion"], perm=[1, 0, 2]),
        helper.make_node("Squeeze", ["motion/last", "motion/first_axis"], [ends[0]]),
        *(helper.make_node(op, [ends[i], by], [ends[i + 1]]) for i, (op, by) in enumerate(last)),
    ]
    return Graph(_named(nodes, "motion"), weights)


def _clip_code(contract: Contract) -> str:
    """Returns the name of the code that the decoder gets once per clip."""
    fixed = part_inputs(contract)[1]
    return fixed[0] if len(fixed) == 1 else "frames/clip_code"


def clip_code_graph(contract: Contract) -> Graph:
    """Writes `content` and `category` side by side if the decoder takes both."""
    fixed = part_inputs(contract)[1]
    if len(fixed) == 1:
        return Graph([], {})
    return Graph(_named([helper.make_node("Concat", fixed, [_clip_code(contract)], axis=1)], "frames/code"), {})


def frames_graph(decoder: Graph, contract: Contract, motion: str, background: Graph | None = None) -> Graph:
    """Applies the converted decoder to all frames: the clip's code, the motion codes and `time/length` -> `video`.

    The decoder's first matrix product is split: the clip's code is multiplied once per clip, the motion once per frame,
    and their sum broadcasts over time. Time and batch change places in that sum. One `Transpose` of the finished frames
    could move them together with the channels, but ONNX Runtime's CPU kernel for two moves takes seven to eight times
    as long, 8 % of the whole model at 24 filters.

    Args:
        decoder: Graph from `frames/z` to `frames/pictures`.
        contract: The bundle's contract.
        motion: Name of the motion codes: `motion/states` `[T, 1, B, dim_motion]` or `motion` `[B, T, dim_motion]`.
        background: Graph from the clip code, or from `content` alone, to `background/picture` `[B, H, W, C]`. The
            decoder's pictures, whose last channel is then a mask, are put in front of it. None: the pictures are the
            frames.
    """
    dim_fixed = sum(int(contract.inputs[name].shape[1]) for name in part_inputs(contract)[1])
    planes = contract.channels + (background is not None)
    rest, value, weight, bias = take_first_product(decoder, "frames/z", dim_fixed + contract.dim_motion)
    weights: dict[str, Any] = {
        "frames/clip/weight": weight[:dim_fixed],
        "frames/clip/bias": bias,
        "frames/clip/time_axis": np.array([1], np.int64),
        "frames/motion/weight": weight[dim_fixed:],
        "frames/flat_shape": np.array([-1, weight.shape[1]], np.int64),
        "frames/any_batch": np.array([-1], np.int64),
        "frames/frame_shape": np.array([contract.image_size, contract.image_size, planes], np.int64),
    }
    before = [
        helper.make_node("Gemm", [_clip_code(contract), "frames/clip/weight", "frames/clip/bias"], ["frames/clip"]),
        helper.make_node("MatMul", [motion, "frames/motion/weight"], ["frames/motion"]),
    ]
    if motion == "motion":
        before += [
            helper.make_node("Unsqueeze", ["frames/clip", "frames/clip/time_axis"], ["frames/clip_once"]),
            helper.make_node("Add", ["frames/motion", "frames/clip_once"], ["frames/sum"]),  # [B, T, N]
        ]
    else:
        before += [
            helper.make_node("Add", ["frames/motion", "frames/clip"], ["frames/time_major"]),  # [T, 1, B, N]
            helper.make_node("Transpose", ["frames/time_major"], ["frames/sum"], perm=[2, 0, 1, 3]),
        ]
    before.append(helper.make_node("Reshape", ["frames/sum", "frames/flat_shape"], [value]))  # [B * T, N]
    sizes = ["frames/any_batch", "time/length", "frames/frame_shape"]
    after = [
        helper.make_node("Concat", sizes, ["frames/video_shape"], axis=0),
        helper.make_node(
            "Reshape", ["frames/pictures", "frames/video_shape"], ["video" if background is None else "figures"]
        ),
    ]
    nodes = [*_named(before, "frames/before"), *rest.nodes, *_named(after, "frames/after")]
    graph = Graph(nodes, weights | rest.weights)
    if background is not None:
        graph = graph + background + composition_graph(contract)
    graph.drop_unused_weights()
    merge_reshapes(graph)
    return graph


def composition_graph(contract: Contract) -> Graph:
    """Puts `figures` `[B, T, H, W, C + 1]`, with a mask, before `background/picture`: `m (f - b) + b` -> `video`."""
    weights: dict[str, Any] = {
        "composition/planes": np.array([contract.channels, 1], np.int64),
        "composition/time_axis": np.array([1], np.int64),
    }
    nodes = [
        helper.make_node("Split", ["figures", "composition/planes"], ["composition/f", "composition/m"], axis=4),
        helper.make_node("Unsqueeze", ["background/picture", "composition/time_axis"], ["composition/b"]),
        helper.make_node("Sub", ["composition/f", "composition/b"], ["composition/f_beyond_b"]),
        helper.make_node("Mul", ["composition/m", "composition/f_beyond_b"], ["composition/masked"]),
        helper.make_node("Add", ["composition/masked", "composition/b"], ["video"]),
    ]
    return Graph(_named(nodes, "composition"), weights)


def temporal_graph(generator: Any, contract: Contract, decoder: Graph) -> Graph:
    """Writes TGAN's temporal generator by hand, with the decoder behind it: `z` -> `video`.

    tf2onnx would compute every size of a transposed convolution along time again whenever the graph runs.
    """
    size, length = contract.image_size, contract.video_length
    weights: dict[str, Any] = {
        "time/axis_after": np.array([2], np.int64),
        "time/axis": np.array([1], np.int64),
        "time/repeats": np.array([1, length, 1], np.int64),
        "frames/code_shape": np.array([-1, 2 * contract.dim_z], np.int64),
        "frames/video_shape": np.array([-1, length, size, size, contract.channels], np.int64),
    }
    nodes = [helper.make_node("Unsqueeze", ["z", "time/axis_after"], ["time/signal"])]
    value, doublings = "time/signal", length.bit_length() - 1
    for i in range(doublings + 1):
        kernel, bias = _temporal_weights(generator, i)
        weights |= {f"time/W_{i}": kernel, f"time/B_{i}": bias}
        sizes: dict[str, Any] = (
            {"kernel_shape": [1]} if i == 0 else {"kernel_shape": [4], "strides": [2], "pads": [1, 1]}
        )
        nodes.append(
            helper.make_node("ConvTranspose", [value, f"time/W_{i}", f"time/B_{i}"], [f"time/conv_{i}"], **sizes)
        )
        value = f"time/map_{i}"
        nodes.append(helper.make_node("Tanh" if i == doublings else "Relu", [f"time/conv_{i}"], [value]))
    nodes += [
        helper.make_node("Transpose", [value], ["time/path"], perm=[0, 2, 1]),
        helper.make_node("Unsqueeze", ["z", "time/axis"], ["time/z_once"]),
        helper.make_node("Expand", ["time/z_once", "time/repeats"], ["time/z"]),
        helper.make_node("Concat", ["time/z", "time/path"], ["time/codes"], axis=2),
        helper.make_node("Reshape", ["time/codes", "frames/code_shape"], ["frames/z"]),
    ]
    after = [helper.make_node("Reshape", ["frames/pictures", "frames/video_shape"], ["video"])]
    return Graph(_named(nodes, "time"), weights) + decoder + Graph(_named(after, "frames/after"), {})


def _temporal_weights(generator: Any, index: int) -> tuple[Any, Any]:
    """Returns a temporal layer's kernel `[I, O, K]` and bias `[O]`, with its normalisation folded in, in float64."""
    layer = generator.get_layer(f"temporal_conv_{index}")
    kernel = np.asarray(layer.kernel, np.float64).transpose(2, 1, 0)
    if layer.use_bias:  # The last layer, which has no normalisation.
        return kernel.astype(np.float32), np.asarray(layer.bias)
    norm = generator.get_layer(f"temporal_norm_{index}")
    mean, variance = np.asarray(norm.moving_mean, np.float64), np.asarray(norm.moving_variance, np.float64)
    scale = np.asarray(norm.gamma, np.float64) / np.sqrt(variance + norm.epsilon)
    return (kernel * scale[:, None]).astype(np.float32), (-mean * scale).astype(np.float32)


def pixels_graph() -> Graph:
    """Writes `video` -> `video_uint8` by the contract's postprocess rule."""
    nodes = [
        helper.make_node("Add", ["video", "pixels/one"], ["pixels/shifted"]),
        helper.make_node("Mul", ["pixels/shifted", "pixels/scale"], ["pixels/scaled"]),
        helper.make_node("Round", ["pixels/scaled"], ["pixels/rounded"]),
        helper.make_node("Clip", ["pixels/rounded", "pixels/low", "pixels/high"], ["pixels/clipped"]),
        helper.make_node("Cast", ["pixels/clipped"], ["video_uint8"], to=TensorProto.UINT8),
    ]
    constants = {"pixels/one": 1.0, "pixels/scale": 127.5, "pixels/low": 0.0, "pixels/high": 255.0}
    return Graph(_named(nodes, "pixels"), {name: np.array(value, np.float32) for name, value in constants.items()})


def convert_decoder(decoder: Any, wide: bool = False) -> Graph:
    """Converts the Keras decoder `[N, dim_z] -> [N, H, W, C]`: a graph from `frames/z` to `frames/pictures`."""
    codes = decoder.input_shape[-1]
    return convert(lambda z: decoder(z, training=False), codes, "frames", "frames/z", "frames/pictures", wide)


def convert_background(background: Any, source: str) -> Graph:
    """Converts the background's decoder: from a clip's code, `source`, to `background/picture` `[B, H, W, C]`."""
    return convert(
        lambda z: background(z, training=False), background.input_shape[-1], "background", source, "background/picture"
    )


def convert(
    function: Callable[[Any], Any], dim_z: int, prefix: str, source: str, result: str, wide: bool = False
) -> Graph:
    """Converts a function of one batch of codes with tf2onnx and folds the graph.

    Args:
        function: TensorFlow function from float32 `[N, dim_z]` to one tensor.
        dim_z: Size of a code.
        prefix: Prefix of the graph's names.
        source: Name of the input.
        result: Name of the output.
    """

    graph, given, made = _converted(function, (dim_z,))
    fold_scale_and_shift(graph)
    project_first_map(graph)
    if wide:
        widen_products(graph, given, dim_z)
    join_products(graph, given, whole=wide)
    scale_channels_in_place(graph)
    rename(graph, prefix, {given: source, made: result})
    return graph


def convert_encoder(encoder: Any) -> Graph:
    """Converts the encoder of pictures: a graph from `image` to `content`."""
    graph, given, made = _converted(lambda image: encoder(image, training=False), encoder.input_shape[1:])
    fold_scale_and_shift(graph)
    rename(graph, "encode", {given: "image", made: "content"})
    return graph


def _converted(function: Callable[[Any], Any], shape: tuple[int, ...]) -> tuple[Graph, str, str]:
    """Converts a function of float32 `[N, *shape]` to a graph; returns it with the names of its input and output."""

    @tf.function(input_signature=[tf.TensorSpec((None, *shape), tf.float32, name="given")])
    def convertible(given: Any) -> Any:
        return {"result": function(given)}

    converted, _ = tf2onnx.convert.from_function(convertible, convertible.input_signature, opset=OPSET)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in converted.graph.initializer}
    graph = Graph(list(converted.graph.node), constants)
    return graph, converted.graph.input[0].name, converted.graph.output[0].name


def _named(nodes: list[NodeProto], prefix: str) -> list[NodeProto]:
    for i, node in enumerate(nodes):
        node.name = f"{prefix}/{node.op_type}_{i}"
    return nodes


def _value_info(spec: TensorSpec) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(spec.name, _DTYPES[spec.dtype], spec.shape)


def _model(
    graph: Graph, name: str, inputs: list[TensorSpec], outputs: list[TensorSpec], contract: Contract
) -> onnx.ModelProto:
    graph = Graph(graph.nodes, graph.weights)
    graph.drop_unused_nodes([spec.name for spec in outputs])
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            f"{contract.name}-{name}",
            [_value_info(spec) for spec in inputs],
            [_value_info(spec) for spec in outputs],
            [numpy_helper.from_array(np.ascontiguousarray(value), key) for key, value in graph.weights.items()],
            doc_string=f"{contract.model} video generator; video: {LAYOUT}, {POSTPROCESS}",
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="mocogan-tf",
        producer_version=__version__,
        model_version=contract.version,
    )
    helper.set_model_props(model, contract.metadata())
    onnx.checker.check_model(model, full_check=True)
    return model
