"""The generator as ONNX: the whole of it, and split into the motion network and the frame decoder.

The frame decoder goes through tf2onnx, so that whatever Keras layers it is made of are converted, and is then folded
(`export.fold`). The GRU is written by hand: tf2onnx turns Keras 3's GRU into a `Loop`, which keeps ONNX Runtime from
CUDA graphs and from cuDNN, while ONNX's own `GRU` operator computes the same function.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from export.contract import LAYOUT, POSTPROCESS, Contract, TensorSpec
from export.fold import Graph, fold_scale_and_shift, half_precision, project_first_map, rename
from mocogan_tf import __version__

OPSET = 17  # tf2onnx 1.17 is tested up to 18; nothing here needs more than 17, which more runtimes read.
IR_VERSION = 8

_DTYPES = {"float32": TensorProto.FLOAT, "uint8": TensorProto.UINT8}


def to_onnx(generator: Any, contract: Contract, *, uint8: bool = False) -> dict[str, onnx.ModelProto]:
    """Converts a generator.

    Args:
        generator: With the weights to export.
        contract: Its contract.
        uint8: Also make the variant whose only picture output is `video_uint8`.

    Returns:
        Models by their role in `bundle.json`: `onnx`, `onnx_fp16`, of MoCoGAN also `motion`, `frames`, `frames_fp16`,
        and, if asked for, `onnx_uint8`.

    Raises:
        ValueError: The model's architecture has no ONNX builder, or a weight does not fit float16.
    """
    if contract.model not in BUILDERS:
        raise ValueError(f"No ONNX export for model={contract.model}. Known: {', '.join(sorted(BUILDERS))}.")
    return BUILDERS[contract.model](generator, contract, uint8)


def mocogan_models(generator: Any, contract: Contract, uint8: bool) -> dict[str, onnx.ModelProto]:
    """Builds MoCoGAN's models: a GRU over the noise, then the decoder on content and motion of every frame."""
    decoder = convert_decoder(generator.decoder)
    time, motion = time_graph("motion_noise"), motion_graph(generator.motion, contract)
    frames = frames_graph(decoder, contract)
    # The GRU stays in float32: it costs next to nothing, and its state is carried over as many frames as a client asks.
    half = half_precision(decoder, "frames", "frames/z", "frames/pictures")
    frames_half = frames_graph(half, contract)
    whole, whole_half = time + motion + frames, time + motion + frames_half
    to_motion, to_frames = part_inputs(contract)
    video, state = contract.outputs["video"], contract.motion_state
    motion_inputs = [contract.inputs[name] for name in to_motion]
    frames_inputs = [*(contract.inputs[name] for name in to_frames), contract.motion]
    models = {
        "onnx": _model(whole, "generator", [*contract.inputs.values()], [video, state], contract),
        "onnx_fp16": _model(whole_half, "generator_fp16", [*contract.inputs.values()], [video, state], contract),
        "motion": _model(time + motion, "motion", motion_inputs, [contract.motion, state], contract),
        "frames": _model(time_graph("motion") + frames, "frames", frames_inputs, [video], contract),
        "frames_fp16": _model(time_graph("motion") + frames_half, "frames_fp16", frames_inputs, [video], contract),
    }
    if uint8:
        outputs = [contract.video("video_uint8", "uint8"), state]
        models["onnx_uint8"] = _model(
            whole + pixels_graph(), "generator_uint8", [*contract.inputs.values()], outputs, contract
        )
    return models


def vgan_models(generator: Any, contract: Contract, uint8: bool) -> dict[str, onnx.ModelProto]:
    """Builds VGAN's models, all of it converted."""
    whole = convert(lambda z: generator({"z": z}, training=False)["video"], contract.dim_z, "generator", "z", "video")
    return _code_models(whole, contract, uint8)


def tgan_models(generator: Any, contract: Contract, uint8: bool) -> dict[str, onnx.ModelProto]:
    """Builds TGAN's models: the temporal generator by hand, then the converted image generator on every frame."""
    decoder = convert_decoder(generator.decoder)
    return _code_models(temporal_graph(generator, contract, decoder), contract, uint8)


def _code_models(whole: Graph, contract: Contract, uint8: bool) -> dict[str, onnx.ModelProto]:
    """The files of a generator that makes whole clips of one code: of a graph from `z` to `video`."""
    inputs, outputs = [contract.inputs["z"]], [contract.outputs["video"]]
    half = half_precision(whole, "generator", "z", "video")
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
    """Returns the names of the latents that enter motion.onnx and those that enter frames.onnx beside `motion`."""
    category = ["category"] if contract.dim_category else []
    to_motion, to_frames = (category, []) if contract.category_to == "motion" else ([], category)
    return [*to_motion, "motion_init", "motion_noise"], ["content", *to_frames]


def time_graph(like: str) -> Graph:
    """Writes the length T of `like` `[B, T, E]`: `time/length` [T] and `time/repeats` [1, T, 1]."""
    nodes = [
        helper.make_node("Shape", [like], ["time/length"], start=1, end=2),
        helper.make_node("Concat", ["time/one", "time/length", "time/one"], ["time/repeats"], axis=0),
    ]
    return Graph(_named(nodes, "time"), {"time/one": np.array([1], np.int64)})


