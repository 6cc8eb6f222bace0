"""Rewrites of a converted ONNX graph that keep its result and make it faster.

A converter writes batch normalisation in inference as `Mul` and `Add` after the convolution; ONNX Runtime does not fold
them. It writes the decoder's first layer as a transposed convolution of a 1x1 map; ONNX Runtime computes that frame by
frame, while one matrix product does for all frames. A caller who knows that a part of the code is the same in many
frames can take that product off the graph.

Each rewrite looks for one pattern of nodes and leaves everything else as it is, so a decoder may have any layers.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper

Array = NDArray[np.generic]

# Axis of the output channels in a convolution's weights.
_CHANNEL_AXIS = {"Conv": 0, "ConvTranspose": 1}

# Inputs that ONNX wants in float32 whatever the type of the data: the region and the scales of a `Resize`.
_ALWAYS_FLOAT32 = {"Resize": (1, 2)}

# With these attributes a `Gemm` is `x @ W + b`.
_GEMM_DEFAULTS = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}


@dataclasses.dataclass
class Graph:
    """Nodes in topological order, and the constants they use by name."""

    nodes: list[NodeProto]
    weights: dict[str, Array]

    def __add__(self, other: Graph) -> Graph:
        """Appends another graph; values of the same name connect."""
        return Graph(self.nodes + other.nodes, self.weights | other.weights)

    def consumers(self, value: str) -> list[NodeProto]:
        """Returns the nodes that read a value."""
        return [node for node in self.nodes if value in node.input]

    def drop_unused_nodes(self, outputs: list[str]) -> None:
        """Removes nodes that lead to none of the outputs, and their constants."""
        needed = set(outputs)
        for node in reversed(self.nodes):
            if needed.intersection(node.output):
                needed.update(node.input)
        self.nodes = [node for node in self.nodes if needed.intersection(node.output)]
        self.drop_unused_weights()

    def drop_unused_weights(self) -> None:
        """Removes constants that no node reads."""
        used = {name for node in self.nodes for name in node.input}
        self.weights = {name: value for name, value in self.weights.items() if name in used}


def fold_scale_and_shift(graph: Graph) -> None:
    """Moves a per-channel `Mul` and `Add` behind a convolution into its weights and bias, computed in float64.

    With batch normalisation's scale s = gamma / sqrt(variance + epsilon): W' = W s, b' = beta + (b - mean) s.
    """
    for conv in list(graph.nodes):
        if conv.op_type not in _CHANNEL_AXIS or _attribute(conv, "group", 1) != 1:
            continue
        if not all(name in graph.weights for name in conv.input[1:]):  # Weights that depend on the input.
            continue
        axis = _CHANNEL_AXIS[conv.op_type]
        weight = graph.weights[conv.input[1]].astype(np.float64)
        channels = weight.shape[axis]
        bias = graph.weights[conv.input[2]].astype(np.float64) if len(conv.input) > 2 else np.zeros(channels)
        followers = []
        value = conv.output[0]
        while follower := _per_channel(graph, value, channels, weight.ndim):
            node, constant = follower
            if node.op_type == "Mul":
                weight, bias = (
                    weight * constant.reshape([-1 if i == axis else 1 for i in range(weight.ndim)]),
                    bias * constant,
                )
            else:
                bias = bias + constant
            followers.append(node)
            value = node.output[0]
        if not followers:
            continue
        name = conv.output[0]
        graph.weights |= {f"{name}/W": weight.astype(np.float32), f"{name}/B": bias.astype(np.float32)}
        conv.input[:] = [conv.input[0], f"{name}/W", f"{name}/B"]
        conv.output[0] = value
        for node in followers:
            graph.nodes.remove(node)
    graph.drop_unused_weights()


def _per_channel(graph: Graph, value: str, channels: int, rank: int) -> tuple[NodeProto, NDArray[np.float64]] | None:
    """Returns the only reader of `value` with its constant `[channels]`, if it scales or shifts channels."""
    consumers = graph.consumers(value)
    if len(consumers) != 1 or consumers[0].op_type not in ("Mul", "Add"):
        return None
    others = [name for name in consumers[0].input if name != value]
    if len(others) != 1 or others[0] not in graph.weights:
        return None
    constant = graph.weights[others[0]].astype(np.float64)
    shape = (1,) * (rank - constant.ndim) + constant.shape
    if any(size != 1 for i, size in enumerate(shape) if i != 1) or shape[1] not in (1, channels):
        return None
    return consumers[0], np.broadcast_to(constant.reshape(-1), (channels,))


def project_first_map(graph: Graph) -> None:
    """Replaces `Reshape` to a 1x1 map and its `ConvTranspose` by a matrix product over all frames at once.

    On a 1x1 map with stride 1 and no padding, a transposed convolution is `z @ W` with W as `[in, out * kh * kw]`.
    Measured on 64 filters and 16 frames in ONNX Runtime on two cores: 4.5 times as fast as the convolution.
    """
    for i, (reshape, conv) in enumerate(zip(graph.nodes, graph.nodes[1:], strict=False)):
        if reshape.op_type != "Reshape" or conv.op_type != "ConvTranspose" or conv.input[0] != reshape.output[0]:
            continue
        if not all(name in graph.weights for name in conv.input[1:]):
            continue
        weight = graph.weights[conv.input[1]]  # [in, out, kh, kw]
        shape = graph.weights.get(reshape.input[1])
        to_one_pixel = shape is not None and shape[1:].tolist() == [weight.shape[0], 1, 1]
        plain = {*_attribute(conv, "strides", [1]), *_attribute(conv, "dilations", [1])} == {1} and not any(
            [*_attribute(conv, "pads", []), *_attribute(conv, "output_padding", [])]
        )
        if not to_one_pixel or not plain or _attribute(conv, "group", 1) != 1:
            continue
        name = conv.output[0]
        graph.weights |= {
            f"{name}/W": weight.reshape(weight.shape[0], -1),
            f"{name}/shape": np.array([-1, *weight.shape[1:]], np.int64),
        }
        inputs = [reshape.input[0], f"{name}/W"]
        if len(conv.input) > 2:
            graph.weights[f"{name}/B"] = np.repeat(graph.weights[conv.input[2]], int(np.prod(weight.shape[2:])))
            inputs.append(f"{name}/B")
        graph.nodes[i : i + 2] = [
            helper.make_node("Gemm", inputs, [f"{name}/flat"]),
            helper.make_node("Reshape", [f"{name}/flat", f"{name}/shape"], [name]),
        ]
        break
    graph.drop_unused_weights()


def widen_products(graph: Graph, source: str, width: int) -> None:
    """Lets products of some of a source's columns take all of them, with zeros in the weights for the others.

    So `join_products` can join them. Which columns they are, `Slice` and `Concat` of the source say.

    Args:
        graph: Changed in place.
        source: The graph's input `[N, width]`.
        width: Its columns.
    """
    columns = {source: np.arange(width)}
    for node in graph.nodes:
        known = [columns[name] for name in node.input if name in columns]
        if node.op_type == "Concat" and len(known) == len(node.input) and _attribute(node, "axis", 0) in (1, -1):
            columns[node.output[0]] = np.concatenate(known)
        elif known and (span := _span(graph, node)):
            columns[node.output[0]] = known[0][slice(*span)]
    for value in [value for value in columns if value != source]:
        for node in graph.consumers(value):
            if _constant_product(graph, node) is not None and node.input[0] == value:
                weight = graph.weights[node.input[1]]
                wide = np.zeros((width, weight.shape[1]), weight.dtype)
                np.add.at(wide, columns[value], weight)
                graph.weights[f"{node.output[0]}/wide"] = wide
                node.input[0], node.input[1] = source, f"{node.output[0]}/wide"
    ends = {name for node in graph.nodes for name in node.output if not graph.consumers(name)} - set(columns)
    graph.drop_unused_nodes(sorted(ends))


def _span(graph: Graph, node: NodeProto) -> tuple[int, int] | None:
    """First column and end of the columns that a `Slice` takes of all rows; None if the node is something else."""
    parts = [graph.weights.get(name, np.empty(0)).tolist() for name in node.input[1:]]
    steps = parts[3] if len(parts) > 3 else [1]
    if node.op_type != "Slice" or len(parts) < 3 or not all(parts) or set(steps) != {1}:
        return None
    found = None
    for start, end, axis in zip(*parts[:3], strict=True):
        if axis == 1:
            found = (int(start), int(end))
        elif start != 0 or end < np.iinfo(np.int32).max:
            return None
    return found


def join_products(graph: Graph, source: str, whole: bool = False) -> None:
    """Joins the first matrix product with the products of the source's first columns, so that all can be taken off.

    Modulation multiplies the first columns of a code by weights of its own, one product per layer. With zeros for the
    remaining columns, these weights stand beside the first layer's: one `Gemm`, then a `Split`.

    Args:
        graph: Changed in place if it has this form.
        source: The graph's input `[N, dim_z]`.
        whole: Whether the products take all columns, as after `widen_products`.
    """
    readers = sorted(graph.consumers(source), key=lambda node: node.op_type)  # The product before the `Slice`.
    slices = [] if whole else [node for node in readers if (span := _span(graph, node)) and span[0] == 0]
    if len(readers) < 2 or not (whole or (len(readers), len(slices)) == (2, 1)):
        return
    gemms = [node for node in graph.nodes if node in readers and node.op_type == "Gemm"]  # The first layer's.
    first = gemms[0] if gemms else readers[0]
    others = graph.consumers(slices[0].output[0]) if slices else [node for node in readers if node is not first]
    products = [_constant_product(graph, node) for node in (first, *others)]
    joined = [product for product in products if product is not None]
    if len(joined) < len(products):
        return
    rows = joined[0].weight.shape[0]
    weights = [np.pad(product.weight, ((0, rows - product.weight.shape[0]), (0, 0))) for product in joined]
    biases = [product.bias for product in joined]
    name = first.output[0]
    graph.weights |= {
        f"{name}/joined_W": np.concatenate(weights, axis=1),
        f"{name}/joined_B": np.concatenate(biases),
        f"{name}/sizes": np.array([bias.size for bias in biases], np.int64),
    }
    removed = [*slices, *(node for product in joined for node in product.nodes)]
    outputs = [product.result for product in joined]
    graph.nodes = [
        helper.make_node("Gemm", [source, f"{name}/joined_W", f"{name}/joined_B"], [f"{name}/joined"]),
        helper.make_node("Split", [f"{name}/joined", f"{name}/sizes"], outputs, axis=1),
        *(node for node in graph.nodes if node not in removed),
    ]
    graph.drop_unused_weights()


def scale_channels_in_place(graph: Graph) -> None:
    """Transposes a scale `[N, 1, 1, C]` of channels, instead of the maps before it and behind its `Relu`."""
    makers = {value: node for node in graph.nodes for value in node.output}
    for product in [node for node in graph.nodes if node.op_type == "Mul"]:
        there, scale = (makers.get(name, NodeProto()) for name in product.input)
        relu = _only_reader(graph, product)
        back = _only_reader(graph, relu)
        kinds = [node.op_type for node in (there, scale, relu, back)]
        if kinds != ["Transpose", "Reshape", "Relu", "Transpose"] or _only_reader(graph, scale) != product:
            continue
        shape = graph.weights.get(scale.input[1])
        if shape is None or shape[:3].tolist() != [-1, 1, 1]:
            continue
        name = scale.output[0]
        graph.weights[f"{name}/shape"] = shape[[0, 3, 1, 2]]
        scale.input[1] = f"{name}/shape"
        product.input[0] = there.input[0]
        relu.output[0] = back.output[0]
        graph.nodes = [node for node in graph.nodes if node not in (there, back)]
    graph.drop_unused_weights()


def _only_reader(graph: Graph, node: NodeProto) -> NodeProto:
    """Returns the only node that reads another's only output; an empty node if there is none or several."""
    readers = graph.consumers(node.output[0]) if len(node.output) == 1 else []
    return readers[0] if len(readers) == 1 else NodeProto()


