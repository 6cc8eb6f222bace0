"""Promises of how VGAN and TGAN are trained."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from mocogan_tf.gans import base, tgan, vgan
from mocogan_tf.gans.build import build_gan
from mocogan_tf.training import checkpoints
from tests.support import reference
from tests.support.tiny import baseline_config, plain_descent, tiny_batch

pytestmark = pytest.mark.core
MODELS = ("vgan", "tgan")
NETWORKS = ("generator", "video_discriminator")


def make(model, **changes):
    """A model whose weights keep activations of order one, and a batch."""
    keras.utils.set_random_seed(0)
    config = baseline_config(model, **changes)
    gan = build_gan(config)
    for name in NETWORKS:
        reference.random_weights(getattr(gan, name))
    return gan, tiny_batch(config)


def step(gan, batch, times=1):
    """Runs training steps and returns the last one's logs as floats."""
    videos = tf.cast(batch["videos"], keras.config.floatx())
    for _ in range(times):
        logs = gan.train_step({"videos": videos})
    return {name: float(value) for name, value in logs.items()}


def weights(network):
    return np.concatenate([variable.numpy().ravel() for variable in network.trainable_variables])


def with_sgd(gan, **rates):
    """Recompiles with plain gradient descent: the change of the weights is then minus rate times gradient."""
    optimizers = {name: keras.optimizers.SGD(rates.get(name, 0.0)) for name in NETWORKS}
    gan.compile(g_optimizer=optimizers["generator"], d_video_optimizer=optimizers["video_discriminator"])
    return gan


def singular_values(kernel):
    kernel = np.asarray(kernel, np.float64)
    return np.linalg.svd(kernel.reshape(-1, kernel.shape[-1]), compute_uv=False)


@pytest.mark.parametrize("moving", NETWORKS)
@pytest.mark.parametrize("model", MODELS)
def test_each_optimizer_moves_only_its_network(model, moving):
    gan, batch = make(model)
    with_sgd(gan, **{moving: 0.1})
    before = {name: weights(getattr(gan, name)) for name in NETWORKS}
    step(gan, batch)
    assert [name for name in NETWORKS if not np.array_equal(weights(getattr(gan, name)), before[name])] == [moving]


@pytest.mark.parametrize("model", MODELS)
def test_each_network_gets_the_published_optimizer(model):
    gan, _ = make(model, learning_rate=1e-3, learning_rate_d=3e-3)
    for name, optimizer in (("generator", gan.g_optimizer), ("video_discriminator", gan.d_video_optimizer)):
        assert float(optimizer.learning_rate) == pytest.approx({"generator": 1e-3, "video_discriminator": 3e-3}[name])
        assert type(optimizer) is {"vgan": keras.optimizers.Adam, "tgan": keras.optimizers.RMSprop}[model]
        if model == "vgan":
            assert (optimizer.beta_1, optimizer.beta_2) == (0.5, 0.999)
        else:
            assert optimizer.rho == 0.99 and optimizer.momentum == 0
    assert gan.weight_decay == 0.0 and gan.d_image_optimizer is None


def parts(gan, batch):
    """Logits of real and fake clips in float64, as the first step computes them, and the fakes."""
    latents = gan._latents(*batch["videos"].shape[:2], 0)
    fakes = gan.generator(latents, training=True)
    real = gan.video_discriminator(tf.constant(batch["videos"], "float64"), training=True)
    return np.asarray(real), np.asarray(gan.video_discriminator(fakes["video"], training=True)), fakes


@pytest.mark.usefixtures("float64")
def test_vgans_losses_are_softmax_cross_entropies_halved_for_the_discriminator_and_the_masks_mean():
    gan, batch = make("vgan", ema_decay=0.0)
    real, fake, fakes = parts(gan, batch)
    mask = np.mean(np.abs(fakes["mask"]))
    logs = step(with_sgd(gan), batch)  # Nothing moves, so the generator meets the same discriminator.
    cross_entropy = reference.category_loss
    on_real, on_fake = (cross_entropy(x[:, None], [label] * 4) for x, label in ((real, 1), (fake, 0)))
    assert logs[base.LOSS_D_VIDEO] == pytest.approx((on_real + on_fake) / 2, rel=1e-12)
    assert logs[base.LOSS_G] == pytest.approx(cross_entropy(fake[:, None], [1] * 4), rel=1e-12)
    assert logs[vgan.LOSS_MASK] == pytest.approx(mask, rel=1e-12)
    right = (np.mean(real[:, 1] > real[:, 0]) + np.mean(fake[:, 1] < fake[:, 0])) / 2
    assert logs[base.ACCURACY_D_VIDEO] == pytest.approx(right)


