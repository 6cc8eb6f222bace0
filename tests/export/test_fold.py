"""Rewrites of a graph change its nodes and not its result."""

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

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
)

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def run(graph, x, result="y"):
    """Runs a graph from `x` to `result`."""
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "test",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
            [helper.make_tensor_value_info(result, TensorProto.FLOAT, None)],
            [numpy_helper.from_array(value, name) for name, value in graph.weights.items()],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def conv_scale_shift(op_type="ConvTranspose", bias=False):
    inputs = ["x", "w", "b"] if bias else ["x", "w"]
    nodes = [
        helper.make_node(op_type, inputs, ["c"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Mul", ["c", "scale"], ["m"]),
        helper.make_node("Add", ["shift", "m"], ["a"]),
        helper.make_node("Relu", ["a"], ["y"]),
    ]
    weights = {"w": normal(4, 4, 4, 4), "scale": normal(1, 4, 1, 1), "shift": normal(1, 4, 1, 1)}
    return Graph(nodes, weights | ({"b": normal(4)} if bias else {}))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("op_type", ["Conv", "ConvTranspose"])
def test_scale_and_shift_vanish_into_the_convolution(op_type, bias):
    graph, x = conv_scale_shift(op_type, bias), normal(2, 4, 6, 6)
    before = run(graph, x)
    fold_scale_and_shift(graph)
    assert [node.op_type for node in graph.nodes] == [op_type, "Relu"]
    assert set(graph.weights) == set(graph.nodes[0].input[1:])
    np.testing.assert_allclose(run(graph, x), before, atol=2e-5)


def test_a_convolution_that_others_read_is_left_alone():
    graph = conv_scale_shift()
    graph.nodes[-1:] = [helper.make_node("Concat", ["a", "c"], ["y"], axis=1)]
    x = normal(1, 4, 6, 6)
    before = run(graph, x)
    fold_scale_and_shift(graph)
    assert [node.op_type for node in graph.nodes] == ["ConvTranspose", "Mul", "Add", "Concat"]
    np.testing.assert_array_equal(run(graph, x), before)


def test_a_scale_that_is_not_per_channel_is_left_alone():
    graph = conv_scale_shift()
    graph.weights["scale"] = normal(1, 4, 12, 12)
    fold_scale_and_shift(graph)
    assert [node.op_type for node in graph.nodes] == ["ConvTranspose", "Mul", "Add", "Relu"]


def test_a_convolution_whose_weights_are_computed_is_left_alone():
    graph, x = conv_scale_shift(), normal(1, 4, 6, 6)
    graph.nodes.insert(0, helper.make_node("Tanh", ["kernel"], ["w"]))
    graph.weights["kernel"] = graph.weights.pop("w")
    before, kinds = run(graph, x), [node.op_type for node in graph.nodes]
    fold_scale_and_shift(graph)
    assert [node.op_type for node in graph.nodes] == kinds
    np.testing.assert_array_equal(run(graph, x), before)


def first_layer(**attributes):
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["map"]),
        helper.make_node("ConvTranspose", ["map", "w", "b"], ["y"], **attributes),
    ]
    return Graph(nodes, {"shape": np.array([-1, 5, 1, 1]), "w": normal(5, 3, 4, 4), "b": normal(3)})


def test_the_first_layer_becomes_a_matrix_product():
    graph, x = first_layer(strides=[1, 1], pads=[0, 0, 0, 0]), normal(7, 5)
    before = run(graph, x)
    project_first_map(graph)
    assert [node.op_type for node in graph.nodes] == ["Gemm", "Reshape"]
    np.testing.assert_allclose(run(graph, x), before, atol=1e-5)


def test_a_first_layer_with_padding_is_left_alone():
    graph = first_layer(pads=[1, 1, 1, 1])
    project_first_map(graph)
    assert [node.op_type for node in graph.nodes] == ["Reshape", "ConvTranspose"]


def begins_with(op_type, bias, **attributes):
    inputs = ["x", "w", "b"] if bias else ["x", "w"]
    nodes = [helper.make_node(op_type, inputs, ["p"], **attributes), helper.make_node("Tanh", ["p"], ["y"])]
    return Graph(nodes, {"w": normal(5, 3)} | ({"b": normal(3)} if bias else {}))


