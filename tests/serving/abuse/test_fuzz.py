"""A short run of the fuzzer: the same requests every time."""

import pytest

from tests.serving.abuse import fuzz


@pytest.mark.slow
def test_four_hundred_hostile_requests_leave_the_server_well(capsys):
    assert fuzz.main(["--seed=3", "--requests=400", "--minutes=3"]) == 0, capsys.readouterr().out
