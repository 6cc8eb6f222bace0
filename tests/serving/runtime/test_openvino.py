"""The engine on OpenVINO: the same clips, how it is chosen among providers, and what happens where it cannot run."""

import re
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("openvino")

import openvino
from openvino import opset13 as ops

from mocogan_tf.latents import sample_latents
from serving.runtime import openvino_runtime
from serving.runtime.bundle import read_bundle
from serving.runtime.engine import Engine
from serving.runtime.onnx_runtime import FrameSession
from serving.runtime.openvino_runtime import FrameRequest
from serving.runtime.options import PRECISIONS, TOLERANCES, EngineError, EngineOptions, available_cpus
from tests.support.made_bundles import BundleSpec, write_bundle

SPECS = {
    "category to motion": BundleSpec(),
    "category to image": BundleSpec(category_to="image"),
    "no category": BundleSpec(categories=()),
    "grey": BundleSpec(channels=1),
}


def made(bundle, **options):
    return Engine(bundle, EngineOptions(**{"provider": "openvino", "threads": 1, **options}))


@pytest.mark.parametrize("precision", PRECISIONS["openvino"])
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
def test_a_seed_is_the_same_clip_on_openvino(spec, precision, tmp_path):
    if precision == "bfloat16" and not openvino_runtime.has_bfloat16():
        pytest.skip("this processor does not compute in bfloat16")
    bundle = read_bundle(write_bundle(tmp_path, spec))
    plain, engine = made(bundle, provider="cpu"), made(bundle, precision=precision)
    assert (engine.provider, engine.precision) == ("openvino", precision)
    largest, root_mean_square = TOLERANCES["openvino", precision]
    for num_videos, num_frames in ((1, 1), (3, 5), (2, 40)):
        latents = sample_latents(bundle.latents, num_videos, num_frames, seed=num_frames)
        (video, state), (expected, expected_state) = engine.generate(latents), plain.generate(latents)
        assert np.abs(video - expected).max() <= largest
        assert np.sqrt(np.mean((video - expected) ** 2)) <= root_mean_square
        np.testing.assert_array_equal(state, expected_state)
        first = {name: value[:, :1] if name == "motion_noise" else value for name, value in latents.items()}
        head, state = engine.generate(first)
        rest = latents | {"motion_noise": latents["motion_noise"][:, 1:], "motion_init": state}
        if num_frames > 1:
            np.testing.assert_allclose(np.concatenate([head, engine.generate(rest)[0]], 1), video, atol=largest)


@pytest.mark.parametrize("precision", PRECISIONS["openvino"])
def test_workers_share_a_model_and_its_threads_and_may_render_at_one_time(precision, bundle_dir):
    if precision == "bfloat16" and not openvino_runtime.has_bfloat16():
        pytest.skip("this processor does not compute in bfloat16")
    engine = made(read_bundle(bundle_dir), workers=2, threads=1, max_batch_frames=4, precision=precision)
    compiled = [sessions[4]._request.get_compiled_model() for sessions in engine._workers.sessions]
    assert {model.get_property("INFERENCE_NUM_THREADS") for model in compiled} == {min(2, available_cpus())}
    latents = sample_latents(engine.bundle.latents, 2, 5, seed=3)
    np.testing.assert_array_equal(engine.generate(latents, 0)[0], engine.generate(latents, 1)[0])


