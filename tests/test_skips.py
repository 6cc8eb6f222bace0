"""No test is left out in silence where every change is checked."""

import os
import pathlib
import subprocess
import sys
import types

import pytest

from tests.support.skips import StrictSkips, is_allowed

ROOT = pathlib.Path(__file__).parent.parent


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


def test_two_processes_that_share_the_tests_count_each_skip_once(tmp_path):
    (tmp_path / "pytest.ini").write_text("[pytest]")
    (tmp_path / "test_whole.py").write_text("import pytest; pytest.skip('not today', allow_module_level=True)")
    tests = "import pytest\ndef test_a():\n    pytest.skip('too slow for me')\ndef test_b():\n    pass\n"
    (tmp_path / "test_one.py").write_text(tests)
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-n", "2", "--dist=loadfile", "--strict_skips"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == pytest.ExitCode.TESTS_FAILED, run.stdout + run.stderr
    for reason in ("not today", "too slow for me"):
        assert run.stdout.count(f"DOES NOT ALLOW:    1  {reason}  (") == 1, run.stdout
