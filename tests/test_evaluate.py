"""Promises of evaluate.py: clips of any origin score as the arrays they came from; every refusal is one line."""

import dataclasses
import json

import numpy as np
import pytest
import scipy.linalg

from mocogan_tf import video
from mocogan_tf.data.rendered import shapes
from mocogan_tf.gans.build import build_gan
from mocogan_tf.metrics import material, quality, registry, texture
from tests.metrics.test_features import mean_network
from tests.support.commands import complaint, run
from tests.support.tiny import tiny_config

LOSSLESS = ("webp", "apng", "png", "npy", "gif")  # A GIF holds clips of few colours without loss.


def rendered(number=12, num_frames=8, image_size=32):
    clips = [shapes.render_clip(i, seed=1, num_frames=num_frames, image_size=image_size) for i in range(number)]
    return np.stack([clip.frames for clip in clips]), [shapes.CATEGORIES[clip.label] for clip in clips]


def write_clips(folder, frames, suffix, classes=None):
    for i, clip in enumerate(frames):
        at = folder / classes[i] if classes else folder
        at.mkdir(parents=True, exist_ok=True)
        video.write_video(at / f"clip-{i:03d}.{suffix}", clip, fps=8)
    return folder


def scores_of(found, *names):
    return {score.metric: score for score, _ in registry.evaluate(names, found)}


