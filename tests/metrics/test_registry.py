"""Each score against a number worked out by hand, on judgements that no network made."""

import types

import numpy as np
import pytest

from mocogan_tf.metrics import registry, truth
from mocogan_tf.metrics.clips import Clips
from mocogan_tf.metrics.network import Judgement


def column(*values):
    """Features `[N, 1]`."""
    return np.array(values, np.float64)[:, None]


def judged(features=(), *, frame_features=None, categories=None):
    made = column(*features)
    frames = made[:, None] if frame_features is None else np.array(frame_features, np.float64)[..., None]
    return Judgement(made, frames, None if categories is None else np.array(categories))


def material(real=None, fake=None, other=None, *, asked=None):
    """What scores are computed from, with judgements in place of clips."""
    return types.SimpleNamespace(
        judged_real=real,
        judged=fake,
        judged_other=other,
        clips=Clips(np.zeros((4, 2, 1, 1, 3), np.uint8), asked, ("a", "b") if asked is not None else ()),
        videos=types.SimpleNamespace(categories=("a", "b")),
        network=types.SimpleNamespace(name="a network", accuracy={"category": 0.875}),
        num_videos=4 if fake is None else len(fake.features),
        num_frames=2,
        real_in_words="8 real clips",
        config=object(),
        separates=True,
        seed=0,
        generator=None,
    )


def score(name, found):
    (entry,) = [score for score in registry.METRICS[registry.find(name)[0]].compute(found) if score.metric == name]
    return entry


def test_mcs_is_the_share_of_generated_clips_taken_for_their_class():
    fake = judged([0, 0, 0, 0], categories=[0, 1, 1, 1])
    real = judged([0, 0, 0, 0], categories=[1, 0, 1, 0])
    found = score("mcs", material(real, fake, asked=np.array([0, 1, 0, 1])))
    assert found.value == 0.75
    assert found.std_error == pytest.approx(0.25)  # Of 1, 1, 0, 1: root of a quarter, over two.
    assert found.real == 0.875


# Eight real samples in two places; generated ones are spread over the first place only.
REAL = judged([0, 1, 2, 3, 100, 101, 102, 103])
FAKE = judged([0.2, 0.7, 1.0, 1.2, 1.7, 2.2, 2.6, 2.8])
OTHER = judged([0, 1, 2, 3, 200, 201, 202, 203])


def test_precision_is_of_generated_clips_and_recall_of_real_ones():
    precision, recall = (score(name, material(REAL, FAKE, OTHER)) for name in ("precision", "recall"))
    assert (precision.value, recall.value) == (1.0, 0.5)
    assert (precision.real, recall.real) == (0.5, 0.5)
    assert recall.std_error == pytest.approx(np.sqrt(0.25 / 8)) and precision.std_error == 0
    assert "generated clips inside the support of real" in precision.protocol
    assert "real clips inside the support of generated" in recall.protocol


def test_the_kernel_distance_is_about_the_real_clips_mean():
    # About 2: x = -1, 0, 1 and y = 0, 1, 2 under (x y + 1)^3, pairs of a set without the diagonal.
    of_real, of_fake, across = (1 + 0 + 1) / 3, (1 + 1 + 27) / 3, (1 + 0 - 1 + 1 + 1 + 1 + 1 + 8 + 27) / 9
    found = score("kernel_video", material(judged([1, 2, 3]), judged([2, 3, 4]), judged([1, 2, 3])))
    assert found.value == pytest.approx(of_real + of_fake - 2 * across)
    far = score("kernel_video", material(judged([501, 502, 503]), judged([502, 503, 504])))
    assert far.value == pytest.approx(found.value) and far.real is None
    same = (8 + 1 + 0 + 1 + 1 + 1 + 0 + 1 + 8) / 9  # x with itself, the diagonal included.
    assert found.real == pytest.approx(2 * of_real - 2 * same)


def by_hand(real, fake):
    """Frechet distance of two sets of numbers."""
    return (np.mean(real) - np.mean(fake)) ** 2 + (np.std(real, ddof=1) - np.std(fake, ddof=1)) ** 2


def test_frechet_distances_and_their_jackknife_over_ten_groups():
    rng = np.random.default_rng(0)
    real, fake, other = rng.normal(0, 1, 30), rng.normal(2, 3, 30), rng.normal(0.5, 1, 30)
    frames = [values[:, None] + [0.0, 1.0, 5.0] for values in (real, fake, other)]
    found = material(*(judged(v, frame_features=f) for v, f in zip((real, fake, other), frames, strict=True)))
    for name, sets in (("frechet_video", (real, fake, other)), ("frechet_frame", frames)):
        without = [
            by_hand(*(np.delete(values, np.s_[group::10], axis=0).ravel() for values in sets[:2]))
            for group in range(10)
        ]
        got = score(name, found)
        assert got.value == pytest.approx(by_hand(sets[0].ravel(), sets[1].ravel()))
        assert got.std_error == pytest.approx(np.sqrt(0.9 * np.sum((np.array(without) - np.mean(without)) ** 2)))
        assert got.real == pytest.approx(by_hand(sets[0].ravel(), sets[2].ravel()))


def test_motion_kept_is_under_another_content_and_content_kept_under_another_motion(monkeypatch):
    reader = types.SimpleNamespace(content="the colour", motion="the path", words="read off", name="rule")
    monkeypatch.setattr(truth, "swapped_clips", lambda *args, **options: np.zeros((2, 2, 2, 1, 1, 3), np.uint8))
    kept = types.SimpleNamespace(motion=0.75, content=0.25)
    monkeypatch.setattr(truth, "disentanglement", lambda seen, grid: kept)
    reader_of = type("Reader", (), {**vars(reader), "__call__": lambda self, frames: frames})()
    found = {score.metric: score for score in registry._disentanglement(material(), reader_of)}
    assert {name: score.value for name, score in found.items()} == {"motion_kept": 0.75, "content_kept": 0.25}
    assert "the path" in found["motion_kept"].protocol and "the colour" in found["content_kept"].protocol
