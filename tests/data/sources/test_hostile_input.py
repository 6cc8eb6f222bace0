"""Whatever lies in a folder: each bad file has its row in rejected.csv, and the good clip beside it is prepared."""

import io
import os
import struct
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from mocogan_tf.data.datasets import open_videos
from mocogan_tf.data.shards.options import PrepareOptions
from mocogan_tf.data.shards.prepare import prepare, read_rejected
from mocogan_tf.data.sources import archives, layouts
from tests.support.made_clips import decode_clip, frames_of, save_huge_png, save_strip, save_video

pytestmark = pytest.mark.core


@pytest.fixture
def folder(tmp_path):
    save_strip(tmp_path / "clips" / "good.png", frames_of(8))
    return tmp_path / "clips"


def reasons(folder, **fields):
    """Prepares the folder, whose clip `good.png` must come through, and returns the rejections."""
    out = folder.parent / "out"
    manifest = prepare(folder, out, PrepareOptions(**{"image_size": 32, "min_frames": 4, "overwrite": True, **fields}))
    assert "good.png" in [clip["name"] for clip in manifest["clips"]]
    rejected = dict(read_rejected(out))
    assert not any("\n" in reason or str(folder) in reason for reason in rejected.values())
    return rejected, {clip["name"]: clip for clip in manifest["clips"]}


def noise(num_frames=8, size=32):
    return np.random.default_rng(0).integers(0, 255, (num_frames, size, size, 3), np.uint8)


@pytest.mark.parametrize(
    "suffix", [".png", ".jpg", ".gif", ".webp", ".mp4", ".m4v", ".wmv", ".ts", ".npy", ".npz", ".h5", ".zip", ".tar"]
)
@pytest.mark.parametrize("content", [b"", b"rubbish" * 100, bytes(1000)])
def test_empty_files_and_rubbish_under_any_name(folder, suffix, content):
    (folder / f"bad{suffix}").write_bytes(content)
    rejected, _ = reasons(folder)
    assert list(rejected) == [f"bad{suffix}"] and rejected[f"bad{suffix}"]


