"""What each network descends: with SGD(1.0) a step changes its weights by minus the gradient of the paper's loss.

The losses are written out here a second time, from their definitions, and differentiated in float64. Formulas: MoCoGAN
(Tulyakov et al. 2018) F_V and section 3.3, Goodfellow et al. 2014 section 3, Mescheder et al. 2018 equation 9.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

from mocogan_tf.gans import base
from mocogan_tf.gans import mocogan as gan_module
from mocogan_tf.gans.build import build_gan
from tests.support.tiny import tiny_batch, tiny_config

pytestmark = pytest.mark.usefixtures("float64")

NETWORKS = ("generator", "image_discriminator", "video_discriminator")
R1 = {"discriminator_norm": "none", "r1_image": 30.0, "r1_video": 50.0, "r1_every": 2}
CASES = {
    "supervised": {"category_loss": "supervised"},
    "supervised, batch norm in D": {"category_loss": "supervised", "discriminator_norm": "batch"},
    "supervised, weight 3": {"category_loss": "supervised", "category_weight": 3.0},
    "infogan, category to the decoder": {"category_loss": "infogan", "category_to": "image"},
    "infogan, weight 3": {"category_loss": "infogan", "category_weight": 3.0},
    "categories without a loss": {"category_loss": "none"},
    "no categories": {"category_loss": "none", "dim_category": 0},
    "no image discriminator": {"category_loss": "supervised", "image_discriminator": "none"},
    "R1 on images": {"category_loss": "none", **R1, "r1_video": 0.0},
    "R1 on videos": {"category_loss": "none", **R1, "r1_image": 0.0},
    "R1, weight 3, D_V of the category": {
        **{"category_loss": "supervised", "category_weight": 3.0, "conditional_video": True, **R1}
    },
    "label smoothing": {"category_loss": "none", "label_smoothing": 0.2},
    "three frames side by side": {"category_loss": "none", "image_frames": 3},
    "augmentation": {"category_loss": "none", "augment": "colour,translation,cutout", "image_frames": 2},
    "R1, one logit per image": {"category_loss": "none", "image_discriminator": "full", **R1},
    "one set of fakes, D_V of the category": {
        **{"category_loss": "supervised", "share_fakes": True, "conditional_video": True}
    },
    "one set of fakes, infogan": {"category_loss": "infogan", "share_fakes": True, **R1},
    "one set of fakes, no image discriminator": {
        **{"category_loss": "none", "share_fakes": True, "image_discriminator": "none", "discriminator_norm": "batch"}
    },
    "one set of fakes, augmented, two frames side by side": {
        **{"category_loss": "none", "share_fakes": True, "augment": "colour,translation,cutout", "image_frames": 2}
    },
}

# Run in every environment. Between versions of TensorFlow operations may differ, and these have all of them.
CORE = ("supervised, batch norm in D", "augmentation", "R1, weight 3, D_V of the category", "one set of fakes, infogan")


def make_gan(**changes):
    """Builds a configuration's networks, with weights of a size at which logits are of order 1."""
    keras.utils.set_random_seed(0)
    config = tiny_config(
        num_categories=changes.get("dim_category", 2),
        **{"discriminator_norm": "none", "weight_decay": 0.0, "ema_decay": 0.0, **changes},
    )
    gan = build_gan(config)
    rng = np.random.default_rng(0)
    for network in networks_of(gan).values():
        for variable in network.trainable_variables:
            fan_in = np.prod(variable.shape[:-1]) or 1
            variable.assign(rng.normal(0, 1.5 / np.sqrt(fan_in), variable.shape))
    batch = tiny_batch(config)
    batch["labels"] = np.array([1, 0, 1, 1], np.int32) % max(1, config.dim_category)
    floats = {name: tf.constant(batch[name], "float64") for name in ("images", "videos")}
    return config, gan, {**floats, "labels": tf.constant(batch["labels"])}


def networks_of(gan):
    return {name: getattr(gan, name) for name in NETWORKS if getattr(gan, name) is not None}


def move_only(gan, moving):
    """Compiles with a step size of 1 for one network and of 0 for the others."""
    sgd = {name: keras.optimizers.SGD(float(name == moving)) for name in networks_of(gan)}
    gan.compile(
        g_optimizer=sgd["generator"],
        d_image_optimizer=sgd.get("image_discriminator"),
        d_video_optimizer=sgd["video_discriminator"],
    )


def minus_log_sigmoid(logits):
    return -tf.math.log(1.0 / (1.0 + tf.exp(-logits)))


def cross_entropy(class_logits, category):
    """Mean over clips and patches of minus the log of the softmax at the category, `[B, P, K]` and int `[B]`."""
    powers = tf.exp(class_logits)
    softmax = powers / tf.reduce_sum(powers, axis=-1, keepdims=True)
    patches = softmax.shape[1]
    return -tf.reduce_mean(
        [tf.math.log(softmax[b, p, k]) for b, k in enumerate(np.array(category)) for p in range(patches)]
    )


