"""Promises of the training step."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from mocogan_tf.gans import base
from mocogan_tf.gans.build import build_gan
from mocogan_tf.models.discriminators import VideoDiscriminator
from tests.support import reference
from tests.support.tiny import plain_descent, tiny_batch, tiny_config

pytestmark = pytest.mark.core


def step(gan, batch, times=1):
    """Runs training steps, without the minutes that tracing takes, and returns the last one's logs as floats."""
    tensors = {name: tf.constant(value) for name, value in batch.items()}
    for _ in range(times):
        logs = gan.train_step(tensors)
    return {name: float(value) for name, value in logs.items()}


def weights(network):
    return np.concatenate([variable.numpy().ravel() for variable in network.trainable_variables])


@pytest.mark.parametrize("moving", ["generator", "image_discriminator", "video_discriminator"])
def test_each_optimizer_moves_only_its_network(moving):
    config = tiny_config(weight_decay=0.0)
    gan = build_gan(config)
    networks = ["generator", "image_discriminator", "video_discriminator"]
    rates = {name: keras.optimizers.SGD(0.1 if name == moving else 0.0) for name in networks}
    gan.compile(
        g_optimizer=rates["generator"],
        d_image_optimizer=rates["image_discriminator"],
        d_video_optimizer=rates["video_discriminator"],
    )
    before = {name: weights(getattr(gan, name)) for name in networks}
    step(gan, tiny_batch(config))
    moved = [name for name in networks if not np.array_equal(weights(getattr(gan, name)), before[name])]
    assert moved == [moving]


def test_logs_have_the_documented_names():
    config = tiny_config()
    logs = step(build_gan(config), tiny_batch(config))
    assert sorted(logs) == sorted(
        [
            base.LOSS_D_IMAGE,
            base.LOSS_D_VIDEO,
            base.LOSS_G,
            base.LOSS_CATEGORY_D,
            base.LOSS_CATEGORY_G,
            base.ACCURACY_D_IMAGE,
            base.ACCURACY_D_VIDEO,
        ]
    )


def moved_by_sgd(policy):
    """A model after one step of plain gradient descent in this precision: with its logs, and each network's change."""
    config = tiny_config(precision=policy, noise_sigma=0.1, weight_decay=0.0)
    gan = build_gan(config, policy=policy)
    assert isinstance(gan.g_optimizer, keras.optimizers.LossScaleOptimizer) == (policy == "mixed_float16")
    scaled = policy == "mixed_float16"
    gan.compile(**{f"{name}_optimizer": plain_descent(scaled) for name in ("g", "d_image", "d_video")})
    for network in gan.networks.values():
        reference.random_weights(network)
    before = {name: weights(network) for name, network in gan.networks.items()}
    logs = step(gan, tiny_batch(config))
    return gan, logs, {name: weights(network) - before[name] for name, network in gan.networks.items()}


@pytest.fixture(scope="module")
def in_float32():
    return moved_by_sgd("float32")


@pytest.mark.parametrize(("policy", "near"), [("mixed_float16", 0.2), ("mixed_bfloat16", 0.4)])
def test_a_step_in_half_precision_is_about_that_in_float32_and_gives_float32_outputs(policy, near, in_float32):
    gan, logs, moved = moved_by_sgd(policy)
    _, expected_logs, expected = in_float32
    losses = [name for name in expected_logs if name.startswith("loss")]
    assert [logs[name] for name in losses] == pytest.approx(
        [expected_logs[name] for name in losses], abs=near / 10, rel=near / 5
    )
    for name, change in expected.items():
        assert np.linalg.norm(moved[name] - change) < near * np.linalg.norm(change), name
    latents = base.draw_latents(gan.generator.latents, 1, 4, tf.constant([0, 0]))
    outputs = gan.generator(latents)
    assert outputs["video"].dtype == outputs["motion_state"].dtype == "float32"
    assert gan.generator.decoder.get_layer("conv_1").compute_dtype == policy.removeprefix("mixed_")


@pytest.mark.parametrize("image_discriminator", ["full", "none"])
def test_other_image_discriminators_train(image_discriminator):
    config = tiny_config(image_discriminator=image_discriminator)
    logs = step(build_gan(config), tiny_batch(config))
    assert (base.LOSS_D_IMAGE in logs) == (image_discriminator != "none")
    assert all(math.isfinite(value) for value in logs.values())


def class_head_gradient(category_loss):
    """Change of the class head's weights in one step."""
    config = tiny_config(category_loss=category_loss, dim_category=2, weight_decay=0.0)
    gan = build_gan(config)
    before = gan.video_discriminator.last.kernel.numpy()[..., 1:]
    logs = step(gan, tiny_batch(config))
    return np.abs(gan.video_discriminator.last.kernel.numpy()[..., 1:] - before).max(), logs


