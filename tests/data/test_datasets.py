"""Opening the set that a configuration names: decoded or rendered once, kept, and complaints in one line."""

import json
import logging
import multiprocessing
import os
import pathlib
import re

import numpy as np
import pytest

from mocogan_tf.data import advice, cache
from mocogan_tf.data.datasets import DATASETS, open_videos
from mocogan_tf.data.shards.options import PrepareOptions
from mocogan_tf.data.shards.prepare import prepare
from mocogan_tf.video import write_video
from tests.support.made_clips import REAL_CLIPS, frames_of, save_strip

pytestmark = pytest.mark.core


@pytest.fixture
def two_classes(tmp_path):
    folder = tmp_path / "clips of two classes, ü"
    for i in range(3):
        save_strip(folder / "up" / f"{i}.png", frames_of(7 + i, first=10 * i), mode="RGBA")
        save_strip(folder / "down" / f"{i}.png", frames_of(8, first=100 + 10 * i), across=False)
    return folder


def entries(config):
    return sorted(os.listdir(config.cache_dir))


def test_classes_labels_lengths_and_frames_are_those_of_the_folder(make_config, two_classes):
    videos = open_videos(make_config(data_dir=str(two_classes)))
    assert len(videos) == 6
    assert videos.categories == ("down", "up")
    assert videos.labels.tolist() == [0, 0, 0, 1, 1, 1] and videos.labels.dtype == np.int32
    assert videos.lengths.tolist() == [8, 8, 8, 7, 8, 9] and videos.lengths.dtype == np.int64
    np.testing.assert_array_equal(videos[5], frames_of(9, first=20))
    np.testing.assert_array_equal(videos[-1], videos[5])
    with pytest.raises(IndexError):
        videos[6]


def test_a_flat_folder_has_no_categories(make_config, tmp_path):
    save_strip(tmp_path / "clips" / "a.png", frames_of(8))
    videos = open_videos(make_config(data_dir=str(tmp_path / "clips")))
    assert videos.categories == () and videos.labels.tolist() == [0]


def test_clips_are_decoded_once_and_again_when_a_file_changes(make_config, two_classes, monkeypatch):
    config = make_config(data_dir=str(two_classes))
    first = open_videos(config)
    with monkeypatch.context() as patch:
        patch.setattr(cache, "_make_entry", None)  # Would raise if it were called.
        again = open_videos(config)
    np.testing.assert_array_equal(first.frames, again.frames)
    save_strip(two_classes / "up" / "2.png", frames_of(9, first=200))
    np.testing.assert_array_equal(open_videos(config)[5], frames_of(9, first=200))


@pytest.mark.parametrize("change", [{"image_size": 64}, {"channels": 1}])
def test_another_size_or_colour_has_a_cache_of_its_own(make_config, two_classes, change):
    open_videos(make_config(data_dir=str(two_classes)))
    videos = open_videos(make_config(data_dir=str(two_classes), **change))
    size, channels = change.get("image_size", 32), change.get("channels", 3)
    assert videos.frames.shape[1:] == (size, size, channels)


def test_one_unreadable_file_is_named_each_time_and_left_out(make_config, two_classes, caplog):
    (two_classes / "up" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    config = make_config(data_dir=str(two_classes))
    for _ in range(2):  # Decoding, and then from the cache.
        caplog.clear()
        with caplog.at_level(logging.WARNING, "absl"):
            videos = open_videos(config)
        assert len(videos) == 5
        assert "left out, up/1.png: cannot identify image" in caplog.text


def test_a_folder_without_a_readable_clip_is_an_error_that_says_why(make_config, tmp_path):
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "a.png").write_bytes(b"")
    with pytest.raises(ValueError, match="None of the 1 clips.*a.png: the file is empty"):
        open_videos(make_config(data_dir=str(tmp_path / "clips")))
    assert entries(make_config()) == []


def test_a_set_without_a_single_clip_is_one_line(tmp_path):
    with pytest.raises(ValueError, match="None of the 0 clips of nothing can be read.$"):
        cache.cached_videos(
            key={},
            produce=lambda: [],
            total=0,
            name="nothing",
            doing="Reading",
            categories=(),
            default_fps=8.0,
            image_size=32,
            channels=3,
            cache_dir=str(tmp_path),
        )
    assert os.listdir(tmp_path) == []


def test_clips_that_are_all_too_short_are_an_error_that_names_the_flags(make_config, two_classes):
    config = make_config(data_dir=str(two_classes), video_length=16, every_nth=2)
    with pytest.raises(
        ValueError, match=r"6 of 6 clips .* 31 frames .* up/0.png, has 7\. Train with --every_nth=1 --video_length=7\."
    ):
        open_videos(config)


