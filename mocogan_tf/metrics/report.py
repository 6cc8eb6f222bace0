"""The report: numbers with their protocols, curves over checkpoints and clips on one page, readable offline."""

from __future__ import annotations

import base64
import dataclasses
import html
import math
import pathlib
import string
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

import mocogan_tf
from mocogan_tf import sampling, video
from mocogan_tf.files import read_lines
from mocogan_tf.metrics import quality
from mocogan_tf.metrics.clips import Clips
from mocogan_tf.metrics.material import Material
from mocogan_tf.metrics.registry import LONGER, Score

PAGE = "index.html"
TEMPLATE = pathlib.Path(__file__).with_name("report.html")
ARROWS: dict[quality.Better, str] = {"more": "↑", "less": "↓", "zero": "→ 0", "real": "→"}
_GRID = 4  # Clips per side of a sample grid.
_GAP = 128  # Grey between clips, for a light and a dark page.
_ROWS_AT_A_TIME = 16  # Frames per row of the filmstrip.


def write(
    folder: str | pathlib.Path,
    material: Material,
    scores: Sequence[Score],
    *,
    run_dir: str | None,
    command: str,
    date: str,
) -> pathlib.Path:
    """Writes the page.

    Args:
        folder: Where; made if missing.
        material: The clips that were scored.
        scores: The scores.
        run_dir: The run, whose history gives the curves; None for clips of a folder.
        command: The command line that repeats it.
        date: Date of the evaluation.

    Returns:
        The page's path.

    Raises:
        ValueError: `folder` is a file.
    """
    folder = pathlib.Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file. Choose another --report.")
    name = pathlib.Path(run_dir).resolve().name if run_dir else "Clips of a folder"
    page = string.Template(TEMPLATE.read_text()).substitute(
        title=html.escape(name if material.config is None else f"{name}: {material.config.model}, {_set(material)}"),
        facts=_facts(material, date),
        samples=_samples(material),
        rows="\n".join(map(_row, scores)),
        curves=_curves(run_dir, scores),
        swaps=_swaps(material),
        long=_long(material),
        command=html.escape(command),
        config=_config(material),
        footer=f"mocogan-tf {mocogan_tf.__version__}. {_features(scores)}",
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / PAGE
    path.write_text(page, encoding="utf-8")
    return path


def _set(material: Material) -> str:
    assert material.config is not None
    return pathlib.PurePath(material.config.data_dir).name or material.config.dataset


def _facts(material: Material, date: str) -> str:
    height, width = material.clips.frames.shape[2:4]
    facts = [
        ("clips", f"{material.num_videos}"),
        ("frames", f"{material.num_frames}"),
        ("pixels", f"{width}x{height}"),
        ("seed", f"{material.seed}"),
        ("", date),
    ]
    if material.config is not None:
        facts.insert(1, ("compared with", material.real_in_words))
    if material.step is not None:
        facts.insert(0, ("step", f"{material.step:,}"))
    return "".join(f"<span>{label} <b>{value}</b></span>" for label, value in facts)


def _row(score: Score) -> str:
    value = "none" if score.value is None else _number(score.value)
    error = f" <span class='soft'>± {_number(score.std_error)}</span>" if score.std_error is not None else ""
    real = "" if score.real is None else _number(score.real)
    protocol = score.protocol.partition("; real clips:")[0]
    return (
        f"<tr><td><code>{score.metric}</code> <span class='better'>{ARROWS[score.better]}</span></td>"
        f"<td class='number'><b>{value}</b>{error}</td><td class='number real'>{real}</td>"
        f"<td class='protocol'>{html.escape(protocol)}; {score.num_videos} clips of {score.frames} frames</td></tr>"
    )


def _number(value: float) -> str:
    """Three significant digits, and no more than a reader takes in."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else "none"
    decimals = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{min(decimals, 4)}f}"


def _figure(image: str, caption: str, *, wide: bool = False) -> str:
    inner = f"<div class='scroll'>{image}</div>" if wide else image
    return f"<figure>{inner}<figcaption>{caption}</figcaption></figure>"


def _film(frames: NDArray[np.uint8], fps: float, alt: str) -> str:
    """uint8 `[T, H, W, C]` as a moving picture, or a still one for people who prefer reduced motion."""
    moving = video.animation(frames, "WEBP", fps, quality=88, method=4)
    still, uri = _png(frames[len(frames) // 2]), _uri(moving, "webp")
    height, width = frames.shape[1:3]
    return (
        f"<picture><source media='(prefers-reduced-motion: reduce)' srcset='{still}'>"
        f"<img src='{uri}' width='{width}' height='{height}' alt='{alt}' style='height:auto'></picture>"
    )


def _png(pixels: NDArray[np.uint8]) -> str:
    return _uri(video.picture(pixels, "PNG", optimize=True), "png")


def _uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _fps(material: Material) -> float:
    return 8.0 if material.config is None else max(1.0, material.videos.fps / material.every_nth)


def _samples(material: Material) -> str:
    of_folder = material.generator is None
    shown = [("From the folder" if of_folder else "Generated", material.clips)]
    if material.config is not None:
        shown.append(("Real", material.real))
    figures = []
    for title, clips in shown:
        side = min(_GRID, math.isqrt(len(clips)))
        film = video.grid(clips.frames[: side * side], side, background=_GAP)
        names = _classes(clips, side * side) or ("" if of_folder else ", the first clips of the seed")
        figures.append(_figure(_film(film, _fps(material), f"Clips: {title.lower()}"), f"<b>{title}</b>{names}"))
    return f"<div class='pair'>{''.join(figures)}</div>"


def _classes(clips: Clips, number: int) -> str:
    if clips.labels is None or not clips.categories:
        return ""
    found = sorted({clips.categories[int(label)] for label in clips.labels[:number]})
    return f": {html.escape(', '.join(found))}"


def _swaps(material: Material) -> str:
    if not material.separates:
        return ""
    columns = min(max(_GRID, material.generator.latents.dim_category), 8)
    clips = sampling.content_motion_grid(material.generator, _GRID, columns, material.num_frames, seed=material.seed)
    names = material.clips.categories
    by_column = sampling.category_moves(material.generator)
    words = f" Classes, by {'column' if by_column else 'row'}: {html.escape(', '.join(names))}." if names else ""
    caption = f"A row shares its content code, a column its motion codes.{words}"
    film = _figure(
        _film(video.grid(clips, columns, background=_GAP), _fps(material), "Contents by motions"), caption, wide=True
    )
    return f"<h2>Content and motion, swapped</h2>{film}"


def _long(material: Material) -> str:
    if material.separates:
        frames = material.make(1, LONGER * material.num_frames).frames[0]
        words = f"Clip 0 of the seed, continued to {len(frames)} frames; trained on {material.num_frames}."
    else:
        frames, words = material.clips.frames[0], "All frames of the first clip."
    rows = [frames[first : first + _ROWS_AT_A_TIME] for first in range(0, len(frames), _ROWS_AT_A_TIME)]
    full = [row for row in rows if len(row) == len(rows[0])]
    strip = _png(video.film_strips(np.stack(full), background=_GAP))
    image = f"<img src='{strip}' alt='All frames of one clip'>"
    return f"<h2>The longest clip, frame by frame</h2>{_figure(image, words, wide=True)}"


def _config(material: Material) -> str:
    if material.config is None:
        return ""
    return f"<details><summary>Configuration</summary><pre>{html.escape(material.config.to_json())}</pre></details>"


def _features(scores: Iterable[Score]) -> str:
    names = dict.fromkeys(score.features for score in scores if score.features)
    return f"Networks: {html.escape(', '.join(names))}." if names else ""


@dataclasses.dataclass(frozen=True)
class _Curve:
    metric: str
    points: list[tuple[int, float]]
    real: float | None


def _curves(run_dir: str | None, scores: Sequence[Score]) -> str:
    if run_dir is None:
        return ""
    curves = [curve for curve in read_history(run_dir, scores) if len(curve.points) > 1]
    if not curves:
        return ""
    figures = "".join(_svg_figure(curve) for curve in curves)
    return (
        "<h2>Over training</h2><p class='soft'>Scores while training, and of later evaluations. The filled point is "
        f"the best, the dashed line what real clips score.</p><div class='curves'>{figures}</div>"
    )


def read_history(run_dir: str | pathlib.Path, scores: Sequence[Score]) -> list[_Curve]:
    """Curves of a run: `evaluations.jsonl`, written while it trained, and `metrics.jsonl`, written by evaluate.py.

    Where both have a step, the later evaluation counts. Lines that are no JSON are passed over.
    """
    found: dict[str, dict[int, float]] = {}
    for line in read_lines(pathlib.Path(run_dir) / "evaluations.jsonl"):
        for name, value in line.items():
            if name != "step" and isinstance(value, int | float):
                found.setdefault(name, {})[int(line["step"])] = float(value)
    for line in read_lines(pathlib.Path(run_dir) / "metrics.jsonl"):
        if line.get("value") is not None and line.get("checkpoint_step") is not None:
            found.setdefault(line["metric"], {})[int(line["checkpoint_step"])] = float(line["value"])
    known = {score.metric: score for score in scores}
    curves = []
    for name, points in found.items():
        if name.endswith("_real"):
            continue
        score = known.get(name)
        real = score.real if score else next(iter(found.get(f"{name}_real", {}).values()), None)
        curves.append(_Curve(name, sorted(points.items()), real))
    return curves


def _svg_figure(curve: _Curve) -> str:
    width, height, left, right, top, bottom = 260, 130, 38, 10, 8, 20
    steps = [step for step, _ in curve.points]
    values = [value for _, value in curve.points]
    shown = [*values, *([curve.real] if curve.real is not None else [])]
    low, high = min(shown), max(shown)
    margin = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
    low, high = low - margin, high + margin

    def x(step: int) -> float:
        return left + (width - left - right) * (step - steps[0]) / max(1, steps[-1] - steps[0])

    def y(value: float) -> float:
        return top + (height - top - bottom) * (high - value) / (high - low)

    ticks = [low + margin, (low + high) / 2, high - margin]
    axes = "".join(
        f"<line class='axis' x1='{left}' x2='{width - right}' y1='{y(tick):.1f}' y2='{y(tick):.1f}'/>"
        f"<text x='{left - 5}' y='{y(tick) + 3:.1f}' text-anchor='end'>{_number(tick)}</text>"
        for tick in ticks
    )
    axes += f"<text x='{left}' y='{height - 5}'>{steps[0]:,}</text>"
    axes += f"<text x='{width - right}' y='{height - 5}' text-anchor='end'>{steps[-1]:,} steps</text>"
    if curve.real is not None:
        level = f"{y(curve.real):.1f}"
        axes += f"<line class='real' x1='{left}' x2='{width - right}' y1='{level}' y2='{level}'/>"
    path = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in curve.points)
    losses = [loss for value in values if (loss := quality.loss(curve.metric, value)) is not None]
    best = values[losses.index(min(losses))] if losses else None
    marks = "".join(
        f"<circle class='point{' best' if value == best else ''}' cx='{x(step):.1f}' cy='{y(value):.1f}' r='3'>"
        f"<title>step {step:,}: {_number(value)}</title></circle>"
        for step, value in curve.points
    )
    label = f"{curve.metric} over training steps"
    return (
        f"<figure><figcaption><b>{curve.metric} {ARROWS[quality.better(curve.metric)]}</b>"
        f"<span>{_number(values[-1])}</span></figcaption>"
        f"<svg viewBox='0 0 {width} {height}' role='img' aria-label='{label}'>{axes}"
        f"<polyline class='curve' points='{path}'/>{marks}</svg></figure>"
    )
