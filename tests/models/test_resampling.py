"""Promises of the convolutions with a low-pass filter in their kernel."""

import keras
import numpy as np
import pytest

from mocogan_tf.models.resampling import BOX, SMOOTH, DownConv2D, UpConv2D, fused_kernel

pytestmark = pytest.mark.core


def filtered(x, low_pass):
    """A separable filter of weights that sum to 1, zeros beyond the borders, on `[N, H, W, C]`; all of it is kept."""
    weights = np.array(low_pass) / sum(low_pass)
    for axis in (1, 2):
        pad = [(len(weights) - 1, 0) if i == axis else (0, 0) for i in range(4)]
        shifts = [
            np.roll(np.pad(x, pad[:axis] + [pad[axis][::-1]] + pad[axis + 1 :]), i, axis) for i in range(len(weights))
        ]
        x = sum(weight * shifted for weight, shifted in zip(weights, shifts, strict=True))
    return x


def convolved(x, kernel):
    """`[N, H, W, I]` under a kernel `[K, K, I, O]`, where it fits."""
    size = kernel.shape[0]
    height, width = x.shape[1] - size + 1, x.shape[2] - size + 1
    cuts = [
        np.tensordot(x[:, i : i + height, j : j + width], kernel[i, j], axes=1)
        for i in range(size)
        for j in range(size)
    ]
    return sum(cuts)


def built(layer, shape, seed=0):
    layer.build((None, *shape[1:]))
    rng = np.random.default_rng(seed)
    for variable in layer.variables:
        variable.assign(rng.normal(size=variable.shape))
    return layer, rng.normal(size=shape).astype(np.float32)


def test_a_fused_kernel_is_the_kernel_filtered():
    kernel = np.random.default_rng(0).normal(size=(3, 3, 2, 5))
    found = fused_kernel(kernel, [0.25, 0.75, 0.75, 0.25]).numpy()
    assert found.shape == (6, 6, 2, 5)
    for i in range(2):
        for o in range(5):
            expected = np.zeros((6, 6))
            for a, wa in enumerate([0.25, 0.75, 0.75, 0.25]):
                for b, wb in enumerate([0.25, 0.75, 0.75, 0.25]):
                    expected[a : a + 3, b : b + 3] += wa * wb * kernel[:, :, i, o]
            np.testing.assert_allclose(found[..., i, o], expected, atol=1e-12)


@pytest.mark.parametrize("low_pass", [BOX, SMOOTH])
def test_going_down_is_convolving_then_filtering_then_taking_every_second_value(low_pass):
    layer, x = built(DownConv2D(5, low_pass, use_bias=True), (2, 8, 6, 3))
    margin = (len(low_pass) + 2 - 2) // 2
    padded = np.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    fine = filtered(convolved(padded, layer.kernel.numpy()), low_pass)
    rest = len(low_pass) - 1  # What filtering has added at each end is where it does not fit.
    expected = fine[:, rest : fine.shape[1] - rest : 2, rest : fine.shape[2] - rest : 2] + layer.bias.numpy()
    np.testing.assert_allclose(np.asarray(layer(x)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("low_pass", [BOX, SMOOTH])
def test_going_up_is_the_adjoint_of_going_down(low_pass):
    up, x = built(UpConv2D(5, low_pass), (2, 4, 6, 3))
    down, y = built(DownConv2D(3, low_pass), (2, 8, 12, 5), seed=1)
    down.kernel.assign(np.transpose(up.kernel.numpy(), (0, 1, 3, 2)))
    # 4: a mean over 2x2 values on the way down is, on the way up, each of them.
    np.testing.assert_allclose(np.sum(np.asarray(up(x)) * y), 4 * np.sum(x * np.asarray(down(y))), rtol=1e-4)


def test_a_box_on_the_way_up_is_nearest_neighbours_and_smooth_is_bilinear_away_from_the_border():
    for low_pass, interpolation in ((BOX, "nearest"), (SMOOTH, "bilinear")):
        layer, x = built(UpConv2D(2, low_pass), (1, 8, 8, 3))
        doubled = keras.layers.UpSampling2D(2, interpolation=interpolation)(x)
        plain = keras.layers.Conv2D(2, 3, padding="same", use_bias=False)
        plain.build(doubled.shape)
        # A transposed convolution turns its kernel round.
        plain.kernel.assign(layer.kernel.numpy()[::-1, ::-1])
        found, expected = np.asarray(layer(x)), np.asarray(plain(doubled))
        np.testing.assert_allclose(found[:, 3:-3, 3:-3], expected[:, 3:-3, 3:-3], rtol=1e-4, atol=1e-5)


def test_a_constant_stays_one_without_a_raster():
    for low_pass in (BOX, SMOOTH):
        up, _ = built(UpConv2D(1, low_pass), (1, 8, 8, 1))
        inside = np.asarray(up(np.ones((1, 8, 8, 1), np.float32)))[0, 3:-3, 3:-3, 0]
        np.testing.assert_allclose(inside, up.kernel.numpy().sum(), rtol=1e-4)


def test_half_precision_computes_the_kernel_in_full():
    layer, x = built(UpConv2D(4, SMOOTH, dtype="mixed_bfloat16"), (2, 4, 4, 8))
    assert layer(x).dtype == "bfloat16"
    exact, _ = built(UpConv2D(4, SMOOTH), (2, 4, 4, 8))
    np.testing.assert_array_equal(
        np.asarray(layer.whole_kernel(), np.float32),
        np.asarray(keras.ops.cast(exact.whole_kernel(), "bfloat16"), np.float32),
    )


@pytest.mark.parametrize("make", [UpConv2D, DownConv2D])
def test_configuration_round_trips(make):
    layer, x = built(make(3, SMOOTH, use_bias=True, name="layer"), (1, 4, 4, 2))
    copy = make.from_config(layer.get_config())
    copy.build((None, 4, 4, 2))
    copy.set_weights(layer.get_weights())
    np.testing.assert_array_equal(np.asarray(copy(x)), np.asarray(layer(x)))
    assert tuple(layer.compute_output_shape(x.shape)) == tuple(layer(x).shape)


def test_a_filter_that_would_shift_the_map_is_refused():
    with pytest.raises(ValueError, match="even number of weights. Received"):
        UpConv2D(3, (1.0, 2.0, 1.0))
