"""Training runs on what `prepare.py` wrote, whatever the encoding."""

import json

import numpy as np
import pytest

from mocogan_tf.config import Config
from mocogan_tf.data.shards.options import PrepareOptions
from mocogan_tf.data.shards.prepare import prepare
from mocogan_tf.training import loop
from tests.support.made_clips import save_strip
from tests.support.tiny import TINY

# Each encoding is a training run: seconds to trace it.
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("plain_graphs")]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Two classes of coloured noise, with edges for JPEG to blur."""
    folder, rng = tmp_path_factory.mktemp("made") / "clips", np.random.default_rng(0)
    for i in range(6):
        save_strip(folder / "even odd".split()[i % 2] / f"{i}.png", rng.integers(0, 256, (8, 32, 32, 3), np.uint8))
    return folder


@pytest.fixture(scope="module")
def logs(clips, tmp_path_factory, plain_graphs):
    """Trains two steps from each encoding with one seed; the logged losses by encoding."""
    logs = {}
    for encoding in ("png", "raw", "jpeg"):
        folder = tmp_path_factory.mktemp(encoding)
        prepare(clips, folder / "out", PrepareOptions(image_size=32, min_frames=8, encoding=encoding))
        changes = {"dataset": "folder", "data_dir": str(folder / "out"), "cache_dir": str(folder / "cache")}
        config = Config(**{**TINY, **changes, "steps": 2, "log_every": 1, "seed": 1}, asked=changes)
        assert loop.train(config, folder / "run") == 0
        lines = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
        assert json.loads((folder / "run" / "data.json").read_text())["categories"] == ["even", "odd"]
        logs[encoding] = [{k: v for k, v in line.items() if "second" not in k} for line in lines]
    return logs


def test_two_steps_are_logged_with_the_losses_of_two_classes(logs):
    for encoding, lines in logs.items():
        assert [line["step"] for line in lines] == [1, 2], encoding
        assert all(np.isfinite(list(line.values())).all() and "loss_category_d" in line for line in lines), encoding


def test_lossless_encodings_train_alike_and_jpeg_does_not(logs):
    for png, raw, jpeg in zip(logs["png"], logs["raw"], logs["jpeg"], strict=True):
        assert raw == pytest.approx(png, rel=1e-4) and jpeg != pytest.approx(png, rel=1e-4)
