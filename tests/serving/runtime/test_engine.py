"""The engine against plain ONNX Runtime on the whole model, and what it does with bundles that do not fit."""

import json
import logging
import subprocess
import sys
import threading

import numpy as np
import onnxruntime as ort
import pytest

from mocogan_tf.latents import sample_latents
from mocogan_tf.video import to_uint8
from serving.runtime.bundle import read_bundle
from serving.runtime.engine import Engine
from serving.runtime.errors import BundleError
from serving.runtime.onnx_runtime import FrameSession, frame_session
from serving.runtime.options import EngineError, EngineOptions
from serving.runtime.rows import frame_buckets, plan_buckets
from tests.support.made_bundles import BundleSpec, write_bundle

SPECS = {
    "category to motion": BundleSpec(),
    "category to image": BundleSpec(category_to="image"),
    "category to both": BundleSpec(category_to="both"),
    "no category": BundleSpec(categories=()),
    "grey": BundleSpec(channels=1),
}


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
@pytest.mark.parametrize(("num_videos", "num_frames"), [(1, 1), (3, 5), (2, 40)])
def test_the_parts_give_the_video_of_the_whole_model(spec, num_videos, num_frames, tmp_path):
    folder = write_bundle(tmp_path, spec)
    engine = Engine(read_bundle(folder), EngineOptions(threads=1))
    latents = sample_latents(engine.bundle.latents, num_videos, num_frames, seed=3)
    session = ort.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    expected, expected_state = session.run(["video", "motion_state"], latents)
    video, state = engine.generate(latents)
    np.testing.assert_allclose(video, expected, atol=1e-5)
    np.testing.assert_allclose(state, expected_state, atol=1e-6)
    assert video.std() > 0.05  # A constant would agree with a constant.


def test_a_clip_does_not_depend_on_the_batch_that_it_is_in(engine):
    spec = engine.bundle.latents
    together, _ = engine.generate(sample_latents(spec, 5, 16, seed=11))
    for clip in range(5):
        alone, _ = engine.generate(sample_latents(spec, 1, 16, seed=11, first_clip=clip))
        assert np.array_equal(to_uint8(alone[0]), to_uint8(together[clip].copy()))


def test_motion_state_continues_the_clip(engine):
    spec = engine.bundle.latents
    whole, whole_state = engine.generate(sample_latents(spec, 2, 24, seed=5))
    first = sample_latents(spec, 2, 10, seed=5)
    head, state = engine.generate(first)
    rest = sample_latents(spec, 2, 14, seed=5, first_frame=10) | {"motion_init": state}
    tail, end = engine.generate(rest)
    np.testing.assert_allclose(np.concatenate([head, tail], axis=1), whole, atol=1e-5)
    np.testing.assert_allclose(end, whole_state, atol=1e-6)


@pytest.mark.parametrize("pad", [False, True])
@pytest.mark.parametrize("largest", [1, 7, 32, 48])
def test_buckets_hold_all_frames_and_little_else(largest, pad):
    buckets = frame_buckets(largest)
    for num_frames in range(1, 130):
        plan = plan_buckets(num_frames, buckets, pad=pad)
        assert set(plan) <= set(buckets)
        padding = sum(plan) - num_frames
        assert padding == 0 if not pad else 0 <= padding < largest
    assert len(plan_buckets(31, frame_buckets(32), pad=True)) == 1


@pytest.mark.parametrize("provider", ["cpu", "openvino"])
def test_rows_of_several_clips_give_the_frames_that_each_gives_alone(provider, bundle_dir):
    if provider == "openvino":
        pytest.importorskip("openvino")
    engine = Engine(read_bundle(bundle_dir), EngineOptions(provider, "float32", threads=1, max_batch_frames=8))
    rng = np.random.default_rng(0)
    clips = [
        0,
        0,
        0,
        *[1] * 11,
        2,
        3,
        3,
        0,
    ]  # Also one of one frame, one longer than the largest size, one that returns.
    rows = {"content": rng.standard_normal((4, 6), "f")[clips], "motion": rng.standard_normal((len(clips), 4), "f")}
    together = engine.render(rows)
    assert together.shape[0] == len(clips)
    for i, frame in enumerate(together):
        alone = engine.render({name: values[i : i + 1] for name, values in rows.items()})
        np.testing.assert_allclose(frame, alone[0], atol=1e-5)


def test_pixels_follow_the_contract():
    values = np.array([-1.0, 1.0, 0.0, -2.0, 2.0, np.nan, 1 / 255], np.float32)
    # (0 + 1) * 127.5 = 127.5 rounds to even, (1/255 + 1) * 127.5 = 128.0.
    assert to_uint8(values).tolist() == [0, 255, 128, 0, 255, 0, 128]