def take_first_product(graph: Graph, source: str, dim_z: int) -> tuple[Graph, str, Array, Array]:
    """Takes off the matrix product with which a graph begins.

    Args:
        graph: Not changed.
        source: The graph's input `[N, dim_z]`.
        dim_z: Size of a code.

    Returns:
        (the rest of the graph, name of the rest's input `[N, M]`, the product's weight `[dim_z, M]` and bias `[M]`). If
        the graph begins otherwise: the whole graph, its input, the identity and zeros in float32.
    """
    readers = graph.consumers(source)
    product = _constant_product(graph, readers[0]) if len(readers) == 1 else None
    if product is None:
        return graph, source, np.eye(dim_z, dtype=np.float32), np.zeros(dim_z, np.float32)
    rest = Graph([node for node in graph.nodes if node not in product.nodes], graph.weights)
    rest.drop_unused_weights()
    return rest, product.result, product.weight, product.bias


@dataclasses.dataclass(frozen=True)
class _Product:
    """`x @ weight + bias`, as one `Gemm` or as a `MatMul` that may have an `Add` behind it."""

    nodes: list[NodeProto]
    weight: Array  # [in, out]
    bias: Array  # [out]
    result: str


def _constant_product(graph: Graph, node: NodeProto) -> _Product | None:
    """Reads a matrix product with a constant; None if the node is something else."""
    if node.op_type not in ("Gemm", "MatMul") or node.input[1] not in graph.weights:
        return None
    if any(_attribute(node, name, default) != default for name, default in _GEMM_DEFAULTS.items()):
        return None
    weight = graph.weights[node.input[1]]
    if weight.ndim != 2:
        return None
    nodes, names = [node], list(node.input[2:])
    if not names:
        shifted = _only_reader(graph, node)
        constants = [graph.weights[name] for name in shifted.input if name in graph.weights]
        if shifted.op_type == "Add" and [value.shape for value in constants] == [weight.shape[1:]]:
            return _Product([node, shifted], weight, constants[0], shifted.output[0])
        return _Product(nodes, weight, np.zeros(weight.shape[1], weight.dtype), node.output[0])
    bias = graph.weights.get(names[0])
    if bias is None or bias.shape != weight.shape[1:]:
        return None
    return _Product(nodes, weight, bias, node.output[0])


