"""From a folder of clips to shards and back: what is written, what is left out, what a second run does."""

import dataclasses
import functools
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from mocogan_tf.data.datasets import open_videos
from mocogan_tf.data.shards import prepare as prepare_module
from mocogan_tf.data.shards.options import PrepareOptions
from mocogan_tf.data.shards.prepare import make_in_processes, prepare, read_rejected, summary, training_command
from mocogan_tf.video import write_video
from tests.support.commands import run
from tests.support.made_clips import frames_of, save_strip

pytestmark = pytest.mark.core
ROOT = pathlib.Path(__file__).parents[3]


@pytest.fixture
def clips(tmp_path):
    """Two classes of strips, one of them with a clip that is too short and one that is broken."""
    folder = tmp_path / "my clips, ü"
    for i in range(4):
        save_strip(folder / "up" / f"{i}.png", frames_of(7 + i, first=10 * i))
        save_strip(folder / "down" / f"{i}.png", frames_of(8, first=100 + 10 * i), across=False)
    save_strip(folder / "up" / "short.png", frames_of(5))
    (folder / "up" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    (folder / "notes.txt").write_text("made by hand")
    return folder


def options(**fields):
    return PrepareOptions(**{"image_size": 32, "min_frames": 7, "clips_per_shard": 2, **fields})


def files_of(out):
    """Everything in a prepared folder but its state, by name."""
    return {path.name: path.read_bytes() for path in sorted(out.iterdir()) if path.is_file()}


def test_the_manifest_lists_every_clip_and_the_rejections_everything_else(clips, tmp_path):
    manifest = prepare(clips, tmp_path / "out", options(licence="mine"))
    assert json.loads((tmp_path / "out" / "manifest.json").read_text()) == manifest
    assert [clip["name"] for clip in manifest["clips"]] == [
        f"{name}/{i}.png" for name in ("down", "up") for i in range(4)
    ]
    assert [clip["source"] for clip in manifest["clips"]] == [clip["name"] for clip in manifest["clips"]]
    assert [clip["frames"] for clip in manifest["clips"]] == [8, 8, 8, 8, 7, 8, 9, 10]
    assert [clip["category"] for clip in manifest["clips"]] == ["down"] * 4 + ["up"] * 4
    assert manifest["categories"] == ["down", "up"] and manifest["licence"] == "mine"
    assert str(tmp_path) not in json.dumps(manifest)
    rejected = read_rejected(tmp_path / "out")
    assert [row[0] for row in rejected] == ["notes.txt", "up/broken.png", "up/short.png"]
    assert rejected[0][1] == "no image, animation, video or array"
    assert rejected[1][1].startswith("cannot identify image file")
    assert rejected[2][1] == "5 frames; --min_frames=7"
    text = summary(manifest, rejected)
    assert "8 clips, 66 frames" in text and "down 4, up 4" in text
    assert "Rejected up/short.png: 5 frames; --min_frames=7" in text


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("encoding", ["png", "raw", "webp"])
def test_lossless_shards_give_the_clips_back_exactly(clips, tmp_path, make_config, encoding, channels):
    prepare(clips, tmp_path / "out", options(encoding=encoding, channels=channels))
    videos = open_videos(make_config(data_dir=str(tmp_path / "out"), channels=channels))
    assert videos.categories == ("down", "up") and len(videos) == 8
    by_name = {videos.names[i]: i for i in range(len(videos))}
    for i in range(4):
        index = by_name[f"up/{i}.png"]
        np.testing.assert_array_equal(videos[index], frames_of(7 + i, first=10 * i, channels=channels))
        assert videos.labels[index] == 1 and videos.labels[by_name[f"down/{i}.png"]] == 0


def test_jpeg_shards_are_close_and_smaller(clips, tmp_path, make_config):
    prepare(clips, tmp_path / "out", options(encoding="jpeg"))
    videos = open_videos(make_config(data_dir=str(tmp_path / "out")))
    by_name = {videos.names[i]: i for i in range(len(videos))}
    assert np.abs(videos[by_name["up/3.png"]].astype(int) - frames_of(10, first=30)).max() <= 2


def test_the_same_input_twice_gives_the_same_bytes_whatever_the_workers(clips, tmp_path):
    prepare(clips, tmp_path / "one", options(), functools.partial(make_in_processes, workers=1))
    moved = tmp_path / "elsewhere"
    clips.rename(moved)
    prepare(moved, tmp_path / "two", options(), functools.partial(make_in_processes, workers=2))
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")


def test_a_class_without_a_usable_clip_is_no_category(clips, tmp_path, caplog):
    for i in range(2):
        save_strip(clips / "at all" / f"{i}.png", frames_of(5))
    with caplog.at_level("WARNING", "absl"):
        manifest = prepare(clips, tmp_path / "out", options())
    assert manifest["categories"] == ["down", "up"]
    assert "no usable clip of class at all" in caplog.text


def test_a_second_run_makes_only_what_has_changed(clips, tmp_path, monkeypatch):
    out = tmp_path / "out"
    before = prepare(clips, out, options(clips_per_shard=1))
    made = []
    original = prepare_module.records.write_shard
    monkeypatch.setattr(prepare_module.records, "write_shard", lambda *args: (made.append(args[1]), original(*args))[1])
    prepare(clips, out, options(clips_per_shard=1))
    assert made == []
    save_strip(clips / "up" / "2.png", frames_of(12))
    after = prepare(clips, out, options(clips_per_shard=1))
    (changed,) = made
    assert {clip["name"]: clip["frames"] for clip in after["clips"]}["up/2.png"] == 12
    assert {clip["shard"] for clip in after["clips"] if clip["name"] == "up/2.png"} == {changed}
    assert [shard for shard in after["shards"] if shard not in before["shards"]] == [
        shard for shard in after["shards"] if shard["file"] == changed
    ]


def test_clips_that_are_gone_leave_the_shards(clips, tmp_path):
    prepare(clips, tmp_path / "out", options())
    for i in range(4):
        (clips / "down" / f"{i}.png").unlink()
    manifest = prepare(clips, tmp_path / "out", options())
    prepare(clips, tmp_path / "fresh", options())
    assert len(manifest["clips"]) == 4
    assert files_of(tmp_path / "out") == files_of(tmp_path / "fresh")


@pytest.mark.slow
def test_kill_9_in_the_middle_and_again_equals_an_uninterrupted_run(tmp_path):
    clips = tmp_path / "clips"
    for i in range(120):
        save_strip(clips / f"{i}.png", np.random.default_rng(i).integers(0, 255, (8, 64, 64, 3), np.uint8))
    command = [sys.executable, "prepare.py", str(clips), "--min_frames=7", "--clips_per_shard=2", "--image_size=64"]
    killed, left = 0, tmp_path / "left"
    for _ in range(20):
        run = subprocess.Popen([*command, f"--out={left}"], cwd=ROOT, stderr=subprocess.PIPE, start_new_session=True)
        have = len(list(left.glob("*.tfrecord")))
        while run.poll() is None and len(list(left.glob("*.tfrecord"))) < have + 12:
            time.sleep(0.005)
        if run.poll() is not None:
            break
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
        killed += 1
        assert not (left / "manifest.json").exists()
    assert killed >= 2 and run.returncode == 0, run.stderr.read()
    subprocess.run([*command, f"--out={tmp_path / 'whole'}"], cwd=ROOT, check=True)
    assert files_of(left) == files_of(tmp_path / "whole")
    assert not list((left / ".state").glob("unpacked-*"))


def test_another_process_writing_the_same_folder_is_refused(clips, tmp_path):
    with prepare_module._claimed(clips, tmp_path / "out"):
        code = (
            "import sys; from mocogan_tf.data.shards.prepare import prepare; "
            "from mocogan_tf.data.shards.options import PrepareOptions; prepare(*sys.argv[1:], PrepareOptions())"
        )
        run = subprocess.run(
            [sys.executable, "-c", code, str(clips), str(tmp_path / "out")], cwd=ROOT, capture_output=True, text=True
        )
    assert "Another process is writing" in run.stderr


def test_splits_keep_groups_together_and_follow_the_seed(clips, tmp_path):
    for i in range(12):
        save_strip(clips / "up" / f"person{i // 3}_{i}.png", frames_of(8))
    kinds = {"group_pattern": r"(person\d+)", "split": "train:0.5,test:0.5", "classes": "up"}
    manifests = [prepare(clips, tmp_path / f"{seed}", options(seed=seed, **kinds)) for seed in (1, 2)]
    for manifest in manifests:
        splits = {}
        for clip in manifest["clips"]:
            splits.setdefault(clip["group"], set()).add(clip["split"])
        assert all(len(split) == 1 for split in splits.values())
        assert {clip["split"] for clip in manifest["clips"]} == {"train", "test"}
    assert [c["split"] for c in manifests[0]["clips"]] != [c["split"] for c in manifests[1]["clips"]]


def test_training_reads_the_train_split_only(clips, tmp_path, make_config):
    manifest = prepare(clips, tmp_path / "out", options(split="train:0.5,test:0.5"))
    expected = sorted(clip["name"] for clip in manifest["clips"] if clip["split"] == "train")
    config = make_config(data_dir=str(tmp_path / "out"))
    assert sorted(open_videos(config).names) == expected
    assert len(open_videos(config, split="test")) == 8 - len(expected)
    with pytest.raises(ValueError, match="no clips for val; it is divided into test, train"):
        open_videos(config, split="val")


def test_classes_are_chosen_ordered_renamed_and_merged(clips, tmp_path):
    manifest = prepare(clips, tmp_path / "out", options(class_map="up=vertical,down=vertical"))
    assert manifest["categories"] == ["vertical"]
    manifest = prepare(clips, tmp_path / "out", options(classes="up,down", overwrite=True))
    assert manifest["categories"] == ["up", "down"]
    manifest = prepare(clips, tmp_path / "out", options(classes="down", overwrite=True))
    assert len(manifest["clips"]) == 4
    assert ("up/0.png", "class up is not in --classes") in read_rejected(tmp_path / "out")


def test_mirrored_copies_are_the_mirror_image_in_the_same_group(tmp_path, make_config):
    frames = np.random.default_rng(0).integers(0, 255, (8, 32, 32, 3), np.uint8)
    save_strip(tmp_path / "clips" / "a.png", frames)
    manifest = prepare(tmp_path / "clips", tmp_path / "out", options(mirror="all"))
    assert [(clip["name"], clip["group"]) for clip in manifest["clips"]] == [
        ("a.png", "a.png"),
        ("a.png@mirrored", "a.png"),
    ]
    videos = open_videos(make_config(data_dir=str(tmp_path / "out")))
    np.testing.assert_array_equal(videos[videos.names.index("a.png@mirrored")], frames[:, :, ::-1])


def test_stride_length_and_grey(clips, tmp_path, make_config):
    manifest = prepare(clips, tmp_path / "out", options(every_nth=2, min_frames=4, max_frames=4, channels=1))
    assert {clip["frames"] for clip in manifest["clips"]} == {4}
    assert [clip["name"] for clip in manifest["clips"] if "notes" in clip] == ["up/2.png", "up/3.png"]
    videos = open_videos(make_config(data_dir=str(tmp_path / "out"), channels=1, every_nth=1))
    np.testing.assert_array_equal(videos[videos.names.index("up/3.png")][:, 0, 0, 0], [30, 32, 34, 36])


def test_the_rate_is_that_of_the_frames_that_are_kept(clips, tmp_path):
    manifest = prepare(clips, tmp_path / "out", options(source_fps=20.0, fps=10.0, every_nth=2, min_frames=2))
    assert manifest["fps"] == 5 and {clip["fps"] for clip in manifest["clips"]} == {5}
    assert {clip["frames"] for clip in manifest["clips"] if clip["category"] == "down"} == {2}  # 8 at 20 per second.


@pytest.mark.parametrize(
    "fit, expected",
    [
        # A 64x32 frame whose left half is 200 and whose right half is 100, on 32x32.
        ("centre_crop", [200] * 16 + [100] * 16),
        ("pad", None),
        ("resize_crop", None),
    ],
)
def test_fits(tmp_path, make_config, fit, expected):
    picture = np.full((32, 64, 3), 200, np.uint8)
    picture[:, 32:] = 100
    folder = tmp_path / "clips" / "clip"
    folder.mkdir(parents=True)
    for i in range(8):
        Image.fromarray(picture).save(folder / f"{i}.png")
    prepare(tmp_path / "clips", tmp_path / "out", options(fit=fit, resize_to="96x32"))
    frame = open_videos(make_config(data_dir=str(tmp_path / "out")))[0][0, :, :, 0]
    if fit == "pad":
        assert (frame[:7] == 0).all() and (frame[-7:] == 0).all() and (frame[9:23, :14] == 200).all()
    elif fit == "resize_crop":  # Scaled to three times as wide as high first: the central third.
        assert (frame[:, :12] == 200).all() and (frame[:, 20:] == 100).all()
    else:
        np.testing.assert_array_equal(frame[5], expected)


def test_bad_options_and_sources_are_one_line(clips, tmp_path):
    for fields, message in [
        ({"image_size": 50}, "`image_size` must be one of 32, 64, 128"),
        ({"split": "train:0.5"}, "sum to 1"),
        ({"split": "train"}, "NAME:FRACTION"),
        ({"resize_to": "big"}, "WIDTHxHEIGHT"),
        ({"group_pattern": "("}, "no regular expression"),
        ({"group_pattern": "a"}, "parentheses"),
        ({"max_frames": 3}, "at least `min_frames`"),
        ({"every_nth": 0}, "`every_nth` must be at least 1"),
        ({"fps": -1.0}, "`fps` must be 0 or a positive number. Received: fps=-1.0"),
        ({"source_fps": -5.0}, "`source_fps` must be 0 or a positive number"),
        ({"source_fps": float("nan")}, "`source_fps` must be 0 or a positive number"),
        ({"source_fps": float("inf")}, "`source_fps` must be 0 or a positive number"),
        ({"encoding": "bmp"}, "`encoding` must be one of"),
    ]:
        with pytest.raises(ValueError, match=message):
            options(**fields)
    for fields, message in [
        ({"classes": "sideways"}, "not there: sideways. There are: down, up."),
        ({"mirror": "sideways"}, "not there: sideways"),
        ({"class_map": "sideways=up"}, "not there: sideways"),
        ({"class_map": "nonsense"}, "OLD=NEW"),
        ({"min_frames": 100}, "No clip could be prepared.*rejected.csv"),
        ({"split": "train:0.999,test:0.001"}, "nothing would be left for test"),
        ({"fit": "boxes"}, "No clip could be prepared"),
        ({"fps": 8.0}, "No clip could be prepared"),
    ]:
        with pytest.raises(ValueError, match=message):
            prepare(clips, tmp_path / "out", options(**fields))
        assert not (tmp_path / "out" / "manifest.json").exists()
    with pytest.raises(ValueError, match="lies inside the source"):
        prepare(clips, clips / "out", options())
    with pytest.raises(ValueError, match="holds other files"):
        prepare(clips, clips.parent, options())
    with pytest.raises(ValueError, match="does not exist"):
        prepare(tmp_path / "nowhere", tmp_path / "out", options())


def test_a_full_disk_is_one_line_and_leaves_no_half_shard(clips, tmp_path, monkeypatch):
    import tensorflow as tf

    class Full:
        def __init__(self, path):
            pathlib.Path(path).write_bytes(b"half")

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def write(self, _):
            raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(tf.io, "TFRecordWriter", Full)
        with pytest.raises(ValueError, match="Cannot write to .*No space left on device"):
            prepare(clips, tmp_path / "out", options())
    assert not (tmp_path / "out").exists()
    prepare(clips, tmp_path / "out", options())
    prepare(clips, tmp_path / "fresh", options())
    assert files_of(tmp_path / "out") == files_of(tmp_path / "fresh")


def test_a_damaged_or_missing_shard_is_named(clips, tmp_path, make_config):
    manifest = prepare(clips, tmp_path / "out", options(clips_per_shard=100))
    shard = tmp_path / "out" / manifest["shards"][0]["file"]
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 255
    shard.write_bytes(content)
    with pytest.raises(ValueError, match=f"{shard.name} is missing or damaged"):
        open_videos(make_config(data_dir=str(tmp_path / "out")))
    shard.unlink()
    with pytest.raises(ValueError, match=f"{shard.name} is missing or damaged"):
        open_videos(make_config(data_dir=str(tmp_path / "out")))
    assert os.listdir(make_config().cache_dir) == []
    (tmp_path / "out" / "manifest.json").unlink()
    with pytest.raises(ValueError, match="stopped before the end. Run the same command again"):
        open_videos(make_config(data_dir=str(tmp_path / "out")))


@pytest.mark.parametrize("kept", [0, 1])
def test_a_shard_that_was_cut_between_two_clips_is_damaged(clips, tmp_path, make_config, kept):
    manifest = prepare(clips, tmp_path / "out", options(clips_per_shard=100))
    shard = tmp_path / "out" / manifest["shards"][0]["file"]
    record = 8 + 4 + int.from_bytes(shard.read_bytes()[:8], "little") + 4  # Length, its checksum, content, checksum.
    os.truncate(shard, kept * record)
    with pytest.raises(ValueError, match=f"{shard.name} is missing or damaged: {kept} of its 8 clips can be read"):
        open_videos(make_config(data_dir=str(tmp_path / "out")))
    assert os.listdir(make_config().cache_dir) == []


def test_another_size_than_prepared_names_both(clips, tmp_path, make_config):
    prepare(clips, tmp_path / "out", options())
    with pytest.raises(ValueError, match="prepared with --image_size=32.*Received: --image_size=64"):
        open_videos(make_config(data_dir=str(tmp_path / "out"), image_size=64))


def test_the_command_ends_with_a_summary_or_with_one_line_and_code_1(clips, tmp_path):
    command = ["prepare.py", str(clips), f"--out={tmp_path / 'out'}", "--image_size=32"]
    code, out, _ = run(*command, "--min_frames=7")
    assert code == 0 and "8 clips" in out and "--data_dir" in out
    code, _, err = run(*command, "--min_frames=8")
    assert code == 1 and "(--min_frames=7, now 8). Choose another folder, or add --ov" in err
    code, _, err = run(*command, "--min_frames=100", "--overwrite")
    assert code == 1 and err.splitlines()[-1].startswith("error: No clip could be prepared")
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "lengths, fields, flags",
    [
        ([31, 40], {}, ""),
        ([20, 40], {}, " --every_nth=1"),  # As after --fps=12.5.
        ([12, 40], {}, " --every_nth=1 --video_length=12"),
        ([31], {"channels": 1}, " --channels=1"),
    ],
)
def test_the_suggested_command_trains_on_every_clip(tmp_path, make_config, lengths, fields, flags):
    for i, length in enumerate(lengths):
        save_strip(tmp_path / "clips" / f"{i}.png", frames_of(length))
    manifest = prepare(tmp_path / "clips", tmp_path / "my out", options(**fields))
    command = training_command(tmp_path / "my out", manifest)
    assert command == f"python train.py --dataset=folder --data_dir='{tmp_path}/my out' --image_size=32{flags}"
    given = dict(word.removeprefix("--").split("=") for word in flags.split())
    config = make_config(**{"video_length": 16, "every_nth": 2, **{name: int(text) for name, text in given.items()}})
    videos = open_videos(dataclasses.replace(config, data_dir=str(tmp_path / "my out"), asked=()))
    assert len(videos) == len(lengths)


