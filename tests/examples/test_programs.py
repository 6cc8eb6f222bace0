"""Every language's example makes the server's clip of a seed, and explains bad input in one line."""

import re

import numpy as np
import pytest

from mocogan_tf.latents import LatentSpec, sample_latents
from tests.support import example_models


def test_seed_7_is_the_same_clip_within_1e_4(program, taichi):
    expected = example_models.reference(taichi, 7, 16)
    found = program.array(taichi, 7, 16, ".f32").reshape(expected.shape)
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)


def test_a_clip_made_in_pieces_equals_one_made_at_once(program, taichi):
    # 40 frames: two whole pieces and a half. The reference draws and runs all of them in one call.
    expected = example_models.pixels(example_models.reference(taichi, 7, 40)).astype(int)
    long = program.array(taichi, 7, 40, ".rgb").reshape(expected.shape).astype(int)
    assert np.abs(long - expected).max() <= 1
    assert (long != expected).mean() < 1e-3
    short = program.array(taichi, 7, 16, ".rgb").reshape(16, *expected.shape[1:])
    np.testing.assert_array_equal(short, long[:16])


def test_a_grey_model_without_categories_gives_three_equal_channels(program, grey):
    expected = example_models.pixels(example_models.reference(grey, 3, 17))
    found = program.array(grey, 3, 17, ".rgb").reshape(expected.shape)
    assert np.abs(found.astype(int) - expected).max() <= 1
    assert (found != expected).mean() < 1e-2
    assert len(np.unique(found)) > 50
    assert (found == found[..., :1]).all()
    np.testing.assert_allclose(
        program.array(grey, 3, 17, ".f32"), example_models.reference(grey, 3, 17).ravel(), atol=1e-4
    )


@pytest.mark.parametrize("seed", [0, 2**32, 2**53 + 1, 2**64 - 1])
def test_latents_follow_the_rule_for_every_seed(program, mirror, seed):
    latents = sample_latents(LatentSpec(dim_content=6, dim_motion=5, dim_category=3), 1, 11, seed=seed)
    rows = program.array(mirror, seed, 11, ".f32").reshape(11, -1)
    content, category, state, noise = np.split(rows, [6, 9, 14], axis=1)
    # Logarithms and cosines may differ in the last bit from one library to the other: one unit of float32 is allowed.
    close = {"rtol": 2e-7, "atol": 1e-7}
    np.testing.assert_allclose(content, np.repeat(latents["content"], 11, axis=0), **close)
    np.testing.assert_array_equal(category, np.repeat(latents["category"], 11, axis=0))
    np.testing.assert_allclose(noise, latents["motion_noise"][0], **close)
    # The model hands on its last noise, so this shows that each piece began where the one before it ended.
    first = np.repeat(latents["motion_init"], 4, axis=0)
    np.testing.assert_allclose(state, np.concatenate([first, noise[[3] * 4], noise[[7] * 3]]), **close)


@pytest.mark.parametrize("program", ["python"], indirect=True)  # The other languages write no pictures.
def test_the_animation_shows_the_same_frames_at_the_models_pace(program, taichi):
    from PIL import Image, ImageSequence

    result = program(taichi, 7, 20, "clip.png")
    assert result.returncode == 0, result.stderr
    frames = program.array(taichi, 7, 20, ".rgb").reshape(20, 64, 64, 3)
    with Image.open(program.folder / "clip.png") as animation:
        assert animation.n_frames == 20
        assert animation.info["duration"] == 125  # 8 frames per second.
        assert animation.info["loop"] == 0
        for frame, shown in zip(frames, ImageSequence.Iterator(animation), strict=True):
            np.testing.assert_array_equal(frame, shown.convert("RGB"))


def without(key):
    return lambda metadata: metadata.pop(key)


def changed(**values):
    return lambda metadata: metadata.update(values)


BROKEN = {
    "without metadata": (dict.clear, "no contract in its metadata_props"),
    "of an older version": (changed(format_version="0"), "has contract version 0, this program reads 1"),
    "of a newer version": (changed(format_version="2"), "has contract version 2, this program reads 1"),
    "without a size": (without("dim_motion"), "has no `dim_motion` in its metadata_props"),
    "with a length of nothing": (changed(video_length="0"), "has no usable `video_length`: 0"),
    "with words for a size": (changed(dim_motion="many"), "has no usable `dim_motion`: many"),
    "without a rule for pixels": (without("postprocess"), "has no `postprocess` in its metadata_props"),
    "with another rule for pixels": (changed(postprocess="x * 255"), "does not know how to make pixels by `x * 255`"),
}


def refused(program, *arguments):
    """The one line that a refusal prints."""
    result = program(*arguments)
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result.stderr
    return result.stderr


@pytest.mark.parametrize("broken", BROKEN)
def test_a_file_with_a_bad_contract_is_named_and_explained(program, grey, tmp_path, broken):
    change, message = BROKEN[broken]
    path = example_models.with_metadata(grey, tmp_path / "broken.onnx", change)
    line = refused(program, path, 7, 16, tmp_path / "out.rgb")
    assert message in line
    assert not (tmp_path / "out.rgb").exists()


def test_a_wrong_file_is_named_and_explained(program, taichi, tmp_path):
    text = tmp_path / "text.onnx"
    text.write_text("This is no model.\n")
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(taichi.read_bytes()[:100_000])
    out = tmp_path / "out.rgb"
    assert f"No such file: {tmp_path / 'none.onnx'}" in refused(program, tmp_path / "none.onnx", 7, 16, out)
    for path in (text, cut, tmp_path):
        assert str(path) in refused(program, path, 7, 16, out)
    for half, gives in (("motion.onnx", "motion, motion_state"), ("frames.onnx", "video")):
        line = refused(program, example_models.TAICHI / half, 7, 16, out)
        assert f"gives {gives}; needed are video and motion_state. Take model.onnx" in line
    assert not out.exists()


@pytest.mark.parametrize("seed", ["-1", "1.5", "", str(2**64)])
def test_a_bad_seed_is_refused(program, taichi, seed):
    line = refused(program, taichi, seed, 16, "out.rgb")
    assert f"SEED must be a whole number from 0 to {2**64 - 1}. Received: {seed}".rstrip() in line


@pytest.mark.parametrize("frames", ["0", "many", str(2**31)])
def test_a_bad_number_of_frames_is_refused(program, taichi, frames):
    line = refused(program, taichi, 7, frames, "out.rgb")
    assert f"FRAMES must be a whole number from 1 to {2**31 - 1}. Received: {frames}" in line


def test_other_arguments_are_refused(program, taichi, tmp_path):
    assert "usage: " in refused(program, taichi, 7, 16)
    assert "usage: " in refused(program)
    assert re.search(r"OUT must end in \.rgb(,| or) \.f32.*Received: ", refused(program, taichi, 7, 16, "clip.mp4"))
    assert str(tmp_path / "none" / "clip.rgb") in refused(program, taichi, 7, 16, tmp_path / "none" / "clip.rgb")