def test_bound_memory_gives_the_same_frames_call_after_call(engine):
    # What a GPU gets, here with memory of the CPU: inputs replaced in place, one output, results taken out of it.
    shape, options = engine.bundle.frame_shape, EngineOptions()
    session = frame_session(engine.bundle.files["frames"], "cpu", options, 1)
    plain, bound = FrameSession(session, 8, shape), FrameSession(session, 8, shape)
    bound.bind("cpu", 0)
    rng = np.random.default_rng(0)
    kept = []
    for count in (8, 3, 8, 1):
        rows = {"content": rng.standard_normal((count, 6), "f"), "motion": rng.standard_normal((count, 4), "f")}
        kept.append((plain.run(rows), bound.run(rows)))
    for expected, got in kept:  # Compared at the end: a result must not be overwritten by a later call.
        np.testing.assert_allclose(got, expected, atol=1e-6)


def test_a_provider_that_is_not_there_is_an_error_and_auto_falls_back(bundle_dir, monkeypatch):
    bundle = read_bundle(bundle_dir)
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    with pytest.raises(EngineError, match="has no CUDAExecutionProvider"):
        Engine(bundle, EngineOptions(provider="cuda"))
    assert Engine(bundle, EngineOptions(provider="auto")).provider == "cpu"
    # The GPU wheel lists CUDA on machines without a GPU too; then the session silently runs on the CPU.
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    with pytest.raises(EngineError, match="CUDAExecutionProvider"):
        Engine(bundle, EngineOptions(provider="cuda"))
    assert Engine(bundle, EngineOptions(provider="auto")).describe()["provider"] == "CPUExecutionProvider"


class StubGPU:
    """Lets the engine believe in a GPU. Its sessions run on the CPU, and it notes what each was given and where it ran.

    Args:
        fails: Whether a session fails with these options of CUDA, or replays wrongly.
    """

    def __init__(self, monkeypatch, fails=lambda cuda: False):
        self.made, self.run_by, stub, real = [], set(), self, ort.InferenceSession

        class Session:
            def __init__(self, path, options, providers):
                self.session = real(path, options, providers=["CPUExecutionProvider"])
                first, self.cuda = providers[0] if isinstance(providers[0], tuple) else (providers[0], {})
                self.get_providers = lambda: [first]
                self.get_inputs, self.io_binding = self.session.get_inputs, self.session.io_binding
                self.run = self.session.run
                if self.cuda:
                    stub.made.append((self.cuda, threading.get_ident()))

            def run_with_iobinding(self, binding):
                if fails(self.cuda):
                    raise RuntimeError("operation not permitted when stream is capturing")
                stub.run_by.add(threading.get_ident())
                self.session.run_with_iobinding(binding)

        bind = FrameSession.bind
        monkeypatch.setattr(FrameSession, "bind", lambda self, device, device_id: bind(self, "cpu", 0))
        monkeypatch.setattr("serving.runtime.onnx_runtime.has_driver", lambda: True)
        monkeypatch.setattr("serving.runtime.openvino_runtime.installed", lambda: False)
        names = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
        monkeypatch.setattr(ort, "get_available_providers", lambda: names)
        monkeypatch.setattr(ort, "InferenceSession", Session)
        monkeypatch.setattr(ort, "preload_dlls", lambda directory: print("Failed to load libcudnn"), raising=False)


def test_cuda_without_graphs_comes_before_the_cpu(bundle_dir, monkeypatch, caplog):
    StubGPU(monkeypatch, fails=lambda cuda: cuda["enable_cuda_graph"] == "1")
    for provider in ("auto", "cuda"):
        engine = Engine(read_bundle(bundle_dir), EngineOptions(provider=provider, threads=1, cuda_graph=True))
        assert (engine.provider, engine.cuda_graph) == ("cuda", False)
        engine.close()
    assert "with CUDA graphs does not work, trying the next: operation not permitted" in caplog.text


def test_a_gpu_that_always_fails_leaves_the_cpu_and_no_thread(bundle_dir, monkeypatch):
    StubGPU(monkeypatch, fails=lambda cuda: True)
    before = threading.active_count()
    engine = Engine(read_bundle(bundle_dir), EngineOptions(threads=1, cuda_graph=True))
    assert (engine.provider, engine.cuda_graph) == ("cpu", False)
    with pytest.raises(EngineError, match="CUDAExecutionProvider does not work: operation not permitted"):
        Engine(read_bundle(bundle_dir), EngineOptions(provider="cuda", threads=1))
    assert threading.active_count() == before


def test_a_workers_sessions_are_made_tested_and_run_on_one_thread(bundle_dir, monkeypatch):
    """ONNX Runtime keeps captured graphs by thread."""
    stub = StubGPU(monkeypatch)
    engine = Engine(read_bundle(bundle_dir), EngineOptions(threads=1, workers=2, max_batch_frames=8, cuda_graph=True))
    assert engine.cuda_graph
    rows = {"content": np.zeros((3, 6), "f"), "motion": np.zeros((3, 4), "f")}
    for worker in (0, 1):
        server = threading.Thread(target=engine.render, args=(rows, worker))
        server.start()
        server.join()
    makers = {thread for _, thread in stub.made}
    assert len(makers) == 2 and stub.run_by == makers and threading.get_ident() not in makers
    engine.close()


