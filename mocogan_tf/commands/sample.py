"""Writes clips of a trained generator: of a run, or of an exported bundle.

python sample.py --bundle=pretrained/taichi --out=samples
python sample.py --run_dir=runs/taichi-cpu --out=samples --mode=content_motion_grid
python sample.py --run_dir=runs/taichi-image_to_video-cpu --out=samples --mode=animate --image=me.png
python sample.py --bundle=pretrained/taichi --out=samples --mode=transfer --content_clip=a.mp4 --motion_clip=b.mp4
"""

from __future__ import annotations

import contextlib
import functools
import math
import operator
import os
import pathlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags

from mocogan_tf import cli, video
from mocogan_tf.commands import given_clips
from mocogan_tf.pictures import fit_picture, read_picture

if TYPE_CHECKING:
    from mocogan_tf.config import Config
    from mocogan_tf.training.trained import Trained

FLAGS = flags.FLAGS
# A file, the shape of its clip, and what of the clips `[N, t, H, W, C]` it shows.
Target = tuple[pathlib.Path, tuple[int, ...], Callable[[video.Pixels], video.Pixels]]
# Number of clips and of their frames, what arranges them in a grid, and the clips in pieces, made when they are asked.
Made = tuple[int, int, Callable[[video.Pixels], video.Pixels], Iterable[video.Pixels]]
MODES = ["random", "content_motion_grid", "categories", "interpolate", "long", "animate", *given_clips.MODES]


def _define_flags() -> None:
    flags.DEFINE_string("run_dir", None, "Folder of the run.")
    flags.DEFINE_string("bundle", None, "Folder of an exported bundle, instead of a run.")
    flags.DEFINE_string("out", None, "Folder to write to; made if missing.", required=True)
    flags.DEFINE_enum(
        "mode",
        "random",
        MODES,
        "random: clips 0, 1, ... of the seed; content_motion_grid: rows share content, columns share motion; "
        "categories: one content under every category; interpolate: one motion under contents between two; "
        "long: clips longer than trained; animate: rows are pictures, columns are motions of them; "
        "reconstruct: given clips beside those that the model makes of their codes; "
        "transfer: what is seen in one clip in the motion of another.",
    )
    flags.DEFINE_list(
        "image",
        [],
        "With --mode=animate: pictures, separated by commas; of those that move and of video files the first "
        "frames. Each is cropped and resized as training clips are. Empty: pictures of the run.",
    )
    flags.DEFINE_list("clip", [], f"With --mode=reconstruct: clips, separated by commas, each {given_clips.KINDS}.")
    flags.DEFINE_string("content_clip", None, "With --mode=transfer: the clip that shows whom to move.")
    flags.DEFINE_string("motion_clip", None, "With --mode=transfer: the clip that shows how.")
    flags.DEFINE_string("checkpoint", "latest", "Checkpoint of the run: latest, best (by its metric), or a step.")
    flags.DEFINE_integer("num_videos", 8, "Number of clips; in a grid, of rows; of pictures of the run.", lower_bound=1)
    flags.DEFINE_integer(
        "columns",
        0,
        "Columns of the content x motion grid, or motions of each picture. 0: as many as rows; of a picture one in "
        "each category, or one if --category is given.",
        lower_bound=0,
    )
    flags.DEFINE_integer(
        "frames", 0, "Frames per clip. 0: as trained; four times that with --mode=long.", lower_bound=0
    )
    flags.DEFINE_string(
        "category",
        "",
        "Category of random, long, animated and given clips, by name or number. Empty: drawn from the seed; of "
        "pictures, all; of a given clip, that which shows it best.",
    )
    flags.DEFINE_integer(
        "seed", 0, "Seed of the clips. Clip i of a seed does not depend on other flags.", lower_bound=0
    )
    flags.DEFINE_float("fps", 0.0, "Frames per second, 0.1 to 1000. 0: as the clips trained on.")
    flags.register_validator("fps", lambda fps: fps == 0 or 0.1 <= fps <= 1000, "must be 0, or in [0.1, 1000]")
    flags.DEFINE_integer("scale", 1, "Enlarge every pixel by this factor.", lower_bound=1)
    flags.DEFINE_list(
        "formats", ["webp"], "Any of gif, webp, apng, png (a strip of all frames), npy, and mp4 and webm with PyAV."
    )


