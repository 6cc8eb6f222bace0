"""The scores by name: which values are good, and which checkpoint is best by them."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Collection, Mapping
from typing import Literal

Better = Literal["more", "less", "zero", "real"]
AUTO = "auto"
FALLBACK = "frechet_video"  # What chose checkpoints before there were scores of texture.


@dataclasses.dataclass(frozen=True)
class About:
    """What is known of a score.

    Args:
        better: `more` or `less` of it is better, or nearer to `zero`, or nearer to the score of `real` clips.
        chooses: Whether a checkpoint can be the best by it alone; training computes these scores.
    """

    better: Better
    chooses: bool = False


# Of clips that are made without a model, beside those of a model that animates pictures.
BASELINE_SCORES: dict[str, Better] = {
    "frechet_video": "less",
    "mcs": "more",
    "motion": "real",
    "first_frame_l1": "less",
}
SCORES = {
    "frechet_video": About("less", chooses=True),
    "frechet_frame": About("less", chooses=True),
    "kernel_video": About("less", chooses=True),
    "swd_128": About("less", chooses=True),
    "swd_64": About("less", chooses=True),
    "swd_32": About("less", chooses=True),
    "swd_16": About("less", chooses=True),
    "spectrum_high": About("zero", chooses=True),
    "spectrum_checker": About("zero", chooses=True),
    "mcs": About("more", chooses=True),
    "acd_color": About("less", chooses=True),
    "coverage": About("more", chooses=True),
    "color_diversity": About("more", chooses=True),
    "diversity": About("real"),
    "motion": About("real"),
    "precision": About("more"),
    "recall": About("more"),
    "acd": About("less"),
    "acd_face": About("less"),
    "identity": About("less"),
    "jerkiness": About("real"),
    "motion_kept": About("more"),
    "content_kept": About("more"),
    "loop": About("less"),
    "first_frame_l1": About("less"),
    "first_frame_psnr": About("more"),
    **{
        f"{baseline}_{name}": About(better)
        for baseline in ("still", "nearest")
        for name, better in BASELINE_SCORES.items()
    },
    "freeze": About("less"),
    "drift": About("less"),
    "fvd": About("less"),
    "is": About("more"),
}


def better(name: str) -> Better:
    """Which values of a score are good; `real` where the score is unknown."""
    return SCORES[name].better if name in SCORES else "real"


def loss(name: str, value: float) -> float | None:
    """Turns a score into a number of which less is better; None where that depends on the score of real clips."""
    match better(name):
        case "more":
            return -value
        case "less":
            return value
        case "zero":
            return abs(value)
        case _:
            return None


def check_chooses(name: str) -> None:
    """Raises ValueError unless the best checkpoint can be chosen by a score, or by `auto`."""
    if name != AUTO and not (name in SCORES and SCORES[name].chooses):
        known = ", ".join([AUTO, *(score for score, about in SCORES.items() if about.chooses)])
        raise ValueError(f"No best checkpoint by {name!r}. Choose one of {known}.")


def can_choose(metric: str, scores: Collection[str]) -> bool:
    """Whether a checkpoint with these scores can be the best by `metric`."""
    return (FALLBACK if metric == AUTO else metric) in scores


def best_step(
    scores_by_step: Mapping[int, Mapping[str, object]], metric: str = AUTO, among: Collection[int] | None = None
) -> int | None:
    """Returns the step that is best by one score, or by rank in several.

    `auto` ranks the steps by three things, and takes the lowest mean rank:

    * the distance of clips: `kernel_video`;
    * texture: `swd` at native size, the distance of `spectrum_high` from 0, and how far `spectrum_checker` lies from
      `spectrum_high`; the mean of the three ranks;
    * the class, where clips have labels: `mcs`.

    Where a step lacks `kernel_video` or texture, as in runs of earlier versions, `frechet_video` alone decides.

    Args:
        scores_by_step: Scores by name of each step; values that are no finite floats count as missing.
        metric: `auto`, or a score of `SCORES`.
        among: Steps that can be chosen; the others count in ranks only. None: all.

    Returns:
        The step, the earlier of equals; None where none can be chosen.
    """
    scores = {step: _finite(of_step) for step, of_step in sorted(scores_by_step.items())}
    scored = {step: of_step for step, of_step in scores.items() if can_choose(metric, of_step)}
    candidates = [step for step in scored if among is None or step in among]
    if not candidates:
        return None
    places = _mean_ranks(scored, candidates) if metric == AUTO else _ranks(scored, _loss_in(metric))
    return min(candidates, key=lambda step: places[step])


def _finite(scores: Mapping[str, object]) -> dict[str, float]:
    return {name: value for name, value in scores.items() if isinstance(value, float) and math.isfinite(value)}


def _loss_in(name: str) -> Callable[[Mapping[str, float]], float]:
    def of_scores(scores: Mapping[str, float]) -> float:
        found = loss(name, scores[name])
        if found is None:
            raise ValueError(f"Neither more nor less of {name!r} is better.")
        return found

    return of_scores


def _raster(scores: Mapping[str, float]) -> float:
    return abs(scores["spectrum_checker"] - scores["spectrum_high"])


def _mean_ranks(scored: Mapping[int, Mapping[str, float]], candidates: Collection[int]) -> dict[int, float]:
    """Mean rank in distance, texture and class, by the scores that all candidates have; of the steps that have them."""
    common = set.intersection(*(set(scored[step]) for step in candidates))
    sizes = [int(name.removeprefix("swd_")) for name in common if name.startswith("swd_")]
    if not sizes or not {"kernel_video", "spectrum_high", "spectrum_checker"} <= common:
        return _ranks(scored, _loss_in(FALLBACK))
    native = f"swd_{max(sizes)}"
    aspects = [[_loss_in("kernel_video")], [_loss_in(native), _loss_in("spectrum_high"), _raster]]
    if "mcs" in common:
        aspects.append([_loss_in("mcs")])
    needed = common & {"kernel_video", native, "spectrum_high", "spectrum_checker", "mcs"}
    ranked = {step: scores for step, scores in scored.items() if needed <= scores.keys()}
    ranks = [[_ranks(ranked, part) for part in aspect] for aspect in aspects]
    means = {step: [statistics.mean(part[step] for part in aspect) for aspect in ranks] for step in ranked}
    return {step: round(statistics.mean(of_step), 9) for step, of_step in means.items()}  # Equals stay equal.


def _ranks(
    scored: Mapping[int, Mapping[str, float]], of_scores: Callable[[Mapping[str, float]], float]
) -> dict[int, float]:
    """Rank of every step, from 0, by a number of which less is better; equal numbers share their mean rank."""
    losses = {step: of_scores(scores) for step, scores in scored.items()}
    in_order = sorted(losses.values())
    return {step: in_order.index(value) + (in_order.count(value) - 1) / 2 for step, value in losses.items()}
