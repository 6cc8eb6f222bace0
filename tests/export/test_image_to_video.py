"""Generators whose content is an encoded picture: every exported file makes of a picture what Keras makes of it."""

import contextlib
import dataclasses
import json

import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf

from export.contract import FILES, read_contract
from export.model_card import model_card
from export.onnx_model import to_onnx
from export.proof import _Proof
from export.saved_model import Pictures, Session, sample_inputs, signatures
from export.write import NUM_PICTURES, _write_contents, write_bundle
from mocogan_tf.latents import sample_latents
from mocogan_tf.models.generator import VideoGenerator
from mocogan_tf.training.trained import rebuild_generator
from mocogan_tf.video import from_uint8
from tests.export.conftest import make_contract, provenance_of, run_keras, set_realistic_weights


def make(category_to="both", image_size=32, seed=0, **changes):
    """A generator of realistic weights with pictures, and its contract."""
    options = {"content_modulation": True, "still_background": True, "motion_init_scale": 0.1, **changes}
    contract = make_contract(category_to=category_to, image_size=image_size, content_from="pictures")
    generator = VideoGenerator(
        task="image_to_video", decoder="fine", dim_content=12, dim_motion=contract.dim_motion,
        dim_category=contract.dim_category, category_to=category_to, ngf=4, image_size=image_size, **options,
    )  # fmt: skip
    set_realistic_weights(generator, seed)
    shape = (NUM_PICTURES + 2, image_size, image_size, 3)
    generator.pictures = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    return generator, dataclasses.replace(contract, dim_content=generator.latents.dim_content)


def run_onnx(model, inputs):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    given = {item.name: inputs[item.name] for item in session.get_inputs()}
    return dict(zip(names, session.run(names, given), strict=True))


@pytest.fixture(scope="module")
def animated(tmp_path_factory):
    """A proven bundle: (folder, generator, contract, findings)."""
    generator, contract = make()
    folder = tmp_path_factory.mktemp("bundles") / "animated"
    checks = write_bundle(generator, contract, provenance_of(generator), folder)
    return folder, generator, contract, checks


@pytest.mark.parametrize(
    ("category_to", "image_size", "changes"),
    [
        ("both", 32, {}),
        ("motion", 64, {"palette": 5, "still_background": False}),
        ("image", 32, {"motion_init_scale": 1.0}),
    ],
)
def test_onnx_makes_of_a_picture_what_keras_makes(category_to, image_size, changes):
    generator, contract = make(category_to, image_size, **changes)
    models = to_onnx(generator, contract)
    images = from_uint8(generator.pictures)
    contents = generator.contents
    assert np.abs(run_onnx(models["encode"], {"image": images})["content"] - contents).max() < 1e-5
    latents = sample_latents(contract.latents, 3, 5, seed=4, contents=contents)
    expected = run_keras(generator, latents)
    motion = run_onnx(models["motion"], latents)
    for name, made, allowed in (
        ("whole", run_onnx(models["onnx"], latents), 1e-4),
        ("parts", {**motion, **run_onnx(models["frames"], {**latents, **motion})}, 1e-4),
        ("half", run_onnx(models["onnx_fp16"], latents), 2e-2),
        ("half parts", {**motion, **run_onnx(models["frames_fp16"], {**latents, **motion})}, 2e-2),
    ):
        assert np.abs(made["video"] - expected["video"]).max() < allowed, name
        assert np.abs(made["motion_state"] - expected["motion_state"]).max() < 1e-5, name


def test_clips_differ_by_their_picture_alone():
    """Otherwise the comparisons of this file would hold whatever became of the pictures."""
    generator, contract = make()
    latents = sample_latents(contract.latents, 2, 4, seed=4, contents=generator.contents)
    latents = {name: np.repeat(value[:1], 2, axis=0) for name, value in latents.items()} | {
        "content": generator.contents[:2]
    }
    first, second = run_keras(generator, latents)["video"]
    assert np.abs(first - second).max() > 0.1


def test_what_is_fixed_over_a_clip_is_one_product_and_what_moves_another():
    generator, contract = make()
    nodes = to_onnx(generator, contract)["frames"].graph.node
    products = [
        node.name for node in nodes if node.op_type in ("Gemm", "MatMul") and not node.name.startswith("background/")
    ]
    assert len(products) == 2 and all(name.startswith("frames/before") for name in products)
    moved = [node for node in nodes if node.op_type == "Transpose" and node.name.startswith("frames/Transpose")]
    assert len(moved) == 1, "the finished frames are the only maps whose channels move"


def test_the_files_have_as_few_nodes_as_documented():
    models = to_onnx(*make(image_size=64, modulate_from=16))
    found = {role: len(model.graph.node) for role, model in models.items()}
    assert found == {"onnx": 86, "onnx_fp16": 90, "motion": 18, "frames": 71, "frames_fp16": 75, "encode": 16}


def test_a_bundle_is_proven_and_says_where_its_content_is_from(animated):
    folder, _, contract, checks = animated
    assert all(check.passed for check in checks)
    names = {check.name for check in checks}
    assert {"encode.onnx, Keras", "contents.npz, encode.onnx", "signature animate", "signature encode"} <= names
    described = json.loads((folder / "bundle.json").read_text())
    assert described["content_from"] == "pictures"
    assert {entry["name"]: entry["distribution"] for entry in described["inputs"]}["content"] == "encoded"
    assert read_contract(folder)[0] == contract
    with np.load(folder / described["files"]["contents"]) as file:
        assert file["pictures"].shape == (NUM_PICTURES, 32, 32, 3)
        assert file["contents"].shape == (NUM_PICTURES, contract.dim_content)