def two_colours(frames):
    """The same clips, of which the second half of each is darker: their distance is not zero."""
    changed = frames.copy()
    changed[:, frames.shape[1] // 2 :] //= 2
    return changed


@pytest.mark.parametrize("suffix", LOSSLESS)
def test_clips_of_a_folder_score_exactly_as_the_arrays_they_came_from(suffix, tmp_path):
    frames = two_colours(rendered()[0])
    folder = write_clips(tmp_path / "clips", frames, suffix)
    np.testing.assert_array_equal(material.folder_clips(folder).frames, frames)
    read = material.of_folder(folder, num_videos=None, seed=0)
    given = material.Material(None, num_videos=12, num_frames=8, seed=0, given=material.Clips(frames))
    from_files, from_arrays = (scores_of(found, "acd_color", "diversity") for found in (read, given))
    assert from_files == from_arrays
    assert from_files["acd_color"].value > 5


def test_films_score_nearly_as_the_arrays_they_came_from(tmp_path):
    pytest.importorskip("av")
    frames = two_colours(rendered(6, image_size=64)[0])
    found = material.of_folder(write_clips(tmp_path / "clips", frames, "mp4"), num_videos=None, seed=0)
    given = material.Material(None, num_videos=6, num_frames=8, seed=0, given=material.Clips(frames))
    for name in ("diversity", "motion"):
        assert scores_of(found, name)[name].value == pytest.approx(scores_of(given, name)[name].value, rel=0.15)


def test_class_folders_are_labels_by_name_not_by_order(tmp_path):
    frames, classes = rendered()
    folder = write_clips(tmp_path / "clips", frames, "npy", classes)
    options = {"num_videos": None, "seed": 0, "dataset": "shapes", "cache_dir": str(tmp_path / "cache"), "every_nth": 1}
    found = material.of_folder(folder, **options, num_real=20)
    by_pixels = {frames[i].tobytes(): shapes.CATEGORIES.index(classes[i]) for i in range(len(frames))}
    assert found.clips.categories == shapes.CATEGORIES == ("up", "left")  # Not in the order of their names.
    for clip, label in zip(found.clips.frames, found.clips.labels, strict=True):
        assert by_pixels[clip.tobytes()] == label
    (folder / "up").rename(folder / "upwards")
    with pytest.raises(ValueError, match="named as the real ones, up, left. Received: upwards"):
        _ = material.of_folder(folder, **options, num_real=20).clips


def test_fewer_clips_than_asked_for_or_than_the_protocol_are_errors(tmp_path):
    folder = write_clips(tmp_path / "clips", rendered(4)[0], "npy")
    with pytest.raises(ValueError, match="4 clips were given, 5 are to be scored"):
        scores_of(material.of_folder(folder, num_videos=5, seed=0), "diversity")
    found = material.of_folder(folder, num_videos=None, seed=0)
    with pytest.raises(ValueError, match="`frechet_video` needs at least 128 clips. Received: --num_videos=4"):
        scores_of(found, "frechet_video")
    with pytest.raises(ValueError, match="`fvd` needs at least 2048 clips"):
        scores_of(found, "fvd:i3d.onnx")


def shorter_protocol(monkeypatch, key, **numbers):
    """The protocol of a metric with numbers of clips that a test can make."""
    for name, number in numbers.items():
        monkeypatch.setattr(registry, name, number)
    least = next(iter(numbers.values()))
    monkeypatch.setitem(registry.METRICS, key, dataclasses.replace(registry.METRICS[key], min_videos=least))


def test_fvd_is_the_frechet_distance_of_what_the_file_says_of_the_clips(tmp_path, monkeypatch):
    shorter_protocol(monkeypatch, "fvd", FVD_CLIPS=40)
    frames = two_colours(rendered(40, num_frames=16)[0])
    file = mean_network(tmp_path / "net.onnx", "NCTHW")
    options = {"dataset": "shapes", "cache_dir": str(tmp_path / "cache"), "every_nth": 1, "num_real": 50}
    found = material.of_folder(write_clips(tmp_path / "c", frames, "npy"), num_videos=None, seed=0, **options)
    score = scores_of(found, f"fvd:{file}")["fvd"]
    real, fake = (
        video.from_uint8(clips).mean(axis=(1, 2, 3)).astype(np.float64) for clips in (found.cut_real(40).frames, frames)
    )
    expected = np.sum((real.mean(0) - fake.mean(0)) ** 2) + np.trace(
        np.cov(real.T) + np.cov(fake.T) - 2 * scipy.linalg.sqrtm(np.cov(real.T) @ np.cov(fake.T)).real
    )
    assert score.value == pytest.approx(expected, rel=1e-3)
    assert (score.num_videos, score.frames) == (40, 16) and score.features.startswith("net.onnx sha256:")
    with pytest.raises(ValueError, match="`fvd` is defined on clips of 16 frames. Received: clips of 8"):
        short = write_clips(tmp_path / "short", frames[:, :8], "npy")
        scores_of(material.of_folder(short, num_videos=None, seed=0, **options), f"fvd:{file}")


def test_the_inception_score_is_that_of_what_the_file_says_of_the_clips(tmp_path, monkeypatch):
    shorter_protocol(monkeypatch, "is", IS_CLIPS=12)
    frames = rendered()[0]
    file = mean_network(tmp_path / "net.onnx", "NTHWC")
    found = material.of_folder(write_clips(tmp_path / "c", frames, "npy"), num_videos=None, seed=0)
    score = scores_of(found, f"is:{file}")["is"]
    logits = np.exp(video.from_uint8(frames).mean(axis=(1, 2, 3), dtype=np.float64))
    classes = logits / logits.sum(axis=1, keepdims=True)
    expected = np.exp(np.mean(np.sum(classes * np.log(classes / classes.mean(0)), axis=1)))
    assert score.value == pytest.approx(expected, rel=1e-5) and score.value > 1 + 1e-6
    assert score.num_videos == 12


def test_clips_of_mixed_sizes_or_lengths_are_named(tmp_path):
    folder = write_clips(tmp_path / "clips", rendered(2)[0], "npy")
    video.write_video(folder / "other.npy", rendered(1, num_frames=9)[0][0], fps=8)
    with pytest.raises(ValueError, match="clip-000.npy.* has 8 frames of 32x32 .* other.npy.* has 9 frames"):
        material.of_folder(folder, num_videos=None, seed=0)


def test_the_grids_that_sample_py_writes_beside_its_clips_are_left_out_and_said(tmp_path, caplog):
    frames = rendered(4)[0]
    for i, clip in enumerate(frames):
        video.write_video(tmp_path / f"random-{i:04d}.webp", clip, fps=8)
    video.write_video(tmp_path / "random-grid.webp", video.grid(frames, 2), fps=8)
    with caplog.at_level("WARNING"):
        np.testing.assert_array_equal(material.folder_clips(tmp_path).frames, frames)
    assert "left out, random-grid.webp" in caplog.text
    (tmp_path / "random-grid.webp").rename(tmp_path / "other-grid.webp")  # Of no clip here.
    with pytest.raises(ValueError, match="must be of one size"):
        material.folder_clips(tmp_path)


def test_nan_frames_are_an_error_that_names_the_file(tmp_path):
    broken = rendered(1)[0][0] / np.float32(255)
    broken[2, 3, 3] = np.nan
    np.save(tmp_path / "broken.npy", broken)
    with pytest.raises(ValueError, match="broken.npy"):
        material.of_folder(tmp_path, num_videos=None, seed=0)


def test_what_needs_real_clips_or_a_run_says_so(tmp_path):
    found = material.of_folder(write_clips(tmp_path / "c", rendered(128, 4)[0], "npy"), num_videos=None, seed=0)
    with pytest.raises(ValueError, match="compares with real clips. Name them: --dataset"):
        scores_of(found, "frechet_video")
    with pytest.raises(ValueError, match="rendered `shapes` or `taichi`"):
        scores_of(found, "identity")


def real_material(tmp_path, num_videos, num_real, num_frames=8):
    """Clips of a folder, and rendered ones of 32 frames to compare with."""
    folder = write_clips(tmp_path / "c", rendered(num_videos, num_frames)[0], "npy")
    options = {"dataset": "shapes", "cache_dir": str(tmp_path / "cache"), "every_nth": 1, "num_real": num_real}
    return material.of_folder(folder, num_videos=None, seed=0, **options)


def test_the_floor_is_what_other_real_clips_score(tmp_path):
    found = real_material(tmp_path, 16, 40)
    real, other = found.real.frames, found.other_real.frames
    assert not {clip.tobytes() for clip in real} & {clip.tobytes() for clip in other}
    np.testing.assert_array_equal(np.concatenate([real, other]), found.cut_real(32).frames)
    seen = scores_of(found, "swd_32")
    assert tuple(seen) == texture.names(32)
    assert {name: score.real for name, score in seen.items()} == texture.scores(real, other)
    assert "real clips: " in seen["swd_32"].protocol and seen["spectrum_high"].better == "zero"


def test_a_set_too_small_for_other_clips_has_no_floor(tmp_path):
    found = real_material(tmp_path, 16, 1, num_frames=16)
    assert found.other_real is None
    assert all(score.real is None for score in scores_of(found, "texture").values())


def test_the_protocol_says_how_many_videos_the_real_clips_are_cut_from(tmp_path):
    assert real_material(tmp_path / "few", 16, 5).real_in_words == "16 real clips out of 5 videos"
    assert real_material(tmp_path / "many", 16, 16).real_in_words == "16 real clips"


def test_progress_is_told_beside_the_scores(tmp_path, capsys):
    found = material.of_folder(write_clips(tmp_path / "c", rendered(4)[0], "npy"), num_videos=None, seed=0)
    scores_of(found, "diversity", "acd_color")
    said = capsys.readouterr()
    assert said.out == "" and "1 of 2: diversity, how clips differ" in said.err
    assert [line.rpartition(",")[0] for line in said.err.splitlines() if line.endswith(" s")] == [
        "1 of 2: diversity",
        "2 of 2: acd_color",
    ]


def test_a_network_that_is_not_there_is_missed_before_anything_is_computed(tmp_path):
    found = material.of_folder(write_clips(tmp_path / "c", rendered(4, 4)[0], "npy"), num_videos=None, seed=0)
    with pytest.raises(ValueError, match="Cannot read the feature network .*none.onnx"):
        next(registry.evaluate(["diversity", f"acd:{tmp_path / 'none.onnx'}"], found))


def test_categories_that_a_run_found_by_itself_are_no_classes(tmp_path):
    config = tiny_config(dim_category=5, category_loss="infogan", cache_dir=str(tmp_path))
    found = material.Material(config, num_videos=32, num_frames=4, seed=0, generator=build_gan(config).sampler)
    assert found.clips.categories == ()
    assert "mcs" not in registry.default_metrics(found)
    with pytest.raises(ValueError, match="`mcs` needs classes"):
        scores_of(found, "mcs")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("fid", "Unknown metric 'fid'. Known: acd_color, acd:FILE.onnx"),
        ("fvd", "`fvd` needs a network: --metrics=fvd:FILE.onnx"),
        ("mcs:net.onnx", "`mcs` takes no file"),
    ],
)
def test_names_of_metrics_are_checked(name, words):
    with pytest.raises(ValueError, match=words):
        registry.find(name)


