"""What an engine may differ from the recorded clip by, and how many CPUs it takes: at the bounds."""

import os
import pathlib
import types

import numpy as np
import pytest

from serving.runtime.bundle import read_bundle
from serving.runtime.engine import Engine, EngineError, EngineOptions, available_cpus
from serving.runtime.options import PRECISIONS
from serving.runtime.workers import Choice
from tests.support.made_bundles import write_bundle


@pytest.fixture
def engine_of(tmp_path):
    """Starts an engine on a bundle of which one recorded number is changed: in which array, and by how much."""
    folder = write_bundle(tmp_path / "bundle")
    (folder / "SHA256SUMS").unlink()  # With it, the change itself would be the fault.
    golden = dict(np.load(folder / "golden.npz"))

    def start(name, change):
        changed = golden[name].copy()
        changed.flat[3] += np.float32(change)
        np.savez(folder / "golden.npz", **{**golden, name: changed})
        return Engine(read_bundle(folder), EngineOptions(threads=1, provider="cpu"))

    return start


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", ["video", "motion_state"])
def test_a_recorded_number_may_differ_by_a_thousandth_and_no_more(engine_of, name, sign):
    difference = engine_of(name, sign * 0.95e-3).golden_difference
    if name == "video":
        assert difference == pytest.approx(0.95e-3, abs=1e-5)
    for wrong in (sign * 1.05e-3, np.nan):
        with pytest.raises(EngineError, match="differs from its golden.npz"):
            engine_of(name, wrong)


# The largest difference and the root mean square, as docs/serving.md states them.
BOUNDS = {
    ("cpu", "float32"): (1e-3, 1e-3),
    ("cpu", "float16"): (3e-2, 3e-2),
    ("openvino", "float32"): (1e-3, 1e-3),
    ("openvino", "bfloat16"): (0.5, 1e-2),
    ("cuda", "float32"): (1e-2, 1e-2),
    ("cuda", "float16"): (3e-2, 3e-2),
    ("tensorrt", "float32"): (1e-2, 1e-2),
    ("tensorrt", "float16"): (3e-2, 3e-2),
}


def test_every_provider_and_precision_has_a_stated_bound():
    assert set(BOUNDS) == {(provider, name) for provider, names in PRECISIONS.items() for name in names}


@pytest.mark.parametrize("everywhere", [False, True], ids=["one value", "all values"])
@pytest.mark.parametrize("provider, precision", BOUNDS)
def test_a_providers_frames_may_differ_by_its_bound_and_no_more(engine, provider, precision, everywhere):
    golden = engine._read_golden()
    bound = min(BOUNDS[provider, precision]) if everywhere else BOUNDS[provider, precision][0]

    def check(error):
        video = golden[1].copy()
        if everywhere:
            video += np.float32(error)
        else:
            video.flat[3] += np.float32(error)
        workers = types.SimpleNamespace(
            choice=Choice(provider, precision), widths=engine._workers.widths, render=lambda rows: video
        )
        return engine._check(workers, golden)

    for sign in (1, -1):
        assert check(sign * 0.99 * bound) == pytest.approx(0.99 * bound, rel=1e-3)
        with pytest.raises(EngineError, match="differs from its golden.npz"):
            check(sign * 1.01 * bound)


def test_the_golden_seed_must_draw_the_golden_latents(engine_of):
    engine_of("content", 0.5e-5)
    with pytest.raises(EngineError, match="Seed .* draws another `content`"):
        engine_of("content", 1e-3)


@pytest.mark.parametrize(
    ("affinity", "quota", "cpus"),
    [
        (8, "max 100000", 8),
        (8, "200000 100000", 2),
        (8, "250000 100000", 2),
        (8, "270000 100000", 3),
        (8, "50000 100000", 1),
        (8, "100000 50000", 2),
        (2, "800000 100000", 2),
        (4, None, 4),
        (4, "nonsense", 4),
    ],
)
def test_cpus_are_those_of_the_affinity_and_of_the_control_groups_quota(affinity, quota, cpus, monkeypatch):
    def read_text(path):
        assert str(path) == "/sys/fs/cgroup/cpu.max"
        if quota is None:
            raise FileNotFoundError
        return quota

    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(affinity)), raising=False)
    monkeypatch.setattr(pathlib.Path, "read_text", read_text)
    assert available_cpus() == cpus
