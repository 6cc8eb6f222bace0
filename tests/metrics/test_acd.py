"""Promises of the average content distance."""

import itertools

import numpy as np
import pytest

from mocogan_tf.data.rendered import shapes
from mocogan_tf.data.sources.layouts import find_clips
from mocogan_tf.data.sources.readers import open_footage
from mocogan_tf.metrics import acd

rng = np.random.default_rng(0)


def shapes_on_black(number=6, frames=5):
    """Clips whose shape changes its colour from frame to frame, on black with a dark noise below the threshold."""
    clips = rng.integers(0, acd.THRESHOLD + 1, (number, frames, 16, 16, 3)).astype(np.uint8)
    for clip in clips.reshape(-1, 16, 16, 3):
        top, left = rng.integers(0, 10, 2)
        clip[top : top + 5, left : left + 5] = rng.integers(16, 256, 3)
    return clips


def test_acd_color_is_the_loop_over_pairs_of_frames():
    clips = shapes_on_black()
    distances = []
    for clip in clips:
        colours = [frame[frame.max(-1) > acd.THRESHOLD].mean(axis=0) for frame in clip]
        distances.append(np.mean([np.linalg.norm(a - b) for a, b in itertools.combinations(colours, 2)]))
    result = acd.acd_color(clips)
    assert result.acd.value == pytest.approx(np.mean(distances), rel=1e-12)
    assert result.acd.std_error == pytest.approx(np.std(distances, ddof=1) / np.sqrt(len(clips)))
    assert result.coverage.value == 1.0


@pytest.mark.parametrize("index", range(5))
def test_acd_color_of_rendered_shapes_is_exactly_zero(index):
    clips = np.stack([shapes.render_clip(5 * index + i, seed=3).frames for i in range(5)])
    result = acd.acd_color(clips)
    assert result.acd.value == 0.0 and result.coverage.value == 1.0
    assert result.diversity > 30
    assert acd.has_shapes_on_black(clips)


def test_acd_color_of_the_authors_shapes_is_exactly_zero(real_clips):
    sources = find_clips(real_clips / "shapes").clips[::75]
    clips = np.stack([[np.asarray(frame) for _, frame in open_footage(source).frames] for source in sources])
    result = acd.acd_color(clips)
    assert len(clips) == 40
    assert result.acd.value == 0.0 and result.coverage.value == 1.0


def test_black_clips_have_no_distance_and_no_coverage():
    result = acd.acd_color(np.zeros((4, 3, 8, 8, 3), np.uint8))
    assert result.acd is None
    assert result.coverage.value == 0.0 and result.diversity == 0.0


def test_a_frame_without_a_shape_costs_coverage_and_is_no_black_shape():
    clips = shapes_on_black(4)
    clips[0] = [200, 0, 0]
    clips[0, 2] = 0
    result = acd.acd_color(clips)
    assert result.coverage.value == 0.75
    assert acd.acd_color(clips[:1]).acd.value == 0.0


def test_one_colour_for_all_clips_has_no_diversity():
    clips = np.zeros((4, 3, 8, 8, 3), np.uint8)
    clips[..., 2:5, 2:5, :] = [10, 200, 30]
    assert acd.acd_color(clips).diversity == 0.0
    clips[2:, ..., 2:5, 2:5, :] = [10, 100, 30]
    assert acd.acd_color(clips).diversity == pytest.approx(100 * 4 / 6)  # Four of the six pairs are 100 apart.


def test_grey_clips_have_one_number_per_colour():
    clips = np.zeros((2, 2, 4, 4, 1), np.uint8)
    clips[:, 0, 1, 1], clips[:, 1, 1, 1] = 100, 130
    assert acd.acd_color(clips).acd.value == 30.0


def test_pictures_that_fill_the_frame_are_no_shapes_on_black():
    assert not acd.has_shapes_on_black(np.full((2, 3, 8, 8, 3), 90, np.uint8))
    assert not acd.has_shapes_on_black(np.zeros((2, 3, 8, 8, 3), np.uint8))


def test_acd_of_embeddings_is_the_loop_over_pairs():
    embeddings = rng.normal(size=(3, 4, 8))
    loop = [np.mean([np.linalg.norm(a - b) for a, b in itertools.combinations(clip, 2)]) for clip in embeddings]
    assert acd.acd_of_embeddings(embeddings).value == pytest.approx(np.mean(loop), rel=1e-12)
