"""Class, group and split of each clip, as the published sets and the common layouts name them; arrays; frame rates."""

import json

import numpy as np
import pytest
from PIL import Image

from mocogan_tf.data.datasets import open_videos
from mocogan_tf.data.shards.options import PrepareOptions
from mocogan_tf.data.shards.prepare import prepare, read_rejected
from mocogan_tf.data.sources.arrays import guess_axes
from mocogan_tf.data.sources.layouts import LayoutOptions, find
from tests.support.made_clips import frames_of, save_frames, save_strip, save_video

pytestmark = pytest.mark.core


def rows(found):
    return [(clip.name, clip.category, clip.group, clip.split) for clip in found.clips]


def touch_clips(root, names, frames=None):
    for name in names:
        save_strip(root / name, frames_of(4) if frames is None else frames)
    return root


def test_splits_above_classes(tmp_path):
    touch_clips(tmp_path, ["train/run/a.png", "Test/walk/b.png", "val/run/c.png"])
    found = find(tmp_path)
    assert rows(found) == [
        ("Test/walk/b.png", "walk", "", "test"),
        ("train/run/a.png", "run", "", "train"),
        ("val/run/c.png", "run", "", "val"),
    ]
    assert found.categories == ("run", "walk")


def test_splits_above_clips_without_classes(tmp_path):
    for name in ("train/a", "train/b", "test/a"):
        save_frames(tmp_path / name, size=(32, 32))
    found = find(tmp_path)
    assert rows(found) == [("test/a", "", "", "test"), ("train/a", "", "", "train"), ("train/b", "", "", "train")]
    assert found.categories == ()


def test_a_single_class_folder_is_unlabelled(tmp_path):
    touch_clips(tmp_path, ["walk/a.png", "walk/b.png"])
    found = find(tmp_path)
    assert found.categories == () and [clip.category for clip in found.clips] == ["", ""]


@pytest.mark.parametrize("name", ["A poster.png", "z poster.png"])
def test_one_square_picture_among_strips_is_left_out_alone(tmp_path, make_config, caplog, name):
    touch_clips(tmp_path / "set", ["run/a.png", "run/b.png", "walk/a.png"], frames_of(8))
    Image.new("RGB", (32, 32)).save(tmp_path / "set" / "run" / name)
    with caplog.at_level("WARNING", "absl"):
        videos = open_videos(make_config(data_dir=str(tmp_path / "set")))
    assert videos.names == ("run/a.png", "run/b.png", "walk/a.png") and videos.categories == ("run", "walk")
    assert f"left out, run/{name}: an image of 32x32 is one frame, no strip" in caplog.text


def test_the_frames_of_one_video_must_lie_one_level_deeper(tmp_path):
    (tmp_path / "set").mkdir()
    for i in range(4):
        Image.new("RGB", (40, 32)).save(tmp_path / "set" / f"{i}.png")
    with pytest.raises(ValueError, match=r"holds 4 pictures \(0.png, ...\) and no clip.*one level deeper"):
        find(tmp_path / "set")
    found = find(tmp_path)
    assert [(clip.name, clip.kind, len(clip.files)) for clip in found.clips] == [("set", "frames", 4)]
    touch_clips(tmp_path, ["run/a.png", "walk/a.png"])
    (tmp_path / "set" / "0.png").rename(tmp_path / "poster.png")
    (tmp_path / "set").rename(tmp_path / "run" / "set")
    found = find(tmp_path)
    assert [clip.name for clip in found.clips] == ["run/a.png", "run/set", "walk/a.png"]
    assert found.rejected == [("poster.png", "a single picture; a clip is a strip, or a folder of frames")]


UCF = [
    "HandstandPushups/v_HandStandPushups_g01_c01.avi",
    "HandstandPushups/v_HandStandPushups_g01_c02.avi",
    "HandstandPushups/v_HandStandPushups_g12_c01.avi",
    "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi",
    "ApplyEyeMakeup/v_ApplyEyeMakeup_g02_c01.avi",
]


def test_ucf101_is_recognised_and_its_groups_stay_together(tmp_path):
    touch_clips(tmp_path, UCF)
    found = find(tmp_path)
    assert found.layout == "ucf101" and found.categories == ("ApplyEyeMakeup", "HandstandPushups")
    groups = {clip.name: clip.group for clip in found.clips}
    assert groups[UCF[0]] == groups[UCF[1]] == "HandstandPushups_g01" != groups[UCF[2]]