def test_every_score_has_a_direction_or_is_right_near_that_of_real_clips():
    names = {name for entry in registry.METRICS.values() for name in entry.names}
    assert quality.SCORES.keys() == names
    assert {name for name in names if quality.better(name) == "real"} == {
        "diversity",
        "motion",
        "jerkiness",
        "still_motion",
        "nearest_motion",
    }


def test_every_metric_is_found_by_the_names_of_its_scores():
    for key, entry in registry.METRICS.items():
        for name in entry.names:
            assert registry.find(f"{name}:net.onnx" if entry.takes_file else name)[0] == key
    assert registry.find("texture")[0] == registry.find("swd_64")[0] == "texture"


FIELDS = "metric value std_error real num_videos frames protocol features checkpoint_step seed seconds".split()


@pytest.mark.slow
def test_a_run_gets_one_json_line_per_number_in_its_folder_too_and_a_page_that_needs_no_network(trained, tmp_path):
    status, out, err = run(
        "evaluate.py",
        f"--run_dir={trained}",
        "--metrics=acd_color,diversity,loop,identity",
        "--num_videos=16",
        f"--json_out={tmp_path}/scores.jsonl",
        f"--report={tmp_path}/report",
    )
    assert status == 0, err
    lines = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    assert [list(line) for line in lines] == [FIELDS] * len(lines)
    assert {"acd_color", "coverage", "diversity", "motion", "loop", "drift", "identity"} <= {
        line["metric"] for line in lines
    }
    assert {line["checkpoint_step"] for line in lines} == {2}
    for kept in (trained / "metrics.jsonl", tmp_path / "scores.jsonl"):
        assert [json.loads(line) for line in kept.read_text().splitlines()] == lines
    page = (tmp_path / "report" / "index.html").read_text()
    assert "<td><code>acd_color</code>" in page and "data:image/webp;base64," in page
    assert "src='http" not in page and "href=" not in page and "$" not in page


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--run_dir=/nowhere"], "/nowhere"),
        ([], "either --run_dir=DIR, a run, or --clips=DIR"),
        (["--clips=/nowhere"], "no folder /nowhere"),
        (["--run_dir=RUN", "--metrics=fid"], "Unknown metric 'fid'"),
        (["--run_dir=RUN", "--checkpoint=77"], "There are: latest, best, 2"),
        (["--run_dir=RUN", "--metrics=frechet_video", "--num_videos=100"], "at least 128 clips"),
        (["--run_dir=RUN", "--metrics=frechet_video"], "holds"),
    ],
)
def test_bad_input_gets_one_line_and_exit_code_1(trained, flags, words):
    status, _, err = run("evaluate.py", *[flag.replace("RUN", str(trained)) for flag in flags])
    assert status == 1
    assert words in complaint(err)