def test_some_short_clips_are_counted_named_and_left_out(make_config, two_classes, caplog):
    for i in range(4):
        save_strip(two_classes / "up" / f"long {i}.png", frames_of(12))
        save_strip(two_classes / "down" / f"long {i}.png", frames_of(12))
    with caplog.at_level(logging.WARNING, "absl"):
        videos = open_videos(make_config(data_dir=str(two_classes), video_length=9, every_nth=1))
    assert len(videos) == 9 and videos.lengths.min() == 9
    assert "5 of 14 clips" in caplog.text and "down/0.png, down/1.png, down/2.png, ..." in caplog.text


@pytest.mark.parametrize(
    "lengths, fields, flags",
    [
        ([20] * 25 + [40], {"video_length": 16, "every_nth": 2}, "--every_nth=1"),  # As after --fps=12.5.
        ([12] * 3 + [40], {"video_length": 16, "every_nth": 2}, "--every_nth=1 --video_length=12"),
        # One clip of two frames does not decide for all others.
        ([2] + [20] * 18 + [40], {"video_length": 16, "every_nth": 2}, "--every_nth=1"),
        ([20] * 3 + [40], {"model": "vgan", "video_length": 32, "every_nth": 1}, ""),
    ],
)
def test_training_stops_when_most_clips_are_too_short_and_its_advice_works(
    make_config, tmp_path, caplog, lengths, fields, flags
):
    for i, length in enumerate(lengths):
        save_strip(tmp_path / "clips" / f"{i}.png", frames_of(length))
    if fields.get("model") == "vgan":
        fields = {**fields, "image_batch": 32}
    config = make_config(data_dir=str(tmp_path / "clips"), **fields)
    advice = f"Train with {flags}." if flags else "Use longer clips."
    with pytest.raises(ValueError, match=rf"clips of .* have fewer than the 3[12] frames .*has \d+\. {advice}$"):
        open_videos(config)
    assert len(open_videos(config, split="test")) < len(lengths) / 2  # Judging takes what there is.
    given = dict(flag.removeprefix("--").split("=") for flag in flags.split())
    if given:
        advised = {**fields, **{name: int(value) for name, value in given.items()}}
        assert len(open_videos(make_config(data_dir=config.data_dir, **advised))) >= 0.9 * len(lengths)


def test_training_stops_when_a_whole_class_is_too_short(make_config, tmp_path):
    config = make_config(data_dir=str(three_classes(tmp_path)), video_length=8, every_nth=1)
    message = r"3 of 9 clips .* 8 frames .* has 6, and none of class middle is left\. Train with --video_length=6\.$"
    with pytest.raises(ValueError, match=message):
        open_videos(config)
    assert len(open_videos(make_config(data_dir=config.data_dir, video_length=6, every_nth=1))) == 9


def test_clips_of_mixed_frame_rates_are_told_each_time_with_a_rate_for_all(make_config, tmp_path, caplog):
    (tmp_path / "clips").mkdir()
    for name, rate in (("a", 15), ("b", 30), ("c", 60)):
        write_video(tmp_path / "clips" / f"{name}.webp", frames_of(8), fps=rate)
    config = make_config(data_dir=str(tmp_path / "clips"))
    for _ in range(2):  # Decoding, and then from the cache.
        caplog.clear()
        with caplog.at_level(logging.WARNING, "absl"):
            open_videos(config)
        assert re.search(r"frame rates differ, from 1[45][.\d]* to [56]\d[.\d]* per second.*--fps=1[45]", caplog.text)
    (tmp_path / "clips" / "c.webp").unlink()
    write_video(tmp_path / "clips" / "a.webp", frames_of(8), fps=30)
    caplog.clear()
    with caplog.at_level(logging.WARNING, "absl"):
        open_videos(config)
    assert "frame rates" not in caplog.text