def test_the_class_head_learns_in_both_forms_and_is_left_alone_in_none():
    for form in ("supervised", "infogan"):
        moved, logs = class_head_gradient(form)
        assert moved > 0 and base.LOSS_CATEGORY_G in logs
    moved, logs = class_head_gradient("none")
    assert moved == 0 and base.LOSS_CATEGORY_G not in logs


def test_supervised_reads_the_labels_and_infogan_does_not():
    def loss(form, labels):
        keras.utils.set_random_seed(0)
        config = tiny_config(category_loss=form)
        gan = build_gan(config)
        return step(gan, {**tiny_batch(config), "labels": np.full(4, labels, np.int32)})[base.LOSS_CATEGORY_D]

    assert loss("supervised", 0) != loss("supervised", 1)
    assert loss("infogan", 0) == loss("infogan", 1)


def test_r1_punishes_the_gradient_at_real_clips_in_its_steps_only():
    def weights_after(times, **changes):
        keras.utils.set_random_seed(0)
        config = tiny_config(discriminator_norm="none", weight_decay=0.0, **changes)
        gan = build_gan(config)
        gan.compile(
            g_optimizer=keras.optimizers.SGD(0.0),
            d_image_optimizer=keras.optimizers.SGD(0.01),
            d_video_optimizer=keras.optimizers.SGD(0.01),
        )
        if times == 1:
            gan.step.assign(1)  # An odd step: no penalty is due.
        step(gan, tiny_batch(config))
        return weights(gan.video_discriminator)

    np.testing.assert_array_equal(weights_after(1), weights_after(1, r1_video=100.0, r1_every=2))
    assert not np.array_equal(weights_after(0), weights_after(0, r1_video=100.0, r1_every=2))


def test_coupled_decay_adds_the_weights_to_the_gradient():
    def moved(decay):
        keras.utils.set_random_seed(0)
        config = tiny_config(weight_decay=decay)
        gan = build_gan(config)
        gan.compile(
            g_optimizer=keras.optimizers.SGD(1.0),
            d_image_optimizer=keras.optimizers.SGD(0.0),
            d_video_optimizer=keras.optimizers.SGD(0.0),
        )
        before = weights(gan.generator)
        step(gan, tiny_batch(config))
        return before, weights(gan.generator)

    before, with_decay = moved(0.5)
    _, without = moved(0.0)
    np.testing.assert_allclose(with_decay, without - 0.5 * before, atol=2e-6)


def test_the_average_follows_the_generator_and_its_statistics():
    config = tiny_config(ema_decay=0.9)
    gan = build_gan(config)
    for average, value in zip(gan.average.weights, gan.generator.weights, strict=True):
        np.testing.assert_array_equal(average, value)
    start = [variable.numpy() for variable in gan.generator.weights]
    step(gan, tiny_batch(config))
    # After the first step: keep (1 + 1) / (10 + 1) of the old value.
    for old, average, value in zip(start, gan.average.weights, gan.generator.weights, strict=True):
        np.testing.assert_allclose(average, 2 / 11 * old + 9 / 11 * value.numpy(), atol=1e-6)


def test_a_step_is_a_function_of_seed_and_step():
    def run(**changes):
        keras.utils.set_random_seed(0)
        config = tiny_config(noise_sigma=0.1, **changes)
        return step(build_gan(config), tiny_batch(config), times=2)

    assert run(seed=1) == run(seed=1)
    assert run(seed=1) != run(seed=2)


def test_fake_images_are_single_frames_of_clips_any_of_them():
    config = tiny_config(image_batch=64)
    gan = build_gan(config)
    decoded = []
    gan.generator.frames, frames = (
        (lambda codes, training: decoded.append(codes.numpy()) or codes),
        gan.generator.frames,
    )
    gan._fake_images(gan._draw_images(64, 0))
    gan.generator.frames = frames
    codes = gan.generator.codes(gan._latents(64, config.video_length, 0)).numpy()
    is_frame = np.all(np.abs(codes - decoded[0]) < 1e-6, axis=-1)  # [clip, frame]
    assert np.all(is_frame.sum(axis=1) == 1)
    assert np.all(is_frame.sum(axis=0) > 4)


FINE = {
    "decoder": "fine",
    "image_discriminator": "fine",
    "discriminator_norm": "none",
    "he_start": True,
    "video_size": "half",
}


@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize(
    "changes",
    [
        {"share_fakes": True, "still_background": True, "early_frames": True, "content_modulation": True},
        {"image_frames": 2},
    ],
)
def test_the_fine_networks_train(policy, changes):
    config = tiny_config(precision=policy, r1_image=1.0, r1_video=1.0, final_rate=0.1, **FINE, **changes)
    gan = build_gan(config, policy=policy)
    before = {name: weights(network) for name, network in gan.networks.items()}
    logs = step(gan, tiny_batch(config), times=3)
    assert all(math.isfinite(value) for value in logs.values())
    assert all(not np.array_equal(weights(network), before[name]) for name, network in gan.networks.items())


