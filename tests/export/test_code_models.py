"""Models of one code and one clip length, VGAN and TGAN, are exported and proven as MoCoGAN is, as far as they go."""

import json

import numpy as np
import pytest
import tensorflow as tf

from export.contract import read_contract
from export.onnx_model import _temporal_weights, to_onnx
from export.proof import verify
from export.saved_model import draw_latents, signatures
from export.source import open_run
from export.write import write_bundle
from mocogan_tf.gans.build import build_gan
from mocogan_tf.latents import CodeSpec, sample_latents
from mocogan_tf.models.tgan import TGANGenerator
from mocogan_tf.training import checkpoints
from mocogan_tf.video import to_uint8
from tests.export.test_onnx_model import TOLERANCE, run, session_of
from tests.support.reference import random_weights
from tests.support.tiny import baseline_config


def make_run(model, folder, **changes):
    """A run directory with one checkpoint, its weights of realistic size."""
    config = baseline_config(model, **changes)
    gan = build_gan(config)
    for network in (gan.generator, gan.average):
        random_weights(network)
    folder.mkdir()
    checkpoints.save(gan, folder, keep=1)
    (folder / "config.json").write_text(config.to_json())
    data = {"name": "shapes", "categories": ["up", "left"], "num_clips": 8, "fps": 16.0}
    (folder / "data.json").write_text(json.dumps(data))
    return folder


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        ("vgan", {"channels": 1}),
        ("vgan", {"image_size": 64, "video_length": 32}),
        ("tgan", {"channels": 1}),
        ("tgan", {"image_size": 64, "video_length": 16}),
        ("tgan", {"video_length": 4}),
    ],
)
def test_the_onnx_files_give_what_keras_gives(model, changes, tmp_path):
    source = open_run(make_run(model, tmp_path / "run", **changes), "latest")
    models = to_onnx(source.generator, source.contract, uint8=True)
    assert sorted(models) == ["onnx", "onnx_fp16", "onnx_uint8"]
    sessions = {role: session_of(built) for role, built in models.items()}
    for num_videos in (1, 3):
        latents = sample_latents(source.contract.latents, num_videos, source.contract.video_length, seed=num_videos)
        expected = source.generator(latents, training=False)["video"].numpy()
        assert expected.std() > 0.05  # Weights of realistic size: near-zero clips would prove nothing.
        whole = run(sessions["onnx"], latents)
        assert list(whole) == ["video"]
        np.testing.assert_allclose(whole["video"], expected, atol=TOLERANCE)
        assert np.abs(run(sessions["onnx_fp16"], latents)["video"] - expected).max() < 2e-2
        np.testing.assert_array_equal(run(sessions["onnx_uint8"], latents)["video_uint8"], to_uint8(whole["video"]))


def test_no_size_is_computed_anew_for_every_clip(tmp_path):
    # tf2onnx's own transposed convolution along time has twenty nodes of such arithmetic per layer.
    source = open_run(make_run("tgan", tmp_path / "run"), "latest")
    kinds = {node.op_type for node in to_onnx(source.generator, source.contract)["onnx"].graph.node}
    assert not kinds & {"Shape", "Pad", "Split", "Loop", "If", "Div"}


@pytest.mark.slow
@pytest.mark.parametrize("model", ["vgan", "tgan"])
def test_a_bundle_is_proven_and_proves_itself_again(model, tmp_path):
    source = open_run(make_run(model, tmp_path / "run"), "latest")
    out = tmp_path / "bundle"
    checks = write_bundle(source.generator, source.contract, source.provenance, out)
    assert all(check.passed for check in checks)
    assert all(check.passed for check in verify(out))  # Keras is rebuilt from the bundle alone.
    contract, described = read_contract(out)
    assert contract == source.contract and contract.latents == source.generator.latents
    assert not {"motion", "frames", "frames_fp16"} & set(described["files"])
    assert not {"dim_content", "dim_motion", "category_to"} & set(described)
    assert "motion_state" not in (out / "MODEL_CARD.md").read_text()


def test_tgans_normalisation_is_folded_with_its_own_epsilon():
    """Chainer's 2e-5, which counts where a variance is as small."""
    generator = TGANGenerator(image_size=32, ngf=2)
    layer, norm = generator.get_layer("temporal_conv_0"), generator.get_layer("temporal_norm_0")
    norm.moving_variance.assign(np.full(norm.moving_variance.shape, 1e-6))
    norm.moving_mean.assign(np.full(norm.moving_mean.shape, 0.5))
    kernel, bias = _temporal_weights(generator, 0)
    scale = 1 / np.sqrt(2.1e-5)
    np.testing.assert_allclose(kernel, np.asarray(layer.kernel).transpose(2, 1, 0) * scale, rtol=1e-4)
    np.testing.assert_allclose(bias, -0.5 * scale, rtol=1e-4)


def test_the_contract_says_what_the_model_takes(tmp_path):
    contract = open_run(make_run("tgan", tmp_path / "run"), "latest").contract
    (z,) = contract.inputs.values()
    assert (z.name, z.shape, z.distribution) == ("z", ("batch", 100), "uniform")
    (video,) = contract.outputs.values()
    assert video.shape == ("batch", 8, 32, 32, 3)
    assert sorted(signatures(contract)) == sorted(
        [
            "serving_default",
            "generate",
            "generate_8",
            "generate_uint8",
            "generate_png",
            "seed",
            "seed_uint8",
            "seed_png",
        ]
    )
    with pytest.raises(ValueError, match="must be 8, the only length of this model's clips. Received"):
        open_run(tmp_path / "run", "latest", frame_buckets=["8", "16"])


@pytest.mark.parametrize("distribution", ["standard_normal", "uniform"])
def test_a_seed_draws_the_code_it_draws_elsewhere(distribution):
    spec, seeds = CodeSpec(16, distribution=distribution), [0, 7, 2**40 + 1]
    drawn = tf.function(lambda given: draw_latents(given, spec, 16))(tf.constant(seeds, tf.int64))["z"]
    for found, seed in zip(drawn, seeds, strict=True):
        np.testing.assert_allclose(found, sample_latents(spec, 1, 16, seed=seed)["z"][0], rtol=0, atol=5e-7)