def test_clips_that_are_left_out_for_one_reason_are_one_line(make_config, two_classes, caplog):
    for i in range(2):
        (two_classes / "up" / f"{i}.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    with caplog.at_level(logging.WARNING, "absl"):
        open_videos(make_config(data_dir=str(two_classes)))
    (line,) = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert "left out, up/0.png: cannot identify image file '0.png', and 1 more" in line


def test_digests_tell_which_clips_went_came_or_changed(make_config, two_classes):
    config = make_config(data_dir=str(two_classes))
    before = open_videos(config).digests()
    assert advice.changes(before, open_videos(config).digests()) == ""
    (two_classes / "up" / "0.png").rename(two_classes / "up" / "new.png")
    save_strip(two_classes / "up" / "1.png", frames_of(8, first=200))
    (two_classes / "down" / "2.png").rename(two_classes / "up" / "2b.png")
    after = open_videos(config).digests()
    assert advice.changes(before, after) == (
        "2 gone (down/2.png, up/0.png); 2 new (up/2b.png, up/new.png); 1 changed (up/1.png)"
    )
    assert advice.changes(dict.fromkeys("abcd", "x"), {}) == "4 gone (a, b, c, ...)"
    assert advice.changes({"a": "before"}, {"a": "after"}) == "1 changed (a)"


def three_classes(tmp_path):
    """Three clips of each class; those of `middle` are strips of 6 frames, the others of 9."""
    for name, length in (("first", 9), ("last", 9), ("middle", 6)):
        for i in range(3):
            save_strip(tmp_path / "three" / name / f"{i}.png", frames_of(length))
    return tmp_path / "three"


@pytest.mark.parametrize("kind", ["folder", "prepared"])
def test_a_look_decodes_a_few_clips_and_keeps_the_classes(make_config, tmp_path, kind, capsys):
    folder = three_classes(tmp_path)
    if kind == "prepared":
        prepare(folder, tmp_path / "out", PrepareOptions(image_size=32, min_frames=6, clips_per_shard=2))
        folder = tmp_path / "out"
    config = make_config(data_dir=str(folder), video_length=4, every_nth=1)
    look = open_videos(config, few=2)
    assert len(look) == 2 and look.categories == ("first", "last", "middle")
    assert "2 of 9 clips" in capsys.readouterr().err
    whole = open_videos(config)
    for i, name in enumerate(look.names):
        np.testing.assert_array_equal(look[i], whole[whole.names.index(name)])
    assert len(open_videos(config, few=2)) == 9  # Now that it is there.
    assert len(entries(config)) == 2


def test_a_look_goes_on_where_the_first_clips_cannot_be_used(make_config, tmp_path):
    folder = tmp_path / "clips"
    save_strip(folder / "3.png", frames_of(6))
    save_strip(folder / "4.png", frames_of(9))
    for i in range(3):
        (folder / f"{i}.png").write_bytes(b"")
    config = make_config(data_dir=str(folder), video_length=8, every_nth=1)
    assert open_videos(config, few=2).names == open_videos(config, few=4).names == ("4.png",)
    (folder / "4.png").unlink()
    with pytest.raises(ValueError, match="1 of 1 clips .* 8 frames"):
        open_videos(config, few=3)


def test_a_look_also_counts_a_single_class_as_no_class(make_config, tmp_path):
    for i in range(3):
        save_strip(tmp_path / "clips" / "only" / f"{i}.png", frames_of(9))
    config = make_config(data_dir=str(tmp_path / "clips"))
    assert open_videos(config, few=2).categories == open_videos(config).categories == ()


def test_a_class_without_a_usable_clip_is_no_category(make_config, tmp_path, caplog):
    folder = three_classes(tmp_path)
    for i in range(3):
        (folder / "first" / f"{i}.png").write_bytes(b"")
    empty, left = "first", ("last", "middle")
    with caplog.at_level(logging.WARNING, "absl"):
        videos = open_videos(make_config(data_dir=str(folder), video_length=4, every_nth=1))
    assert videos.categories == left and videos.labels.tolist() == [0] * 3 + [1] * 3
    assert [left[label] for label in videos.labels] == [name.split("/")[0] for name in videos.names]
    assert videos.labels.dtype == np.int32
    assert f"no usable clip of class {empty}; the categories are {', '.join(left)}" in caplog.text


def test_a_single_class_that_is_left_counts_as_no_class(make_config, two_classes, caplog):
    for path in (two_classes / "down").iterdir():
        path.write_bytes(b"")
    with caplog.at_level(logging.WARNING, "absl"):
        videos = open_videos(make_config(data_dir=str(two_classes)))
    assert videos.categories == () and videos.labels.tolist() == [0, 0, 0]
    assert "no usable clip of class down; there are no categories" in caplog.text


def test_a_rendered_set_keeps_categories_that_have_no_clip(make_config, fake_renderer):
    videos = open_videos(make_config(dataset="fake", num_clips=1))
    assert videos.categories == ("even", "odd") and videos.labels.tolist() == [0]


def test_a_rendered_set_is_rendered_once_with_a_seed_of_its_own(make_config, fake_renderer):
    videos = open_videos(make_config(dataset="fake", seed=5))
    assert fake_renderer.calls == [(i, 0) for i in range(8)]
    assert videos.categories == ("even", "odd") and videos.labels.tolist() == [0, 1] * 4 and videos.fps == 12.0
    np.testing.assert_array_equal(videos[3], frames_of(10, first=30))
    open_videos(make_config(dataset="fake", seed=6))
    assert len(fake_renderer.calls) == 8


def test_a_rendered_set_is_rendered_as_long_and_as_grey_as_asked(make_config, fake_renderer):
    videos = open_videos(make_config(dataset="fake", video_length=16, every_nth=2, channels=1, num_clips=2))
    assert videos.lengths.tolist() == [31, 31]
    np.testing.assert_array_equal(videos[1], frames_of(31, first=10, channels=1))


def test_a_renderer_that_changed_renders_anew(make_config, fake_renderer):
    open_videos(make_config(dataset="fake"))
    with open(fake_renderer.__file__, "w") as file:
        file.write("# Changed.")
    open_videos(make_config(dataset="fake"))
    assert len(fake_renderer.calls) == 16


def test_data_dir_wins_over_a_renderer(make_config, fake_renderer, two_classes):
    videos = open_videos(make_config(dataset="fake", data_dir=str(two_classes)))
    assert videos.categories == ("down", "up") and fake_renderer.calls == []


def test_unknown_sets_and_sets_to_be_obtained_say_what_to_do(make_config):
    with pytest.raises(ValueError, match="Unknown dataset 'tachi'. Known: .*taichi"):
        open_videos(make_config(dataset="tachi"))
    with pytest.raises(ValueError, match="needs --data_dir.*prepare.py .*--format=mug"):
        open_videos(make_config(dataset="mug"))
    with pytest.raises(ValueError, match="--dataset=folder needs --data_dir: give the folder of your clips"):
        open_videos(make_config())
    for name, spec in DATASETS.items():
        assert spec.renderer or spec.obtained, name


def test_a_full_or_forbidden_cache_is_one_line_and_leaves_nothing(make_config, two_classes, monkeypatch):
    def full(self, *args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.VideoSetWriter, "append", full)
    config = make_config(data_dir=str(two_classes))
    with pytest.raises(ValueError, match="No space left on device.*--cache_dir"):
        open_videos(config)
    assert entries(config) == []


def test_what_a_killed_process_left_is_removed_and_what_a_live_one_writes_is_not(make_config, two_classes):
    import socket

    config = make_config(data_dir=str(two_classes))
    dead = multiprocessing.get_context("spawn").Process(target=os.getpid)
    dead.start()
    dead.join()
    left = [f".partial-{socket.gethostname()}-{pid}-x" for pid in (dead.pid, os.getppid())]
    left.append(f".partial-{socket.gethostname()}-b-{dead.pid}-x")  # On another machine it may well live.
    for name in left:
        os.makedirs(os.path.join(config.cache_dir, name))
    open_videos(config)
    assert [name for name in entries(config) if name.startswith(".partial")] == sorted(left[1:])


def open_and_sum(config, queue):
    queue.put(int(open_videos(config).frames.sum()))


def test_processes_that_decode_at_the_same_time_both_get_the_whole_set(make_config, two_classes):
    config = make_config(data_dir=str(two_classes))
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    processes = [context.Process(target=open_and_sum, args=(config, queue)) for _ in range(2)]
    for process in processes:
        process.start()
    sums = [queue.get(timeout=300) for _ in processes]  # Each imports TensorFlow first.
    for process in processes:
        process.join()
    assert sums[0] == sums[1] == open_videos(config).frames.sum()
    assert len(entries(config)) == 1


def test_a_damaged_cache_is_noticed(make_config, two_classes):
    config = make_config(data_dir=str(two_classes))
    open_videos(config)
    (entry,) = entries(config)
    with open(os.path.join(config.cache_dir, entry, "frames.u8"), "r+b") as file:
        file.truncate(100)
    with pytest.raises(ValueError, match="100 bytes.*Delete it"):
        open_videos(config)


@pytest.mark.parametrize("field", ["notes", "lengths"])
def test_an_incomplete_index_is_noticed(make_config, two_classes, field):
    config = make_config(data_dir=str(two_classes))
    open_videos(config)
    (entry,) = entries(config)
    path = pathlib.Path(config.cache_dir, entry, "index.json")
    index = json.loads(path.read_text())
    del index[field]
    path.write_text(json.dumps(index))
    with pytest.raises(ValueError, match=f"{field}.*Delete it"):
        open_videos(config)


@pytest.mark.skipif(not REAL_CLIPS.is_dir(), reason="no real clips beside the checkout")
def test_published_actions_open_and_fit_the_paper_settings(make_config):
    videos = open_videos(make_config(data_dir=str(REAL_CLIPS / "actions"), video_length=16, image_size=64))
    assert videos.categories == ("0", "1", "3", "4") and len(videos) == 72
    assert np.bincount(videos.labels).tolist() == [18] * 4
