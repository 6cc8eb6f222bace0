"""Bundles from a stranger: a hostile one is refused in a line, soon and in little memory; the old one serves on."""

import hashlib
import io
import os
import time
import tracemalloc
import zipfile

import httpx
import numpy as np
import onnx
import pytest

from serving.runtime.bundle import read_bundle
from serving.runtime.errors import BundleError
from tests.support.attacks import MB, resident, survives
from tests.support.made_bundles import BundleSpec, write_bundle
from tests.support.servers import ROOT, running, wait_for


def pipe(folder, name):
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)


def sparse(folder, name, size):
    with open(folder / name, "r+b") as file:
        file.truncate(size)


def golden_bomb(folder):
    """320 MB of zeros in an array of the right name; on disk it is 0.3 MB, and ten times as much would be as easy."""
    shape = (2, 10_000_000, 4)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(folder / "golden.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open("motion_noise.npy", "w", force_zip64=True) as member:
            member.write(header.getvalue())
            for _ in range(32):
                member.write(bytes(10_000_000))


def golden_that_goes_on(folder):
    """All arrays are right, and after one of them come 320 MB of zeros."""
    arrays = dict(np.load(folder / "golden.npz"))
    with zipfile.ZipFile(folder / "golden.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, (1, 0))
                for _ in range(32 if name == "seed" else 0):
                    member.write(bytes(10_000_000))


def golden_of_many_entries(folder):
    with zipfile.ZipFile(folder / "golden.npz", "w") as archive:
        for index in range(20_000):
            archive.writestr(f"{index}", b"")


def facts(folder, text):
    path = folder / "bundle.json"
    document = path.read_text().rstrip()
    path.write_text(f"{document[:-1]}, {text}}}")


def outward_link(folder):
    (folder / "weights").symlink_to("/etc/hostname")


# `loose`: without SHA256SUMS, which would tell of the change before anything is read.
HOSTILE = {
    "a pipe as model": (lambda folder: pipe(folder, "frames.onnx"), "frames.onnx is not a regular file"),
    "a pipe as golden": (lambda folder: pipe(folder, "golden.npz"), "golden.npz is not a regular file"),
    "a pipe as sums": (lambda folder: pipe(folder, "SHA256SUMS"), "SHA256SUMS is not a regular file"),
    "a pipe beside": (lambda folder: pipe(folder, "notes"), "notes is not a regular file"),
    "60 GB, sparse": (lambda folder: sparse(folder, "frames.onnx", 60 * 10**9), "has 60000000000 bytes"),
    "a large bundle.json": (lambda folder: sparse(folder, "bundle.json", 10**9), "bundle.json has 1000000000 bytes"),
    "golden that unpacks": (golden_bomb, "golden.npz lacks `seed`|golden.npz: `motion_noise`|unpacks to"),
    "golden that goes on": (golden_that_goes_on, "seed goes on after its array"),
    "golden of many": (golden_of_many_entries, "it has 20000 entries"),
    "2^70": (lambda folder: facts(folder, f'"provenance": {{"step": {2**70}}}'), "beyond 64 bits"),
    "a lone surrogate": (lambda folder: facts(folder, r'"provenance": {"run": "\ud800"}'), "broken Unicode"),
    "deep": (lambda folder: facts(folder, '"provenance": ' + '{"a":' * 300 + "1" + "}" * 300), "too many levels"),
    "very deep": (lambda folder: facts(folder, '"x": ' + "[" * 100_000 + "]" * 100_000), "too many levels"),
    "provenance": (lambda folder: facts(folder, '"provenance": 3'), "`provenance` must be an object"),
    "huge frames": (lambda folder: facts(folder, '"height": 4096, "width": 4096'), "a frame has at most"),
    "huge sizes": (lambda folder: facts(folder, f'"dim_motion": {2**40}'), "`dim_motion` must be at most 4096"),
    "a category": (lambda folder: facts(folder, '"categories": [[], {}, 1]'), "`categories` must be names"),
    "a link outwards": (outward_link, "weights must lie in the bundle"),
}


@pytest.mark.parametrize("attack", HOSTILE)
def test_a_hostile_bundle_is_refused_in_a_line(tmp_path, attack):
    change, message = HOSTILE[attack]
    folder = write_bundle(tmp_path / "b")
    (folder / "SHA256SUMS").unlink()
    change(folder)
    begin = time.monotonic()
    tracemalloc.start()
    with pytest.raises(BundleError, match=message) as error:
        read_bundle(folder).golden()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32 * MB, f"{peak / MB:.0f} MB"
    assert time.monotonic() - begin < 5 and "\n" not in str(error.value) and len(str(error.value)) < 500


@pytest.mark.slow
def test_hostile_versions_do_not_touch_the_one_that_serves(tmp_path):
    """A server under a bound of memory polls a folder that fills with them, and ends as ever."""
    models = tmp_path / "models"
    write_bundle(models / "1")
    with running(f"--bundle={models}", "--poll_seconds=0.1", "--drain_delay=0", "--keep_versions=40") as process:
        with survives(process, megabytes=128, seconds=40):
            for version, (change, _) in enumerate(HOSTILE.values(), 2):
                folder = write_bundle(tmp_path / "new", BundleSpec(version=version))
                (folder / "SHA256SUMS").unlink()
                change(folder)
                folder.rename(models / str(version))
            failed = len(HOSTILE)
            wait_for(
                lambda: len({line["folder"] for line in process.log() if line["message"] == "cannot load"}) == failed
            )
            assert httpx.get(f"{process.url}/v1/generate?seed=1&format=npy").headers["x-model-version"] == "1"
            assert httpx.get(f"{process.url}/info").status_code == 200
        begin = time.monotonic()
        assert process.stop() == 0 and time.monotonic() - begin < 10
        assert [line for line in process.log() if "exception" in line] == []


def test_a_graph_that_wants_all_memory_fails_alone(tmp_path):
    """A few bytes of a graph stand for 2 GiB of zeros."""

    def grow(folder):
        model = onnx.load(folder / "frames.onnx")
        graph, output = model.graph, model.graph.output[0].name
        last = next(node for node in graph.node if output in node.output)
        last.output[:] = ["before" if name == output else name for name in last.output]
        graph.initializer.append(onnx.numpy_helper.from_array(np.array([2**29], np.int64), "size"))
        graph.node.append(onnx.helper.make_node("ConstantOfShape", ["size"], ["zeros"]))
        graph.node.append(onnx.helper.make_node("ReduceMax", ["zeros"], ["most"], keepdims=0))
        graph.node.append(onnx.helper.make_node("Add", ["before", "most"], [output]))
        onnx.save(model, folder / "frames.onnx")
        (folder / "SHA256SUMS").unlink()

    models, flags = tmp_path / "models", ["--poll_seconds=0.1", "--drain_delay=0", "--max_memory=1000"]
    write_bundle(models / "1")
    with running(f"--bundle={models}", *flags) as process:
        before = resident(process.process.pid)
        grow(write_bundle(tmp_path / "new", BundleSpec(version=2)))
        (tmp_path / "new").rename(models / "2")
        wait_for(lambda: [line for line in process.log() if line["message"] == "cannot load"])
        assert "bad_alloc" in process.log()[-1]["error"] or "allocate" in process.log()[-1]["error"]
        assert resident(process.process.pid) < before + 200 * MB
        assert httpx.get(f"{process.url}/v1/generate?seed=1&format=npy").headers["x-model-version"] == "1"


def test_external_data_is_listed_and_hashed(tmp_path):
    """A graph may keep its weights in another file of the bundle. They are part of what was vouched for."""
    folder = write_bundle(tmp_path / "b")
    model = onnx.load(folder / "frames.onnx")
    onnx.save(model, folder / "frames.onnx", save_as_external_data=True, location="weights", size_threshold=0)

    def sums(names):
        lines = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
        (folder / "SHA256SUMS").write_text("".join(lines))

    names = sorted(path.name for path in folder.iterdir() if path.name != "SHA256SUMS")
    sums(name for name in names if name != "weights")
    with pytest.raises(BundleError, match="weights is not listed in SHA256SUMS"):
        read_bundle(folder)
    sums(names)
    digest = read_bundle(folder).digest
    weights = bytearray((folder / "weights").read_bytes())
    weights[0] ^= 1
    (folder / "weights").write_bytes(weights)
    with pytest.raises(BundleError, match="weights differs from its line in SHA256SUMS"):
        read_bundle(folder)
    sums(names)
    assert read_bundle(folder).digest != digest


def test_a_version_beyond_64_bits_is_no_version(tmp_path):
    write_bundle(tmp_path / "1")
    write_bundle(tmp_path / str(2**70))
    with running(f"--bundle={tmp_path}", "--drain_delay=0") as process:
        assert [model["version"] for model in httpx.get(f"{process.url}/info").json()["models"]] == [1]


def test_bounds_leave_room_for_every_bundle_of_ours():
    bundle = read_bundle(ROOT / "pretrained" / "taichi")
    assert 0 < bundle.golden()["video"].nbytes < 2 * MB
