"""Which tests may be left out where every change is checked, and why. Any other skip fails a run with --strict_skips.

A tool that a machine lacks is a reason to skip; a tool that is there and fails is a failure.
"""

from __future__ import annotations

import re

import pytest

# Patterns of whole reasons.
ALLOWED = (
    # Hardware.
    r"TensorFlow sees no GPU|there is one GPU|this ONNX Runtime has (CUDA|no TensorRT)",
    r"this processor does not compute in bfloat16",
    # Large packages that `.ci/run` does not install: the extras `bench` and `ray`.
    r"could not import '(torch|ray)': .*|the extra bench is not installed",
    # What a system or a wheel may lack.
    r"needs unshare, of util-linux|needs /dev/full|openssl makes the certificate|prlimit forbids the server to write",
    r"this PyAV has no .*|this wheel of onnxruntime has no shared library to link against",
    # Tested in the environment with tensorflow-io.
    r"needs tensorflow-io \(extra io\)",
    # Programs of other languages with what they fetch, and a browser: their examples are run where they are.
    r"no (cc|c\+\+|cmake|dotnet|java|mcs|mvn|node|npm) on this machine|no Chromium here",
    r"no network for .*",
    # The authors' clips, which are not ours to hand on.
    r"the authors' clips are not beside this checkout|no real clips beside the checkout",
    r"needs the authors' strips in \.\./shared/data/shapes",
    # Containers that may not mount anything.
    r"cannot mount a file system here: .*",
)
_ALLOWED = re.compile("|".join(f"(?:{pattern})" for pattern in ALLOWED), re.DOTALL)


def is_allowed(reason: str) -> bool:
    """Whether a test may be left out for this reason."""
    return bool(_ALLOWED.fullmatch(reason.removeprefix("Skipped: ").strip()))


class StrictSkips:
    """Counts skips by reason, says the numbers at the end, and fails the run for a reason that is not allowed.

    Args:
        whole_files: Whether files that are skipped as a whole count: not where most tests are deselected anyway.
    """

    def __init__(self, whole_files: bool = True) -> None:
        self.whole_files = whole_files
        self.reasons: dict[str, list[str]] = {}

    def note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        """Takes down why a test or a file was left out."""
        if report.skipped and not hasattr(report, "wasxfail"):
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            self.reasons.setdefault(reason.removeprefix("Skipped: ").strip(), []).append(report.nodeid)

    pytest_runtest_logreport = note

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if self.whole_files:
            self.note(report)

    @property
    def wrong(self) -> list[str]:
        """The reasons that are not allowed."""
        return sorted(reason for reason in self.reasons if not is_allowed(reason))

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.wrong and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for reason, tests in sorted(self.reasons.items()):
            word = (
                "skipped" if is_allowed(reason) else "SKIPPED FOR A REASON THAT tests/support/skips.py DOES NOT ALLOW"
            )
            terminalreporter.write_line(f"{word}: {len(tests):4}  {reason.splitlines()[0]}  ({tests[0]})")
