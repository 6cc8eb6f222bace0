"""Promises of checkpoints: whole, loud, and never fewer than before."""

import contextlib
import json
import os
import resource
import shutil

import numpy as np
import pytest

from mocogan_tf.gans.build import build_gan
from mocogan_tf.training import checkpoints, trained
from tests.support.tiny import tiny_batch, tiny_config

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
        patch.setattr(checkpoints, "sha256", lambda path: (_ for _ in ()).throw(OSError("No space left on device")))
        checkpoints.save(gan, run_dir, keep=2)
    assert checkpoints.steps(run_dir) == [1, 2, 3]
    assert not list(run_dir.rglob("writing-*"))
    checkpoints.save(gan, run_dir, keep=2)
    assert checkpoints.steps(run_dir) == [3, 4]
    assert len(list((run_dir / checkpoints.FOLDER).iterdir())) == 4


def test_the_best_and_every_kth_outlive_the_latest(gan, tmp_path):
    scores = {1: 5.0, 2: 1.0, 3: 4.0, 4: 3.0, 5: float("nan"), 6: 2.0, 7: 1.0}
    for step, score in scores.items():
        gan.step.assign(step)
        about = {"frechet_video": score, "coverage": score}
        checkpoints.save(gan, tmp_path, keep=2, keep_every=4, best_of="frechet_video", **about)
    assert checkpoints.steps(tmp_path) == [2, 4, 6, 7]
    assert checkpoints.best(tmp_path, "frechet_video") == 2
    assert checkpoints.best(tmp_path, "coverage") == 4
    assert checkpoints.best(tmp_path, "mcs") is None


def test_the_best_by_rank_outlives_the_latest_and_is_ranked_among_steps_that_are_gone(gan, tmp_path):
    texture = {"swd_32": 50.0, "spectrum_high": -1.0, "spectrum_checker": -1.0}
    # Step 2 is the best in distance and class. Step 4 beats it in distance and texture by a little, and three steps
    # that are gone are better in class.
    scores = {
        1: {"kernel_video": 9.0, "mcs": 0.6, **texture},
        2: {"kernel_video": 2.0, "mcs": 0.9, **texture},
        3: {"kernel_video": 8.0, "mcs": 0.7, **texture},
        4: {"kernel_video": 1.9, "mcs": 0.5, **texture, "swd_32": 49.0},
    }
    lines = []
    for step, of_step in scores.items():
        gan.step.assign(step)
        lines.append(json.dumps({"step": step, "frechet_video": 5.0, **of_step}))
        (tmp_path / checkpoints.EVALUATIONS).write_text("\n".join(lines))
        checkpoints.save(gan, tmp_path, keep=1, best_of="auto", frechet_video=5.0, **of_step)
    assert checkpoints.steps(tmp_path) == [2, 4]
    assert checkpoints.best(tmp_path, "auto") == 2
    (tmp_path / checkpoints.EVALUATIONS).unlink()
    assert checkpoints.best(tmp_path, "auto") == 4


def test_the_best_is_loaded_by_name_or_says_that_nothing_was_scored(gan, config, tmp_path):
    (tmp_path / "config.json").write_text(config.to_json())
    gan.step.assign(1)
    checkpoints.save(gan, tmp_path, keep=9)
    with pytest.raises(ValueError, match="No checkpoint .* has scores. Use latest"):
        trained.load_generator(tmp_path, "best")
    for step, score in {2: 1.5, 3: 2.5}.items():
        gan.step.assign(step)
        checkpoints.save(gan, tmp_path, keep=9, frechet_video=score)
    assert trained.load_generator(tmp_path, "best")[2] == 2


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