@pytest.mark.parametrize(("op_type", "bias"), [("Gemm", True), ("Gemm", False), ("MatMul", False)])
def test_a_first_product_is_taken_off(op_type, bias):
    graph, x = begins_with(op_type, bias), normal(7, 5)
    rest, value, weight, shift = take_first_product(graph, "x", 5)
    assert [node.op_type for node in rest.nodes] == ["Tanh"]
    assert rest.nodes[0].input[0] == value
    assert rest.weights == {}
    np.testing.assert_allclose(np.tanh(x @ weight + shift), run(graph, x), atol=1e-6)


@pytest.mark.parametrize(
    "graph",
    [
        begins_with("Gemm", True, alpha=2.0),
        begins_with("Gemm", True, transA=1),
        Graph([helper.make_node("Relu", ["x"], ["y"])], {}),
        Graph([helper.make_node("MatMul", ["w", "x"], ["y"])], {"w": normal(5, 5)}),
        Graph([*begins_with("Gemm", True).nodes[:1], helper.make_node("Add", ["x", "p"], ["y"])], {"w": normal(5, 5)}),
    ],
    ids=["scaled", "transposed", "another operator", "from the left", "input read twice"],
)
def test_a_graph_that_begins_otherwise_gets_the_identity(graph):
    rest, value, weight, shift = take_first_product(graph, "x", 5)
    assert rest is graph
    assert value == "x"
    np.testing.assert_array_equal(weight, np.eye(5))
    np.testing.assert_array_equal(shift, np.zeros(5))


def modulated():
    """A first product of 5 columns to 12, and scales of 3 and 4 channels by the first two columns."""
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["first"]),
        helper.make_node("Slice", ["x", "starts", "ends", "axes"], ["columns"]),
        helper.make_node("MatMul", ["columns", "w_1"], ["p_1"]),
        helper.make_node("Add", ["p_1", "b_1"], ["gains_1"]),
        helper.make_node("MatMul", ["columns", "w_2"], ["p_2"]),
        helper.make_node("Add", ["b_2", "p_2"], ["gains_2"]),
        helper.make_node("Concat", ["gains_2", "first", "gains_1"], ["y"], axis=1),
    ]
    weights = {"w": normal(5, 12), "b": normal(12), "w_1": normal(2, 3), "b_1": normal(3)}
    weights |= {"w_2": normal(2, 4), "b_2": normal(4), "starts": np.array([0, 0], np.int64)}
    ends = np.array([2**31 - 1, 2], np.int64)
    return Graph(nodes, weights | {"ends": ends, "axes": np.array([0, 1], np.int64)})


def test_products_of_a_code_and_of_its_first_columns_become_one():
    graph, x = modulated(), normal(4, 5)
    before = run(graph, x)
    join_products(graph, "x")
    assert [node.op_type for node in graph.nodes] == ["Gemm", "Split", "Concat"]
    np.testing.assert_allclose(run(graph, x), before, atol=1e-6)
    rest, _, weight, _ = take_first_product(graph, "x", 5)
    assert weight.shape == (5, 12 + 3 + 4) and rest.nodes[0].op_type == "Split"


def test_products_without_biases_become_one_too():
    graph, x = modulated(), normal(4, 5)
    del graph.nodes[3], graph.nodes[0].input[2:]
    graph.nodes[5].input[2] = "p_1"
    before = run(graph, x)
    join_products(graph, "x")
    assert [node.op_type for node in graph.nodes] == ["Gemm", "Split", "Concat"]
    np.testing.assert_allclose(run(graph, x), before, atol=1e-6)


def not_from_the_first(graph):
    graph.weights["starts"][1], graph.weights["ends"][1] = 1, 3


def not_every(graph):
    graph.weights |= {"steps": np.array([1, 2], np.int64), "ends": np.array([2**31 - 1, 4], np.int64)}
    graph.nodes[1].input.append("steps")


def not_multiplied(graph):
    graph.nodes[2].op_type, graph.weights["w_1"] = "Add", normal(1, 2)
    graph.nodes[3].op_type, graph.weights["b_1"] = "Mul", normal(2)


def not_constant(graph):
    graph.nodes.insert(0, helper.make_node("Identity", ["kernel"], ["w"]))
    graph.weights["kernel"] = graph.weights.pop("w")


