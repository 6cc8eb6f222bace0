"""The contract says the same in bundle.json, in .onnx files and in code, and refuses what contradicts itself."""

import json

import pytest

from export.contract import FORMAT_VERSIONS, read_contract
from serving.runtime import bundle
from tests.export.conftest import make_contract


def write(folder, described):
    (folder / "bundle.json").write_text(json.dumps(described))
    return folder


def test_a_contract_survives_bundle_json(tmp_path):
    contract = make_contract(categories=("a", "b", "c"))
    described = contract.to_dict({"onnx": "model.onnx"}, {"step": 3})
    read, everything = read_contract(write(tmp_path, described))
    assert read == contract
    assert everything["provenance"] == {"step": 3}
    assert everything["format_version"] == 1
    assert everything["height"] == everything["width"] == contract.image_size


def test_the_server_reads_the_format_that_is_written():
    # Every reader declares the version it reads, as the programs in examples/ do; the server imports nothing from here.
    assert bundle.FORMAT_VERSIONS == FORMAT_VERSIONS


def test_a_reader_that_only_knows_noise_refuses_content_from_pictures():
    # The programs in examples/ read format 1 alone.
    assert make_contract(content_from="pictures").to_dict({}, {})["format_version"] == 2


def test_inputs_are_named_and_shaped_as_the_latents_are():
    for contract in (make_contract(), make_contract(dim_category=0)):
        shapes = contract.latents.shapes(None, None)
        described = {
            name: tuple(None if isinstance(size, str) else size for size in spec.shape)
            for name, spec in contract.inputs.items()
        }
        assert described == shapes


def test_metadata_is_flat_text_and_says_every_size():
    metadata = make_contract(categories=("a", "b", "c")).metadata()
    assert all(isinstance(value, str) for value in metadata.values())
    assert json.loads(metadata["dim_content"]) == 6
    assert json.loads(metadata["categories"]) == ["a", "b", "c"]
    assert json.loads(metadata["distributions"])["category"] == "one_hot"
    assert metadata["layout"] == "BTHWC"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "MoCoGAN shapes"}, "URLs"),
        ({"name": "../up"}, "URLs"),
        ({"frame_buckets": ()}, "frame_buckets"),
        ({"frame_buckets": (16, 0)}, "frame_buckets"),
        ({"categories": ("a", "b")}, "as many category names"),
    ],
)
def test_unusable_values_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make_contract(**changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 3}, "format 3"),
        ({"format_version": 2}, "contradicts itself in: format_version"),
        ({"height": 48}, "contradicts itself in: height"),
        ({"files": {"onnx": "../../model.onnx"}}, "files of unknown roles or in other places"),
        ({"layout": "BCTHW"}, "contradicts itself in: layout"),
        ({"dim_motion": None}, "contradicts itself|does not hold"),
    ],
)
def test_a_bundle_json_that_contradicts_itself_is_refused(tmp_path, change, message):
    described = {**make_contract().to_dict({}, {}), **change}
    with pytest.raises(ValueError, match=message):
        read_contract(write(tmp_path, described))


@pytest.mark.parametrize("text", [None, "", "[]", "{}", "{"])
def test_what_is_no_bundle_is_called_so(tmp_path, text):
    if text is not None:
        (tmp_path / "bundle.json").write_text(text)
    with pytest.raises(ValueError, match="is no bundle"):
        read_contract(tmp_path)
