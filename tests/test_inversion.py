"""Promises of the codes of given clips, and of the two modes of sample.py that need them."""

import pathlib
import types

import numpy as np
import pytest
from PIL import Image

from mocogan_tf import inversion, sampling
from mocogan_tf.commands import sample
from mocogan_tf.config import Config
from mocogan_tf.latents import sample_latents
from mocogan_tf.models.generator import VideoGenerator
from mocogan_tf.models.vgan import VGANGenerator
from mocogan_tf.training import trained
from mocogan_tf.video import to_uint8
from tests.support import reference

FRAMES = 4


def make(**changes):
    """A generator with random weights."""
    arguments = {"dim_content": 5, "dim_motion": 3, "dim_category": 3, "ngf": 2, "image_size": 32, "decoder": "fine"}
    generator = VideoGenerator(**{**arguments, "category_to": "both", **changes})
    reference.random_weights(generator)
    return generator


def apart(clips, others):
    """Mean absolute difference of every pair of clips, 0 to 255."""
    return np.abs(clips.astype(float) - others).mean(axis=(1, 2, 3, 4))


@pytest.fixture(scope="module")
def generator():
    return make()


@pytest.fixture(scope="module", autouse=True)
def a_short_search():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inversion, "NUM_SAMPLES", 32)
        patch.setattr(inversion, "STEPS", (10, 60))
        yield


@pytest.fixture(scope="module")
def own(generator):
    """Two clips of the generator, none of which is among the samples, and what a search finds."""
    clips = sampling.generate(generator, sample_latents(generator.latents, 2, FRAMES, seed=77))
    return clips, *inversion.reconstruct(generator, clips, seed=0)


@pytest.mark.core
def test_a_search_ends_much_nearer_than_the_nearest_sample(generator, own):
    clips, found, _ = own
    samples = sampling.random_clips(generator, 96, FRAMES, seed=0)
    nearest = [apart(samples, clip).min() for clip in clips]
    assert (apart(found, clips) < 0.5 * np.array(nearest)).all()


def test_what_is_found_are_ordinary_inputs_that_give_the_clip(generator, own):
    clips, found, latents = own
    assert {name: value.shape for name, value in latents.items()} == generator.latents.shapes(2, FRAMES)
    assert (np.sort(latents["category"], axis=1) == [0, 0, 1]).all()
    again = np.asarray(generator(latents, training=False)["video"])
    assert np.abs(to_uint8(again).astype(int) - found).max() <= 1
    for name in ("content", "motion_init", "motion_noise"):
        assert 0.2 < np.square(latents[name]).mean() < 4, name  # As of drawn ones, about.


def test_the_motion_of_one_clip_moves_the_content_of_the_other(generator, own, monkeypatch):
    clips, _, latents = own
    seen = {}
    monkeypatch.setattr(sampling, "generate", lambda generator, latents: seen.update(latents))
    inversion.transfer(generator, clips[:1], clips[1:])
    for name, value in latents.items():
        row = 0 if name == "content" else 1
        np.testing.assert_allclose(seen[name], value[row : row + 1], atol=1e-3, err_msg=name)


def test_a_category_that_is_given_is_kept(generator, own, monkeypatch):
    monkeypatch.setattr(inversion, "STEPS", (1, 1))
    clips, _, latents = own
    other = (latents["category"][0].argmax() + 1) % 3
    found = inversion.invert(generator, clips[:1], category=other)
    assert found["category"].argmax() == other


def test_a_generator_without_categories_and_half_frames_is_searched_too(monkeypatch):
    monkeypatch.setattr(inversion, "STEPS", (2, 2))
    plain = make(dim_category=0, category_to="motion", decoder="dcgan", ngf=2, channels=1)
    clips = sampling.random_clips(plain, 1, 2, seed=0)
    found, latents = inversion.reconstruct(plain, clips)
    assert found.shape == clips.shape and "category" not in latents
    assert apart(found, clips) < 20


@pytest.fixture(scope="module")
def animator():
    return make(task="image_to_video", motion_init_scale=0.1, content_modulation=True)


def random_pixels(*shape):
    return np.random.default_rng(3).integers(0, 256, shape).astype(np.uint8)


@pytest.mark.parametrize("length", [3, sampling.CHUNK + 1])
def test_with_an_encoder_the_frames_poses_move_the_first_frame_of_the_other(length, animator):
    contents, motions = random_pixels(2, length, 32, 32, 3), random_pixels(2, length, 32, 32, 3)[::-1]
    found = inversion.transfer(animator, contents, motions, category=2)
    category = np.eye(3, dtype=np.float32)[[2]]
    for content, motion, clip in zip(contents, motions, found, strict=True):
        codes = animator.posed(animator.encode(content[:1]), animator.encode(motion)[None], category)
        expected = to_uint8(animator.frames(codes))[0]
        assert np.abs(expected.astype(int) - clip).max() <= (length > sampling.CHUNK)


def test_with_an_encoder_the_category_is_that_which_shows_the_motion_best(animator):
    clips = random_pixels(2, 3, 32, 32, 3)
    each = np.stack([inversion.reconstruct(animator, clips, category=i)[0] for i in range(3)])
    best = np.argmin([apart(shown, clips) for shown in each], axis=0)
    found, latents = inversion.reconstruct(animator, clips)
    assert latents is None
    np.testing.assert_array_equal(found, each[best, [0, 1]])
    other = random_pixels(1, 3, 32, 32, 3)
    moved = inversion.transfer(animator, other, clips[1:])
    np.testing.assert_array_equal(moved, inversion.transfer(animator, other, clips[1:], category=best[1]))


