"""The page of an evaluation, read as a reader does: numbers, which way is better, and the best point of a curve."""

import json
import re

import numpy as np
import pytest

from mocogan_tf.data.rendered import shapes
from mocogan_tf.metrics import material, report
from mocogan_tf.metrics.clips import Clips
from mocogan_tf.metrics.registry import Score

VALUES = {"mcs": 0.5, "frechet_video": 12.345, "spectrum_high": -0.25, "diversity": 20.0, "precision": 0.0}
ARROWS = {"mcs": "↑", "frechet_video": "↓", "spectrum_high": "→ 0", "diversity": "→", "precision": "↑"}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    steps = {1: (5.0, 0.2, 0.5), 2: (2.0, 0.9, -0.1), 3: (3.0, 0.4, -0.9)}
    lines = [
        json.dumps({"step": step, "frechet_video": f, "mcs": m, "spectrum_high": s, "motion": m, "motion_real": 0.5})
        for step, (f, m, s) in steps.items()
    ]
    (folder / "evaluations.jsonl").write_text("\n".join(lines))
    frames = np.stack([shapes.render_clip(i, seed=1, num_frames=3, image_size=32).frames for i in range(4)])
    found = material.Material(None, num_videos=4, num_frames=3, seed=0, given=Clips(frames))
    scores = [
        Score(name, value, 0.125 if name == "mcs" else None, 4, 3, f"how {name} <is> made", real=7.0)
        for name, value in VALUES.items()
    ]
    scores.append(Score("loop", None, None, 4, 3, "not defined"))
    path = report.write(folder / "page", found, scores, run_dir=str(folder), command="evaluate.py", date="today")
    return path.read_text()


def test_each_score_is_shown_with_which_way_is_better(page):
    rows = re.findall(r"<tr><td><code>(\w+)</code> <span class='better'>([^<]*)</span></td>", page)
    assert dict(rows) == {**ARROWS, "loop": "↓"}
    assert "↓ less is better, ↑ more is better" in page


def test_numbers_have_three_digits_their_error_and_what_real_clips_score(page):
    cells = re.findall(r"<code>(\w+)</code>.*?<b>([^<]*)</b>(.*?)</td><td class='number real'>([^<]*)</td>", page)
    assert {name: value for name, value, _, _ in cells} == {
        "mcs": "0.500", "frechet_video": "12.3", "spectrum_high": "-0.250", "diversity": "20.0", "precision": "0",
        "loop": "none",
    }  # fmt: skip
    assert {name for name, _, error, _ in cells if "± 0.125" in error} == {"mcs"}
    assert {name: real for name, _, _, real in cells} == {**dict.fromkeys(VALUES, "7.00"), "loop": ""}
    assert "how mcs &lt;is&gt; made; 4 clips of 3 frames" in page


def test_the_filled_point_of_a_curve_is_its_best_step(page):
    best = {}
    for figure in re.findall(r"<figure><figcaption><b>.*?</figure>", page, re.S):
        name, arrow = re.search(r"<b>(\w+) ([^<]*)</b>", figure).groups()
        points = re.findall(r"<circle class='point( best)?' cx='[\d.]+' cy='([\d.]+)' r='3'><title>step (\d)", figure)
        best[name] = (arrow, [int(step) for mark, _, step in points if mark])
        heights = [float(y) for _, y, _ in points]  # Downwards.
        values = [float(value) for value in re.findall(r"<title>step \d: ([-\d.]+)</title>", figure)]
        assert np.argmin(heights) == np.argmax(values) and np.argmax(heights) == np.argmin(values)
    assert best == {"frechet_video": ("↓", [2]), "mcs": ("↑", [2]), "spectrum_high": ("→ 0", [2]), "motion": ("→", [])}
