"""schemathesis against our own OpenAPI document: what the document allows, the server answers as the document says."""

import httpx
import pytest

from serving.runtime.service import Limits
from tests.support.servers import running

schemathesis = pytest.importorskip("schemathesis")
hypothesis = pytest.importorskip("hypothesis")

SMALL = Limits(max_videos=3, max_frames=6, max_total_frames=8)


@pytest.fixture(scope="module")
def fuzzed(bundle_dir):
    limits = [f"--{name}={getattr(SMALL, name)}" for name in ("max_videos", "max_frames", "max_total_frames")]
    with running(f"--bundle={bundle_dir}", "--drain_delay=0", *limits) as process:
        document = httpx.get(f"{process.url}/openapi.json").json()
        yield schemathesis.openapi.from_dict(document), process


def fuzz(operation, mode, url):
    """Sends requests for one operation; returns the codes."""
    seen = []

    @hypothesis.given(case=operation.as_strategy(generation_mode=getattr(schemathesis.GenerationMode, mode)))
    @hypothesis.settings(
        max_examples=12,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    def check(case):
        if mode == "POSITIVE" and "model" in (case.path_parameters or {}):
            case.path_parameters["model"] = "tiny"
        response = case.call(base_url=url)
        seen.append(response.status_code)
        documented = {*operation.definition.raw["responses"], "405"}
        assert str(response.status_code) in documented, (operation.label, response.status_code, response.text)
        if response.status_code >= 400:
            assert "error" in response.json() and "Traceback" not in response.text

    check()
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["POSITIVE", "NEGATIVE"])
def test_the_server_does_what_its_document_says(fuzzed, mode):
    schema, process = fuzzed
    seen = []
    for operation in (result.ok() for result in schema.get_all_operations()):
        if mode == "POSITIVE" or operation.body or operation.query:
            seen += fuzz(operation, mode, process.url)
    assert len(seen) > 30 and not {500, 502, 503} & set(seen)
    assert 200 in seen if mode == "POSITIVE" else {400, 422} & set(seen)
    assert httpx.get(f"{process.url}/readyz").status_code == 200
    assert httpx.get(f"{process.url}/info").json()["models"][0]["queue"]["frames"] == 0
    assert [line for line in process.log() if "exception" in line] == []