def test_half_clips_are_judged_at_half_the_height_and_width(monkeypatch):
    seen = []
    call = VideoDiscriminator.call

    def spy(self, videos, **kwargs):
        seen.append(videos)
        return call(self, videos, **kwargs)

    monkeypatch.setattr(VideoDiscriminator, "call", spy)
    config = tiny_config(**FINE, still_background=True, share_fakes=True)
    gan, batch = build_gan(config), tiny_batch(config)
    seen.clear()
    expected = gan.generator.half_frames(gan.generator.codes(gan._latents(4, 4, 1)), training=True)
    step(gan, batch)
    fakes, real = (np.asarray(videos) for videos in seen)
    assert fakes.shape == real.shape == (4, 4, 16, 16, 3)
    np.testing.assert_allclose(real, batch["videos"].reshape(4, 4, 16, 2, 16, 2, 3).mean(axis=(3, 5)), atol=1e-6)
    np.testing.assert_allclose(fakes, expected, atol=1e-5)


def test_the_mask_costs_the_generator_its_mean_if_nothing_is_allowed():
    losses = {}
    for weight in (0.0, 2.0):
        config = tiny_config(**FINE, still_background=True, share_fakes=True, category_loss="none", mask_weight=weight)
        gan = build_gan(config)
        *_, mask = gan._fake_videos(gan._draw_videos(4, 4, 1))
        assert float(mask) == pytest.approx(0.12, abs=0.02)  # The background is learnt first.
        nothing = tf.zeros((4, 1))
        losses[weight] = float(gan._loss_g(nothing, nothing, None, None, mask)[0])
    assert losses[2.0] - losses[0.0] == pytest.approx(2 * float(mask), abs=1e-5)


def test_the_mask_s_cost_falls_to_nothing_over_its_steps():
    gan = build_gan(tiny_config(**FINE, still_background=True, mask_weight=2.0, mask_steps=100))
    found = []
    for at in (0, 25, 100, 200):
        gan.step.assign(at)
        found.append(float(gan._mask_weight()))
    assert found == pytest.approx([2.0, 1.5, 0.0, 0.0])


def test_a_mask_costs_what_a_clip_covers_beyond_the_allowance():
    gan = build_gan(tiny_config(**FINE, still_background=True, mask_allowance=0.3))
    masks = np.zeros((4, 2, 10, 10), np.float32)
    masks[1, :, :3] = 1.0  # Just what is allowed.
    masks[2, 0] = 1.0  # Half of the clip: one frame is full, the other empty.
    masks[3] = 0.9
    assert float(gan._mask_cost(tf.constant(masks))) == pytest.approx((0.2 + 0.6) / 4, abs=1e-6)


def test_early_frames_are_drawn_more_often():
    gan = build_gan(tiny_config(early_frames=True, video_length=16))
    frames = gan._draw_frames((40_000,), tf.constant([1, 2])).numpy()
    edges = np.sqrt(np.arange(17) / 16)
    found = np.bincount(frames, minlength=16) / len(frames)
    np.testing.assert_allclose(found, np.diff(edges), atol=0.01)
    assert edges[1] == 0.25  # First frames.


def test_step_sizes_fall_on_half_a_cosine():
    gan = build_gan(tiny_config(steps=200, final_rate=0.1, learning_rate=1e-3, learning_rate_d=5e-4, warmup_steps=2))
    for optimizer, rate in ((gan.g_optimizer, 1e-3), (gan.d_video_optimizer, 5e-4)):
        schedule = optimizer._learning_rate
        found = [float(schedule(step)) / rate for step in (0, 50, 100, 200, 300)]
        halfway_down = 0.1 + 0.9 * (1 + np.sqrt(0.5)) / 2
        np.testing.assert_allclose(found, [0.5, halfway_down, 0.55, 0.1, 0.1], rtol=1e-5)


def test_training_latents_have_the_contracts_shapes_and_distributions():
    gan = build_gan(tiny_config())
    latents = base.draw_latents(gan.generator.latents, 500, 20, tf.constant([3, 4]))
    shapes = gan.generator.latents.shapes(500, 20)
    assert {name: tuple(value.shape) for name, value in latents.items()} == shapes
    for name in ("content", "motion_init", "motion_noise"):
        values = latents[name].numpy()
        assert abs(values.mean()) < 5 / math.sqrt(values.size) and abs(values.std() - 1) < 0.05
    assert np.all(np.abs(latents["category"].numpy().mean(axis=0) - 0.5) < 0.1)