def merge_reshapes(graph: Graph) -> None:
    """Removes a `Reshape` that only another `Reshape` reads, if the latter's shape is constant and copies no size."""
    for value in [node.output[0] for node in graph.nodes if node.op_type == "Reshape"]:
        readers = graph.consumers(value)
        if len(readers) != 1 or readers[0].op_type != "Reshape":
            continue
        shape = graph.weights.get(readers[0].input[1])
        if shape is not None and 0 not in shape:
            first = next(node for node in graph.nodes if value in node.output)
            second = NodeProto()
            second.CopyFrom(readers[0])  # Another graph may hold the same node.
            second.input[0] = first.input[0]
            graph.nodes = [second if node is readers[0] else node for node in graph.nodes if node is not first]
    graph.drop_unused_weights()


def half_precision(graph: Graph, prefix: str, sources: list[str], result: str) -> Graph:
    """Returns a copy that takes and gives float32 values and computes in float16.

    Args:
        graph: Graph from `sources` to `result`. Its floating-point constants become float16.
        prefix: Prefix of the new names.
        sources: The graph's floating-point inputs.
        result: The graph's only output.

    Raises:
        ValueError: A weight is too large for float16.
    """
    weights: dict[str, Array] = {}
    kept = {node.input[i] for node in graph.nodes for i in _ALWAYS_FLOAT32.get(node.op_type, ()) if i < len(node.input)}
    for name, value in graph.weights.items():
        is_float = np.issubdtype(value.dtype, np.floating) and name not in kept
        if is_float and np.abs(value).max() > np.finfo(np.float16).max:
            raise ValueError(f"Weight {name} has values beyond float16's range, up to {np.abs(value).max():.3g}.")
        weights[name] = value.astype(np.float16) if is_float else value
    nodes, names = [], {result: f"{prefix}/half_result"}
    for i, source in enumerate(sources, 1):
        names[source] = f"{prefix}/half_source_{i}"
        nodes.append(
            helper.make_node("Cast", [source], [names[source]], f"{prefix}/Cast_to_half_{i}", to=TensorProto.FLOAT16)
        )
    for node in graph.nodes:
        copy = NodeProto()
        copy.CopyFrom(node)
        copy.input[:] = [names.get(value, value) for value in node.input]
        copy.output[:] = [names.get(value, value) for value in node.output]
        nodes.append(copy)
    nodes.append(helper.make_node("Cast", [names[result]], [result], f"{prefix}/Cast_from_half", to=TensorProto.FLOAT))
    return Graph(nodes, weights)


