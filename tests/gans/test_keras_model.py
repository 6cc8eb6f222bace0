"""Promises to those who use MoCoGAN, VGAN and TGAN as Keras models, through their public constructors."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import mocogan_tf
from mocogan_tf.gans.build import build_gan
from tests.support.tiny import baseline_config, tiny_batch, tiny_config

SIZES = {"image_size": 32}


def adam():
    return keras.optimizers.Adam(2e-4, beta_1=0.5)


def made(model="mocogan", **options):
    """An uncompiled model of tiny networks, from the public constructors."""
    keras.utils.set_random_seed(0)
    if model != "mocogan":
        generator, discriminator, gan = {
            "vgan": (mocogan_tf.VGANGenerator, mocogan_tf.VGANDiscriminator, mocogan_tf.VGAN),
            "tgan": (mocogan_tf.TGANGenerator, mocogan_tf.TGANDiscriminator, mocogan_tf.TGAN),
        }[model]
        sizes = {"image_size": 32, "video_length": 8}
        return gan(
            generator=generator(ngf=4, **sizes),
            average=generator(ngf=4, **sizes),
            video_discriminator=discriminator(ndf=4, **sizes),
            **options,
        )
    categories = options.pop("dim_category", 0)
    generators = [mocogan_tf.VideoGenerator(ngf=4, dim_category=categories, **SIZES) for _ in range(2)]
    networks = {
        "generator": generators[0],
        "average": generators[1],
        "image_discriminator": mocogan_tf.PatchImageDiscriminator(ndf=4, **SIZES),
        "video_discriminator": mocogan_tf.VideoDiscriminator(ndf=4, video_length=4, dim_category=categories, **SIZES),
    }
    return mocogan_tf.MoCoGAN(**{**networks, **options})


def compiled(gan):
    image = None if gan.image_discriminator is None else adam()
    gan.compile(g_optimizer=adam(), d_video_optimizer=adam(), d_image_optimizer=image)
    return gan


def batches(number=2, **changes):
    """A dataset of full batches for the tiny MoCoGAN, with parts replaced, or left out if they are None."""
    rng = np.random.default_rng(0)
    arrays = {
        "videos": rng.integers(0, 256, (4, 4, 32, 32, 3), np.uint8),
        "images": rng.integers(0, 256, (4, 32, 32, 3), np.uint8),
        **changes,
    }
    arrays = {name: value for name, value in arrays.items() if value is not None}
    return tf.data.Dataset.from_tensors(arrays).repeat(number)


def step(gan, batch):
    return {name: float(value) for name, value in gan.train_step(batch).items()}


@pytest.mark.parametrize("model", ["mocogan", "vgan", "tgan"])
def test_the_public_constructors_make_a_model_that_trains_is_saved_and_goes_on_equally(model, tmp_path):
    gan = compiled(made(model))
    batch = next(iter(batches()))
    if model != "mocogan":
        batch = {"videos": tf.concat([batch["videos"], batch["videos"]], axis=1)}
    step(gan, batch)
    gan.save(tmp_path / "gan.keras")
    keras.utils.set_random_seed(1)
    again = keras.saving.load_model(tmp_path / "gan.keras")
    assert type(again) is type(gan) and int(again.step) == 1
    assert [v.path for v in again.state] == [v.path for v in gan.state]
    for expected, value in zip(gan.state, again.state, strict=True):
        np.testing.assert_array_equal(value, expected, err_msg=expected.path)
    assert step(again, batch) == step(gan, batch)
    for expected, value in zip(gan.state, again.state, strict=True):
        np.testing.assert_array_equal(value, expected, err_msg=expected.path)


@pytest.mark.parametrize(
    "config",
    [
        tiny_config(
            precision="mixed_float16",
            decoder="fine",
            image_discriminator="fine",
            discriminator_norm="none",
            video_size="half",
            still_background=True,
            augment="colour,translation",
            image_frames=2,
            warmup_steps=3,
            final_rate=0.1,
        ),
        tiny_config(discriminator_norm="spectral", noise_sigma=0.1, r1_video=1.0, category_loss="infogan"),
        baseline_config("tgan", ema_decay=0.0),
    ],
    ids=["fine in half precision", "spectral", "tgan"],
)
def test_every_option_of_a_run_comes_back(config, tmp_path):
    gan, batch = build_gan(config, policy=config.precision), tiny_batch(config)
    gan.save(tmp_path / "gan.keras")
    again = keras.saving.load_model(tmp_path / "gan.keras")
    for get in (type(gan).get_config, type(gan).get_compile_config):
        assert json.dumps(get(again)) == json.dumps(get(gan))  # A tuple comes back as a list.
    assert again.generator.compute_dtype == gan.generator.compute_dtype
    tensors = {name: tf.constant(value) for name, value in batch.items()}
    assert step(again, tensors) == step(gan, tensors)


def test_another_process_reads_what_was_saved(tmp_path):
    compiled(made()).save(tmp_path / "gan.keras")
    code = (
        "import keras, sys\nfrom mocogan_tf import MoCoGAN\n"
        "gan = keras.saving.load_model(sys.argv[1])\nassert type(gan) is MoCoGAN and gan.compiled"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "gan.keras")], check=True)


def test_a_model_that_could_not_be_read_again_is_not_written(tmp_path):
    class Unknown(mocogan_tf.PatchImageDiscriminator):
        def __init__(self, *args, **kwargs):
            super().__init__(**kwargs)

        def get_config(self):
            return {"name": self.name, "scale": 1}

    gan = compiled(made(image_discriminator=Unknown(ndf=4, **SIZES)))
    for name, words in (("gan.keras", "could not be read again"), ("gan.h5", "one format, .keras")):
        with pytest.raises(ValueError, match=words):
            gan.save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


WRONG_BATCHES = {
    "no images": ({"images": None}, r"dict of videos \[B, 4, 32, 32, 3\], images .* Missing: images. Received: videos"),
    "another length": ({"videos": np.zeros((4, 6, 32, 32, 3), np.uint8)}, r"`videos` must be \[B, 4, 32, 32, 3\]"),
    "another size": ({"images": np.zeros((4, 64, 64, 3), np.uint8)}, r"`images` must be \[B, 32, 32, 3\]"),
    "integers": ({"videos": np.zeros((4, 4, 32, 32, 3), np.int64)}, "must be uint8 .* Received: int64"),
    "floats of 0..255": ({"videos": np.full((4, 4, 32, 32, 3), 200.0, np.float32)}, r"in \[-1, 1\].* 200"),
}


@pytest.mark.parametrize("changes, words", WRONG_BATCHES.values(), ids=WRONG_BATCHES)
def test_a_wrong_batch_is_named_before_anything_is_traced(changes, words):
    with pytest.raises(ValueError, match=words):
        compiled(made()).fit(batches(**changes), verbose=0)


def test_a_batch_size_that_is_not_fixed_and_a_batch_that_is_no_dict_are_named():
    gan, loose = compiled(made()), batches().unbatch().batch(4)
    with pytest.raises(ValueError, match="drop_remainder=True"):
        gan.fit(loose, verbose=0)
    with pytest.raises(ValueError, match="must be a dict of videos .* Received: a tuple"):
        gan.fit(loose.map(lambda batch: (batch["videos"], batch["images"])), verbose=0)


def test_labels_are_needed_where_they_are_learnt_and_must_be_categories():
    gan = compiled(made(dim_category=2, category_loss="supervised"))
    for labels, words in (
        (None, "Missing: labels"),
        (np.array([1, 2, 1, 2], np.int32), r"`labels` must be in \[0, 2\). Received: from 1 to 2"),
        (np.zeros(4, np.float32), "`labels` must be integers"),
    ):
        with pytest.raises(ValueError, match=words):
            gan.fit(batches(labels=labels), verbose=0)


def test_networks_and_optimizers_that_do_not_fit_are_named_when_compiled():
    video = mocogan_tf.VideoDiscriminator(ndf=4, image_size=64, video_length=4)
    conditional = mocogan_tf.VideoDiscriminator(ndf=4, image_size=32, video_length=4, dim_category=2, conditional=True)
    for gan, words in (
        (made(video_discriminator=video), "video discriminator cannot judge what it is given, 4 x 32 x 32 x 3"),
        (made(category_loss="supervised"), "equally many categories"),
        (made(video_discriminator=conditional), "needs the labels of real clips.* Received: category_loss=none"),
    ):
        with pytest.raises(ValueError, match=words):
            compiled(gan)
    one = adam()
    with pytest.raises(ValueError, match="an optimizer of its own"):
        made().compile(g_optimizer=one, d_video_optimizer=one, d_image_optimizer=adam())
    with pytest.raises(ValueError, match="`d_image_optimizer` goes with an image discriminator"):
        made().compile(g_optimizer=adam(), d_video_optimizer=adam())
