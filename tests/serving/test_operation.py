"""Running it: keys, probes, metrics, logs, limits, slow clients, draining, new versions. Mostly in its own process."""

import concurrent.futures
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import threading
import time

import httpx
import numpy as np
import pytest
from starlette.testclient import TestClient

from serving.app import create_app
from serving.engine import EngineOptions
from serving.errors import BundleError
from serving.guard import Keys, read_api_keys
from serving.repository import BatchOptions, Repository
from serving.server import make_server
from serving.service import Limits
from tests.serving.made_bundles import BundleSpec, write_bundle
from tests.serving.servers import make_service, running

KEY = "correct-horse-battery"


@pytest.fixture(scope="module")
def guarded(bundle_dir):
    app = create_app(make_service(bundle_dir), keys=Keys((b"another-key-entirely", KEY.encode())))
    with TestClient(app) as client:
        yield client


def test_without_a_key_nothing_but_probes_and_the_page(guarded):
    for path in ("/livez", "/readyz", "/", "/docs", "/studio/studio.js", "/v2/health/live"):
        assert guarded.get(path).status_code == 200, path
    for path in ("/v1/generate", "/info", "/metrics", "/v1/models/tiny", "/v2/models/tiny", "/v1/stream", "/nope"):
        for headers in ({}, {"X-API-Key": KEY[:-1]}, {"Authorization": f"Basic {KEY}"}, {"X-API-Key": "ключ".encode()}):
            response = guarded.get(path, headers=headers)
            assert response.status_code == 401, path
            assert response.headers["www-authenticate"] == "Bearer"
    for headers in ({"X-API-Key": KEY}, {"Authorization": f"Bearer {KEY}"}, {"authorization": f"bearer {KEY}"}):
        assert guarded.get("/info", headers=headers).status_code == 200


def test_key_files(tmp_path):
    path = tmp_path / "keys"
    path.write_text(f"# ours\n\n{KEY}\n  spaces-around-this-one  \n")
    assert read_api_keys(path) == (KEY.encode(), b"spaces-around-this-one")
    for text in ("", "# none\n", "short\n"):
        path.write_text(text)
        with pytest.raises(ValueError, match="at least one API key"):
            read_api_keys(path)


def test_probes_and_info(client):
    assert client.get("/livez").json() == {"status": "alive"}
    assert client.get("/readyz").json() == {"status": "ready"}
    info = client.get("/info").json()
    (model,) = info["models"]
    assert (info["default_model"], model["name"], model["version"]) == ("tiny", "tiny", 1)
    assert model["engine"]["provider"] == "CPUExecutionProvider" and model["categories"] == ["wave", "push", "kick"]
    assert info["limits"]["max_videos"] == 64 and "webp" in info["formats"]


def test_metrics_count_what_happened(bundle_dir):
    with TestClient(create_app(make_service(bundle_dir, batch=BatchOptions(max_queue_frames=64)))) as client:
        assert client.post("/v1/generate", json={"num_videos": 2, "num_frames": 5}).status_code == 200
        client.post("/v1/generate", json={"seed": -1})
        client.get("/surely/not/a/route/of/ours")
        text = client.get("/metrics").text
        assert client.get("/monitoring/prometheus/metrics").status_code == 200
    for line in (
        'serving_requests_total{code="200",method="POST",route="/v1/generate"} 1.0',
        'serving_requests_total{code="422",method="POST",route="/v1/generate"} 1.0',
        'serving_requests_total{code="404",method="any",route="other"} 1.0',
        'serving_rejected_total{reason="validation"} 1.0',
        'serving_frames_total{model="tiny"} 10.0',
        'serving_queue_frames{model="tiny"} 0.0',
        'serving_batch_frames_sum{model="tiny"} 10.0',
        'serving_encode_seconds_count{format="webp"} 1.0',
        'serving_queue_seconds_count{model="tiny"} 1.0',
    ):
        assert line in text, line
    assert 'serving_model_version{digest="' in text and 'provider="cpu",version="1"} 1.0' in text


def test_request_ids_are_kept_if_harmless(client):
    assert client.get("/livez", headers={"X-Request-Id": "abc-1.2"}).headers["x-request-id"] == "abc-1.2"
    for bad in ("a" * 65, "a b", "x\ty", '{"a":1}'):
        assert client.get("/livez", headers={"X-Request-Id": bad}).headers["x-request-id"] != bad


