"""The Beam pipeline writes what prepare.py writes. Runs where Apache Beam is installed."""

import pytest

from mocogan_tf.data.shards import beam
from mocogan_tf.data.shards.options import PrepareOptions
from mocogan_tf.data.shards.prepare import prepare
from tests.support.made_clips import frames_of, save_strip


@pytest.fixture
def clips(tmp_path):
    for i in range(12):
        save_strip(tmp_path / "clips" / ("up" if i % 2 else "down") / f"{i}.png", frames_of(8, first=i))
    (tmp_path / "clips" / "up" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return tmp_path / "clips"


def files_of(out):
    return {path.name: path.read_bytes() for path in sorted(out.iterdir()) if path.is_file()}


def test_the_direct_runner_writes_the_same_bytes_and_resumes(clips, tmp_path, monkeypatch):
    pytest.importorskip("apache_beam")
    options = PrepareOptions(image_size=32, min_frames=8, clips_per_shard=2)
    prepare(clips, tmp_path / "beam", options, beam.make_with_beam)
    prepare(clips, tmp_path / "local", options)
    assert files_of(tmp_path / "beam") == files_of(tmp_path / "local")

    def never(*_):
        raise AssertionError("nothing is left to do")

    prepare(clips, tmp_path / "beam", options, never)
    assert files_of(tmp_path / "beam") == files_of(tmp_path / "local")


def test_without_beam_the_error_names_the_extra(clips, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "apache_beam", None)
    with pytest.raises(ValueError, match=r"pip install 'mocogan-tf\[beam\]'"):
        prepare(clips, tmp_path / "out", PrepareOptions(image_size=32), beam.make_with_beam)
