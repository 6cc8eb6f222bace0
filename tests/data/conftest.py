"""Configurations and sets that several tests need."""

import dataclasses
import pathlib
import sys
import types

import numpy as np
import pytest

from mocogan_tf.config import Config
from tests.support.made_clips import frames_of


@pytest.fixture
def make_config(tmp_path):
    """Configurations of a small run whose cache lies in the test's folder."""

    def make(**fields):
        defaults = dict(
            dataset="folder", image_size=32, video_length=4, every_nth=2, image_batch=6, video_batch=4, num_clips=8
        )
        return Config(**{**defaults, "cache_dir": str(tmp_path / "cache"), **fields}, asked=fields)

    return make


@pytest.fixture
def fake_renderer(monkeypatch, tmp_path):
    """A known set `fake` whose clips are made by a module that counts its calls."""
    from mocogan_tf.data import datasets

    @dataclasses.dataclass
    class Clip:
        frames: np.ndarray
        label: int

    module = types.ModuleType("fake_renderer")
    module.__file__ = str(tmp_path / "fake_renderer.py")
    pathlib.Path(module.__file__).write_text("")
    module.CATEGORIES, module.FPS, module.NUM_FRAMES, module.calls = ("even", "odd"), 12.0, 10, []

    def render_clip(index, *, seed, num_frames=10, image_size=64):
        module.calls.append((index, seed))
        return Clip(frames_of(num_frames, first=10 * index, size=image_size), index % 2)

    module.render_clip = render_clip
    monkeypatch.setitem(sys.modules, "fake_renderer", module)
    monkeypatch.setitem(datasets.DATASETS, "fake", datasets.DatasetSpec("A fake.", renderer="fake_renderer"))
    return module
