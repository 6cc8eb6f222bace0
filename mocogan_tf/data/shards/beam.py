"""Prepares clips on many machines with Apache Beam (extra `beam`); the files are those of `prepare.py`.

    python -m mocogan_tf.data.shards.beam SOURCE --out=DIR [--flags of prepare.py] -- [--flags of Beam]

SOURCE and DIR must be paths that every worker sees (a network or mounted file system). Beam's flags choose the runner:
none for this machine, else `--runner=DataflowRunner`, `--runner=FlinkRunner` or `--runner=SparkRunner` with its flags.
"""

from __future__ import annotations

import functools
import json
import pathlib
import shutil
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from absl import app, flags

from mocogan_tf.data.parallel import Outcome
from mocogan_tf.data.shards import options as prepare_options
from mocogan_tf.data.shards import prepare, records
from mocogan_tf.data.shards.clip import prepare_clip
from mocogan_tf.data.shards.options import PrepareOptions
from mocogan_tf.data.sources.labels import natural_key
from mocogan_tf.data.sources.layouts import STATE
from mocogan_tf.data.sources.readers import ClipSource

RESULTS = "beam"  # Subfolder of the state folder, for what the workers report.


def make_with_beam(
    out: pathlib.Path,
    shards: dict[str, list[ClipSource]],
    options: PrepareOptions,
    *,
    beam_flags: Iterable[str] = (),
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Makes shards on the workers of a Beam runner, as a `prepare.Maker` does.

    Raises:
        ValueError: Apache Beam is missing.
    """
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise ValueError("This needs Apache Beam: pip install 'mocogan-tf[beam]'") from error
    results = out / STATE / RESULTS
    shutil.rmtree(results, ignore_errors=True)
    clips = [(shard, clip) for shard, members in shards.items() for clip in members]
    with beam.Pipeline(options=PipelineOptions(list(beam_flags))) as pipeline:
        _ = (
            pipeline
            | "Clips" >> beam.Create(clips)
            | "Spread" >> beam.Reshuffle()
            | "Prepare" >> beam.MapTuple(functools.partial(_prepare_one, options=options))
            | "Group" >> beam.GroupByKey()
            | "Write" >> beam.MapTuple(functools.partial(_write_one, out=str(out)))
            | "Report" >> beam.io.WriteToText(str(results / "result"), file_name_suffix=".jsonl")
        )
    lines = [line for path in sorted(results.glob("*.jsonl")) for line in path.read_text().splitlines()]
    reported = dict(json.loads(line) for line in lines)
    yield from ((shard, reported[shard]) for shard in shards)
    shutil.rmtree(results)


def _prepare_one(shard: str, clip: ClipSource, options: PrepareOptions) -> tuple[str, Outcome]:
    try:
        return shard, Outcome(clip, prepare_clip(clip, options))
    except ValueError as error:
        return shard, Outcome(clip, error=str(error))


def _write_one(shard: str, outcomes: Iterable[Outcome], out: str) -> str:
    # A runner gives the clips of a group in any order.
    ordered = sorted(outcomes, key=lambda outcome: natural_key(outcome.item.name))
    return json.dumps([shard, records.write_shard(pathlib.Path(out), shard, ordered)])


def main(argv: list[str]) -> None:
    """Prepares SOURCE into --out on a Beam runner; the arguments after SOURCE go to Beam."""
    try:
        if len(argv) < 2 or not flags.FLAGS.out:
            raise ValueError(f"Give a source and --out. Received: {argv[1:]}")
        make = functools.partial(make_with_beam, beam_flags=argv[2:])
        manifest = prepare.prepare(argv[1], flags.FLAGS.out, prepare_options.from_flags(), make)
    except ValueError as error:
        sys.exit(f"error: {error}")
    print(prepare.summary(manifest, prepare.read_rejected(flags.FLAGS.out)))
    print(f"Train with: {prepare.training_command(flags.FLAGS.out, manifest)}")


if __name__ == "__main__":
    flags.DEFINE_string("out", None, "Folder to write, seen by every worker.")
    prepare_options.define_flags()
    # Workers elsewhere could not import this module under the name __main__.
    from mocogan_tf.data.shards import beam

    app.run(beam.main)
