"""Versions and models: new ones take over, damaged ones do not stand in the way of good ones."""

import json
import os
import shutil

import httpx
import pytest
from starlette.testclient import TestClient

from serving.app import create_app
from serving.runtime.bundle import read_bundle
from serving.runtime.engine import Engine
from serving.runtime.errors import BundleError
from serving.runtime.options import EngineOptions
from serving.runtime.repository import Repository
from tests.support.made_bundles import BundleSpec, write_bundle
from tests.support.servers import Load, make_service, running, wait_for


def test_a_new_version_takes_over_under_load_without_a_failed_request(tmp_path):
    models = tmp_path / "models"
    write_bundle(models / "1", BundleSpec(weight_seed=1))
    with running(f"--bundle={models}", "--poll_seconds=0.1", "--keep_versions=1", "--drain_delay=0") as process:
        engines = {"1": Engine(read_bundle(models / "1"), EngineOptions(threads=1))}
        load = Load(process.url, engines)
        for version in (2, 3):
            wait_for(lambda version=version: load.done >= 20 * version)
            write_bundle(tmp_path / "new", BundleSpec(weight_seed=version, version=version))
            engines[str(version)] = Engine(read_bundle(tmp_path / "new"), EngineOptions(threads=1))
            shutil.move(tmp_path / "new", models / str(version))
            wait_for(lambda version=version: str(version) in load.versions)
        load.stop()
        assert load.failures == [] and load.versions == {"1", "2", "3"}
        wait_for(lambda: httpx.get(f"{process.url}/v1/models/tiny/versions/1").status_code == 404)
        status = httpx.get(f"{process.url}/v1/models/tiny").json()["model_version_status"]
        assert [(entry["version"], entry["state"]) for entry in status] == [("3", "AVAILABLE")]


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
    repository = Repository([tmp_path], keep_versions=5, engine_options=EngineOptions("cpu", threads=1))
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
    repository = Repository([tmp_path], keep_versions=1, engine_options=EngineOptions("cpu", threads=1))
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
        Repository([bundle_dir, versions], engine_options=EngineOptions("cpu", threads=1)).load()
    write_bundle(versions / "1")
    with pytest.raises(BundleError, match="are both version 1 of tiny"):
        Repository([bundle_dir, versions], engine_options=EngineOptions("cpu", threads=1)).load()


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
