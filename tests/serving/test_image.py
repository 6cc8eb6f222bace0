"""What an image holds is enough: the copied packages, and nothing installed but what serving/requirements.txt names."""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from packaging.requirements import Requirement

from tests.support.made_bundles import write_bundle
from tests.support.servers import ROOT

# Loads a bundle, answers a clip in every format, and prints what that imported from outside the image's folder.
PROGRAM = """
import json, pathlib, sys
from starlette.testclient import TestClient
before = set(sys.modules)
import serving.__main__, serving.load
from serving.app import create_app
from serving.runtime.options import EngineOptions
from serving.runtime.repository import Repository
from serving.runtime.service import Service
repository = Repository([sys.argv[1]], engine_options=EngineOptions(provider="cpu"))  # OpenVINO may be installed here.
repository.load()
with TestClient(create_app(Service(repository))) as client:
    for name in ("webp", "gif", "apng", "png", "sheet", "npy"):
        assert client.get(f"/v1/generate?seed=1&format={name}").status_code == 200
    assert client.get("/openapi.json").status_code == 200
import mocogan_tf
assert pathlib.Path(mocogan_tf.__file__).is_relative_to(pathlib.Path.cwd()), mocogan_tf.__file__
print(json.dumps(sorted({name.partition(".")[0] for name in set(sys.modules) - before})))
"""


def required():
    """The distributions that serving/requirements.txt brings, with all that they need."""
    lines = (ROOT / "serving" / "requirements.txt").read_text().splitlines()
    left = [Requirement(line).name for line in lines if line and not line.startswith("#")]
    found = set()
    while left:
        name = re.sub(r"[-_.]+", "-", left.pop()).lower()
        if name in found:
            continue
        found.add(name)
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:  # Of onnxruntime, where onnxruntime-gpu is installed instead.
            found.add(f"{name}-gpu")
            needs = importlib.metadata.requires(f"{name}-gpu") or []
        parsed = [Requirement(need) for need in needs]
        left += [need.name for need in parsed if need.marker is None or need.marker.evaluate({"extra": ""})]
    return found


@pytest.mark.parametrize("dockerfile", ["Dockerfile", "Dockerfile.cuda"])
def test_the_copied_packages_serve_with_the_named_requirements_only(dockerfile, tmp_path):
    bundle = write_bundle(tmp_path / "bundle")
    lines = (ROOT / "serving" / dockerfile).read_text()
    for source, target in re.findall(r"^COPY (\S+) /app/(\S+)$", lines, re.MULTILINE):
        shutil.copytree(ROOT / source, tmp_path / "app" / target)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    run = [sys.executable, "-c", PROGRAM, str(bundle)]
    result = subprocess.run(run, cwd=tmp_path / "app", capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    imported = set(json.loads(result.stdout)) - {"serving", "mocogan_tf"}
    owners = importlib.metadata.packages_distributions()
    allowed = required()
    foreign = {
        name
        for name in imported - set(sys.stdlib_module_names)
        if name in owners and not {re.sub(r"[-_.]+", "-", owner).lower() for owner in owners[name]} & allowed
    }
    assert not foreign, foreign
