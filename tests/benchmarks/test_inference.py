"""The sides of `benchmarks.inference` compute the same clips, its report is consistent, its operations are counted."""

import numpy as np
import pytest

pytest.importorskip("torch")

import tensorflow as tf

from benchmarks import flops, inference
from mocogan_tf.latents import sample_latents

SIZES = {"dim_content": 6, "dim_category": 3, "dim_motion": 5, "image_size": 64, "video_length": 4}


@pytest.fixture(scope="module")
def sides(tmp_path_factory):
    contract = inference.make_contract(**SIZES, frame_buckets=(4, 8))
    generator = inference.make_generator(contract, ngf=4)
    return contract, inference.make_sides(generator, contract, tmp_path_factory.mktemp("made") / "bundle")


@pytest.mark.slow
@pytest.mark.parametrize(("batch", "frames"), [(1, 4), (3, 7)])
def test_all_sides_make_the_same_clips(sides, batch, frames):
    contract, made = sides
    latents = sample_latents(contract.latents, batch, frames, seed=3)
    clips = {name: np.array(side(latents)) for name, side in made.items()}
    assert len(clips) == 7
    for name, clip in clips.items():
        assert clip.shape == (batch, frames, 64, 64, 3), name
        np.testing.assert_allclose(clip, clips["engine"], atol=1e-4, err_msg=name)
    assert np.ptp(clips["engine"]) > 1  # Else any two would agree.


@pytest.mark.slow
def test_the_report_compares_the_engine_with_every_rival():
    report = inference.run([1, 2], [4], rounds=2, ngf=4, frame_buckets=(4,), **SIZES)
    assert [(case["batch"], case["frames"]) for case in report["cases"]] == [(1, 4), (2, 4)]
    for case in report["cases"]:
        medians = {name: result["median_s"] for name, result in case["results"].items()}
        assert case["ratio_vs"].keys() == medians.keys() - {"engine", "model.onnx"}
        assert case["ratio"] == min(medians[name] for name in case["ratio_vs"]) / medians["engine"]
        assert case["share_of_peak"] == pytest.approx(case["flops"] / medians["engine"] / report["matrix_rate"])
    assert report["ratio"] == min(case["ratio"] for case in report["cases"])
    assert report["largest_difference"] < inference.TOLERANCE


def graph_of(function, *shapes):
    specs = [tf.TensorSpec(shape, tf.float32) for shape in shapes]
    return tf.function(function, autograph=False).get_concrete_function(*specs).graph


def test_operations_of_products_and_convolutions_are_two_per_multiplication():
    assert flops.count(graph_of(tf.matmul, (3, 5), (5, 7))) == 2 * 3 * 5 * 7
    conv = lambda x, w: tf.nn.conv2d(x, w, 2, "SAME")  # noqa: E731
    shapes = ((2, 8, 8, 3), (4, 4, 3, 5))
    forward = 2 * (2 * 4 * 4 * 5) * (4 * 4 * 3)
    assert flops.count(graph_of(conv, *shapes)) == forward

    def backward(x, w):
        with tf.GradientTape() as tape:
            tape.watch([x, w])
            y = tf.reduce_sum(conv(x, w) ** 2)
        return tape.gradient(y, [x, w])

    assert flops.count(graph_of(backward, *shapes)) == 3 * forward
    conv3 = lambda x, w: tf.nn.conv3d(x, w, (1, 1, 2, 2, 1), "VALID")  # noqa: E731
    assert flops.count(graph_of(conv3, (2, 5, 8, 8, 3), (4, 4, 4, 3, 6))) == 2 * (2 * 2 * 3 * 3 * 6) * (64 * 3)


def test_the_decoders_operations_are_those_of_its_formula():
    contract = inference.make_contract(**SIZES, frame_buckets=(4,))
    generator = inference.make_generator(contract, ngf=4)
    # Per frame: 1x1 to 4x4, then each doubling from its input's map; 32, 16, 8 and 4 filters, 3 channels.
    per_frame = 2 * 16 * (11 * 32 + 16 * 32 * 16 + 64 * 16 * 8 + 256 * 8 * 4 + 1024 * 4 * 3)
    assert inference.decoder_flops(generator, 5) == 5 * per_frame