def motion_graph(gru: Any, contract: Contract) -> Graph:
    """Writes the motion network as one ONNX `GRU`: `motion_init`, `motion_noise` -> `motion`, `motion_state`.

    Keras and ONNX order the gates alike (update, reset, candidate); `reset_after=True` is `linear_before_reset=1`.
    """
    cell = gru.cell
    if not cell.reset_after or (cell.activation.__name__, cell.recurrent_activation.__name__) != ("tanh", "sigmoid"):
        raise ValueError("The motion network must be a GRU with reset_after=True, tanh and sigmoid.")
    weights: dict[str, Any] = {
        "motion/GRU/W": np.asarray(cell.kernel).T[None],
        "motion/GRU/R": np.asarray(cell.recurrent_kernel).T[None],
        "motion/GRU/B": np.asarray(cell.bias).reshape(1, -1),
        "motion/first_axis": np.array([0], np.int64),
        "motion/direction_axis": np.array([1], np.int64),
    }
    nodes: list[NodeProto] = []
    noise = "motion_noise"
    if "category" in part_inputs(contract)[0]:
        nodes += _repeat_over_time(["category"], weights, "motion")
        nodes.append(helper.make_node("Concat", [noise, "motion/category"], ["motion/input"], axis=2))
        noise = "motion/input"
    gru_inputs = ["motion/time_major", "motion/GRU/W", "motion/GRU/R", "motion/GRU/B", "", "motion/initial"]
    nodes += [
        helper.make_node("Transpose", [noise], ["motion/time_major"], perm=[1, 0, 2]),
        helper.make_node("Unsqueeze", ["motion_init", "motion/first_axis"], ["motion/initial"]),
        helper.make_node(
            "GRU", gru_inputs, ["motion/states", "motion/last"], hidden_size=contract.dim_motion, linear_before_reset=1
        ),
        helper.make_node("Squeeze", ["motion/states", "motion/direction_axis"], ["motion/states_time_major"]),
        helper.make_node("Transpose", ["motion/states_time_major"], ["motion"], perm=[1, 0, 2]),
        helper.make_node("Squeeze", ["motion/last", "motion/first_axis"], ["motion_state"]),
    ]
    return Graph(_named(nodes, "motion"), weights)


def frames_graph(decoder: Graph, contract: Contract) -> Graph:
    """Puts the converted decoder over all frames: `content`, [`category`], `motion` -> `video`."""
    fixed = part_inputs(contract)[1]
    size, channels = contract.image_size, contract.channels
    dim_z = sum(int(contract.inputs[name].shape[1]) for name in fixed) + contract.dim_motion
    weights: dict[str, Any] = {
        "frames/code_shape": np.array([-1, dim_z], np.int64),
        "frames/any_batch": np.array([-1], np.int64),
        "frames/frame_shape": np.array([size, size, channels], np.int64),
    }
    codes = [f"frames/{name}" for name in fixed]
    before = [
        *_repeat_over_time(fixed, weights, "frames"),
        helper.make_node("Concat", [*codes, "motion"], ["frames/codes"], axis=2),
        helper.make_node("Reshape", ["frames/codes", "frames/code_shape"], ["frames/z"]),
    ]
    after = [
        helper.make_node(
            "Concat", ["frames/any_batch", "time/length", "frames/frame_shape"], ["frames/video_shape"], axis=0
        ),
        helper.make_node("Reshape", ["frames/pictures", "frames/video_shape"], ["video"]),
    ]
    nodes = [*_named(before, "frames/before"), *decoder.nodes, *_named(after, "frames/after")]
    return Graph(nodes, weights | decoder.weights)


def temporal_graph(generator: Any, contract: Contract, decoder: Graph) -> Graph:
    """Writes TGAN's temporal generator and puts the decoder over its frames: `z` -> `video`.

    By hand, because tf2onnx computes every size of a transposed convolution along time anew when the graph runs.
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
    """Kernel `[I, O, K]` and bias `[O]` of a layer of the temporal generator, its normalisation folded in, float64."""
    layer = generator.get_layer(f"temporal_conv_{index}")
    kernel = np.asarray(layer.kernel, np.float64).transpose(2, 1, 0)
    if layer.use_bias:  # The last, which has no normalisation.
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


def convert_decoder(decoder: Any) -> Graph:
    """Converts the Keras decoder `[N, dim_z] -> [N, H, W, C]`: a graph from `frames/z` to `frames/pictures`."""
    codes = decoder.input_shape[-1]
    return convert(lambda z: decoder(z, training=False), codes, "frames", "frames/z", "frames/pictures")


def convert(function: Callable[[Any], Any], dim_z: int, prefix: str, source: str, result: str) -> Graph:
    """Converts a function of one batch of codes with tf2onnx and folds the graph.

    Args:
        function: From float32 `[N, dim_z]` to one tensor, in TensorFlow.
        dim_z: Size of a code.
        prefix: Of the graph's names.
        source: Name of the input.
        result: Name of the output.
    """
    import tensorflow as tf
    import tf2onnx

    @tf.function(input_signature=[tf.TensorSpec((None, dim_z), tf.float32, name="z")])
    def convertible(z: Any) -> Any:
        return {"result": function(z)}

    converted, _ = tf2onnx.convert.from_function(convertible, convertible.input_signature, opset=OPSET)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in converted.graph.initializer}
    graph = Graph(list(converted.graph.node), constants)
    fold_scale_and_shift(graph)
    project_first_map(graph)
    rename(graph, prefix, {converted.graph.input[0].name: source, converted.graph.output[0].name: result})
    return graph


def _repeat_over_time(names: list[str], weights: dict[str, Any], prefix: str) -> list[NodeProto]:
    """Nodes that turn each `[B, D]` into `{prefix}/{name}` `[B, T, D]`."""
    weights[f"{prefix}/time_axis"] = np.array([1], np.int64)
    nodes = []
    for name in names:
        nodes += [
            helper.make_node("Unsqueeze", [name, f"{prefix}/time_axis"], [f"{prefix}/{name}_once"]),
            helper.make_node("Expand", [f"{prefix}/{name}_once", "time/repeats"], [f"{prefix}/{name}"]),
        ]
    return nodes


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
