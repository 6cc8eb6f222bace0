"""No test is left out in silence where every change is checked."""

import types

import pytest

from tests.support.skips import StrictSkips, is_allowed


def skipped(reason, nodeid="tests/a.py::test"):
    return types.SimpleNamespace(skipped=True, longrepr=("a.py", 3, f"Skipped: {reason}"), nodeid=nodeid)


@pytest.mark.parametrize(
    ("reason", "allowed"),
    [
        ("TensorFlow sees no GPU", True),
        ("could not import 'torch': No module named 'torch'", True),
        ("could not import 'torchvision': No module named 'torchvision'", False),
        ("could not import 'tritonclient.http': No module named 'tritonclient'", False),
        ("no dotnet on this machine", True),
        ("no dotnet on this machine today", False),
        ("no network for ONNX Runtime for Java", True),
        ("", False),
    ],
)
def test_only_reasons_of_the_list_are_allowed(reason, allowed):
    assert is_allowed(reason) == is_allowed(f"Skipped: {reason}") == allowed


@pytest.mark.parametrize(("reason", "code"), [("TensorFlow sees no GPU", 0), ("too slow for me", 1)])
def test_another_reason_fails_the_run(reason, code):
    watch = StrictSkips()
    watch.note(skipped("there is one GPU"))
    watch.note(types.SimpleNamespace(skipped=False, longrepr=None, nodeid="tests/b.py::test"))
    watch.note(skipped(reason))
    session = types.SimpleNamespace(exitstatus=pytest.ExitCode.OK)
    watch.pytest_sessionfinish(session)
    assert session.exitstatus == code
    assert watch.wrong == [reason] * code


def test_a_run_that_failed_anyway_keeps_its_code():
    watch = StrictSkips()
    watch.note(skipped("too slow for me"))
    session = types.SimpleNamespace(exitstatus=pytest.ExitCode.INTERRUPTED)
    watch.pytest_sessionfinish(session)
    assert session.exitstatus == pytest.ExitCode.INTERRUPTED
