"""Scores a run, or clips of any origin: python evaluate.py --run_dir=runs/taichi-cpu --report=report"""

from __future__ import annotations

import json
import pathlib
import shlex
import sys
import time
from typing import TYPE_CHECKING, Any

from absl import flags

from mocogan_tf import cli

if TYPE_CHECKING:
    from mocogan_tf.metrics.material import Material
    from mocogan_tf.metrics.registry import Score

FLAGS = flags.FLAGS
HISTORY = "metrics.jsonl"


def _define_flags() -> None:
    flags.DEFINE_string("run_dir", None, "Folder of the run to score.")
    flags.DEFINE_string(
        "clips",
        None,
        "Folder of clips to score instead, of any program: GIF, WebP, APNG, strips, npy, mp4; flat, or "
        "one folder per class.",
    )
    flags.DEFINE_list(
        "metrics", [], "Names, separated by commas; docs/metrics.md lists them. Empty: all that need no file."
    )
    flags.DEFINE_integer(
        "num_videos",
        None,
        "Clips to score, and real clips to compare with. 256 of a run, all of a folder.",
        lower_bound=2,
    )
    flags.DEFINE_integer(
        "seed", 0, "Of the latents, by the rule of docs/bundle.md, and of the choice of real clips.", lower_bound=0
    )
    flags.DEFINE_string("checkpoint", "latest", "latest, best, or a step.")
    flags.DEFINE_string("dataset", "", "With --clips: name of the real set. Empty: that of --data_dir, or none.")
    flags.DEFINE_string("data_dir", "", "Folder of the real clips, where it is not that of the run.")
    flags.DEFINE_string(
        "cache_dir",
        "",
        "Where decoded clips and feature networks are kept. Empty: as the run, or the user's cache folder.",
    )
    flags.DEFINE_integer("every_nth", 2, "With --clips: source frames per kept frame of a real clip.", lower_bound=1)
    flags.DEFINE_integer("num_clips", 4000, "With --clips: clips to render of a generated real set.", lower_bound=1)
    flags.DEFINE_string("report", "", "Folder to write index.html to: one page with numbers, curves and clips.")
    flags.DEFINE_string("json_out", "", "File to write the lines to as well.")


def _material() -> Material:
    from mocogan_tf.metrics import material
    from mocogan_tf.training import evaluation, trained

    if bool(FLAGS.run_dir) == bool(FLAGS.clips):
        raise ValueError("Give either --run_dir=DIR, a run, or --clips=DIR, a folder of clips.")
    shared = {"seed": FLAGS.seed, "data_dir": FLAGS.data_dir, "cache_dir": FLAGS.cache_dir}
    if FLAGS.run_dir:
        if FLAGS.dataset:
            raise ValueError("--dataset goes with --clips: a run knows its set.")
        found = trained.open_run(FLAGS.run_dir, FLAGS.checkpoint)
        return evaluation.material_of(found, num_videos=FLAGS.num_videos or 256, **shared)
    return material.of_folder(
        FLAGS.clips,
        num_videos=FLAGS.num_videos,
        dataset=FLAGS.dataset,
        every_nth=FLAGS.every_nth,
        num_real=FLAGS.num_clips,
        **shared,
    )


def _line(score: Score, seconds: float, step: int | None) -> dict[str, Any]:
    return {
        "metric": score.metric,
        "value": score.value,
        "std_error": score.std_error,
        "num_videos": score.num_videos,
        "frames": score.frames,
        "protocol": score.protocol,
        "features": score.features,
        "checkpoint_step": step,
        "seed": FLAGS.seed,
        "seconds": round(seconds, 2),
    }


def _command() -> str:
    return f"python {pathlib.Path(sys.argv[0]).name} {shlex.join(sys.argv[1:])}"


def main(argv: list[str]) -> int:
    """Prints one JSON line per number; of a run they are kept in its metrics.jsonl too."""
    del argv
    with cli.quiet_start():
        from mocogan_tf.metrics import registry  # Here, so that --help need not wait for TensorFlow.

    for name in FLAGS.metrics:
        registry.find(name)  # Before anything is loaded.
    material = _material()
    files = [pathlib.Path(FLAGS.run_dir) / HISTORY] if FLAGS.run_dir else []
    if FLAGS.json_out:
        files.append(pathlib.Path(FLAGS.json_out))
        files[-1].parent.mkdir(parents=True, exist_ok=True)
        files[-1].write_text("")
    scores = []
    for score, seconds in registry.evaluate(FLAGS.metrics or registry.default_metrics(material), material):
        line = json.dumps(_line(score, seconds, material.step), ensure_ascii=False, allow_nan=False)
        print(line, flush=True)
        for file in files:
            with open(file, "a") as opened:
                opened.write(line + "\n")
        scores.append(score)
    if FLAGS.report:
        from mocogan_tf.metrics import report

        path = report.write(
            FLAGS.report, material, scores, run_dir=FLAGS.run_dir, command=_command(), date=time.strftime("%Y-%m-%d")
        )
        print(f"report: {path}")
    return 0


def run() -> None:
    """Entry point of `mocogan-evaluate`."""
    _define_flags()
    cli.run(main, __doc__ or "")