@pytest.mark.usefixtures("float64")
def test_tgans_losses_are_differences_of_mean_scores():
    gan, batch = make("tgan", ema_decay=0.0)
    real, fake, _ = parts(gan, batch)
    logs = step(with_sgd(gan), batch)
    assert logs[base.LOSS_D_VIDEO] == pytest.approx(np.mean(fake) - np.mean(real), rel=1e-10)
    assert logs[base.LOSS_G] == pytest.approx(-np.mean(fake), rel=1e-12)
    assert logs[base.ACCURACY_D_VIDEO] == pytest.approx(np.mean(real > fake))


def gradient(gan, batch, model, network):
    """The gradient of a network's loss at the present weights, written out from the published definition."""
    latents = gan._latents(*batch["videos"].shape[:2], 0)
    variables = getattr(gan, network).trainable_variables
    with tf.GradientTape() as tape:
        fakes = gan.generator(latents, training=True)
        real = gan.video_discriminator(tf.constant(batch["videos"], "float64"), training=True)
        fake = gan.video_discriminator(fakes["video"], training=True)
        if model == "tgan":
            loss = -tf.reduce_mean(fake) if network == "generator" else tf.reduce_mean(fake) - tf.reduce_mean(real)
        elif network == "generator":
            loss = -tf.reduce_mean(tf.nn.log_softmax(fake)[:, 1]) + 0.1 * tf.reduce_mean(fakes["mask"])
        else:
            loss = -tf.reduce_mean(tf.nn.log_softmax(real)[:, 1]) - tf.reduce_mean(tf.nn.log_softmax(fake)[:, 0])
            loss *= 0.5
    gradients = tape.gradient(loss, variables)
    return np.concatenate([value.numpy().ravel() for value in gradients])


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("model", MODELS)
def test_each_network_descends_its_published_loss(model, network):
    gan, batch = make(model, ema_decay=0.0)
    expected = gradient(gan, batch, model, network)
    before = weights(getattr(gan, network))
    step(with_sgd(gan, **{network: 1.0}), batch)
    np.testing.assert_allclose(before - weights(getattr(gan, network)), expected, atol=1e-12)


@pytest.mark.usefixtures("float64")
def test_vgans_generator_meets_the_discriminator_after_its_step_and_tgans_before():
    for model, meets_new in (("vgan", True), ("tgan", False)):
        gan, batch = make(model, ema_decay=0.0)
        old = gradient(gan, batch, model, "generator")
        before = weights(gan.generator)
        step(with_sgd(gan, generator=1.0, video_discriminator=0.1), batch)
        moved = before - weights(gan.generator)
        assert np.allclose(moved, old, atol=1e-12) != meets_new


def test_clipping_brings_all_singular_values_to_at_most_one_and_keeps_the_directions():
    kernel = np.random.default_rng(0).normal(0, 0.2, (4, 4, 4, 6, 12)).astype(np.float32)
    before = singular_values(kernel)
    assert before.max() > 1.5 and before.min() > 1
    kernel[..., :6] *= 0.01  # Half of the values on either side of 1.
    before = singular_values(kernel)
    clipped = tgan.clip_singular_values(kernel).numpy()
    left, values, right = np.linalg.svd(kernel.reshape(-1, 12).astype(np.float64), full_matrices=False)
    np.testing.assert_allclose(clipped.reshape(-1, 12), left * np.minimum(values, 1) @ right, atol=1e-6)
    assert before.min() < 1 < before.max() and singular_values(clipped).max() <= 1 + 1e-5


