"""Bundles made once per session, a certificate, and servers."""

import shutil
import subprocess
import types

import httpx
import pytest
from starlette.testclient import TestClient

from serving.app import create_app
from serving.runtime.bundle import read_bundle
from serving.runtime.engine import Engine
from serving.runtime.options import EngineOptions
from tests.support.made_bundles import write_bundle
from tests.support.servers import make_service, running


@pytest.fixture(scope="session")
def bundle_dir(tmp_path_factory):
    """A bundle with three categories that go to the motion."""
    return write_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture(scope="session")
def engine(bundle_dir):
    return Engine(read_bundle(bundle_dir), EngineOptions(provider="cpu", threads=1))


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """PEM files `cert` and `key` of 127.0.0.1."""
    if not shutil.which("openssl"):
        pytest.skip("openssl makes the certificate")
    folder = tmp_path_factory.mktemp("certificate")
    files = types.SimpleNamespace(cert=folder / "cert.pem", key=folder / "key.pem")
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
    )
    subprocess.run([*command.split(), "-keyout", files.key, "-out", files.cert], check=True, capture_output=True)
    return files


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
