"""Prepares clips for training: from whatever lies in a folder to shards, a manifest, and a list of what was left out.

The folder that is written holds

* `NAME-00000-of-00004.tfrecord`: the clips (see `records.py`). Which shard a clip is in follows from its name alone;
* `manifest.json`: all parameters, the shards, and of each clip its source, hash, frames, rate, class, group and split.
  It has no times and no absolute paths: equal input gives an equal file. It is written last: a folder that has one is
  complete;
* `rejected.csv`: path and reason of everything that is not in the shards;
* `.state`: of each finished shard, what it was made from, so that the same command goes on where it was stopped and
  makes again only what has changed.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import functools
import hashlib
import io
import itertools
import json
import os
import pathlib
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from absl import logging
from tqdm import tqdm

from mocogan_tf import files
from mocogan_tf.data import parallel
from mocogan_tf.data.shards import records
from mocogan_tf.data.shards.clip import prepare_clip
from mocogan_tf.data.shards.options import PrepareOptions
from mocogan_tf.data.shards.planning import Plan, make_plan
from mocogan_tf.data.shards.records import FORMAT_VERSION
from mocogan_tf.data.sources import layouts
from mocogan_tf.data.sources.layouts import MANIFEST, STATE, Rejected
from mocogan_tf.data.sources.readers import ClipSource

REJECTED = "rejected.csv"


# Makes shards, given by name with their clips, in a folder, and yields (shard, what `records.write_shard` returns).
Maker = Callable[[pathlib.Path, dict[str, list[ClipSource]], PrepareOptions], Iterator[tuple[str, dict[str, Any]]]]


def make_in_processes(
    out: pathlib.Path, shards: dict[str, list[ClipSource]], options: PrepareOptions, *, workers: int | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Makes shards one after the other, their clips in as many processes as there are processors, or in `workers`."""
    clips = [clip for members in shards.values() for clip in members]
    outcomes = parallel.map_in_processes(functools.partial(prepare_clip, options=options), clips, workers=workers)
    # A bar is for a person who watches; a log file gets one line.
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

    Shards that a stopped or earlier run has made from the same files with the same options are kept.

    Args:
        source: What to prepare; nothing in it is changed.
        out: Folder to write; new, empty, or written by an earlier run.
        options: How.
        make_shards: Where the work is done. Does not change the result.

    Raises:
        ValueError: Nothing can be prepared, the options do not fit, or the disk is full or not writable.
    """
    source, out = pathlib.Path(source), pathlib.Path(out)
    try:
        with _claimed(source, out) as state, tempfile.TemporaryDirectory(prefix="unpacked-", dir=state) as unpacked:
            found = layouts.find(source, _layout_options(options), pathlib.Path(unpacked))
            plan = make_plan(found, options)
            results = _make_missing_shards(out, state, plan, options, make_shards)
            return _finish(out, state, plan, results, options)
    except OSError as error:
        raise ValueError(f"Cannot write to {out}: {error.strerror or error}. Finished shards are kept.") from error


def _layout_options(options: PrepareOptions) -> layouts.LayoutOptions:
    return layouts.LayoutOptions(
        options.format, options.array_axes, options.boxes, options.ucf_split, options.group_pattern
    )


@contextlib.contextmanager
def _claimed(source: pathlib.Path, out: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields the state folder of `out`, which no other process may be writing."""
    if source.exists() and out.resolve().is_relative_to(source.resolve()):
        raise ValueError(f"--out={out} lies inside the source {source}. Choose a folder outside of it.")
    state = out / STATE
    if out.exists() and not state.is_dir() and any(out.iterdir()):
        raise ValueError(f"--out={out} holds other files. Choose a new or empty folder.")
    state.mkdir(parents=True, exist_ok=True)
    with files.held(state / "lock", f"Another process is writing to {out}."):
        for left in state.glob("unpacked-*"):
            shutil.rmtree(left)
        for left in out.glob("*.partial"):
            left.unlink()
        yield state


def _make_missing_shards(
    out: pathlib.Path, state: pathlib.Path, plan: Plan, options: PrepareOptions, make_shards: Maker
) -> dict[str, dict[str, Any]]:
    """Makes the shards that are not there yet and returns, of each, what the state folder says of it."""
    keys = {shard: shard_key(clips, options) for shard, clips in plan.shards.items()}
    results = {shard: _finished(out, state, shard, key) for shard, key in keys.items()}
    waiting = {shard: clips for shard, clips in plan.shards.items() if not results[shard]}
    stale = [path for path in sorted(out.glob("*-of-*.tfrecord")) if path.name not in plan.shards]
    if waiting or stale:
        (out / MANIFEST).unlink(missing_ok=True)  # What it says is no longer so.
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
    """Hash of everything that decides a shard's content."""
    parts = [FORMAT_VERSION, dataclasses.asdict(options), [clip.fingerprint() for clip in clips]]
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
    rejected.sort(key=lambda row: (layouts.natural_key(row.name), row.reason))
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
        "clips": sorted(entries, key=lambda entry: layouts.natural_key(entry["name"])),
    }


def _parameters(options: PrepareOptions) -> dict[str, Any]:
    """The options as they stand in the manifest: of files their names only."""
    parameters = dataclasses.asdict(options)
    for name in ("boxes", "class_map"):
        if parameters[name].endswith((".csv", ".json")):
            parameters[name] = pathlib.PurePath(parameters[name]).name
    return parameters


def summary(manifest: dict[str, Any], rejected: Sequence[Sequence[str]]) -> str:
    """Returns what a person wants to know at the end: counts by class, size, and rejections by kind of reason."""
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
    noted = sum("notes" in clip for clip in clips)
    if noted:
        lines.append(f"Remarks on {noted} clips stand in {MANIFEST}.")
    # Reasons that differ in numbers only are one reason.
    reasons = Counter(re.sub(r"\d+", "N", reason) for _, reason in rejected)
    lines += [f"Rejected {number}: {reason}" for reason, number in reasons.most_common(10)]
    lines.append(f"Rejected in all: {len(rejected)}" + (f", listed in {REJECTED}." if rejected else "."))
    return "\n".join(lines)


def read_rejected(out: str | os.PathLike[str]) -> list[tuple[str, str]]:
    """Returns the (path, reason) rows of a prepared folder."""
    with open(pathlib.Path(out) / REJECTED, newline="") as file:
        return [(row["path"], row["reason"]) for row in csv.DictReader(file)]
