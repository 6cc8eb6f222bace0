"""Promises of the feature networks that a person brings: layouts, ranges, sizes, and what is said of unfit files."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from mocogan_tf.metrics.features import OnnxFeatures, as_probabilities, resized
from mocogan_tf.video import from_uint8

rng = np.random.default_rng(0)
LETTERS = {"NCTHW": 5, "NTHWC": 5, "NCHW": 4, "NHWC": 4}


def mean_network(path, layout, sizes=None, element=TensorProto.FLOAT, inputs=1, outputs=1, channels=3):
    """Writes a network that gives the mean of every channel, `[N, 3]`."""
    sizes = {"C": channels, **(sizes or {})}
    shape = [sizes.get(letter, letter.lower()) for letter in layout]
    axes = [i for i, letter in enumerate(layout) if letter not in "NC"]
    nodes = [
        helper.make_node("Cast", ["clips"], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["cast"], ["features"], axes=axes, keepdims=0),
        *[helper.make_node("Identity", ["features"], [f"more_{i}"]) for i in range(outputs - 1)],
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "mean",
        [value("clips", element, shape), *[value(f"extra_{i}", element, [1]) for i in range(inputs - 1)]],
        [value(name, TensorProto.FLOAT, ["n", 3]) for name in ["features", *(f"more_{i}" for i in range(outputs - 1))]],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))
    return path


@pytest.mark.parametrize("layout", LETTERS)
def test_every_layout_gives_the_mean_of_the_channels(layout, tmp_path):
    network = OnnxFeatures(mean_network(tmp_path / "net.onnx", layout), rank=LETTERS[layout])
    assert network.layout == layout
    frames = rng.integers(0, 256, (5, 4, 8, 6, 3) if "T" in layout else (5, 8, 6, 3)).astype(np.uint8)
    expected = from_uint8(frames).mean(axis=tuple(range(1, frames.ndim - 1)))
    np.testing.assert_allclose(network(frames, batch_size=2), expected, atol=1e-5)


def test_uint8_inputs_get_pixels(tmp_path):
    network = OnnxFeatures(mean_network(tmp_path / "net.onnx", "NHWC", element=TensorProto.UINT8), rank=4)
    frames = rng.integers(0, 256, (2, 4, 4, 3)).astype(np.uint8)
    np.testing.assert_allclose(network(frames), frames.mean(axis=(1, 2)), rtol=1e-5)


def test_frames_are_resized_to_what_the_file_fixes_and_grey_becomes_three_channels(tmp_path):
    network = OnnxFeatures(mean_network(tmp_path / "net.onnx", "NCHW", {"H": 24, "W": 32}), rank=4)
    frames = np.full((2, 8, 8, 1), 51, np.uint8)
    np.testing.assert_allclose(network(frames), np.full((2, 3), from_uint8(51)), atol=1e-6)
    assert resized(frames, 24, 32).shape == (2, 24, 32, 1)


def test_the_name_has_the_file_and_its_hash(tmp_path):
    name = OnnxFeatures(mean_network(tmp_path / "net.onnx", "NCHW"), rank=4).name
    assert name.startswith("net.onnx sha256:") and len(name.split(":")[1]) == 12


@pytest.mark.parametrize(
    ("options", "rank", "words"),
    [
        ({"layout": "NCHW"}, 5, ["NCTHW or NTHWC", r"clips tensor\(float\) \['n', 3, 'h', 'w'\]"]),
        ({"layout": "NTHWC"}, 4, ["NCHW or NHWC", "Found: clips"]),
        ({"layout": "NCHW", "channels": 7}, 4, ["C = 3 or 1", "7"]),
        ({"layout": "NCHW", "sizes": {"W": 3}}, 4, ["C = 3 or 1", "Found"]),
        ({"layout": "NCHW", "inputs": 2}, 4, ["must have one input", "extra_0"]),
        ({"layout": "NCHW", "outputs": 2}, 4, ["exactly one output", "more_0"]),
        ({"layout": "NCHW", "element": TensorProto.DOUBLE}, 4, ["float32", "double"]),
    ],
)
def test_unfit_files_are_refused_in_one_line_that_says_what_was_expected_and_found(options, rank, words, tmp_path):
    path = mean_network(tmp_path / "net.onnx", **options)
    with pytest.raises(ValueError) as raised:
        OnnxFeatures(path, rank)
    assert "\n" not in str(raised.value)
    for word in words:
        assert raised.match(word)


def test_a_file_that_is_missing_or_no_model_is_refused_in_one_line(tmp_path):
    with pytest.raises(ValueError, match="Cannot read the feature network .*No such file"):
        OnnxFeatures(tmp_path / "none.onnx", 5)
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(ValueError, match="is no model that ONNX Runtime can load"):
        OnnxFeatures(tmp_path / "text.onnx", 5)


def test_a_fixed_number_of_frames_must_be_that_of_the_clips(tmp_path):
    network = OnnxFeatures(mean_network(tmp_path / "net.onnx", "NCTHW", {"T": 16}), rank=5)
    with pytest.raises(ValueError, match="takes clips of 16 frames. Received: clips of 4 frames"):
        network(np.zeros((2, 4, 8, 8, 3), np.uint8))


def test_logits_become_probabilities_and_probabilities_stay():
    logits = rng.normal(size=(4, 5))
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(as_probabilities(logits), expected)
    np.testing.assert_allclose(as_probabilities(expected), expected)