def test_the_summary_names_a_clip_for_each_remark_and_a_file_for_each_reason(clips, tmp_path):
    for i in range(3):
        save_strip(clips / "up" / f"short {i}.png", frames_of(3 + i))
        (clips / "up" / f"broken {i}.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    manifest = prepare(clips, tmp_path / "out", options(max_frames=8))
    lines = summary(manifest, read_rejected(tmp_path / "out")).splitlines()
    assert "Remark on 2, such as up/2.png: cut after 8 frames (--max_frames)" in lines
    assert "Rejected 4, such as up/short 0.png: 3 frames; --min_frames=7" in lines
    assert "Rejected 4, such as up/broken 0.png: cannot identify image file 'broken 0.png'" in lines
    assert "Rejected notes.txt: no image, animation, video or array" in lines


def test_mixed_frame_rates_are_said_and_the_proposed_rate_makes_them_one(tmp_path):
    (tmp_path / "clips").mkdir()
    for name, rate in (("a", 15), ("b", 30), ("c", 60)):
        write_video(tmp_path / "clips" / f"{name}.webp", frames_of(32), fps=rate)
    manifest = prepare(tmp_path / "clips", tmp_path / "out", options())
    rates = [clip["fps"] for clip in manifest["clips"]]
    assert len(set(rates)) == 3 and manifest["fps"] == sorted(rates)[1]  # Neither the slowest nor the fastest.
    text = summary(manifest, [])
    (rate,) = re.findall(r"^Frame rates differ, from 1\S+ to [56]\S+ per second.*--fps=(\S+)", text, re.M)
    manifest = prepare(tmp_path / "clips", tmp_path / "even", options(fps=float(rate)))
    assert len({clip["fps"] for clip in manifest["clips"]}) == 1 and "rates differ" not in summary(manifest, [])


def test_a_finished_folder_is_replaced_only_if_that_is_meant(clips, tmp_path):
    out = tmp_path / "out"
    before = prepare(clips, out, options())
    content = files_of(out)
    with pytest.raises(ValueError, match=r"finished.*\(--channels=3, now 1; --fps=0.0, now 12.5\)"):
        prepare(clips, out, options(fps=12.5, source_fps=0.0, channels=1))
    save_strip(tmp_path / "others" / "other.png", frames_of(8))
    with pytest.raises(ValueError, match=r"\(other clips\). Choose another folder, or add --overwrite"):
        prepare(tmp_path / "others", out, options())
    assert files_of(out) == content
    assert prepare(clips, out, options(overwrite=True)) == before and files_of(out) == content
    assert prepare(clips, out, options(channels=1, overwrite=True))["channels"] == 1
    replaced = prepare(tmp_path / "others", out, options(overwrite=True))
    assert [clip["name"] for clip in replaced["clips"]] == ["other.png"]


def test_an_error_leaves_no_empty_folder_and_nothing_else_changed(clips, tmp_path):
    def interrupted(*_):
        raise KeyboardInterrupt
        yield

    (tmp_path / "empty").mkdir()
    for out in (tmp_path / "new" / "out", tmp_path / "empty"):
        with pytest.raises(ValueError, match="does not exist"):
            prepare(tmp_path / "nowhere", out, options())
        with pytest.raises(ValueError, match="not there: sideways"):
            prepare(clips, out, options(classes="sideways"))
        with pytest.raises(KeyboardInterrupt):
            prepare(clips, out, options(), interrupted)
    assert not (tmp_path / "new").exists() and list((tmp_path / "empty").iterdir()) == []
    prepare(clips, tmp_path / "out", options())
    content = files_of(tmp_path / "out")
    with pytest.raises(ValueError, match="does not exist"):
        prepare(tmp_path / "nowhere", tmp_path / "out", options())
    assert files_of(tmp_path / "out") == content and (tmp_path / "out" / ".state").is_dir()