@contextlib.contextmanager
def full_disk():
    """Lets no file grow beyond 4 kB: the operating system refuses a write in the middle of the weights."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def read_only(folder):
    """Lets nobody write into a folder, root neither: for that it becomes somebody else."""
    user = os.geteuid()
    folder.chmod(0o555)
    try:
        if user == 0:
            os.seteuid(65534)
        yield
    finally:
        os.seteuid(user)
        folder.chmod(0o755)


@pytest.mark.parametrize("fault", [lambda folder: full_disk(), read_only], ids=["full disk", "read-only folder"])
def test_a_checkpoint_that_cannot_be_written_costs_no_older_one_and_leaves_nothing_behind(fault, gan, config, run_dir):
    folder = run_dir / checkpoints.FOLDER
    files = sorted(folder.iterdir())
    gan.step.assign(4)
    with fault(folder), pytest.raises(OSError):
        checkpoints.save(gan, run_dir, keep=1)
    assert sorted(folder.iterdir()) == files
    assert checkpoints.restore_latest(build_gan(config), run_dir) == 3
    checkpoints.save(gan, run_dir, keep=1)  # Space has been made.
    assert checkpoints.steps(run_dir) == [4]


def test_a_description_that_cannot_be_written_leaves_no_weights_without_one(gan, run_dir, monkeypatch):
    gan.step.assign(4)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr("pathlib.Path.write_text", lambda *_: (_ for _ in ()).throw(OSError("No space left on device")))
        checkpoints.save(gan, run_dir, keep=1)
    assert len(list((run_dir / checkpoints.FOLDER).iterdir())) == 6


def test_a_damaged_later_checkpoint_is_none_of_those_to_keep(gan, config, run_dir):
    damage_truncate(checkpoints.paths(run_dir, 3)[0])
    fresh = build_gan(config)
    assert checkpoints.restore_latest(fresh, run_dir) == 2
    checkpoints.save(fresh, run_dir, keep=1)  # Of step 2, which must not make room for the damaged one of step 3.
    assert checkpoints.restore_latest(build_gan(config), run_dir) == 2


def test_what_killed_processes_left_is_cleared_away(gan, run_dir):
    folder = run_dir / checkpoints.FOLDER
    (folder / "writing-step-00000002.weights.h5").write_bytes(b"half")
    (folder / "step-00000007.weights.h5").write_bytes(b"renamed, and killed before its description was")
    assert checkpoints.steps(run_dir) == [1, 2, 3]
    gan.step.assign(4)
    checkpoints.save(gan, run_dir, keep=2)
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        path.name for step in (3, 4) for path in checkpoints.paths(run_dir, step)
    )


def test_a_damaged_description_counts_as_a_damaged_checkpoint(config, run_dir, caplog):
    checkpoints.paths(run_dir, 3)[1].write_text('{"step": 3, "sha')
    with caplog.at_level("WARNING"):
        assert checkpoints.restore_latest(build_gan(config), run_dir) == 2
    assert "step-00000003" in caplog.text


def test_no_whole_checkpoint_is_an_error_and_none_at_all_is_not(gan, run_dir, tmp_path_factory):
    for step in (1, 2, 3):
        damage_flip(checkpoints.paths(run_dir, step)[0])
    with pytest.raises(ValueError, match="No checkpoint .* can be restored"):
        checkpoints.restore_latest(gan, run_dir)
    assert checkpoints.restore_latest(gan, tmp_path_factory.mktemp("empty")) is None


def test_weights_of_another_network_are_refused(run_dir):
    with pytest.raises(ValueError, match="cannot be restored: it is whole, but of other networks"):
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
    generator, loaded_config, step = trained.load_generator(run_dir)
    assert (loaded_config, step) == (config, 3)
    for expected, value in zip(gan.average.get_weights(), generator.get_weights(), strict=True):
        np.testing.assert_array_equal(expected, value)
    assert trained.load_generator(run_dir, 2)[2] == 2
    with pytest.raises(ValueError, match="There are: latest, best, 1, 2, 3"):
        trained.load_generator(run_dir, "newest")
    shutil.rmtree(run_dir / checkpoints.FOLDER)
    with pytest.raises(ValueError, match="has no checkpoints. Train with"):
        trained.load_generator(run_dir)
