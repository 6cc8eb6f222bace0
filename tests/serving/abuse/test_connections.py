"""What a connection may do to the server before, between and after its requests."""

import contextlib
import resource
import socket
import ssl
import time

import httpx
import pytest

from tests.support.attacks import (
    MB,
    connect_from,
    frame,
    get,
    open_files,
    open_socket,
    post,
    read_all,
    send_until_stuck,
    streams_open,
    survives,
)
from tests.support.servers import running, send_raw, wait_for


def test_pipelined_requests_wait_in_the_clients_memory(server):
    with survives(server, megabytes=80) as health, send_raw(server, b"") as connection:
        taken = send_until_stuck(connection, get("/livez") * (8 * MB // len(get("/livez"))), seconds=4)
    assert taken and health.grown < 80, f"{taken / MB:.1f} MB were taken, the server grew by {health.grown:.0f} MB"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_stream_with_a_pipelined_request_gives_its_slot_back(server, http, method):
    request = get("/v1/stream?seed=1&fps=60").replace(b"GET", method.encode(), 1) + get("/livez")
    with survives(server, megabytes=80):
        connections = [send_raw(server, request) for _ in range(16)]
        time.sleep(1)
        for connection in connections:
            connection.close()
        wait_for(lambda: streams_open(http) == 0, 15)


DEAR = {
    "a body in chunks of a byte": post("/v1/generate", b"", "Transfer-Encoding: chunked").replace(
        b"Content-Length: 0\r\n", b""
    )
    + b"1\r\nx\r\n" * 20_000,
    "headers of many lines": get("/livez", *["a:"] * 12_000),
    "queries of many parameters": get("/v1/generate?" + "a&" * 30_000) * 4,
    "pings": frame(b"", opcode=9) * 20_000,
}


@pytest.mark.parametrize("sent", DEAR.values(), ids=DEAR)
def test_bytes_that_cost_much_are_read_slowly(server, sent):
    """A byte of these costs up to fifty times as much as one of another request, before a key is looked at."""
    with survives(server, megabytes=80) as health, contextlib.ExitStack() as stack:
        connections = []
        for _ in range(16):
            ping = sent[0] & 128
            connection = open_socket(server)[0] if ping else send_raw(server, b"")
            connections.append(stack.enter_context(connection))
            connection.setblocking(False)
        left = dict.fromkeys(connections, sent)
        end = time.monotonic() + 4
        while time.monotonic() < end:
            for connection in connections:
                with contextlib.suppress(OSError):
                    left[connection] = left[connection][connection.send(left[connection][:8192]) :] or sent
                with contextlib.suppress(OSError):
                    connection.recv(MB)
            time.sleep(0.03)
    assert health.p99 < 5 * health.quiet_p99 + 0.3  # Others are answered in between.


def test_a_header_has_few_lines(server):
    for lines, code in ((100, b"200"), (200, b"431")):
        with send_raw(server, get("/livez", *["a: b"] * lines, "Connection: close")) as connection:
            assert read_all(connection).startswith(b"HTTP/1.1 " + code)
    lines = b"\n" * 1000  # A body may have as many as it likes, whatever part of the header it comes with.
    request = post("/v1/models/x:classify", lines, "Connection: close")
    for cut in range(len(request) - 1004, len(request) - 996):
        with send_raw(server, request[:cut], wait=0.02) as connection:
            connection.sendall(request[cut:])
            assert not read_all(connection).startswith(b"HTTP/1.1 431")


def test_head_of_a_stream_is_its_head_alone(server, http):
    answer = http.head("/v1/stream?seed=1")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("multipart/x-mixed-replace")
    assert answer.headers["x-seed"] == "1"
    assert streams_open(http) == 0


@pytest.fixture(scope="module")
def small(bundle_dir):
    """A server of few connections."""
    flags = "--drain_delay=0", "--max_connections=48", "--max_connections_per_address=24"
    with running(f"--bundle={bundle_dir}", *flags) as process:
        yield process


WAITING = {
    "nothing sent": b"",
    "half a header": b"GET /livez HT",
    "idle after an answer": get("/livez"),
    "a handshake by POST": post("/v1/stream", b"x", "Connection: Upgrade", "Upgrade: websocket"),
    "a body that never comes": post("/livez", b"x" * 10)[:-10],
}


@pytest.mark.parametrize("sent", WAITING.values(), ids=WAITING)
@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.2"], ids=["one address", "another address"])
def test_connections_that_wait_shut_nobody_out(small, sent, address):
    with survives(small, megabytes=60) as health, contextlib.ExitStack() as stack:
        for _ in range(120):
            connection = stack.enter_context(connect_from(small, address))
            with contextlib.suppress(OSError):
                connection.sendall(sent)
            time.sleep(0.005)  # The bystander is a thread of the same process.
        time.sleep(1)
    assert len(health.seconds) > 5 and not health.failures


def test_connections_that_are_answered_leave_room_for_health(bundle_dir):
    """Work is refused at once, health checks are not."""
    flags = "--drain_delay=0", "--max_connections=12", "--max_connections_per_address=8"
    with running(f"--bundle={bundle_dir}", *flags) as process, contextlib.ExitStack() as stack:
        with survives(process, megabytes=100):
            for i in range(12):
                connection = stack.enter_context(connect_from(process, f"127.0.0.{2 + i % 2}"))
                connection.sendall(post("/v1/generate", b"x" * 100)[:-50])
            time.sleep(0.5)
            for path, code in (("/livez", b"200"), ("/readyz", b"200"), ("/v1/generate?seed=1", b"429")):
                with connect_from(process, "127.0.0.2") as connection:
                    connection.sendall(get(path))
                    assert read_all(connection).startswith(b"HTTP/1.1 " + code), path
            stack.close()
        assert httpx.get(f"{process.url}/v1/generate?seed=1").status_code == 200


def test_out_of_descriptors_it_says_so_once_and_goes_on(bundle_dir):
    with running(f"--bundle={bundle_dir}", "--drain_delay=0") as process:
        pid = process.process.pid
        limit, (_, hard) = open_files(pid) + 20, resource.prlimit(pid, resource.RLIMIT_NOFILE)
        with survives(process, megabytes=60), contextlib.ExitStack() as stack:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, hard))
            for _ in range(100):
                stack.enter_context(send_raw(process, b""))
            time.sleep(3)
        assert len([line for line in process.log() if line["level"] != "info"]) < 5
        assert "Traceback" not in "".join(process.lines)


