"""Prepares the clips of a folder, archive or array file: shards, a manifest, and a list of what is left out.

The folder that is written holds

* `NAME-00000-of-00004.tfrecord`: the clips (see `records.py`). A clip's name alone decides which shard it is in;
* `manifest.json`: all parameters, the shards, and each clip's source, hash, frames, rate, class, group and split. It
  has no times and no absolute paths, so equal input gives an equal file. It is written last, so a folder that has one
  is finished;
* `rejected.csv`: path and reason of everything that is not in the shards;
* `.state`: what each finished shard was made from. The same command goes on where it was stopped, and makes again only
  what has changed.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import hashlib
import io
import itertools
import json
import os
import pathlib
import shlex
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from absl import logging
from tqdm import tqdm

from mocogan_tf import files
from mocogan_tf.config import Config
from mocogan_tf.data import advice, parallel
from mocogan_tf.data.shards import records
from mocogan_tf.data.shards.clip import prepare_clip
from mocogan_tf.data.shards.options import PrepareOptions
from mocogan_tf.data.shards.planning import Plan, make_plan
from mocogan_tf.data.shards.records import FORMAT_VERSION
from mocogan_tf.data.sources import layouts
from mocogan_tf.data.sources.labels import Rejected, natural_key
from mocogan_tf.data.sources.layouts import MANIFEST, STATE
from mocogan_tf.data.sources.readers import ClipSource

REJECTED = "rejected.csv"

# Makes shards in a folder, given by name with their clips, and yields (shard, what `records.write_shard` returns).
Maker = Callable[[pathlib.Path, dict[str, list[ClipSource]], PrepareOptions], Iterator[tuple[str, dict[str, Any]]]]


def make_in_processes(
    out: pathlib.Path, shards: dict[str, list[ClipSource]], options: PrepareOptions, *, workers: int | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Makes shards one after the other; `workers` processes, or as many as there are processors, read their clips."""
    clips = [clip for members in shards.values() for clip in members]
    outcomes = parallel.map_in_processes(functools.partial(prepare_clip, options=options), clips, workers=workers)
    # Only a person who watches gets a bar; a log file gets the one line before.
    progress = iter(tqdm(outcomes, "Preparing", len(clips), unit="clip", disable=not sys.stderr.isatty()))
    for shard, members in shards.items():
        yield shard, records.write_shard(out, shard, itertools.islice(progress, len(members)))


def prepare(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    options: PrepareOptions,
    make_shards: Maker = make_in_processes,
) -> dict[str, Any]:
    """Prepares the clips of a folder, archive or array file into the folder `out`, and returns the manifest.

    Shards that an earlier run made from the same files with the same options are kept.

    Args:
        source: What to prepare; nothing in it is changed.
        out: Folder to write; new, empty, or written by an earlier run.
        options: How to prepare it.
        make_shards: Where the work is done. It does not change the result.

    Raises:
        ValueError: Nothing can be prepared, the options do not fit, `out` is finished and was prepared from something
            else, or the disk is full or not writable.
    """
    source, out = pathlib.Path(source), pathlib.Path(out)
    try:
        with _claimed(source, out) as state, tempfile.TemporaryDirectory(prefix="unpacked-", dir=state) as unpacked:
            found = layouts.find(source, options.layout_options(), pathlib.Path(unpacked))
            plan = make_plan(found, options)
            _check_finished(out, plan, options)
            results = _make_missing_shards(out, state, plan, options, make_shards)
            return _finish(out, state, plan, results, options)
    except OSError as error:
        raise ValueError(f"Cannot write to {out}: {error.strerror or error}. Finished shards are kept.") from error


