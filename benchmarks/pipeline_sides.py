"""The two sides of `benchmarks.pipeline`: the files that they read, what is timed, and a check of their pixels."""

import dataclasses
import functools
import shutil
import statistics
import tempfile
import time

import av
import numpy as np
from PIL import Image

from benchmarks import timing, torch_loader
from benchmarks.our_step import make_step
from mocogan_tf import recipes
from mocogan_tf.config import Config
from mocogan_tf.data import parallel
from mocogan_tf.data.datasets import open_videos
from mocogan_tf.data.pipeline import training_batches
from mocogan_tf.data.rendered import taichi
from mocogan_tf.data.shards.options import PrepareOptions
from mocogan_tf.data.shards.prepare import prepare
from mocogan_tf.distribution import devices
from mocogan_tf.gans import base

DISTINCT = 64  # Rendered clips; the files repeat them.
FILM_SIZE = (176, 144)  # About that of the Weizmann actions; our frames lie in the middle of the larger picture.
FILM_FPS = 16
SOURCES = {
    "png shards": torch_loader.Shards,
    "raw shards": torch_loader.Shards,
    "strips": torch_loader.Strips,
    "video files": torch_loader.Films,
}
FIRST, LATER = "first epoch", "later epochs"
OURS, TORCH, TORCH_DECODED = "ours", "torch", "torch, decoded once"


def make_files(folder, clips, num_frames=taichi.NUM_FRAMES, image_size=64):
    """Writes the same clips as strips, video files and shards, each below the folder of its name."""
    render = functools.partial(taichi.render_clip, seed=0, num_frames=num_frames, image_size=image_size)
    rendered = [outcome.value.frames for outcome in parallel.map_in_processes(render, range(min(clips, DISTINCT)))]
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
        options = PrepareOptions(encoding=encoding, image_size=image_size, min_frames=num_frames)
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


def config_of(folder, cache, **changes):
    """Returns the configuration whose batches are made: the preset `plain` on a folder of clips."""
    fields = {
        **recipes.PRESETS["plain"],
        "dataset": "folder",
        "data_dir": str(folder),
        "cache_dir": str(cache),
    }
    return Config(**{**fields, **changes}, asked=())


def same_cuts(videos, dataset, clips=3):
    """Returns whether both sides see the same pixels in the same cuts of the same clips.

    Args:
        videos: Our `VideoSet`.
        dataset: The rival's `torch_loader.Clips`; its clips may be in another order.
        clips: How many to compare.
    """
    stride = dataset.every_nth * np.arange(dataset.video_length)
    ours = {videos[i][stride].tobytes() for i in range(len(videos))}
    for clip in range(clips):
        theirs = dataset.cut(clip, 0, dataset.video_length).permute(1, 2, 3, 0).numpy()
        if np.rint((theirs + 1) * 127.5).astype(np.uint8).tobytes() not in ours:
            return False
    return len(videos) == len(dataset)


def _float_batches(videos, config):
    """Our batches with pixels in [-1, 1], as the other side makes them; training scales them on the device."""
    batches = training_batches(videos, config)
    return batches.map(lambda batch: {name: base.to_float(value) for name, value in batch.items()})


def _consume(batches):
    return sum(1 for _ in batches)


def our_first_epoch(config, steps):
    """Makes the batches of an epoch that starts without a cache, and returns their number."""
    with tempfile.TemporaryDirectory(dir=config.cache_dir) as cache:
        videos = open_videos(dataclasses.replace(config, cache_dir=cache))
        return _consume(_float_batches(videos, config).take(steps))


def torch_first_epoch(make_dataset, config):
    """Makes the batches of a new DataLoader's first epoch, and returns their number."""
    return _consume(torch_loader.loader(make_dataset(), config.video_batch, config.image_batch))


