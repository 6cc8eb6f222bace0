"""serving/kubernetes.yaml and the images: what the server is not allowed there, it does not need."""

import re
import shutil
import subprocess
import sys

import pytest

from serving.__main__ import check_flags, command_line
from tests.support.servers import ROOT

yaml = pytest.importorskip("yaml")
MANIFEST = (ROOT / "serving" / "kubernetes.yaml").read_text()
IMAGES = ["Dockerfile", "Dockerfile.cuda"]


@pytest.fixture(scope="module")
def pod():
    deployment, service = yaml.safe_load_all(MANIFEST)
    template = deployment["spec"]["template"]
    assert template["metadata"]["labels"].items() >= deployment["spec"]["selector"]["matchLabels"].items()
    assert service["spec"]["selector"] == template["metadata"]["labels"]
    return template["spec"]


def test_the_manifest_is_of_kubernetes():
    validate = pytest.importorskip("kubernetes_validate").validate
    for manifest in yaml.safe_load_all(MANIFEST):
        assert validate(manifest, "1.31", strict=True) == "1.31"


def test_the_pod_has_no_rights_and_bounded_memory(pod):
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] >= 10_000
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}
    }  # fmt: skip
    assert container["resources"]["limits"]["memory"] and not pod["automountServiceAccountToken"]
    assert all(mount["readOnly"] for mount in container["volumeMounts"])
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


def test_the_pods_flags_and_probes_are_the_servers(pod):
    (container,) = pod["containers"]
    line = command_line()
    line.parse(container["args"])
    check_flags(line.values)
    assert pod["terminationGracePeriodSeconds"] > line.values.drain_delay + line.values.grace_seconds
    assert line.values.api_key_file.startswith("/keys/")
    (port,) = container["ports"]
    assert port["containerPort"] == line.values.port
    probes = {name: probe["httpGet"] for name, probe in container.items() if name.endswith("Probe")}
    assert probes["livenessProbe"] == probes["startupProbe"] == {"path": "/livez", "port": port["name"]}
    assert probes["readinessProbe"] == {"path": "/readyz", "port": port["name"]}


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_has_a_user_by_number_and_starts_without_a_shell(name, pod):
    lines = (ROOT / "serving" / name).read_text()
    assert re.search(r"^USER (\d+):\d+$", lines, re.MULTILINE)[1] == str(pod["securityContext"]["runAsUser"])
    for start in re.findall(r"^(?:ENTRYPOINT|CMD|    CMD) (.*)$", lines, re.MULTILINE):
        assert start.startswith("["), start


@pytest.mark.skipif(not shutil.which("prlimit"), reason="prlimit forbids the server to write")
def test_the_server_writes_no_file(bundle_dir):
    """Neither one of its own nor in a folder for temporary ones: the root file system may be read-only."""
    program = """
import sys, tempfile, pathlib, resource
tempfile.tempdir = "/nonexistent"
from starlette.testclient import TestClient
from serving.app import create_app
from serving.runtime.repository import Repository
from serving.runtime.service import Service
repository = Repository([sys.argv[1]])
repository.load()
with TestClient(create_app(Service(repository))) as client:
    for name in ("webp", "gif", "apng", "png", "sheet", "npy"):
        answer = client.get(f"/v1/generate?seed=1&format={name}")
        assert answer.status_code == 200, answer.text
"""
    command = ["prlimit", "--fsize=0", sys.executable, "-B", "-c", program, str(bundle_dir)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
