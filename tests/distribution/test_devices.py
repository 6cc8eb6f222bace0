"""Promises of `auto`: profile and precision by what the machine has, each machine a stub."""

import pytest

from mocogan_tf.distribution import devices, hardware

pytestmark = pytest.mark.core


@pytest.fixture
def machine(monkeypatch):
    """Makes TensorFlow see GPUs of these compute capabilities and a CPU of these flags."""

    def make(capabilities=(), flags=()):
        config = devices.tf.config
        monkeypatch.setattr(config, "list_physical_devices", lambda kind=None: list(capabilities))
        details = config.experimental
        monkeypatch.setattr(details, "get_device_details", lambda gpu: {"compute_capability": gpu} if gpu else {})
        monkeypatch.setattr(hardware, "cpu_flags", lambda: set(flags))
        monkeypatch.setattr(hardware, "has_nvidia_gpu", lambda: False)

    return make


@pytest.mark.parametrize(("gpus", "profile"), [(0, "cpu"), (1, "paper"), (4, "paper")])
def test_the_profile_is_papers_where_there_is_a_gpu(gpus, profile, machine, capsys):
    machine([(8, 0)] * gpus)
    assert devices.choose_profile("auto") == profile
    assert f"profile: {profile} (" in capsys.readouterr().out
    for given in ("cpu", "paper", "smoke"):
        assert devices.choose_profile(given) == given
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("capabilities", "flags", "precision"),
    [
        ([], {"avx2", "avx512f"}, "float32"),
        ([], set(), "float32"),
        ([], {"avx512f", "avx512_bf16"}, "mixed_bfloat16"),
        ([], {"avx512f", "amx_bf16"}, "mixed_bfloat16"),
        ([(6, 1)], {"amx_bf16"}, "float32"),
        ([(7, 0)], set(), "mixed_float16"),
        ([(7, 5)], {"amx_bf16"}, "mixed_float16"),
        ([(8, 0)], set(), "mixed_bfloat16"),
        ([(9, 0)], set(), "mixed_bfloat16"),
        ([(12, 0)], set(), "mixed_bfloat16"),
        ([(9, 0), (7, 5)], set(), "mixed_float16"),
        ([None], set(), "float32"),
    ],
)
def test_the_precision_is_what_the_slowest_device_computes_in(capabilities, flags, precision, machine, capsys):
    machine(capabilities, flags)
    assert devices.choose_precision("auto") == precision
    assert capsys.readouterr().out.startswith(f"precision: {precision} (")
    for given in ("float32", "mixed_float16", "mixed_bfloat16"):
        assert devices.choose_precision(given) == given
    assert capsys.readouterr().out == ""