def test_an_empty_line_in_the_classes_of_ucf101_is_no_class(tmp_path):
    touch_clips(tmp_path, UCF)
    (tmp_path / "classInd.txt").write_text("1 ApplyEyeMakeup\n\n2 HandstandPushups\n\n")
    assert find(tmp_path).categories == ("ApplyEyeMakeup", "HandstandPushups")


@pytest.mark.parametrize("spelling", ["HandstandPushups", "HandStandPushups"])
def test_ucf101_split_files_and_both_spellings(tmp_path, spelling):
    touch_clips(tmp_path, [name.replace("HandstandPushups/", f"{spelling}/") for name in UCF])
    lists = tmp_path / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "classInd.txt").write_text("1 ApplyEyeMakeup\r\n2 HandstandPushups\r\n")
    train = ["HandstandPushups/v_HandStandPushups_g12_c01.avi 2", "ApplyEyeMakeup/v_ApplyEyeMakeup_g02_c01.avi 1"]
    (lists / "trainlist01.txt").write_text("\n".join(train) + "\n")
    (lists / "testlist01.txt").write_text(
        "HandstandPushups/v_HandstandPushups_g01_c01.avi\nApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi\n"
    )
    found = find(tmp_path)
    assert found.categories == ("ApplyEyeMakeup", "HandstandPushups")
    assert {clip.category for clip in found.clips} == set(found.categories)
    assert [clip.split for clip in found.clips] == ["test", "train", "test", "train"]
    assert [(row.name.split("/")[-1], row.reason) for row in found.rejected] == [
        ("v_HandStandPushups_g01_c02.avi", "in neither trainlist01 nor testlist01")
    ]


def test_weizmann_persons_are_groups(tmp_path):
    touch_clips(tmp_path, ["walk/lena_walk1.avi", "walk/lena_walk2.avi", "wave/ido_wave1.avi", "wave/ido_wave2.avi"])
    found = find(tmp_path)
    assert found.layout == "weizmann" and found.categories == ("walk", "wave1", "wave2")
    assert [(clip.category, clip.group) for clip in found.clips] == [
        ("walk", "lena"),
        ("walk", "lena"),
        ("wave1", "ido"),
        ("wave2", "ido"),
    ]


def test_mug_subjects_are_groups(tmp_path):
    for name in ("001/anger/take000", "001/anger/take001", "052/surprise/take000"):
        save_frames(tmp_path / name, suffix="jpg")
    found = find(tmp_path)
    assert found.layout == "mug" and found.categories == ("anger", "surprise")
    assert [(clip.category, clip.group) for clip in found.clips] == [
        ("anger", "001"),
        ("anger", "001"),
        ("surprise", "052"),
    ]


@pytest.mark.parametrize("layout", ["auto", "mug"])
def test_a_group_pattern_takes_precedence_over_the_groups_of_a_layout(tmp_path, layout):
    for name in ("001/anger/take000", "001/anger/take001", "052/surprise/other"):
        save_frames(tmp_path / name, suffix="jpg")
    found = find(tmp_path, LayoutOptions(layout, group_pattern=r"take(\d+)"))
    assert found.layout == "mug"
    # A name without it stays with its subject.
    assert [clip.group for clip in found.clips] == ["000", "001", "052"]


@pytest.mark.parametrize("layout", ["auto", "ucf101"])
def test_a_group_pattern_takes_precedence_over_the_groups_of_ucf101(tmp_path, layout):
    touch_clips(tmp_path, UCF)
    found = find(tmp_path, LayoutOptions(layout, group_pattern=r"_(c\d+)"))
    assert found.layout == "ucf101" and {clip.group for clip in found.clips} == {"c01", "c02"}


