"""The proof of a bundle passes what is right and names what is not."""

import json
import pathlib
import shutil

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from export import proof
from export.contract import read_contract
from export.proof import CHECKSUMS, bundle_files, verify, verify_content, verify_files
from mocogan_tf.files import sha256

PRETRAINED = pathlib.Path(__file__).parents[2] / "pretrained"


@pytest.fixture
def copy(exported, tmp_path):
    """A copy of the bundle to damage."""
    return shutil.copytree(exported[0], tmp_path / "copy")


def write_checksums(bundle):
    lines = [f"{sha256(bundle / name)}  {name}\n" for name in bundle_files(bundle)]
    (bundle / CHECKSUMS).write_text("".join(lines))


def failures(checks):
    return [check for check in checks if not check.passed]


def test_an_export_is_proven_before_it_has_its_name(exported):
    checks = exported[3]
    assert failures(checks) == []
    names = " ".join(check.name for check in checks)
    for part in ("checksums", "golden", "Keras", "SavedModel", "in chunks", "warm-up", "saved_model_cli", "seed_png"):
        assert part in names


@pytest.mark.slow
def test_a_bundle_proves_itself_without_its_run(exported):
    checks = verify(exported[0])
    assert failures(checks) == []
    assert len(checks) == len(exported[3])


@pytest.mark.parametrize("folder", sorted(PRETRAINED.glob("*/")), ids=lambda folder: folder.name)
def test_the_bundles_to_start_with_are_whole_and_say_how_they_were_made(folder):
    assert all(check.passed for check in verify_files(folder))
    contract, described = read_contract(folder)
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    golden = np.load(folder / "golden.npz")
    video, _ = session.run(["video", "motion_state"], {name: golden[name] for name in contract.inputs})
    np.testing.assert_allclose(video, golden["video"], atol=1e-4)
    card = (folder / "MODEL_CARD.md").read_text()
    assert described["provenance"]["command"] in card and "## Scored with evaluate.py" in card


@pytest.mark.parametrize("name", ["model.onnx", "golden.npz", "MODEL_CARD.md", "bundle.json"])
def test_one_flipped_byte_is_found_and_named(copy, name):
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    (check,) = verify_files(copy)
    assert not check.passed
    assert check.found == f"{name} differs from its checksum"


def test_a_damaged_file_is_given_to_no_runtime(copy, monkeypatch):
    monkeypatch.setattr(proof, "verify_content", lambda *_: pytest.fail("ran a damaged bundle"))
    (copy / "model.onnx").write_bytes(b"\0" * 100)
    assert [check.name for check in verify(copy)] == ["checksums"]


def test_missing_and_foreign_files_are_named(copy):
    (copy / "motion.onnx").unlink()
    (copy / "notes.txt").write_text("mine")
    (check,) = verify_files(copy)
    assert "motion.onnx is missing" in check.found
    assert "notes.txt is not listed" in check.found
    (copy / CHECKSUMS).unlink()
    assert not next(iter(verify_files(copy))).passed


def only(monkeypatch, *steps):
    """Leaves only some of the steps to run, so that a test takes a second."""
    for name in (
        "graphs",
        "recorded_clips",
        "fresh_clips",
        "batches",
        "chunks",
        "served_signatures",
        "warmup",
        "command_line",
    ):
        if name not in steps:
            monkeypatch.setattr(proof._Proof, name, lambda self: iter(()))


def change_weight(path, name, factor):
    model = onnx.load(path)
    (tensor,) = [tensor for tensor in model.graph.initializer if tensor.name == name]
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(factor), name))
    onnx.save(model, path)


def test_a_wrong_weight_is_found_although_the_checksum_is_right(copy, monkeypatch):
    only(monkeypatch, "recorded_clips")
    change_weight(copy / "model.onnx", "frames/ConvTranspose_2/weight", 1.01)
    write_checksums(copy)
    assert [check.name for check in failures(verify(copy))] == ["golden: model.onnx"]


def test_a_wrong_motion_state_is_found_although_the_clip_is_right(copy, monkeypatch):
    only(monkeypatch, "recorded_clips")
    golden = dict(np.load(copy / "golden.npz"))
    np.savez(copy / "golden.npz", **{**golden, "motion_state": golden["motion_state"] + 1e-3})
    assert "golden: model.onnx" in [check.name for check in failures(verify_content(copy))]


def test_nan_is_never_close(copy, monkeypatch):
    only(monkeypatch, "recorded_clips")
    change_weight(copy / "model.onnx", "frames/clip/weight", np.nan)
    assert [check.name for check in failures(verify_content(copy))] == ["golden: model.onnx"]


def test_a_golden_of_another_seed_is_found(copy, monkeypatch):
    only(monkeypatch, "recorded_clips")
    golden = dict(np.load(copy / "golden.npz"))
    np.savez(copy / "golden.npz", **{**golden, "seed": golden["seed"] + 1})
    (check,) = failures(verify_content(copy))
    assert check.name == "golden: latents"
    assert "content is not what seed" in check.found


def test_swapped_files_of_the_pair_are_found(copy, monkeypatch):
    only(monkeypatch, "graphs")
    (copy / "motion.onnx").rename(copy / "swap")
    (copy / "frames.onnx").rename(copy / "motion.onnx")
    (copy / "swap").rename(copy / "frames.onnx")
    assert {"graph of motion.onnx", "graph of frames.onnx"} <= {check.name for check in failures(verify_content(copy))}


def test_a_file_that_no_runtime_reads_is_a_finding_and_no_crash(copy, monkeypatch):
    only(monkeypatch, "recorded_clips", "warmup")
    (copy / "model.onnx").write_bytes(b"not a model")
    (copy / "saved_model/1/assets.extra/tf_serving_warmup_requests").write_bytes(b"no record")
    assert [check.name for check in failures(verify_content(copy))] == ["recorded clips", "warm-up records"]


def test_metadata_that_differs_from_bundle_json_is_found(copy, monkeypatch):
    only(monkeypatch, "graphs")
    described = json.loads((copy / "bundle.json").read_text())
    (copy / "bundle.json").write_text(json.dumps({**described, "fps": 25.0}))
    found = failures(verify_content(copy))
    assert {check.found for check in found} == {"its metadata differs from bundle.json"}