def _check_flags() -> list[str]:
    """Reports what can be reported without TensorFlow; returns the endings of the files to write."""
    from mocogan_tf.training import run_directory

    suffixes = [f".{name.strip('. ').lower()}" for name in FLAGS.formats]
    unknown = [suffix for suffix in suffixes if suffix not in video.SUFFIXES]
    if unknown:
        raise ValueError(f"Unknown format {unknown[0][1:]!r}. Known: {', '.join(s[1:] for s in video.SUFFIXES)}.")
    if bool(FLAGS.run_dir) == bool(FLAGS.bundle):
        raise ValueError("Give either --run_dir=DIR, a run, or --bundle=DIR, an exported bundle.")
    if FLAGS.image and FLAGS.mode != "animate":
        raise ValueError(f"--image goes with --mode=animate. Received: --mode={FLAGS.mode}")
    given_clips.check_flags(FLAGS.mode, FLAGS.clip, FLAGS.content_clip, FLAGS.motion_clip, FLAGS.frames)
    if FLAGS.run_dir:
        run_directory.read_config(FLAGS.run_dir)
        if FLAGS.checkpoint != "best":
            run_directory.find_step(FLAGS.run_dir, FLAGS.checkpoint)
    out = pathlib.Path(FLAGS.out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file. Choose another --out.")
    return suffixes


def _category(categories: tuple[str, ...]) -> int | None:
    """The number of the category that the flag names; None if it is to be drawn."""
    text = FLAGS.category.strip()
    if text in ("", "-1"):
        return None
    if text in categories:
        return categories.index(text)
    if text.isdigit():
        return int(text)
    raise ValueError(
        f"There is no category {text!r}. "
        + (f"There are: {', '.join(categories)}." if categories else "Give a number: these categories have no names.")
    )


def _pictures(found: Trained) -> video.Pixels | None:
    """Returns the pictures to animate, those of the flag or of the run; None in other modes. Says what was cropped."""
    from mocogan_tf import sampling

    if FLAGS.mode != "animate":
        return None
    if not sampling.animates(found.generator):
        raise ValueError("This run makes up its contents. Pictures need a run of train.py --task=image_to_video.")
    if not FLAGS.image:
        own: video.Pixels = found.generator.pictures[: FLAGS.num_videos]
        return own
    return np.stack([_picture(path, found.config) for path in FLAGS.image])


def _picture(path: str, config: Config) -> video.Pixels:
    """Reads a picture, or the first frame of what moves, and says how it was fitted."""
    from mocogan_tf.data.sources.fitting import first_frame

    of_video = first_frame(path)
    if of_video is None:
        pixels, said = read_picture(path, config.image_size, config.channels, of_moving=True)
    else:
        pixels, said = fit_picture(of_video, config.image_size, config.channels)
        said = f"first frame, {said}"
    print(f"{os.path.basename(path)}: {said}")
    return pixels


def _grid(clips: video.Pixels, columns: int, pictures: video.Pixels | None) -> video.Pixels:
    """Arranges clips in a grid; pictures that they were made from stand before their rows."""
    from mocogan_tf import sampling

    if pictures is None:
        return video.grid(clips, columns)
    return video.grid(sampling.beside_pictures(pictures, clips), columns + 1)


def _plan(found: Trained, pictures: video.Pixels | None) -> tuple[Any, int, int]:
    """Returns what draws latents, by the mode, with the number of clips and of the columns of their grid."""
    from mocogan_tf import sampling

    generator, number, columns = found.generator, FLAGS.num_videos, FLAGS.columns or FLAGS.num_videos
    if FLAGS.mode == "content_motion_grid":
        draw = functools.partial(sampling.grid_latents, generator, number, columns, seed=FLAGS.seed)
        return draw, number * columns, columns
    if FLAGS.mode == "categories":
        categories = generator.latents.dim_category
        draw = functools.partial(sampling.category_latents, generator, number, seed=FLAGS.seed)
        return draw, number * categories, categories
    if FLAGS.mode == "interpolate":
        return functools.partial(sampling.interpolation_latents, generator, number, seed=FLAGS.seed), number, number
    category = _category(found.categories)
    if pictures is not None:
        motions = FLAGS.columns or (1 if category is not None else generator.latents.dim_category or 4)
        draw = functools.partial(
            sampling.animation_latents, generator, pictures, motions, seed=FLAGS.seed, category=category
        )
        return draw, len(pictures) * motions, motions
    draw = functools.partial(sampling.random_latents, generator, number, seed=FLAGS.seed, category=category)
    side = math.isqrt(number - 1) + 1
    # Full rows, if a grid that is not much wider has them.
    return draw, number, next((columns for columns in range(side, 2 * side) if number % columns == 0), side)


def _drawn(found: Trained, frames: int) -> Made:
    """Clips of latents that the seed draws."""
    from mocogan_tf import sampling

    pictures = _pictures(found)
    draw, number, columns = _plan(found, pictures)
    draw(1 if sampling.separates(found.generator) else frames)  # What the generator cannot do ends here.
    enlarged = None if pictures is None else video.scale_up(pictures, FLAGS.scale)
    arrange = functools.partial(_grid, columns=columns, pictures=enlarged)
    return number, frames, arrange, sampling.stream(found.generator, draw, frames)


def _of_given_clips(found: Trained, frames: int, out: pathlib.Path) -> Made:
    """Clips of the codes of clips that the flags name."""
    from mocogan_tf import inversion

    category = _category(found.categories)
    inversion.check(found.generator, category)
    given = given_clips.read(FLAGS.clip or [FLAGS.content_clip, FLAGS.motion_clip], found, frames)
    arrange = functools.partial(given_clips.beside, given=video.scale_up(given, FLAGS.scale))
    number = len(given) if FLAGS.mode == "reconstruct" else 1
    return number, given.shape[1], arrange, given_clips.make(FLAGS.mode, found, given, category, FLAGS.seed, out)


def _write(pieces: Iterable[video.Pixels], targets: list[Target], fps: float) -> None:
    """Writes pieces `[N, t, H, W, C]` of clips to several files at the same time."""
    with contextlib.ExitStack() as stack:
        writers = [
            (stack.enter_context(video.VideoWriter(path, shape, fps)), part_of) for path, shape, part_of in targets
        ]
        for piece in pieces:
            for writer, part_of in writers:
                writer.write(part_of(piece))


def main(argv: list[str]) -> int:
    """Writes one file per clip and format, and all clips as one grid."""
    del argv
    suffixes = _check_flags()
    with cli.quiet_start():  # TensorFlow takes seconds: whatever is wrong with the flags has been said by now.
        from mocogan_tf.training import trained

    found = trained.open_bundle(FLAGS.bundle) if FLAGS.bundle else trained.open_run(FLAGS.run_dir, FLAGS.checkpoint)
    stride = found.generator.frame_stride
    frames = FLAGS.frames or found.config.video_length // stride * (4 if FLAGS.mode == "long" else 1)
    fps = FLAGS.fps or found.fps / stride
    out = pathlib.Path(FLAGS.out)
    made = _of_given_clips(found, frames, out) if FLAGS.mode in given_clips.MODES else _drawn(found, frames)
    number, frames, arrange, pieces = made
    size, channels = FLAGS.scale * found.config.image_size, found.config.channels
    grid = arrange(np.zeros((number, 1, size, size, channels), np.uint8)).shape[1:]
    for suffix in suffixes:
        video.check_length(suffix, number, frames, size, size, channels)
        if suffix != ".npy":
            video.check_length(suffix, 1, frames, *grid)
    out.mkdir(parents=True, exist_ok=True)
    targets: list[Target] = [
        (out / f"{FLAGS.mode}-{i:04d}{suffix}", (frames, size, size, channels), operator.itemgetter(i))
        for i in range(number)
        for suffix in suffixes
    ]
    targets += [
        (out / f"{FLAGS.mode}-grid{suffix}", (frames, *grid), arrange) for suffix in suffixes if suffix != ".npy"
    ]
    pieces = (video.scale_up(piece, FLAGS.scale) for piece in pieces)
    if number * frames * size * size * channels > video.MAX_WHOLE_BYTES:
        _write(pieces, targets, fps)
    else:  # One file after the other: many open files and encoders would be too much.
        whole = np.concatenate(list(pieces), axis=1)
        for target in targets:
            _write([whole], [target], fps)
    print(f"{number} clips of {frames} frames from step {found.step} of {found.origin} are in {out}")
    return 0


def run() -> None:
    """Entry point of `mocogan-sample`."""
    _define_flags()
    cli.run(main, __doc__ or "")
