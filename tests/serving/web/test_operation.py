"""Running it: keys, probes, metrics, logs, limits, draining. Mostly in its own process."""

import signal
import time

import httpx
import pytest
from starlette.testclient import TestClient

from serving.app import create_app
from serving.runtime.repository import BatchOptions
from serving.web.guard import Keys, read_api_keys
from tests.support.servers import Load, make_service, running, send_raw, wait_for

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
        for headers in (
            {},
            {"X-API-Key": ""},
            {"X-API-Key": KEY[:-1]},
            {"X-API-Key": KEY + "x"},
            {"Authorization": f"Bearer {KEY}x"},
            {"Authorization": f"Basic {KEY}"},
            {"X-API-Key": "ключ".encode()},
        ):
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


def test_sigterm_under_load_loses_no_request(bundle_dir, engine):
    with running(f"--bundle={bundle_dir}", "--drain_delay=3") as process:
        load = Load(process.url, {"1": engine})
        wait_for(lambda: load.done >= 20)
        process.process.terminate()
        time.sleep(0.4)
        probe = httpx.get(f"{process.url}/readyz")
        assert probe.status_code == 503 and probe.json() == {"status": "draining"}
        served = load.done
        time.sleep(1.5)
        # A load balancer that was told 503 stops here too. Any server's kernel resets connections that are made while
        # the listener closes.
        load.stop()
        assert process.process.wait(30) == 0
    assert load.failures == [] and load.done > served


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_it_at_once_and_is_no_error(bundle_dir, number):
    with running(f"--bundle={bundle_dir}", "--drain_delay=60") as process:
        long = b"GET /v1/generate?num_videos=8&num_frames=128&format=apng&scale=8 HTTP/1.1\r\nHost: localhost\r\n\r\n"
        with send_raw(process, long, wait=1):
            process.process.send_signal(number)
            wait_for(lambda: process.log()[-1]["message"] == "draining")
            begin = time.monotonic()
            assert process.stop(number) == 0
            assert time.monotonic() - begin < 3
        assert process.log()[-1]["message"] == "draining" and "error" not in {line["level"] for line in process.log()}