def test_full_queues_are_429_with_retry_after_and_503_on_other_protocols(bundle_dir):
    service = make_service(bundle_dir, batch=BatchOptions(max_queue_frames=20))
    with TestClient(create_app(service)) as client:
        model = service.repository.find()
        latents = {"content": [[0] * 6], "category": [[1, 0, 0]], "motion_init": [[0] * 4], "motion_noise": [[[0] * 4]]}
        with model.batcher.admit(20):
            response = client.post("/v1/generate", json={})
            assert response.status_code == 429 and int(response.headers["retry-after"]) >= 1
            assert response.json()["error_type"] == "overloaded"
            response = client.post("/v1/models/tiny:predict", json={"inputs": latents})
            assert response.status_code == 503 and list(response.json()) == ["error"]
        assert client.post("/v1/generate", json={}).status_code == 200


def test_a_deadline_is_504(bundle_dir):
    service = make_service(bundle_dir)
    with TestClient(create_app(service)) as client:
        response = client.post("/v1/generate", json={"timeout": 1e-6})
        assert response.status_code == 504 and response.json()["error_type"] == "deadline"


def test_a_failing_engine_is_500_without_its_words_and_not_alive(bundle_dir):
    service = make_service(bundle_dir)
    with TestClient(create_app(service), raise_server_exceptions=False) as client:
        model = service.repository.find()

        def fail(rows, worker=0):
            raise RuntimeError("secret path /etc/model")

        render, model.engine.render = model.engine.render, fail
        for _ in range(3):
            response = client.post("/v1/generate", json={})
            assert response.status_code == 500 and "secret" not in response.text and "Traceback" not in response.text
        assert client.get("/livez").status_code == 503
        model.engine.render = render
        assert client.post("/v1/generate", json={}).status_code == 200
        assert client.get("/livez").status_code == 200


def test_other_origins_only_where_allowed(bundle_dir):
    with TestClient(create_app(make_service(bundle_dir), origins=("https://a.example",))) as client:
        allowed = client.get("/info", headers={"Origin": "https://a.example"})
        assert allowed.headers["access-control-allow-origin"] == "https://a.example"
        assert "access-control-allow-origin" not in client.get("/info", headers={"Origin": "https://b.example"}).headers


def send_raw(server, data, wait=0.0):
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=15)
    connection.sendall(data)
    time.sleep(wait)
    return connection


