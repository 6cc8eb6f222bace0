"""Prepares clips for training: python prepare.py SOURCE --out=DIR [--flags].

SOURCE is a folder, an archive or an array file: video files, folders of frames, strips, animations, arrays, flat or in
one folder per class, with or without train/val/test above. docs/datasets.md describes the layouts.
"""

from __future__ import annotations

import functools
import sys

from absl import flags

from mocogan_tf import cli
from mocogan_tf.data.shards import options as prepare_options

FLAGS = flags.FLAGS


def _define_flags() -> None:
    flags.DEFINE_string(
        "out", None, "Folder to write: new, empty, or one of a stopped run, which the same command goes on with."
    )
    flags.DEFINE_integer(
        "workers", 0, "Processes that read clips. 0: one per processor. Does not change the result.", lower_bound=0
    )
    prepare_options.define_flags()


def main(argv: list[str]) -> int:
    """Returns 0 when everything is prepared, 1 after an error, 130 after Ctrl-C."""
    if len(argv) != 2 or not FLAGS.out:
        raise ValueError(f"Give one source and --out: python prepare.py SOURCE --out=DIR. Received: {argv[1:]}")
    options = prepare_options.from_flags()
    with cli.quiet_start():
        from mocogan_tf.data.shards import prepare  # Only now: TensorFlow takes seconds, and workers do without.

    try:
        make = functools.partial(prepare.make_in_processes, workers=FLAGS.workers or None)
        manifest = prepare.prepare(argv[1], FLAGS.out, options, make)
    except KeyboardInterrupt:
        print("stopped: finished shards are kept; the same command goes on", file=sys.stderr)
        return 130
    print(prepare.summary(manifest, prepare.read_rejected(FLAGS.out)))
    print(f"Train with: {prepare.training_command(FLAGS.out, manifest)}")
    return 0


def run() -> None:
    """Entry point of `mocogan-prepare`."""
    _define_flags()
    cli.run(main, __doc__ or "", positional=1)