def test_taichi_hd_boxes_and_spans(tmp_path, make_config):
    pytest.importorskip("av")
    # 40 frames at 10 fps, 64x64; frame f is 5 f inside of the box (16, 16, 48, 48) and 255 outside.
    frames = np.full((40, 64, 64, 3), 255, np.uint8)
    frames[:, 16:48, 16:48] = (5 * np.arange(40))[:, None, None, None]
    save_video(tmp_path / "set" / "abc.mkv", frames)
    (tmp_path / "set" / "boxes.csv").write_text(
        "video_id,start,end,bbox,fps,width,height,partition\n"
        # Measured on a version of the video with twice the pixels and twice the frames.
        "abc,10,30,32-32-96-96,20,128,128,train\n"
        "abc,40,60,32-32-96-96,20,128,128,test\n"
        "gone,0,10,0-0-9-9,20,128,128,train\n"
        "abc,x,60,32-32-96-96,20,128,128,test\n"
    )
    options = PrepareOptions(image_size=32, min_frames=4, fit="boxes")
    manifest = prepare(tmp_path / "set", tmp_path / "out", options)
    assert manifest["layout"] == "taichi_hd" and manifest["categories"] == []
    assert [(clip["name"], clip["frames"], clip["group"], clip["split"]) for clip in manifest["clips"]] == [
        ("abc#10#30", 10, "abc", "train"),
        ("abc#40#60", 10, "abc", "test"),
    ]
    assert {clip["source"] for clip in manifest["clips"]} == {"abc.mkv"}
    rejected = dict(read_rejected(tmp_path / "out"))
    assert rejected["gone#0#10"] == "there is no video gone" and "boxes.csv" in rejected["abc#x#60"]
    videos = open_videos(make_config(data_dir=str(tmp_path / "out")))
    np.testing.assert_array_equal(
        videos[0], np.broadcast_to((5 * np.arange(5, 15))[:, None, None, None], (10, 32, 32, 3))
    )


def test_a_format_that_does_not_fit_says_so(tmp_path):
    touch_clips(tmp_path, ["a.png"])
    with pytest.raises(ValueError, match="fits the layout ucf101.*v_Class_g01_c01"):
        find(tmp_path, LayoutOptions("ucf101"))
    with pytest.raises(ValueError, match="no csv with the columns"):
        find(tmp_path, LayoutOptions("taichi_hd"))


@pytest.mark.parametrize(
    "shape, axes",
    [
        ((5, 16, 32, 32, 3), "NTHWC"),
        ((5, 16, 3, 32, 32), "NTCHW"),
        ((20, 1000, 64, 64), "TNHW"),
        ((1000, 20, 64, 64), "NTHW"),
        ((16, 32, 32, 3), "THWC"),
        ((90, 3, 64, 85), "TCHW"),
        ((16, 32, 32), "THW"),
    ],
)
def test_axes_follow_from_the_shape(shape, axes):
    assert guess_axes(shape) == axes


def test_axes_that_cannot_be_told_are_asked_for(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((20, 20, 32, 32), np.uint8))
    with pytest.raises(ValueError, match="a.npy: the axes .* cannot be told; .*--array_axes"):
        find(tmp_path)
    assert len(find(tmp_path, LayoutOptions(array_axes="TNHW")).clips) == 20


def gradient(num_clips, num_frames, size=32):
    """uint8 [N, T, H, W, 3]: clip n's frame t is 40 n + t."""
    return np.stack([frames_of(num_frames, first=40 * n, size=size) for n in range(num_clips)])


@pytest.mark.parametrize("kind", ["npy", "npz", "float", "h5", "tgan", "moving_mnist"])
def test_array_files_are_clips(tmp_path, make_config, kind):
    clips = gradient(3, 8)
    folder = tmp_path / "clips"
    folder.mkdir()
    categories = []
    if kind == "npy":
        np.save(folder / "a.npy", clips.transpose(0, 1, 4, 2, 3))
    elif kind == "moving_mnist":
        np.save(folder / "a.npy", clips.repeat(4, 0)[..., 0].transpose(1, 0, 2, 3))
        clips = clips.repeat(4, 0)
    elif kind == "float":
        np.save(folder / "a.npy", clips.astype(np.float32) / 127.5 - 1)
    elif kind == "npz":
        np.savez_compressed(folder / "a.npz", videos=clips, labels=np.array([1, 0, 1]))
        categories = ["0", "1"]
    else:
        h5py = pytest.importorskip("h5py")
        with h5py.File(folder / "a.h5", "w") as file:
            if kind == "h5":
                file["videos"] = clips
                file["labels"] = [b"run", b"walk", b"run"]
            else:
                file["image"] = clips.reshape(24, 32, 32, 3).transpose(0, 3, 1, 2)
                spans = [
                    {"start": 8 * i, "end": 8 * i + 8, "category": name}
                    for i, name in enumerate(("run", "walk", "run"))
                ]
                (folder / "a.json").write_text(json.dumps(spans))
        categories = ["run", "walk"]
    manifest = prepare(folder, tmp_path / "out", PrepareOptions(image_size=32, min_frames=4))
    assert manifest["categories"] == categories and len(manifest["clips"]) == len(clips)
    videos = open_videos(make_config(data_dir=str(tmp_path / "out")))
    for i in range(len(clips)):
        np.testing.assert_array_equal(videos[i], clips[int(videos.names[i].split("/")[-1])])