def test_what_has_no_codes_is_said(generator, animator):
    clips = np.zeros((1, 16, 32, 32, 3), np.uint8)
    with pytest.raises(ValueError, match="one code for content and motion together"):
        inversion.reconstruct(VGANGenerator(image_size=32, ngf=2), clips)
    with pytest.raises(ValueError, match="are read and not searched for"):
        inversion.invert(animator, clips)
    for made in (generator, animator):
        with pytest.raises(ValueError, match=r"must be in \[0, 3\). Received: category=3"):
            inversion.transfer(made, clips, clips, category=3)


def written(tmp_path, monkeypatch, made_by, mode, **flags):
    """Runs sample.py on a generator and returns the names of the files that it wrote."""
    values = {
        "run_dir": None, "bundle": "a bundle", "out": str(tmp_path / "out"), "mode": mode, "checkpoint": "latest",
        "num_videos": 4, "columns": 0, "frames": 0, "category": "", "seed": 0, "fps": 0.0, "scale": 2,
        "formats": ["npy", "webp"], "image": [], "clip": [], "content_clip": None, "motion_clip": None, **flags,
    }  # fmt: skip
    config = Config(image_size=32, dim_category=3, video_length=FRAMES, dim_content=5, dim_motion=3)
    found = trained.Trained(made_by, config, 7, 8.0, ("up", "down", "left"), pathlib.Path("here"))
    monkeypatch.setattr(sample, "FLAGS", types.SimpleNamespace(**values))
    monkeypatch.setattr(trained, "open_bundle", lambda folder: found)
    assert sample.main([]) == 0
    return sorted(path.name for path in (tmp_path / "out").iterdir())


@pytest.fixture
def clips(tmp_path):
    """A long clip and a short one, as files."""
    for name, length in (("a", FRAMES + 3), ("b", FRAMES - 1)):
        np.save(tmp_path / f"{name}.npy", random_pixels(length, 40, 32, 3))
    return [str(tmp_path / f"{name}.npy") for name in "ab"]


def test_reconstruct_writes_clips_beside_given_ones_and_their_codes(generator, clips, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(inversion, "STEPS", (1, 1))
    files = written(tmp_path, monkeypatch, generator, "reconstruct", clip=clips)
    names = [f"reconstruct-000{i}.{suffix}" for i in (0, 1) for suffix in ("npy", "webp")]
    assert files == ["codes.npz", *names, "reconstruct-grid.webp"]
    said = capsys.readouterr().out.splitlines()
    fitted = "32x40, cut to its central 32x32"
    assert said[:2] == [
        f"a.npy: {fitted}, 4 frames of it at no known rate, cut to the 3 of the shortest",
        f"b.npy: {fitted}, 3 frames of it at no known rate",
    ]
    assert said[2].startswith("Clip 0: mean difference ") and said[2].split()[-1] in ("up", "down", "left")
    with np.load(tmp_path / "out" / "codes.npz") as codes:
        latents = dict(codes)
    shown = np.load(tmp_path / "out" / "reconstruct-0001.npy")
    again = sampling.generate(generator, latents)[1].repeat(2, axis=1).repeat(2, axis=2)
    assert np.abs(again.astype(int) - shown).max() <= 1
    with Image.open(tmp_path / "out" / "reconstruct-grid.webp") as grid:
        assert grid.n_frames == 3 and grid.size == (2 * 66 - 2, 2 * 66 - 2)
        first = np.asarray(grid.convert("RGB"))[:64, :64]
    given = np.load(clips[0])[0, 4:36].repeat(2, axis=0).repeat(2, axis=1)
    np.testing.assert_array_equal(first, given)


@pytest.mark.core
def test_transfer_writes_the_clip_beside_both(animator, clips, tmp_path, monkeypatch):
    files = written(tmp_path, monkeypatch, animator, "transfer", content_clip=clips[0], motion_clip=clips[1])
    assert files == ["transfer-0000.npy", "transfer-0000.webp", "transfer-grid.webp"]
    a, b = (np.load(path)[None, : FRAMES - 1, 4:36] for path in clips)
    expected = inversion.transfer(animator, a, b)[0].repeat(2, axis=1).repeat(2, axis=2)
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "transfer-0000.npy"), expected)
    assert Image.open(tmp_path / "out" / "transfer-grid.webp").size == (3 * 66 - 2, 64)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"mode": "random", "clip": ["a"]}, "--clip goes with --mode=reconstruct. Received: --mode=random"),
        ({"mode": "transfer", "clip": ["a"]}, "--clip goes with --mode=reconstruct. Received: --mode=transfer"),
        ({"mode": "reconstruct", "motion_clip": "a"}, "--motion_clip go with --mode=transfer. Received"),
        ({"mode": "reconstruct"}, "--mode=reconstruct needs --clip=CLIP: a video file"),
        ({"mode": "transfer", "content_clip": "a"}, "needs --content_clip=CLIP and --motion_clip=CLIP"),
        ({"mode": "reconstruct", "clip": ["a"], "frames": 1}, "two frames or more. Received: --frames=1"),
        ({"mode": "reconstruct", "clip": ["/nowhere/a.gif"]}, "Cannot read the clip /nowhere/a.gif: no such file"),
        ({"mode": "reconstruct", "clip": ["a"], "category": "across"}, "no category 'across'"),
    ],
)
def test_wrong_flags_are_said_and_nothing_is_written(flags, words, generator, tmp_path, monkeypatch):
    with pytest.raises(ValueError) as error:
        written(tmp_path, monkeypatch, generator, **flags)
    assert words.lower() in str(error.value).lower() and "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()
