"""Promises of the scores of texture: their mathematics against other programs, and that they see what an eye sees."""

import numpy as np
import pytest
import scipy.ndimage
import scipy.stats

from mocogan_tf.data.rendered import taichi
from mocogan_tf.metrics import texture

rng = np.random.default_rng(0)
noise = rng.integers(0, 256, (3, 64, 64, 3)).astype(np.uint8)


def test_the_pyramid_is_what_a_convolution_gives():
    tap = np.array([1, 4, 6, 4, 1]) / 16
    kernel = np.outer(tap, tap)[None, :, :, None]
    level = noise.astype(float)
    expected = []
    for size in (64, 32):
        below = scipy.ndimage.convolve(level, kernel, mode="mirror")[:, ::2, ::2]
        between = np.zeros_like(level)
        between[:, ::2, ::2] = below
        expected.append(level - 4 * scipy.ndimage.convolve(between, kernel, mode="mirror"))
        assert level.shape[1] == size
        level = below
    for found, wanted in zip(texture.laplacian_pyramid(noise), [*expected, level], strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-3)


def test_patches_are_cut_out_of_the_frames_and_normalised():
    level = np.asarray(noise[:, :32, :32], np.float32)
    patches = texture.cut_patches(level, seed=1, per_frame=5).reshape(3, 5, 3, 7, 7).transpose(0, 1, 3, 4, 2)
    np.testing.assert_allclose(patches.mean(axis=(0, 1, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(patches.std(axis=(0, 1, 2, 3)), 1, atol=1e-5)
    # Undone by the pixels of the first patch, each of the others is found in its frame.
    windows = np.lib.stride_tricks.sliding_window_view(level, (7, 7), axis=(1, 2)).transpose(0, 1, 2, 4, 5, 3)
    places = [
        {tuple(place) for place in np.argwhere(_matches(windows[frame], patch))}
        for frame in range(3)
        for patch in patches[frame]
    ]
    assert all(len(found) == 1 for found in places) and len(set.union(*places)) > 10


def _matches(windows, patch):
    """Where a window is a patch up to scale and shift of each channel."""
    axes = (-3, -2)
    centred = windows - windows.mean(axis=axes, keepdims=True)
    wanted = patch - patch.mean(axis=(0, 1))
    overlap = (centred * wanted).sum(axis=axes)
    return (overlap / np.sqrt(np.square(centred).sum(axis=axes) * np.square(wanted).sum(axis=(0, 1))) > 0.9999).all(-1)


def test_the_distance_along_directions_is_wassersteins():
    a, b = rng.normal(size=(200, 12)).astype(np.float32), rng.exponential(size=(200, 12)).astype(np.float32)
    along = np.random.default_rng(7).standard_normal((5, 12)).astype(np.float32)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    expected = np.mean([scipy.stats.wasserstein_distance(a @ line, b @ line) for line in along])
    assert texture.sliced_distance(a, b, seed=7, directions=5) == pytest.approx(expected, rel=1e-5)


def test_the_power_spectrum_is_the_sum_over_pixels():
    frames = noise[:2, :8, :8]
    window = np.array([0.5 - 0.5 * np.cos(2 * np.pi * (i + 1) / 9) for i in range(8)])
    expected = np.zeros((8, 8))
    for frame in frames.mean(axis=-1):
        seen = (frame - frame.mean()) * np.outer(window, window)
        for u in range(8):
            for v in range(8):
                wave = np.exp(-2j * np.pi * np.add.outer(u * np.arange(8), v * np.arange(8)) / 8)
                expected[u, v] += abs((seen * wave).sum()) ** 2 / 64 / 2
    np.testing.assert_allclose(texture.power_spectrum(frames), expected, rtol=1e-9, atol=1e-9)


def test_frames_of_twice_the_contrast_have_four_times_the_power():
    faint = 96 + noise // 4
    high, checker = texture.spectral_excess(faint, (2 * (faint - 96)).astype(np.uint8))
    assert high == pytest.approx(2, abs=1e-3) and checker == pytest.approx(2, abs=1e-3)


def test_frames_are_spread_over_clips_and_bounded():
    clips = np.arange(5 * 16).reshape(5, 16, 1, 1, 1).astype(np.uint8) * np.ones((1, 1, 2, 2, 1), np.uint8)
    np.testing.assert_array_equal(texture.some_frames(clips, 20)[0, :, 0, 0, 0], [2, 6, 10, 14])
    np.testing.assert_array_equal(texture.some_frames(clips), clips)
    assert texture.some_frames(clips, 3).shape[:2] == (3, 1)


@pytest.mark.parametrize("size", [32, 64, 128])
def test_scores_are_named_by_the_levels_that_there_are(size):
    clips = rng.integers(0, 256, (2, 2, size, size, 1)).astype(np.uint8)
    found = texture.scores(clips, clips[::-1])
    assert tuple(found) == texture.names(size)
    assert [name for name in found if name.startswith("swd")] == [
        f"swd_{level}" for level in (128, 64, 32, 16) if level <= size
    ]


def test_frames_of_other_sizes_are_refused():
    with pytest.raises(ValueError, match="16 pixels times a power of two. Received: 48x48"):
        texture.scores(np.zeros((2, 2, 48, 48, 3), np.uint8), np.zeros((2, 2, 48, 48, 3), np.uint8))
    with pytest.raises(ValueError, match="must have one shape"):
        texture.sliced_wasserstein(noise, noise[:2])


@pytest.fixture(scope="module")
def real():
    """Rendered clips of 64x64 pixels: those to compare with, and as many others."""
    clips = [taichi.render_clip(i, seed=0, num_frames=2, image_size=64).frames for i in range(160)]
    return np.stack(clips[:80]), np.stack(clips[80:])


def with_checkers(clips, amplitude):
    sign = np.where(np.indices(clips.shape[2:4]).sum(axis=0) % 2, 1, -1)[..., None]
    return np.clip(clips + amplitude * sign, 0, 255).astype(np.uint8)


def with_stripes(clips, amplitude):
    sign = np.where(np.arange(clips.shape[3]) % 2, 1, -1)[:, None]
    return np.clip(clips + amplitude * sign, 0, 255).astype(np.uint8)


def blurred_by_a_pixel(clips):
    clips = (clips + np.roll(clips.astype(float), 1, axis=2)) / 2
    return np.round((clips + np.roll(clips, 1, axis=3)) / 2).astype(np.uint8)


def test_real_frames_stay_at_the_floor(real):
    found = texture.scores(*real)
    assert found["swd_64"] < 30 and found["swd_32"] < 35 and found["swd_16"] < 60
    assert abs(found["spectrum_high"]) < 0.25 and abs(found["spectrum_checker"]) < 0.25


@pytest.mark.parametrize("damage", [with_checkers, with_stripes])
def test_a_raster_of_amplitude_5_is_seen(damage, real):
    floor, found = texture.scores(*real), texture.scores(real[0], damage(real[1], 5))
    assert found["swd_64"] > 3 * floor["swd_64"]
    assert found["spectrum_checker"] > 1 and found["spectrum_checker"] - found["spectrum_high"] > 1


def test_a_blur_of_one_pixel_is_seen(real):
    floor, found = texture.scores(*real), texture.scores(real[0], blurred_by_a_pixel(real[1]))
    assert found["swd_64"] > 1.5 * floor["swd_64"]
    assert found["spectrum_high"] < -1 and found["spectrum_checker"] < -1


def test_a_raster_of_twice_the_amplitude_is_worse(real):
    weak, strong = (texture.scores(real[0], with_checkers(real[1], amplitude)) for amplitude in (2, 4))
    assert weak["swd_64"] < strong["swd_64"] and weak["spectrum_checker"] < strong["spectrum_checker"]
