"""Slow, late, large and dying: what a connection may do to the server, and what it may not."""

import contextlib
import re
import socket
import threading
import time

import numpy as np
import pytest

from serving.app import create_app
from serving.runtime.service import Limits
from serving.web.server import listen, make_server
from tests.support.servers import make_service, send_raw, wait_for


def test_a_body_does_not_wait_until_the_client_acknowledges_the_header():
    with listen(socket.AF_INET, ("127.0.0.1", 0)) as bound, socket.create_connection(bound.getsockname()):
        connection, _ = bound.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_slow_body_is_408(bundle_dir):
    limits = Limits(body_seconds=0.2)
    import uvicorn

    service = make_service(bundle_dir, limits=limits)
    server = uvicorn.Server(uvicorn.Config(create_app(service), port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_for(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        head = (
            b"POST /v1/generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
        )
        connection.sendall(head)
        answer = b""
        while part := connection.recv(10_000):
            answer += part
    server.should_exit = True
    thread.join()
    assert answer.startswith(b"HTTP/1.1 408") and b"did not come within" in answer


@contextlib.contextmanager
def in_this_process(service):
    """The port of a server on a thread."""
    server = make_server(create_app(service), host="127.0.0.1", port=0, drain_delay=0)
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_for(lambda: server.started)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


def read_answer(connection):
    """Head and body of one answer."""
    data = b""
    while b"\r\n\r\n" not in data:
        assert (part := connection.recv(10_000)), data
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(re.search(rb"content-length: (\d+)", head, re.IGNORECASE)[1])
    while len(body) < length:
        assert (part := connection.recv(10_000)), data
        body += part
    return head, body


def test_late_headers_end_a_connection_and_long_streams_do_not(bundle_dir, monkeypatch):
    connect = pytest.importorskip("websockets.sync.client").connect
    monkeypatch.setattr("serving.web.connections.HEADER_SECONDS", 0.5)
    first = [
        b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nab",  # Answered without a look at its body.
    ]
    with in_this_process(make_service(bundle_dir)) as port:
        for begin in (b"GET /livez HTTP/1.1\r\nHo", b"\r\n", b""):
            for before in ([], first, first[::-1]):
                with socket.create_connection(("127.0.0.1", port), timeout=10) as late:
                    for request in before:
                        late.sendall(request)
                        assert read_answer(late)[0].startswith((b"HTTP/1.1 200", b"HTTP/1.1 405"))
                    if begin or not before:
                        late.sendall(begin)
                        assert late.recv(100) == b""
                    else:  # Between two requests a connection may be idle for longer.
                        time.sleep(1)
                        late.sendall(first[0])
                        assert read_answer(late)[0].startswith(b"HTTP/1.1 200")
        with connect(f"ws://127.0.0.1:{port}/v1/stream") as stream:
            stream.send('{"fps": 60, "chunk_frames": 4}')
            since = time.monotonic()
            while time.monotonic() - since < 1.5:
                stream.recv(timeout=20)


def test_a_pipelined_header_does_not_end_the_request_before_it(bundle_dir, monkeypatch):
    monkeypatch.setattr("serving.web.connections.HEADER_SECONDS", 0.3)
    service = make_service(bundle_dir)
    engine = service.repository.find().engine
    render = engine.render
    monkeypatch.setattr(engine, "render", lambda *args: time.sleep(1) or render(*args))
    with in_this_process(service) as port, socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(b"GET /v1/generate?num_frames=4&format=npy HTTP/1.1\r\nHost: x\r\n\r\nGET /livez HT")
        answer, _ = read_answer(connection)
        assert answer.startswith(b"HTTP/1.1 200")
        connection.sendall(b"TP/1.1\r\nHost: x\r\n\r\n")
        assert read_answer(connection)[1] == b'{"status":"alive"}'


@pytest.mark.parametrize(
    "begin",
    [
        b"GET /livez HTTP/1.1\r\n",
        b"GET /livez HTTP/1.1\r\nX: ",
        b"GET /",
        b"POST /livez HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: ",
    ],
    ids=["lines", "one line", "path", "trailer"],
)
@pytest.mark.parametrize("before", [b"", b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"], ids=["first", "second"])
def test_the_size_of_a_header_is_bounded(server, before, begin):
    line = b"a" * 60 + b": b\r\n" if begin.endswith(b"\n") else b"a" * 65
    with send_raw(server, before) as connection:
        if before:
            assert read_answer(connection)[1] == b'{"status":"alive"}'
        connection.sendall(begin)
        with pytest.raises(ConnectionError):  # Shut in the middle of it.
            for _ in range(1000):
                connection.sendall(line * 64)


def test_a_header_that_is_too_large_is_431_and_a_large_body_is_not(server):
    head = b"POST /v1/generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n%s\r\n\r\n"
    body = b'{"num_frames": 2, "format": "npy"}'.ljust(1_000_000)
    with send_raw(server, head % b"Content-Length: 1000000" + body) as connection:
        assert read_answer(connection)[0].startswith(b"HTTP/1.1 200")
        connection.sendall(head % b"Transfer-Encoding: chunked")
        for i in range(0, len(body), 1000):
            connection.sendall(b"3e8\r\n" + body[i : i + 1000] + b"\r\n")
        connection.sendall(b"0\r\n\r\n")
        assert read_answer(connection)[0].startswith(b"HTTP/1.1 200")
        for _ in range(3):  # In parts, so that none is left unread when the connection is shut.
            connection.sendall(b"GET /livez HTTP/1.1\r\nX: ".ljust(30_000, b"a"))
            time.sleep(0.3)
        assert connection.recv(1000).startswith(b"HTTP/1.1 431 ")
        assert connection.recv(1000) == b""


def test_slow_and_dying_clients_do_not_slow_the_others(server, http):
    def median_ms():
        times = []
        for seed in range(15):
            begin = time.perf_counter()
            assert http.get(f"/v1/generate?seed={seed}&format=npy").status_code == 200
            times.append(time.perf_counter() - begin)
        return np.median(times) * 1e3

    alone = median_ms()
    head = b"POST /v1/generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += b"Content-Length: 500\r\n\r\n{"
    asking = b"GET /v1/generate?num_frames=8&format=npy HTTP/1.1\r\nHost: localhost\r\n\r\n"
    stuck = [send_raw(server, head) for _ in range(80)]  # A body that never ends,
    stuck += [send_raw(server, b"GET /livez HTTP/1.1\r\nHo") for _ in range(80)]  # a header that never ends,
    for _ in range(40):  # and clients that ask for work and go.
        send_raw(server, asking).close()
    beside = median_ms()
    for connection in stuck:
        connection.close()
    assert beside < 4 * alone + 20
