"""Each mode of sample.py draws exactly its latents, and as many clips of as many frames as it says."""

import pathlib
import types

import numpy as np
import pytest
from PIL import Image

from mocogan_tf import sampling
from mocogan_tf.commands import sample, train
from mocogan_tf.config import Config
from mocogan_tf.latents import LatentSpec, sample_latents
from mocogan_tf.training import trained
from tests.support.made_clips import frames_of, save_video

pytestmark = pytest.mark.core
SPEC = LatentSpec(dim_content=5, dim_motion=3, dim_category=3)


def drawn(tmp_path, monkeypatch, mode, category_to="motion", made_by=None, **flags):
    """Latents of a mode's clips, their number of frames, and the names of the files that it wrote."""
    values = {
        "run_dir": None, "bundle": "a bundle", "out": str(tmp_path), "mode": mode, "checkpoint": "latest",
        "num_videos": 4, "columns": 0, "frames": 0, "category": "", "seed": 9, "fps": 0.0, "scale": 1,
        "formats": ["npy"], "image": [], "clip": [], "content_clip": None, "motion_clip": None, **flags,
    }  # fmt: skip
    config = Config(image_size=32, dim_category=3, video_length=6, dim_content=5, dim_motion=3)
    generator = made_by or types.SimpleNamespace(latents=SPEC, config={"category_to": category_to}, frame_stride=1)
    found = trained.Trained(generator, config, 7, 8.0, ("up", "down", "left"), pathlib.Path("here"))
    seen = []

    def stream(generator, draw, frames):
        latents = draw(frames)
        seen.append((latents, frames))
        yield np.zeros((len(latents["content"]), frames, 32, 32, 3), np.uint8)

    monkeypatch.setattr(sample, "FLAGS", types.SimpleNamespace(**values))
    monkeypatch.setattr(trained, "open_bundle", lambda folder: found)
    monkeypatch.setattr(sampling, "stream", stream)
    assert sample.main([]) == 0
    ((latents, frames),) = seen
    return latents, frames, sorted(path.name for path in tmp_path.iterdir())


def assert_equal(found, expected):
    assert sorted(found) == sorted(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-6, err_msg=name)


def clips(number, frames=6, **draw):
    return sample_latents(SPEC, number, frames, seed=9, **draw)


def test_random_draws_the_first_clips_of_the_seed(tmp_path, monkeypatch):
    latents, frames, files = drawn(tmp_path, monkeypatch, "random")
    assert_equal(latents, clips(4))
    assert frames == 6 and files == [f"random-000{i}.npy" for i in range(4)]


@pytest.mark.parametrize(("category", "index"), [("down", 1), ("2", 2), ("0", 0)])
def test_random_clips_may_be_of_one_category(category, index, tmp_path, monkeypatch):
    latents, _, _ = drawn(tmp_path, monkeypatch, "random", category=category, num_videos=2)
    assert_equal(latents, clips(2, category=index))


@pytest.mark.parametrize(("flag", "expected"), [(0, 24), (50, 50)])
def test_long_draws_random_clips_of_four_times_the_length_or_as_asked_for(flag, expected, tmp_path, monkeypatch):
    latents, frames, _ = drawn(tmp_path, monkeypatch, "long", frames=flag, num_videos=2)
    assert frames == expected
    assert_equal(latents, clips(2, expected))


def test_interpolate_draws_contents_on_the_great_circle_under_one_motion(tmp_path, monkeypatch):
    latents, frames, files = drawn(tmp_path, monkeypatch, "interpolate", num_videos=5)
    ends = clips(2)
    a, b = ends["content"].astype(np.float64)
    angle = np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    path = [(np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle) for t in (0, 0.25, 0.5, 0.75, 1)]
    assert_equal(latents, {"content": path, **{n: np.repeat(v[:1], 5, 0) for n, v in ends.items() if n != "content"}})
    assert frames == 6 and len(files) == 5
    line = np.linspace(a, b, 5)
    assert np.abs(latents["content"] - line).max() > 0.05


def test_categories_draws_every_content_under_every_category(tmp_path, monkeypatch):
    latents, _, files = drawn(tmp_path, monkeypatch, "categories", num_videos=2)
    own = {name: np.repeat(value, 3, axis=0) for name, value in clips(2).items()}
    assert_equal(latents, {**own, "category": np.tile(np.eye(3), (2, 1))})
    assert files == [f"categories-000{i}.npy" for i in range(6)]


@pytest.mark.parametrize("category_to", ["motion", "image"])
def test_the_grid_draws_every_content_with_every_motion(category_to, tmp_path, monkeypatch):
    latents, _, files = drawn(
        tmp_path, monkeypatch, "content_motion_grid", category_to=category_to, num_videos=2, columns=4
    )
    contents, motions = clips(2)["content"], clips(4)
    row, column = np.repeat([0, 1], 4), np.tile([0, 1, 2, 3], 2)
    expected = {"content": contents[row], **{name: motions[name][column] for name in ("motion_init", "motion_noise")}}
    owner = column if category_to == "motion" else row
    assert_equal(latents, {**expected, "category": np.eye(3)[owner % 3]})
    assert len(files) == 8


def animator():
    """A generator of five pictures whose encoder gives each one's brightness."""
    spec = LatentSpec(dim_content=5, dim_motion=3, dim_category=3, content_from="pictures")
    pictures = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((32, 32, 3), np.uint8)
    return types.SimpleNamespace(
        latents=spec,
        config={"category_to": "motion"},
        frame_stride=1,
        pictures=pictures,
        encode=lambda given: given[:, 0, 0, :1].astype(np.float32).repeat(5, axis=1),
    )