def doubling(kernel, channels, filters, stride=2, padding=None):
    """A model with one transposed convolution."""
    weights = np.random.default_rng(kernel).standard_normal((channels, filters, kernel, kernel), dtype=np.float32)
    pads = [kernel // 2 - 1 if padding is None else padding] * 2
    value = ops.parameter([2, channels, 5, 3], np.float32)
    result = ops.convolution_backprop_data(
        value, ops.constant(weights), strides=[stride] * 2, pads_begin=pads, pads_end=pads, dilations=[1, 1]
    )
    return openvino.Model([result], [value])


@pytest.mark.parametrize("kernel", [2, 4, 6, 8])
def test_a_transposed_convolution_that_doubles_a_map_becomes_the_same_convolution(kernel):
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    value = np.random.default_rng(0).standard_normal((2, 5, 5, 3), dtype=np.float32)
    model = doubling(kernel, 5, 3)
    (expected,) = openvino.compile_model(model, "CPU", options)(value).values()
    assert openvino_runtime.rewrite_doublings(model) == 1
    kinds = {node.get_type_name() for node in model.get_ordered_ops()}
    assert "DepthToSpace" in kinds and "ConvolutionBackpropData" not in kinds
    (found,) = openvino.compile_model(model, "CPU", options)(value).values()
    assert found.shape == expected.shape == (2, 3, 10, 6)
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize(
    "other", [{"kernel": 4, "stride": 1}, {"kernel": 3, "padding": 1}, {"kernel": 4, "padding": 0}]
)
def test_other_transposed_convolutions_stay(other):
    assert openvino_runtime.rewrite_doublings(doubling(channels=2, filters=3, **other)) == 0


@pytest.mark.parametrize(("slow", "chosen"), [(FrameSession, "openvino"), (FrameRequest, "cpu")])
def test_auto_takes_the_faster_one_and_says_so(slow, chosen, bundle_dir, monkeypatch):
    run = slow.run
    monkeypatch.setattr(slow, "run", lambda self, rows: time.sleep(0.05) or run(self, rows))
    engine = made(read_bundle(bundle_dir), provider="auto", max_batch_frames=16)
    assert engine.provider == chosen
    times = re.findall(r"(\w+) in \w+ ([\d.]+) ms", engine.describe()["chosen"])
    assert [name for name, _ in times] == ["CPUExecutionProvider", "OpenVINO"]
    assert (float(times[0][1]) > float(times[1][1])) == (chosen == "openvino")


def test_where_it_does_not_run_auto_takes_the_cpu_with_one_warning_and_its_name_is_an_error(
    bundle_dir, monkeypatch, caplog
):
    bundle = read_bundle(bundle_dir)

    def broken():
        raise ImportError("libopenvino.so: cannot open shared object file")

    monkeypatch.setattr(openvino_runtime, "_core", broken)
    assert made(bundle, provider="auto").provider == "cpu"
    (record,) = caplog.records
    assert record.message.startswith("OpenVINO does not work, using CPUExecutionProvider in float32 instead: libopenv")
    with pytest.raises(EngineError, match="OpenVINO does not work: libopenvino.so"):
        made(bundle)


def test_where_it_is_not_installed_auto_measures_nothing(bundle_dir, monkeypatch, caplog):
    bundle = read_bundle(bundle_dir)
    monkeypatch.setattr(openvino_runtime, "installed", lambda: False)
    engine = made(bundle, provider="auto")
    assert (engine.provider, engine.chosen) == ("cpu", "the only one that works here") and not caplog.records
    with pytest.raises(EngineError, match="OpenVINO is not installed. Install it: pip install openvino, or start"):
        made(bundle)
    with pytest.raises(EngineError, match="No provider that is installed computes in bfloat16. OpenVINO is not"):
        made(bundle, provider="auto", precision="bfloat16")


def test_a_processor_without_bfloat16_computes_in_float32_unless_bfloat16_was_asked_for(bundle_dir, monkeypatch):
    bundle = read_bundle(bundle_dir)
    monkeypatch.setattr(openvino_runtime, "has_bfloat16", lambda: False)
    assert made(bundle).precision == "float32"
    for provider in ("auto", "openvino"):
        with pytest.raises(EngineError, match="This processor does not compute in bfloat16"):
            made(bundle, provider=provider, precision="bfloat16")


def test_a_bundle_that_fails_its_check_on_openvino_runs_on_the_cpu(bundle_dir, monkeypatch, caplog):
    bundle = read_bundle(bundle_dir)
    for precision in PRECISIONS["openvino"]:
        monkeypatch.setitem(TOLERANCES, ("openvino", precision), (0.0, 0.0))
    assert made(bundle, provider="auto").provider == "cpu"
    assert "using CPUExecutionProvider in float32 instead" in caplog.text and "golden.npz by" in caplog.text
    with pytest.raises(EngineError, match="on OpenVINO in .* differs from its golden.npz"):
        made(bundle)


def test_a_precision_that_the_provider_does_not_know_is_one_line_and_exit_code_1(bundle_dir):
    command = [sys.executable, "-m", "serving", f"--bundle={bundle_dir}", "--port=0", "--provider=cpu"]
    result = subprocess.run([*command, "--precision=bfloat16"], capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr == (
        "python -m serving: --provider=cpu computes in float32 or float16. Received: --precision=bfloat16\n"
    )