@contextlib.contextmanager
def _claimed(source: pathlib.Path, out: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields the state folder of `out`, which no other process may be writing; an error leaves no empty folder."""
    if source.exists() and out.resolve().is_relative_to(source.resolve()):
        raise ValueError(f"--out={out} lies inside the source {source}. Choose a folder outside of it.")
    state = out / STATE
    if out.exists() and not state.is_dir() and any(out.iterdir()):
        raise ValueError(f"--out={out} holds other files. Choose a new or empty folder.")
    made = [folder for folder in (state, *state.parents) if not folder.exists()]
    state.mkdir(parents=True, exist_ok=True)
    with files.held(state / "lock", f"Another process is writing to {out}."):
        for left in state.glob("unpacked-*"):
            shutil.rmtree(left)
        for left in out.glob("*.partial"):
            left.unlink()
        try:
            yield state
        except BaseException:
            if state in made and list(out.iterdir()) == [state]:
                shutil.rmtree(state)
                for folder in made[1:]:
                    folder.rmdir()
            raise


def _check_finished(out: pathlib.Path, plan: Plan, options: PrepareOptions) -> None:
    """Refuses to replace a finished folder that was prepared from other clips or with other options."""
    try:
        manifest = json.loads((out / MANIFEST).read_text())
        before, names = manifest["parameters"], {clip["name"] for clip in manifest["clips"]}
    except (OSError, ValueError, KeyError, TypeError):  # It is not finished, or damaged.
        return
    changed = [
        f"--{name}={before[name]}, now {value}"
        for name, value in _parameters(options).items()
        if before.get(name, value) != value
    ]
    if names.isdisjoint(clip.name for clips in plan.shards.values() for clip in clips):
        changed.append("other clips")
    if changed and not options.overwrite:
        raise ValueError(
            f"--out={out} is finished and was prepared from something else ({'; '.join(changed)}). Choose another "
            "folder, or add --overwrite to replace it."
        )


def _make_missing_shards(
    out: pathlib.Path, state: pathlib.Path, plan: Plan, options: PrepareOptions, make_shards: Maker
) -> dict[str, dict[str, Any]]:
    """Makes the shards that are not there yet, and returns what the state folder says of each shard."""
    keys = {shard: shard_key(clips, options) for shard, clips in plan.shards.items()}
    results = {shard: _finished(out, state, shard, key) for shard, key in keys.items()}
    waiting = {shard: clips for shard, clips in plan.shards.items() if not results[shard]}
    stale = [path for path in sorted(out.glob("*-of-*.tfrecord")) if path.name not in plan.shards]
    if waiting or stale:
        (out / MANIFEST).unlink(missing_ok=True)  # It is no longer true.
    for path in stale:
        path.unlink()
    if waiting:
        number, done = sum(map(len, waiting.values())), len(keys) - len(waiting)
        also = f"; {done} shards are done already" if done else ""
        print(f"Preparing {number} clips into {len(waiting)} shards in {out}{also}.", file=sys.stderr, flush=True)
        for shard, result in make_shards(out, waiting, options):
            results[shard] = result
            files.write_whole(state / f"{shard}.json", json.dumps({"key": keys[shard], **result}))
    return results


def shard_key(clips: Sequence[ClipSource], options: PrepareOptions) -> str:
    """Returns a hash of everything that decides a shard's content."""
    parts = [FORMAT_VERSION, options.deciding(), [clip.fingerprint() for clip in clips]]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _finished(out: pathlib.Path, state: pathlib.Path, shard: str, key: str) -> dict[str, Any]:
    try:
        result = json.loads((state / f"{shard}.json").read_text())
        is_whole = not result["clips"] or (out / shard).stat().st_size == result["bytes"]
        return result if result["key"] == key and is_whole else {}
    except (OSError, ValueError, KeyError):
        return {}


def _finish(
    out: pathlib.Path, state: pathlib.Path, plan: Plan, results: dict[str, dict[str, Any]], options: PrepareOptions
) -> dict[str, Any]:
    """Writes the list of rejections and then the manifest."""
    rejected = [*plan.rejected, *(Rejected(*row) for result in results.values() for row in result["rejected"])]
    rows = io.StringIO()
    writer = csv.writer(rows, lineterminator="\n")
    writer.writerow(["path", "reason"])
    rejected.sort(key=lambda row: (natural_key(row.name), row.reason))
    writer.writerows(rejected)
    files.write_whole(out / REJECTED, rows.getvalue())
    for left in state.glob("*.tfrecord.json"):
        if left.name.removesuffix(".json") not in plan.shards:
            left.unlink()
    manifest = make_manifest(plan, results, options)
    if not manifest["clips"]:
        first = f" The first: {rejected[0].name}: {rejected[0].reason}." if rejected else ""
        raise ValueError(f"No clip could be prepared; {out / REJECTED} says why.{first}")
    empty = [name for name in plan.categories if not any(clip["category"] == name for clip in manifest["clips"])]
    if empty:
        logging.warning("%s: no usable clip of class %s; it is not among the categories.", out, ", ".join(empty))
    files.write_whole(out / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    return manifest


def make_manifest(plan: Plan, results: dict[str, dict[str, Any]], options: PrepareOptions) -> dict[str, Any]:
    """Returns the manifest's content."""
    entries = [{**entry, "shard": shard} for shard, result in results.items() for entry in result["clips"]]
    rates = [entry["fps"] for entry in entries if entry["fps"]]
    used = {entry["category"] for entry in entries}
    return {
        "format_version": FORMAT_VERSION,
        "layout": plan.layout,
        "licence": options.licence,
        "parameters": _parameters(options),
        "image_size": options.image_size,
        "channels": options.channels,
        "encoding": options.encoding,
        "fps": float(np.median(rates)) if rates else None,
        "categories": [name for name in plan.categories if name in used],
        "shards": [
            {
                "file": shard,
                "clips": len(result["clips"]),
                "frames": sum(entry["frames"] for entry in result["clips"]),
                "bytes": result["bytes"],
                "sha256": result["sha256"],
            }
            for shard, result in results.items()
            if result["clips"]
        ],
        "clips": sorted(entries, key=lambda entry: natural_key(entry["name"])),
    }


def _parameters(options: PrepareOptions) -> dict[str, Any]:
    """Returns the options as they stand in the manifest, where files have names but no folders."""
    parameters = options.deciding()
    for name in ("boxes", "class_map"):
        if parameters[name].endswith((".csv", ".json")):
            parameters[name] = pathlib.PurePath(parameters[name]).name
    return parameters


def summary(manifest: dict[str, Any], rejected: Iterable[Sequence[str]]) -> str:
    """Returns what a person wants to know at the end: counts by class and split, size, remarks and rejections.

    Each kind of remark and each reason comes with the name of one clip or file.
    """
    clips, size = manifest["clips"], sum(shard["bytes"] for shard in manifest["shards"])
    frames = sum(clip["frames"] for clip in clips)
    lines = [f"{len(clips)} clips, {frames} frames, {len(manifest['shards'])} shards, {size / 1e6:.1f} MB."]
    counts = Counter(clip["category"] for clip in clips)
    if manifest["categories"]:
        lines.append("Classes: " + ", ".join(f"{name} {counts[name]}" for name in manifest["categories"]) + ".")
    lines += [f"Class {name} has a single clip." for name in manifest["categories"] if counts[name] == 1]
    splits = Counter(clip["split"] for clip in clips if clip["split"])
    if splits:
        lines.append("Splits: " + ", ".join(f"{name} {number}" for name, number in sorted(splits.items())) + ".")
    rates = advice.about_rates(clip["fps"] or 0.0 for clip in clips)
    if rates:
        lines.append(f"{rates[0].upper()}{rates[1:]}.")
    notes = [(clip["name"], note) for clip in clips for note in clip.get("notes", ())]
    lines += [_counted("Remark on", remark) for remark in advice.grouped(notes)[:10]]
    rejected = list(rejected)
    lines += [_counted("Rejected", remark) for remark in advice.grouped(rejected)[:10]]
    lines.append(f"Rejected in all: {len(rejected)}" + (f", listed in {REJECTED}." if rejected else "."))
    return "\n".join(lines)


def _counted(what: str, remark: advice.Remark) -> str:
    number = f"{remark.number}, such as " if remark.number > 1 else ""
    return f"{what} {number}{remark.name}: {remark.text}"


def training_command(out: str | os.PathLike[str], manifest: dict[str, Any]) -> str:
    """Returns the command that trains on a prepared folder without leaving out a clip."""
    lengths = [clip["frames"] for clip in manifest["clips"] if clip["split"] in ("", "train")]
    words = ["python train.py --dataset=folder", f"--data_dir={shlex.quote(os.fspath(out))}"]
    words.append(f"--image_size={manifest['image_size']}")
    words += [f"--channels={manifest['channels']}"] * (manifest["channels"] != 3)
    return " ".join([*words, *advice.training_flags(Config(), min(lengths, default=Config().source_frames))])


def read_rejected(out: str | os.PathLike[str]) -> list[tuple[str, str]]:
    """Returns the (path, reason) rows of a prepared folder."""
    with open(pathlib.Path(out) / REJECTED, newline="") as file:
        return [(row["path"], row["reason"]) for row in csv.DictReader(file)]
