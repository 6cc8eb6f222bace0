"""The sides of `benchmarks.inference` compute the same clips, its report is consistent, its operations are counted."""

import importlib.util

import numpy as np
import pytest
import tensorflow as tf

from benchmarks import flops, inference, inference_sides, timing
from benchmarks.bundles import make_contract, make_generator
from mocogan_tf.latents import sample_latents
from serving.runtime.bundle import read_bundle

SIZES = {"dim_content": 6, "dim_category": 3, "dim_motion": 5, "image_size": 64, "video_length": 4}
INSTALLED = [name for name in inference.RIVALS[:3] if importlib.util.find_spec(name)]
needs_bench = pytest.mark.skipif("torch" not in INSTALLED, reason="the extra bench is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    inference_sides.prepare(folder, ngf=4, frame_buckets=(4, 8), **SIZES)
    return folder


@needs_bench
@pytest.mark.slow
@pytest.mark.parametrize(("batch", "frames"), [(1, 4), (3, 7)])
def test_all_sides_make_the_same_clips(folder, batch, frames):
    latents = sample_latents(read_bundle(folder / "bundle").latents, batch, frames, seed=3)
    sides = {}
    for library in ("engine", "engine_float32", *INSTALLED):
        sides |= inference_sides.LIBRARIES[library](folder)
    clips = {name: np.array(side(latents)) for name, side in sides.items()}
    assert len(clips) == (10 if "torch" in INSTALLED else 7)
    for name, clip in clips.items():
        assert clip.shape == (batch, frames, 64, 64, 3), name
        halved = inference.is_half(name) or name == "engine"
        np.testing.assert_allclose(clip, clips["engine float32"], atol=0.1 if halved else 1e-4, err_msg=name)
    assert np.ptp(clips["engine"]) > 1  # Else any two would agree.


@needs_bench
@pytest.mark.slow
def test_the_report_compares_the_engine_with_every_rival():
    report = inference.run([1, 2], [4], rounds=2, ngf=4, against=INSTALLED, frame_buckets=(4,), **SIZES)
    assert [(case["batch"], case["frames"]) for case in report["cases"]] == [(1, 4), (2, 4)]
    for case in report["cases"]:
        medians = {name: result["median_s"] for name, result in case["results"].items()}
        rivals = medians.keys() - {"engine", "engine float32", "model.onnx"}
        assert case["ratio_vs"].keys() == rivals
        assert case["ratio"] == min(medians[name] for name in rivals) / medians["engine"]
        single = [medians[name] for name in rivals if not name.endswith("bfloat16")]
        assert case["ratio_float32"] == min(single) / medians["engine float32"]
        share = case["flops"] / medians["engine float32"] / report["matrix_rate"]["float32"]
        assert case["share_of_peak"]["engine float32"] == pytest.approx(share)
    assert report["ratio"] == min(case["ratio"] for case in report["cases"])
    assert max(d for name, d in report["differences"].items() if name == "model.onnx") < inference.TOLERANCE


def test_a_side_that_makes_other_clips_ends_the_comparison():
    clip = np.random.default_rng(0).uniform(-1, 1, (1, 2, 4, 4, 3))
    alike = {"engine float32": clip, "engine": clip + 0.01, "x bfloat16": clip + 0.01, "y": clip + 1e-4}
    assert inference.check_alike(alike)["y"] == pytest.approx(1e-4)
    for name, difference in (("y", 0.01), ("x bfloat16", 0.1)):
        with pytest.raises(SystemExit, match=f"{name} makes other clips"):
            inference.check_alike(alike | {name: clip + difference})


def test_the_rate_of_products_is_the_best_shapes():
    seconds = iter([4.0, 1.0, 2.0])

    def in_turns(sides, rounds, clock):
        return {"product": [next(seconds)]}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "in_turns", in_turns)
        rate = timing.best_rate(lambda values: values, lambda a, b: a @ b)
    assert rate == 2 * np.prod(timing.SHAPES[1], dtype=float)


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
    generator = make_generator(make_contract(**SIZES, frame_buckets=(4,)), ngf=4)
    # Per frame: 1x1 to 4x4, then each doubling from its input's map; 32, 16, 8 and 4 filters, 3 channels.
    per_frame = 2 * 16 * (11 * 32 + 16 * 32 * 16 + 64 * 16 * 8 + 256 * 8 * 4 + 1024 * 4 * 3)
    assert inference_sides.decoder_flops(generator, 5) == 5 * per_frame