def r1(discriminate, real, *given):
    """Half the squared norm of the gradient at a real example, example by example, with its part of what is given."""
    norms = []
    for i in range(real.shape[0]):
        example = real[i : i + 1]
        with tf.GradientTape() as tape:
            tape.watch(example)
            logit = tf.reduce_mean(discriminate(example, *(each[i : i + 1] for each in given)))
        norms.append(tf.reduce_sum(tape.gradient(logit, example) ** 2))
    return 0.5 * tf.reduce_mean(norms)


def expected_losses(config, gan, batch):
    """The losses by network: functions of nothing, so that they can be differentiated; and what the logs hold."""
    video_shape = batch["videos"].shape[:2]
    num_images = batch["images"].shape[0]
    due = config.r1_every if int(gan.step.numpy()) % config.r1_every == 0 else 0
    weight = config.category_weight

    def bce_of_real(logits):
        smooth = config.label_smoothing
        return tf.reduce_mean((1 - smooth) * minus_log_sigmoid(logits) + smooth * minus_log_sigmoid(-logits))

    def seen(images, purpose, which):
        """Augmented, and several frames of a clip as further channels."""
        images = gan._augment(images, gan._draw_augment(num_images, purpose, which))
        return images if config.image_frames == 1 else tf.concat(tf.unstack(images, axis=1), axis=-1)

    def judge_images(images):
        return gan.image_discriminator(images, training=True)

    def judge_videos(videos, category):
        """Logits and class logits; a conditional D_V's logit is one number for all and one of the clip's category."""
        if not config.conditional_video:
            return gan.video_discriminator(videos, training=True)
        judge, num = gan.video_discriminator, config.dim_category
        outputs = tf.reshape(judge.last(judge.features(videos, training=True)), (videos.shape[0], -1, 1 + 2 * num))
        own = tf.stack([outputs[b, :, 1 + num + k] for b, k in enumerate(np.array(category))])
        return outputs[..., 0] + own, outputs[..., 1 : 1 + num]

    def generated(purpose):
        latents = gan._latents(*video_shape, purpose)
        category = np.argmax(latents["category"], axis=-1) if config.dim_category else None
        return gan.generator(latents, training=True)["video"], category

    # Drawn before the step, as constants: a discriminator's loss sends no gradient into the generator.
    images_for, videos_for = gan_module._LATENTS_IMAGE, gan_module._LATENTS_VIDEO
    fake_images = seen(gan._fake_images(gan._draw_images(num_images, images_for)), images_for, gan_module._AUGMENT_FAKE)
    real_images = seen(batch["images"], images_for, gan_module._AUGMENT_REAL)
    fake_videos, fake_category = generated(videos_for)
    num_videos = video_shape[0]
    fake_videos = gan._augment(fake_videos, gan._draw_augment(num_videos, videos_for, gan_module._AUGMENT_FAKE))
    real_videos = gan._augment(batch["videos"], gan._draw_augment(num_videos, videos_for, gan_module._AUGMENT_REAL))

    def d_image():
        real, fake = judge_images(real_images), judge_images(fake_images)
        gan_loss = bce_of_real(real) + tf.reduce_mean(minus_log_sigmoid(-fake))
        logged = {base.LOSS_D_IMAGE: gan_loss}
        penalty = due * config.r1_image * r1(judge_images, real_images) if config.r1_image else 0.0
        return gan_loss + penalty, logged

    def d_video():
        real, real_classes = judge_videos(real_videos, batch["labels"])
        fake, fake_classes = judge_videos(fake_videos, fake_category)
        total = bce_of_real(real) + tf.reduce_mean(minus_log_sigmoid(-fake))
        logged = {base.LOSS_D_VIDEO: total}
        if config.r1_video:
            total += due * config.r1_video * r1(lambda *x: judge_videos(*x)[0], real_videos, batch["labels"])
        if config.category_loss == "supervised":
            logged[base.LOSS_CATEGORY_D] = cross_entropy(real_classes, batch["labels"])
        if config.category_loss == "infogan":
            logged[base.LOSS_CATEGORY_D] = cross_entropy(fake_classes, fake_category)
        return total + weight * logged.get(base.LOSS_CATEGORY_D, 0.0), logged

    def generator():
        of_videos = gan_module._LATENTS_VIDEO if config.share_fakes else gan_module._LATENTS_VIDEO_G
        of_images = gan_module._LATENTS_IMAGE if config.share_fakes else gan_module._LATENTS_IMAGE_G
        videos, category = generated(of_videos)
        videos = gan._augment(videos, gan._draw_augment(num_videos, of_videos, gan_module._AUGMENT_FAKE))
        logits, classes = judge_videos(videos, category)
        total = tf.reduce_mean(minus_log_sigmoid(logits))
        if gan.image_discriminator is not None:
            images = gan._fake_images(gan._draw_images(num_images, of_images))
            images = seen(images, of_images, gan_module._AUGMENT_FAKE)
            total += tf.reduce_mean(minus_log_sigmoid(judge_images(images)))
        logged = {base.LOSS_G: total}
        if config.category_loss != "none":
            logged[base.LOSS_CATEGORY_G] = cross_entropy(classes, category)
        return total + weight * logged.get(base.LOSS_CATEGORY_G, 0.0), logged

    return {"generator": generator, "image_discriminator": d_image, "video_discriminator": d_video}


