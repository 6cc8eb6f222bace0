"""Scores a run, an exported bundle, or a folder of clips that any program made.

python evaluate.py --run_dir=runs/taichi-cpu --report=report
python evaluate.py --bundle=pretrained/taichi
"""

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
    flags.DEFINE_string("bundle", None, "Folder of the exported bundle to score.")
    flags.DEFINE_string(
        "clips",
        None,
        "Folder of clips to score: GIF, WebP, APNG, strips, npy, mp4; flat, or in one folder per class.",
    )
    flags.DEFINE_list(
        "metrics",
        [],
        "Names of metrics, separated by commas; docs/metrics.md lists them. Empty: all that need no file.",
    )
    flags.DEFINE_integer(
        "num_videos",
        None,
        "Number of clips to score and of real clips to compare with. Default: 256 of a generator, all of a folder.",
        lower_bound=2,
    )
    flags.DEFINE_integer("seed", 0, "Seed of the generated clips and of the choice of real clips.", lower_bound=0)
    flags.DEFINE_string("checkpoint", "latest", "Checkpoint of the run: latest, best (by its metric), or a step.")
    flags.DEFINE_string("dataset", "", "With --clips: name of the real set. Empty: the clips in --data_dir, or none.")
    flags.DEFINE_string("data_dir", "", "Folder of the real clips, if it is not that of the run or bundle.")
    flags.DEFINE_string(
        "cache_dir",
        "",
        "Folder that keeps decoded clips and feature networks. Empty: as the run, or the user's cache folder.",
    )
    flags.DEFINE_integer("every_nth", 2, "With --clips: keep every n-th frame of a real clip.", lower_bound=1)
    flags.DEFINE_integer(
        "num_clips", 4000, "With --clips: number of clips to render, for a rendered real set.", lower_bound=1
    )
    flags.DEFINE_string("report", "", "Folder to write index.html to: one page with numbers, curves and clips.")
    flags.DEFINE_string("json_out", "", "File to write the lines to, too.")


def _check_flags() -> None:
    """Reports what can be reported without TensorFlow."""
    from mocogan_tf.training import run_directory

    if sum(map(bool, (FLAGS.run_dir, FLAGS.bundle, FLAGS.clips))) != 1:
        raise ValueError("Give either --run_dir=DIR, a run, or --clips=DIR, a folder of clips, or --bundle=DIR.")
    if FLAGS.dataset and not FLAGS.clips:
        raise ValueError("--dataset goes with --clips: a run or bundle knows its set.")
    if FLAGS.clips and not pathlib.Path(FLAGS.clips).is_dir():
        raise ValueError(f"There is no folder {FLAGS.clips}.")
    if FLAGS.run_dir:
        run_directory.read_config(FLAGS.run_dir)
        if FLAGS.checkpoint != "best":
            run_directory.find_step(FLAGS.run_dir, FLAGS.checkpoint)


def _material() -> Material:
    from mocogan_tf.metrics import material
    from mocogan_tf.training import evaluation, trained

    shared = {"seed": FLAGS.seed, "data_dir": FLAGS.data_dir, "cache_dir": FLAGS.cache_dir}
    if FLAGS.run_dir or FLAGS.bundle:
        found = trained.open_bundle(FLAGS.bundle) if FLAGS.bundle else trained.open_run(FLAGS.run_dir, FLAGS.checkpoint)
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
        "real": score.real,
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
    _check_flags()
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
