"""What cannot start says so in one line that names the flag or the file, before anything is loaded where it can."""

import pytest

from serving.__main__ import main


def refusal(capsys, *flags):
    """The one line of a start that fails."""
    assert main([*flags, "--log_level=error"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("python -m serving: ")
    return line


@pytest.mark.parametrize("flag", ["--port=65536", "--port=-1", "--grpc_port=99999"])
def test_ports_are_in_range(capsys, flag):
    assert f"must be in [0, 65535]. Received: {flag}" in refusal(capsys, "--bundle=none", flag)
