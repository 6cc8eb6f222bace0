"""Writes clips of a trained run: python sample.py --run_dir=runs/taichi-cpu --out=samples --mode=content_motion_grid"""

from __future__ import annotations

import math
import pathlib
from typing import Any

from absl import flags

from mocogan_tf import cli, video

FLAGS = flags.FLAGS
MODES = ["random", "content_motion_grid", "categories", "interpolate", "long"]


def _define_flags() -> None:
    flags.DEFINE_string("run_dir", None, "Folder of the run.", required=True)
    flags.DEFINE_string("out", None, "Folder to write to; made if missing.", required=True)
    flags.DEFINE_enum(
        "mode",
        "random",
        MODES,
        "random: clips 0, 1, ... of the seed; content_motion_grid: rows share content, columns share motion; "
        "categories: one content under every category; interpolate: one motion, contents from one to another; "
        "long: clips longer than trained.",
    )
    flags.DEFINE_string("checkpoint", "latest", "latest, best (by the run's metric), or a step.")
    flags.DEFINE_integer("num_videos", 8, "Clips; in a grid rows.", lower_bound=1)
    flags.DEFINE_integer("columns", 0, "Columns of the content x motion grid. 0: as many as rows.", lower_bound=0)
    flags.DEFINE_integer(
        "frames", 0, "Frames per clip. 0: as trained; four times that with --mode=long.", lower_bound=0
    )
    flags.DEFINE_integer("category", -1, "Category of random and long clips. -1: drawn from the seed.", lower_bound=-1)
    flags.DEFINE_integer("seed", 0, "Clip i of a seed is the same whatever else is asked for.", lower_bound=0)
    flags.DEFINE_float("fps", 0.0, "Frames per second, 0.1 to 1000. 0: as the clips trained on.")
    flags.register_validator("fps", lambda fps: fps == 0 or 0.1 <= fps <= 1000, "must be 0, or in [0.1, 1000]")
    flags.DEFINE_integer("scale", 1, "Enlarge every pixel by this factor.", lower_bound=1)
    flags.DEFINE_list(
        "formats", ["webp"], "Any of gif, webp, apng, png (a strip of all frames), npy, and mp4 and webm with PyAV."
    )


def _make_clips(generator: Any, frames: int) -> tuple[video.Pixels, int]:
    """Returns uint8 clips `[N, T, H, W, C]` and the columns of their grid."""
    from mocogan_tf import sampling

    number, columns = FLAGS.num_videos, FLAGS.columns or FLAGS.num_videos
    if FLAGS.mode == "content_motion_grid":
        return sampling.content_motion_grid(generator, number, columns, frames, seed=FLAGS.seed), columns
    if FLAGS.mode == "categories":
        clips = sampling.all_categories(generator, number, frames, seed=FLAGS.seed)
        return clips, generator.latents.dim_category
    if FLAGS.mode == "interpolate":
        return sampling.interpolated_contents(generator, number, frames, seed=FLAGS.seed), number
    category = None if FLAGS.category < 0 else FLAGS.category
    clips = sampling.random_clips(generator, number, frames, seed=FLAGS.seed, category=category)
    side = math.isqrt(number - 1) + 1
    # Full rows, where a grid that is not much wider has them.
    return clips, next((columns for columns in range(side, 2 * side) if number % columns == 0), side)


def main(argv: list[str]) -> int:
    """Writes one file per clip and format, and all clips as one grid."""
    del argv
    suffixes = [f".{name.strip('. ').lower()}" for name in FLAGS.formats]
    unknown = [suffix for suffix in suffixes if suffix not in video.SUFFIXES]
    if unknown:
        raise ValueError(f"Unknown format {unknown[0][1:]!r}. Known: {', '.join(s[1:] for s in video.SUFFIXES)}.")
    with cli.quiet_start():
        from mocogan_tf.training import run_directory, trained  # Here, so that --help need not wait for TensorFlow.

    generator, config, step = trained.load_generator(FLAGS.run_dir, FLAGS.checkpoint)
    stride = generator.frame_stride
    frames = FLAGS.frames or config.video_length // stride * (4 if FLAGS.mode == "long" else 1)
    fps = FLAGS.fps or run_directory.read_data(FLAGS.run_dir)["fps"] / stride
    clips, columns = _make_clips(generator, frames)
    clips = video.scale_up(clips, FLAGS.scale)
    out = pathlib.Path(FLAGS.out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file. Choose another --out.")
    out.mkdir(parents=True, exist_ok=True)
    grid = video.grid(clips, columns)
    for suffix in suffixes:
        for i, clip in enumerate(clips):
            video.write_video(out / f"{FLAGS.mode}-{i:04d}{suffix}", clip, fps)
        if suffix != ".npy":
            video.write_video(out / f"{FLAGS.mode}-grid{suffix}", grid, fps)
    print(f"{len(clips)} clips of {frames} frames from step {step} of {FLAGS.run_dir} are in {out}")
    return 0


def run() -> None:
    """Entry point of `mocogan-sample`."""
    _define_flags()
    cli.run(main, __doc__ or "")
