"""MoCoGAN: three networks trained against each other, and the step that trains them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import ops

import mocogan_tf.models.discriminators  # noqa: F401  Registers the networks that `load_model` rebuilds.
from mocogan_tf.gans import batches, losses
from mocogan_tf.gans.augment import DRAWS, augment
from mocogan_tf.gans.base import (
    ACCURACY_D_IMAGE,
    ACCURACY_D_VIDEO,
    LOSS_CATEGORY_D,
    LOSS_CATEGORY_G,
    LOSS_D_IMAGE,
    LOSS_D_VIDEO,
    LOSS_G,
    LOSS_PAIRS,
    LOSS_POSES,
    LOSS_RECONSTRUCT,
    AdversarialModel,
    Inputs,
    Logs,
    LossAndLogs,
    accuracy,
    fold,
    to_float,
)
from mocogan_tf.gans.replicas import share
from mocogan_tf.models.generator import compose, halved

# The purposes of random numbers; folded into the step's seed.
_LATENTS_IMAGE, _LATENTS_VIDEO, _LATENTS_IMAGE_G, _LATENTS_VIDEO_G, _NOISE_IMAGE, _NOISE_VIDEO = range(6)
# Folded in once more. The latents' names take the numbers from 0.
_FRAME, _AUGMENT_REAL, _AUGMENT_FAKE, _PAIRS = 100, 101, 102, 103


@keras.saving.register_keras_serializable("mocogan_tf")
class MoCoGAN(AdversarialModel):
    """Generator, image discriminator and video discriminator, trained against each other.

    `train_step` takes `{"images": [Bi, H, W, C], "videos": [Bv, T, H, W, C], "labels": [Bv]}`: pixels uint8, or float32
    in [-1, 1]; labels integers, which only `category_loss` "supervised" needs. It makes one step of D_I, of D_V and of
    (G_I, R_M), in the order of the authors' code, each on fakes of its own. With `share_fakes` all three use the same
    fakes, judged by discriminators that have not moved yet. Without an image discriminator no images are needed. With
    `image_frames` k > 1 the images are `[Bi, k, H, W, C]`: frames of one clip, which D_I sees side by side.

    A generator that animates pictures (task "image_to_video") is given the first frames of the real clips for the fakes
    that D_V judges, and the real images for those of D_I. With labels, half of the former keep the category of their
    picture's clip, as its movement fits best there; the other half, and all of the latter, have drawn ones. It also
    learns pairs: a random frame of each real clip must come out of the code of the clip's first frame and its own
    pose. So the code holds the person, and the pose the posture. There are no pairs if the decoder takes a category
    that no label tells. And the encoder must find the poses of generated images again; without an image discriminator
    there are none of full size.

    Args:
        category_loss: "none", "supervised" (the class head learns real labels, the generator is scored by it) or
            "infogan" (class head and generator both learn from fakes).
        category_weight: Weight of the category loss, the paper's lambda.
        r1_image: Weight of the R1 penalty on D_I, 0 for none.
        r1_video: Weight of the R1 penalty on D_V, 0 for none.
        r1_every: Steps between two penalties, each scaled up by this number (lazy regularisation, Karras et al. 2020).
        label_smoothing: How far the discriminators' target of real clips is below 1.
        augmentations: Changes to clips and images before a discriminator sees them; names as of `Config.augment`.
        image_frames: Random frames of a clip that D_I sees side by side.
        share_fakes: Whether fakes are drawn and judged once per step, which is a seventh less to compute.
        video_size: D_V judges "full" clips, or clips of "half" the height and width: real ones averaged over 2x2
            pixels, generated ones without the decoder's last layers. Movement shows there as well; pixels are left to
            D_I, as in DVD-GAN (Clark et al. 2019). The dearest layers then decode only the frames that D_I sees.
        early_frames: Whether D_I judges early frames of generated clips more often than late ones; a share of
            1 / sqrt(T) are first frames. Frames of real clips look alike at all times, and generated ones should too.
        mask_weight: Weight of the cost of the figures' masks, if there is a still background: by how much the mean of a
            clip's masks exceeds `mask_allowance`.
        mask_steps: Steps over which that weight falls evenly to zero; 0 keeps it.
        mask_allowance: Share of the frame that figures may cover at no cost.
        reconstruct_weight: Of a generator that animates pictures, the weight of three mean absolute differences in
            [-1, 1]: of generated first frames to the pictures that they are made from, of rebuilt frames of real clips
            to the real ones, and of encoded poses of generated images to those that they were made from.
        **kwargs: As of `AdversarialModel`: the networks, average, seed, weight and average decay.
    """

    def __init__(
        self,
        *,
        category_loss: str = "none",
        category_weight: float = 1.0,
        r1_image: float = 0.0,
        r1_video: float = 0.0,
        r1_every: int = 16,
        label_smoothing: float = 0.0,
        augmentations: Sequence[str] = (),
        image_frames: int = 1,
        share_fakes: bool = False,
        video_size: str = "full",
        early_frames: bool = False,
        mask_weight: float = 0.0,
        mask_steps: int = 0,
        mask_allowance: float = 0.0,
        reconstruct_weight: float = 10.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.category_loss = category_loss
        self.category_weight = category_weight
        self.r1_image, self.r1_video, self.r1_every = r1_image, r1_video, r1_every
        self.label_smoothing = label_smoothing
        self.augmentations = tuple(augmentations)
        self.image_frames = image_frames
        self.share_fakes = share_fakes
        self.video_size = video_size
        self.early_frames = early_frames
        self.mask_weight, self.mask_steps, self.mask_allowance = mask_weight, mask_steps, mask_allowance
        self.reconstruct_weight = reconstruct_weight

    @property
    def example_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of one example by the keys that a batch must have."""
        shapes = super().example_shapes
        if self.image_discriminator is not None:
            shapes["images"] = (*((self.image_frames,) if self.image_frames > 1 else ()), *shapes["videos"][1:])
        return {**shapes, "labels": ()} if self.category_loss == "supervised" else shapes

    @property
    def _animates(self) -> bool:
        """Whether the generator's content is an encoded picture."""
        return self.generator.latents.distributions["content"] == "encoded"

    @property
    def _decoder_takes_category(self) -> bool:
        return bool(self.generator.latents.dim_category) and self.generator.config["category_to"] != "motion"

    @property
    def _tells_category(self) -> bool:
        """Whether D_V is told the categories of the clips that it judges. Others, also a user's own, take none."""
        return getattr(self.video_discriminator, "conditional", False)

    @property
    def _judged_shapes(self) -> dict[str, tuple[int, ...]]:
        frames, height, width, channels = super().example_shapes["videos"]
        shrink = {"full": 1, "half": 2}[self.video_size]
        shapes: dict[str, tuple[int, ...]] = {
            "video discriminator": (frames, height // shrink, width // shrink, channels)
        }
        if self.image_discriminator is not None:
            shapes = {"image discriminator": (height, width, self.image_frames * channels), **shapes}
        return shapes

    def _build_discriminators(self) -> None:
        if self.category_loss != "none":
            ours, theirs = self.generator.latents.dim_category, self.video_discriminator.dim_category
            if not ours == theirs > 0:
                raise ValueError(
                    "`category_loss` needs a generator and a video discriminator of equally many categories. Received: "
                    f"category_loss={self.category_loss}, dim_category={ours} and {theirs}."
                )
        if self._tells_category and self.category_loss != "supervised":
            raise ValueError(
                "A conditional video discriminator needs the labels of real clips, category_loss=supervised. "
                f"Received: category_loss={self.category_loss}."
            )
        super()._build_discriminators()

    def train_step(self, batch: dict[str, tf.Tensor]) -> Logs:
        """Makes one step of each network. Returns the logged scalars by name."""
        batches.check(batch, self.example_shapes)
        inputs = self._draw(batch)
        if self.share_fakes:
            return self._end_step(self._descend(self._losses_together, inputs))
        logs = {} if self.image_discriminator is None else self._descend(self._losses_d_image, inputs)
        logs |= self._descend(self._losses_d_video, inputs)
        return self._end_step(logs | self._descend(self._losses_g, inputs))

    def _draw(self, batch: dict[str, tf.Tensor]) -> Inputs:
        """Scales the batch, and draws everything random that the step needs."""
        videos = to_float(batch["videos"])
        supervised = self.category_loss == "supervised"
        given: Inputs = {}
        if self._animates:
            given = {"pictures": videos[:, 0], "labels": batch["labels"] if supervised else None}
        rebuilds = self._animates and (supervised or not self._decoder_takes_category)
        pairs = self._draw_pairs(videos) if rebuilds else None
        if self.video_size == "half":
            videos = halved(videos)
        num_videos, num_frames = videos.shape[:2]
        inputs = {
            "videos": videos,
            # A network's noise is drawn once per step, for real clips, fakes and the generator's step alike: each sees
            # noise of the right distribution.
            "noise_video": self._noise(self.video_discriminator, num_videos, _NOISE_VIDEO),
            "augment_videos": self._draw_augment(num_videos, _LATENTS_VIDEO, _AUGMENT_REAL),
            "fake_videos": self._draw_videos(num_videos, num_frames, _LATENTS_VIDEO, **given),
            "r1_due": tf.equal(self.step.value % self.r1_every, 0),
        }
        if supervised:
            inputs["labels"] = batch["labels"]
        if pairs is not None:
            inputs["pairs"] = pairs
        if not self.share_fakes:
            inputs["fake_videos_g"] = self._draw_videos(num_videos, num_frames, _LATENTS_VIDEO_G, **given)
        if self.image_discriminator is None:
            return inputs
        images = to_float(batch["images"])
        num_images = images.shape[0]
        pictures = (images[:, 0] if self.image_frames > 1 else images) if self._animates else None
        inputs |= {
            "images": images,
            "noise_image": self._noise(self.image_discriminator, num_images, _NOISE_IMAGE),
            "augment_images": self._draw_augment(num_images, _LATENTS_IMAGE, _AUGMENT_REAL),
            "fake_images": self._draw_images(num_images, _LATENTS_IMAGE, pictures),
        }
        if not self.share_fakes:
            inputs["fake_images_g"] = self._draw_images(num_images, _LATENTS_IMAGE_G, pictures)
        return inputs

    def _draw_videos(
        self,
        number: int,
        num_frames: int,
        purpose: int,
        pictures: tf.Tensor | None = None,
        labels: tf.Tensor | None = None,
    ) -> Inputs:
        """Draws what generated clips are made from; every second one has the given label, if there are any."""
        drawn: Inputs = {
            "latents": self._latents(number, num_frames, purpose),
            "augment": self._draw_augment(number, purpose, _AUGMENT_FAKE),
        }
        if pictures is not None:
            drawn["pictures"] = pictures
        if labels is not None:
            category = drawn["latents"]["category"]
            own = share(lambda total: tf.equal(tf.range(total) % 2, 0), number)
            of_labels = tf.one_hot(labels, category.shape[1], dtype=category.dtype)
            drawn["latents"]["category"] = tf.where(own[:, None], of_labels, category)
        return drawn

    def _draw_pairs(self, videos: tf.Tensor) -> tf.Tensor:
        """Returns the first frame of each real clip and a random one, `[B, 2, H, W, C]`."""
        number, num_frames = videos.shape[:2]
        seed = fold(self._seed(_LATENTS_VIDEO), _PAIRS)
        other = share(lambda total: tf.random.stateless_uniform((total, 1), seed, 0, num_frames, tf.int32), number)
        return tf.gather(videos, tf.concat([tf.zeros_like(other), other], axis=1), axis=1, batch_dims=1)

    def _draw_images(self, number: int, purpose: int, pictures: tf.Tensor | None = None) -> Inputs:
        """Draws what single frames of generated clips are made from; `frame` is `[B]`, or `[B, k]` of k frames."""
        num_frames = self.video_discriminator.video_length
        seed, per_clip = fold(self._seed(purpose), _FRAME), (self.image_frames,) if self.image_frames > 1 else ()
        return {
            **self._draw_videos(number, num_frames, purpose, pictures),
            "frame": share(lambda total: self._draw_frames((total, *per_clip), seed), number),
        }

    def _draw_frames(self, shape: tuple[int, ...], seed: tf.Tensor) -> tf.Tensor:
        """Draws numbers of frames, int32, all equally likely; with `early_frames` T u^2 of u uniform on [0, 1)."""
        num_frames = self.video_discriminator.video_length
        if not self.early_frames:
            return tf.random.stateless_uniform(shape, seed, 0, num_frames, tf.int32)
        return tf.cast(num_frames * tf.square(tf.random.stateless_uniform(shape, seed)), tf.int32)

    def _draw_augment(self, number: int, purpose: int, which: int) -> tf.Tensor | None:
        """Draws the augmentation of this replica's clips or images; None without augmentation."""
        if not self.augmentations:
            return None
        seed = fold(self._seed(purpose), which)
        return share(lambda total: tf.random.stateless_uniform((total, DRAWS), seed), number)

    def _losses_d_image(self, inputs: Inputs) -> dict[str, LossAndLogs]:
        fakes = tf.stop_gradient(self._fake_images(inputs["fake_images"]))
        fake_logits = self._judged_images(fakes, inputs["fake_images"], inputs)
        return {"image_discriminator": self._loss_d_image(fake_logits, inputs)}

    def _losses_d_video(self, inputs: Inputs) -> dict[str, LossAndLogs]:
        fakes, category, _ = self._fake_videos(inputs["fake_videos"])
        judged = self._judged_videos(tf.stop_gradient(fakes), category, inputs["fake_videos"], inputs)
        return {"video_discriminator": self._loss_d_video(*judged, category, inputs)}

    def _losses_g(self, inputs: Inputs) -> dict[str, LossAndLogs]:
        fakes, category, mask = self._fake_videos(inputs["fake_videos_g"])
        judged = self._judged_videos(fakes, category, inputs["fake_videos_g"], inputs)
        image_logits, pictures = None, self._picture_losses(fakes, inputs["fake_videos_g"], inputs)
        if self.image_discriminator is not None:
            draws = inputs["fake_images_g"]
            images, codes = self._images_and_codes(draws)
            image_logits = self._judged_images(images, draws, inputs)
            pictures = self._with_images(pictures, images, codes, draws)
        return {"generator": self._loss_g(image_logits, *judged, category, mask, pictures)}

    def _losses_together(self, inputs: Inputs) -> dict[str, LossAndLogs]:
        """Computes the losses of all networks on the same fakes, which are made and judged once."""
        fakes, category, mask = self._fake_videos(inputs["fake_videos"])
        judged = self._judged_videos(fakes, category, inputs["fake_videos"], inputs)
        image_logits, outcomes = None, {}
        pictures = self._picture_losses(fakes, inputs["fake_videos"], inputs)
        if self.image_discriminator is not None:
            draws = inputs["fake_images"]
            images, codes = self._images_and_codes(draws)
            image_logits = self._judged_images(images, draws, inputs)
            pictures = self._with_images(pictures, images, codes, draws)
            outcomes["image_discriminator"] = self._loss_d_image(image_logits, inputs)
        outcomes["video_discriminator"] = self._loss_d_video(*judged, category, inputs)
        return outcomes | {"generator": self._loss_g(image_logits, *judged, category, mask, pictures)}

    def _judged_images(self, fakes: tf.Tensor, draws: Inputs, inputs: Inputs) -> tf.Tensor:
        """Returns D_I's logits of generated images."""
        fakes = side_by_side(self._augment(fakes, draws["augment"]))
        return self.image_discriminator(fakes, training=True, noise=inputs["noise_image"])

    def _judged_videos(
        self, fakes: tf.Tensor, category: tf.Tensor | None, draws: Inputs, inputs: Inputs
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns D_V's logits and class logits of generated clips."""
        fakes = self._augment(fakes, draws["augment"])
        return self._judge_videos(fakes, category, training=True, noise=inputs["noise_video"])

    def _judge_videos(
        self, videos: tf.Tensor, category: tf.Tensor | None, **kwargs: Any
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns D_V's logits and class logits of clips; `kwargs` as of its call."""
        return self.video_discriminator(videos, **({"category": category} if self._tells_category else {}), **kwargs)

    def _loss_d_image(self, fake_logits: tf.Tensor, inputs: Inputs) -> LossAndLogs:
        """Returns D_I's loss on real images, which it judges here, and on its logits of fakes."""
        # Real and fake images pass separately, so that batch normalisation never mixes them.
        images = side_by_side(self._augment(inputs["images"], inputs["augment_images"]))
        real_logits = self.image_discriminator(images, training=True, noise=inputs["noise_image"])
        gan = losses.discriminator_loss(real_logits, fake_logits, self.label_smoothing)
        logs = {LOSS_D_IMAGE: gan, ACCURACY_D_IMAGE: accuracy(real_logits, fake_logits)}
        return gan + self._r1(self.r1_image, self.image_discriminator, images, inputs["r1_due"]), logs

    def _loss_d_video(
        self, fake_logits: tf.Tensor, fake_classes: tf.Tensor, fake_category: tf.Tensor | None, inputs: Inputs
    ) -> LossAndLogs:
        """Returns D_V's loss on real clips, which it judges here, and on its logits and class logits of fakes."""
        videos = self._augment(inputs["videos"], inputs["augment_videos"])
        supervised = self.category_loss == "supervised"
        of_real = tf.one_hot(inputs["labels"], self.generator.latents.dim_category) if supervised else None
        real_logits, real_classes = self._judge_videos(videos, of_real, training=True, noise=inputs["noise_video"])
        gan = losses.discriminator_loss(real_logits, fake_logits, self.label_smoothing)
        logs = {LOSS_D_VIDEO: gan, ACCURACY_D_VIDEO: accuracy(real_logits, fake_logits)}
        total = gan + self._r1(
            self.r1_video, lambda x, **kwargs: self._judge_videos(x, of_real, **kwargs)[0], videos, inputs["r1_due"]
        )
        if self.category_loss != "none":
            if supervised:
                category = losses.category_loss(real_classes, of_real)
            else:
                category = losses.category_loss(fake_classes, fake_category)
            logs[LOSS_CATEGORY_D] = category
            total += self.category_weight * category
        return total, logs

    def _loss_g(
        self,
        image_logits: tf.Tensor | None,
        video_logits: tf.Tensor,
        classes: tf.Tensor,
        category: tf.Tensor | None,
        mask: tf.Tensor | None,
        pictures: Logs | None = None,
    ) -> LossAndLogs:
        """Returns the loss of (G_I, R_M) on the discriminators' logits of fakes; `image_logits` is None without D_I.

        `mask` is the cost of the figures' masks, None without a still background. Without a cost, background and
        figures exchange their roles. `pictures` are the losses of animated pictures, by their logs' names.
        """
        gan = losses.generator_loss(video_logits)
        if image_logits is not None:
            gan += losses.generator_loss(image_logits)
        logs, total = {LOSS_G: gan}, gan
        if mask is not None:
            total += self._mask_weight() * mask
        for name, difference in (pictures or {}).items():
            logs[name] = difference
            total += self.reconstruct_weight * difference
        if self.category_loss != "none":
            logs[LOSS_CATEGORY_G] = losses.category_loss(classes, category)
            total += self.category_weight * logs[LOSS_CATEGORY_G]
        return total, logs

    def _fake_videos(self, draws: Inputs) -> tuple[tf.Tensor, tf.Tensor | None, tf.Tensor | None]:
        """Returns generated clips `[B, T, H, W, C]` of the size that D_V judges, their categories, their masks' cost.

        Without categories or without a still background, None stands in their place.
        """
        latents = draws["latents"]
        codes = self._codes(draws)
        frames = self.generator.frames if self.video_size == "full" else self.generator.half_frames
        if frames.background is None:
            return frames(codes, training=True), latents.get("category"), None
        figures, background = frames.parts(codes, training=True)
        return compose(figures, background), latents.get("category"), self._mask_cost(figures[..., -1])

    def _mask_weight(self) -> tf.Tensor | float:
        """Returns the weight of the masks' cost in this step."""
        if not self.mask_steps:
            return self.mask_weight
        done = tf.cast(self.step.value, keras.config.floatx()) / self.mask_steps
        return self.mask_weight * tf.maximum(1.0 - done, 0.0)

    def _mask_cost(self, masks: tf.Tensor) -> tf.Tensor:
        """Returns by how much the means of clips' masks `[B, T, H, W]` exceed the allowance, on average."""
        covered = ops.mean(masks, axis=(1, 2, 3))
        return ops.mean(ops.relu(covered - self.mask_allowance))

    def _fake_images(self, draws: Inputs) -> tf.Tensor:
        """Returns one random frame of each of B generated clips, `[B, H, W, C]` (the paper's S_1).

        Only that frame is decoded: the distribution is that of whole clips, at a T-th of the cost. With `image_frames`
        k > 1 there are k frames of each clip, `[B, k, H, W, C]`.
        """
        return self._images_and_codes(draws)[0]

    def _images_and_codes(self, draws: Inputs) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the images of `_fake_images` and their codes, `[B, k, D]` of k frames."""
        several = self.image_frames > 1
        frame = draws["frame"] if several else draws["frame"][:, None]
        codes = tf.gather(self._codes(draws), frame, axis=1, batch_dims=1)
        frames = self.generator.frames(codes, training=True)
        return (frames if several else frames[:, 0]), codes

    def _codes(self, draws: Inputs) -> tf.Tensor:
        """Returns the codes of all frames of generated clips; pictures, if there are any, are encoded first."""
        latents = draws["latents"]
        if "pictures" in draws:
            latents = {**latents, "content": self.generator.encoder(draws["pictures"], training=True)}
        return self.generator.codes(latents, training=True)

    def _picture_losses(self, fakes: tf.Tensor, draws: Inputs, inputs: Inputs) -> Logs:
        """Returns the losses of animated pictures that need no D_I, by their logs' names; none of other generators."""
        if not self._animates:
            return {}
        pairs = {LOSS_PAIRS: self._pairs(inputs)} if "pairs" in inputs else {}
        return {LOSS_RECONSTRUCT: self._first_frames(fakes, draws), **pairs}

    def _with_images(self, logs: Logs, images: tf.Tensor, codes: tf.Tensor, draws: Inputs) -> Logs:
        """Averages the loss of first frames over clips and single frames, and adds the loss of poses."""
        if not self._animates:
            return logs
        first = 0.5 * (logs[LOSS_RECONSTRUCT] + self._first_frames(images, draws))
        return {**logs, LOSS_RECONSTRUCT: first, LOSS_POSES: self._poses(images, codes)}

    def _first_frames(self, fakes: tf.Tensor, draws: Inputs) -> tf.Tensor:
        """Returns the mean absolute difference of first frames and the pictures that they are made from.

        Of clips `[B, T, H, W, C]` the first frames count; of single frames those that were drawn as first ones, over
        the number of those to be expected, so that replicas with more of them count for more.
        """
        pictures = draws["pictures"]
        if "frame" not in draws:
            wanted = halved(pictures) if fakes.shape[2] != pictures.shape[1] else pictures
            return ops.mean(ops.abs(fakes[:, 0] - wanted))
        frame = draws["frame"] if self.image_frames > 1 else draws["frame"][:, None]
        frames = fakes if self.image_frames > 1 else fakes[:, None]
        differences = ops.mean(ops.abs(frames - pictures[:, None]), axis=(2, 3, 4))
        num_frames = self.video_discriminator.video_length
        expected = num_frames**-0.5 if self.early_frames else 1 / num_frames
        return ops.mean(ops.where(ops.equal(frame, 0), differences, 0.0)) / expected

    def _pairs(self, inputs: Inputs) -> tf.Tensor:
        """Returns the mean absolute difference of real frames and those rebuilt from a first frame and their poses."""
        first, other = inputs["pairs"][:, 0], inputs["pairs"][:, 1]
        category = None
        if self._decoder_takes_category:
            category = tf.one_hot(inputs["labels"], self.generator.latents.dim_category)
        encoder = self.generator.encoder
        codes = self.generator.posed(encoder(first, training=True), encoder(other, training=True)[:, None], category)
        return ops.mean(ops.abs(self.generator.frames(codes, training=True)[:, 0] - other))

    def _poses(self, images: tf.Tensor, codes: tf.Tensor) -> tf.Tensor:
        """Returns the mean absolute difference of poses that the encoder finds in generated images and their own.

        It teaches the encoder alone: to name the poses of pictures as the GRU names those that it makes.
        """
        images = ops.stop_gradient(ops.reshape(images, (-1, *images.shape[-3:])))
        found = self.generator.layout.pose(self.generator.encoder(images, training=True))
        poses = codes[..., -self.generator.latents.dim_motion :]
        return ops.mean(ops.abs(found - ops.stop_gradient(ops.reshape(poses, ops.shape(found)))))

    def _augment(self, clips: tf.Tensor, draws: tf.Tensor | None) -> tf.Tensor:
        """Augments clips or images."""
        return clips if draws is None else augment(clips, self.augmentations, draws)

    def _r1(
        self, weight: float, discriminator: Callable[..., tf.Tensor], real: tf.Tensor, due: tf.Tensor
    ) -> tf.Tensor | float:
        """Returns the lazy R1 penalty; in the steps where it is not due it is exactly zero, and costs nothing."""
        if not weight:
            return 0.0

        def penalty() -> tf.Tensor:
            with tf.GradientTape() as tape:
                tape.watch(real)
                # Not as in training: spectral normalisation would move its vector, which no branch of `tf.cond` may.
                logits = discriminator(real, training=False)
                summed = ops.sum(ops.mean(ops.cast(logits, keras.config.floatx()), axis=-1))
            return weight * self.r1_every * losses.r1_penalty(tape.gradient(summed, real))

        if self.r1_every == 1:
            return penalty()
        return tf.cond(due, penalty, lambda: tf.zeros((), keras.config.floatx()))


def side_by_side(images: tf.Tensor) -> tf.Tensor:
    """Puts several frames of a clip into the channels: `[B, k, H, W, C]` becomes `[B, H, W, k * C]`."""
    if len(images.shape) == 4:
        return images
    batch, frames, height, width, channels = images.shape
    return ops.reshape(ops.transpose(images, (0, 2, 3, 1, 4)), (batch, height, width, frames * channels))
