"""The SavedModel can be served: it runs in TensorFlow's session, under its names, with its weights stored once."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from export.saved_model import Session, signatures
from mocogan_tf.latents import sample_latents
from mocogan_tf.training.trained import read_weights
from mocogan_tf.video import to_uint8
from tests.export.conftest import make_contract, make_generator, run_keras


@pytest.fixture(scope="module")
def session(exported):
    with Session(exported[0] / "saved_model" / "1") as opened:
        yield opened


def test_every_signature_is_there_under_its_names(session, exported):
    expected = signatures(exported[2])
    found = {name: item for name, item in session.signatures.items() if not name.startswith("__")}
    assert set(found) == set(expected)
    assert {"serving_default", "generate", "generate_4", "generate_8", "continue", "seed"} <= set(found)
    for name, signature in expected.items():
        assert set(found[name].inputs) == set(signature.inputs)
        assert set(found[name].outputs) == set(signature.outputs)
        for key, spec in (signature.inputs | signature.outputs).items():
            info = (dict(found[name].inputs) | dict(found[name].outputs))[key]
            dims = [dim.size for dim in info.tensor_shape.dim]
            assert len(dims) == len(spec.shape)
            if key in signature.inputs:
                assert dims == [-1 if isinstance(size, str) else size for size in spec.shape]


@pytest.mark.parametrize(("num_videos", "num_frames"), [(1, 1), (3, 7)])
def test_any_number_of_clips_of_any_length(session, exported, num_videos, num_frames):
    latents = sample_latents(exported[2].latents, num_videos, num_frames, seed=1)
    expected = run_keras(exported[1], latents)
    found = session.run("generate", latents)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-5)


def test_one_integer_gives_the_clip_of_that_seed(session, exported):
    seed = 2**63 + 5  # Beyond int64: given as itself minus 2^64.
    latents = sample_latents(exported[2].latents, 1, exported[2].video_length, seed=seed)
    expected = run_keras(exported[1], latents)["video"]
    given = {"seed": np.array([7, seed - 2**64])}
    np.testing.assert_allclose(session.run("seed", given)["video"][1:], expected, atol=1e-5)
    pixels = session.run("seed_uint8", given)["video_uint8"]
    assert np.abs(pixels[1:].astype(int) - to_uint8(expected)).max() <= 1
    pictures = session.run("seed_png", given)["png_bytes"]
    assert pictures.shape == (2, exported[2].video_length)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(pictures[1, 2]))), pixels[1, 2])


def test_a_clip_continues_from_its_state(session, exported):
    latents = sample_latents(exported[2].latents, 2, 10, seed=1)
    whole = session.run("generate", latents)
    state, chunks = latents["motion_init"], []
    for noise in np.split(latents["motion_noise"], [3, 4], axis=1):
        given = {"content": latents["content"], "category": latents["category"]}
        outputs = session.run("continue", {**given, "motion_state": state, "motion_noise": noise})
        chunks.append(outputs["video"])
        state = outputs["motion_state"]
    np.testing.assert_allclose(np.concatenate(chunks, axis=1), whole["video"], atol=1e-5)
    np.testing.assert_allclose(state, whole["motion_state"], atol=1e-6)


def test_weights_are_stored_once_and_under_keras_names(exported):
    folder, generator, _, _ = exported
    stored = read_weights(folder / "saved_model" / "1")
    assert set(stored) == {weight.path for weight in generator.weights}
    for weight in generator.weights:
        np.testing.assert_array_equal(stored[weight.path], weight.numpy())
    data = folder / "saved_model/1/variables/variables.data-00000-of-00001"
    assert data.stat().st_size < 1.5 * sum(weight.numpy().nbytes for weight in generator.weights) + 10_000


def test_the_gru_is_traced_without_cudnn_on_every_machine():
    # Where a GPU is visible, Keras would otherwise trace cuDNN's own operator, which no CPU and no ONNX has.
    assert make_generator(make_contract()).motion.use_cudnn is False


def test_the_session_refuses_what_python_alone_can_load(tmp_path):
    # The reason for checking in a session: this folder loads in Python, but no server can run it.
    contract = make_contract()
    generator = make_generator(contract)
    tf.saved_model.save(generator, str(tmp_path))
    tf.saved_model.load(str(tmp_path))
    with Session(tmp_path) as session:
        widths = {name: info.tensor_shape.dim for name, info in session.signatures["serving_default"].inputs.items()}
        given = {name: np.zeros([max(dim.size, 1) for dim in dims], np.float32) for name, dims in widths.items()}
        with pytest.raises(ValueError, match="TensorFlow's session signature serving_default fails: .*variable"):
            session.run("serving_default", given)


def test_the_session_names_what_is_wrong(session, tmp_path):
    with pytest.raises(ValueError, match="No signature 'predict'. There are: .*serving_default"):
        session.run("predict", {})
    with pytest.raises(ValueError, match="seed takes seed. Received: seeds"):
        session.run("seed", {"seeds": np.array([1])})
    with pytest.raises(ValueError, match="cannot load .*saved_model"):
        Session(tmp_path / "saved_model")
    with pytest.raises(ValueError, match="signature generate fails"):
        session.run("generate", {name: np.zeros((1, 2), np.float32) for name in session.signatures["generate"].inputs})