@pytest.mark.slow
def test_a_tls_handshake_that_never_ends_is_bounded(bundle_dir, certificate):
    flags = f"--tls_cert={certificate.cert}", f"--tls_key={certificate.key}", "--max_connections_per_address=8"
    with running(f"--bundle={bundle_dir}", "--drain_delay=0", *flags) as process, contextlib.ExitStack() as stack:
        host, port = process.url.removeprefix("https://").split(":")
        files = open_files(process.process.pid)
        for _ in range(30):
            stack.enter_context(socket.create_connection((host, int(port)), timeout=15))
        time.sleep(0.5)
        assert open_files(process.process.pid) < files + 12
        context = ssl.create_default_context(cafile=certificate.cert)
        with httpx.Client(base_url=process.url, verify=context) as client:
            assert client.get("/livez").status_code == 200
            assert client.get("/v1/generate?seed=1&format=npy").status_code == 200
        late = stack.enter_context(socket.create_connection((host, int(port)), timeout=15))
        begin = time.monotonic()
        assert read_all(late, 14) == b"" and time.monotonic() - begin < 13


def test_an_upgrade_to_http2_is_declined_and_loses_no_body(server):
    upgrade = "Connection: close, Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA"
    request = post("/v1/generate", b'{"num_frames": 2, "format": "npy", "seed": 4}', *upgrade)
    with send_raw(server, request) as connection:
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 200") and b"x-seed: 4\r\n" in answer.lower()


def test_trailers_are_no_headers(bundle_dir, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("a-key-of-good-length\n")
    with running(f"--bundle={bundle_dir}", "--drain_delay=0", f"--api_key_file={keys}") as process:
        head = post("/v1/generate", b"", "Connection: close").replace(
            b"Content-Length: 0", b"Transfer-Encoding: chunked"
        )
        body = b'15\r\n{"seed": 1, "fps": 8}\r\n0\r\n'
        for trailer, code in ((b"X-API-Key: a-key-of-good-length\r\n", b"401"), (b"", b"401")):
            with send_raw(process, head + body + trailer + b"\r\n") as connection:
                assert read_all(connection).startswith(b"HTTP/1.1 " + code)


@pytest.mark.parametrize("path", ["/livez", "/v1/generate", "/v1/stream", "/v1/models/x", "/v2", "/info"])
def test_trace_is_405_with_what_is_allowed(server, path):
    with send_raw(server, get(path, "Connection: close").replace(b"GET", b"TRACE", 1)) as connection:
        head = read_all(connection).lower()
    assert not head.startswith(b"http/1.1 405") or b"\r\nallow: " in head, head


def test_a_handshake_by_post_is_refused_at_once(server):
    for method in (b"POST", b"PUT", b"OPTIONS"):
        request = post("/v1/stream", b"{}", "Connection: Upgrade", "Upgrade: websocket").replace(b"POST", method, 1)
        with send_raw(server, request) as connection:
            assert read_all(connection, 5).startswith(b"HTTP/1.1 400")


def test_pixels_are_not_compressed_between_two_requests_of_others(server):
    connection, head = open_socket(server, "/v1/stream", "Sec-WebSocket-Extensions: permessage-deflate")
    connection.close()
    assert head.startswith(b"HTTP/1.1 101") and b"deflate" not in head
