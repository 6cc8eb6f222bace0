"""The metrics by name: what each one is, how many clips it needs, and which way is better.

A metric is a function from `Material` to scores, each with its protocol. Names with a colon take a file:
`fvd:FILE.onnx`. Scores that are computed together (`acd_color`, `coverage`) all come when one of them is asked for.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from mocogan_tf.metrics import acd, animation, collapse, statistics, texture, truth
from mocogan_tf.metrics.features import OnnxFeatures, as_probabilities
from mocogan_tf.metrics.material import Material
from mocogan_tf.metrics.network import NUM_FEATURES, Judgement
from mocogan_tf.metrics.quality import BASELINE_SCORES, Better, better
from mocogan_tf.metrics.statistics import Estimate

LONGER = 4  # `loop` continues clips to this many times the length trained on.
MAX_LONG = 64  # Clips that it continues, at most.
IS_CLIPS, IS_RUNS, IS_SPLITS = 10_000, 4, 1
FVD_CLIPS, FVD_FRAMES = 2048, 16
GRID = 8  # Contents, and motions, of the grid that shows disentanglement.


@dataclasses.dataclass(frozen=True)
class Score:
    """One number.

    Args:
        metric: Name of the score.
        value: None where it is not defined for these clips.
        std_error: None where none is known.
        num_videos: Generated clips that it is computed from.
        frames: Length of these clips.
        protocol: How it is computed, in words.
        features: Name and hash of the network, if any.
        real: The same number of as many real clips, where that says something: what a perfect model would score. Of a
            distance, the floor: real clips against other real clips.
    """

    metric: str
    value: float | None
    std_error: float | None
    num_videos: int
    frames: int
    protocol: str
    features: str | None = None
    real: float | None = None

    @property
    def better(self) -> Better:
        """Which values are good."""
        return better(self.metric)


@dataclasses.dataclass(frozen=True)
class Metric:
    """An entry.

    Args:
        compute: Makes the scores from the material and, where `takes_file`, the file's name.
        names: The scores that it makes.
        min_videos: Fewer clips are an error.
        title: One line for a person.
        takes_file: Whether the name is followed by `:FILE.onnx`.
    """

    compute: Callable[..., Iterator[Score]]
    names: tuple[str, ...]
    min_videos: int
    title: str
    takes_file: bool = False


def _score(material: Material, metric: str, estimate: Estimate | float, protocol: str, **about: Any) -> Score:
    if not isinstance(estimate, Estimate):
        estimate = Estimate(float(estimate))
    fields = {"num_videos": material.num_videos, "frames": material.num_frames, **about}
    real = fields.get("real")
    reference = f"; real clips: {real:.4g}" if real is not None else ""
    if not np.isfinite(estimate.value):  # Nothing was seen that it could be computed from.
        estimate, reference = Estimate(float("nan")), f"{reference}; no clip shows what it is computed from"
    value = estimate.value if np.isfinite(estimate.value) else None
    return Score(metric, value, estimate.std_error, protocol=protocol + reference, **fields)


def _acd_color(material: Material) -> Iterator[Score]:
    found = acd.acd_color(material.clips.frames)
    real = acd.acd_color(material.real.frames) if material.config is not None else None
    shape = f"the shape: pixels whose largest channel exceeds {acd.THRESHOLD}"
    protocol = f"mean L2 distance of the shape's mean colour over all pairs of frames of a clip, 0 to 255; {shape}"
    if found.acd is None:
        empty = Score("acd_color", None, None, material.num_videos, material.num_frames, f"{protocol}; no clip has one")
        yield empty
    else:
        floor = real.acd.value if real is not None and real.acd is not None else None
        yield _score(material, "acd_color", found.acd, protocol, real=floor)
    yield _score(
        material,
        "coverage",
        found.coverage,
        f"share of clips with a shape in every frame; {shape}",
        real=real.coverage.value if real is not None else None,
    )
    yield _score(
        material,
        "color_diversity",
        found.diversity,
        f"mean L2 distance of the shape's mean colours of two clips, 0 to 255; {shape}",
        real=real.diversity if real is not None else None,
    )


def _acd_embedding(material: Material, file: str, name: str = "acd") -> Iterator[Score]:
    network = OnnxFeatures(file, rank=4)

    def distance(clips: Any) -> Estimate:
        number, frames = clips.frames.shape[:2]
        embedded = network(clips.frames.reshape(-1, *clips.frames.shape[2:]), batch_size=64)
        return acd.acd_of_embeddings(embedded.reshape(number, frames, -1))

    real = distance(material.real).value if material.config is not None else None
    protocol = "mean L2 distance of the frames' embeddings over all pairs of frames of a clip"
    yield _score(
        material,
        name,
        distance(material.clips),
        protocol,
        features=network.name,
        real=real,
    )


def _acd_face(material: Material, file: str) -> Iterator[Score]:
    yield from _acd_embedding(material, file, "acd_face")


def _mcs(material: Material) -> Iterator[Score]:
    wanted = material.clips.labels if material.clips.categories else None
    taken_for = material.judged.categories if material.videos.categories else None
    if wanted is None or taken_for is None:
        raise ValueError(
            "`mcs` needs classes: real clips with labels, and clips made for a class (of a folder: in class folders)."
        )
    yield _score(
        material,
        "mcs",
        statistics.mean_and_error(taken_for == wanted),
        "share of clips that a CNN trained on the labelled real clips takes for the class asked for; its accuracy on "
        "real clips held out is the ceiling",
        features=material.network.name,
        real=material.network.accuracy["category"],
    )


def _on_own_features(material: Material) -> str:
    return f"{material.real_in_words}; features of a small CNN trained on the real clips, not I3D: no FVD"


def _distance(
    material: Material, metric: str, words: str, measure: Callable[[Judgement, Judgement], Estimate]
) -> Iterator[Score]:
    """The distance of real and generated clips by their features, with that of other real clips."""
    real, other = material.judged_real, material.judged_other
    yield _score(
        material,
        metric,
        measure(real, material.judged),
        f"{words}; {_on_own_features(material)}",
        features=material.network.name,
        real=None if other is None else measure(real, other).value,
    )


def _frechet_video(material: Material) -> Iterator[Score]:
    words = "Frechet distance of clip features, covariance over N - 1"
    return _distance(material, "frechet_video", words, lambda a, b: _frechet_with_error(a.features, b.features))


def _frechet_frame(material: Material) -> Iterator[Score]:
    def measure(real: Judgement, fake: Judgement) -> Estimate:
        return _frechet_with_error(real.frame_features, fake.frame_features)

    words = "Frechet distance of the features of single frames, all frames of all clips"
    return _distance(material, "frechet_frame", words, measure)


def _kernel_video(material: Material) -> Iterator[Score]:
    def measure(real: Judgement, fake: Judgement) -> Estimate:
        return statistics.centred_kernel_distance(real.features, fake.features)

    words = "unbiased squared MMD of clip features about the real clips' mean, kernel (x.y/D + 1)^3"
    return _distance(material, "kernel_video", words, measure)


def _frechet_with_error(real: Any, fake: Any, groups: int = 10) -> Estimate:
    """Frechet distance and its jackknife error over ten groups of clips (`[N, D]`, or `[N, T, D]` per frame)."""

    def distance(a: Any, b: Any) -> float:
        return statistics.frechet(a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1]))

    without = []
    for group in range(groups):
        kept_real, kept_fake = (np.arange(len(features)) % groups != group for features in (real, fake))
        without.append(distance(real[kept_real], fake[kept_fake]))
    error = np.sqrt((groups - 1) / groups * np.square(np.array(without) - np.mean(without)).sum())
    return Estimate(distance(real, fake), float(error))


def _precision_recall(material: Material) -> Iterator[Score]:
    real, fake, other = material.judged_real, material.judged, material.judged_other
    shares = statistics.precision_recall(real.features, fake.features)
    floors = (None, None) if other is None else statistics.precision_recall(real.features, other.features)
    for name, share, floor, words in (
        ("precision", shares[0], floors[0], "share of generated clips inside the support of real ones"),
        ("recall", shares[1], floors[1], "share of real clips inside the support of generated ones"),
    ):
        error = float(np.sqrt(share * (1 - share) / material.num_videos))
        protocol = f"{words}, balls to the 3rd nearest neighbour; {_on_own_features(material)}"
        yield _score(material, name, Estimate(share, error), protocol, features=material.network.name, real=floor)


def _texture(material: Material) -> Iterator[Score]:
    real, other = material.real.frames, material.other_real
    floors = {} if other is None else texture.scores(real, other.frames)
    number = math.prod(texture.some_frames(real).shape[:2])
    for name, value in texture.scores(real, material.comparable.frames).items():
        protocol = f"{_texture_in_words(name)}; {number} frames of {material.real_in_words}"
        yield _score(material, name, value, protocol, real=floors.get(name))


def _texture_in_words(name: str) -> str:
    ratio = "of Nyquist over that of real frames"
    if name == "spectrum_high":
        return f"mean over frequencies of log2 of the power above half {ratio}; 0 is right, below it frames are soft"
    if name == "spectrum_checker":
        return f"log2 of the sum of the power above 15/16 {ratio}; 0 is right, above `spectrum_high` there is a raster"
    return (
        f"sliced Wasserstein distance times 1000 on the Laplacian level of {name.removeprefix('swd_')} pixels, "
        f"{texture.PATCHES_PER_FRAME} patches of 7x7 per frame, {texture.DIRECTIONS} directions"
    )


def _collapse(material: Material) -> Iterator[Score]:
    for name, measure, words in (
        ("diversity", collapse.diversity, "mean rms difference of two clips' pixels at 16x16, 0 to 255"),
        ("motion", collapse.motion, "mean absolute change of a pixel between frames, 0 to 255"),
    ):
        real = measure(material.real.frames) if material.config is not None else None
        yield _score(material, name, measure(material.clips.frames), words, real=real)


def _loop(material: Material) -> Iterator[Score]:
    number = min(material.num_videos, MAX_LONG)
    if material.given is not None:
        frames, window = material.clips.frames[:number], material.num_frames // LONGER
    elif material.separates:
        window = material.num_frames
        frames = material.make(number, LONGER * window).frames
    else:
        raise ValueError("`loop` needs clips of any length; this run's model makes clips of one length only.")
    found = collapse.continuation(frames, window)
    about = {"num_videos": number, "frames": frames.shape[1]}
    beyond = f"frames {window + 1} to {frames.shape[1]} of clips continued beyond {window}"
    yield _score(
        material,
        "loop",
        found.loop,
        f"1 - distance to the nearest earlier frame over the usual distance, {beyond}; motion that is periodic by "
        "nature scores high too",
        **about,
    )
    yield _score(
        material,
        "freeze",
        found.freeze,
        f"share of {beyond} that change less than a tenth of what is usual before",
        **about,
    )
    yield _score(
        material,
        "drift",
        found.drift,
        f"distance of the mean frames of the first and last {window} frames, over that of two clips",
        **about,
    )


def _truth(material: Material) -> Iterator[Score]:
    reader = truth.open_reader(material.config)
    seen, real = reader(material.clips.frames), reader(material.real.frames)
    yield _score(
        material,
        "identity",
        statistics.mean_and_error(truth.colour_change(seen)),
        f"mean L2 change of {reader.content} between frames of a clip, 0 to 255; {reader.words}",
        features=reader.name,
        real=float(np.mean(truth.colour_change(real))),
    )
    yield _score(
        material,
        "jerkiness",
        statistics.mean_and_error(truth.jerkiness(seen)),
        f"mean acceleration over mean speed of {reader.motion}; {reader.words}",
        features=reader.name,
        real=float(np.mean(truth.jerkiness(real))),
    )
    if material.separates:
        yield from _disentanglement(material, reader)


def _disentanglement(material: Material, reader: truth.Reader) -> Iterator[Score]:
    frames = truth.swapped_clips(material.generator, GRID, material.num_frames, seed=material.seed)
    kept = truth.disentanglement(reader(frames.reshape(-1, *frames.shape[2:])), GRID)
    grid = f"{GRID} contents by {GRID} motions; 1: wholly, 0: no more than any two clips; {reader.words}"
    for name, value, words in (
        ("motion_kept", kept.motion, f"how far {reader.motion} stay the same under another content"),
        ("content_kept", kept.content, f"how far {reader.content} stays the same under another motion"),
    ):
        about = {"num_videos": GRID * GRID, "features": reader.name}
        yield _score(material, name, value, f"{words}, {grid}", **about)


def _first_frame(material: Material) -> Iterator[Score]:
    _check_animates(material, "first_frame")
    frames, pictures = material.clips.frames, material.animated
    on = f"{len(material.pictures.pixels)} {material.pictures.words}"
    for name, measure, words in (
        ("first_frame_l1", animation.first_frame_l1, "mean absolute difference of first frame and picture, 0 to 255"),
        (
            "first_frame_psnr",
            animation.first_frame_psnr,
            "peak signal-to-noise ratio of the same, dB",
        ),
    ):
        yield _score(material, name, statistics.mean_and_error(measure(frames, pictures)), f"{words}; {on}")


def _no_model(material: Material) -> Iterator[Score]:
    _check_animates(material, "no_model")
    pictures, clips = material.animated, material.clips
    of_class = " of the class asked for" if clips.labels is not None and material.videos.categories else ""
    baselines = {
        "still": (animation.still_clips(pictures, clips), "the picture, standing still"),
        "nearest": (
            animation.nearest_clips(pictures, clips, material.videos, material.every_nth),
            f"the training clip{of_class} whose first frame is nearest to the picture at 16x16 pixels",
        ),
    }
    for key, (made, words) in baselines.items():
        judged, name = material.network(made), material.network.name
        yield _score(
            material,
            f"{key}_frechet_video",
            _frechet_with_error(material.judged_real.features, judged.features),
            f"frechet_video of {words}",
            features=name,
        )
        if made.categories and judged.categories is not None and material.videos.categories:
            right = statistics.mean_and_error(judged.categories == made.labels)
            yield _score(material, f"{key}_mcs", right, f"mcs of {words}", features=name)
        yield _score(material, f"{key}_motion", collapse.motion(made.frames), f"motion of {words}")
        yield _score(
            material,
            f"{key}_first_frame_l1",
            statistics.mean_and_error(animation.first_frame_l1(made.frames, pictures)),
            f"first_frame_l1 of {words}",
        )


def _check_animates(material: Material, name: str) -> None:
    if not material.animates:
        raise ValueError(f"`{name}` needs a run or bundle of --task=image_to_video.")


def _fvd(material: Material, file: str) -> Iterator[Score]:
    if material.num_frames != FVD_FRAMES:
        raise ValueError(f"`fvd` is defined on clips of {FVD_FRAMES} frames. Received: clips of {material.num_frames}")
    network = OnnxFeatures(file, rank=5)
    fake = np.concatenate([network(clips.frames) for clips in material.stream(FVD_CLIPS, material.seed)])
    real = network(material.cut_real(FVD_CLIPS).frames)
    protocol = (
        f"Frechet distance, {FVD_CLIPS} real and {FVD_CLIPS} generated clips of {FVD_FRAMES} frames at random offsets"
    )
    yield _score(
        material,
        "fvd",
        _frechet_with_error(real, fake),
        f"{protocol}, covariance over N - 1, bilinear resizing",
        features=network.name,
        num_videos=FVD_CLIPS,
    )


def _inception(material: Material, file: str) -> Iterator[Score]:
    network = OnnxFeatures(file, rank=5)
    runs = 1 if material.given is not None else IS_RUNS
    scores = []
    for run in range(runs):
        parts = [network(clips.frames) for clips in material.stream(IS_CLIPS, material.seed + run)]
        scores.append(statistics.inception_score(as_probabilities(np.concatenate(parts)), IS_SPLITS).value)
    yield _score(
        material,
        "is",
        statistics.mean_and_error(scores),
        f"inception score of {IS_CLIPS} clips, {runs} times (seeds {material.seed} to {material.seed + runs - 1})",
        features=network.name,
        num_videos=IS_CLIPS,
    )


_COVARIANCE = 2 * NUM_FEATURES  # Fewer clips leave a covariance of the features without meaning.

METRICS = {
    "acd_color": Metric(_acd_color, ("acd_color", "coverage", "color_diversity"), 2, "content distance by colour"),
    "acd": Metric(_acd_embedding, ("acd",), 2, "content distance by an embedding", takes_file=True),
    "acd_face": Metric(_acd_face, ("acd_face",), 2, "content distance by a face embedding", takes_file=True),
    "mcs": Metric(_mcs, ("mcs",), 32, "motion control score"),
    "frechet_video": Metric(_frechet_video, ("frechet_video",), _COVARIANCE, "Frechet distance of clips"),
    "frechet_frame": Metric(_frechet_frame, ("frechet_frame",), 16, "Frechet distance of frames"),
    "kernel_video": Metric(_kernel_video, ("kernel_video",), 32, "kernel distance of clips"),
    "texture": Metric(
        _texture,
        ("swd_128", "swd_64", "swd_32", "swd_16", "spectrum_high", "spectrum_checker"),
        16,
        "patches and spectrum of frames at native size",
    ),
    "precision": Metric(_precision_recall, ("precision", "recall"), 32, "precision and recall of clips"),
    "diversity": Metric(_collapse, ("diversity", "motion"), 2, "how clips differ, how frames change"),
    "loop": Metric(_loop, ("loop", "freeze", "drift"), 2, "what becomes of longer clips"),
    "identity": Metric(
        _truth,
        ("identity", "jerkiness", "motion_kept", "content_kept"),
        16,
        "colours, paths and swaps, for sets whose truth is known",
    ),
    "first_frame": Metric(
        _first_frame, ("first_frame_l1", "first_frame_psnr"), 2, "how near first frames are to the given pictures"
    ),
    "no_model": Metric(
        _no_model,
        tuple(f"{key}_{name}" for key in ("still", "nearest") for name in BASELINE_SCORES),
        _COVARIANCE,
        "what a still picture and the nearest training clip would score",
    ),
    "fvd": Metric(_fvd, ("fvd",), FVD_CLIPS, "Frechet video distance", takes_file=True),
    "is": Metric(_inception, ("is",), IS_CLIPS, "inception score", takes_file=True),
}
_BY_NAME = {name: key for key, metric in METRICS.items() for name in (key, *metric.names)}


def find(name: str) -> tuple[str, Metric, str]:
    """Returns the key in `METRICS`, the entry and the file that a name asks for.

    Raises:
        ValueError: There is no such metric, or the file is missing or too much.
    """
    base, _, file = name.strip().partition(":")
    if base not in _BY_NAME:
        known = ", ".join(f"{key}:FILE.onnx" if entry.takes_file else key for key, entry in METRICS.items())
        raise ValueError(f"Unknown metric {base!r}. Known: {known}.")
    key = _BY_NAME[base]
    metric = METRICS[key]
    if metric.takes_file and not file:
        raise ValueError(f"`{base}` needs a network: --metrics={base}:FILE.onnx. docs/metrics.md says how to get one.")
    if file and not metric.takes_file:
        raise ValueError(f"`{base}` takes no file. Received: {name}")
    return key, metric, file


def default_metrics(material: Material) -> list[str]:
    """Returns the metrics that can be computed of this material without any file."""
    names = ["diversity"]
    if material.config is None:
        return [*names, *(["acd_color"] if acd.has_shapes_on_black(material.clips.frames) else [])]
    names = ["frechet_video", "frechet_frame", "kernel_video", "precision", "texture", *names]
    if material.clips.labels is not None and material.clips.categories and material.videos.categories:
        names.insert(0, "mcs")
    if acd.has_shapes_on_black(material.real.frames):
        names.insert(0, "acd_color")
    if truth.is_known(material.config):
        names.append("identity")
    if material.separates:
        names.append("loop")
    if material.animates:
        names += ["first_frame", "no_model"]
    return [name for name in names if material.num_videos >= METRICS[name].min_videos]


def evaluate(names: Sequence[str], material: Material) -> Iterator[tuple[Score, float]]:
    """Yields the scores of metrics, each with the seconds that its metric took so far; says on stderr what it is at.

    Unknown names, missing files and too few clips are told before anything is computed.

    Raises:
        ValueError: A metric cannot be computed of this material; one line that says why.
    """
    asked: dict[tuple[str, str], Metric] = {}
    for name in names:
        key, metric, file = find(name)
        if material.num_videos < metric.min_videos:
            raise ValueError(
                f"`{key}` needs at least {metric.min_videos} clips. Received: --num_videos={material.num_videos}"
            )
        if file and not pathlib.Path(file).is_file():
            raise ValueError(f"Cannot read the feature network {file}: there is no such file.")
        asked[key, file] = metric
    for number, ((key, file), metric) in enumerate(asked.items(), 1):
        print(f"{number} of {len(asked)}: {key}, {metric.title}", file=sys.stderr, flush=True)
        begun = time.monotonic()
        for score in metric.compute(material, file) if metric.takes_file else metric.compute(material):
            yield score, time.monotonic() - begun
        print(f"{number} of {len(asked)}: {key}, {time.monotonic() - begun:.1f} s", file=sys.stderr, flush=True)