def test_the_encoder_can_be_rebuilt_from_the_saved_model_as_verify_does(animated):
    folder, generator, contract, _ = animated
    described = read_contract(folder)[1]
    rebuilt = rebuild_generator(folder / "saved_model" / str(contract.version), described)
    pictures = generator.pictures[:3]
    assert np.array_equal(rebuilt.encode(pictures), generator.encode(pictures))


def test_the_saved_model_draws_its_contents_as_the_library_does_and_animates_pictures(animated):
    folder, generator, contract, _ = animated
    contents = Pictures.read(folder / "contents.npz").contents
    with Session(folder / "saved_model" / "1") as served:
        for seed in (0, 7, 2**40 + 3):
            latents = sample_latents(contract.latents, 1, contract.video_length, seed=seed, contents=contents)
            video = served.run("seed", {"seed": np.array([seed], np.int64)})["video"]
            assert np.abs(video - run_keras(generator, latents)["video"]).max() < 1e-4
        image = from_uint8(generator.pictures[-1:])  # None of those that a seed chooses.
        given = {name: value for name, value in latents.items() if name != "content"}
        expected = run_keras(generator, {**latents, "content": generator.encode(generator.pictures[-1:])})
        assert np.abs(served.run("animate", {"image": image, **given})["video"] - expected["video"]).max() < 1e-4
        assert (
            np.abs(served.run("encode", {"image": image})["content"] - generator.encode(generator.pictures[-1:])).max()
            < 1e-4
        )


def test_the_signature_animate_gives_each_clip_its_own_picture():
    generator, contract = make()
    latents = sample_latents(contract.latents, 2, 4, seed=4, contents=generator.contents)
    latents["content"] = generator.encode(generator.pictures[:2])
    given = {**latents, "image": from_uint8(generator.pictures[:2])}
    inputs = {name: tf.constant(given[name]) for name in signatures(contract)["animate"].inputs}
    made = signatures(contract)["animate"].compute(generator, inputs)
    assert np.abs(made["video"] - run_keras(generator, latents)["video"]).max() < 1e-4


def test_contents_hold_sixteen_pictures_and_what_the_encoder_makes_of_each(tmp_path):
    generator, _ = make()
    assert len(generator.pictures) > NUM_PICTURES
    _write_contents(generator, tmp_path / "contents.npz")
    found = Pictures.read(tmp_path / "contents.npz")
    assert np.array_equal(found.pictures, generator.pictures[:NUM_PICTURES])
    assert np.abs(found.contents - generator.contents[:NUM_PICTURES]).max() < 1e-5


def test_the_clips_of_a_request_that_proves_a_signature_have_different_pictures():
    contract = make_contract(content_from="pictures", dim_content=17)
    pixels = np.random.default_rng(0).integers(0, 256, (NUM_PICTURES, 32, 32, 3), np.uint8)
    pictures = Pictures(pixels, np.zeros((NUM_PICTURES, 17), np.float32))
    for name in ("encode", "animate"):
        inputs = signatures(contract)[name].inputs
        images = sample_inputs(inputs, contract, 2, seed=NUM_PICTURES - 1, pictures=pictures)["image"]
        assert np.array_equal(images, from_uint8(pixels[[NUM_PICTURES - 1, 0]]))


@pytest.mark.parametrize("file", ["encode.onnx", "contents.npz"])
def test_an_encoder_and_contents_that_do_not_fit_are_found(file, tmp_path):
    generator, contract = make()
    model = to_onnx(generator, contract)["encode"]
    onnx.save(model, str(tmp_path / "encode.onnx"))
    _write_contents(generator, tmp_path / "contents.npz")
    if file == "encode.onnx":
        (bias,) = (tensor for tensor in model.graph.initializer if list(tensor.dims) == [12])
        bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + np.float32(0.01), bias.name))
        onnx.save(model, str(tmp_path / file))
    else:
        found = Pictures.read(tmp_path / file)
        np.savez(tmp_path / file, pictures=found.pictures[::-1], contents=found.contents)
    with contextlib.ExitStack() as stack:
        checks = list(_Proof(tmp_path, contract, {"files": FILES}, generator, stack).encoder())
    assert {check.name: check.passed for check in checks}["contents.npz, encode.onnx"] is False
    assert checks[0].passed == (file == "contents.npz")


def test_a_generator_without_pictures_is_not_exported(tmp_path):
    generator, contract = make()
    generator.pictures = None
    with pytest.raises(ValueError, match="set `generator.pictures`"):
        write_bundle(generator, contract, provenance_of(generator), tmp_path / "none")
    assert not list(tmp_path.iterdir())


def test_other_bundles_say_nothing_of_pictures():
    contract = make_contract()
    assert "content_from" not in contract.to_dict({}, {})
    assert "content_from" not in contract.metadata()
    with pytest.raises(ValueError, match="content_from"):
        make_contract(content_from="dreams")


def test_the_cards_program_runs(animated, monkeypatch):
    folder, generator, contract, _ = animated
    card = model_card(contract, provenance_of(generator), "")
    program = card.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(folder)
    found = {}
    exec(program, found)
    assert found["video"].shape == (1, contract.video_length, 32, 32, 3)
    assert np.array_equal(found["inputs"]["content"], Pictures.read(folder / "contents.npz").contents[:1])
