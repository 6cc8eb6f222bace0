"""What an engine may differ from the recorded clips by, and how many CPUs it takes: at the bounds, without a model."""

import pathlib
import types

import numpy as np
import pytest

from mocogan_tf.latents import LatentSpec, sample_latents
from serving.runtime import engine as engines
from serving.runtime.engine import Engine, EngineError, available_cpus

SPEC = LatentSpec(dim_content=3, dim_motion=2, dim_category=0)


def differing(provider, precision, *, video=0.0, state=0.0, content=0.0):
    """An engine whose clips, states and recorded contents differ from the recorded clips by so much."""
    golden = sample_latents(SPEC, 1, 2, seed=7)
    golden["content"] = golden["content"] + np.float32(content)
    golden |= {"video": np.zeros((1, 2, 4, 4, 3)), "motion_state": np.zeros((1, 2)), "seed": np.uint64(7)}
    made = object.__new__(Engine)
    made.bundle = types.SimpleNamespace(golden=lambda: golden, latents=SPEC, folder="here")
    made.provider, made.precision = provider, precision
    made.generate = lambda latents: (golden["video"] + video, golden["motion_state"] - state)
    return made


@pytest.mark.parametrize(
    ("provider", "precision", "limit"),
    [
        ("cpu", "float32", 1e-3),
        ("cuda", "float32", 1e-2),
        ("tensorrt", "float32", 1e-2),
        ("cpu", "float16", 3e-2),
        ("cuda", "float16", 3e-2),
    ],
)
def test_clips_may_differ_from_the_golden_ones_by_so_much_and_no_more(provider, precision, limit):
    assert differing(provider, precision, video=0.95 * limit)._check_golden() == pytest.approx(0.95 * limit)
    with pytest.raises(EngineError, match="differs from its golden.npz"):
        differing(provider, precision, video=1.05 * limit)._check_golden()


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_motion_states_are_compared_as_well(precision):
    differing("cpu", precision, state=0.95e-3)._check_golden()
    for wrong in (1.05e-3, -1.05e-3, np.nan):
        with pytest.raises(EngineError, match="differs from its golden.npz"):
            differing("cpu", precision, state=wrong)._check_golden()


def test_the_golden_seed_must_draw_the_golden_latents():
    differing("cpu", "float32", content=0.5e-5)._check_golden()
    with pytest.raises(EngineError, match="Seed 7 draws another `content`"):
        differing("cpu", "float32", content=1e-3)._check_golden()


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

    monkeypatch.setattr(engines.os, "sched_getaffinity", lambda pid: set(range(affinity)), raising=False)
    monkeypatch.setattr(pathlib.Path, "read_text", read_text)
    assert available_cpus() == cpus