def test_a_single_array_file_is_a_source(tmp_path):
    np.save(tmp_path / "moving.npy", gradient(3, 8))
    manifest = prepare(tmp_path / "moving.npy", tmp_path / "out", PrepareOptions(image_size=32, min_frames=4))
    assert [clip["name"] for clip in manifest["clips"]] == [f"moving.npy/{i:06d}" for i in range(3)]


def test_the_label_of_one_clip_need_not_be_a_list(tmp_path):
    for name in ("run", "walk"):
        np.savez(tmp_path / f"{name}.npz", video=frames_of(4), label=name)
    found = find(tmp_path)
    assert [clip.category for clip in found.clips] == ["run", "walk"] == list(found.categories)


def test_arrays_of_objects_wrong_ranges_and_wrong_labels_are_rejected(tmp_path):
    touch_clips(tmp_path / "clips", ["good.png"])
    np.save(tmp_path / "clips" / "pickle.npy", np.array([{"a": 1}], object), allow_pickle=True)
    np.save(tmp_path / "clips" / "range.npy", gradient(1, 4).astype(np.float32))
    np.save(tmp_path / "clips" / "long.npy", gradient(1, 4).astype(np.int64))
    np.savez(tmp_path / "clips" / "labels.npz", videos=gradient(2, 4), labels=np.arange(3))
    prepare(tmp_path / "clips", tmp_path / "out", PrepareOptions(image_size=32, min_frames=4))
    rejected = dict(read_rejected(tmp_path / "out"))
    assert "allow_pickle" in rejected["pickle.npy"] or "bject" in rejected["pickle.npy"]
    assert rejected["range.npy/000000"] == "floating point values in [0, 3]; [0, 1] or [-1, 1] are expected"
    assert rejected["long.npy/000000"].startswith("values of type int64")
    assert rejected["labels.npz"] == "3 labels for 2 clips in array 'videos'"


def test_every_kind_of_clip_in_one_folder(tmp_path, make_config):
    pytest.importorskip("av")
    root, frames = tmp_path / "clips", frames_of(8, first=60)
    save_strip(root / "a" / "across.png", frames)
    save_strip(root / "a" / "down.jpg", frames, across=False)
    codecs = {"avi": "ffv1", "mkv": "ffv1", "mov": "png", "mp4": "mpeg4", "webm": "libvpx-vp9"}
    for suffix, codec in codecs.items():
        save_video(root / "b" / f"film.{suffix}", frames, codec=codec)
    pictures = [Image.fromarray(frame) for frame in frames]
    pictures[0].save(root / "b" / "moving.gif", save_all=True, append_images=pictures[1:], duration=100)
    pictures[0].save(root / "b" / "moving.webp", save_all=True, append_images=pictures[1:], duration=100, lossless=True)
    pictures[0].save(root / "b" / "moving.png", save_all=True, append_images=pictures[1:], duration=100)
    (root / "c" / "take").mkdir(parents=True)
    for i, picture in enumerate(pictures):
        picture.save(root / "c" / "take" / f"{i}.bmp")
    np.save(root / "c" / "array.npy", frames)
    manifest = prepare(root, tmp_path / "out", PrepareOptions(image_size=32, min_frames=8))
    assert [clip["name"] for clip in manifest["clips"]] == [
        "a/across.png",
        "a/down.jpg",
        "b/film.avi",
        "b/film.mkv",
        "b/film.mov",
        "b/film.mp4",
        "b/film.webm",
        "b/moving.gif",
        "b/moving.png",
        "b/moving.webp",
        "c/array.npy/000000",
        "c/take",
    ]
    assert {clip["fps"] for clip in manifest["clips"] if clip["category"] == "b"} == {10.0}
    for data_dir in (tmp_path / "out", root):  # Prepared, and as it lies.
        videos = open_videos(make_config(data_dir=str(data_dir)))
        assert videos.categories == ("a", "b", "c") and len(videos) == 12
        for i in range(len(videos)):
            lossy = videos.names[i] in ("b/film.mp4", "b/film.webm")
            np.testing.assert_allclose(videos[i], frames, atol=3 * lossy, err_msg=videos.names[i])