@pytest.mark.parametrize("change", [not_from_the_first, not_every, not_multiplied, not_constant])
def test_other_products_stay(change):
    graph, x = modulated(), normal(4, 5)
    change(graph)
    before, nodes = run(graph, x), len(graph.nodes)
    join_products(graph, "x")
    assert len(graph.nodes) == nodes
    np.testing.assert_array_equal(run(graph, x), before)


def scaled_channels(shape):
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["sizes"], axes=[2, 3]),
        helper.make_node("Reshape", ["sizes", "shape"], ["scale"]),
        helper.make_node("Transpose", ["x"], ["last"], perm=[0, 2, 3, 1]),
        helper.make_node("Mul", ["last", "scale"], ["scaled"]),
        helper.make_node("Relu", ["scaled"], ["positive"]),
        helper.make_node("Transpose", ["positive"], ["y"], perm=[0, 3, 1, 2]),
    ]
    return Graph(nodes, {"shape": np.array(shape, np.int64)})


@pytest.mark.parametrize(("shape", "left"), [((-1, 1, 1, 4), 4), ((-1, 1, 4, 1), 6)], ids=["channels", "a row"])
def test_a_scale_of_channels_needs_no_transpose(shape, left):
    graph, x = scaled_channels(shape), normal(2, 4, 4, 4)
    before = run(graph, x)
    scale_channels_in_place(graph)
    assert len(graph.nodes) == left
    np.testing.assert_array_equal(run(graph, x), before)


def reshapes(*shapes):
    values = ["x", *(f"r{i}" for i in range(1, len(shapes))), "y"]
    nodes = [helper.make_node("Reshape", [values[i], f"s{i}"], [values[i + 1]]) for i in range(len(shapes))]
    return Graph(nodes, {f"s{i}": np.array(shape, np.int64) for i, shape in enumerate(shapes)})


@pytest.mark.parametrize(
    ("shapes", "left"),
    [([(-1, 6), (-1, 2, 3)], 1), ([(-1, 6), (3, -1), (-1, 2, 3)], 1), ([(-1, 6), (0, 2, 3)], 2)],
    ids=["two", "three", "copies a size"],
)
def test_only_the_last_of_several_reshapes_is_kept(shapes, left):
    graph, x = reshapes(*shapes), normal(4, 6)
    before = run(graph, x)
    merge_reshapes(graph)
    assert len(graph.nodes) == left
    np.testing.assert_array_equal(run(graph, x), before)


def test_half_precision_is_near_and_keeps_the_interface():
    graph, x = conv_scale_shift(), normal(2, 4, 6, 6)
    half = half_precision(graph, "half", ["x"], "y")
    expected, found = run(graph, x), run(half, x)
    assert found.dtype == np.float32
    assert 0 < np.abs(found - expected).max() < 2e-2 * np.abs(expected).max()
    assert {value.dtype for value in half.weights.values()} == {np.dtype(np.float16)}


def test_half_precision_leaves_the_scales_of_a_resize_in_float32():
    nodes = [
        helper.make_node("Resize", ["x", "region", "scales"], ["large"], mode="linear"),
        helper.make_node("Mul", ["large", "factor"], ["y"]),
    ]
    constants = {"region": np.empty(0, np.float32), "scales": np.array([1, 1, 2, 2], np.float32), "factor": normal(1)}
    graph, x = Graph(nodes, constants), normal(2, 3, 4, 4)
    half = half_precision(graph, "half", ["x"], "y")
    assert half.weights["scales"].dtype == np.float32 and half.weights["factor"].dtype == np.float16
    np.testing.assert_allclose(run(half, x), run(graph, x), atol=1e-2)


def test_a_weight_beyond_half_precision_is_refused():
    graph = conv_scale_shift()
    graph.weights["w"][0] = 7e4
    with pytest.raises(ValueError, match="Weight w has values beyond float16's range, up to 7e"):
        half_precision(graph, "half", ["x"], "y")


def test_names_do_not_depend_on_the_converter():
    graph, x = conv_scale_shift(), normal(2, 4, 6, 6)
    before = run(graph, x)
    rename(graph, "frames", {"y": "pictures"})
    assert [node.name for node in graph.nodes] == [
        "frames/ConvTranspose_1",
        "frames/Mul_1",
        "frames/Add_1",
        "frames/Relu_1",
    ]
    assert "frames/ConvTranspose_1/weight" in graph.weights
    np.testing.assert_array_equal(run(graph, x, "pictures"), before)