def test_a_slow_body_is_408(bundle_dir):
    limits = Limits(body_seconds=0.2)
    import uvicorn

    service = make_service(bundle_dir, limits=limits)
    server = uvicorn.Server(uvicorn.Config(create_app(service), port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
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
        body += connection.recv(10_000)
    return head, body


def test_late_headers_end_a_connection_and_long_streams_do_not(bundle_dir, monkeypatch):
    connect = pytest.importorskip("websockets.sync.client").connect
    monkeypatch.setattr("serving.server.HEADER_SECONDS", 0.5)
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


def test_a_header_that_waits_for_the_request_before_it_does_not_end_that(bundle_dir, monkeypatch):
    monkeypatch.setattr("serving.server.HEADER_SECONDS", 0.3)
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
def test_a_header_has_a_largest_size(server, before, begin):
    line = b"a" * 60 + b": b\r\n" if begin.endswith(b"\n") else b"a" * 65
    with send_raw(server, before) as connection:
        if before:
            assert read_answer(connection)[1] == b'{"status":"alive"}'
        connection.sendall(begin)
        with pytest.raises(ConnectionError):  # Shut in the middle of it.
            for _ in range(1000):
                connection.sendall(line * 64)


def test_a_header_that_is_too_large_is_431_and_large_bodies_are_none_of_it(server):
    head = b"POST /v1/generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n%s\r\n\r\n"
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
    head = b"POST /v1/generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{"
    asking = b"GET /v1/generate?num_frames=8&format=npy HTTP/1.1\r\nHost: x\r\n\r\n"
    stuck = [send_raw(server, head) for _ in range(80)]  # A body that never ends,
    stuck += [send_raw(server, b"GET /livez HTTP/1.1\r\nHo") for _ in range(80)]  # a header that never ends,
    for _ in range(40):  # and clients that ask for work and go.
        send_raw(server, asking).close()
    beside = median_ms()
    for connection in stuck:
        connection.close()
    assert beside < 4 * alone + 20


def test_the_log_is_json_with_what_one_needs(server, http):
    http.get("/v1/generate?seed=1", headers={"X-Request-Id": "find-me"})
    time.sleep(0.2)
    (line,) = [line for line in server.log() if line.get("request_id") == "find-me"]
    assert line["status"] == 200 and line["path"] == "/v1/generate" and line["frames"] == 16
    assert {"time", "level", "ms", "queue_ms", "render_ms", "encode_ms", "model", "version"} <= set(line)


def test_start_to_ready(bundle_dir):
    with running(f"--bundle={bundle_dir}", "--drain_delay=0") as process:
        assert httpx.get(f"{process.url}/readyz").status_code == 200
        assert process.seconds_to_ready < 15  # Under 3 s on a quiet machine: see docs/serving.md.
        assert process.stop() == 0


class Load:
    """Clients that keep asking; everything that is not 200 with the right clip is kept."""

    def __init__(self, url, clients=6):
        self.url, self.stopping = url, threading.Event()
        self.done, self.failures = 0, []
        self.refused_since = None
        self.pool = concurrent.futures.ThreadPoolExecutor(clients)
        self.versions = set()
        self.jobs = [self.pool.submit(self.ask, i) for i in range(clients)]

    def ask(self, seed):
        with httpx.Client(base_url=self.url, timeout=30) as client:
            while not self.stopping.is_set():
                try:
                    response = client.get(f"/v1/generate?seed={seed}&format=npy&category=1")
                except httpx.ConnectError:
                    return  # The door is shut: the request was never taken.
                except httpx.HTTPError as error:
                    self.failures.append(repr(error))
                    return
                if response.status_code != 200:
                    self.failures.append(response.text)
                self.versions.add(response.headers.get("x-model-version"))
                self.done += 1

    def stop(self):
        self.stopping.set()
        for job in self.jobs:
            job.result()
        self.pool.shutdown()


def test_sigterm_under_load_loses_no_request(bundle_dir):
    with running(f"--bundle={bundle_dir}", "--drain_delay=3") as process:
        load = Load(process.url)
        while load.done < 20:
            time.sleep(0.02)
        process.process.terminate()
        time.sleep(0.4)
        probe = httpx.get(f"{process.url}/readyz")
        assert probe.status_code == 503 and probe.json() == {"status": "draining"}
        served = load.done
        time.sleep(1.5)
        # As a load balancer does that was told 503. Whoever still connects in the very moment in which the door is shut
        # is reset by the kernel, of any server.
        load.stop()
        assert process.process.wait(30) == 0
    assert load.failures == [] and load.done > served


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_it_at_once_and_is_no_error(bundle_dir, number):
    with running(f"--bundle={bundle_dir}", "--drain_delay=60") as process:
        long = b"GET /v1/generate?num_videos=8&num_frames=128&format=apng&scale=8 HTTP/1.1\r\nHost: x\r\n\r\n"
        with send_raw(process, long, wait=1):
            process.process.send_signal(number)
            wait_for(lambda: process.log()[-1]["message"] == "draining")
            begin = time.monotonic()
            assert process.stop(number) == 0
            assert time.monotonic() - begin < 3
        assert process.log()[-1]["message"] == "draining" and "error" not in {line["level"] for line in process.log()}


def test_a_new_version_takes_over_under_load_without_a_failed_request(tmp_path):
    models = tmp_path / "models"
    write_bundle(models / "1", BundleSpec(weight_seed=1))
    with running(f"--bundle={models}", "--poll_seconds=0.1", "--keep_versions=1", "--drain_delay=0") as process:
        load = Load(process.url)
        for version in (2, 3):
            while load.done < 20 * version:
                time.sleep(0.02)
            write_bundle(tmp_path / "new", BundleSpec(weight_seed=version, version=version))
            shutil.move(tmp_path / "new", models / str(version))
            wait_for(lambda version=version: str(version) in load.versions)
        load.stop()
        assert load.failures == [] and load.versions == {"1", "2", "3"}
        wait_for(lambda: httpx.get(f"{process.url}/v1/models/tiny/versions/1").status_code == 404)
        status = httpx.get(f"{process.url}/v1/models/tiny").json()["model_version_status"]
        assert [(entry["version"], entry["state"]) for entry in status] == [("3", "AVAILABLE")]


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def test_versions_side_by_side_and_a_broken_one(tmp_path):
    models = tmp_path / "models"
    for version in (1, 2):
        write_bundle(models / str(version), BundleSpec(weight_seed=version, version=version))
    service = make_service(models)
    repository = service.repository
    with TestClient(create_app(service)) as client:
        clips = {}
        for version in (1, 2):
            response = client.get(f"/v1/generate?seed=1&version={version}&format=npy")
            assert response.headers["x-model-version"] == str(version)
            clips[version] = response.content
        assert clips[1] != clips[2] == client.get("/v1/generate?seed=1&format=npy").content
        # A third that cannot be loaded is reported, and nothing else changes.
        write_bundle(models / "3", BundleSpec(weight_seed=3, version=3))
        (models / "3" / "frames.onnx").write_bytes(b"not a model")
        assert repository.poll() is False
        states = client.get("/v1/models/tiny").json()["model_version_status"]
        assert [(s["version"], s["state"]) for s in states][0] == ("3", "END")
        assert "SHA256SUMS" in states[0]["status"]["error_message"]
        assert client.get("/v1/generate?seed=1&format=npy").content == clips[2]
        # Mended, it is loaded at the next look after the pause; the oldest goes.
        write_bundle(models / "3", BundleSpec(weight_seed=3, version=3))
        os.utime(models / "3" / "bundle.json", (1, 1))
        assert repository.poll() is True
        assert [model.version for model in repository.models()] == [2, 3]


def damaged(folder, **spec):
    write_bundle(folder, BundleSpec(**spec))
    (folder / "frames.onnx").write_bytes(b"not a model")
    return folder


def test_a_start_serves_the_good_versions_and_tells_of_the_damaged(tmp_path):
    damaged(tmp_path / "1")
    for version in (3, 4):
        write_bundle(tmp_path / str(version), BundleSpec(version=version))
    repository = Repository([tmp_path], keep_versions=5, engine_options=EngineOptions(threads=1))
    repository.load()
    assert [model.version for model in repository.models()] == [3, 4]
    states = [(status.version, status.state) for status in repository.status("tiny")]
    assert states == [(4, "AVAILABLE"), (3, "AVAILABLE"), (1, "END")]
    assert "SHA256SUMS" in repository.status("tiny")[-1].error
    # Gone, it is no longer told of.
    shutil.rmtree(tmp_path / "1")
    assert repository.poll() is False
    assert [status.version for status in repository.status("tiny")] == [4, 3]
    repository.close()


def test_a_start_falls_back_to_an_older_version_until_the_newest_is_mended(tmp_path):
    for version in (1, 2):
        write_bundle(tmp_path / str(version), BundleSpec(version=version))
    damaged(tmp_path / "3", version=3)
    repository = Repository([tmp_path], keep_versions=1, engine_options=EngineOptions(threads=1))
    repository.load()
    assert [model.version for model in repository.models()] == [2]
    assert repository.poll() is False and [model.version for model in repository.models()] == [2]
    write_bundle(tmp_path / "3", BundleSpec(version=3))
    os.utime(tmp_path / "3" / "bundle.json", (1, 1))
    assert repository.poll() is True and [model.version for model in repository.models()] == [3]
    repository.close()


def test_a_start_needs_a_version_of_every_source_and_no_two_alike(tmp_path, bundle_dir):
    versions = tmp_path / "versions"
    damaged(versions / "2", version=2)
    with pytest.raises(BundleError, match="SHA256SUMS"):
        Repository([bundle_dir, versions], engine_options=EngineOptions(threads=1)).load()
    write_bundle(versions / "1")
    with pytest.raises(BundleError, match="are both version 1 of tiny"):
        Repository([bundle_dir, versions], engine_options=EngineOptions(threads=1)).load()


def test_a_bundle_that_is_replaced_in_its_place_is_reloaded(tmp_path):
    folder = write_bundle(tmp_path / "b", BundleSpec(weight_seed=1))
    service = make_service(folder)
    with TestClient(create_app(service)) as client:
        first = client.get("/v1/generate?seed=1&format=npy")
        assert service.repository.poll() is False
        write_bundle(folder, BundleSpec(weight_seed=2, version=7))
        assert service.repository.poll() is True
        second = client.get("/v1/generate?seed=1&format=npy", headers={"If-None-Match": first.headers["etag"]})
        assert second.status_code == 200 and second.content != first.content
        assert second.headers["x-model-version"] == "7"
        assert [model.version for model in service.repository.models()] == [7]
        shutil.rmtree(folder)
        assert service.repository.poll() is False
        assert client.get("/v1/generate?seed=1&format=npy").content == second.content


def test_several_models_by_name(tmp_path, bundle_dir):
    other = write_bundle(tmp_path / "grey", BundleSpec(name="grey", channels=1, categories=()))
    with TestClient(create_app(make_service(bundle_dir, other))) as client:
        assert client.get("/v1/generate?seed=1&format=npy").headers["x-model"] == "tiny"
        grey = client.get("/v1/generate?seed=1&format=npy&model=grey")
        assert grey.headers["x-video-shape"] == "1,16,16,16,1"
        assert client.get("/v1/generate?seed=1&model=grey&category=0").status_code == 422
        for name in ("webp", "gif", "apng", "png", "sheet", "mp4"):
            response = client.get(f"/v1/generate?seed=1&model=grey&format={name}&num_videos=3")
            assert response.status_code in (200, 501), name
        assert json.loads(client.get("/v2/models/grey").text)["outputs"][0]["shape"] == [-1, -1, 16, 16, 1]