def wrong_in_step(config, gan, batch, moving, step=0):
    """Makes one training step of one network; returns what in it is not the gradient of that network's loss."""
    gan.step.assign(step)
    move_only(gan, moving)
    variables = networks_of(gan)[moving].trainable_variables
    with tf.GradientTape() as tape:
        loss, logged = expected_losses(config, gan, batch)[moving]()
    gradients = tape.gradient(loss, [variable.value for variable in variables])
    before = [variable.numpy() for variable in variables]
    logs = gan.train_step(batch)
    wrong = [
        f"{name}: {float(logs[name])}, expected {float(value)}"
        for name, value in logged.items()
        if not np.isclose(float(logs[name]), float(value), rtol=1e-9, atol=0)
    ]
    for variable, old, gradient in zip(variables, before, gradients, strict=True):
        gradient, moved = gradient.numpy(), old - variable.numpy()
        largest = np.abs(gradient).max()
        if not largest > 1e-9:
            wrong.append(f"{variable.path}: a gradient of zero tests nothing")
        elif not np.allclose(moved, gradient, rtol=1e-7, atol=1e-9 * largest):
            wrong.append(f"{variable.path}: off by {np.abs(moved - gradient).max()}, the gradient is up to {largest}")
    return wrong


@pytest.mark.parametrize("case", [pytest.param(case, marks=[pytest.mark.core] * (case in CORE)) for case in CASES])
def test_a_step_is_minus_the_gradient_of_the_papers_loss(case):
    config, gan, batch = make_gan(**CASES[case])
    for moving in networks_of(gan):
        assert wrong_in_step(config, gan, batch, moving) == []


def test_with_one_set_of_fakes_the_generator_goes_through_discriminators_that_have_not_moved():
    config, gan, batch = make_gan(category_loss="supervised", share_fakes=True)
    variables = gan.generator.trainable_variables
    with tf.GradientTape() as tape:
        loss, _ = expected_losses(config, gan, batch)["generator"]()
    expected = tape.gradient(loss, [variable.value for variable in variables])
    gan.compile(**{f"{name}_optimizer": keras.optimizers.SGD(1.0) for name in ("g", "d_image", "d_video")})
    before = [variable.numpy() for variable in variables]
    gan.train_step(batch)
    for variable, old, gradient in zip(variables, before, expected, strict=True):
        np.testing.assert_allclose(old - variable.numpy(), gradient, rtol=1e-7, atol=1e-9)


def test_between_its_steps_r1_adds_nothing():
    config, gan, batch = make_gan(category_loss="none", **R1)
    for moving in ("image_discriminator", "video_discriminator"):
        assert wrong_in_step(config, gan, batch, moving, step=1) == []


def test_each_network_gets_fakes_of_its_own():
    _, gan, _ = make_gan(category_loss="none")
    purposes = [gan_module._LATENTS_VIDEO, gan_module._LATENTS_VIDEO_G]
    purposes += [gan_module._LATENTS_IMAGE, gan_module._LATENTS_IMAGE_G]
    content = [gan._latents(4, 4, purpose)["content"].numpy() for purpose in purposes]
    assert all(not np.any(a == b) for i, a in enumerate(content) for b in content[:i])


def test_accuracies_count_real_above_zero_and_generated_below():
    _, gan, batch = make_gan(category_loss="none")
    images = {
        "real": [[1, 2], [3, 4], [-1, 5], [6, 0]],  # 6 of 8 right; 0 says neither.
        "fake": [[-1, -2], [-3, 4], [0, -5], [6, -7]],  # 5 of 8 right.
    }
    videos = {"real": [[1], [-1], [-2], [-3]], "fake": [[-1], [-2], [-3], [-4]]}  # 1 of 4 and 4 of 4 right.
    say(gan.image_discriminator, batch["images"], images)
    say(gan.video_discriminator, batch["videos"], videos)
    logs = gan.train_step(batch)
    assert float(logs[base.ACCURACY_D_IMAGE]) == (6 / 8 + 5 / 8) / 2
    assert float(logs[base.ACCURACY_D_VIDEO]) == (1 / 4 + 4 / 4) / 2


def say(discriminator, real, logits):
    """Makes a discriminator give these logits at the real batch and at any other."""
    call = discriminator.call

    def fixed(x, training=None, noise=()):
        outputs = call(x, training=training, noise=noise)
        said = tf.constant(logits["real" if x is real or np.array_equal(x, real) else "fake"], "float64")
        if isinstance(outputs, tuple):
            return 0.0 * outputs[0] + said, outputs[1]
        return 0.0 * tf.reduce_sum(outputs) + said

    discriminator.call = fixed