def measure(config, make_dataset, rounds, long=8):
    """Times all sides on one source, in turns.

    Returns:
        For each kind of epoch and each side: seconds per batch, `cpu_s` (median processor time per batch) and
        `clips_per_s`. In later epochs, sides that read the cache are timed over `long` epochs.
    """
    videos = open_videos(config)
    sizes = (config.video_length, config.every_nth, config.image_size)
    if not same_cuts(videos, make_dataset(config.data_dir, *sizes)):
        raise SystemExit(f"The two sides read different pixels from {config.data_dir}.")
    steps = len(videos) // config.video_batch
    cached = _float_batches(videos, config)
    decoding = torch_loader.loader(make_dataset(config.data_dir, *sizes), config.video_batch, config.image_batch)
    decoded = torch_loader.DecodedClips(videos.folder, *sizes)
    reading = torch_loader.loader(decoded, config.video_batch, config.image_batch)
    for batches in (cached.take(4), decoding, reading):  # The first batches trace graphs and start workers.
        _consume(batches)
    sides = {
        FIRST: {
            OURS: lambda: our_first_epoch(config, steps),
            TORCH: lambda: torch_first_epoch(lambda: make_dataset(config.data_dir, *sizes), config),
        },
        LATER: {
            OURS: lambda: _consume(cached.take(long * steps)),
            TORCH: lambda: _consume(decoding),
            TORCH_DECODED: lambda: _consume(batch for _ in range(long) for batch in reading),
        },
    }
    taken = {epoch: {name: [] for name in timed} for epoch, timed in sides.items()}
    for _ in range(rounds):
        for epoch, timed in sides.items():
            for name, run in timed.items():
                started, cpu_started = time.perf_counter(), timing.cpu_seconds()
                count = run()
                cpu = timing.cpu_seconds() - cpu_started
                taken[epoch][name].append(((time.perf_counter() - started) / count, cpu / count))
    return {
        epoch: {name: _summary(pairs, config.video_batch) for name, pairs in timed.items()}
        for epoch, timed in taken.items()
    }


def _summary(pairs, clips):
    result = timing.summary([seconds for seconds, _ in pairs])
    cpu = statistics.median(cpu for _, cpu in pairs)
    return {**result, "cpu_s": cpu, "clips_per_s": clips / result["median_s"]}


def ratio_of_run(result, epochs):
    """Returns the DataLoader's time over ours for so many epochs with the first, from the medians of one source."""
    ours, theirs = (
        result[FIRST][name]["median_s"] + (epochs - 1) * result[LATER][name]["median_s"] for name in (OURS, TORCH)
    )
    return theirs / ours


def measure_step(config, steps):
    """Times the training step on batches of the pipeline.

    Returns:
        Seconds of each step, and of waiting for each batch.
    """
    traced = make_step(config.resolve_categories(0), devices.choose_precision("auto"))[1]

    def step(batch):
        return float(traced(batch)["loss_g"])

    batches = iter(training_batches(open_videos(config), config))
    step(next(batches))
    working, waiting = [], []
    for _ in range(steps):
        started = time.perf_counter()
        batch = next(batches)
        waited = time.perf_counter()
        step(batch)
        waiting.append(waited - started)
        working.append(time.perf_counter() - waited)
    return working, waiting


def run(folder, clips, rounds, timed_steps, num_frames=taichi.NUM_FRAMES, image_size=64, **changes):
    """Makes the files, measures every source, and returns the report."""
    make_files(folder, clips, num_frames, image_size)
    results, configs = {}, {}
    for source, make_dataset in SOURCES.items():
        cache = folder / "cache"
        cache.mkdir(exist_ok=True)
        config = configs[source] = config_of(folder / source, cache, image_size=image_size, **changes)
        measured = measure(config, make_dataset, rounds)
        results[source] = {epoch: {**sides, **timing.ratios(sides, OURS)} for epoch, sides in measured.items()}
    epochs = max(1, config.steps * config.video_batch // {**recipes.PRESETS["plain"], **changes}["num_clips"])
    working, waiting = measure_step(configs["png shards"], timed_steps)
    step = timing.summary(working)
    slowest = {epoch: max(result[epoch][OURS]["median_s"] for result in results.values()) for epoch in (FIRST, LATER)}
    return {
        "clips": clips,
        "batch": {"clips": config.video_batch, "images": config.image_batch},
        "results": results,
        "step": {**step, "clips_per_s": config.video_batch / step["median_s"]},
        "ratio": min(result[LATER]["ratio_vs"][TORCH] for result in results.values()),
        "ratio_first_epoch": min(result[FIRST]["ratio"] for result in results.values()),
        "epochs_of_a_run": epochs,
        "ratio_run": {source: ratio_of_run(result, epochs) for source, result in results.items()},
        "ratio_step": step["median_s"] / slowest[LATER],
        "ratio_step_first_epoch": step["median_s"] / slowest[FIRST],
        "waiting_share": sum(waiting) / (sum(waiting) + sum(working)),
    }