def test_clipping_leaves_alone_what_is_below():
    kernel = np.random.default_rng(0).normal(0, 0.02, (4, 4, 4, 6, 12)).astype(np.float32)
    assert singular_values(kernel).max() < 1
    np.testing.assert_array_equal(tgan.clip_singular_values(kernel), kernel)


def test_scales_of_normalisations_are_brought_into_their_bounds():
    clipped = tgan.clip_scale(np.float32([3.0, 1.0, 0.0, -1.0]), np.float32([4.0, 4.0, 4.0, 4.0]))
    np.testing.assert_allclose(clipped, [2.0, 1.0, 0.02, 0.02])


def test_the_critic_is_clipped_in_every_fifth_step_and_the_generator_never():
    gan, batch = make("tgan")
    with_sgd(gan)
    critic = gan.video_discriminator
    layers = (*critic.convolutions, critic.last)
    for layer in layers:
        layer.kernel.assign(5.0 * layer.kernel)
        layer.bias.assign(np.full(layer.bias.shape, 7.0))
    gamma = critic.norms[1].gamma
    gamma.assign(np.full(gamma.shape, 1e3))
    generator, start = weights(gan.generator), weights(critic)
    step(gan, batch, times=4)
    np.testing.assert_array_equal(weights(critic), start)
    step(gan, batch)
    assert all(singular_values(layer.kernel).max() <= 1 + 1e-5 for layer in layers)
    assert all(np.all(layer.bias.numpy() == 7.0) for layer in layers)
    np.testing.assert_allclose(gamma, np.sqrt(critic.norms[1].moving_variance), rtol=1e-6)
    np.testing.assert_array_equal(weights(gan.generator), generator)


def moved_by_sgd(model, policy):
    """A model after one step of plain gradient descent in this precision: with its logs, and each network's change."""
    keras.utils.set_random_seed(0)
    config = baseline_config(model, precision=policy)
    gan = build_gan(config, policy=policy)
    scaled = policy == "mixed_float16"
    assert isinstance(gan.g_optimizer, keras.optimizers.LossScaleOptimizer) == scaled
    gan.compile(g_optimizer=plain_descent(scaled), d_video_optimizer=plain_descent(scaled))
    for network in gan.networks.values():
        reference.random_weights(network)
    before = {name: weights(network) for name, network in gan.networks.items()}
    logs = step(gan, tiny_batch(config))
    return gan, logs, {name: weights(network) - before[name] for name, network in gan.networks.items()}


@functools.cache
def in_float32(model):
    return moved_by_sgd(model, "float32")[1:]


@pytest.mark.parametrize(("policy", "near"), [("mixed_float16", 0.2), ("mixed_bfloat16", 0.4)])
@pytest.mark.parametrize("model", MODELS)
def test_a_step_in_half_precision_is_about_that_in_float32_and_clips_are_float32(model, policy, near):
    gan, logs, moved = moved_by_sgd(model, policy)
    expected_logs, expected = in_float32(model)
    losses = [name for name in expected_logs if name.startswith("loss")]
    assert [logs[name] for name in losses] == pytest.approx(
        [expected_logs[name] for name in losses], abs=near / 10, rel=near / 5
    )
    for name, change in expected.items():
        assert np.linalg.norm(moved[name] - change) < near * np.linalg.norm(change), name
    outputs = gan.generator(base.draw_latents(gan.generator.latents, 1, None, tf.constant([0, 0])))
    assert {value.dtype.name for value in outputs.values()} == {"float32"}


@pytest.mark.parametrize("model", MODELS)
def test_a_run_that_goes_on_is_the_run_that_was_never_stopped(model, tmp_path):
    """Bit for bit, over a clipping of the critic (step 5)."""
    config = baseline_config(model)
    whole, batch = make(model)
    step(whole, batch, times=3)
    checkpoints.save(whole, tmp_path, keep=1)
    resumed = build_gan(config)
    assert checkpoints.restore_latest(resumed, tmp_path) == 3
    assert step(whole, batch, times=3) == step(resumed, batch, times=3)
    for expected, value in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(value, expected)
