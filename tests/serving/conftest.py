"""Bundles made once per session, and servers."""

import httpx
import pytest
from starlette.testclient import TestClient

from serving.app import create_app
from serving.bundle import read_bundle
from serving.engine import Engine, EngineOptions
from tests.serving.made_bundles import write_bundle
from tests.serving.servers import make_service, running


@pytest.fixture(scope="session")
def bundle_dir(tmp_path_factory):
    """A bundle with three categories that go to the motion."""
    return write_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture(scope="session")
def engine(bundle_dir):
    return Engine(read_bundle(bundle_dir), EngineOptions(threads=1))


@pytest.fixture(scope="module")
def service(bundle_dir):
    return make_service(bundle_dir)


@pytest.fixture(scope="module")
def client(service):
    with TestClient(create_app(service), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def server(bundle_dir):
    """A server in its own process, for independent clients."""
    with running(f"--bundle={bundle_dir}", "--drain_delay=0") as process:
        yield process


@pytest.fixture
def http(server):
    with httpx.Client(base_url=server.url, timeout=30) as client:
        yield client