def test_truncated_and_damaged_pictures(folder):
    whole = save_strip(folder.parent / "whole.png", noise()).read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    damaged = bytearray(whole)
    damaged[len(whole) // 2 : len(whole) // 2 + 50] = bytes(50)
    (folder / "damaged.png").write_bytes(damaged)
    rejected, _ = reasons(folder)
    assert set(rejected) == {"cut.png", "damaged.png"}


def test_one_bad_frame_rejects_its_clip_and_is_named(folder):
    for name in ("whole", "hurt"):
        (folder / name).mkdir()
        for i in range(6):
            Image.fromarray(frames_of(1)[0]).save(folder / name / f"{i}.png")
    (folder / "hurt" / "3.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (folder / "good.png").rename(folder / "elsewhere.png")
    (folder / "good.png").mkdir()  # A folder of frames may have any name.
    (folder / "elsewhere.png").unlink()
    for i in range(6):
        Image.fromarray(frames_of(1)[0]).save(folder / "good.png" / f"{i}.png")
    rejected, kept = reasons(folder)
    assert list(rejected) == ["hurt"] and rejected["hurt"].startswith("frame 3.png: ")
    assert set(kept) == {"good.png", "whole"}


def test_frames_of_different_sizes(folder):
    frames = folder / "mixed" / "clip"
    frames.mkdir(parents=True)
    (folder / "good.png").rename(folder.parent / "good.png")
    for i in range(6):
        Image.new("RGB", (40 + i // 4, 32)).save(frames / f"{i}.png")
    (folder / "fine" / "good.png").parent.mkdir()
    (folder.parent / "good.png").rename(folder / "fine" / "good.png")
    out = folder.parent / "out"
    prepare(folder, out, PrepareOptions(image_size=32, min_frames=4))
    assert dict(read_rejected(out)) == {"mixed/clip": "frame 4.png: it is 41x32, the first frame 40x32"}


def test_tiny_and_huge_pictures_are_refused_unseen(folder, monkeypatch):
    Image.new("RGB", (1, 1)).save(folder / "a pixel.png")
    Image.new("RGB", (400, 1)).save(folder / "a line.png")
    save_huge_png(folder / "huge.png", 20_000, 5_000)
    save_huge_png(folder / "huge strip.png", 400_000, 1_000)
    rejected, _ = reasons(folder)
    assert set(rejected) == {"a pixel.png", "a line.png", "huge.png", "huge strip.png"}
    assert "1x1 is refused" in rejected["a pixel.png"] and "1x1 is refused" in rejected["a line.png"]
    assert all("20000" in rejected[name] or "400000000" in rejected[name] for name in ("huge.png", "huge strip.png"))


def test_odd_sizes_palettes_alpha_cmyk_and_16_bit_are_read(folder, make_config):
    strip = np.concatenate(list(frames_of(6, first=100, size=33)), axis=1)
    Image.fromarray(strip).save(folder / "odd.png")
    Image.fromarray(strip).convert("CMYK").save(folder / "cmyk.jpg", quality=100)
    Image.fromarray(strip).quantize(8).save(folder / "palette.png")
    Image.fromarray(strip[..., 0].astype(np.uint16) * 257).save(folder / "deep.png")
    alpha = np.dstack([strip, np.full(strip.shape[:2], 10, np.uint8)])
    Image.fromarray(alpha).save(folder / "alpha.png")
    rejected, kept = reasons(folder)
    assert rejected == {}
    assert kept["alpha.png"]["notes"] == ["transparency is dropped, the colours below it are kept"]
    videos = open_videos(make_config(data_dir=str(folder.parent / "out"), video_length=4, every_nth=1))
    for name in ("odd.png", "cmyk.jpg", "palette.png", "deep.png", "alpha.png"):
        frames = videos[videos.names.index(name)].astype(int)
        assert np.abs(frames - frames_of(6, first=100)).max() <= 3, name


def test_a_photograph_turned_by_its_metadata_is_turned(folder, make_config):
    frame = np.zeros((32, 64, 3), np.uint8)
    frame[:, 16:32] = 200  # After a quarter turn clockwise: a bar in the upper half of the central square.
    exif = Image.Exif()
    exif[0x0112] = 6
    (folder / "turned").mkdir()
    for i in range(6):
        Image.fromarray(frame).save(folder / "turned" / f"{i}.png", exif=exif)
    reasons(folder)
    videos = open_videos(make_config(data_dir=str(folder.parent / "out"), video_length=4, every_nth=1))
    seen = videos[videos.names.index("turned")][0, :, :, 0]
    assert (seen[:16] == 200).all() and (seen[16:] == 0).all()


def test_forbidden_files_and_dead_links(folder, monkeypatch):
    (folder / "dead.png").symlink_to("nowhere.png")
    save_strip(folder / "forbidden.png", frames_of(8)).chmod(0)
    real_open = open

    def guarded(path, *args, **kwargs):  # The superuser may read everything.
        if str(path).endswith("forbidden.png"):
            raise PermissionError(13, "Permission denied")
        return real_open(path, *args, **kwargs)

    monkeypatch.setattr("builtins.open", guarded)
    rejected, _ = reasons(folder)
    assert rejected == {"dead.png": "no such file or directory", "forbidden.png": "permission denied"}


@pytest.mark.parametrize("name", ["dead.mp4", "dead.gif", "dead.webm", "dead.npy", "dead.zip", "dead", "dead.txt"])
@pytest.mark.parametrize("target", ["nowhere", "itself"])
def test_a_dead_link_of_any_name_is_rejected_once(folder, name, target):
    (folder / name).symlink_to(name if target == "itself" else "nowhere")
    rejected, _ = reasons(folder)
    assert list(rejected) == [name] and rejected[name] in (
        "no such file or directory",
        "too many levels of symbolic links",
    )
    assert len(read_rejected(folder.parent / "out")) == 1


def test_a_frame_that_cannot_be_opened_rejects_its_clip(folder):
    root = folder / "class" / "take"
    root.mkdir(parents=True)
    for i in range(6):
        Image.fromarray(frames_of(1)[0]).save(root / f"{i}.png")
    (root / "3.png").unlink()
    (root / "3.png").symlink_to("nowhere.png")
    (folder / "good.png").rename(folder / "class" / "good.png")
    found = layouts.find(folder)
    assert [clip.name for clip in found.clips] == ["class/good.png"]
    assert found.rejected == [("class/take", "frame 3.png: no such file or directory")]


def test_a_circle_of_links_is_reported_and_left_out(folder):
    (folder / "inside").mkdir()
    (folder / "inside" / "again").symlink_to(folder, target_is_directory=True)
    rejected, kept = reasons(folder)
    assert rejected == {"inside/again": "a symbolic link that leads back to a folder above it"}
    assert list(kept) == ["good.png"]


def test_names_with_spaces_and_any_letters(folder, make_config):
    names = ["mit Leerzeichen.png", "ümläut.png", "日本語.png", 'quote\'s, "comma".png']
    for name in names:
        save_strip(folder / name, frames_of(8))
    (folder / 'new "line\n.txt').write_text("")
    save_strip(folder / "²", frames_of(8))
    save_strip(folder / os.fsdecode(b"no utf-8 \xff.png"), frames_of(8))
    (folder / os.fsdecode(b"broken \xfe.png")).write_bytes(b"")
    rejected, kept = reasons(folder)
    assert set(kept) == {"good.png", "²", "no utf-8 \\udcff.png", *names}
    assert set(rejected) == {'new "line\n.txt', "broken \\udcfe.png"}
    assert len(open_videos(make_config(data_dir=str(folder.parent / "out")))) == 7


class TestVideos:
    """Video files, by PyAV."""

    @pytest.fixture(autouse=True)
    def needs_pyav(self):
        pytest.importorskip("av")

    def test_cut_off_and_damaged_in_the_middle(self, folder):
        whole = save_video(folder.parent / "whole.avi", noise(40), codec="mpeg4").read_bytes()
        (folder / "cut.avi").write_bytes(whole[: len(whole) // 2])
        (folder / "head.avi").write_bytes(whole[:200])
        mp4 = save_video(folder.parent / "whole.mp4", noise(40), codec="mpeg4").read_bytes()
        (folder / "cut.mp4").write_bytes(mp4[: len(mp4) // 2])
        damaged = bytearray(save_video(folder.parent / "x.avi", noise(40), codec="ffv1").read_bytes())
        for at in range(len(damaged) // 3, 2 * len(damaged) // 3, 500):
            damaged[at : at + 100] = bytes(100)
        (folder / "damaged.avi").write_bytes(damaged)
        rejected, _ = reasons(folder)
        assert set(rejected) == {"cut.avi", "head.avi", "cut.mp4", "damaged.avi"}

    def test_a_rate_doubled_without_new_frames_is_a_remark_and_the_true_rate_is_kept(self, folder):
        # As `ffmpeg -r` writes it: every other of the frames that the header counts is empty.
        save_video(folder / "doubled.avi", noise(40), codec="mpeg4", fps=50, every=2)
        rejected, kept = reasons(folder)
        assert rejected == {} and kept["doubled.avi"]["frames"] == 40 and kept["doubled.avi"]["fps"] == 25
        assert kept["doubled.avi"]["notes"] == ["it has 40 frames, its header claims 79"]

    def test_a_playlist_does_not_open_other_files(self, folder):
        secret = save_video(folder.parent / "secret.mpg", noise(), codec="mpeg1video", fps=25)
        entries = f"#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n"
        (folder / "list.avi").write_text(f"#EXTM3U\n{entries}")
        (folder / "concat.mp4").write_text(f"ffconcat version 1.0\nfile {secret}\n")
        rejected, kept = reasons(folder)
        assert set(rejected) == {"list.avi", "concat.mp4"} and set(kept) == {"good.png"}

    @pytest.mark.parametrize(
        "suffix, codec, container",
        [
            ("wmv", "wmv2", "asf"),
            ("ogv", "libvpx", "ogg"),
            ("ts", "mpeg2video", "mpegts"),
            ("mpg", "mpeg1video", "mpeg"),
            ("y4m", "rawvideo", "yuv4mpegpipe"),
            ("nut", "ffv1", "nut"),
            ("ivf", "libvpx", "ivf"),
        ],
    )
    @pytest.mark.parametrize("named", [True, False])
    def test_other_containers_are_clips_by_content(self, folder, suffix, codec, container, named):
        import av

        if codec not in av.codecs_available:
            pytest.skip(f"this PyAV has no {codec}")
        path = save_video(folder / f"film.{suffix}", noise(), codec=codec, container=container, fps=25)
        if not named:
            path = path.rename(folder / "film")
        found = layouts.find(folder)
        assert [(clip.name, clip.kind) for clip in found.clips][0] == (path.name, "video") and not found.rejected
        assert len(decode_clip(found.clips[0], 32, 3)) == 8

    def test_sound_without_pictures(self, folder):
        import av

        with av.open(str(folder / "sound.mkv"), "w") as container:
            stream = container.add_stream("pcm_s16le", rate=8000)
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), layout="mono")
            frame.rate = 8000
            container.mux(stream.encode(frame))
            container.mux(stream.encode())
        rejected, _ = reasons(folder)
        assert rejected == {"sound.mkv": "the file has no video stream"}

    def test_a_wrong_name_does_not_matter(self, folder):
        save_video(folder / "a.mp4", noise(), codec="ffv1", container="avi")
        (folder / "a.mp4").rename(folder / "film.txt")
        rejected, kept = reasons(folder)
        assert rejected == {} and kept["film.txt"]["frames"] == 8

    def test_a_varying_rate_is_noted_and_fps_makes_it_even(self, folder, make_config):
        # Frames 0..3 last 0.1 s, frames 4..7 last 0.3 s.
        times = [0, 100, 200, 300, 400, 700, 1000, 1300]
        save_video(folder / "uneven.mkv", frames_of(8, first=40), codec="ffv1", milliseconds=times)
        _, kept = reasons(folder)
        assert kept["uneven.mkv"]["notes"] == ["the frame rate varies"] and kept["uneven.mkv"]["frames"] == 8
        _, kept = reasons(folder, fps=10, source_fps=10)
        assert kept["uneven.mkv"]["fps"] == 10
        videos = open_videos(make_config(data_dir=str(folder.parent / "out"), video_length=4, every_nth=1))
        seen = videos[videos.names.index("uneven.mkv")][:, 0, 0, 0]
        assert seen.tolist() == [40, 41, 42, 43, 44, 44, 44, 45, 45, 45, 46, 46, 46, 47]

    def test_a_film_turned_by_its_metadata_is_turned(self, folder, make_config):
        frames = np.zeros((8, 32, 64, 3), np.uint8)
        frames[:, :, 16:32] = 200  # The left half of the central square.
        content = save_video(folder.parent / "flat.mp4", frames, codec="mpeg4").read_bytes()
        # The track header's matrix: 16.16 fixed point, the last column 2.30. Here a quarter turn clockwise.
        plain = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
        turned = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
        at = content.index(plain, content.index(b"tkhd"))
        (folder / "turned.mp4").write_bytes(content[:at] + turned + content[at + len(plain) :])
        reasons(folder)
        videos = open_videos(make_config(data_dir=str(folder.parent / "out"), video_length=4, every_nth=1))
        seen = videos[videos.names.index("turned.mp4")][0, :, :, 0].astype(int)
        assert seen[:14].min() > 150 and seen[18:].max() < 50


class TestArchives:
    """Zip and tar files, inside the folder."""

    def write(self, path, members, kind="zip"):
        if kind == "zip":
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
                for name, content in members.items():
                    archive.writestr(name, content)
        else:
            with tarfile.open(path, "w:gz") as archive:
                for name, content in members.items():
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))

    @pytest.fixture
    def strip(self, tmp_path):
        return save_strip(tmp_path / "strip.png", frames_of(8)).read_bytes()

    @pytest.fixture
    def folder(self, tmp_path):
        save_strip(tmp_path / "clips" / "class" / "good.png", frames_of(8))
        return tmp_path / "clips"

    def reasons(self, folder):
        out = folder.parent / "out"
        manifest = prepare(folder, out, PrepareOptions(image_size=32, min_frames=4))
        assert not (out / ".state").joinpath("unpacked-").exists()
        assert list((out / ".state").glob("unpacked-*")) == []
        return dict(read_rejected(out)), [clip["name"] for clip in manifest["clips"]]

    @pytest.mark.parametrize("kind, suffix", [("zip", ".zip"), ("tar", ".tar.gz")])
    def test_an_archive_is_a_class(self, folder, strip, kind, suffix):
        self.write(folder / f"run{suffix}", {"a.png": strip, "b.png": strip}, kind)
        self.write(folder / f"walk{suffix}", {"walk/a.png": strip}, kind)
        assert self.reasons(folder) == ({}, ["class/good.png", "run/a.png", "run/b.png", "walk/a.png"])

    @pytest.mark.parametrize("kind", ["zip", "tar"])
    @pytest.mark.parametrize(
        "name", ["../evil.png", "/tmp/evil.png", "a/../../evil.png", "..\\evil.png", "C:\\evil.png"]
    )
    def test_members_that_would_land_outside_refuse_the_archive(self, folder, strip, kind, name):
        self.write(folder / "bad.zip", {"fine.png": strip, name: strip}, kind)
        rejected, kept = self.reasons(folder)
        assert list(rejected) == ["bad.zip"] and "outside of it" in rejected["bad.zip"] and kept == ["class/good.png"]
        assert not list(folder.parent.rglob("evil.png"))

    @pytest.mark.parametrize("kind", ["zip", "tar"])
    def test_a_bomb_is_refused(self, folder, monkeypatch, kind):
        monkeypatch.setattr(archives, "RATIO_MATTERS_ABOVE", 2**20)
        self.write(folder / "bomb.zip", {f"{i}.png": bytes(2**20) for i in range(8)}, kind)
        rejected, kept = self.reasons(folder)
        assert list(rejected) == ["bomb.zip"] and "200 times" in rejected["bomb.zip"] and kept == ["class/good.png"]

    def test_links_and_nested_archives_are_left_out_by_name(self, folder, strip):
        with tarfile.open(folder / "run.tar", "w") as archive:
            link = tarfile.TarInfo("link.png")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(link)
            for name, content in {"a.png": strip, "inner.zip": b"PK\x03\x04" + bytes(50)}.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        rejected, kept = self.reasons(folder)
        assert rejected["run.tar/link.png"] == "a link or a device" and "archive" in rejected["run/inner.zip"]
        assert kept == ["class/good.png", "run/a.png"]

    @pytest.mark.parametrize("kind", ["zip", "tar"])
    def test_a_second_member_of_a_name_is_left_out_by_name(self, folder, strip, kind):
        self.write(folder / f"run.{kind}", {"a.png": strip, "./a.png": strip, "a.png/b.png": strip}, kind)
        rejected, kept = self.reasons(folder)
        reason = "a second member of this name"
        assert rejected == {f"run.{kind}/./a.png": reason, f"run.{kind}/a.png/b.png": reason}
        assert kept == ["class/good.png", "run/a.png"]

    def test_a_truncated_archive(self, folder, strip):
        self.write(folder / "run.zip", {"a.png": strip, "b.png": strip})
        self.write(folder / "walk.tar.gz", {"a.png": os.urandom(5000), "b.png": strip}, "tar")
        for name in ("run.zip", "walk.tar.gz"):
            (folder / name).write_bytes((folder / name).read_bytes()[:-300])
        rejected, kept = self.reasons(folder)
        assert set(rejected) == {"run.zip", "walk.tar.gz"} and kept == ["class/good.png"]

    def test_an_archive_as_the_source(self, folder, strip, tmp_path):
        self.write(tmp_path / "set.zip", {"set/up/a.png": strip, "set/down/a.png": strip, "__MACOSX/x": b""})
        manifest = prepare(tmp_path / "set.zip", tmp_path / "out", PrepareOptions(image_size=32, min_frames=4))
        assert [clip["name"] for clip in manifest["clips"]] == ["down/a.png", "up/a.png"]
        assert manifest["categories"] == ["down", "up"]
        self.write(tmp_path / "evil.zip", {"../a.png": strip})
        with pytest.raises(ValueError, match="evil.zip: refused: its member '../a.png'"):
            prepare(tmp_path / "evil.zip", tmp_path / "out2", PrepareOptions(image_size=32))
