"""Our batches against a PyTorch DataLoader's, from the same files: python -m benchmarks.pipeline [--clips=512] [--json]

Needs the extras `bench` and `video`. Both sides make, of the same files, the batches of the profile `cpu`: 8 clips of
16 frames at stride 2 and 16 single frames, shuffled, as float32 in [-1, 1]. Two epochs are timed, as they differ:

* `first epoch`: from opening the set to the epoch's last batch, workers started on the way. Ours decodes all frames of
  all clips into its cache first.
* `later epochs`: ours reads the cache; the DataLoader decodes again, but only what its cuts need. A second DataLoader,
  `torch, decoded once`, reads our cache.

The files lie in the page cache, for both. Times are seconds per batch; `ratio` is the DataLoader's over ours in later
epochs, the least of all sources; `ratio_step` says how many times as fast as the training step of that profile, timed
in the same run, batches come; `waiting_share` is the part of that step's time spent waiting for batches.
"""

import argparse
import functools
import json
import os
import pathlib
import shutil
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import av
import numpy as np
from PIL import Image

from benchmarks import torch_loader
from benchmarks.report import summary
from mocogan_tf import cli
from mocogan_tf.config import Config
from mocogan_tf.data import parallel, taichi
from mocogan_tf.data.pipeline import training_batches
from mocogan_tf.data.prepare import prepare
from mocogan_tf.data.prepare_options import PrepareOptions
from mocogan_tf.data.registry import open_videos

DISTINCT = 64  # Rendered clips; the files repeat them.
FILM_SIZE = (176, 144)  # Of the Weizmann actions, nearly: our frames in the middle of a larger picture.
FILM_FPS = 16
SOURCES = {
    "png shards": torch_loader.Shards,
    "raw shards": torch_loader.Shards,
    "strips": torch_loader.Strips,
    "video files": torch_loader.Films,
}
FIRST, LATER = "first epoch", "later epochs"
OURS, TORCH, TORCH_DECODED = "ours", "torch", "torch, decoded once"


def _render(index, num_frames):
    return taichi.render_clip(index, seed=0, num_frames=num_frames).frames


def make_files(folder, clips, num_frames=taichi.NUM_FRAMES):
    """Writes the same clips as strips, video files and shards, each below the folder of its name."""
    render = functools.partial(_render, num_frames=num_frames)
    rendered = [outcome.value for outcome in parallel.map_in_processes(render, range(min(clips, DISTINCT)))]
    for source in ("strips", "video files"):
        (folder / source).mkdir(parents=True)
    for index, frames in enumerate(rendered):
        strip, film = folder / "strips" / f"{index:05d}.png", folder / "video files" / f"{index:05d}.mp4"
        Image.fromarray(np.concatenate(list(frames), axis=1)).save(strip)
        _save_film(film, frames)
        for copy in range(index + len(rendered), clips, len(rendered)):
            shutil.copy(strip, strip.with_stem(f"{copy:05d}"))
            shutil.copy(film, film.with_stem(f"{copy:05d}"))
    for encoding in ("png", "raw"):
        options = PrepareOptions(encoding=encoding, image_size=rendered[0].shape[1], min_frames=num_frames)
        prepare(folder / "strips", folder / f"{encoding} shards", options)


def _save_film(path, frames):
    width, height = FILM_SIZE
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=FILM_FPS)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for pixels in frames:
            image = Image.fromarray(pixels).resize((height, height), Image.Resampling.BICUBIC)
            picture = Image.new("RGB", FILM_SIZE, image.getpixel((0, 0)))
            picture.paste(image, ((width - height) // 2, 0))
            output.mux(stream.encode(av.VideoFrame.from_image(picture)))
        output.mux(stream.encode())


def config_of(folder, cache, profile="cpu", **changes):
    """Returns the configuration whose batches are made."""
    fields = {**cli.PROFILES[profile], "dataset": "folder", "data_dir": str(folder), "cache_dir": str(cache)}
    return Config(**{**fields, **changes})


def check(videos, dataset, clips=3):
    """Raises AssertionError unless both sides see the same pixels in the same cuts of the same clips.

    Args:
        videos: Our `VideoSet`.
        dataset: The rival's `torch_loader.Clips`; its clips may be in another order.
        clips: How many to compare.
    """
    if len(videos) != len(dataset):
        raise AssertionError(f"{len(videos)} clips here, {len(dataset)} there")
    stride = dataset.every_nth * np.arange(dataset.video_length)
    ours = {videos[i][stride].tobytes() for i in range(len(videos))}
    for clip in range(clips):
        theirs = dataset.cut(clip, 0, dataset.video_length).permute(1, 2, 3, 0)
        if np.rint((theirs.numpy() + 1) * 127.5).astype(np.uint8).tobytes() not in ours:
            raise AssertionError(f"{type(dataset).__name__}: clip {clip} is cut to other pixels than ours")


def _consume(batches):
    """Seconds per batch."""
    started, count = time.perf_counter(), 0
    for _ in batches:
        count += 1
    return (time.perf_counter() - started) / count


def our_first_epoch(config, steps):
    """Seconds per batch of an epoch that begins without a cache."""
    with tempfile.TemporaryDirectory(dir=config.cache_dir) as cache:
        started = time.perf_counter()
        videos = open_videos(Config(**{**vars(config), "cache_dir": cache}))
        for _ in training_batches(videos, config).take(steps):
            pass
        return (time.perf_counter() - started) / steps


def torch_first_epoch(make_dataset, config):
    """Seconds per batch of a DataLoader's first epoch."""
    started = time.perf_counter()
    batches = torch_loader.loader(make_dataset(), config.video_batch, config.image_batch)
    count = sum(1 for _ in batches)
    return (time.perf_counter() - started) / count


def measure(folder, config, make_dataset, rounds, long=8):
    """Times one source, all sides in turns.

    Returns:
        By epoch, by side: seconds per batch, one per round. In later epochs those that read the cache are timed over
        `long` epochs.
    """
    videos = open_videos(config)
    sizes = (config.video_length, config.every_nth, config.image_size)
    check(videos, make_dataset(folder, *sizes))
    steps = len(videos) // config.video_batch
    cached = training_batches(videos, config)
    decoding = torch_loader.loader(make_dataset(folder, *sizes), config.video_batch, config.image_batch)
    decoded = torch_loader.DecodedClips(videos.folder, *sizes)
    reading = torch_loader.loader(decoded, config.video_batch, config.image_batch)
    for batches in (cached.take(4), decoding, reading):  # Tracing, starting workers.
        _consume(batches)
    sides = {
        FIRST: {
            OURS: lambda: our_first_epoch(config, steps),
            TORCH: lambda: torch_first_epoch(lambda: make_dataset(folder, *sizes), config),
        },
        LATER: {
            OURS: lambda: _consume(cached.take(long * steps)),
            TORCH: lambda: _consume(decoding),
            TORCH_DECODED: lambda: _consume(batch for _ in range(long) for batch in reading),
        },
    }
    seconds = {epoch: {name: [] for name in timed} for epoch, timed in sides.items()}
    for _ in range(rounds):
        for epoch, timed in sides.items():
            for name, run in timed.items():
                seconds[epoch][name].append(run())
    return seconds