def rename(graph: Graph, prefix: str, kept: dict[str, str]) -> None:
    """Gives nodes, values and constants short names that do not depend on the converter: `frames/Relu_1`, ...

    Args:
        graph: Changed in place.
        prefix: Prefix of every name.
        kept: New names of the graph's own inputs and outputs.
    """
    names = dict(kept)
    counts: dict[str, int] = {}
    for node in graph.nodes:
        count = counts[node.op_type] = counts.get(node.op_type, 0) + 1
        node.name = f"{prefix}/{node.op_type}_{count}"
        for i, value in enumerate(node.input):
            if value in graph.weights and value not in names:
                names[value] = f"{node.name}/{_weight_role(node.op_type, i)}"
        for i, value in enumerate(node.output):
            names.setdefault(value, f"{node.name}:{i}" if i else node.name)
        node.input[:] = [names.get(value, value) for value in node.input]
        node.output[:] = [names[value] for value in node.output]
    graph.weights = {names[name]: value for name, value in graph.weights.items()}


def _weight_role(op_type: str, index: int) -> str:
    if op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return ("input", "weight", "bias")[index]
    return "shape" if op_type in ("Reshape", "Expand") else f"constant_{index}"


def _attribute(node: NodeProto, name: str, default: Any) -> Any:
    for attribute in node.attribute:
        if attribute.name == name:
            return helper.get_attribute_value(attribute)
    return default