def test_what_onnx_runtime_prints_of_missing_libraries_is_logged(bundle_dir, monkeypatch, caplog, capsys):
    StubGPU(monkeypatch)
    with caplog.at_level(logging.WARNING):
        Engine(read_bundle(bundle_dir), EngineOptions(threads=1)).close()
    assert "Failed to load libcudnn" in caplog.text and capsys.readouterr().out == ""


def test_tensorrt_keeps_what_it_built_in_a_private_folder_of_the_bundle_and_size(bundle_dir, monkeypatch, tmp_path):
    stub, bundle = StubGPU(monkeypatch), read_bundle(bundle_dir)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    options = EngineOptions(provider="tensorrt", threads=1, max_batch_frames=4)
    Engine(bundle, options).close()
    cache = tmp_path / "mocogan-serving"
    folders = [str(cache / "tensorrt" / bundle.digest / f"float32-{size}") for size in (1, 2, 4)]
    assert [given["trt_engine_cache_path"] for given, _ in stub.made] == folders
    assert cache.stat().st_mode & 0o77 == 0
    # Without a folder it starts all the same.
    stub.made.clear()
    monkeypatch.setenv("XDG_CACHE_HOME", str(bundle.files["frames"]))
    Engine(bundle, options).close()
    assert len(stub.made) == 3 and "trt_engine_cache_path" not in stub.made[0][0]


def test_on_the_cpu_all_sizes_of_a_worker_share_the_weights(engine):
    sessions = [frames.session for frames in engine._workers.sessions[0].values()]
    assert len(sessions) > 3 and all(session is sessions[0] for session in sessions)


def test_results_that_are_not_the_golden_ones_stop_the_start(tmp_path):
    folder = write_bundle(tmp_path)
    golden = dict(np.load(folder / "golden.npz"))
    golden["video"] = golden["video"] + 0.01
    np.savez(folder / "golden.npz", **golden)
    (folder / "SHA256SUMS").unlink()
    with pytest.raises(EngineError, match="differs from its golden.npz by 0.01"):
        Engine(read_bundle(folder))
    golden["video"] = golden["video"] * np.nan
    np.savez(folder / "golden.npz", **golden)
    with pytest.raises(EngineError, match="differs"):
        Engine(read_bundle(folder))
    golden["seed"] = 8
    np.savez(folder / "golden.npz", **golden)
    with pytest.raises(EngineError, match="Seed 8 draws another"):
        Engine(read_bundle(folder))


def edit(folder, **facts):
    path = folder / "bundle.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))
    (folder / "SHA256SUMS").unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"format_version": 3}, "`format_version` must be 1 or 2. Received: format_version=3"),
        ({"format_version": 2}, "`format_version` 2 and `content_from` 'noise' must agree"),
        ({"dim_motion": "ten"}, "`dim_motion` must be int. Received: dim_motion='ten'"),
        ({"dim_content": 0}, "`dim_content` must be at least 1"),
        ({"model": "vgan", "dim_z": 100}, r"holds a model \(vgan\) that makes clips of one length.*tf_serving/"),
        ({"categories": ["a"]}, "1 `categories` and `dim_category` 3 must agree"),
        ({"category_to": "decoder"}, "`category_to` must be 'motion', 'image' or 'both'"),
        ({"channels": 4}, "`channels` must be 1 or 3"),
        ({"fps": 0}, r"`fps` must be in \(0, 240\]"),
        ({"name": "a/b"}, "`name` must be printable"),
        ({"files": {"motion": "../motion.onnx"}}, "must lie in the bundle"),
        ({"files": {"motion": "motion.onnx"}}, "lacks the file of role 'frames'"),
        ({"postprocess": "x"}, "`postprocess` must be"),
    ],
)
def test_a_manifest_that_does_not_fit_is_named(tmp_path, facts, message):
    edit(write_bundle(tmp_path), **facts)
    with pytest.raises(BundleError, match=message):
        read_bundle(tmp_path)


def test_a_damaged_file_is_found(tmp_path):
    folder = write_bundle(tmp_path)
    data = bytearray((folder / "frames.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "frames.onnx").write_bytes(data)
    with pytest.raises(BundleError, match="frames.onnx differs from its line in SHA256SUMS"):
        read_bundle(folder)


def test_a_folder_that_is_no_bundle_is_one_line_and_exit_code_1(tmp_path):
    run = [sys.executable, "-m", "serving"]
    result = subprocess.run([*run, f"--bundle={tmp_path}", "--port=0"], capture_output=True, text=True)
    assert result.returncode == 1
    assert "is not a bundle" in result.stderr and len(result.stderr.splitlines()) == 1
    result = subprocess.run([*run, "--bundle=x", "--workers=0"], capture_output=True, text=True)
    assert result.returncode == 1 and result.stderr.startswith("python -m serving: --workers must be positive")


def test_importing_serving_imports_no_tensorflow():
    modules = "serving.app, serving.web.server, serving.client, serving.__main__, serving.load"
    unwanted = ("tensorflow", "keras", "export")
    code = f"import {modules}, sys; print([m for m in {unwanted} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr
