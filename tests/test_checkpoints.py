"""Promises of checkpoints: whole, loud, and never fewer than before."""

import shutil

import numpy as np
import pytest

from mocogan_tf import checkpoints
from mocogan_tf.building import build_gan
from tests.tiny import tiny_batch, tiny_config

pytestmark = pytest.mark.core


@pytest.fixture(scope="module")
def config():
    return tiny_config()


@pytest.fixture(scope="module")
def gan(config):
    built = build_gan(config)
    built.train_step(tiny_batch(config))
    return built


@pytest.fixture
def run_dir(gan, tmp_path):
    """A run with checkpoints of steps 1, 2 and 3, which hold the same weights."""
    for step in (1, 2, 3):
        gan.step.assign(step)
        checkpoints.save(gan, tmp_path, keep=3)
    return tmp_path


def state(gan):
    """Everything that a run needs to go on."""
    optimizers = (gan.g_optimizer, gan.d_image_optimizer, gan.d_video_optimizer)
    variables = [*gan.weights, *(v for optimizer in optimizers for v in optimizer.variables)]
    return [variable.numpy() for variable in variables]


def test_everything_comes_back_adams_moments_included(gan, config, run_dir):
    fresh = build_gan(config)
    assert checkpoints.restore_latest(fresh, run_dir) == 3
    for old, new in zip(state(gan), state(fresh), strict=True):
        np.testing.assert_array_equal(old, new)
    assert int(fresh.g_optimizer.iterations.numpy()) == 1


def test_old_checkpoints_go_only_when_the_new_one_is_complete(gan, run_dir, monkeypatch):
    gan.step.assign(4)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(checkpoints, "_sha256", lambda path: (_ for _ in ()).throw(OSError("No space left on device")))
        checkpoints.save(gan, run_dir, keep=2)
    assert checkpoints.steps(run_dir) == [1, 2, 3]
    assert not list(run_dir.rglob("writing-*"))
    checkpoints.save(gan, run_dir, keep=2)
    assert checkpoints.steps(run_dir) == [3, 4]
    assert len(list((run_dir / checkpoints.FOLDER).iterdir())) == 4


def damage_truncate(weights):
    weights.write_bytes(weights.read_bytes()[:-100])


def damage_flip(weights):
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)


def damage_remove(weights):
    weights.unlink()


@pytest.mark.parametrize("damage", [damage_truncate, damage_flip, damage_remove])
def test_a_damaged_latest_checkpoint_is_reported_and_the_one_before_it_used(damage, config, run_dir, caplog):
    damage(checkpoints.paths(run_dir, 3)[0])
    fresh = build_gan(config)
    with caplog.at_level("WARNING"):
        assert checkpoints.restore_latest(fresh, run_dir) == 2
    assert "step-00000003" in caplog.text and "the one before it" in caplog.text


def test_no_whole_checkpoint_is_an_error_and_none_at_all_is_not(gan, run_dir, tmp_path_factory):
    for step in (1, 2, 3):
        damage_flip(checkpoints.paths(run_dir, step)[0])
    with pytest.raises(ValueError, match="No checkpoint .* is whole"):
        checkpoints.restore_latest(gan, run_dir)
    assert checkpoints.restore_latest(gan, tmp_path_factory.mktemp("empty")) is None


def test_weights_of_another_network_are_refused(run_dir):
    with pytest.raises(ValueError, match="cannot be restored"):
        checkpoints.restore(build_gan(tiny_config(ngf=8)), run_dir, 3)


def test_weights_that_are_not_finite_are_not_saved(config, tmp_path):
    gan = build_gan(config)
    gan.generator.decoder.get_layer("norm_0").beta.assign(
        np.full(gan.generator.decoder.get_layer("norm_0").beta.shape, np.nan)
    )
    with pytest.raises(FloatingPointError, match="norm_0/beta is not finite at step 0"):
        checkpoints.save(gan, tmp_path, keep=3)
    assert checkpoints.steps(tmp_path) == []


def test_the_generator_that_is_loaded_is_the_average(gan, config, run_dir):
    (run_dir / "config.json").write_text(config.to_json())
    generator, loaded_config, step = checkpoints.load_generator(run_dir)
    assert (loaded_config, step) == (config, 3)
    for expected, value in zip(gan.average.get_weights(), generator.get_weights(), strict=True):
        np.testing.assert_array_equal(expected, value)
    assert checkpoints.load_generator(run_dir, 2)[2] == 2
    with pytest.raises(ValueError, match="There are: latest, 1, 2, 3"):
        checkpoints.load_generator(run_dir, "best")
    shutil.rmtree(run_dir / checkpoints.FOLDER)
    with pytest.raises(ValueError, match="has no checkpoints. Train with"):
        checkpoints.load_generator(run_dir)
