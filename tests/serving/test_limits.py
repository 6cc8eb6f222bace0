"""The documented limits are those in force: docs/serving.md says them in words, this table in numbers."""

import pathlib

import httpx
import pytest
from starlette.testclient import TestClient

from serving.__main__ import command_line
from serving.app import create_app
from serving.protocols import stream
from serving.runtime import intake
from serving.runtime.errors import Overloaded
from serving.runtime.repository import BatchOptions
from serving.runtime.service import Limits
from serving.web import connections
from tests.serving.web.test_connections import in_this_process
from tests.support.servers import make_service

PAGE = (pathlib.Path(__file__).parents[2] / "docs" / "serving.md").read_text()
MIB = 2**20


def test_the_flags_have_the_documented_defaults():
    line = command_line()
    line.parse([])
    expected = {
        "host": "127.0.0.1", "api_key_file": None, "allow_host": [], "allow_origin": [], "workers": 1,
        "spinning": False, "provider": "auto", "max_wait": 0.25, "max_queue_frames": 512, "max_total_frames": 1024,
        "max_videos": 64, "max_frames": 1024, "timeout": 30.0, "max_connections": 1024,
        "max_connections_per_address": 256, "drain_delay": 2.0, "grace_seconds": 30, "tls_cert": None, "tls_key": None,
    }  # fmt: skip
    assert {name: line.values[name].value for name in expected} == expected
    for name in expected:
        assert f"`--{name}`" in PAGE, name


@pytest.mark.parametrize(
    ("value", "number", "words"),
    [
        (Limits().body_seconds, 10, "the body did not come in 10 s"),
        (Limits().write_seconds, 20, "| 20 s, and a second more for each MiB |"),
        (Limits().min_bytes_per_second, MIB, "| 20 s, and a second more for each MiB |"),
        (Limits().max_unsent_bytes, 256 * MIB, "| 256 MiB in all, 128 MiB for one address;"),
        (Limits().max_streams, 64, "| `--max_streams` 64, "),
        (connections.HEADER_SECONDS, 10, "| 10 s each; the header 64 kB |"),
        (connections.HEADER_BYTES, 2**16, "| 10 s each; the header 64 kB |"),
        (connections.IDLE_SECONDS, 75, "| idle between two requests | 75 s |"),
        (connections.HEALTH_ROOM, 32, "| 32, each for 2 s:"),
        (connections.HEALTH_SECONDS, 2, "| 32, each for 2 s:"),
        (connections.READ_BYTES, 2**14, "| 1; of the next, 16 kB are read |"),
        (connections.MESSAGE_BYTES_PER_SECOND, 2**14, "| 4 kB each, 16 kB a second,"),
        (stream.MESSAGE_BYTES, 4096, "| 4 kB each, 16 kB a second,"),
        (stream.REFUSED_SECONDS, 10, "ends the stream after 10 s of that"),
        (BatchOptions().max_wait_seconds, 0.25, "| `--max_wait` | 0.25 |"),
        (BatchOptions().max_queue_frames, 512, "| `--max_queue_frames` | 512 |"),
    ],
)
def test_a_limit_is_the_documented_one(value, number, words):
    assert value == number
    assert words in PAGE


def test_other_limits_are_as_before():
    """Those that no page tells: a larger number would let one client take what is others'."""
    assert (Limits().max_pixels, Limits().max_json_values, Limits().max_body_bytes) == (2**25, 2**22, 4 * MIB)
    assert (Limits().max_values, Limits().max_containers) == (2**18, 2**13)
    assert (intake.LARGE_BODIES, intake.MAX_WAITING) == (4, 64)


def test_retry_after_is_the_wait_that_is_foreseen(bundle_dir):
    service = make_service(bundle_dir, batch=BatchOptions(max_queue_frames=160))
    with TestClient(create_app(service)) as client:
        batcher = service.repository.find().batcher
        for frames, seconds_per_frame, expected in ((160, 0.001, 1), (160, 0.5, 8)):
            batcher.seconds_per_frame = seconds_per_frame
            with batcher.admit(frames):  # A request of 16 frames waits for as many of the other's.
                response = client.post("/v1/generate", json={"num_frames": 16})
                assert (response.status_code, response.headers["retry-after"]) == (429, str(expected))
                with pytest.raises(Overloaded) as refused, batcher.admit(16):
                    pass
                assert refused.value.retry_after == expected


def test_a_stream_that_finds_no_place_is_told_so_before_it_begins(bundle_dir):
    service = make_service(bundle_dir, limits=Limits(max_streams=0))
    # Over a connection, which can be closed: a stream that is let in does not end.
    with in_this_process(service) as port, httpx.stream("GET", f"http://127.0.0.1:{port}/v1/stream") as response:
        assert (response.status_code, response.headers["retry-after"]) == (429, "5")
        response.read()
        assert response.json()["error_type"] == "overloaded"
