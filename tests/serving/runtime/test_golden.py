"""What an engine may differ from the recorded clip by, and how many CPUs it takes: at the bounds."""

import os
import pathlib

import numpy as np
import pytest

from serving.runtime.bundle import read_bundle
from serving.runtime.engine import Engine, EngineError, EngineOptions, available_cpus
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