def image_files(tmp_path):
    for value in (100, 200):
        Image.new("RGB", (40, 32), (value,) * 3).save(tmp_path / f"{value}.png")
    return [str(tmp_path / f"{value}.png") for value in (100, 200)]


def test_animate_draws_every_picture_in_every_category_and_says_how_it_was_fitted(tmp_path, monkeypatch, capsys):
    images = image_files(tmp_path)
    latents, frames, files = drawn(
        tmp_path / "out", monkeypatch, "animate", made_by=animator(), image=images, formats=["npy", "png"]
    )
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == [f"{value}.png: 40x32 cropped to 32x32" for value in (100, 200)]
    motions = clips(3)
    expected = {name: np.tile(motions[name], (2,) + (1,) * (motions[name].ndim - 1)) for name in motions}
    brightness = np.repeat([100, 200], 3)[:, None].repeat(5, axis=1)
    assert_equal(latents, {**expected, "content": brightness, "category": np.tile(np.eye(3), (2, 1))})
    assert frames == 6 and len([name for name in files if name.endswith(".npy")]) == 6
    # Two rows of a picture and its three motions, each frame below the one before.
    assert Image.open(tmp_path / "out" / "animate-grid.png").size[0] % (4 * 34 - 2) == 0


def test_animate_reads_a_picture_as_the_server_does(tmp_path, monkeypatch):
    """Upright by its EXIF data and on white; the animator's content is the brightness of the upper left corner."""
    exif = Image.Exif()
    exif[0x0112] = 3  # Upside down.
    image = Image.new("RGBA", (32, 32), (10, 10, 10, 255))
    image.paste((0, 0, 0, 0), (0, 16, 32, 32))
    image.save(tmp_path / "turned.png", exif=exif)
    latents, _, _ = drawn(
        tmp_path / "out",
        monkeypatch,
        "animate",
        made_by=animator(),
        image=[str(tmp_path / "turned.png")],
        category="up",
    )
    assert latents["content"][:, 0].tolist() == [255]


@pytest.mark.parametrize("name", ["film.gif", "film.avi"])
def test_animate_takes_the_first_frame_of_what_moves_and_says_so(name, tmp_path, monkeypatch, capsys):
    path, frames = tmp_path / name, frames_of(3, first=50)
    if name.endswith("gif"):
        first, *others = map(Image.fromarray, frames)
        first.save(path, save_all=True, append_images=others)
    else:
        pytest.importorskip("av")
        save_video(path, frames)
    latents, _, _ = drawn(
        tmp_path / "out", monkeypatch, "animate", made_by=animator(), image=[str(path)], category="up"
    )
    assert latents["content"][:, 0].tolist() == [50]
    assert capsys.readouterr().out.splitlines()[0] == f"{name}: first frame, 32x32 taken as it is"


def test_a_grey_model_animates_a_grey_picture(tmp_path):
    Image.new("RGB", (32, 32), (200, 100, 0)).save(tmp_path / "red.png")
    pixels = sample._picture(str(tmp_path / "red.png"), Config(image_size=32, channels=1))
    assert pixels.shape == (32, 32, 1) and (pixels == 118).all()  # 0.299 * 200 + 0.587 * 100, ITU-R 601.


@pytest.mark.parametrize(
    ("name", "content"),
    [("missing.png", None), ("text.txt", b"hello"), ("cut.png", b"\x89PNG\r\n\x1a\n123"), ("empty.avi", b"")],
)
def test_what_cannot_be_animated_is_one_line_that_begins_with_its_name(name, content, tmp_path, monkeypatch):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError) as error:
        drawn(tmp_path / "out", monkeypatch, "animate", made_by=animator(), image=[str(path)])
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


@pytest.mark.parametrize(("flags", "motions"), [({}, 1), ({"columns": 2}, 2)])
def test_animate_draws_one_category_if_it_is_named(flags, motions, tmp_path, monkeypatch):
    images = image_files(tmp_path)
    latents, _, _ = drawn(
        tmp_path / "out", monkeypatch, "animate", made_by=animator(), image=images, category="left", **flags
    )
    assert latents["category"].argmax(axis=1).tolist() == [2] * (2 * motions)
    assert latents["content"][:, 0].tolist() == [100] * motions + [200] * motions


def test_animate_takes_the_runs_pictures_where_none_is_given(tmp_path, monkeypatch):
    latents, _, _ = drawn(tmp_path, monkeypatch, "animate", made_by=animator(), num_videos=2)
    assert latents["content"][:, 0].tolist() == [0, 0, 0, 1, 1, 1]


def test_a_run_that_makes_up_its_contents_animates_nothing(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="--task=image_to_video"):
        drawn(tmp_path, monkeypatch, "animate")
    with pytest.raises(ValueError, match="--image goes with --mode=animate. Received: --mode=random"):
        drawn(tmp_path, monkeypatch, "random", image=["a.png"])


@pytest.mark.parametrize(
    ("fields", "profile", "folder"),
    [
        ({"dataset": "taichi"}, "cpu", "taichi-cpu"),
        ({"dataset": "shapes", "model": "vgan"}, "smoke", "shapes-vgan-smoke"),
        ({"dataset": "shapes", "model": "tgan"}, "paper", "shapes-tgan-paper"),
        (
            {"dataset": "taichi", "task": "image_to_video", "decoder": "fine", "content_modulation": True},
            "cpu",
            "taichi-image_to_video-cpu",
        ),
        ({"dataset": "folder", "data_dir": "/data/my clips/"}, "cpu", "my clips-cpu"),
        ({"dataset": "folder", "data_dir": "s3://bucket/own", "model": "vgan"}, "cpu", "own-vgan-cpu"),
    ],
)
def test_each_set_model_and_profile_has_a_run_of_its_own(fields, profile, folder):
    assert train._default_run_dir(Config(**fields), profile) == f"runs/{folder}"
